//! Data connections: opened when the first packet of one that is expected comes.

use std::net::SocketAddr;

use super::expectation::{Claim, Opener};
use crate::clock::Tick;
use crate::dataplane::admit::insert;
use crate::dataplane::classify::Packet;
use crate::dataplane::conn::{Connection, ConnectionTable, Endpoints, Flags, Found};
use crate::dataplane::family::Family;
use crate::dataplane::frame::Frame;
use crate::dataplane::reuse::begins_anew;
use crate::dataplane::shared::Shared;
use crate::dataplane::stats::DropReason;
use crate::wire::U16;
use crate::wire::flow_key::{Direction, FlowKey};
use crate::wire::ipv4::protocol;

/// Opens the connection that a helper expects, if the packet of no connection is its first one.
#[cold]
pub(in crate::dataplane) fn open_expected<A: Family, F: Frame>(
    table: &mut ConnectionTable<A>,
    shared: &mut Shared<F>,
    (packet, key, now): (&Packet, &FlowKey<A>, Tick),
) -> Option<Result<Found, DropReason>> {
    if !packet.is_syn() || key.protocol != protocol::TCP {
        return None;
    }
    let expectations = &shared.helpers.controls.expectations;
    if expectations.is_empty() {
        return None;
    }
    let destination = SocketAddr::new(key.destination.to_ip(), key.destination_port.get());
    let claim = expectations.claim(key.source.to_ip(), destination, now)?;
    let opened = if packet.ttl <= 1 {
        Err(DropReason::TtlExpired)
    } else {
        open(table, shared, &claim, (packet, key, now))
    };
    shared.helpers.controls.expectations.settle(claim, opened.is_ok());
    Some(opened)
}

fn open<A: Family, F: Frame>(
    table: &mut ConnectionTable<A>,
    shared: &mut Shared<F>,
    claim: &Claim,
    (packet, key, now): (&Packet, &FlowKey<A>, Tick),
) -> Result<Found, DropReason> {
    let expected = claim.expected;
    let other = A::from_ip(expected.other.ip()).ok_or(DropReason::NoConnection)?;
    let other = (other, U16::new(expected.other.port()));
    let source = (key.source, key.source_port);
    let destination = (key.destination, key.destination_port);
    let (client, service, server, direction) = match expected.opener {
        Opener::Client => (source, destination, other, Direction::Inbound),
        Opener::Server => (destination, other, source, Direction::Reply),
    };
    let local = match expected.opener {
        Opener::Client => {
            let chosen = shared.locals().3.endpoint(table, server, client, protocol::TCP);
            chosen.ok_or(DropReason::ReplyTupleTaken)?.0
        }
        Opener::Server => client,
    };
    let ends = Endpoints { client, service, local, server, protocol: protocol::TCP };
    let mut connection = Connection::new(ends);
    connection.belongs_to(expected.service, expected.slot);
    connection.helper = expected.control.0 + 1;
    if expected.opener == Opener::Server {
        connection.flags = connection.flags.with(Flags::OUTBOUND);
        make_way(table, shared, &connection);
    }
    let hops = shared.hops(server.0, shared.next_hops.route(client.0))?;
    let id = insert(table, shared, connection, hops, (packet, now))?;
    Ok(Found { id, direction })
}

/// All active data connections leave from one port of the VIP: one to the same port of the
/// client, from another port of the server, makes room if it is over.
fn make_way<A: Family, F: Frame>(
    table: &mut ConnectionTable<A>,
    shared: &mut Shared<F>,
    connection: &Connection<A>,
) {
    let inbound = connection.key(Direction::Inbound);
    let Some(found) = table.find(table.hash(&inbound), &inbound) else { return };
    let is_over = table.get(found.id).is_some_and(|other| {
        other.flags.has(Flags::OUTBOUND) && begins_anew(&shared.services, other)
    });
    if is_over && let Some(ended) = table.remove(found.id) {
        shared.connection_ends(&ended);
    }
}
