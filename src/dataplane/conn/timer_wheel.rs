//! Expiry: a timing wheel of doubly linked lists that run through the records themselves.
//!
//! It is re-armed lazily: a packet only writes `last_seen`. When a record's slot comes up, its
//! deadline is computed; if that lies ahead, the record moves to the deadline's slot. A record is
//! re-linked at once only when its timeout gets shorter. Deadlines beyond the horizon wait in the
//! farthest slot and are looked at again there.

use zerocopy::FromZeros;

use crate::clock::Tick;
use crate::dpdk::memory::{HugeSlice, MemoryError};

/// Milliseconds of one slot, as a power of two: 128 ms.
const SLOT_SHIFT: u32 = 7;
/// Slots: the horizon is 17.5 minutes.
const SLOTS: u32 = 8192;

/// No record.
pub(super) const NIL: u32 = u32::MAX;

/// A record's place in a list. (An IPv4 record has no octet to spare for padding.)
#[derive(Clone, Copy, Debug, FromZeros)]
#[repr(C, packed(2))]
pub(super) struct Links {
    /// The next record of the slot, or [`NIL`].
    pub(super) next: u32,
    /// The one before, or [`NIL`] for the first.
    pub(super) previous: u32,
    /// The slot.
    pub(super) slot: u16,
}

/// Records that a wheel can hold.
pub(super) trait Linked {
    fn links(&mut self, index: u32) -> Option<&mut Links>;
}

/// The slots' first records.
#[derive(Debug)]
pub(super) struct TimerWheel {
    heads: HugeSlice<u32>,
    /// The slot that is being emptied.
    current: u32,
}

impl TimerWheel {
    pub(super) fn new(now: Tick) -> Result<Self, MemoryError> {
        let mut heads = HugeSlice::zeroed(SLOTS as usize)?;
        heads.fill(NIL);
        Ok(Self { heads, current: now.0 >> SLOT_SHIFT })
    }

    fn slot_of(&self, deadline: Tick) -> u16 {
        // Deadlines are at least one slot ahead, so that a re-armed record never comes back to
        // the slot that is being emptied; and at most the horizon.
        let ahead = (deadline.0 >> SLOT_SHIFT).wrapping_add(1).wrapping_sub(self.current);
        let span = u32::MAX >> SLOT_SHIFT;
        let ahead = ahead & span;
        let ahead = if ahead > span / 2 { 1 } else { ahead.clamp(1, SLOTS - 1) };
        #[allow(clippy::cast_possible_truncation, reason = "less than SLOTS")]
        let slot = (self.current.wrapping_add(ahead) % SLOTS) as u16;
        slot
    }

    /// Puts a record that is in no list into the slot of its deadline.
    pub(super) fn link(&mut self, records: &mut impl Linked, index: u32, deadline: Tick) {
        let slot = self.slot_of(deadline);
        let Some(head) = self.heads.get_mut(usize::from(slot)) else { return };
        let next = *head;
        let Some(links) = records.links(index) else { return };
        *links = Links { next, previous: NIL, slot };
        *head = index;
        if let Some(links) = records.links(next) {
            links.previous = index;
        }
    }

    /// Takes a record out of its list.
    pub(super) fn unlink(&mut self, records: &mut impl Linked, index: u32) {
        let Some(&mut Links { next, previous, slot }) = records.links(index) else { return };
        if let Some(before) = records.links(previous) {
            before.next = next;
        } else if let Some(head) = self.heads.get_mut(usize::from(slot)) {
            *head = next;
        }
        if let Some(after) = records.links(next) {
            after.previous = previous;
        }
    }

    /// The next record whose slot has come up at `now`, taken out of its list; `None`: nothing is
    /// due. The caller frees it or links it again.
    pub(super) fn pop_due(&mut self, records: &mut impl Linked, now: Tick) -> Option<u32> {
        let target = now.0 >> SLOT_SHIFT;
        let span = u32::MAX >> SLOT_SHIFT;
        loop {
            let head = self.heads.get((self.current % SLOTS) as usize).copied()?;
            if head != NIL {
                self.unlink(records, head);
                return Some(head);
            }
            let behind = target.wrapping_sub(self.current) & span;
            if behind == 0 || behind > span / 2 {
                return None;
            }
            self.current = self.current.wrapping_add(1) & span;
        }
    }
}
