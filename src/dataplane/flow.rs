//! A packet of a flow: to its owner, or through its connection and on.

use super::admit::{admit, begins_anew};
use super::classify::Packet;
use super::conn::sctp_state;
use super::conn::tcp_state::ConnectionState;
use super::conn::{ConnectionTable, Found};
use super::family::Family;
use super::frame::{Frame, Outlet};
use super::nat;
use super::next_hop::AdjacencyId;
use super::own_error::{self, Refusal};
use super::pipeline::Origin;
use super::shared::Shared;
use super::stats::DropReason;
use crate::clock::Tick;
use crate::wire::flow_key::{Direction, FlowKey};
use crate::wire::ipv4::protocol;
use crate::wire::sctp::Signal;

/// The state of an SCTP association after a packet.
#[cold]
fn next_sctp(old: ConnectionState, from: Direction, control: u8) -> ConnectionState {
    sctp_state::next(old, from, Signal::of_control(control))
}

/// A packet of a flow, on its way.
pub(super) struct Flow<'p, A> {
    pub(super) packet: &'p Packet,
    pub(super) key: &'p FlowKey<A>,
    pub(super) hash: u64,
    pub(super) origin: Origin,
    pub(super) now: Tick,
}

impl<F: Frame> Shared<F> {
    /// A TCP, UDP or SCTP packet: to its owner, or translated and sent on, or dropped.
    #[inline]
    pub(super) fn flow<A: Family>(
        &mut self,
        table: &mut ConnectionTable<A>,
        flow: &Flow<'_, A>,
        mut frame: F,
        outlet: &mut impl Outlet<F>,
    ) {
        if let Some(owner) = self.other_owner(flow.key, flow.origin) {
            return outlet.hand_over(owner, frame);
        }
        match self.translate(table, flow, &mut frame) {
            Ok(hop) => self.send(hop, flow.packet.ip_octets, frame, outlet),
            Err(refusal) => {
                let what = (flow.key, flow.packet);
                own_error::tell(self, refusal, what, &frame, flow.now, outlet);
                self.drop(frame, refusal.reason, outlet);
            }
        }
    }

    /// Finds or opens the packet's connection, moves its state on, rewrites the packet.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "the hit path, called from one place of each family")]
    fn translate<A: Family>(
        &mut self,
        table: &mut ConnectionTable<A>,
        flow: &Flow<'_, A>,
        frame: &mut F,
    ) -> Result<AdjacencyId, Refusal> {
        let packet = flow.packet;
        let mut known = table.find(flow.hash, flow.key);
        if packet.ttl <= 1 && known.is_some() {
            return Err(DropReason::TtlExpired.into());
        }
        if packet.is_syn() {
            known = known.filter(|found| !self.give_way(table, *found));
        }
        let found = match known {
            Some(found) => found,
            None => admit(table, self, packet, flow.key, flow.now)?,
        };
        let connection = table.get_mut(found.id).ok_or(DropReason::NoConnection)?;
        let hop = match found.direction {
            Direction::Inbound => connection.to_server,
            Direction::Reply => connection.to_client,
        };
        if packet.ip_octets > self.least_mtu {
            self.check_size::<A>(hop, packet, frame)?;
        }
        nat::translate(frame.octets_mut(), packet, connection, found.direction)?;
        connection.last_seen = flow.now.0;
        self.count(connection, found.direction, packet.ip_octets);
        let old = connection.state();
        let new = match connection.protocol {
            protocol::TCP => old.next(found.direction, packet.control),
            protocol::UDP => old,
            _ => next_sctp(old, found.direction, packet.control),
        };
        if new != old {
            self.change_state(table, found, old, new);
        }
        Ok(hop)
    }

    /// A packet that does not fit every link: refused if it does not fit the one that it leaves
    /// by and may not be split.
    #[cold]
    fn check_size<A: Family>(
        &self,
        hop: AdjacencyId,
        packet: &Packet,
        frame: &F,
    ) -> Result<(), Refusal> {
        let mtu = self.next_hops.get(hop).map_or(0, |adjacency| adjacency.mtu);
        if packet.ip_octets > mtu && !A::may_be_split(frame.octets()) {
            return Err(Refusal::too_big(mtu));
        }
        Ok(())
    }

    /// As [`Shared::translate`], off the hit path: the first fragment of a datagram.
    #[cold]
    pub(super) fn translate_first<A: Family>(
        &mut self,
        table: &mut ConnectionTable<A>,
        flow: &Flow<'_, A>,
        frame: &mut F,
    ) -> Result<AdjacencyId, Refusal> {
        self.translate(table, flow, frame)
    }

    /// Removes a connection that a client's SYN or INIT shows to be over.
    #[cold]
    fn give_way<A: Family>(&mut self, table: &mut ConnectionTable<A>, found: Found) -> bool {
        let Some(connection) = table.get(found.id) else { return false };
        let gives_way = found.direction == Direction::Inbound
            && begins_anew(A::services(&self.services), connection);
        if gives_way && let Some(connection) = table.remove(found.id) {
            self.connection_ends(&connection);
        }
        gives_way
    }

    #[cold]
    fn change_state<A: Family>(
        &mut self,
        table: &mut ConnectionTable<A>,
        found: Found,
        old: ConnectionState,
        new: ConnectionState,
    ) {
        let Some(connection) = table.get_mut(found.id) else { return };
        connection.set_state(new);
        let timeout = self.timeout(connection, new);
        let is_shorter = timeout < connection.timeout_ms;
        connection.timeout_ms = timeout;
        let slot = connection.slot;
        if is_shorter {
            table.rearm(found.id);
        }
        let gauges = self.gauges::<A>();
        gauges.states.of(old).decrement();
        gauges.states.of(new).increment();
        if old.is_active() != new.is_active()
            && let Some(load) = self.loads.of(slot.into())
        {
            load.change(new.is_active());
        }
    }
}
