//! A packet of a flow that is ours: through its connection and on.

use super::admit::{Admitted, Turn, admit};
use super::classify::Packet;
use super::conn::sctp_state;
use super::conn::tcp_state::ConnectionState;
use super::conn::{Connection, ConnectionTable, Flags, Found};
use super::family::Family;
use super::frame::{Frame, Outlet};
use super::mss;
use super::nat::{self, Layout};
use super::next_hop::AdjacencyId;
use super::own_error::{self, Refusal};
use super::pipeline::Looked;
use super::reuse::begins_anew;
use super::shared::Shared;
use super::stats::DropReason;
use crate::clock::Tick;
use crate::ids::InterfaceId;
use crate::wire::flow_key::{Direction, FlowKey};
use crate::wire::ipv4::protocol;
use crate::wire::sctp::Signal;
use crate::wire::tcp::flags;

/// A packet of a flow, on its way.
pub(super) struct Flow<'p, A> {
    pub(super) packet: &'p Packet,
    pub(super) key: &'p FlowKey<A>,
    pub(super) hash: u64,
    pub(super) now: Tick,
    /// The server whose turn it was when the packet's connection was first decided on.
    pub(super) turn: Option<Turn>,
    /// Where it came in; known where a firewall mark may depend on it.
    pub(super) interface: Option<InterfaceId>,
}

/// What is said of a packet of a flow that has no 5-tuple; classification has given it one.
pub(super) const NO_FLOW: DropReason = DropReason::Truncated;

impl<'p, A: Family> Flow<'p, A> {
    /// A packet of the burst at hand, and its 5-tuple.
    pub(super) fn of(looked: &'p Looked, key: &'p FlowKey<A>, now: Tick) -> Self {
        let Looked { packet, hash, .. } = looked;
        Self { packet, key, hash: *hash, now, turn: None, interface: None }
    }
}

/// What became of a packet of no connection.
enum Opened {
    /// It has one now, and goes on as all others.
    Connection(Found),
    /// It passes by itself, and is rewritten.
    Passed(AdjacencyId),
}

/// Where a packet of a connection goes.
#[inline]
pub(super) const fn next_hop<A>(connection: &Connection<A>, direction: Direction) -> AdjacencyId {
    connection.path.hop(direction)
}

/// What becomes of a packet of a connection whose TTL is over: its sender is told, unless it
/// comes from where that sender is not.
#[cold]
fn expired<A: Family>(table: &ConnectionTable<A>, found: Found, packet: &Packet) -> DropReason {
    let connection = table.get(found.id);
    let is_believed =
        connection.is_some_and(|known| known.flags.admit(found.direction, packet.sides));
    if is_believed { DropReason::TtlExpired } else { DropReason::WrongSide }
}

impl<F: Frame> Shared<F> {
    /// A packet of a flow that is ours, of the connection `known`, if it is of one: translated and
    /// sent on, or dropped.
    #[inline(never)]
    pub(super) fn flow<A: Family>(
        &mut self,
        table: &mut ConnectionTable<A>,
        flow: &Flow<'_, A>,
        known: Option<Found>,
        mut frame: F,
        outlet: &mut impl Outlet<F>,
    ) {
        if let Some(found) = known
            && table.get(found.id).is_some_and(|known| known.flags.is_retired())
        {
            return self.answer_retired(table, flow, found, frame, outlet);
        }
        match self.translate(table, flow, known, &mut frame) {
            Ok((hop, None)) => self.send(hop, flow.packet.ip_octets, frame, outlet),
            Ok((_, Some(found))) => {
                self.help(table, found, (flow.packet, flow.now), frame, outlet);
            }
            Err(Refusal { reason: DropReason::NoService, .. })
                if self.is_synchronisation(flow.key) =>
            {
                self.hear(flow.packet, frame, outlet);
            }
            Err(refusal) => {
                let what = (flow.key, flow.packet);
                own_error::tell(self, refusal, what, &frame, flow.now, outlet);
                self.drop(frame, refusal.reason, outlet);
            }
        }
    }

    /// Opens a connection for the packet if it has none, moves its state on, rewrites the packet. Gives the
    /// connection too if a helper must read the packet.
    fn translate<A: Family>(
        &mut self,
        table: &mut ConnectionTable<A>,
        flow: &Flow<'_, A>,
        mut known: Option<Found>,
        frame: &mut F,
    ) -> Result<(AdjacencyId, Option<Found>), Refusal> {
        let packet = flow.packet;
        if packet.ttl <= 1
            && let Some(found) = known
        {
            return Err(expired(table, found, packet).into());
        }
        if packet.is_syn() {
            known = known.filter(|found| !self.give_way(table, *found, packet));
        }
        let found = match known {
            Some(found) => found,
            None => match self.open(table, flow, frame)? {
                Opened::Connection(found) => found,
                Opened::Passed(hop) => return Ok((hop, None)),
            },
        };
        let connection = table.get_mut(found.id).ok_or(DropReason::NoConnection)?;
        if !connection.flags.admit(found.direction, packet.sides) {
            return Err(DropReason::WrongSide.into());
        }
        let hop = next_hop(connection, found.direction);
        let helped = connection.flags.has(Flags::HELPED).then_some(found);
        if packet.ip_octets > self.least_mtu {
            self.check_size::<A>(hop, packet, frame)?;
        }
        let layout = Layout::of(packet, connection.protocol);
        let (octets, path) = (frame.octets_mut(), &connection.path);
        nat::translate(octets, (packet, layout), connection, path, found.direction)?;
        connection.last_seen = flow.now.0;
        self.count(connection.slot(), found.direction, packet.ip_octets);
        if connection.protocol == protocol::TCP {
            let old = connection.state();
            let new = old.next(connection.opener_view(found.direction), packet.control);
            if new != old {
                self.change_state(table, found, old, new);
            }
            if packet.control & flags::SYN != 0 && self.clamps_mss {
                self.clamp_mss::<A>(hop, packet, frame);
            }
        } else if connection.protocol == protocol::SCTP {
            self.move_association(table, found, packet);
        }
        Ok((hop, helped))
    }

    /// A packet of no connection: opens one, or passes without.
    #[cold]
    fn open<A: Family>(
        &mut self,
        table: &mut ConnectionTable<A>,
        flow: &Flow<'_, A>,
        frame: &mut F,
    ) -> Result<Opened, Refusal> {
        let packet = flow.packet;
        let flow = &Flow { interface: self.input::<A>(frame), ..*flow };
        match admit(table, self, flow)? {
            Admitted::Connection(found) => Ok(Opened::Connection(found)),
            Admitted::OnePacket(connection, direction) => {
                let hop = next_hop(&connection, direction);
                self.check_size::<A>(hop, packet, frame)?;
                self.count(connection.slot(), direction, packet.ip_octets);
                let layout = Layout::of(packet, connection.protocol);
                let (octets, path) = (frame.octets_mut(), &connection.path);
                nat::translate(octets, (packet, layout), &connection, path, direction)?;
                Ok(Opened::Passed(hop))
            }
            Admitted::Routed(hop) => {
                self.check_size::<A>(hop, packet, frame)?;
                A::decrement_ttl(frame.octets_mut()).ok_or(DropReason::Truncated)?;
                if self.clamps_mss
                    && flow.key.protocol == protocol::TCP
                    && packet.control & flags::SYN != 0
                {
                    self.clamp_mss::<A>(hop, packet, frame);
                }
                Ok(Opened::Passed(hop))
            }
        }
    }

    /// Where a frame came in, if a firewall mark may depend on it.
    #[inline]
    pub(super) fn input<A: Family>(&self, frame: &F) -> Option<InterfaceId> {
        if !A::services(&self.services).has_marks() {
            return None;
        }
        self.interfaces.of_frame(frame).map(|interface| interface.id)
    }

    /// Lowers the segment size that a SYN announces to what the links at both sides are to carry.
    #[cold]
    fn clamp_mss<A: Family>(&self, hop: AdjacencyId, packet: &Packet, frame: &mut F) {
        let links = [
            self.next_hops.get(hop).and_then(|hop| self.interfaces.get(hop.interface)),
            self.interfaces.of_frame(frame),
        ];
        let limits = links.into_iter().flatten();
        let limits = limits.filter_map(|link| link.largest_segment(A::IS_V6));
        if let Some(limit) = limits.min() {
            mss::clamp(frame.octets_mut(), usize::from(packet.transport), limit);
        }
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

    /// As [`Shared::translate`]: the first fragment of a datagram.
    pub(super) fn translate_first<A: Family>(
        &mut self,
        table: &mut ConnectionTable<A>,
        flow: &Flow<'_, A>,
        frame: &mut F,
    ) -> Result<AdjacencyId, Refusal> {
        let known = table.find(flow.hash, flow.key);
        match self.translate(table, flow, known, frame)? {
            (hop, None) => Ok(hop),
            // Lines are read in whole segments; nobody fragments control connections.
            (_, Some(_)) => Err(DropReason::HelperUnreadable.into()),
        }
    }

    /// Removes a connection that a SYN or INIT of the side that opened it shows to be over.
    #[cold]
    fn give_way<A: Family>(
        &mut self,
        table: &mut ConnectionTable<A>,
        found: Found,
        packet: &Packet,
    ) -> bool {
        let Some(connection) = table.get(found.id) else { return false };
        let gives_way = connection.opener_view(found.direction) == Direction::Inbound
            && connection.flags.admit(found.direction, packet.sides)
            && begins_anew(&self.services, connection);
        if gives_way && let Some(connection) = table.remove(found.id) {
            self.connection_ends(&connection);
        }
        gives_way
    }

    /// Moves the state of an SCTP association on.
    #[cold]
    fn move_association<A: Family>(
        &mut self,
        table: &mut ConnectionTable<A>,
        found: Found,
        packet: &Packet,
    ) {
        let Some(connection) = table.get(found.id) else { return };
        let old = connection.state();
        let from = connection.opener_view(found.direction);
        let new = sctp_state::next(old, from, Signal::of_control(packet.control));
        if new != old {
            self.change_state(table, found, old, new);
        }
    }

    #[inline(never)]
    pub(super) fn change_state<A: Family>(
        &mut self,
        table: &mut ConnectionTable<A>,
        found: Found,
        old: ConnectionState,
        new: ConnectionState,
    ) {
        let Some(connection) = table.get_mut(found.id) else { return };
        connection.set_state(new);
        let timeout = new.idle_ms(self.services.idle_times(connection.service()));
        let is_shorter = timeout < connection.timeout_ms;
        connection.timeout_ms = timeout;
        if is_shorter {
            table.rearm(found.id);
        }
        let gauges = self.gauges::<A>();
        gauges.states.of(old).decrement();
        gauges.states.of(new).increment();
        let Some(connection) = table.get(found.id) else { return };
        if old.is_active() != new.is_active()
            && let Some(load) = self.load_of(connection)
        {
            load.change(new.is_active());
        }
        self.synchronise(connection);
    }
}
