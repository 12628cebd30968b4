use std::net::IpAddr;

use super::*;
use crate::control::test_config::{config, interface, service};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn neighbor(interface: u8, address: &str) -> Neighbor {
    Neighbor { interface: InterfaceId(interface), address: ip(address) }
}

#[test]
fn a_vip_belongs_to_the_interface_in_whose_network_it_lies() {
    let mut config = config();
    config.services = vec![service("web", "tcp://203.0.113.10:80", &["10.0.0.11:80"])];
    let owned = owned_addresses(&config);
    assert!(owned.contains(&(InterfaceId(0), ip("203.0.113.10"))));
    assert!(!owned.contains(&(InterfaceId(1), ip("203.0.113.10"))));
    assert!(owned.contains(&(InterfaceId(1), ip("10.0.0.2"))));
}

#[test]
fn a_routed_vip_belongs_to_every_interface_towards_the_clients() {
    let mut config = config();
    config.interfaces.push(interface("one-nic", Role::Both, "192.0.2.2/24"));
    config.services = vec![service("web", "tcp://198.51.100.10:80", &["10.0.0.11:80"])];
    let vip = ip("198.51.100.10");
    let holders: Vec<_> = owned_addresses(&config)
        .into_iter()
        .filter(|(_, address)| *address == vip)
        .map(|(interface, _)| interface.0)
        .collect();
    assert_eq!(holders, [0, 2]);
}

#[test]
fn an_address_is_owned_once_however_many_services_share_it() {
    let mut config = config();
    config.services = vec![
        service("web", "tcp://203.0.113.2:80", &["10.0.0.11:80"]),
        service("tls", "tcp://203.0.113.2:443", &["10.0.0.11:443"]),
    ];
    assert_eq!(owned_addresses(&config).len(), 2);
}

#[test]
fn the_longest_prefix_decides_the_next_hop() {
    use crate::control::config::Route;
    let mut config = config();
    config.interfaces[1].routes =
        vec![Route { to: "172.16.0.0/12".parse().unwrap(), via: ip("10.0.0.254") }];
    let hop = |address| next_hop(&config, ip(address));
    assert_eq!(hop("10.0.0.11"), Some(neighbor(1, "10.0.0.11")));
    assert_eq!(hop("172.20.1.1"), Some(neighbor(1, "10.0.0.254")));
    assert_eq!(hop("8.8.8.8"), Some(neighbor(0, "203.0.113.1")));
    assert_eq!(hop("2001:db8::1"), None);
}

#[test]
fn gateways_routers_and_ways_to_real_servers_are_essential() {
    use crate::control::config::Route;
    let mut config = config();
    config.interfaces[1].routes =
        vec![Route { to: "172.16.0.0/12".parse().unwrap(), via: ip("10.0.0.254") }];
    config.services =
        vec![service("web", "tcp://203.0.113.10:80", &["10.0.0.11:80", "172.16.0.9:80"])];
    let wanted = [neighbor(0, "203.0.113.1"), neighbor(1, "10.0.0.11"), neighbor(1, "10.0.0.254")];
    assert_eq!(essential_neighbors(&config).into_iter().collect::<Vec<_>>(), wanted);
}
