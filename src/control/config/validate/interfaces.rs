//! Sections `[interface.NAME]`: among themselves, and with the sizes of packet buffers.

use std::net::IpAddr;

use toml::Spanned;

use super::devices;
use super::networks::Networks;
use crate::control::config::diagnostic::Finding;
use crate::control::config::draft::{Draft, InterfaceDraft};
use crate::control::config::model::{DpdkConfig, InterfaceConfig, Role};
use crate::control::config::reader::Problems;

/// RFC 8200, section 5.
const LEAST_IPV6_MTU: u16 = 1280;

pub(super) fn check(draft: &Draft, networks: &Networks<'_>, problems: &Problems) {
    let interfaces = &draft.interfaces;
    check_roles(draft, problems);
    devices::check(interfaces, problems);
    check_addresses(interfaces, problems);
    check_gateways(interfaces, problems);
    for interface in interfaces {
        check_mtu(interface, draft, problems);
        check_routes(interface, problems);
        check_neighbors(interface, problems);
        for gateway in &interface.gateways.items {
            check_next_hop(interface, "gateways", gateway, problems);
            if let Some(net) = networks.edge(*gateway.get_ref()) {
                let message = format!("gateways: {gateway} is no host's address in {net}");
                problems.add(Finding::error(gateway.span(), message));
            }
        }
    }
}

fn check_roles(draft: &Draft, problems: &Problems) {
    let interfaces = &draft.interfaces;
    if !draft.any_interface {
        let finding = Finding::absence(None, "there is no interface");
        problems.add(finding.help("add [interface.outside] and [interface.inside]"));
        return;
    }
    let roles: Option<Vec<Role>> = interfaces
        .iter()
        .map(|interface| interface.role.as_ref().map(|role| *role.get_ref()))
        .collect();
    let (Some(roles), Some(last)) = (roles, interfaces.last()) else { return };
    let missing = [Role::Outside, Role::Inside]
        .into_iter()
        .find(|side| !roles.contains(side) && !roles.contains(&Role::Both));
    let (Some(missing), Some(span)) = (missing, last.role.as_ref().map(Spanned::span)) else {
        return;
    };
    let side = if missing == Role::Outside { "the clients" } else { "the real servers" };
    let message = format!("no interface has role \"{}\": nothing leads to {side}", missing.name());
    let help = if interfaces.len() == 1 {
        "add another interface, or write role = \"both\" if this one leads to both".into()
    } else {
        format!(
            "write role = \"{}\", or \"both\", for the interface towards {side}",
            missing.name()
        )
    };
    problems.add(Finding::absence(Some(span), message).help(help));
}

fn check_addresses(interfaces: &[InterfaceDraft], problems: &Problems) {
    let mut seen: Vec<(usize, &Spanned<ipnet::IpNet>)> = Vec::new();
    for (index, interface) in interfaces.iter().enumerate() {
        for address in &interface.addresses.items {
            let net = address.get_ref();
            let same = seen.iter().find(|(_, other)| other.get_ref().addr() == net.addr());
            let overlap = seen.iter().find(|(owner, other)| {
                *owner != index
                    && other.get_ref().trunc() == net.trunc()
                    && !is_link_local(net.addr())
            });
            if let Some((_, first)) = same {
                let message = format!("addresses: {} is stated twice", net.addr());
                problems.add(Finding::error(address.span(), message).first_stated(first.span()));
            } else if let Some((_, first)) = overlap {
                let message = format!("addresses: network {} is on two interfaces", net.trunc());
                let help = "give each interface networks of its own, or use one with role \"both\"";
                let finding = Finding::error(address.span(), message);
                problems.add(finding.first_stated(first.span()).help(help));
            }
            seen.push((index, address));
        }
    }
}

fn check_gateways(interfaces: &[InterfaceDraft], problems: &Problems) {
    let gateways: Vec<_> =
        interfaces.iter().flat_map(|interface| &interface.gateways.items).collect();
    for (index, gateway) in gateways.iter().enumerate() {
        let ipv4 = gateway.get_ref().is_ipv4();
        let first = gateways.iter().take(index).find(|other| other.get_ref().is_ipv4() == ipv4);
        if let Some(first) = first {
            let family = if ipv4 { "IPv4" } else { "IPv6" };
            let message = format!("gateways: a second {family} gateway, {gateway}");
            let help = "one per address family; for single networks use `routes`";
            let finding = Finding::error(gateway.span(), message);
            problems.add(finding.first_stated(first.span()).help(help));
        }
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// Whether a host with this address can be on the interface's link.
fn on_link(interface: &InterfaceDraft, ip: IpAddr) -> bool {
    let mut own = interface.addresses.items.iter().map(Spanned::get_ref);
    own.any(|net| net.contains(&ip) || (net.addr().is_ipv6() && ip.is_ipv6() && is_link_local(ip)))
}

fn own_networks(interface: &InterfaceDraft) -> String {
    let nets = interface.addresses.items.iter().map(|net| net.get_ref().trunc().to_string());
    format!("networks of {}: {}", interface.name, nets.collect::<Vec<_>>().join(", "))
}

fn check_next_hop(
    interface: &InterfaceDraft,
    key: &str,
    hop: &Spanned<IpAddr>,
    problems: &Problems,
) {
    let ip = *hop.get_ref();
    if interface.addresses.items.iter().any(|own| own.get_ref().addr() == ip) {
        let message = format!("{key}: {ip} is the director's own address");
        problems.add(Finding::error(hop.span(), message).help("write the router's address"));
    } else if !on_link(interface, ip)
        && interface.addresses.complete
        && !interface.addresses.items.is_empty()
    {
        let message = format!("{key}: {ip} is in no network of this interface");
        problems.add(Finding::error(hop.span(), message).help(own_networks(interface)));
    }
}

fn check_routes(interface: &InterfaceDraft, problems: &Problems) {
    for (index, route) in interface.routes.iter().enumerate() {
        if let Some(via) = &route.via {
            check_next_hop(interface, "routes", via, problems);
        }
        let Some(to) = &route.to else { continue };
        let mut before = interface.routes.iter().take(index).filter_map(|other| other.to.as_ref());
        if let Some(first) = before.find(|other| *other == to) {
            let message = format!("routes: a second route to {to}");
            problems.add(Finding::error(to.span(), message).first_stated(first.span()));
        }
        if let Some(via) = &route.via
            && via.get_ref().is_ipv4() != to.get_ref().addr().is_ipv4()
        {
            let message = format!("routes: {via} is not of {to}'s address family");
            problems.add(Finding::error(via.span(), message));
        }
    }
}

fn check_neighbors(interface: &InterfaceDraft, problems: &Problems) {
    for (index, (ip, _)) in interface.neighbors.iter().enumerate() {
        check_next_hop(interface, "neighbors", ip, problems);
        let mut before = interface.neighbors.iter().take(index);
        if let Some((first, _)) = before.find(|(other, _)| other == ip) {
            let message = format!("neighbors: {ip} is stated twice");
            problems.add(Finding::error(ip.span(), message).first_stated(first.span()));
        }
    }
}

fn check_mtu(interface: &InterfaceDraft, draft: &Draft, problems: &Problems) {
    let mtu = interface.mtu.as_ref().map_or(InterfaceConfig::DEFAULT_MTU, |mtu| *mtu.get_ref());
    let ipv6 = interface.addresses.items.iter().any(|net| net.get_ref().addr().is_ipv6());
    if let (Some(stated), true) = (&interface.mtu, ipv6 && mtu < LEAST_IPV6_MTU) {
        let message = format!("mtu: IPv6 needs {LEAST_IPV6_MTU} at least, not {mtu}");
        let help = format!("write {LEAST_IPV6_MTU}, or remove the interface's IPv6 addresses");
        problems.add(Finding::error(stated.span(), message).help(help));
    }
    let octets = &draft.dpdk.mbuf_octets;
    let room = octets.as_ref().map_or(DpdkConfig::DEFAULT_MBUF_OCTETS, |octets| *octets.get_ref());
    let frame = mtu.saturating_add(DpdkConfig::FRAME_OVERHEAD_OCTETS);
    let span = octets.as_ref().map(Spanned::span).or(interface.mtu.as_ref().map(Spanned::span));
    if let (true, Some(span)) = (room < frame, span) {
        let message = format!(
            "a packet buffer of {room} octets does not hold a frame of {frame} (MTU {mtu} of \
             interface {})",
            interface.name
        );
        let help = format!("set mbuf_octets in [dpdk] to {} or more", frame.next_multiple_of(64));
        problems.add(Finding::error(span, message).help(help));
    }
}
