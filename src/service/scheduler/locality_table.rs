//! Which servers a destination was given: what lblc and lblcr remember, for all workers.
//!
//! No worker waits for another: an entry that one is writing is passed over by the others, who
//! choose a server as if there were no entry, and leave it alone. A table never grows: where a
//! destination's set of entries is full, the one that was used longest ago makes room.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use arrayvec::ArrayVec;

use super::Destinations;
use super::client_hash::{halves, mixed};
use crate::clock::Tick;
use crate::ids::ServerSlot;
use crate::wire::U16;
use crate::wire::address::Address;

/// Entries that a destination may have.
const WAYS: usize = 4;
/// Sets of entries of a service with many destinations: 16,384 entries, as many as IPVS keeps
/// before it forgets those that were not used for six minutes.
const SETS: usize = 4096;
/// Servers that a word holds.
const PER_WORD: usize = 4;
const WORDS: usize = 6;
/// Servers that an entry holds; of more, the one that came first is forgotten.
pub(super) const SERVERS: usize = PER_WORD * WORDS;

/// An entry that was not used for so long is none (`lblc_expiration`, `lblcr_expiration`: 24
/// hours).
const EXPIRATION_MS: u32 = 24 * 3600 * 1000;

/// The servers of a destination, the latest first.
pub(super) type Servers = ArrayVec<ServerSlot, SERVERS>;

/// What was read of an entry.
#[derive(Debug)]
pub(super) struct Known {
    /// The latest first.
    pub(super) servers: Servers,
    /// When one came or went.
    pub(super) changed: Tick,
}

#[derive(Debug, Default)]
struct Entry {
    /// Odd while a worker writes.
    version: AtomicU32,
    last_use: AtomicU32,
    changed: AtomicU32,
    address: [AtomicU64; 2],
    /// Four each, as slot + 1; 0: none.
    servers: [AtomicU64; WORDS],
}

impl Entry {
    fn is_of(&self, address: [u64; 2]) -> bool {
        let [a, b] = &self.address;
        [a, b].map(|half| half.load(Ordering::Acquire)) == address && !self.is_empty()
    }

    fn is_empty(&self) -> bool {
        self.servers.first().is_none_or(|first| first.load(Ordering::Acquire) == 0)
    }

    fn idle_ms(&self, now: Tick) -> u32 {
        now.since(Tick(self.last_use.load(Ordering::Relaxed)))
    }

    /// `None`: it is being written, or was in the meantime.
    fn read(&self, address: [u64; 2]) -> Option<Known> {
        let version = self.version.load(Ordering::Acquire);
        if version % 2 == 1 || !self.is_of(address) {
            return None;
        }
        let mut servers = Servers::new();
        for word in &self.servers {
            let four: [U16; PER_WORD] = zerocopy::transmute!(word.load(Ordering::Acquire).to_be());
            let slots = four.iter().filter_map(|slot| slot.get().checked_sub(1));
            servers.extend(slots.map(ServerSlot).take(servers.remaining_capacity()));
        }
        let changed = Tick(self.changed.load(Ordering::Acquire));
        let unchanged = self.version.load(Ordering::Acquire) == version;
        unchanged.then_some(Known { servers, changed })
    }

    /// Writes the whole entry, unless another worker does.
    fn write(&self, address: [u64; 2], servers: &Servers, now: Tick) {
        let version = self.version.load(Ordering::Acquire);
        let odd = version | 1;
        if odd == version
            || self
                .version
                .compare_exchange(version, odd, Ordering::AcqRel, Ordering::Relaxed)
                .is_err()
        {
            return;
        }
        for (half, value) in self.address.iter().zip(address) {
            half.store(value, Ordering::Release);
        }
        let mut slots = servers.iter();
        for word in &self.servers {
            let four: [U16; PER_WORD] =
                std::array::from_fn(|_| U16::new(slots.next().map_or(0, |slot| slot.0 + 1)));
            let bits: u64 = zerocopy::transmute!(four);
            word.store(u64::from_be(bits), Ordering::Release);
        }
        self.changed.store(now.0, Ordering::Release);
        self.last_use.store(now.0, Ordering::Release);
        self.version.store(odd.wrapping_add(1), Ordering::Release);
    }
}

/// The entries of one service.
#[derive(Debug)]
pub(super) struct LocalityTable {
    sets: Box<[[Entry; WAYS]]>,
}

impl LocalityTable {
    pub(super) fn new(destinations: Destinations) -> Self {
        let sets = match destinations {
            Destinations::One => 1,
            Destinations::Many => SETS,
        };
        Self { sets: (0..sets).map(|_| Default::default()).collect() }
    }

    fn set<A: Address>(&self, destination: &A) -> &[Entry] {
        let hash = u128::from(mixed(destination, U16::new(0), 0));
        let set = usize::try_from((hash * self.sets.len() as u128) >> 64).unwrap_or(0);
        self.sets.get(set).map_or(&[], |set| set)
    }

    /// What the destination was given, if that is known; it is being used now.
    pub(super) fn find<A: Address>(&self, destination: &A, now: Tick) -> Option<Known> {
        let address = halves(destination);
        let entry = self.set(destination).iter().find(|entry| entry.is_of(address))?;
        if entry.idle_ms(now) >= EXPIRATION_MS {
            return None;
        }
        let known = entry.read(address)?;
        entry.last_use.store(now.0, Ordering::Relaxed);
        Some(known)
    }

    /// Remembers what the destination is given.
    pub(super) fn put<A: Address>(&self, destination: &A, servers: &Servers, now: Tick) {
        let address = halves(destination);
        let set = self.set(destination);
        let known = set.iter().find(|entry| entry.is_of(address));
        let entry =
            known.or_else(|| set.iter().max_by_key(|entry| (entry.is_empty(), entry.idle_ms(now))));
        if let Some(entry) = entry {
            entry.write(address, servers, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(slots: &[u16]) -> Servers {
        slots.iter().copied().map(ServerSlot).collect()
    }

    #[test]
    fn what_was_put_is_found_in_order_until_it_was_not_used_for_a_day() {
        let table = LocalityTable::new(Destinations::Many);
        let destination = [192, 0, 2, 1];
        let many: Vec<u16> = (0..24).map(|slot| slot * 3).collect();
        table.put(&destination, &servers(&many), Tick(5));
        let later = Tick(5).after(EXPIRATION_MS - 1);
        let known = table.find(&destination, later).unwrap();
        assert_eq!((known.servers, known.changed), (servers(&many), Tick(5)));
        // It was used: the day begins anew.
        assert!(table.find(&destination, later.after(EXPIRATION_MS - 1)).is_some());
        assert!(table.find(&destination, later.after(EXPIRATION_MS * 2)).is_none());
        assert!(table.find(&[192, 0, 2, 2], Tick(5)).is_none());
    }

    #[test]
    fn the_table_is_bounded_and_keeps_what_was_used_last() {
        let table = LocalityTable::new(Destinations::One);
        for last in 0..100 {
            table.put(&[10, 0, 0, last], &servers(&[u16::from(last)]), Tick(u32::from(last)));
        }
        for last in 0..100 {
            let known = table.find(&[10, 0, 0, last], Tick(100));
            assert_eq!(known.is_some(), last >= 96, "{last}");
        }
    }

    #[test]
    fn addresses_of_ipv6_are_told_apart_whole() {
        let table = LocalityTable::new(Destinations::Many);
        let (mut a, mut b) = ([1_u8; 16], [1_u8; 16]);
        (a[3], b[15]) = (7, 7);
        table.put(&a, &servers(&[1]), Tick(1));
        table.put(&b, &servers(&[2]), Tick(1));
        assert_eq!(table.find(&a, Tick(2)).unwrap().servers, servers(&[1]));
        assert_eq!(table.find(&b, Tick(2)).unwrap().servers, servers(&[2]));
    }

    #[test]
    fn an_entry_that_is_being_written_is_passed_over_and_left_alone() {
        let table = LocalityTable::new(Destinations::One);
        table.put(&[1; 4], &servers(&[1]), Tick(1));
        let entry = table.sets[0].iter().find(|entry| entry.is_of(halves(&[1_u8; 4]))).unwrap();
        entry.version.fetch_add(1, Ordering::AcqRel);
        assert!(table.find(&[1; 4], Tick(2)).is_none());
        table.put(&[1; 4], &servers(&[2]), Tick(2));
        entry.version.fetch_add(1, Ordering::AcqRel);
        assert_eq!(table.find(&[1; 4], Tick(3)).unwrap().servers, servers(&[1]));
    }

    #[test]
    fn workers_that_write_at_once_never_mix_two_destinations() {
        let table = LocalityTable::new(Destinations::One);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| look_up_and_put(&table));
            }
        });
    }

    /// More destinations than a set has entries, each with servers of its own.
    fn look_up_and_put(table: &LocalityTable) {
        for (round, last) in (0..20_000).zip((0..6_u8).cycle()) {
            let own = servers(&[u16::from(last) * 10, u16::from(last) * 10 + 1]);
            if let Some(known) = table.find(&[10, 0, 0, last], Tick(round)) {
                assert_eq!(known.servers, own);
            }
            table.put(&[10, 0, 0, last], &own, Tick(round));
        }
    }
}
