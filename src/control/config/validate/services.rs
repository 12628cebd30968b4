//! Virtual services and their real servers: among themselves, and with the interfaces.

use std::net::{IpAddr, SocketAddr};

use toml::Spanned;

use super::networks::Networks;
use super::{one_packet, persistence};
use crate::control::config::diagnostic::Finding;
use crate::control::config::draft::{Draft, InterfaceDraft, ServerDraft, ServiceDraft};
use crate::control::config::model::Role;
use crate::control::config::reader::Problems;
use crate::service::{Helper, NonSyn, Protocol};

/// Real servers that there is room for, over all services.
pub const MAX_SERVERS: usize = 16_384;

pub(super) fn check(draft: &Draft, networks: &Networks<'_>, problems: &Problems) {
    check_duplicates(&draft.services, problems);
    one_packet::check(draft, problems);
    for service in &draft.services {
        check_vip(service, draft, networks, problems);
        check_options(service, problems);
        persistence::check(service, problems);
        check_scheduler_flags(service, problems);
        check_thresholds(service, problems);
        check_server_list(service, problems);
        check_slow_start(service, problems);
        check_servers(service, draft, networks, problems);
    }
    let mut before = 0;
    for service in &draft.services {
        let servers = service.servers.items.len();
        if before <= MAX_SERVERS && before + servers > MAX_SERVERS {
            let message = format!("more than {MAX_SERVERS} real servers in all services together");
            problems.add(Finding::error(service.span.clone(), message));
        }
        before += servers;
    }
}

fn check_duplicates(services: &[ServiceDraft], problems: &Problems) {
    for (index, service) in services.iter().enumerate() {
        let before = || services.iter().take(index);
        if let Some(name) = &service.name
            && let Some(first) =
                before().filter_map(|other| other.name.as_ref()).find(|n| *n == name)
        {
            let message = format!("a second service named {:?}", name.get_ref());
            let finding = Finding::error(name.span(), message).help("give it another name");
            problems.add(finding.first_stated(first.span()));
        }
        let conflict = service.listen.as_ref().and_then(|listen| {
            let mut others = before().filter_map(|other| other.listen.as_ref());
            let first = others.find(|other| other.get_ref().conflicts(listen.get_ref()))?;
            Some((listen, first))
        });
        if let Some((listen, first)) = conflict {
            let (message, help) = if listen == first {
                let help = "list all real servers in one service";
                (format!("a second service at {listen}"), help)
            } else {
                let help = "give each service ports of its own";
                (format!("listen: {listen} has ports in common with {first}"), help)
            };
            let finding = Finding::error(listen.span(), message);
            problems.add(finding.first_stated(first.span()).help(help));
        }
    }
}

/// The interface that has this address, and where it says so.
fn owner(draft: &Draft, ip: IpAddr) -> Option<(&InterfaceDraft, &Spanned<ipnet::IpNet>)> {
    draft.interfaces.iter().find_map(|interface| {
        let mut addresses = interface.addresses.items.iter();
        addresses.find(|own| own.get_ref().addr() == ip).map(|own| (interface, own))
    })
}

/// A VIP may be routed to the director, so it need not be in any network; and it may be the
/// director's own address, as LVS allows it, but on the side where the clients are.
fn check_vip(service: &ServiceDraft, draft: &Draft, networks: &Networks<'_>, problems: &Problems) {
    let Some(listen) = &service.listen else { return };
    let Some(vip) = listen.get_ref().ip() else { return };
    if let Some((interface, own)) = owner(draft, vip)
        && interface.role.as_ref().is_some_and(|role| *role.get_ref() == Role::Inside)
    {
        let message = format!(
            "listen: {vip} is the director's own address on the inside ({})",
            interface.name
        );
        let help = "use an address on the side of the clients";
        let finding = Finding::error(listen.span(), message);
        problems.add(finding.first_stated(own.span()).help(help));
        return;
    }
    if let Some(net) = networks.edge(vip) {
        let message = format!("listen: {vip} is no host's address in {net}");
        problems.add(Finding::error(listen.span(), message));
    }
    let hop = draft.interfaces.iter().find_map(|interface| {
        let neighbors = interface.neighbors.iter().map(|(ip, _)| ip);
        let vias = interface.routes.iter().filter_map(|route| route.via.as_ref());
        interface
            .gateways
            .items
            .iter()
            .chain(vias)
            .chain(neighbors)
            .find(|hop| *hop.get_ref() == vip)
    });
    if let Some(hop) = hop {
        let message = format!("listen: {vip} is another host's address (gateway or neighbor)");
        problems.add(Finding::error(listen.span(), message).first_stated(hop.span()));
    }
}

fn check_options(service: &ServiceDraft, problems: &Problems) {
    let Some(listen) = service.listen.as_ref().map(|listen| *listen.get_ref()) else { return };
    // A mark's packets are of all protocols.
    let Some(protocol) = listen.protocol() else { return };
    if let Some(helper) = &service.helper
        && protocol != Protocol::Tcp
        && helper.get_ref().is_some()
    {
        let message = "helper: only tcp services have one".to_owned();
        problems.add(Finding::error(helper.span(), message).help("remove it, or listen on tcp://"));
    } else if let Some(helper) = &service.helper
        && helper.get_ref().is_some()
        && listen.ports().single().is_none()
        && !listen.covers(Protocol::Tcp, Helper::FTP_PORT)
    {
        let message = format!(
            "helper: of many ports it reads port {} alone, which is not among them",
            Helper::FTP_PORT
        );
        problems.add(Finding::warning(helper.span(), message).help("remove it"));
    }
    let one_packet = service.one_packet.as_ref().filter(|_| protocol != Protocol::Udp);
    let non_syn = service.non_syn.as_ref().filter(|value| match protocol {
        Protocol::Tcp => false,
        Protocol::Udp => true,
        Protocol::Sctp => *value.get_ref() == NonSyn::Reset,
    });
    let idle = [
        one_packet.map(|value| ("one_packet".to_owned(), value.span())),
        non_syn.map(|value| match protocol {
            Protocol::Sctp => ("non_syn = \"reset\"".to_owned(), value.span()),
            Protocol::Tcp | Protocol::Udp => ("non_syn".to_owned(), value.span()),
        }),
    ];
    for (key, span) in idle.into_iter().flatten() {
        let message = format!("{key} has no effect on a {protocol} service");
        problems.add(Finding::warning(span, message).help("remove it"));
    }
}

/// Slow start is a matter of weights.
fn check_slow_start(service: &ServiceDraft, problems: &Problems) {
    let kind = service.scheduler.as_ref().map(|kind| *kind.get_ref()).unwrap_or_default();
    if kind.shares_by_weight() {
        return;
    }
    for server in &service.servers.items {
        if let Some(slow_start) = &server.get_ref().slow_start {
            let message = format!("slow_start has no effect with the scheduler {kind}");
            let help = "it makes the weight grow: use a scheduler that shares by weight, such as \
                        wlc or wrr";
            problems.add(Finding::warning(slow_start.span(), message).help(help));
        }
    }
}

fn check_scheduler_flags(service: &ServiceDraft, problems: &Problems) {
    let kind = service.scheduler.as_ref().map(|kind| *kind.get_ref()).unwrap_or_default();
    for flag in &service.scheduler_flags.items {
        let (of, which) = *flag.get_ref();
        let Some((name, _)) = of.flags().iter().find(|(_, known)| *known == which) else {
            continue;
        };
        if of == kind {
            continue;
        }
        let fit: Vec<_> = kind.flags().iter().map(|(name, _)| format!("\"{name}\"")).collect();
        let message = format!("scheduler_flags: \"{name}\" does not fit scheduler \"{kind}\"");
        let help = if fit.is_empty() {
            format!("\"{kind}\" has no flags; this one is for scheduler \"{of}\"")
        } else {
            format!("those that fit \"{kind}\": {}", fit.join(", "))
        };
        problems.add(Finding::error(flag.span(), message).help(help));
    }
}

fn check_thresholds(service: &ServiceDraft, problems: &Problems) {
    for server in &service.servers.items {
        let server = server.get_ref();
        let Some(lower) = &server.lower_threshold else { continue };
        let upper = server.upper_threshold.as_ref().map_or(0, |upper| *upper.get_ref());
        if *lower.get_ref() == 0 || *lower.get_ref() <= upper {
            continue;
        }
        let finding = if upper == 0 {
            let message = "lower_threshold has no effect without upper_threshold".to_owned();
            Finding::warning(lower.span(), message).help("state upper_threshold, too")
        } else {
            let message =
                format!("lower_threshold: {lower} is above the upper_threshold of {upper}");
            let help = format!(
                "expected an integer from 0 (three quarters of upper_threshold) to {upper}"
            );
            Finding::error(lower.span(), message).help(help)
        };
        problems.add(finding);
    }
}

fn check_server_list(service: &ServiceDraft, problems: &Problems) {
    let servers = &service.servers;
    if servers.items.is_empty() && servers.complete {
        let span = servers.span.clone().unwrap_or_else(|| service.span.clone());
        let message = "servers: none, so the service answers nobody";
        let help = "write for example servers = [{ address = \"10.0.0.11:8080\" }]";
        problems.add(Finding::warning(span, message).help(help));
    }
    let quiesced = |server: &Spanned<ServerDraft>| {
        server.get_ref().weight.as_ref().is_some_and(|weight| *weight.get_ref() == 0)
    };
    if let (false, true, Some(span)) =
        (servers.items.is_empty(), servers.items.iter().all(quiesced), &servers.span)
    {
        let message = "servers: all have weight 0, so the service takes no new connections";
        problems.add(
            Finding::warning(span.clone(), message).help("give one of them a weight of 1 or more"),
        );
    }
}

fn check_servers(
    service: &ServiceDraft,
    draft: &Draft,
    networks: &Networks<'_>,
    problems: &Problems,
) {
    let servers = &service.servers.items;
    let addresses: Vec<_> =
        servers.iter().filter_map(|server| server.get_ref().address.as_ref()).collect();
    for (index, address) in addresses.iter().enumerate() {
        let ip = address.get_ref().ip();
        if let Some(first) = addresses.iter().take(index).find(|other| *other == address) {
            let message =
                format!("servers: {} is listed twice in this service", endpoint(address.get_ref()));
            let finding = Finding::error(address.span(), message);
            problems
                .add(finding.first_stated(first.span()).help("use `weight` for a larger share"));
        }
        if let Some(listen) = &service.listen
            && listen.get_ref().is_ipv6() != ip.is_ipv6()
        {
            let (has, needs) = if ip.is_ipv4() { ("IPv4", "IPv6") } else { ("IPv6", "IPv4") };
            let message = format!("servers: {ip} is {has}, but the service listens on {needs}");
            let help = format!("use an {needs} address: NAT does not translate between the two");
            problems.add(Finding::error(address.span(), message).help(help));
        }
        let vip = draft.services.iter().find_map(|other| {
            other.listen.as_ref().filter(|listen| listen.get_ref().ip() == Some(ip))
        });
        let mut marked = draft.marks.iter().flat_map(|rule| &rule.addresses.items);
        let marked = marked.find(|net| net.get_ref().contains(&ip));
        let finding = |message: String| Finding::error(address.span(), message);
        if let Some((interface, own)) = owner(draft, ip) {
            let message =
                format!("servers: {ip} is the director's own address ({})", interface.name);
            problems.add(finding(message).first_stated(own.span()));
        } else if let Some(vip) = vip {
            let message = format!("servers: {ip} is the address of a virtual service");
            problems.add(finding(message).first_stated(vip.span()));
        } else if let Some(marked) = marked {
            let message = format!("servers: {ip} is among the destinations of a firewall mark");
            let help = "what clients send to is not what servers are reached at";
            problems.add(finding(message).first_stated(marked.span()).help(help));
        } else if let Some(net) = networks.edge(ip) {
            problems.add(finding(format!("servers: {ip} is no host's address in {net}")));
        } else if networks.known {
            check_reachable(address, networks, problems);
        }
    }
}

/// A server as it is written: without a port where it has none.
pub(super) fn endpoint(address: &SocketAddr) -> String {
    match address {
        SocketAddr::V4(v4) if v4.port() == 0 => v4.ip().to_string(),
        SocketAddr::V6(v6) if v6.port() == 0 => format!("[{}]", v6.ip()),
        SocketAddr::V4(_) | SocketAddr::V6(_) => address.to_string(),
    }
}

fn check_reachable(address: &Spanned<SocketAddr>, networks: &Networks<'_>, problems: &Problems) {
    let ip = address.get_ref().ip();
    let Some(interface) = networks.towards(ip) else {
        let message = format!("servers: no network, route or gateway leads to {ip}");
        problems.add(Finding::error(address.span(), message).help(networks.list()));
        return;
    };
    if interface.role.as_ref().is_some_and(|role| *role.get_ref() == Role::Outside) {
        let message =
            format!("servers: {ip} is reached through {}, an outside interface", interface.name);
        let help = "replies must return through the director's inside: add a network or a route \
                    to an inside interface, or make this one \"both\"";
        problems.add(Finding::warning(address.span(), message).help(help));
    }
}
