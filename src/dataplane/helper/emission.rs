//! Segments of a helped connection on their way from one sequence space into the other.

use zerocopy::FromZeros;

use crate::dataplane::stats::DropReason;

/// Whether sequence number `a` comes before `b` (RFC 9293 section 3.4).
pub(super) const fn before(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) & 0x8000_0000 != 0
}

/// Octets of the sender that became other octets, or were held.
#[derive(Clone, Copy, Debug, Default, FromZeros)]
#[repr(C)]
pub(super) struct Edit {
    /// Where they begin, here.
    pub(super) start: u32,
    /// How many they were.
    pub(super) old: u16,
    /// How many they became.
    pub(super) new: u16,
}

impl Edit {
    pub(super) fn end(self) -> u32 {
        self.start.wrapping_add(self.old.into())
    }

    /// Where it begins, or ends.
    pub(super) fn edge(self, end: bool) -> u32 {
        if end { self.end() } else { self.start }
    }

    /// What it adds to the sequence numbers behind it.
    pub(super) fn growth(self) -> u32 {
        u32::from(self.new).wrapping_sub(self.old.into())
    }
}

/// A segment to be sent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Emission {
    /// Its sequence number, there.
    pub(super) sequence: u32,
    /// Whether the data is other than the sender's: it was written out then.
    pub(super) changed: bool,
    /// Whether it ends the stream.
    pub(super) fin: bool,
}

/// A segment as the sender sent it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment<'d> {
    /// The sequence number of its first octet of data.
    pub(super) sequence: u32,
    pub(super) data: &'d [u8],
    pub(super) fin: bool,
}

impl Segment<'_> {
    pub(super) fn data_end(&self) -> u32 {
        #[allow(
            clippy::cast_possible_truncation,
            reason = "an IP packet has less than 2^16 octets"
        )]
        self.sequence.wrapping_add(self.data.len() as u32)
    }

    pub(super) fn end(&self) -> u32 {
        self.data_end().wrapping_add(self.fin.into())
    }
}

/// Writes a segment's data anew.
pub(super) struct Writer<'w> {
    pub(super) segment: Segment<'w>,
    /// What is kept, and its texts one behind the other.
    pub(super) edits: &'w [Edit],
    pub(super) texts: &'w [u8],
    /// What is added to the sequence numbers before the first edit.
    pub(super) offset: u32,
    pub(super) limit: usize,
    pub(super) out: &'w mut Vec<u8>,
    /// Where the first octet goes, there.
    pub(super) start: Option<u32>,
    /// Whether a text was written.
    pub(super) is_text: bool,
}

impl Writer<'_> {
    /// Writes everything up to `stop`; `false`: not all of it fitted.
    pub(super) fn write(&mut self, told: u32, stop: u32) -> Result<bool, DropReason> {
        let mut at = self.segment.sequence;
        let mut offset = self.offset;
        for edit in self.edits {
            let (text, texts) = self.texts.split_at_checked(edit.new.into()).unwrap_or_default();
            self.texts = texts;
            // The sender believes that the receiver has them, and will not send them again.
            let is_ours = !before(told, self.segment.sequence) && before(edit.start, told);
            if !is_ours && !before(at, edit.end()) {
                offset = offset.wrapping_add(edit.growth());
                continue;
            }
            if before(stop, edit.start) || !is_ours && stop == edit.start {
                break;
            }
            if !self.copy(at, edit.start, offset) || !self.put(text, edit.start, offset)? {
                return Ok(false);
            }
            at = if before(at, edit.end()) { edit.end() } else { at };
            offset = offset.wrapping_add(edit.growth());
        }
        Ok(self.copy(at, stop, offset))
    }

    /// Writes a text; `false`: it did not fit any more.
    fn put(&mut self, text: &[u8], at: u32, offset: u32) -> Result<bool, DropReason> {
        if self.out.len() + text.len() > self.limit {
            return if self.start.is_none() { Err(DropReason::MtuExceeded) } else { Ok(false) };
        }
        self.start.get_or_insert(at.wrapping_add(offset));
        self.out.extend_from_slice(text);
        self.is_text = true;
        Ok(true)
    }

    /// Copies the sender's octets from `at` to `stop`, if there are any; `false`: not all fitted.
    fn copy(&mut self, at: u32, stop: u32, offset: u32) -> bool {
        if !before(at, stop) {
            return true;
        }
        let from = at.wrapping_sub(self.segment.sequence) as usize;
        let wanted = stop.wrapping_sub(at) as usize;
        let room = wanted.min(self.limit.saturating_sub(self.out.len()));
        let Some(octets) = self.segment.data.get(from..from + room) else { return false };
        if !octets.is_empty() {
            self.start.get_or_insert(at.wrapping_add(offset));
            self.out.extend_from_slice(octets);
        }
        room == wanted
    }
}
