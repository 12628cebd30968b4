//! Persistence, and what services of many ports need.

use super::services::endpoint;
use crate::control::config::diagnostic::Finding;
use crate::control::config::draft::ServiceDraft;
use crate::control::config::reader::Problems;
use crate::service::{Listen, Persistence};

pub(super) fn check(service: &ServiceDraft, problems: &Problems) {
    let Some(listen) = &service.listen else { return };
    let at = listen.get_ref();
    if matches!(at, Listen::Vip { ports, .. } if ports.is_all()) && service.persistence.is_none() {
        let message = format!("listen: {at} has port 0 (every port), which needs persistence");
        let help = "add for example: persistence = \"6m\"; or name ports, as 1-65535";
        problems.add(Finding::error(listen.span(), message).help(help));
    }
    check_prefix(service, at.is_ipv6(), problems);
    check_server_ports(service, at, problems);
}

fn check_prefix(service: &ServiceDraft, ipv6: bool, problems: &Problems) {
    let prefix = service.persistence.as_ref().and_then(|persistence| persistence.prefix.as_ref());
    let most = Persistence::whole_address(ipv6);
    if let Some(prefix) = prefix.filter(|prefix| *prefix.get_ref() > most) {
        let family = if ipv6 { "IPv6" } else { "IPv4" };
        let message = format!("prefix: {prefix} is more than an {family} address has bits");
        let help = format!("write 1 to {most}, or leave it out: every client for itself");
        problems.add(Finding::error(prefix.span(), message).help(help));
    }
}

/// As with IPVS, a client whose connections to all ports of a mark or an address belong together
/// reaches the ports that it asked for.
fn check_server_ports(service: &ServiceDraft, listen: &Listen, problems: &Problems) {
    if service.persistence.is_none() || !listen.ports().is_all() {
        return;
    }
    let servers = service.servers.items.iter();
    let addresses = servers.filter_map(|server| server.get_ref().address.as_ref());
    for address in addresses.filter(|address| address.get_ref().port() != 0) {
        let message = format!(
            "servers: port {} has no effect: a persistent service of every port keeps the port \
             that the client sent to",
            address.get_ref().port()
        );
        let alone = std::net::SocketAddr::new(address.get_ref().ip(), 0);
        let help = format!("write \"{}\"", endpoint(&alone));
        problems.add(Finding::warning(address.span(), message).help(help));
    }
}
