//! The hit path: a packet of a live connection that is translated and sent on, and no more. That is
//! nearly every packet. Whatever needs more (a connection to be opened, an answer, a helper, pieces)
//! is left untouched and takes the way in `flow`, which does all of this, too.

use super::classify::Packet;
use super::conn::tcp_state::ConnectionState;
use super::conn::{Candidate, Connection, ConnectionTable, Flags, Found, Hit};
use super::family::Family;
use super::flow::Flow;
use super::frame::{Frame, Outlet};
use super::nat;
use super::newcomer::Newcomers;
use super::pipeline::{Arrival, Looked};
use super::shared::Shared;
use crate::clock::Tick;
use crate::wire::flow_key::{Direction, FlowKey};
use crate::wire::ipv4::protocol;
use crate::wire::tcp::flags;

/// What a packet does to the state of its connection.
enum Move {
    Nothing,
    Between(ConnectionState, ConnectionState),
    /// It is not for the hit path.
    Unknown,
}

impl<F: Frame> Shared<F> {
    /// A packet of a flow: translated and sent on. One of no connection joins the newcomers;
    /// [`Shared::flow`] does whatever else there is to it.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "the hit path, called from one place of each family")]
    pub(super) fn hit<A: Family>(
        &mut self,
        table: &mut ConnectionTable<A>,
        (looked, key): (&Looked, &FlowKey<A>),
        at: Arrival,
        frame: F,
        newcomers: &mut Newcomers<A, F>,
        outlet: &mut impl Outlet<F>,
    ) {
        let Some(frame) = self.forward(table, (looked, key), at.now, frame, outlet) else { return };
        if looked.candidate.is_none() {
            self.unknown(table, (looked, key), at, frame, newcomers, outlet);
        } else {
            self.rest(table, (looked, key), at, frame, newcomers, outlet);
        }
    }

    /// A packet of no connection here: to its flow's owner, or to the newcomers.
    #[inline(never)]
    fn unknown<A: Family>(
        &mut self,
        table: &mut ConnectionTable<A>,
        (looked, key): (&Looked, &FlowKey<A>),
        at: Arrival,
        frame: F,
        newcomers: &mut Newcomers<A, F>,
        outlet: &mut impl Outlet<F>,
    ) {
        if let Some(owner) = self.other_owner(key, at.origin) {
            return outlet.hand_over(owner, frame);
        }
        if let Some(frame) = newcomers.add(at.place, frame) {
            self.flow(table, &Flow::of(looked, key, at.now), None, frame, outlet);
        }
    }

    #[cold]
    #[inline(never)]
    fn rest<A: Family>(
        &mut self,
        table: &mut ConnectionTable<A>,
        (looked, key): (&Looked, &FlowKey<A>),
        at: Arrival,
        frame: F,
        newcomers: &mut Newcomers<A, F>,
        outlet: &mut impl Outlet<F>,
    ) {
        let known = table.find(looked.hash, key);
        if known.is_none() {
            // The candidate was another flow's: newcomers have their turns in the order of the burst.
            return self.unknown(table, (looked, key), at, frame, newcomers, outlet);
        }
        self.flow(table, &Flow::of(looked, key, at.now), known, frame, outlet);
    }

    /// Gives the packet back if there is more to it. A connection lives on one worker, so whoever
    /// finds it need not ask whose it is.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "the hit path, called from one place of each family")]
    fn forward<A: Family>(
        &mut self,
        table: &mut ConnectionTable<A>,
        (looked, key): (&Looked, &FlowKey<A>),
        now: Tick,
        frame: F,
        outlet: &mut impl Outlet<F>,
    ) -> Option<F> {
        let packet = &looked.packet;
        let Some(mut hit) = table.hit(looked.candidate, key) else {
            return Some(frame);
        };
        let (found, connection) = (hit.found, &*hit.connection);
        if packet.ttl <= 1 {
            return Some(frame);
        }
        let movement = self.movement(connection, found.direction, (packet, key));
        if matches!(movement, Move::Unknown) {
            return Some(frame);
        }
        if let Err(frame) = self.pass_on(&mut hit, (packet, now), frame, outlet) {
            return Some(frame);
        }
        if let Move::Between(old, new) = movement {
            self.change_state(table, found, old, new);
        }
        None
    }

    /// The first packet of a connection that has just begun, whose state is that of its packet.
    /// Gives it back if there is more to it.
    pub(super) fn forward_first<A: Family>(
        &mut self,
        table: &mut ConnectionTable<A>,
        found: Found,
        flow: &Flow<'_, A>,
        frame: F,
        outlet: &mut impl Outlet<F>,
    ) -> Option<F> {
        let packet = flow.packet;
        let is_plain = match flow.key.protocol {
            protocol::UDP => true,
            protocol::TCP => packet.is_syn() && !self.clamps_mss,
            _ => false,
        };
        match table.hit(Candidate::of(found), flow.key) {
            Some(mut hit) if is_plain => {
                self.pass_on(&mut hit, (packet, flow.now), frame, outlet).err()
            }
            _ => Some(frame),
        }
    }

    /// Translates a packet and sends it on; gives it back if there is more to it.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "the hit path, called from one place of each family")]
    fn pass_on<A: Family>(
        &mut self,
        hit: &mut Hit<'_, A>,
        (packet, now): (&Packet, Tick),
        mut frame: F,
        outlet: &mut impl Outlet<F>,
    ) -> Result<(), F> {
        let (direction, connection, path) = (hit.found.direction, &*hit.connection, hit.path());
        let is_plain =
            connection.flags.admit(direction, packet.sides) && !connection.flags.has(Flags::HELPED);
        if !is_plain {
            return Err(frame);
        }
        let Some(neighbor) = self.next_hops.ready(path.hop(direction), packet.ip_octets) else {
            return Err(frame);
        };
        let (interface, vlan) = (neighbor.interface, neighbor.vlan);
        let octets = frame.octets_mut();
        if let Some(header) = octets.first_chunk_mut::<12>() {
            *header = zerocopy::transmute!(neighbor.link);
        }
        if let Err(reason) = nat::translate(octets, packet, connection, path, direction) {
            // Classification has seen all headers: it does not come to this.
            self.drop(frame, reason, outlet);
            return Ok(());
        }
        self.count(path.slot(), direction, packet.ip_octets);
        hit.connection.last_seen = now.0;
        self.transmit(interface, vlan, frame, outlet);
        Ok(())
    }

    #[inline(always)]
    #[expect(clippy::inline_always, reason = "the hit path, called from one place of each family")]
    fn movement<A: Family>(
        &self,
        connection: &Connection<A>,
        direction: Direction,
        (packet, key): (&Packet, &FlowKey<A>),
    ) -> Move {
        match key.protocol {
            protocol::UDP => Move::Nothing,
            protocol::TCP if connection.is_kept_by(direction, packet.control) => Move::Nothing,
            // A SYN may begin another connection, and may announce too large segments.
            protocol::TCP if packet.control & flags::SYN != 0 && self.clamps_mss => Move::Unknown,
            protocol::TCP if !packet.is_syn() => {
                let old = connection.state();
                let new = old.next(connection.opener_view(direction), packet.control);
                if new == old { Move::Nothing } else { Move::Between(old, new) }
            }
            _ => Move::Unknown,
        }
    }
}
