//! The way of a packet by the routing table: next hops of new connections, the side that an
//! address is on, and plain routing.

use std::net::IpAddr;

use super::admit::Hops;
use super::classify::Packet;
use super::family::Family;
use super::frame::Frame;
use super::interface::Sides;
use super::next_hop::{AdjacencyId, Way};
use super::own_error::Refusal;
use super::shared::Shared;
use super::stats::DropReason;
use crate::clock::Tick;
use crate::wire::address::Address;

/// Whether no router may pass a packet between these addresses on: one is link-local (RFC 4291
/// section 2.5.6, RFC 3927 section 2.7), or they are for a group, which nothing here leads to.
pub(super) fn stays_on_link<A: Family>(source: A, destination: A) -> bool {
    let is_link_local = |end: A| match end.to_ip() {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    is_link_local(source) || is_link_local(destination) || destination.to_ip().is_multicast()
}

impl<F: Frame> Shared<F> {
    /// The next hop to an address.
    pub(super) fn adjacency<A: Family>(
        &mut self,
        destination: A,
    ) -> Result<AdjacencyId, DropReason> {
        self.hop(self.next_hops.route(destination))
    }

    /// The next hop by a way, if there is one.
    #[inline]
    fn hop<A: Address>(&mut self, way: Option<Way<A>>) -> Result<AdjacencyId, DropReason> {
        let way = way.ok_or(DropReason::NoRoute)?;
        self.next_hops.hop(&self.interfaces, way).ok_or(DropReason::NeighborTableFull)
    }

    /// The next hops of a connection between a server and the client that this way leads to.
    pub(super) fn hops<A: Family>(
        &mut self,
        server: A,
        client: Option<Way<A>>,
    ) -> Result<Hops, DropReason> {
        let to_server = self.adjacency(server)?;
        // In use already: the client's neighbour must not take its place in a full table.
        self.next_hops.acquire(to_server);
        let to_client = self.hop(client);
        self.next_hops.release(to_server);
        Ok(Hops { to_server, to_client: to_client? })
    }

    /// The sides of the interface that a next hop is reached by.
    #[inline]
    pub(super) fn sides_of(&self, hop: AdjacencyId) -> Sides {
        self.next_hops.get(hop).map_or(Sides::default(), |adjacency| adjacency.sides)
    }

    /// The sides of the interface that a way begins at.
    #[inline]
    pub(super) fn sides_of_way<A>(&self, way: &Way<A>) -> Option<Sides> {
        self.interfaces.get(way.interface).map(|interface| interface.sides)
    }

    /// The sides of the interface that leads to an address; `None`: there is no way to it.
    pub(super) fn sides_towards<A: Family>(&self, address: A) -> Option<Sides> {
        self.sides_of_way(&self.next_hops.route(address)?)
    }

    /// Plain routing: whether a packet between these addresses may pass untranslated.
    pub(super) fn may_route<A: Family>(
        &self,
        packet: &Packet,
        (source, destination): (A, A),
    ) -> bool {
        self.services.policy().routing
            && !stays_on_link(source, destination)
            && !self.is_ours(destination)
            && !self.is_ours(source)
            && self.sides_towards(source).is_none_or(|sides| sides.meet(packet.sides))
    }

    /// Plain routing: where a packet goes that is not translated.
    pub(super) fn route<A: Family>(
        &mut self,
        packet: &Packet,
        destination: A,
        now: Tick,
    ) -> Result<AdjacencyId, Refusal> {
        if packet.ttl <= 1 {
            return Err(DropReason::TtlExpired.into());
        }
        let hop = self.adjacency(destination)?;
        self.next_hops.touch(hop, now);
        Ok(hop)
    }
}
