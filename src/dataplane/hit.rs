//! The hit path: a packet of a live connection that is translated and sent on, and no more. That is
//! nearly every packet. Whatever needs more (a connection to be opened, an answer, a helper, pieces)
//! is left untouched and takes the way in `flow`, which does all of this, too.

use super::classify::Packet;
use super::conn::tcp_state::ConnectionState;
use super::conn::{Connection, ConnectionTable, Flags};
use super::family::Family;
use super::flow::{Flow, NO_FLOW};
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
    To(ConnectionState),
    /// It is not for the hit path.
    Unknown,
}

impl<F: Frame> Shared<F> {
    /// A packet of a flow: translated and sent on. One that the index knows nothing of joins the
    /// newcomers; [`Shared::flow`] does whatever else there is to it.
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
        let frame =
            if looked.candidate.is_none() { newcomers.add(at.place, frame) } else { Some(frame) };
        if let Some(frame) = frame {
            self.rest(table, looked, at, frame, outlet);
        }
    }

    #[cold]
    #[inline(never)]
    fn rest<A: Family>(
        &mut self,
        table: &mut ConnectionTable<A>,
        looked: &Looked,
        at: Arrival,
        frame: F,
        outlet: &mut impl Outlet<F>,
    ) {
        let Some(flow) = Flow::of(looked, at) else { return self.drop(frame, NO_FLOW, outlet) };
        let known = table.find(flow.hash, flow.key);
        self.flow(table, &flow, known, frame, outlet);
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
        mut frame: F,
        outlet: &mut impl Outlet<F>,
    ) -> Option<F> {
        let packet = &looked.packet;
        let Some(hit) = table.hit(looked.candidate, key) else {
            return Some(frame);
        };
        let (found, connection, path) = (hit.found, &*hit.connection, hit.path());
        let direction = found.direction;
        let is_plain = packet.ttl > 1
            && connection.flags.admit(direction, packet.sides)
            && !connection.flags.has(Flags::HELPED);
        if !is_plain {
            return Some(frame);
        }
        let movement = self.movement(connection, direction, (packet, key));
        if matches!(movement, Move::Unknown) {
            return Some(frame);
        }
        let Some(neighbor) = self.next_hops.ready(path.hop(direction), packet.ip_octets) else {
            return Some(frame);
        };
        let (interface, vlan) = (neighbor.interface, neighbor.vlan);
        let octets = frame.octets_mut();
        if let Some(header) = octets.first_chunk_mut::<12>() {
            *header = zerocopy::transmute!(neighbor.link);
        }
        if let Err(reason) = nat::translate(octets, packet, connection, path, direction) {
            // Classification has seen all headers: it does not come to this.
            self.drop(frame, reason, outlet);
            return None;
        }
        self.count(path.slot(), direction, packet.ip_octets);
        hit.connection.last_seen = now.0;
        if let Move::To(new) = movement {
            let old = hit.connection.state();
            self.change_state(table, found, old, new);
        }
        self.transmit(interface, vlan, frame, outlet);
        None
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
                if new == old { Move::Nothing } else { Move::To(new) }
            }
            _ => Move::Unknown,
        }
    }
}
