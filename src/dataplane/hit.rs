//! The hit path: a packet of a live connection that is translated and sent on, and no more. That is
//! nearly every packet. Whatever needs more (a connection to be opened, an answer, a helper, pieces)
//! is left untouched and takes the way in `flow`, which does all of this, too.

use super::conn::tcp_state::ConnectionState;
use super::conn::{Connection, ConnectionTable, Flags};
use super::family::Family;
use super::flow::Flow;
use super::frame::{Frame, Outlet};
use super::nat;
use super::shared::Shared;
use crate::wire::flow_key::Direction;
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
    /// A packet of a flow: translated and sent on, or by [`Shared::flow`] if there is more to it.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "the hit path, called from one place of each family")]
    pub(super) fn hit<A: Family>(
        &mut self,
        table: &mut ConnectionTable<A>,
        flow: &Flow<'_, A>,
        frame: F,
        outlet: &mut impl Outlet<F>,
    ) {
        if let Some(frame) = self.forward(table, flow, frame, outlet) {
            self.flow(table, flow, frame, outlet);
        }
    }

    /// Gives the packet back if there is more to it. A connection lives on one worker, so whoever
    /// finds it need not ask whose it is.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "the hit path, called from one place of each family")]
    fn forward<A: Family>(
        &mut self,
        table: &mut ConnectionTable<A>,
        flow: &Flow<'_, A>,
        mut frame: F,
        outlet: &mut impl Outlet<F>,
    ) -> Option<F> {
        let packet = flow.packet;
        let Some(hit) = table.hit(flow.candidate, flow.key) else {
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
        let movement = self.movement(connection, direction, flow);
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
        hit.connection.last_seen = flow.now.0;
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
        flow: &Flow<'_, A>,
    ) -> Move {
        let packet = flow.packet;
        match flow.key.protocol {
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
