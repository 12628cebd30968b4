//! Sections `[[mark]]`: among themselves, and with the services and interfaces.

use ipnet::IpNet;
use toml::Spanned;

use super::masquerades::{inside_of, other_host};
use super::networks::{Networks, is_single};
use crate::control::config::diagnostic::Finding;
use crate::control::config::draft::{Draft, MarkDraft};
use crate::control::config::model::Role;
use crate::control::config::reader::{Problems, nearest};
use crate::service::Listen;

/// Rules that there is room for: a new connection's packet is compared with one after the other.
const MAX_RULES: usize = 256;

pub(super) fn check(draft: &Draft, networks: &Networks<'_>, problems: &Problems) {
    for (index, rule) in draft.marks.iter().enumerate() {
        check_lists(rule, problems);
        check_interface(rule, draft, problems);
        check_families(rule, problems);
        check_use(rule, draft, problems);
        check_order(rule, draft.marks.get(..index).unwrap_or_default(), problems);
        for address in &rule.addresses.items {
            if is_single(address.get_ref()) {
                check_address(address, draft, networks, problems);
            } else {
                check_network(address, draft, problems);
            }
        }
    }
    check_services(draft, problems);
    if let Some(rule) = draft.marks.get(MAX_RULES) {
        let message = format!("more than {MAX_RULES} rules of firewall marks");
        let help = "join rules of one mark: a rule takes lists of addresses, ports and sources";
        problems.add(Finding::error(rule.span.clone(), message).help(help));
    }
}

fn check_lists(rule: &MarkDraft, problems: &Problems) {
    let addresses = &rule.addresses;
    if let (true, true, Some(span)) =
        (addresses.items.is_empty(), addresses.complete, &addresses.span)
    {
        let message = "addresses: a firewall mark needs destinations";
        let help = "list the addresses that clients send to";
        problems.add(Finding::error(span.clone(), message).help(help));
    }
    let lists = [
        (
            "ports",
            &rule.ports.span,
            rule.ports.items.is_empty() && rule.ports.complete,
            "every port",
        ),
        (
            "sources",
            &rule.sources.span,
            rule.sources.items.is_empty() && rule.sources.complete,
            "packets from anywhere",
        ),
    ];
    for (key, span, is_empty, what) in lists {
        if let (true, Some(span)) = (is_empty, span) {
            let message = format!("{key}: an empty list matches nothing");
            let help = format!("leave it out for {what}");
            problems.add(Finding::error(span.clone(), message).help(help));
        }
    }
}

fn check_interface(rule: &MarkDraft, draft: &Draft, problems: &Problems) {
    let Some(name) = &rule.interface else { return };
    let known: Vec<&str> =
        draft.interfaces.iter().map(|known| known.name.get_ref().as_str()).collect();
    if !known.is_empty() && !known.contains(&name.get_ref().as_str()) {
        let message = format!("interface: there is no [interface.{name}]");
        let help = nearest(name.get_ref(), &known, "interfaces");
        problems.add(Finding::error(name.span(), message).help(help));
    }
}

/// Sources of a family without destinations, or the other way round, never match.
fn check_families(rule: &MarkDraft, problems: &Problems) {
    if !rule.addresses.complete || rule.addresses.items.is_empty() {
        return;
    }
    for source in &rule.sources.items {
        let ipv4 = source.get_ref().addr().is_ipv4();
        let mut addresses = rule.addresses.items.iter();
        if !addresses.any(|address| address.get_ref().addr().is_ipv4() == ipv4) {
            let family = if ipv4 { "IPv4" } else { "IPv6" };
            let message =
                format!("sources: no address of the rule is {family}, so {source} never matches");
            problems.add(Finding::warning(source.span(), message).help("remove it"));
        }
    }
}

/// Whether a service takes what a rule marks, or a rule marks what a service takes.
fn takes(listen: &Listen, rule: &MarkDraft) -> bool {
    let Some(mark) = &rule.mark else { return true };
    let family = |net: &Spanned<IpNet>| net.get_ref().addr().is_ipv6() == listen.is_ipv6();
    listen.mark().is_some_and(|known| known.get() == *mark.get_ref())
        && (rule.addresses.items.iter().any(family) || !rule.addresses.complete)
}

fn check_use(rule: &MarkDraft, draft: &Draft, problems: &Problems) {
    let Some(mark) = &rule.mark else { return };
    let listens = || draft.services.iter().map(|service| service.listen.as_ref());
    if listens().any(|listen| listen.is_none_or(|listen| takes(listen.get_ref(), rule))) {
        return;
    }
    let ipv6 = rule.addresses.items.iter().all(|net| net.get_ref().addr().is_ipv6());
    let scheme = if ipv6 && !rule.addresses.items.is_empty() { "fwmark6" } else { "fwmark" };
    let message =
        format!("mark: no service listens on {scheme}://{mark}, so the mark has no effect");
    let help = format!("add a [[service]] with listen = \"{scheme}://{mark}\", or remove the rule");
    problems.add(Finding::warning(mark.span(), message).help(help));
}

fn check_services(draft: &Draft, problems: &Problems) {
    for listen in draft.services.iter().filter_map(|service| service.listen.as_ref()) {
        let Some(mark) = listen.get_ref().mark() else { continue };
        if draft.marks.iter().any(|rule| takes(listen.get_ref(), rule)) {
            continue;
        }
        let family = if listen.get_ref().is_ipv6() { "IPv6" } else { "IPv4" };
        let message = format!("listen: no rule gives {family} packets mark {mark}");
        let help =
            format!("add for example: [[mark]] mark = {mark}, addresses = [\"203.0.113.10\"]");
        problems.add(Finding::warning(listen.span(), message).help(help));
    }
}

/// The first rule that matches gives the mark.
fn check_order(rule: &MarkDraft, before: &[MarkDraft], problems: &Problems) {
    let has_all = |earlier: &MarkDraft| {
        let protocol = |rule: &MarkDraft| rule.protocol.as_ref().map(|known| *known.get_ref());
        let interface =
            |rule: &MarkDraft| rule.interface.as_ref().map(|name| name.get_ref().clone());
        let nets = |of: &[Spanned<IpNet>], net: &Spanned<IpNet>| {
            of.iter().any(|known| known.get_ref().contains(net.get_ref()))
        };
        let (sources, ports) = (&earlier.sources.items, &earlier.ports.items);
        (protocol(earlier).is_none() || protocol(earlier) == protocol(rule))
            && (interface(earlier).is_none() || interface(earlier) == interface(rule))
            && rule.addresses.items.iter().all(|net| nets(&earlier.addresses.items, net))
            && (sources.is_empty()
                || (!rule.sources.items.is_empty()
                    && rule.sources.items.iter().all(|net| nets(sources, net))))
            && (ports.is_empty()
                || (!rule.ports.items.is_empty()
                    && rule.ports.items.iter().all(|own| {
                        let (own, known) = (own.get_ref(), ports.iter().map(Spanned::get_ref));
                        known
                            .clone()
                            .any(|range| range.contains(own.first()) && range.contains(own.last()))
                    })))
    };
    if rule.addresses.items.is_empty() {
        return;
    }
    if let Some(first) = before.iter().find(|earlier| has_all(earlier)) {
        let message = "an earlier rule has all packets of this one, so it never applies";
        let finding = Finding::warning(rule.span.clone(), message).first_stated(first.span.clone());
        problems.add(finding.help("put the narrower rule first"));
    }
}

/// A single destination is the director's, as a VIP is.
fn check_address(
    address: &Spanned<IpNet>,
    draft: &Draft,
    networks: &Networks<'_>,
    problems: &Problems,
) {
    let ip = address.get_ref().addr();
    let finding = |message: String| Finding::error(address.span(), message);
    let own = draft.interfaces.iter().find_map(|interface| {
        let is_inside = interface.role.as_ref().is_some_and(|role| *role.get_ref() == Role::Inside);
        let mut own = interface.addresses.items.iter();
        own.find(|own| is_inside && own.get_ref().addr() == ip)
    });
    if let Some(own) = own {
        let message = format!("addresses: {ip} is the director's own address on the inside");
        let help = "use an address on the side of the clients";
        problems.add(finding(message).first_stated(own.span()).help(help));
    } else if let Some(host) = other_host(draft, ip) {
        let message = format!("addresses: {ip} is another host's address (gateway or neighbor)");
        problems.add(finding(message).first_stated(host));
    } else if let Some(net) = networks.edge(ip) {
        problems.add(finding(format!("addresses: {ip} is no host's address in {net}")));
    }
}

/// Nobody answers ARP for a whole network; and hosts that the file knows are not in it.
fn check_network(address: &Spanned<IpNet>, draft: &Draft, problems: &Problems) {
    let net = address.get_ref();
    if let Some(interface) = inside_of(net.addr(), draft) {
        let message =
            format!("addresses: {net} is in a network of {}, an inside interface", interface.name);
        let help = "list the addresses on the side of the clients";
        problems.add(Finding::error(address.span(), message).help(help));
        return;
    }
    let connected = draft.interfaces.iter().find_map(|interface| {
        let mut own = interface.addresses.items.iter();
        own.find(|own| own.get_ref().contains(&net.addr()) || net.contains(&own.get_ref().addr()))
    });
    if let Some(own) = connected {
        let message = format!(
            "addresses: {net} lies in a connected network, and the director answers ARP and \
             Neighbor Discovery for single addresses only"
        );
        let help = "list the addresses one by one, or have the network routed to the director";
        problems.add(Finding::warning(address.span(), message).first_stated(own.span()).help(help));
    }
}
