//! Compares `[[failover]]` with the rest of the file.

use std::net::IpAddr;

use ipnet::IpNet;
use toml::Spanned;

use super::draft::{FailoverDraft, FloatingDraft, priority_of, version_of};
use super::sync;
use crate::control::config::diagnostic::{Finding, Span};
use crate::control::config::draft::{Draft, InterfaceDraft};
use crate::control::config::model::Role;
use crate::control::config::reader::{Problems, nearest};
use crate::wire::vrrp::{ADDRESSES, OWNER, Version};

/// Compares the section with the rest of the file.
pub(in crate::control::config) fn check(draft: &Draft, problems: &Problems) {
    let [group, more @ ..] = &draft.failovers[..] else { return };
    for group in more {
        let message = "a second [[failover]]: a director has one sync group, for only then both \
                       sides of it move together";
        problems.add(Finding::error(group.span.clone(), message).help("join their addresses"));
    }
    check_protocol(group, problems);
    check_accept(group, problems);
    for (number, floating) in group.floating.iter().enumerate() {
        check_floating(group, floating, draft, problems);
        let earlier = group.floating.get(..number).unwrap_or_default();
        check_twice(floating, earlier, problems);
    }
    if group.floating_known {
        check_count(group, problems);
        check_peers(group, draft, problems);
        if !group.floating.is_empty() {
            check_sides(group, draft, problems);
        }
    }
    sync::check(group, draft, problems);
    check_vips(group, draft, problems);
}

fn check_protocol(group: &FailoverDraft, problems: &Problems) {
    match (version_of(group), &group.interval, &group.password) {
        (Version::V2, Some(interval), _) if interval.get_ref().subsec_nanos() != 0 => {
            let message = "interval: version 2 counts whole seconds";
            let help = "write \"1s\", or use version 3";
            problems.add(Finding::error(interval.span(), message).help(help));
        }
        (Version::V3, Some(interval), _) if interval.get_ref().subsec_nanos() % 10_000_000 != 0 => {
            let message = "interval: version 3 counts hundredths of a second";
            problems.add(Finding::error(interval.span(), message).help("write \"100ms\""));
        }
        (Version::V3, _, Some(password)) => {
            let message = "password: version 3 has none";
            let help = "remove it, or use version = 2";
            problems.add(Finding::error(password.span(), message).help(help));
        }
        (Version::V2 | Version::V3, ..) => {}
    }
}

/// RFC 9568 section 6.1: who owns the addresses answers for them.
fn check_accept(group: &FailoverDraft, problems: &Problems) {
    if let Some(accept) = group.accept.as_ref().filter(|accept| !accept.get_ref())
        && priority_of(group) == OWNER
    {
        let message = "accept: the owner (priority 255) answers for its addresses in any case";
        problems.add(Finding::warning(accept.span(), message).help("remove it"));
    }
}

pub(super) fn interface_of<'d>(
    floating: &FloatingDraft,
    draft: &'d Draft,
) -> Option<&'d InterfaceDraft> {
    let name = floating.interface.as_ref()?.get_ref();
    draft.interfaces.iter().find(|known| known.name.get_ref() == name)
}

fn check_floating(
    group: &FailoverDraft,
    floating: &FloatingDraft,
    draft: &Draft,
    problems: &Problems,
) {
    let Some(name) = &floating.interface else { return };
    let Some(interface) = interface_of(floating, draft) else {
        let known: Vec<&str> =
            draft.interfaces.iter().map(|known| known.name.get_ref().as_str()).collect();
        if !known.is_empty() {
            let message = format!("interface: there is no [interface.{name}]");
            let help = nearest(name.get_ref(), &known, "interfaces");
            problems.add(Finding::error(name.span(), message).help(help));
        }
        return;
    };
    let Some(address) = &floating.address else { return };
    let ip = *address.get_ref();
    if ip.is_ipv6() && version_of(group) == Version::V2 {
        let message = "address: version 2 is for IPv4 alone";
        problems.add(Finding::error(address.span(), message).help("use version 3"));
        return;
    }
    let own = interface.addresses.items.iter().find(|own| own.get_ref().addr() == ip);
    let is_owner = priority_of(group) == OWNER;
    match own {
        Some(own) if !is_owner => {
            let message = format!("address: {ip} is the interface's own: it cannot move");
            let help = "give the interface another address, or state priority = 255, which makes \
                        this director the owner";
            let finding = Finding::error(address.span(), message);
            problems.add(finding.first_stated(own.span()).help(help));
        }
        None if is_owner => {
            let message = format!("address: {ip} is not the interface's own");
            let help = "a director with priority 255 owns the floating addresses: list it in \
                        `addresses`, or use a priority of 254 at most";
            problems.add(Finding::error(address.span(), message).help(help));
        }
        Some(_) | None => {}
    }
    if !interface.networks_known {
        return;
    }
    let mut networks = interface.addresses.items.iter().map(Spanned::get_ref);
    if !is_link_local(ip) && !networks.any(|network| network.contains(&ip)) {
        let list: Vec<_> =
            interface.addresses.items.iter().map(|net| net.get_ref().trunc().to_string()).collect();
        let message = format!("address: {ip} is in no network of {name}");
        let help = format!("{name} has {}", list.join(", "));
        problems.add(Finding::error(address.span(), message).help(help));
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

fn check_twice(floating: &FloatingDraft, earlier: &[FloatingDraft], problems: &Problems) {
    let Some(address) = &floating.address else { return };
    let interface = floating.interface.as_ref().map(Spanned::get_ref);
    let first = earlier.iter().find_map(|other| {
        let same_place = other.interface.as_ref().map(Spanned::get_ref) == interface
            || !is_link_local(*address.get_ref());
        other.address.as_ref().filter(|known| known.get_ref() == address.get_ref() && same_place)
    });
    if let Some(first) = first {
        let message = format!("address: {} floats twice", address.get_ref());
        problems.add(Finding::error(address.span(), message).first_stated(first.span()));
    }
}

/// NAT needs both sides: the clients' packets, and the real servers' replies.
fn check_sides(group: &FailoverDraft, draft: &Draft, problems: &Problems) {
    let roles: Option<Vec<Role>> = group
        .floating
        .iter()
        .map(|floating| interface_of(floating, draft)?.role.as_ref().map(|role| *role.get_ref()))
        .collect();
    let Some(roles) = roles else { return };
    for side in [Role::Outside, Role::Inside] {
        if roles.contains(&side) || roles.contains(&Role::Both) {
            continue;
        }
        let (message, help) = match side {
            Role::Inside => (
                "no address floats on the inside: real servers that have a director as their \
                 default gateway keep it when the other one takes over",
                "add the real servers' default gateway: { interface = \"inside\", address = \
                 \"10.0.0.1\" }",
            ),
            Role::Outside | Role::Both => (
                "no address floats on the outside: nothing is heard there of the other director",
                "add an address on the side of the clients, for example a VIP",
            ),
        };
        problems.add(Finding::warning(group.span.clone(), message).help(help));
    }
    if roles.contains(&Role::Inside) || roles.contains(&Role::Both) {
        check_other_insides(group, draft, problems);
    }
}

/// Real servers may be on several inside interfaces.
fn check_other_insides(group: &FailoverDraft, draft: &Draft, problems: &Problems) {
    let is_inside = |known: &&InterfaceDraft| {
        known.role.as_ref().is_some_and(|role| *role.get_ref() == Role::Inside)
    };
    let floats_on = |known: &InterfaceDraft| {
        let mut names = group.floating.iter().filter_map(|floating| floating.interface.as_ref());
        names.any(|name| name.get_ref() == known.name.get_ref())
    };
    let has_servers = |known: &InterfaceDraft| {
        let mut servers = draft.services.iter().flat_map(|service| &service.servers.items);
        let networks = || known.addresses.items.iter().map(Spanned::get_ref);
        let is_there = |ip: IpAddr| networks().any(|network| network.contains(&ip));
        servers
            .any(|it| it.get_ref().address.as_ref().is_some_and(|it| is_there(it.get_ref().ip())))
    };
    let insides = draft.interfaces.iter().filter(is_inside);
    for known in insides.filter(|known| has_servers(known) && !floats_on(known)) {
        let message = format!(
            "no address floats on the inside interface {}: its link is not watched, and real \
             servers there that have a director as their default gateway keep it when the other \
             one takes over",
            known.name
        );
        let help = "add the default gateway of that network, unless its servers need none";
        problems.add(Finding::warning(group.span.clone(), message).help(help));
    }
}

fn check_peers(group: &FailoverDraft, draft: &Draft, problems: &Problems) {
    for peer in &group.peers.items {
        let ip = *peer.get_ref();
        let on_link = |interface: &InterfaceDraft| {
            interface.addresses.items.iter().any(|net| net.get_ref().contains(&ip))
        };
        let own = draft.interfaces.iter().flat_map(|interface| &interface.addresses.items);
        if let Some(own) = own.clone().find(|own| own.get_ref().addr() == ip) {
            let message = format!("peers: {ip} is this director's own address");
            let finding = Finding::error(peer.span(), message).first_stated(own.span());
            problems.add(finding.help("state the other director's"));
        } else if let Some(moves) = moves(ip, draft) {
            let message = format!("peers: {ip} moves: nobody else has it while this director does");
            let finding = Finding::error(peer.span(), message).first_stated(moves);
            let help = "state an address that stays with the other director; one that is the owner \
                        needs one beside those that float";
            problems.add(finding.help(help));
        } else if !draft.interfaces.iter().any(on_link) {
            let message = format!("peers: {ip} is in no network of an interface");
            let help = "VRRP is not routed: state an address on a link that both directors have";
            problems.add(Finding::error(peer.span(), message).help(help));
        }
    }
    if group.peers.items.is_empty() || !group.peers.complete {
        return;
    }
    for floating in &group.floating {
        let (Some(interface), Some(address)) = (interface_of(floating, draft), &floating.address)
        else {
            continue;
        };
        let reaches = |peer: &Spanned<IpAddr>| {
            let peer = *peer.get_ref();
            let mut networks = interface.addresses.items.iter();
            peer.is_ipv4() == address.get_ref().is_ipv4()
                && networks.any(|net| net.get_ref().contains(&peer))
        };
        if !group.peers.items.iter().any(reaches) {
            let family = if address.get_ref().is_ipv4() { "IPv4" } else { "IPv6" };
            let message = format!("address: no peer is on {} over {family}", interface.name);
            let help = "add the other director's address there to `peers`; without `peers` both \
                        use multicast";
            problems.add(Finding::error(address.span(), message).help(help));
        }
    }
}

fn check_count(group: &FailoverDraft, problems: &Problems) {
    if group.floating.is_empty() {
        let message = "floating: there is no address";
        let help = "list the real servers' default gateway and an address on the outside";
        problems.add(Finding::error(group.span.clone(), message).help(help));
    } else if group.floating.len() > ADDRESSES {
        let message = format!("floating: more than {ADDRESSES} addresses");
        let help = "VIPs move with the group without being listed";
        problems.add(Finding::error(group.span.clone(), message).help(help));
    }
}

/// A VIP, or another address of services, that is an interface's own stays where it is.
fn check_vips(group: &FailoverDraft, draft: &Draft, problems: &Problems) {
    if priority_of(group) == OWNER {
        return;
    }
    let own: Vec<&Spanned<IpNet>> =
        draft.interfaces.iter().flat_map(|interface| &interface.addresses.items).collect();
    let warn = |key: &str, span: Span, ip: IpAddr| {
        if let Some(own) = own.iter().find(|own| own.get_ref().addr() == ip) {
            let message = format!("{key}: {ip} is an interface's own address: it does not float");
            let finding = Finding::warning(span, message).first_stated(own.span());
            problems.add(finding.help("use an address that is no interface's"));
        }
    };
    for (key, span, ip) in external_addresses(draft) {
        warn(key, span, ip);
    }
}

/// VIPs, the addresses that masquerades appear with, and single destinations of firewall marks, each
/// with its key.
fn external_addresses(draft: &Draft) -> impl Iterator<Item = (&'static str, Span, IpAddr)> + '_ {
    let listens = draft.services.iter().filter_map(|service| service.listen.as_ref());
    let vips = listens
        .filter_map(|listen| listen.get_ref().ip().map(|vip| ("listen", listen.span(), vip)));
    let masquerades = draft.masquerades.iter().flat_map(|rule| &rule.addresses.items);
    let masquerades = masquerades.map(|ip| ("addresses", ip.span(), *ip.get_ref()));
    let marks = draft.marks.iter().flat_map(|rule| &rule.addresses.items);
    let is_single =
        |net: &&Spanned<IpNet>| net.get_ref().prefix_len() == net.get_ref().max_prefix_len();
    let marks = marks.filter(is_single).map(|net| ("addresses", net.span(), net.get_ref().addr()));
    vips.chain(masquerades).chain(marks)
}

/// Where it is said that an address is that of the active director.
pub(super) fn moves(ip: IpAddr, draft: &Draft) -> Option<Span> {
    let floats = draft.failovers.iter().find_map(|group| group.floats(ip));
    let is_it = |(_, span, external): (&str, Span, IpAddr)| (external == ip).then_some(span);
    floats.or_else(|| external_addresses(draft).find_map(is_it))
}
