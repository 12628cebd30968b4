//! One-packet services: what their servers send must tell what it is a reply to.

use std::net::SocketAddr;

use toml::Spanned;

use super::services::endpoint;
use crate::control::config::diagnostic::Finding;
use crate::control::config::draft::{Draft, ServiceDraft};
use crate::control::config::reader::Problems;
use crate::service::{Listen, PortRange, Protocol};

pub(super) fn check(draft: &Draft, problems: &Problems) {
    for (index, service) in draft.services.iter().enumerate() {
        for other in draft.services.iter().take(index) {
            check_pair(service, other, draft, problems);
        }
        check_replies(service, draft, problems);
    }
}

fn is_one_packet(service: &ServiceDraft) -> bool {
    service.one_packet.as_ref().is_some_and(|value| *value.get_ref())
}

fn listen_of(service: &ServiceDraft) -> Option<&Listen> {
    service.listen.as_ref().map(Spanned::get_ref)
}

/// Whether a service takes UDP; of other protocols nothing is scheduled one by one.
fn takes_udp(service: &ServiceDraft, draft: &Draft) -> bool {
    let Some(listen) = listen_of(service) else { return false };
    let Some(mark) = listen.mark() else { return listen.protocol() == Some(Protocol::Udp) };
    let of_mark = |known: &Spanned<u32>| *known.get_ref() == mark.get();
    let mut rules = draft.marks.iter().filter(|rule| rule.mark.as_ref().is_some_and(of_mark));
    rules.any(|rule| {
        rule.protocol.as_ref().is_none_or(|protocol| *protocol.get_ref() == Protocol::Udp)
    })
}

/// The servers, with the ports that they answer from.
fn answering(service: &ServiceDraft) -> Vec<(Spanned<SocketAddr>, PortRange)> {
    let ports = |address: &SocketAddr| match address.port() {
        0 => listen_of(service).map_or(PortRange::ALL, Listen::ports),
        port => PortRange::one(port),
    };
    let servers = service.servers.items.iter();
    let servers = servers.filter_map(|server| server.get_ref().address.clone());
    servers.map(|address| (address.clone(), ports(address.get_ref()))).collect()
}

/// What comes from a server of a one-packet service is that service's reply: no other service of
/// the protocol may have it.
fn check_pair(service: &ServiceDraft, other: &ServiceDraft, draft: &Draft, problems: &Problems) {
    let related = is_one_packet(service) || is_one_packet(other);
    if !related || !takes_udp(service, draft) || !takes_udp(other, draft) {
        return;
    }
    let theirs = answering(other);
    for (address, ports) in answering(service) {
        let ip = address.get_ref().ip();
        let first = theirs
            .iter()
            .find(|(other, their_ports)| other.get_ref().ip() == ip && ports.meets(*their_ports));
        if let Some((first, _)) = first {
            let message = format!(
                "servers: {} serves a one_packet service and another one, so its replies have no \
                 one service",
                endpoint(address.get_ref())
            );
            let finding = Finding::error(address.span(), message);
            let help = "give each service a port of its own on that server";
            problems.add(finding.first_stated(first.span()).help(help));
        }
    }
}

/// A service of many ports, or of a mark, knows the port that it was asked at only if its servers
/// have the same, and the address only if there is one.
fn check_replies(service: &ServiceDraft, draft: &Draft, problems: &Problems) {
    let (Some(listen), Some(key)) = (listen_of(service), &service.one_packet) else { return };
    if !is_one_packet(service) || listen.ports().single().is_some() {
        return;
    }
    let servers = service.servers.items.iter();
    let mut addresses = servers.filter_map(|server| server.get_ref().address.as_ref());
    let has_port = service.persistence.is_none() || !listen.ports().is_all();
    let with_port = addresses.find(|address| has_port && address.get_ref().port() != 0);
    if let Some(address) = with_port {
        let message = format!(
            "one_packet: {} answers for many ports from one, so its replies cannot be translated",
            endpoint(address.get_ref())
        );
        let help = "leave the port of the server out";
        problems.add(Finding::warning(address.span(), message).help(help));
    }
    let Some(mark) = listen.mark() else { return };
    let of_mark = |known: &Spanned<u32>| *known.get_ref() == mark.get();
    let rules = draft.marks.iter().filter(|rule| rule.mark.as_ref().is_some_and(of_mark));
    let mut destinations: Vec<_> =
        rules.flat_map(|rule| &rule.addresses.items).map(|net| *net.get_ref()).collect();
    destinations.sort_unstable();
    destinations.dedup();
    destinations.retain(|net| net.addr().is_ipv6() == listen.is_ipv6());
    let is_one = matches!(&*destinations, [net] if net.prefix_len() == net.max_prefix_len());
    if !is_one && !destinations.is_empty() {
        let message = format!(
            "one_packet: mark {mark} has several destinations, so it is not known whose replies \
             the servers send, and they are not translated"
        );
        let help = "make a service of each destination";
        problems.add(Finding::warning(key.span(), message).help(help));
    }
}
