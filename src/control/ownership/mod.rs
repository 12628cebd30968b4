//! Which addresses the director answers for, and through which neighbours it reaches the world:
//! rules of the configuration alone.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::Neighbor;
use super::config::{Config, InterfaceConfig, Role};
use crate::ids::InterfaceId;

/// The interfaces with their numbers.
fn numbered(config: &Config) -> impl Iterator<Item = (InterfaceId, &InterfaceConfig)> {
    (0..=u8::MAX).map(InterfaceId).zip(&config.interfaces)
}

/// Every address that the director answers ARP, Neighbor Discovery and echo for, with its
/// interface: floating ones, the interfaces' own, the VIPs, single destinations of firewall marks, and those that
/// masquerades appear with.
///
/// A VIP, or another of these, belongs to the interfaces in whose network it lies; a VIP in no
/// network, to every interface towards the clients (clients reach it by a route, so nobody will
/// ask, but no one else may claim it either). Networks of firewall marks are routed to the
/// director: it does not claim every address of them, for other hosts may be among them.
pub fn owned_addresses(config: &Config) -> Vec<(InterfaceId, IpAddr)> {
    let mut owned = Vec::new();
    for floating in config.failover.iter().flat_map(|group| &group.floating) {
        owned.push((floating.interface, floating.address));
    }
    for (id, interface) in numbered(config) {
        let own = interface.addresses.iter().map(|network| (id, network.addr()));
        owned.extend(own.filter(|address| !owned.contains(address)).collect::<Vec<_>>());
    }
    for vip in config.external_addresses() {
        let on_link = |interface: &InterfaceConfig| {
            interface.addresses.iter().any(|network| network.contains(&vip))
        };
        let anywhere = numbered(config).any(|(_, interface)| on_link(interface));
        for (id, interface) in numbered(config) {
            let mine = if anywhere {
                on_link(interface)
            } else {
                matches!(interface.role, Role::Outside | Role::Both)
            };
            if mine && !owned.contains(&(id, vip)) {
                owned.push((id, vip));
            }
        }
    }
    owned
}

/// Of the addresses that the director answers for, those that the active director of a pair has:
/// all that are no interface's own, and floating ones.
pub fn moving_addresses(config: &Config) -> Vec<(InterfaceId, IpAddr)> {
    let Some(group) = &config.failover else { return Vec::new() };
    let stays = |(interface, address): &(InterfaceId, IpAddr)| {
        let mut own = config.interfaces.iter().flat_map(|interface| &interface.addresses);
        let floats = group.floating_of(*interface).any(|floating| floating == *address);
        !floats && own.any(|network| network.addr() == *address)
    };
    let mut moving = owned_addresses(config);
    moving.retain(|address| !stays(address));
    moving
}

/// Of the addresses that the director answers for, those that no other director takes over.
pub(super) fn staying_addresses(config: &Config) -> Vec<(InterfaceId, IpAddr)> {
    let moving = moving_addresses(config);
    let mut staying = owned_addresses(config);
    staying.retain(|address| !moving.contains(address));
    staying
}

/// How a next hop is known; among prefixes of one length, the later wins.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Via {
    Gateway,
    Route,
    Link,
}

/// The neighbour that packets to `destination` go to: the longest prefix among connected
/// networks, routes and default gateways. `None`: no way there.
pub fn next_hop(config: &Config, destination: IpAddr) -> Option<Neighbor> {
    let mut best: Option<((u8, Via), Neighbor)> = None;
    let mut consider = |prefix: u8, via: Via, interface: InterfaceId, address: IpAddr| {
        if best.is_none_or(|(rank, _)| (prefix, via) > rank) {
            best = Some(((prefix, via), Neighbor { interface, address }));
        }
    };
    let holds = |network: &IpNet| network.contains(&destination);
    for (id, interface) in numbered(config) {
        for network in interface.addresses.iter().filter(|network| holds(network)) {
            consider(network.prefix_len(), Via::Link, id, destination);
        }
        for route in interface.routes.iter().filter(|route| holds(&route.to)) {
            consider(route.to.prefix_len(), Via::Route, id, route.via);
        }
        for gateway in &interface.gateways {
            if gateway.is_ipv4() == destination.is_ipv4() {
                consider(0, Via::Gateway, id, *gateway);
            }
        }
    }
    best.map(|(_, neighbor)| neighbor)
}

/// The neighbours that the director cannot do without: gateways, routers, and the way to every
/// real server. They are asked for at the start and never given up.
pub fn essential_neighbors(config: &Config) -> BTreeSet<Neighbor> {
    let mut neighbors = BTreeSet::new();
    for (interface, section) in numbered(config) {
        let routers = section.routes.iter().map(|route| route.via);
        for address in section.gateways.iter().copied().chain(routers) {
            neighbors.insert(Neighbor { interface, address });
        }
    }
    if let Some(group) = &config.failover {
        let told = group.sync.iter().flat_map(|sync| &sync.peers);
        neighbors.extend(group.peers.iter().chain(told).filter_map(|peer| next_hop(config, *peer)));
    }
    for service in &config.services {
        let servers = service.servers.iter().map(|server| server.address.ip());
        neighbors.extend(servers.filter_map(|address| next_hop(config, address)));
    }
    let own: BTreeSet<_> =
        owned_addresses(config).into_iter().map(|(_, address)| address).collect();
    neighbors.retain(|neighbor| !own.contains(&neighbor.address));
    neighbors
}

/// The configured static neighbours.
pub fn static_neighbors(config: &Config) -> Vec<(Neighbor, [u8; 6])> {
    let of = |(interface, section): (InterfaceId, &InterfaceConfig)| {
        let one = move |&(address, mac): &(IpAddr, super::config::MacAddress)| {
            (Neighbor { interface, address }, mac.0)
        };
        section.neighbors.iter().map(one).collect::<Vec<_>>()
    };
    numbered(config).flat_map(of).collect()
}

#[cfg(test)]
mod tests;
