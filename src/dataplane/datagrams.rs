//! The datagrams whose fragments are coming: what has come of each, what is done with the rest,
//! and the fragments that wait for their first one.
//!
//! All of it is allocated at the start. A datagram is forgotten when it is complete, when its
//! time is over, or, when the table is full, as the oldest.

use hashbrown::HashMap;

use super::classify::Packet;
use super::stats::DropReason;
use crate::clock::Tick;
use crate::ids::WorkerId;
use crate::wire::address::Address;
use crate::wire::flow_key::FlowKey;

/// Datagrams that are remembered at once, of each address family.
const DATAGRAMS: usize = 4096;
/// Fragments that may wait for their first one, over all datagrams.
const WAITING: usize = 1024;
/// Pieces that the received part of a datagram may consist of: 64 kB in pieces of 1 kB, every
/// second one of which is still to come.
const PIECES: usize = 32;
/// Datagrams that are looked at for one that makes room for a waiting fragment.
const EVICTION_SCAN: usize = 64;
/// The end of a list.
const NONE: u32 = u32::MAX;

/// What a fragment says of itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fragment<A> {
    pub(super) key: FragmentKey<A>,
    /// Offset of the payload within the datagram's, octets.
    pub(super) offset: u16,
    /// Octets of payload.
    pub(super) length: u16,
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
        let fits = self.offset.checked_add(self.length).is_some();
        if self.length == 0 || !is_whole || !fits {
            return Err(DropReason::Malformed);
        }
        Ok(self)
    }

    /// Whether it is the whole datagram (RFC 6946).
    pub(super) const fn is_atomic(&self) -> bool {
        self.offset == 0 && !self.more
    }

    const fn end(&self) -> u16 {
        self.offset.saturating_add(self.length)
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
pub(super) enum Fate<A: Address> {
    /// The first fragment has not come.
    Waiting,
    /// They belong to another worker's flow.
    HandOver(WorkerId),
    /// They are translated as this flow is.
    Flow(FlowKey<A>),
    /// They leave with these addresses by this next hop: the datagram belongs to no connection.
    Passed {
        /// The source.
        source: A,
        /// The destination.
        destination: A,
    },
    /// They are an echo request to us, and go back.
    Echo,
    /// They share the first one's fate, or overlap (RFC 5722).
    Drop(DropReason),
}

/// Why a fragment does not fit into its datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Misfit {
    /// Received already.
    Duplicate,
    /// Partly received already, or beyond the end.
    Overlap,
    /// The datagram is in too many pieces.
    TooManyPieces,
}

/// The parts of a datagram that have come.
#[derive(Clone, Debug, Default)]
struct Parts {
    /// [from, to), in no order, never touching.
    pieces: arrayvec::ArrayVec<(u16, u16), PIECES>,
    /// Octets of the whole payload, once the last fragment has come.
    total: Option<u16>,
}

impl Parts {
    /// Notes that a part has come.
    fn add<A>(&mut self, fragment: &Fragment<A>) -> Result<(), Misfit> {
        let (mut from, mut to) = (fragment.offset, fragment.end());
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
            self.total = Some(fragment.end());
        }
        Ok(())
    }

    fn is_complete(&self) -> bool {
        matches!((self.total, &self.pieces[..]), (Some(total), [(0, end)]) if *end == total)
    }
}

#[derive(Debug)]
struct Datagram<A: Address> {
    key: FragmentKey<A>,
    fate: Fate<A>,
    deadline: Tick,
    parts: Parts,
    /// Its neighbours by age; among the free ones only `newer` counts.
    older: u32,
    newer: u32,
    /// The fragments that wait, first and last.
    waiting: (u32, u32),
}

/// Room for a fragment that waits.
#[derive(Debug)]
struct Place<F> {
    content: Option<(Packet, F)>,
    /// The next of its datagram, or the next free one.
    next: u32,
}

/// The number of a datagram in its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DatagramId(u32);

/// The table of one address family.
#[derive(Debug)]
pub(super) struct Datagrams<A: Address, F> {
    by_key: HashMap<FragmentKey<A>, u32, ahash::RandomState>,
    slots: Vec<Datagram<A>>,
    free_slot: u32,
    /// All are remembered for the same time, so the oldest ends first.
    oldest: u32,
    newest: u32,
    places: Vec<Place<F>>,
    free_place: u32,
    timeout_ms: u32,
}

impl<A: Address, F> Datagrams<A, F> {
    pub(super) fn new(timeout_ms: u32) -> Self {
        Self {
            // Twice the room: removals leave marks, and the map must never grow.
            by_key: HashMap::with_capacity_and_hasher(DATAGRAMS * 2, ahash::RandomState::default()),
            slots: Vec::with_capacity(DATAGRAMS),
            free_slot: NONE,
            oldest: NONE,
            newest: NONE,
            places: Vec::with_capacity(WAITING),
            free_place: NONE,
            timeout_ms,
        }
    }

    fn get(&self, id: u32) -> Option<&Datagram<A>> {
        self.slots.get(id as usize)
    }

    fn get_mut(&mut self, id: u32) -> Option<&mut Datagram<A>> {
        self.slots.get_mut(id as usize)
    }

    fn id(place: u32) -> Option<DatagramId> {
        (place != NONE).then_some(DatagramId(place))
    }

    /// The datagram of a fragment, if any of it has come.
    pub(super) fn find(&self, key: &FragmentKey<A>) -> Option<DatagramId> {
        self.by_key.get(key).copied().map(DatagramId)
    }

    /// Whether there is no room for another datagram.
    pub(super) fn is_full(&self) -> bool {
        self.free_slot == NONE && self.slots.len() == DATAGRAMS
    }

    /// The one that ends first.
    pub(super) fn oldest(&self) -> Option<DatagramId> {
        Self::id(self.oldest)
    }

    /// The one that has ended.
    pub(super) fn expired(&self, now: Tick) -> Option<DatagramId> {
        let datagram = self.get(self.oldest)?;
        now.reached(datagram.deadline).then_some(DatagramId(self.oldest))
    }

    /// Remembers a datagram that nothing has come of; `None` when the table is full.
    pub(super) fn insert(&mut self, key: FragmentKey<A>, now: Tick) -> Option<DatagramId> {
        let datagram = Datagram {
            key,
            fate: Fate::Waiting,
            deadline: now.after(self.timeout_ms),
            parts: Parts::default(),
            older: self.newest,
            newer: NONE,
            waiting: (NONE, NONE),
        };
        let id = self.free_slot;
        let id = if let Some(slot) = self.slots.get_mut(id as usize) {
            self.free_slot = slot.newer;
            *slot = datagram;
            id
        } else if self.slots.len() < DATAGRAMS {
            self.slots.push(datagram);
            u32::try_from(self.slots.len() - 1).ok()?
        } else {
            return None;
        };
        let before = std::mem::replace(&mut self.newest, id);
        match self.get_mut(before) {
            Some(before) => before.newer = id,
            None => self.oldest = id,
        }
        self.by_key.insert(key, id);
        Some(DatagramId(id))
    }

    /// Forgets a datagram, for which nothing may wait.
    pub(super) fn forget(&mut self, DatagramId(id): DatagramId) {
        let free = self.free_slot;
        let Some(slot) = self.get_mut(id) else { return };
        let (key, older, newer) = (slot.key, slot.older, slot.newer);
        slot.newer = free;
        self.free_slot = id;
        match self.get_mut(older) {
            Some(older) => older.newer = newer,
            None => self.oldest = newer,
        }
        match self.get_mut(newer) {
            Some(newer) => newer.older = older,
            None => self.newest = older,
        }
        self.by_key.remove(&key);
    }

    /// Notes a fragment in its datagram. An overlap spoils the datagram for good (RFC 5722).
    pub(super) fn add(
        &mut self,
        DatagramId(id): DatagramId,
        fragment: &Fragment<A>,
    ) -> Result<(), DropReason> {
        let Some(datagram) = self.get_mut(id) else { return Err(DropReason::FragmentTableFull) };
        if let Fate::Drop(DropReason::FragmentOverlap) = datagram.fate {
            return Err(DropReason::FragmentOverlap);
        }
        datagram.parts.add(fragment).map_err(|misfit| match misfit {
            Misfit::Duplicate => DropReason::FragmentDuplicate,
            Misfit::TooManyPieces => DropReason::FragmentQueueFull,
            Misfit::Overlap => {
                datagram.fate = Fate::Drop(DropReason::FragmentOverlap);
                DropReason::FragmentOverlap
            }
        })
    }

    pub(super) fn fate(&self, DatagramId(id): DatagramId) -> Option<Fate<A>> {
        self.get(id).map(|datagram| datagram.fate)
    }

    pub(super) fn set_fate(&mut self, DatagramId(id): DatagramId, fate: Fate<A>) {
        if let Some(datagram) = self.get_mut(id) {
            datagram.fate = fate;
        }
    }

    /// Whether all of it has come and has been dealt with.
    pub(super) fn is_done(&self, DatagramId(id): DatagramId) -> bool {
        self.get(id).is_some_and(|datagram| {
            datagram.parts.is_complete() && !matches!(datagram.fate, Fate::Waiting)
        })
    }

    /// A fragment waits for its datagram's first one; given back when there is no room.
    pub(super) fn hold(
        &mut self,
        DatagramId(id): DatagramId,
        packet: Packet,
        frame: F,
    ) -> Result<(), F> {
        let content = Some((packet, frame));
        let place = if let Some(place) = self.places.get_mut(self.free_place as usize) {
            let number = std::mem::replace(&mut self.free_place, place.next);
            *place = Place { content, next: NONE };
            number
        } else if self.places.len() < WAITING {
            self.places.push(Place { content, next: NONE });
            u32::try_from(self.places.len() - 1).unwrap_or(NONE)
        } else {
            return content.map_or(Ok(()), |(_, frame)| Err(frame));
        };
        let Some(datagram) = self.slots.get_mut(id as usize) else { return Ok(()) };
        let (first, last) = datagram.waiting;
        datagram.waiting = (if first == NONE { place } else { first }, place);
        if let Some(last) = self.places.get_mut(last as usize) {
            last.next = place;
        }
        Ok(())
    }

    /// The fragment that has waited longest for a datagram's first one.
    pub(super) fn take_waiting(&mut self, DatagramId(id): DatagramId) -> Option<(Packet, F)> {
        let datagram = self.slots.get_mut(id as usize)?;
        let (first, last) = datagram.waiting;
        let place = self.places.get_mut(first as usize)?;
        datagram.waiting = if first == last { (NONE, NONE) } else { (place.next, last) };
        place.next = std::mem::replace(&mut self.free_place, first);
        place.content.take()
    }

    /// The oldest datagram that fragments wait for, if there is one among the oldest.
    pub(super) fn oldest_waiting(&self) -> Option<DatagramId> {
        let mut id = self.oldest;
        for _ in 0..EVICTION_SCAN {
            let datagram = self.get(id)?;
            if datagram.waiting.0 != NONE {
                return Some(DatagramId(id));
            }
            id = datagram.newer;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(identification: u32) -> FragmentKey<[u8; 4]> {
        FragmentKey { source: [1; 4], destination: [2; 4], identification, protocol: 17 }
    }

    fn part(offset: u16, length: u16, more: bool) -> Fragment<[u8; 4]> {
        Fragment { key: key(1), offset, length, more, payload: 34 }
    }

    #[test]
    fn parts_in_any_order_make_a_whole() {
        let mut parts = Parts::default();
        for (offset, length, more) in [(24, 8, true), (0, 8, true), (32, 3, false), (8, 16, true)] {
            assert!(!parts.is_complete());
            assert_eq!(parts.add(&part(offset, length, more)), Ok(()));
        }
        assert!(parts.is_complete());
    }

    #[test]
    fn what_contradicts_the_end_overlaps() {
        let mut parts = Parts::default();
        parts.add(&part(16, 8, false)).unwrap();
        assert_eq!(parts.add(&part(24, 8, true)), Err(Misfit::Overlap), "beyond the end");
        assert_eq!(parts.add(&part(0, 8, false)), Err(Misfit::Overlap), "another end");
        let mut parts = Parts::default();
        parts.add(&part(16, 8, true)).unwrap();
        assert_eq!(parts.add(&part(8, 8, false)), Err(Misfit::Overlap), "an end before the middle");
    }

    #[test]
    fn every_second_piece_of_64_kb_at_an_mtu_of_1280_fits() {
        let mut parts = Parts::default();
        let room = 1256;
        let all: Vec<_> = (0..=52_u16).map(|number| number * room).collect();
        for offset in all.iter().step_by(2).chain(all.iter().skip(1).step_by(2)) {
            let is_last = *offset == 52 * room;
            let length = if is_last { 100 } else { room };
            assert_eq!(parts.add(&part(*offset, length, !is_last)), Ok(()), "{offset}");
        }
        assert!(parts.is_complete());
    }

    #[test]
    fn the_table_gives_all_room_back_in_whatever_order_datagrams_end() {
        let mut table: Datagrams<[u8; 4], u32> = Datagrams::new(1000);
        let packet = Packet::of(super::super::classify::Class::Arp);
        for round in 0..3 {
            for number in 0..4096 {
                let id = table.insert(key(number), Tick(round)).unwrap();
                let held = table.hold(id, packet, number).is_ok();
                assert_eq!(held, number < 1024, "as long as there is room");
            }
            assert!(table.is_full() && table.insert(key(9999), Tick(round)).is_none());
            for number in (0..4096).filter(|n| n % 3 == 0).chain((0..4096).filter(|n| n % 3 != 0)) {
                let id = table.find(&key(number)).unwrap();
                let waited = table.take_waiting(id).map(|(_, frame)| frame);
                assert_eq!(waited, (number < 1024).then_some(number));
                assert!(table.take_waiting(id).is_none());
                table.forget(id);
            }
            assert_eq!((table.oldest(), table.by_key.len()), (None, 0));
        }
        assert_eq!((table.slots.capacity(), table.places.capacity()), (4096, 1024));
    }

    #[test]
    fn what_waits_comes_out_in_its_order_and_the_oldest_is_found() {
        let mut table: Datagrams<[u8; 4], u32> = Datagrams::new(1000);
        let packet = Packet::of(super::super::classify::Class::Arp);
        let ids = [1, 2, 3].map(|number| table.insert(key(number), Tick(number)).unwrap());
        for frame in [20, 30, 21, 31, 22] {
            table.hold(ids[frame as usize / 10 - 1], packet, frame).unwrap();
        }
        assert_eq!(table.oldest_waiting(), Some(ids[1]));
        let all: Vec<_> = std::iter::from_fn(|| table.take_waiting(ids[1])).collect();
        assert_eq!(all.iter().map(|(_, frame)| *frame).collect::<Vec<_>>(), [20, 21, 22]);
        assert_eq!(table.oldest_waiting(), Some(ids[2]));
        assert_eq!(table.expired(Tick(1000)), None);
        assert_eq!(table.expired(Tick(1001)), Some(ids[0]));
    }
}
