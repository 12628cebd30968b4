//! The hash index: from the hash of a 5-tuple to a record.
//!
//! Buckets of one cache line hold eight entries: a 16-bit tag of the hash and a reference. Every
//! entry may lie in one of two buckets, its primary one unless that is full; the other follows
//! from the first and the tag alone, so that moving an entry touches no record. A full pair of
//! buckets moves at most one entry aside. A bucket counts the entries that it sent away, so a
//! lookup reads the second bucket only when one of its kind was displaced: the longest chain is
//! two buckets, sixteen tags, whatever the load or the attacker does.

use zerocopy::FromZeros;

use crate::dpdk::lanes::equal_lanes;
use crate::dpdk::memory::{HugePages, HugeSlice, MemoryError};
use crate::dpdk::prefetch::prefetch_slot;
use crate::wire::flow_key::Direction;

/// Entries of a bucket.
const WAYS: usize = 8;

/// What an entry refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reference(u32);

impl Reference {
    /// Records are numbered below this.
    pub(super) const MAX_RECORDS: u32 = (1 << 30) - 1;
    /// To no record.
    pub(super) const NONE: Self = Self(u32::MAX);

    pub(super) const fn new(record: u32, direction: Direction) -> Self {
        Self(record << 2 | (direction as u32) << 1)
    }

    #[inline]
    pub(super) const fn record(self) -> u32 {
        self.0 >> 2
    }

    #[inline]
    pub(super) const fn direction(self) -> Direction {
        if self.0 & 2 == 0 { Direction::Inbound } else { Direction::Reply }
    }

    /// Whether the entry lies in its second bucket.
    const fn is_displaced(self) -> bool {
        self.0 & 1 == 1
    }

    const fn placed(self, displaced: bool) -> Self {
        Self(self.0 & !1 | displaced as u32)
    }

    const fn same_target(self, other: Self) -> bool {
        self.0 | 1 == other.0 | 1
    }
}

/// The way of the lowest bit of [`Bucket::matches`].
#[inline]
const fn way_of_bit(matches: u32) -> usize {
    (matches.trailing_zeros() / 2) as usize
}

/// One cache line.
#[derive(Clone, Copy, Debug, FromZeros)]
#[repr(C, align(64))]
struct Bucket {
    /// 0: free.
    tags: [u16; WAYS],
    references: [u32; WAYS],
    /// Entries of which this is the primary bucket and that lie in the other.
    displaced: u32,
}

impl Bucket {
    /// The entries with this tag: one bit each, whose way [`way_of_bit`] tells.
    #[inline]
    fn matches(&self, tag: u16) -> u32 {
        equal_lanes(&self.tags, tag)
    }

    fn put(&mut self, tag: u16, reference: Reference) -> bool {
        for (have, place) in self.tags.iter_mut().zip(&mut self.references) {
            if *have == 0 {
                *have = tag;
                *place = reference.0;
                return true;
            }
        }
        false
    }

    fn entry(&self, way: usize) -> Option<(u16, Reference)> {
        Some((*self.tags.get(way)?, Reference(*self.references.get(way)?)))
    }

    fn clear(&mut self, way: usize) {
        if let Some(tag) = self.tags.get_mut(way) {
            *tag = 0;
        }
    }

    /// The way that holds this reference.
    fn way_of(&self, tag: u16, reference: Reference) -> Option<usize> {
        (0..WAYS).find(|way| {
            self.entry(*way).is_some_and(|(have, at)| have == tag && at.same_target(reference))
        })
    }
}

/// The index of one connection table; two entries for each connection.
#[derive(Debug)]
pub(super) struct Index {
    buckets: HugeSlice<Bucket>,
    mask: usize,
}

/// Both buckets of an entry are full, and so are those of everything in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl Index {
    /// An index with room for `entries`, at most two thirds full.
    pub(super) fn new(entries: usize, huge_pages: HugePages) -> Result<Self, MemoryError> {
        let buckets = (entries.saturating_mul(3) / 2).div_ceil(WAYS).next_power_of_two().max(2);
        let mut slice = HugeSlice::zeroed_on(buckets, huge_pages)?;
        if huge_pages == HugePages::Try {
            slice.prefault()?;
        }
        Ok(Self { buckets: slice, mask: buckets - 1 })
    }

    #[inline]
    fn tag(hash: u64) -> u16 {
        let [.., a, b] = hash.to_le_bytes();
        u16::from_le_bytes([a, b]).max(1)
    }

    #[inline]
    fn primary(&self, hash: u64) -> usize {
        #[allow(clippy::cast_possible_truncation, reason = "masked to the index")]
        let low = hash as usize;
        low & self.mask
    }

    /// The other bucket of an entry with this tag; its own inverse.
    #[inline]
    fn other(&self, bucket: usize, tag: u16) -> usize {
        bucket ^ ((usize::from(tag).wrapping_mul(0x9e37_79b1) | 1) & self.mask)
    }

    /// Fetches the primary bucket of a hash.
    #[inline]
    pub(super) fn prefetch(&self, hash: u64) {
        prefetch_slot(&self.buckets, self.primary(hash));
    }

    /// The first entry with the hash's tag, in the second bucket if the first has none: worth
    /// fetching.
    #[inline]
    pub(super) fn candidate(&self, hash: u64) -> Option<Reference> {
        let (primary, tag) = (self.primary(hash), Self::tag(hash));
        let bucket = self.buckets.get(primary)?;
        let matches = bucket.matches(tag);
        if matches == 0 {
            return if bucket.displaced == 0 { None } else { self.displaced(primary, tag) };
        }
        let way = way_of_bit(matches);
        Some(Reference(*bucket.references.get(way)?))
    }

    /// As [`Index::candidate`], in the second bucket.
    #[cold]
    #[inline(never)]
    fn displaced(&self, primary: usize, tag: u16) -> Option<Reference> {
        let bucket = self.buckets.get(self.other(primary, tag))?;
        let matches = bucket.matches(tag);
        if matches == 0 {
            return None;
        }
        Some(Reference(*bucket.references.get(way_of_bit(matches))?))
    }

    /// The first entry of this hash that `accept` recognises.
    #[inline]
    pub(super) fn find(
        &self,
        hash: u64,
        mut accept: impl FnMut(Reference) -> bool,
    ) -> Option<Reference> {
        let tag = Self::tag(hash);
        let primary = self.primary(hash);
        let bucket = self.buckets.get(primary)?;
        if let Some(found) = Self::scan(bucket, tag, &mut accept) {
            return Some(found);
        }
        if bucket.displaced == 0 {
            return None;
        }
        Self::scan(self.buckets.get(self.other(primary, tag))?, tag, &mut accept)
    }

    #[inline]
    fn scan(
        bucket: &Bucket,
        tag: u16,
        accept: &mut impl FnMut(Reference) -> bool,
    ) -> Option<Reference> {
        let mut matches = bucket.matches(tag);
        while matches != 0 {
            let way = way_of_bit(matches);
            let reference = Reference(*bucket.references.get(way)?);
            if accept(reference) {
                return Some(reference);
            }
            matches &= matches - 1;
        }
        None
    }

    fn put(&mut self, bucket: usize, tag: u16, reference: Reference) -> bool {
        self.buckets.get_mut(bucket).is_some_and(|bucket| bucket.put(tag, reference))
    }

    fn count_displaced(&mut self, bucket: usize, by: i32) {
        if let Some(bucket) = self.buckets.get_mut(bucket) {
            bucket.displaced = bucket.displaced.saturating_add_signed(by);
        }
    }

    /// Adds an entry. The caller knows that it is new.
    pub(super) fn insert(&mut self, hash: u64, reference: Reference) -> Result<(), Full> {
        let tag = Self::tag(hash);
        let primary = self.primary(hash);
        if self.put(primary, tag, reference.placed(false)) {
            return Ok(());
        }
        let other = self.other(primary, tag);
        if self.put(other, tag, reference.placed(true)) {
            self.count_displaced(primary, 1);
            return Ok(());
        }
        if self.make_room(primary) && self.put(primary, tag, reference.placed(false)) {
            return Ok(());
        }
        if self.make_room(other) && self.put(other, tag, reference.placed(true)) {
            self.count_displaced(primary, 1);
            return Ok(());
        }
        Err(Full)
    }

    /// Moves one entry of a full bucket to its other bucket.
    fn make_room(&mut self, from: usize) -> bool {
        for way in 0..WAYS {
            let Some((tag, reference)) = self.buckets.get(from).and_then(|b| b.entry(way)) else {
                return false;
            };
            let to = self.other(from, tag);
            let displaced = !reference.is_displaced();
            if !self.put(to, tag, reference.placed(displaced)) {
                continue;
            }
            self.clear(from, way);
            let (primary, by) = if displaced { (from, 1) } else { (to, -1) };
            self.count_displaced(primary, by);
            return true;
        }
        false
    }

    /// Removes an entry.
    pub(super) fn remove(&mut self, hash: u64, reference: Reference) {
        let tag = Self::tag(hash);
        let primary = self.primary(hash);
        if self.clear_entry(primary, tag, reference) {
            return;
        }
        if self.clear_entry(self.other(primary, tag), tag, reference) {
            self.count_displaced(primary, -1);
        }
    }

    fn clear(&mut self, bucket: usize, way: usize) {
        if let Some(bucket) = self.buckets.get_mut(bucket) {
            bucket.clear(way);
        }
    }

    fn clear_entry(&mut self, bucket: usize, tag: u16, reference: Reference) -> bool {
        let way = self.buckets.get(bucket).and_then(|found| found.way_of(tag, reference));
        way.is_some_and(|way| {
            self.clear(bucket, way);
            true
        })
    }

    /// Whether no entry is there and no bucket counts one as displaced.
    #[cfg(test)]
    pub(super) fn is_pristine(&self) -> bool {
        self.buckets.iter().all(|bucket| bucket.tags == [0; WAYS] && bucket.displaced == 0)
    }

    /// Octets of the buckets.
    pub(super) fn octets(&self) -> usize {
        size_of::<Bucket>() * self.buckets.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_are_the_ways_with_the_tag_and_no_other() {
        let tags = [1, 0x8000, 0xffff, 1, 0x7fff, 0x8001, 2, 1];
        let bucket = Bucket { tags, references: [0; WAYS], displaced: 0 };
        for tag in [1, 2, 3, 0x7fff, 0x8000, 0x8001, 0xfffe, 0xffff] {
            let mut matches = bucket.matches(tag);
            let mut ways = Vec::new();
            while matches != 0 {
                ways.push(way_of_bit(matches));
                matches &= matches - 1;
            }
            ways.sort_unstable();
            let expected: Vec<_> = (0..WAYS).filter(|way| tags[*way] == tag).collect();
            assert_eq!(ways, expected, "tag {tag:#x}");
        }
    }
}
