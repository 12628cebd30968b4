//! The hit path: a packet of a live connection that moves nothing but its clock and its counters.
//! That is nearly every packet. Whatever needs more (a change of state, an answer, a helper, a tag,
//! pieces) is given back untouched and takes the way in `flow`, which does all of this, too.

use super::conn::{Connection, ConnectionTable, Flags};
use super::family::Family;
use super::flow::{Flow, next_hop};
use super::frame::{Frame, Outlet};
use super::nat;
use super::shared::Shared;
use crate::ids::VlanId;
use crate::wire::flow_key::Direction;
use crate::wire::ipv4::protocol;

impl<F: Frame> Shared<F> {
    /// Translates a packet and sends it on; gives it back if there is more to it.
    ///
    /// A connection lives on the worker that owns it, so whoever finds it need not ask whose it is.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "the hit path, called from one place of each family")]
    pub(super) fn hit<A: Family>(
        &self,
        table: &mut ConnectionTable<A>,
        flow: &Flow<'_, A>,
        mut frame: F,
        outlet: &mut impl Outlet<F>,
    ) -> Option<F> {
        let packet = flow.packet;
        let Some((connection, direction)) = table.hit(flow.candidate, flow.key) else {
            return Some(frame);
        };
        let is_steady = packet.ttl > 1
            && packet.ip_octets <= self.least_mtu
            && connection.flags.admit(direction, packet.sides)
            && !connection.flags.has(Flags::HELPED)
            && is_steady(connection, direction, flow);
        if !is_steady {
            return Some(frame);
        }
        let Some((link, interface)) = self.next_hops.plain(next_hop(connection, direction)) else {
            return Some(frame);
        };
        let octets = frame.octets_mut();
        if let Some(header) = octets.first_chunk_mut() {
            *header = *link;
        }
        if let Err(reason) = nat::translate(octets, packet, connection, direction) {
            // Classification has seen all headers: it does not come to this.
            self.drop(frame, reason, outlet);
            return None;
        }
        connection.last_seen = flow.now.0;
        self.count(connection, direction, packet.ip_octets);
        self.transmit(interface, VlanId::UNTAGGED, frame, outlet);
        None
    }
}

/// Whether a packet leaves its connection in the state that it is in.
#[inline(always)]
#[expect(clippy::inline_always, reason = "the hit path, called from one place of each family")]
fn is_steady<A: Family>(
    connection: &Connection<A>,
    direction: Direction,
    flow: &Flow<'_, A>,
) -> bool {
    match flow.key.protocol {
        protocol::UDP => true,
        protocol::TCP => connection.is_kept_by(direction, flow.packet.control),
        _ => false,
    }
}
