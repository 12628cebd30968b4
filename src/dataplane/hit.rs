//! The hit path: a packet of a live connection that is translated and sent on, and no more. That is
//! nearly every packet. Whatever needs more (a connection to be opened, an answer, a helper, pieces, IP
//! options or extension headers) is left untouched and takes the way in `flow`, which does all of this,
//! too.

use super::classify::Packet;
use super::conn::{Candidate, ConnectionTable, Flags, Found, Hit};
use super::family::Family;
use super::flow::Flow;
use super::frame::{Frame, Outlet};
use super::nat::{self, Layout};
use super::newcomer::Newcomers;
use super::pipeline::{Arrival, Looked, Queue};
use super::shared::Shared;
use crate::clock::Tick;
use crate::wire::flow_key::{Direction, FlowKey};
use crate::wire::ipv4::protocol;
use crate::wire::tcp::flags;

impl<F: Frame> Shared<F> {
    /// Translates the packets of this family's flows that come next and sends them on. Gives the
    /// first that there is more to; `None`: what comes next, if anything, is of no such flow. All that
    /// is not on the straight line is kept out of this function, whose values stay in registers.
    #[inline(never)]
    pub(super) fn forward_run<'b, A: Family>(
        &mut self,
        table: &mut ConnectionTable<A>,
        queue: &mut Queue<'b, F>,
        now: Tick,
        outlet: &mut impl Outlet<F>,
    ) -> Option<(F, &'b Looked)> {
        while let Some(looked) = queue.peek()
            && let Some(key) = A::key_of(&looked.packet.class)
        {
            let (frame, _) = queue.next()?;
            if let Some(frame) = self.forward(table, (looked, key), now, frame, outlet) {
                return Some((frame, looked));
            }
        }
        None
    }

    /// A packet of a flow that [`Shared::forward_run`] has left: one of no connection joins the
    /// newcomers; [`Shared::flow`] does whatever else there is to it.
    #[inline]
    pub(super) fn look_closer<A: Family>(
        &mut self,
        table: &mut ConnectionTable<A>,
        (looked, key): (&Looked, &FlowKey<A>),
        at: Arrival,
        frame: F,
        newcomers: &mut Newcomers<A, F>,
        outlet: &mut impl Outlet<F>,
    ) {
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
            return self.hand_over(owner, frame, outlet);
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
        let Some(found) = table.find(looked.hash, key) else {
            // The candidate was another flow's: newcomers have their turns in the order of the burst.
            return self.unknown(table, (looked, key), at, frame, newcomers, outlet);
        };
        let is_half = found.direction == Direction::Inbound
            && table.get(found.id).is_some_and(|known| self.is_half(known));
        if is_half && let Some(owner) = self.other_owner(key, at.origin) {
            return self.hand_over(owner, frame, outlet);
        }
        self.flow(table, &Flow::of(looked, key, at.now), Some(found), frame, outlet);
    }

    /// Gives the packet back if there is more to it. A connection lives on one worker, so whoever
    /// finds it need not ask whose it is; what of it lives on two takes in one direction's packets on
    /// each.
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
        if packet.ttl <= 1 || usize::from(packet.transport) != A::PLAIN_TRANSPORT {
            return Some(frame);
        }
        // Each protocol to its end, so that nothing asks again which it is.
        match key.protocol {
            protocol::UDP => {
                let layout = Layout::plain::<A>(protocol::UDP);
                self.pass_on(&mut hit, (packet, layout), now, frame, outlet).err()
            }
            protocol::TCP if hit.connection.is_kept_by(hit.found.direction, packet.control) => {
                let layout = Layout::plain::<A>(protocol::TCP);
                self.pass_on(&mut hit, (packet, layout), now, frame, outlet).err()
            }
            protocol::TCP => self.forward_mover(table, (looked, key), now, frame, outlet),
            _ => Some(frame),
        }
    }

    /// As [`Shared::forward`], of a TCP segment that may change the state of its connection.
    #[inline(never)]
    fn forward_mover<A: Family>(
        &mut self,
        table: &mut ConnectionTable<A>,
        (looked, key): (&Looked, &FlowKey<A>),
        now: Tick,
        frame: F,
        outlet: &mut impl Outlet<F>,
    ) -> Option<F> {
        let packet = &looked.packet;
        // A SYN may begin another connection, and may announce too large segments.
        if packet.is_syn() || packet.control & flags::SYN != 0 && self.clamps_mss {
            return Some(frame);
        }
        let Some(mut hit) = table.hit(looked.candidate, key) else { return Some(frame) };
        let (found, old) = (hit.found, hit.connection.state());
        let new = old.next(hit.connection.opener_view(found.direction), packet.control);
        let layout = Layout::plain::<A>(protocol::TCP);
        let passed = self.pass_on(&mut hit, (packet, layout), now, frame, outlet);
        if passed.is_ok() && new != old {
            self.change_state(table, found, old, new);
        }
        passed.err()
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
                let layout = Layout::of(packet, flow.key.protocol);
                self.pass_on(&mut hit, (packet, layout), flow.now, frame, outlet).err()
            }
            _ => Some(frame),
        }
    }

    /// Translates a packet of this layout and sends it on; gives it back if there is more to it.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "the hit path, of constant layouts")]
    fn pass_on<A: Family>(
        &mut self,
        hit: &mut Hit<'_, A>,
        (packet, layout): (&Packet, Layout),
        now: Tick,
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
        // So it never is; said once, it need not be asked again for each header.
        if octets.len() < layout.head() {
            return Err(frame);
        }
        if let Err(reason) = nat::translate(octets, (packet, layout), connection, path, direction) {
            // Classification has seen all headers: it does not come to this.
            self.drop(frame, reason, outlet);
            return Ok(());
        }
        if let Some(header) = octets.first_chunk_mut::<12>() {
            *header = zerocopy::transmute!(neighbor.link);
        }
        self.count(path.slot(), direction, packet.ip_octets);
        hit.connection.last_seen = now.0;
        self.transmit(interface, vlan, frame, outlet);
        Ok(())
    }
}
