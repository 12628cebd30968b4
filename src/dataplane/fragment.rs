//! Fragments: translated one by one, without putting the datagram together.
//!
//! Only the first fragment has ports. What becomes of it becomes of the others: its flow's
//! connection translates them too, or they are answered (echo) or dropped like it. Fragments that
//! come before the first one wait for it. Everything is bounded: datagrams, waiting fragments,
//! and the time that they are remembered.
//!
//! With several workers, the worker that (outside address, identification) points to sees every
//! fragment of a datagram first, wherever it was received; once the ports are known it passes
//! them on to the flow's owner in the order in which they came.

use std::collections::VecDeque;

use hashbrown::HashMap;
use zerocopy::FromBytes;

use super::classify::{Class, Packet};
use super::conn::ConnectionTable;
use super::family::Family;
use super::frame::{Frame, Outlet};
use super::local;
use super::nat;
use super::own_error;
use super::pipeline::{Flow, Origin, Shared};
use super::stats::DropReason;
use crate::clock::Tick;
use crate::ids::WorkerId;
use crate::wire::address::Address;
use crate::wire::ethernet;
use crate::wire::flow_key::{Direction, FlowKey};
use crate::wire::ipv4::protocol;
use crate::wire::tcp::{self, TcpHeader};
use crate::wire::udp;

use super::icmp_error::ports;

/// Datagrams that are remembered at once, of each address family.
const DATAGRAMS: usize = 4096;
/// Fragments that may wait for their first one, over all datagrams.
const WAITING: usize = 1024;
/// Pieces that the received part of a datagram may consist of.
const PIECES: usize = 16;
/// Datagrams that are forgotten in one go.
const EXPIRY_BUDGET: usize = 64;

/// What a fragment says of itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fragment<A> {
    pub(super) key: FragmentKey<A>,
    /// Offset of the payload within the datagram's, octets.
    pub(super) offset: u32,
    /// Octets of payload.
    pub(super) length: u32,
    /// Whether more fragments follow.
    pub(super) more: bool,
    /// Where the payload begins, from the start of the frame.
    pub(super) payload: usize,
}

impl<A> Fragment<A> {
    /// The fragment, if it can be part of a datagram: all but the last are multiples of eight
    /// octets, none is empty, none reaches beyond 65,535 octets.
    pub(super) fn checked(self) -> Result<Self, DropReason> {
        let is_whole = !self.more || self.length.is_multiple_of(8);
        let fits = self.offset + self.length <= u32::from(u16::MAX);
        if self.length == 0 || !is_whole || !fits {
            return Err(DropReason::Malformed);
        }
        Ok(self)
    }
}

/// Which datagram a fragment belongs to (RFC 791, RFC 8200 section 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FragmentKey<A> {
    pub(super) source: A,
    pub(super) destination: A,
    pub(super) identification: u32,
    pub(super) protocol: u8,
}

/// What happens to the fragments of a datagram.
#[derive(Clone, Copy, Debug)]
enum Fate<A: Address> {
    /// The first fragment has not come.
    Waiting,
    /// They belong to another worker's flow.
    HandOver(WorkerId),
    /// They are translated as this flow is.
    Flow(FlowKey<A>),
    /// They are an echo request to us, and go back.
    Echo,
    /// They share the first one's fate, or overlap (RFC 5722).
    Drop(DropReason),
}

#[derive(Clone, Debug)]
struct Datagram<A: Address> {
    fate: Fate<A>,
    deadline: Tick,
    /// Received parts, [from, to), in no order, never touching.
    pieces: arrayvec::ArrayVec<(u32, u32), PIECES>,
    /// Octets of the whole payload, once the last fragment has come.
    total: Option<u32>,
}

/// Why a fragment does not fit into its datagram.
enum Misfit {
    /// Received already.
    Duplicate,
    /// Partly received already, or beyond the end.
    Overlap,
    /// The datagram is in too many pieces.
    TooManyPieces,
}

impl<A: Address> Datagram<A> {
    fn new(deadline: Tick) -> Self {
        Self { fate: Fate::Waiting, deadline, pieces: arrayvec::ArrayVec::new(), total: None }
    }

    /// Notes that a part has come.
    fn add(&mut self, fragment: &Fragment<A>) -> Result<(), Misfit> {
        let (mut from, mut to) = (fragment.offset, fragment.offset + fragment.length);
        if self.pieces.iter().any(|(start, end)| *start <= from && to <= *end) {
            return Err(Misfit::Duplicate);
        }
        let overlaps = self.pieces.iter().any(|(start, end)| from < *end && *start < to);
        let beyond = self.total.is_some_and(|total| to > total || !fragment.more && to != total);
        let shorter = !fragment.more && self.pieces.iter().any(|(_, end)| *end > to);
        if overlaps || beyond || shorter {
            return Err(Misfit::Overlap);
        }
        self.pieces.retain(|(start, end)| {
            if *end == from {
                from = *start;
            } else if *start == to {
                to = *end;
            } else {
                return true;
            }
            false
        });
        self.pieces.try_push((from, to)).map_err(|_| Misfit::TooManyPieces)?;
        if !fragment.more {
            self.total = Some(fragment.offset + fragment.length);
        }
        Ok(())
    }

    fn is_complete(&self) -> bool {
        matches!((self.total, &self.pieces[..]), (Some(total), [(0, end)]) if *end == total)
    }
}

/// The datagrams of one address family whose fragments are coming.
#[derive(Debug)]
pub(super) struct Fragments<A: Address, F> {
    datagrams: HashMap<FragmentKey<A>, Datagram<A>, ahash::RandomState>,
    /// All of them are remembered for the same time, so this is the order in which they end.
    order: VecDeque<(FragmentKey<A>, Tick)>,
    waiting: Vec<(FragmentKey<A>, Packet, F)>,
    timeout_ms: u32,
}

/// A fragment and the frame that it is in.
struct Arrival<A, F> {
    fragment: Fragment<A>,
    packet: Packet,
    frame: F,
}

impl<A: Family, F: Frame> Fragments<A, F> {
    pub(super) fn new(timeout_ms: u32) -> Self {
        Self {
            // Twice the room: removals leave marks, and the map must never grow.
            datagrams: HashMap::with_capacity_and_hasher(
                DATAGRAMS * 2,
                ahash::RandomState::default(),
            ),
            order: VecDeque::with_capacity(DATAGRAMS),
            waiting: Vec::with_capacity(WAITING),
            timeout_ms,
        }
    }

    /// Deals with a fragment.
    pub(super) fn receive(
        &mut self,
        shared: &mut Shared<F>,
        table: &mut ConnectionTable<A>,
        (packet, origin, now): (&Packet, Origin, Tick),
        frame: F,
        outlet: &mut impl Outlet<F>,
    ) {
        let fragment = match A::fragment(frame.octets(), packet) {
            Ok(fragment) => fragment,
            Err(reason) => return shared.drop(frame, reason, outlet),
        };
        let key = fragment.key;
        let owner = shared.fragment_owner(&key);
        if origin == Origin::Port && owner != shared.worker {
            return outlet.hand_over(owner, frame);
        }
        if let Err(reason) = self.admit(&fragment, now) {
            return shared.drop(frame, reason, outlet);
        }
        let arrival = Arrival { fragment, packet: *packet, frame };
        if fragment.offset == 0 {
            let fate = settle_first(shared, table, arrival, now, outlet);
            self.release(shared, table, key, fate, outlet);
        } else {
            self.follow(shared, table, arrival, outlet);
        }
        if self.datagrams.get(&key).is_some_and(|datagram| {
            datagram.is_complete() && !matches!(datagram.fate, Fate::Waiting)
        }) {
            self.datagrams.remove(&key);
        }
    }

    /// Notes a fragment in its datagram.
    fn admit(&mut self, fragment: &Fragment<A>, now: Tick) -> Result<(), DropReason> {
        let known = self.datagrams.len();
        if !self.datagrams.contains_key(&fragment.key) {
            if known == DATAGRAMS || self.order.len() == DATAGRAMS {
                return Err(DropReason::FragmentTableFull);
            }
            let deadline = now.after(self.timeout_ms);
            self.datagrams.insert(fragment.key, Datagram::new(deadline));
            self.order.push_back((fragment.key, deadline));
        }
        let Some(datagram) = self.datagrams.get_mut(&fragment.key) else {
            return Err(DropReason::FragmentTableFull);
        };
        if let Fate::Drop(reason) = datagram.fate {
            return Err(reason);
        }
        datagram.add(fragment).map_err(|misfit| match misfit {
            Misfit::Duplicate => DropReason::FragmentDuplicate,
            Misfit::Overlap => {
                datagram.fate = Fate::Drop(DropReason::FragmentOverlap);
                DropReason::FragmentOverlap
            }
            Misfit::TooManyPieces => DropReason::FragmentQueueFull,
        })
    }

    /// A later fragment: as its datagram's first one, or waits for that.
    fn follow(
        &mut self,
        shared: &mut Shared<F>,
        table: &mut ConnectionTable<A>,
        arrival: Arrival<A, F>,
        outlet: &mut impl Outlet<F>,
    ) {
        let key = arrival.fragment.key;
        let fate = self.datagrams.get(&key).map(|datagram| datagram.fate);
        match fate {
            Some(Fate::Waiting) if self.waiting.len() < WAITING => {
                shared.stats.held.increment();
                self.waiting.push((key, arrival.packet, arrival.frame));
            }
            Some(Fate::Waiting) | None => {
                shared.drop(arrival.frame, DropReason::FragmentQueueFull, outlet);
            }
            Some(fate) => settle_later(shared, table, fate, &arrival.packet, arrival.frame, outlet),
        }
    }

    /// The first fragment has come: what waited for it follows, in the order in which it came.
    fn release(
        &mut self,
        shared: &mut Shared<F>,
        table: &mut ConnectionTable<A>,
        key: FragmentKey<A>,
        fate: Fate<A>,
        outlet: &mut impl Outlet<F>,
    ) {
        if let Some(datagram) = self.datagrams.get_mut(&key) {
            datagram.fate = fate;
        }
        while let Some(place) = self.waiting.iter().position(|(of, ..)| *of == key) {
            let (_, packet, frame) = self.waiting.remove(place);
            shared.stats.held.decrement();
            settle_later(shared, table, fate, &packet, frame, outlet);
        }
    }

    /// Forgets datagrams whose time is over, and drops what still waits for their first fragment.
    pub(super) fn expire(
        &mut self,
        shared: &mut Shared<F>,
        now: Tick,
        outlet: &mut impl Outlet<F>,
    ) {
        for _ in 0..EXPIRY_BUDGET {
            let Some((key, deadline)) = self.order.front().copied() else { return };
            if !now.reached(deadline) {
                return;
            }
            self.order.pop_front();
            if self.datagrams.get(&key).is_some_and(|datagram| datagram.deadline == deadline) {
                self.datagrams.remove(&key);
                self.drop_waiting(shared, Some(key), DropReason::FragmentTimeout, outlet);
            }
        }
    }

    /// Drops what waits: for one datagram, or (`None`) for all of them.
    pub(super) fn drop_waiting(
        &mut self,
        shared: &Shared<F>,
        key: Option<FragmentKey<A>>,
        reason: DropReason,
        outlet: &mut impl Outlet<F>,
    ) {
        let matches = |of: &FragmentKey<A>| key.is_none_or(|key| *of == key);
        while let Some(place) = self.waiting.iter().position(|(of, ..)| matches(of)) {
            let (_, _, frame) = self.waiting.swap_remove(place);
            shared.stats.held.decrement();
            shared.drop(frame, reason, outlet);
        }
    }
}

/// A first fragment: decides what becomes of its datagram.
fn settle_first<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    table: &mut ConnectionTable<A>,
    arrival: Arrival<A, F>,
    now: Tick,
    outlet: &mut impl Outlet<F>,
) -> Fate<A> {
    let Arrival { fragment, packet, mut frame } = arrival;
    let key = fragment.key;
    if key.protocol == A::ICMP {
        let reply = local::echo_fragment::<A, F>(shared, &fragment, &mut frame);
        return match reply {
            Ok(()) => {
                send_back(shared, frame, outlet);
                Fate::Echo
            }
            Err(reason) => {
                shared.drop(frame, reason, outlet);
                Fate::Drop(reason)
            }
        };
    }
    let (flow_key, control) = match transport(&fragment, frame.octets()) {
        Ok(found) => found,
        Err(reason) => {
            shared.drop(frame, reason, outlet);
            return Fate::Drop(reason);
        }
    };
    let owner = shared.owner(&flow_key);
    if owner != shared.worker {
        outlet.hand_over(owner, frame);
        return Fate::HandOver(owner);
    }
    let transport = u16::try_from(fragment.payload).unwrap_or(u16::MAX);
    let packet = Packet { class: Class::Drop(DropReason::Malformed), transport, control, ..packet };
    let hash = table.hash(&flow_key);
    let flow = Flow { packet: &packet, key: &flow_key, hash, origin: Origin::Worker, now };
    match shared.translate(table, &flow, &mut frame) {
        Ok(hop) => {
            shared.send(hop, packet.ip_octets, frame, outlet);
            Fate::Flow(flow_key)
        }
        Err(refusal) => {
            own_error::tell(shared, refusal, (&flow_key, &packet), &frame, now, outlet);
            shared.drop(frame, refusal.reason, outlet);
            Fate::Drop(refusal.reason)
        }
    }
}

/// Ports and control bits of a first fragment. One without a whole TCP or UDP header is an
/// attack (RFC 1858), not a packet.
fn transport<A: Family>(
    fragment: &Fragment<A>,
    octets: &[u8],
) -> Result<(FlowKey<A>, u8), DropReason> {
    let key = fragment.key;
    let segment = octets.get(fragment.payload..).ok_or(DropReason::Truncated)?;
    let (least, control) = match key.protocol {
        protocol::TCP => {
            let (header, _) =
                TcpHeader::ref_from_prefix(segment).map_err(|_| DropReason::Truncated)?;
            (tcp::HEADER, header.flags)
        }
        protocol::UDP => (udp::HEADER, 0),
        _ => return Err(DropReason::UnknownProtocol),
    };
    if (fragment.length as usize) < least {
        return Err(DropReason::Malformed);
    }
    let (source_port, destination_port) = ports(segment).ok_or(DropReason::Truncated)?;
    let flow = FlowKey {
        source: key.source,
        destination: key.destination,
        source_port,
        destination_port,
        protocol: key.protocol,
    };
    Ok((flow, control))
}

/// A later fragment, once its datagram's fate is known.
fn settle_later<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    table: &ConnectionTable<A>,
    fate: Fate<A>,
    packet: &Packet,
    mut frame: F,
    outlet: &mut impl Outlet<F>,
) {
    match fate {
        Fate::Waiting => shared.drop(frame, DropReason::FragmentQueueFull, outlet),
        Fate::HandOver(worker) => outlet.hand_over(worker, frame),
        Fate::Drop(reason) => shared.drop(frame, reason, outlet),
        Fate::Echo => {
            if A::turn(&mut frame).is_some() {
                send_back(shared, frame, outlet);
            } else {
                shared.drop(frame, DropReason::Truncated, outlet);
            }
        }
        Fate::Flow(key) => match translate_later(shared, table, &key, packet, &mut frame) {
            Ok(hop) => shared.send(hop, packet.ip_octets, frame, outlet),
            Err(reason) => shared.drop(frame, reason, outlet),
        },
    }
}

/// Rewrites the addresses of a later fragment, which has no ports.
fn translate_later<A: Family, F: Frame>(
    shared: &Shared<F>,
    table: &ConnectionTable<A>,
    key: &FlowKey<A>,
    packet: &Packet,
    frame: &mut F,
) -> Result<super::next_hop::AdjacencyId, DropReason> {
    if packet.ttl <= 1 {
        return Err(DropReason::TtlExpired);
    }
    let found = table.find(table.hash(key), key).ok_or(DropReason::NoConnection)?;
    let connection = table.get(found.id).ok_or(DropReason::NoConnection)?;
    let (address, hop) = match found.direction {
        Direction::Inbound => (connection.server, connection.to_server),
        Direction::Reply => (connection.vip, connection.to_client),
    };
    let (address_delta, _) = nat::deltas(connection, found.direction);
    shared.count(connection, found.direction, packet.ip_octets);
    A::rewrite(frame.octets_mut(), found.direction, address, address_delta)
        .ok_or(DropReason::Truncated)?;
    Ok(hop)
}

/// Sends a frame back to the station that it came from.
fn send_back<F: Frame>(shared: &Shared<F>, mut frame: F, outlet: &mut impl Outlet<F>) {
    let Some(interface) = shared.interfaces.of_port(frame.input()) else {
        return shared.drop(frame, DropReason::NotForUs, outlet);
    };
    if let Ok((link, _)) = ethernet::EthernetHeader::mut_from_prefix(frame.octets_mut()) {
        link.destination = link.source;
        link.source = interface.mac;
    }
    shared.stats.consumed.increment();
    shared.stats.originated.increment();
    outlet.transmit(interface.id, frame);
}
