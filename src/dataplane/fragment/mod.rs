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

mod fate;

use super::classify::Packet;
use super::conn::ConnectionTable;
use super::datagrams::{DatagramId, Datagrams, Fate, Fragment};
use super::family::Family;
use super::frame::{Frame, Outlet};
use super::pipeline::Origin;
use super::shared::Shared;
use super::stats::DropReason;
use crate::clock::Tick;
use crate::wire::address::Address;
use fate::{settle_first, settle_later};

/// Datagrams that are forgotten in one go.
const EXPIRY_BUDGET: usize = 64;

/// The fragments of one address family.
#[derive(Debug)]
pub(super) struct Fragments<A: Address, F> {
    datagrams: Datagrams<A, F>,
}

/// A fragment and the frame that it is in.
struct Arrival<A, F> {
    fragment: Fragment<A>,
    packet: Packet,
    frame: F,
}

impl<A: Family, F: Frame> Fragments<A, F> {
    pub(super) fn new(timeout_ms: u32) -> Self {
        Self { datagrams: Datagrams::new(timeout_ms) }
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
        let sides = shared.sides_towards(fragment.key.source);
        if origin == Origin::Port && sides.is_some_and(|sides| !sides.meet(packet.sides)) {
            // Before it can spoil a datagram of the true sender.
            return shared.drop(frame, DropReason::WrongSide, outlet);
        }
        let arrival = Arrival { fragment, packet: *packet, frame };
        if fragment.is_atomic() {
            // Whatever else has its identification is none of its business (RFC 6946). So it
            // goes the way of its flow's whole packets.
            settle_first(shared, table, arrival, now, outlet);
            return;
        }
        let owner = shared.fragment_owner(&fragment.key);
        if origin == Origin::Port && owner != shared.worker {
            return outlet.hand_over(owner, arrival.frame);
        }
        let Some(id) = self.datagram(shared, &fragment, now, outlet) else {
            return shared.drop(arrival.frame, DropReason::FragmentTableFull, outlet);
        };
        if let Err(reason) = self.datagrams.add(id, &fragment) {
            if reason == DropReason::FragmentOverlap {
                self.drop_waiting(shared, id, reason, outlet);
            }
            return shared.drop(arrival.frame, reason, outlet);
        }
        if fragment.offset == 0 {
            let fate = settle_first(shared, table, arrival, now, outlet);
            self.datagrams.set_fate(id, fate);
            while let Some((packet, frame)) = self.datagrams.take_waiting(id) {
                shared.stats.held.decrement();
                settle_later(shared, table, fate, (&packet, now), frame, outlet);
            }
        } else {
            self.follow(shared, table, id, (arrival, now), outlet);
        }
        if self.datagrams.is_done(id) {
            self.datagrams.forget(id);
        }
    }

    /// The datagram of a fragment. Where there is no room for a new one the oldest makes room.
    fn datagram(
        &mut self,
        shared: &Shared<F>,
        fragment: &Fragment<A>,
        now: Tick,
        outlet: &mut impl Outlet<F>,
    ) -> Option<DatagramId> {
        if let Some(id) = self.datagrams.find(&fragment.key) {
            return Some(id);
        }
        if self.datagrams.is_full() {
            let oldest = self.datagrams.oldest()?;
            self.forget(shared, oldest, DropReason::FragmentTableFull, outlet);
        }
        self.datagrams.insert(fragment.key, now)
    }

    /// A later fragment: as its datagram's first one, or waits for that.
    fn follow(
        &mut self,
        shared: &mut Shared<F>,
        table: &mut ConnectionTable<A>,
        id: DatagramId,
        (arrival, now): (Arrival<A, F>, Tick),
        outlet: &mut impl Outlet<F>,
    ) {
        let Arrival { packet, frame, .. } = arrival;
        match self.datagrams.fate(id) {
            Some(Fate::Waiting) => self.hold(shared, id, packet, frame, outlet),
            Some(fate) => settle_later(shared, table, fate, (&packet, now), frame, outlet),
            None => shared.drop(frame, DropReason::FragmentTableFull, outlet),
        }
    }

    /// Lets a fragment wait. Where too many wait already, those of the oldest datagram make room.
    fn hold(
        &mut self,
        shared: &Shared<F>,
        id: DatagramId,
        packet: Packet,
        frame: F,
        outlet: &mut impl Outlet<F>,
    ) {
        let Err(frame) = self.datagrams.hold(id, packet, frame) else {
            return shared.stats.held.increment();
        };
        match self.datagrams.oldest_waiting() {
            Some(oldest) if oldest != id => {
                self.forget(shared, oldest, DropReason::FragmentQueueFull, outlet);
            }
            _ => return shared.drop(frame, DropReason::FragmentQueueFull, outlet),
        }
        match self.datagrams.hold(id, packet, frame) {
            Ok(()) => shared.stats.held.increment(),
            Err(frame) => shared.drop(frame, DropReason::FragmentQueueFull, outlet),
        }
    }

    /// Forgets datagrams whose time is over, and drops what still waits for their first fragment.
    pub(super) fn expire(&mut self, shared: &Shared<F>, now: Tick, outlet: &mut impl Outlet<F>) {
        for _ in 0..EXPIRY_BUDGET {
            let Some(id) = self.datagrams.expired(now) else { return };
            self.forget(shared, id, DropReason::FragmentTimeout, outlet);
        }
    }

    /// Forgets all datagrams: the worker stops.
    pub(super) fn shut_down(&mut self, shared: &Shared<F>, outlet: &mut impl Outlet<F>) {
        while let Some(id) = self.datagrams.oldest() {
            self.forget(shared, id, DropReason::Shutdown, outlet);
        }
    }

    fn forget(
        &mut self,
        shared: &Shared<F>,
        id: DatagramId,
        reason: DropReason,
        outlet: &mut impl Outlet<F>,
    ) {
        self.drop_waiting(shared, id, reason, outlet);
        self.datagrams.forget(id);
    }

    fn drop_waiting(
        &mut self,
        shared: &Shared<F>,
        id: DatagramId,
        reason: DropReason,
        outlet: &mut impl Outlet<F>,
    ) {
        while let Some((_, frame)) = self.datagrams.take_waiting(id) {
            shared.stats.held.decrement();
            shared.drop(frame, reason, outlet);
        }
    }
}
