//! Sections `[[masquerade]]`: among themselves, and with the interfaces and servers.

use toml::Spanned;

use super::networks::{Networks, is_single};
use crate::control::config::diagnostic::Finding;
use crate::control::config::draft::{Draft, InterfaceDraft, MasqueradeDraft};
use crate::control::config::model::Role;
use crate::control::config::reader::Problems;

pub(super) fn check(draft: &Draft, networks: &Networks<'_>, problems: &Problems) {
    check_hairpin(draft, problems);
    for (index, rule) in draft.masquerades.iter().enumerate() {
        check_lists(rule, problems);
        check_families(rule, problems);
        check_addresses(rule, draft, networks, problems);
        check_sources(rule, networks, problems);
        check_order(rule, draft.masquerades.get(..index).unwrap_or_default(), problems);
    }
}

/// The first rule that has a host applies to it.
fn check_order(rule: &MasqueradeDraft, before: &[MasqueradeDraft], problems: &Problems) {
    for source in &rule.sources.items {
        let mut earlier = before.iter().flat_map(|rule| &rule.sources.items);
        if let Some(first) = earlier.find(|net| net.get_ref().contains(source.get_ref())) {
            let message =
                format!("sources: an earlier rule has {source}, so this one never applies to it");
            let finding = Finding::warning(source.span(), message).first_stated(first.span());
            problems.add(finding.help("put the rule with the smaller network first"));
        }
    }
}

/// Where clients are in the network of their servers, the director appears with an own address
/// there; one that outside parties speak to, too, cannot be used for it.
fn check_hairpin(draft: &Draft, problems: &Problems) {
    let vips = draft.services.iter().filter_map(|service| service.listen.as_ref());
    let mut external: Vec<_> = vips.filter_map(|listen| listen.get_ref().ip()).collect();
    let marked = draft.marks.iter().flat_map(|rule| &rule.addresses.items);
    external.extend(marked.filter(|net| is_single(net.get_ref())).map(|net| net.get_ref().addr()));
    let pools = draft.masquerades.iter().flat_map(|rule| &rule.addresses.items);
    external.extend(pools.map(|address| *address.get_ref()));
    let servers = draft.services.iter().flat_map(|service| &service.servers.items);
    let servers: Vec<_> = servers
        .filter_map(|server| server.get_ref().address.as_ref())
        .map(|address| address.get_ref().ip())
        .collect();
    for own in draft.interfaces.iter().flat_map(|interface| &interface.addresses.items) {
        let net = own.get_ref();
        let mut same = draft.interfaces.iter().flat_map(|interface| &interface.addresses.items);
        let is_alone = !same.any(|other| {
            other.get_ref().trunc() == net.trunc() && !external.contains(&other.get_ref().addr())
        });
        if is_alone && servers.iter().any(|server| net.contains(server)) {
            let message = format!(
                "addresses: {} is the only own address in {} and a VIP or a masquerade's: clients \
                 of that network cannot be served by its servers",
                net.addr(),
                net.trunc()
            );
            let help = "add an own address to it that is neither, if there are such clients";
            problems.add(Finding::warning(own.span(), message).help(help));
        }
    }
}

fn check_lists(rule: &MasqueradeDraft, problems: &Problems) {
    let (sources, addresses) = (&rule.sources, &rule.addresses);
    let lists = [
        ("sources", sources.items.is_empty() && sources.complete, &sources.span),
        ("addresses", addresses.items.is_empty() && addresses.complete, &addresses.span),
    ];
    for (key, is_empty, span) in lists {
        if let (true, Some(span)) = (is_empty, span) {
            let message = format!("{key}: a masquerade needs one at least");
            let help = "remove the whole [[masquerade]] where inside hosts may open nothing";
            problems.add(Finding::error(span.clone(), message).help(help));
        }
    }
    for (index, address) in addresses.items.iter().enumerate() {
        let mut before = addresses.items.iter().take(index);
        if let Some(first) = before.find(|other| *other == address) {
            let message = format!("addresses: {address} is listed twice");
            let finding = Finding::error(address.span(), message);
            problems.add(finding.first_stated(first.span()));
        }
    }
}

/// Each family of the sources needs an address to appear with.
fn check_families(rule: &MasqueradeDraft, problems: &Problems) {
    if !rule.addresses.complete || !rule.sources.complete {
        return;
    }
    for ipv4 in [true, false] {
        let source = rule.sources.items.iter().find(|net| net.get_ref().addr().is_ipv4() == ipv4);
        let address = rule.addresses.items.iter().find(|ip| ip.get_ref().is_ipv4() == ipv4);
        let family = if ipv4 { "IPv4" } else { "IPv6" };
        match (source, address) {
            (Some(source), None) if !rule.addresses.items.is_empty() => {
                let message = format!("sources: {source} has no {family} address to appear with");
                let help = format!("add an {family} address to `addresses`");
                problems.add(Finding::error(source.span(), message).help(help));
            }
            (None, Some(address)) if !rule.sources.items.is_empty() => {
                let message = format!("addresses: no source is {family}, so {address} is not used");
                problems.add(Finding::warning(address.span(), message).help("remove it"));
            }
            _ => {}
        }
    }
}

/// An external address is the director's alone: a VIP, its own address outside, or one of no host.
fn check_addresses(
    rule: &MasqueradeDraft,
    draft: &Draft,
    networks: &Networks<'_>,
    problems: &Problems,
) {
    let servers = || {
        let servers = draft.services.iter().flat_map(|service| &service.servers.items);
        servers.filter_map(|server| server.get_ref().address.as_ref())
    };
    for address in &rule.addresses.items {
        let ip = *address.get_ref();
        let finding = |message: String| Finding::error(address.span(), message);
        let inside = draft.interfaces.iter().find_map(|interface| {
            let is_inside =
                interface.role.as_ref().is_some_and(|role| *role.get_ref() == Role::Inside);
            let mut own = interface.addresses.items.iter();
            own.find(|own| is_inside && own.get_ref().addr() == ip)
        });
        if let Some(own) = inside {
            let message = format!("addresses: {ip} is the director's own address on the inside");
            let help = "use an address on the side of the clients";
            problems.add(finding(message).first_stated(own.span()).help(help));
        } else if let Some(server) = servers().find(|server| server.get_ref().ip() == ip) {
            let message = format!("addresses: {ip} is a real server's address");
            problems.add(finding(message).first_stated(server.span()));
        } else if let Some(host) = other_host(draft, ip) {
            let message =
                format!("addresses: {ip} is another host's address (gateway or neighbor)");
            problems.add(finding(message).first_stated(host));
        } else if let Some(interface) = inside_of(ip, draft) {
            let message = format!(
                "addresses: {ip} is in a network of {}, an inside interface",
                interface.name
            );
            let help = "the outside cannot reach it there: use an address of the outside's, or one \
                        that is routed to the director";
            problems.add(Finding::warning(address.span(), message).help(help));
        } else if let Some(net) = networks.edge(ip) {
            problems.add(finding(format!("addresses: {ip} is no host's address in {net}")));
        }
    }
}

/// The inside interface in whose network an address lies.
pub(super) fn inside_of(ip: std::net::IpAddr, draft: &Draft) -> Option<&InterfaceDraft> {
    draft.interfaces.iter().find(|interface| {
        let is_inside = interface.role.as_ref().is_some_and(|role| *role.get_ref() == Role::Inside);
        let mut networks = interface.addresses.items.iter();
        is_inside && networks.any(|network| network.get_ref().contains(&ip))
    })
}

/// Where the file names this address as another host's.
pub(super) fn other_host(draft: &Draft, ip: std::net::IpAddr) -> Option<super::Span> {
    draft.interfaces.iter().find_map(|interface| {
        let neighbors = interface.neighbors.iter().map(|(ip, _)| ip);
        let vias = interface.routes.iter().filter_map(|route| route.via.as_ref());
        let mut hosts = interface.gateways.items.iter().chain(vias).chain(neighbors);
        hosts.find(|host| *host.get_ref() == ip).map(Spanned::span)
    })
}

fn check_sources(rule: &MasqueradeDraft, networks: &Networks<'_>, problems: &Problems) {
    if !networks.known {
        return;
    }
    for source in &rule.sources.items {
        let ip = source.get_ref().addr();
        let is_outside = networks.towards(ip).is_some_and(|interface| {
            interface.role.as_ref().is_some_and(|role| *role.get_ref() == Role::Outside)
        });
        if is_outside {
            let message =
                format!("sources: {source} lies outside, so the rule never applies to it");
            let help = "add a network or a route to an inside interface that contains it";
            problems.add(Finding::warning(source.span(), message).help(help));
        }
    }
}
