//! The two ways to a record's 5-tuples: all in one place, and each where a packet needs it.

use proptest::prelude::*;

use crate::dataplane::conn::{Connection, Endpoints, Flags};
use crate::wire::U16;
use crate::wire::address::{Address, V4, V6};
use crate::wire::flow_key::{Direction, FlowKey};

const DIRECTIONS: [Direction; 2] = [Direction::Inbound, Direction::Reply];

/// Few addresses and ports, so that some are the same.
fn end<A: Address>() -> impl Strategy<Value = (A, U16)> {
    (0_u8..3, 0_u16..3).prop_map(|(last, port)| {
        let mut address = A::default();
        if let Some(octet) = address.as_mut_bytes().last_mut() {
            *octet = last;
        }
        (address, U16::new(port))
    })
}

fn endpoints<A: Address>() -> impl Strategy<Value = Endpoints<A>> {
    let ends = (end(), end(), end(), end(), any::<bool>(), 6_u8..8);
    ends.prop_map(|(client, service, local, server, is_full_nat, protocol)| Endpoints {
        client,
        service,
        local: if is_full_nat { local } else { client },
        server,
        protocol,
    })
}

fn flow_key<A: Address>() -> impl Strategy<Value = FlowKey<A>> {
    (end(), end(), 6_u8..8).prop_map(|(source, destination, protocol)| FlowKey {
        source: source.0,
        destination: destination.0,
        source_port: source.1,
        destination_port: destination.1,
        protocol,
    })
}

/// The 5-tuple of packets of one direction, by the ends.
fn key_of<A: Address>(ends: Endpoints<A>, direction: Direction) -> FlowKey<A> {
    let (source, destination) = match direction {
        Direction::Inbound => (ends.client, ends.service),
        Direction::Reply => (ends.server, ends.local),
    };
    FlowKey {
        source: source.0,
        destination: destination.0,
        source_port: source.1,
        destination_port: destination.1,
        protocol: ends.protocol,
    }
}

fn check<A: Address>(ends: Endpoints<A>, key: &FlowKey<A>) -> Result<(), TestCaseError> {
    let connection = Connection::new(ends);
    prop_assert_eq!(connection.flags.has(Flags::FULL_NAT), ends.local != ends.client);
    for direction in DIRECTIONS {
        let arriving = key_of(ends, direction);
        prop_assert_eq!(connection.key(direction), arriving);
        prop_assert!(connection.is_of(direction, &arriving));
        prop_assert_eq!(connection.is_of(direction, key), *key == arriving);
        let leaving = key_of(ends, direction.reversed()).reversed();
        prop_assert_eq!(connection.leaving(direction), leaving);
        if !connection.flags.has(Flags::FULL_NAT) {
            prop_assert_eq!(connection.leaving_as_usual(direction), leaving);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn an_ipv4_packet_is_of_the_connection_whose_ends_it_has(
        ends in endpoints::<V4>(), key in flow_key(),
    ) {
        check(ends, &key)?;
    }

    #[test]
    fn an_ipv6_packet_is_of_the_connection_whose_ends_it_has(
        ends in endpoints::<V6>(), key in flow_key(),
    ) {
        check(ends, &key)?;
    }
}

/// A server that answers the client itself is not heard: it was told of another.
fn full_nat<A: Address>([client, vip, local, server]: [A; 4]) {
    let port = U16::new;
    let connection = Connection::new(Endpoints {
        client: (client, port(20_000)),
        service: (vip, port(80)),
        local: (local, port(1024)),
        server: (server, port(8080)),
        protocol: 6,
    });
    let to_local = FlowKey {
        source: server,
        destination: local,
        source_port: port(8080),
        destination_port: port(1024),
        protocol: 6,
    };
    let to_client = FlowKey { destination: client, destination_port: port(20_000), ..to_local };
    assert!(connection.is_of(Direction::Reply, &to_local));
    assert!(!connection.is_of(Direction::Reply, &to_client));
}

#[test]
fn a_reply_of_full_nat_goes_to_whom_the_server_sees() {
    full_nat([1, 2, 3, 4].map(|last| [10, 0, 0, last]));
    full_nat([1, 2, 3, 4].map(|last| [last; 16]));
}
