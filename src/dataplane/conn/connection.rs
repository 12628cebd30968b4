//! One connection's record: all that a packet of either direction needs, in one cache line for
//! IPv4 and two for IPv6.

use zerocopy::FromZeros;

use super::tcp_state::ConnectionState;
use super::timer_wheel::Links;
use crate::clock::Tick;
use crate::dataplane::next_hop::AdjacencyId;
use crate::ids::ServerSlot;
use crate::wire::U16;
use crate::wire::address::Address;
use crate::wire::checksum::Delta;
use crate::wire::flow_key::{Direction, FlowKey};

/// A connection through a virtual service.
#[derive(Clone, Copy, Debug, FromZeros)]
#[repr(C, align(64))]
pub struct Connection<A> {
    /// The client.
    pub client: A,
    /// The virtual service's address.
    pub vip: A,
    /// The real server.
    pub server: A,
    /// The client's port.
    pub client_port: U16,
    /// The service's port.
    pub vip_port: U16,
    /// The real server's port.
    pub server_port: U16,
    /// IP protocol.
    pub protocol: u8,
    /// [`ConnectionState`] by number: all-zero memory must be a valid record.
    state: u8,
    /// When the last packet came.
    pub last_seen: u32,
    /// Idle time after which the connection is forgotten, milliseconds.
    pub timeout_ms: u32,
    /// Idle time of state UDP for this connection, milliseconds.
    pub udp_timeout_ms: u32,
    /// What the way in changes in the IPv4 header checksum, TTL aside; the reply reverses it.
    pub address_delta: Delta,
    /// What the way in changes in the transport checksum; the reply reverses it.
    pub transport_delta: Delta,
    /// Next hop to the real server.
    pub to_server: AdjacencyId,
    /// Next hop to the client.
    pub to_client: AdjacencyId,
    /// The real server's slot in loads and counters.
    pub slot: ServerSlotOctets,
    /// In its slot of the timer wheel, or in the list of free records.
    pub(super) links: Links,
}

/// [`ServerSlot`] as plain old data.
#[derive(Clone, Copy, Debug, FromZeros)]
#[repr(transparent)]
pub struct ServerSlotOctets(u16);

impl From<ServerSlot> for ServerSlotOctets {
    fn from(slot: ServerSlot) -> Self {
        Self(slot.0)
    }
}

impl From<ServerSlotOctets> for ServerSlot {
    fn from(slot: ServerSlotOctets) -> Self {
        Self(slot.0)
    }
}

const _: () = assert!(size_of::<Connection<[u8; 4]>>() == 64, "an IPv4 connection is one line");
const _: () = assert!(size_of::<Connection<[u8; 16]>>() == 128, "an IPv6 connection is two");

/// What a new connection is made of.
#[derive(Clone, Copy, Debug)]
pub struct Endpoints<A> {
    /// The client and its port.
    pub client: (A, U16),
    /// The virtual service.
    pub service: (A, U16),
    /// The real server.
    pub server: (A, U16),
    /// IP protocol.
    pub protocol: u8,
}

impl<A: Address> Connection<A> {
    /// A record with its checksum deltas, in no state yet.
    pub fn new(ends: Endpoints<A>) -> Self {
        let address_delta = Delta::between(ends.service.0.octets(), ends.server.0.octets());
        let port_delta = Delta::between(&ends.service.1.to_bytes(), &ends.server.1.to_bytes());
        Self {
            client: ends.client.0,
            vip: ends.service.0,
            server: ends.server.0,
            client_port: ends.client.1,
            vip_port: ends.service.1,
            server_port: ends.server.1,
            protocol: ends.protocol,
            address_delta,
            transport_delta: address_delta.and(port_delta),
            ..Self::new_zeroed()
        }
    }

    /// The state.
    #[inline]
    pub fn state(&self) -> ConnectionState {
        ConnectionState::from_number(self.state)
    }

    /// Enters a state.
    #[inline]
    pub(in crate::dataplane) fn set_state(&mut self, state: ConnectionState) {
        self.state = state as u8;
    }

    /// The 5-tuple of packets of one direction, as they arrive.
    #[inline]
    pub fn key(&self, direction: Direction) -> FlowKey<A> {
        let (source, destination) = match direction {
            Direction::Inbound => ((self.client, self.client_port), (self.vip, self.vip_port)),
            Direction::Reply => ((self.server, self.server_port), (self.client, self.client_port)),
        };
        FlowKey {
            source: source.0,
            destination: destination.0,
            source_port: source.1,
            destination_port: destination.1,
            protocol: self.protocol,
        }
    }

    /// When it is forgotten unless a packet comes.
    #[inline]
    pub const fn deadline(&self) -> Tick {
        Tick(self.last_seen).after(self.timeout_ms)
    }
}
