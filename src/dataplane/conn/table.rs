//! A worker's connections of one address family: records, index and timer wheel, all allocated
//! at start. Both directions of a connection are entries of one index, so that every packet costs
//! one lookup.

use arrayvec::ArrayVec;

use super::connection::{Connection, Flags};
use super::index::{Full, Index, Reference};
use super::path::{Path, Paths};
use super::timer_wheel::{Linked, Links, NIL, TimerWheel};
use crate::clock::Tick;
use crate::dpdk::memory::{HugePages, HugeSlice, MemoryError};
use crate::dpdk::prefetch::prefetch_slot;
use crate::wire::address::Address;
use crate::wire::flow_key::{Direction, FlowKey, HashSecret};

/// Connections that are removed together.
const EXPIRY_BATCH: usize = 16;

/// A record's number; valid until the connection is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionId(u32);

/// What a lookup will most probably find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate(Reference);

impl Candidate {
    /// Nothing.
    pub const NONE: Self = Self(Reference::NONE);

    /// What was found.
    #[inline]
    pub fn of(found: Found) -> Self {
        Self(Reference::new(found.id.0, found.direction))
    }

    /// Whether it is nothing: the index had no entry like the 5-tuple's.
    #[inline]
    pub fn is_none(self) -> bool {
        self.0 == Reference::NONE
    }
}

/// What a lookup finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The connection.
    pub id: ConnectionId,
    /// Which way the packet goes.
    pub direction: Direction,
}

/// The connection of a packet.
#[derive(Debug)]
pub struct Hit<'t, A> {
    /// Which it is.
    pub found: Found,
    /// Its record.
    pub connection: &'t mut Connection<A>,
    /// The way of its packets, where that of others is the same.
    common_path: Option<&'t Path>,
}

impl<A> Hit<'_, A> {
    /// The way of its packets.
    #[inline]
    pub fn path(&self) -> &Path {
        self.common_path.unwrap_or(&self.connection.path)
    }
}

/// Why a connection cannot be inserted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InsertError {
    /// No record or no index entry is free.
    Full,
    /// A connection with one of the two 5-tuples exists.
    Exists,
}

/// How much room there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Live connections.
    pub used: u32,
    /// Connections that fit.
    pub capacity: u32,
}

impl Room {
    /// Connections that fit besides.
    pub const fn left(self) -> u32 {
        self.capacity - self.used
    }
}

/// Whose the connections are whose time is over.
pub trait Expiry<A> {
    /// Whether a connection must live on, and for how many milliseconds at most.
    fn grace_ms(&self, connection: &Connection<A>) -> Option<u32>;

    /// A connection lives, and will be looked at again then.
    fn lives(&self, connection: &Connection<A>, until: Tick);

    /// A connection is removed.
    fn ended(&mut self, connection: &Connection<A>);
}

/// The records, with a list of free ones through the same links as the wheel's.
#[derive(Debug)]
struct Records<A> {
    slab: HugeSlice<Connection<A>>,
    /// First of the records that were used and are free again, or [`NIL`].
    free: u32,
    /// Records from here on were never used.
    fresh: u32,
}

impl<A: Address> Linked for Records<A> {
    #[inline]
    fn links(&mut self, index: u32) -> Option<&mut Links> {
        self.slab.get_mut(index as usize).map(|connection| &mut connection.links)
    }
}

impl<A: Address> Records<A> {
    fn take(&mut self, connection: &Connection<A>) -> Option<u32> {
        let index = if self.free == NIL {
            let index = self.fresh;
            *self.slab.get_mut(index as usize)? = *connection;
            self.fresh += 1;
            index
        } else {
            let index = self.free;
            let record = self.slab.get_mut(index as usize)?;
            self.free = record.links.next;
            *record = *connection;
            index
        };
        Some(index)
    }

    fn give_back(&mut self, index: u32) {
        let free = self.free;
        if let Some(record) = self.slab.get_mut(index as usize) {
            // Protocol 0 says so; full NAT is looked at more closely (`Connection::is_of`).
            record.protocol = 0;
            record.flags = Flags::FULL_NAT;
            record.links.next = free;
            self.free = index;
        }
    }
}

/// The connections of one address family.
#[derive(Debug)]
pub struct ConnectionTable<A> {
    records: Records<A>,
    /// Common paths of IPv6 connections. An IPv4 record has its path in its one line.
    paths: Paths,
    index: Index,
    wheel: TimerWheel,
    secret: HashSecret,
    used: u32,
    capacity: u32,
    begun: u32,
}

impl<A: Address> ConnectionTable<A> {
    /// A table for `capacity` connections, fewer than 2^30.
    ///
    /// # Errors
    /// When the memory cannot be had.
    pub fn new(
        capacity: u32,
        secret: HashSecret,
        huge_pages: HugePages,
        now: Tick,
    ) -> Result<Self, MemoryError> {
        let capacity = capacity.min(Reference::MAX_RECORDS);
        let mut slab = HugeSlice::zeroed_on(capacity as usize, huge_pages)?;
        if huge_pages == HugePages::Try {
            slab.prefault()?;
        }
        Ok(Self {
            records: Records { slab, free: NIL, fresh: 0 },
            paths: Paths::of::<A>(),
            index: Index::new(capacity as usize * 2, huge_pages)?,
            wheel: TimerWheel::new(now)?,
            secret,
            used: 0,
            capacity,
            begun: 0,
        })
    }

    /// Live connections and capacity.
    pub const fn room(&self) -> Room {
        Room { used: self.used, capacity: self.capacity }
    }

    /// Connections that have begun so far, modulo 2^32.
    #[inline]
    pub const fn begun(&self) -> u32 {
        self.begun
    }

    /// Octets of memory: records, index, wheel.
    pub fn octets(&self) -> usize {
        size_of::<Connection<A>>() * self.capacity as usize + self.index.octets()
    }

    /// The hash that the other methods take.
    #[inline]
    pub fn hash(&self, key: &FlowKey<A>) -> u64 {
        key.hash(&self.secret)
    }

    /// First half of a batched lookup: fetches the index's cache line.
    #[inline]
    pub fn prefetch_index(&self, hash: u64) {
        self.index.prefetch(hash);
    }

    /// Second half: fetches the record that the lookup will most probably read, as far as most
    /// packets need it.
    #[inline]
    pub fn prefetch_record(&self, hash: u64) -> Candidate {
        let reference = self.index.candidate(hash).unwrap_or(Reference::NONE);
        prefetch_slot(&self.records.slab, reference.record() as usize);
        Candidate(reference)
    }

    /// The connection of a packet with this 5-tuple, if it is the candidate. Whatever has happened
    /// to the table since, a live connection with this 5-tuple is the one.
    #[inline]
    pub fn hit(&mut self, candidate: Candidate, key: &FlowKey<A>) -> Option<Hit<'_, A>> {
        let Candidate(reference) = candidate;
        let (id, direction) = (ConnectionId(reference.record()), reference.direction());
        let connection = self.records.slab.get_mut(id.0 as usize)?;
        if !connection.is_of(direction, key) {
            return None;
        }
        let common_path = if A::IS_V6 { self.paths.get(connection.common_path) } else { None };
        Some(Hit { found: Found { id, direction }, connection, common_path })
    }

    /// The connection that a packet with this 5-tuple belongs to.
    #[inline]
    pub fn find(&self, hash: u64, key: &FlowKey<A>) -> Option<Found> {
        let reference = self.index.find(hash, |reference| {
            self.records
                .slab
                .get(reference.record() as usize)
                .is_some_and(|connection| connection.is_of(reference.direction(), key))
        })?;
        Some(Found { id: ConnectionId(reference.record()), direction: reference.direction() })
    }

    /// A connection.
    #[inline]
    pub fn get(&self, id: ConnectionId) -> Option<&Connection<A>> {
        self.records.slab.get(id.0 as usize)
    }

    /// A connection, to change.
    #[inline]
    pub fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Connection<A>> {
        self.records.slab.get_mut(id.0 as usize)
    }

    /// Adds a connection under both its 5-tuples and arms its timer.
    ///
    /// # Errors
    /// Nothing has changed then.
    pub fn insert(&mut self, connection: &Connection<A>) -> Result<ConnectionId, InsertError> {
        let keys = [Direction::Inbound, Direction::Reply].map(|way| connection.key(way));
        let hashes = keys.map(|key| self.hash(&key));
        let is_taken = |(key, hash): (&FlowKey<A>, u64)| self.find(hash, key).is_some();
        if keys.iter().zip(hashes).any(is_taken) {
            return Err(InsertError::Exists);
        }
        self.insert_new(connection, hashes).map_err(|Full| InsertError::Full)
    }

    /// As [`ConnectionTable::insert`], where the caller knows that no connection has one of the
    /// 5-tuples. `hashes` are theirs: of the way in, and of replies.
    ///
    /// # Errors
    /// Nothing has changed then.
    pub fn insert_new(
        &mut self,
        connection: &Connection<A>,
        [inbound, reply]: [u64; 2],
    ) -> Result<ConnectionId, Full> {
        let record = self.records.take(connection).ok_or(Full)?;
        if let Err(Full) = self.index_both(record, inbound, reply) {
            self.records.give_back(record);
            return Err(Full);
        }
        if let Some(new) = self.records.slab.get_mut(record as usize) {
            self.paths.share(new);
        }
        self.wheel.link(&mut self.records, record, connection.deadline());
        self.used += 1;
        self.begun = self.begun.wrapping_add(1);
        Ok(ConnectionId(record))
    }

    /// Connections that share their path with others.
    #[cfg(test)]
    pub(super) fn with_common_path(&self) -> u32 {
        self.paths.uses()
    }

    fn index_both(&mut self, record: u32, inbound: u64, reply: u64) -> Result<(), Full> {
        let there = Reference::new(record, Direction::Inbound);
        let back = Reference::new(record, Direction::Reply);
        self.index.insert(inbound, there)?;
        self.index.insert(reply, back).inspect_err(|_| self.index.remove(inbound, there))
    }

    /// To be called when a connection's timeout got shorter: moves it to its new place in the
    /// wheel. (A longer one is noticed when the old place comes up.)
    #[inline]
    pub fn rearm(&mut self, id: ConnectionId) {
        if let Some(deadline) = self.get(id).map(Connection::deadline) {
            self.wheel.unlink(&mut self.records, id.0);
            self.wheel.link(&mut self.records, id.0, deadline);
        }
    }

    /// Removes a connection.
    pub fn remove(&mut self, id: ConnectionId) -> Option<Connection<A>> {
        let connection = *self.get(id).filter(|connection| connection.protocol != 0)?;
        self.wheel.unlink(&mut self.records, id.0);
        let hashes = self.hashes(&connection);
        self.forget(id.0, hashes);
        Some(connection)
    }

    /// Both hashes of a connection's 5-tuples.
    fn hashes(&self, connection: &Connection<A>) -> [u64; 2] {
        [Direction::Inbound, Direction::Reply].map(|way| self.hash(&connection.key(way)))
    }

    /// Takes an unlinked record out of the index and frees it.
    fn forget(&mut self, record: u32, [inbound, reply]: [u64; 2]) {
        self.index.remove(inbound, Reference::new(record, Direction::Inbound));
        self.index.remove(reply, Reference::new(record, Direction::Reply));
        if let Some(ended) = self.records.slab.get_mut(record as usize) {
            self.paths.leave(ended);
        }
        self.records.give_back(record);
        self.used -= 1;
    }

    /// The connection in a record, if there is one.
    pub fn at(&self, record: u32) -> Option<(Found, &Connection<A>)> {
        let id = ConnectionId(record);
        let live = self.get(id).filter(|connection| connection.protocol != 0)?;
        Some((Found { id, direction: Direction::Inbound }, live))
    }

    /// Removes connections whose time is over. Looks at no more than `budget` records; gives how
    /// many it did not look at.
    pub fn expire(&mut self, now: Tick, budget: u32, owner: &mut impl Expiry<A>) -> u32 {
        let mut left = budget;
        loop {
            let over = self.take_over(now, &mut left, owner);
            for (record, hashes) in &over {
                self.records.slab.get(*record as usize).inspect(|ended| owner.ended(ended));
                self.forget(*record, *hashes);
            }
            if !over.is_full() {
                return left;
            }
        }
    }

    /// Takes records out of the wheel whose time is over, and fetches their index entries, all of
    /// them at once.
    fn take_over(
        &mut self,
        now: Tick,
        left: &mut u32,
        owner: &impl Expiry<A>,
    ) -> ArrayVec<(u32, [u64; 2]), EXPIRY_BATCH> {
        let mut over = ArrayVec::new();
        while *left > 0 && !over.is_full() {
            let Some(record) = self.wheel.pop_due(&mut self.records, now) else { break };
            *left -= 1;
            if self.lives_on(record, now, owner) {
                continue;
            }
            if let Some(connection) = self.records.slab.get(record as usize) {
                let [inbound, reply] = self.hashes(connection);
                self.index.prefetch(inbound);
                self.index.prefetch(reply);
                over.push((record, [inbound, reply]));
            }
        }
        over
    }

    /// Whether an unlinked record's connection lives on; then it is linked again.
    fn lives_on(&mut self, record: u32, now: Tick, owner: &impl Expiry<A>) -> bool {
        let Some(live) = self.records.slab.get_mut(record as usize) else { return false };
        if now.reached(live.deadline()) {
            let Some(grace) = owner.grace_ms(live) else { return false };
            live.last_seen = now.after(grace.min(live.timeout_ms)).0.wrapping_sub(live.timeout_ms);
        }
        let deadline = live.deadline();
        owner.lives(live, deadline);
        self.wheel.link(&mut self.records, record, deadline);
        true
    }

    /// At most `budget` records from `start` on, with the record to go on at (`None`: that was
    /// all).
    pub fn range(&self, start: u32, budget: u32) -> (std::ops::Range<u32>, Option<u32>) {
        let end = start.saturating_add(budget).min(self.records.fresh);
        (start..end, (end < self.records.fresh).then_some(end))
    }

    /// Live connections from record `start` on, at most `budget` records looked at, with the
    /// record to go on at (`None`: that was all). For listings.
    pub fn walk(
        &self,
        start: u32,
        budget: u32,
    ) -> (impl Iterator<Item = (u32, &Connection<A>)>, Option<u32>) {
        let (records, next) = self.range(start, budget);
        let part = self.records.slab.get(start as usize..records.end as usize).unwrap_or_default();
        let live = (start..).zip(part).filter(|(_, connection)| connection.protocol != 0);
        (live, next)
    }
}
