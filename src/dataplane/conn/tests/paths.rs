//! Paths that IPv6 connections share.

use super::{between, table_of};
use crate::clock::Tick;
use crate::dataplane::conn::{Connection, ConnectionTable, Endpoints};
use crate::ids::{ServerSlot, ServiceId};
use crate::wire::U16;
use crate::wire::address::V6;
use crate::wire::checksum::Delta;
use crate::wire::flow_key::Direction;

/// More than there are places for paths.
const SERVERS: u16 = 6000;

fn address(network: u8, host: u16) -> V6 {
    let [high, low] = host.to_be_bytes();
    [0x20, 1, 0xd, 0xb8, network, 0, 0, 0, 0, 0, 0, 0, 0, 0, high, low]
}

fn endpoints(client: u16, server: u16) -> Endpoints<V6> {
    Endpoints {
        client: (address(1, client), U16::new(20_000)),
        local: (address(1, client), U16::new(20_000)),
        service: (address(2, 0), U16::new(80)),
        server: (address(3, server), U16::new(8080)),
        protocol: 6,
    }
}

/// A client's connection to a server of a service.
fn connection(client: u16, server: u16) -> Connection<V6> {
    let mut connection = between(endpoints(client, server), Tick(0), 1000);
    connection.belongs_to(ServiceId(0), ServerSlot(server));
    connection
}

/// Whether packets of both directions go the way of this connection.
fn goes_its_way(table: &mut ConnectionTable<V6>, connection: &Connection<V6>) -> bool {
    [Direction::Inbound, Direction::Reply].into_iter().all(|direction| {
        let key = connection.key(direction);
        let candidate = table.prefetch_record(table.hash(&key));
        table.hit(candidate, &key).is_some_and(|hit| *hit.path() == connection.path)
    })
}

#[test]
fn a_packet_needs_no_more_than_the_first_line_of_an_ipv6_record() {
    let mut table = table_of(8, Tick(0));
    let connection = connection(1, 2);
    let id = table.insert(&connection).unwrap();
    let record = table.get_mut(id).unwrap();
    record.path.transport_delta = Delta::TTL_DECREMENT;
    (record.path.slot, record.address_delta) = (7, Delta::TTL_DECREMENT);
    assert!(goes_its_way(&mut table, &connection));
}

#[test]
fn a_path_is_given_back_when_its_last_connection_ends() {
    let mut table = table_of(8, Tick(0));
    let ids = [1, 2, 3].map(|client| table.insert(&connection(client, 1)).unwrap());
    assert_eq!(table.with_common_path(), 3);
    for (left, id) in (0..3).rev().zip(ids) {
        table.remove(id).unwrap();
        assert_eq!(table.with_common_path(), left);
        assert!(table.remove(id).is_none());
    }
    assert_eq!(table.with_common_path(), 0);
}

#[test]
fn a_refused_connection_takes_no_path() {
    let mut table = table_of(8, Tick(0));
    table.insert(&connection(1, 1)).unwrap();
    table.insert(&connection(1, 1)).unwrap_err();
    assert_eq!(table.with_common_path(), 1);
}

#[test]
fn full_nat_and_hosts_that_are_no_servers_keep_their_own_path() {
    let mut table = table_of(8, Tick(0));
    let ends = endpoints(1, 1);
    let mut full_nat =
        between(Endpoints { local: (address(4, 1), U16::new(1024)), ..ends }, Tick(0), 1000);
    full_nat.belongs_to(ServiceId(0), ServerSlot(1));
    let masquerade = between(endpoints(2, 2), Tick(0), 1000);
    for connection in [full_nat, masquerade] {
        table.insert(&connection).unwrap();
        assert!(goes_its_way(&mut table, &connection));
    }
    assert_eq!(table.with_common_path(), 0);
}

#[test]
fn connections_whose_path_finds_no_place_keep_their_own() {
    let mut table = table_of(u32::from(SERVERS) * 2, Tick(0));
    let insert = |table: &mut ConnectionTable<V6>, server| {
        let connections = [0, 1].map(|client| connection(server * 2 + client, server));
        connections.map(|connection| (table.insert(&connection).unwrap(), connection))
    };
    let mut live: Vec<_> = (0..SERVERS).flat_map(|server| insert(&mut table, server)).collect();
    let shared = table.with_common_path();
    assert!((6000..=8192).contains(&shared), "{shared}");
    for (_, connection) in &live {
        assert!(goes_its_way(&mut table, connection));
    }
    // Others take the places of those that end.
    for (id, _) in live.drain(..6000) {
        table.remove(id).unwrap();
    }
    let others = (0..3000).flat_map(|server| insert(&mut table, server + SERVERS));
    let others: Vec<_> = others.collect();
    live.extend(others);
    for (id, connection) in live {
        assert!(goes_its_way(&mut table, &connection));
        table.remove(id).unwrap();
    }
    assert_eq!(table.with_common_path(), 0);
}
