//! One direction of a helped connection: finds lines across segments, replaces their text, and
//! keeps the two sequence spaces apart that come of it.
//!
//! *Here* is the sender's sequence space, *there* the receiver's. A line that may still become one
//! that matters is held until it is whole. What the receiver gets instead of what the sender sent
//! is an [`Edit`], kept until the receiver has acknowledged it: a retransmission of any part of
//! the line is given the same text again.

use arrayvec::ArrayVec;
use serde::{Deserialize, Serialize};
use zerocopy::FromZeros;

use super::emission::{Edit, Emission, Segment, Writer, before};
use super::moved::Texts;
use crate::dataplane::stats::DropReason;
use crate::dataplane::sync::Stretch;
use crate::wire::U16;

/// Octets of the longest line that is looked at.
pub(super) const MAX_LINE: usize = 512;
/// Octets by which a text may grow: `227` with the longest address, or `EPRT` with one.
pub(super) const GROWTH: usize = 64;
/// Texts that are not acknowledged yet.
const EDITS: usize = 4;
/// Their octets, and those that are held.
pub(super) const TEXTS: usize = MAX_LINE + 2 * GROWTH + 128;
/// Octets that may be on their way when this begins: the largest window without scaling (RFC 9293
/// section 3.1).
const UNSEEN: u32 = 65_535;

/// What is written in the place of a line.
pub(super) type Text = ArrayVec<u8, { MAX_LINE + GROWTH }>;

/// What a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// It goes on as it is.
    Unchanged,
    /// The text that was written takes its place.
    Replaced,
}

/// What knows the lines.
pub(super) trait LineReader {
    /// Whether there are no lines any more: what follows is encrypted.
    fn is_over(&self) -> bool;

    /// Whether a line that begins so may matter.
    fn may_matter(&self, beginning: &[u8]) -> bool;

    /// Looks at a whole line that may matter, its end included.
    ///
    /// # Errors
    /// The segment is dropped for this reason; the line comes again.
    fn read(&mut self, line: &[u8], text: &mut Text) -> Result<Line, DropReason>;
}

/// One direction.
#[derive(Clone, Debug, FromZeros)]
#[repr(C)]
pub(super) struct Way {
    /// What was looked at ends here.
    next: u32,
    /// What is added to the sequence numbers before the first edit.
    offset: u32,
    /// What the receiver has acknowledged, there.
    acked: u32,
    /// What was acknowledged to the sender, here.
    told: u32,
    edits: [Edit; EDITS],
    /// The receive window that this sender stated last, as it stands in its segments.
    pub(super) window: U16,
    /// The timestamp that this sender sent last (RFC 7323); 0: none.
    pub(super) timestamp: [u8; 4],
    held: u16,
    used: u16,
    count: u8,
    /// In a line that does not matter.
    skips: u8,
    /// Octets of this way were looked at.
    has_begun: u8,
    /// Another director has read until here: the beginning of what comes next may be missing.
    resumes: u8,
    texts: [u8; TEXTS],
}

/// A [`Way`] on its way to another director.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WayImage {
    next: u32,
    offset: u32,
    acked: u32,
    told: u32,
    /// Where each begins, and how many octets it was and became.
    edits: ArrayVec<(u32, u16, u16), EDITS>,
    window: u16,
    timestamp: [u8; 4],
    held: u16,
    skips: u8,
    has_begun: u8,
    texts: Texts,
}

impl Way {
    /// All that is known.
    pub(super) fn image(&self) -> WayImage {
        let texts = self.texts.get(..usize::from(self.used)).unwrap_or_default();
        WayImage {
            next: self.next,
            offset: self.offset,
            acked: self.acked,
            told: self.told,
            edits: self.edits().iter().map(|edit| (edit.start, edit.old, edit.new)).collect(),
            window: self.window.get(),
            timestamp: self.timestamp,
            held: self.held,
            skips: self.skips,
            has_begun: self.has_begun,
            texts: texts.iter().copied().collect(),
        }
    }

    /// Goes on where another director was.
    pub(super) fn restore(&mut self, image: &WayImage) {
        self.begin(image.next);
        self.offset = image.offset;
        self.acked = image.acked;
        self.told = image.told;
        for (place, &(start, old, new)) in self.edits.iter_mut().zip(&image.edits) {
            *place = Edit { start, old, new };
        }
        for (place, octet) in self.texts.iter_mut().zip(&image.texts) {
            *place = *octet;
        }
        #[allow(clippy::cast_possible_truncation, reason = "both are bounded by these types")]
        let (count, used) = (image.edits.len() as u8, image.texts.len() as u16);
        (self.count, self.used) = (count, used);
        self.window = U16::new(image.window);
        self.timestamp = image.timestamp;
        self.held = image.held.min(used);
        self.skips = image.skips;
        self.has_begun = image.has_begun;
    }

    /// The sender's first octet will be `sequence`.
    pub(super) fn begin(&mut self, sequence: u32) {
        self.next = sequence;
        self.offset = 0;
        self.acked = sequence;
        self.told = sequence;
        self.held = 0;
        self.used = 0;
        self.count = 0;
        self.skips = 0;
        self.has_begun = 0;
        self.resumes = 0;
        self.window = U16::new(0);
        self.timestamp = [0; 4];
    }

    /// Goes on where another director has read until.
    pub(super) fn resume(&mut self, stretch: Stretch) {
        let Stretch { next, shift } = stretch;
        self.begin(next);
        self.offset = shift;
        self.acked = next.wrapping_add(shift);
        self.resumes = 1;
    }

    /// How far it has come: what is held was not read yet.
    pub(super) fn stretch(&self) -> Stretch {
        let next = self.passed();
        Stretch { next, shift: self.there(next).wrapping_sub(next) }
    }

    /// Whether what the other director still read may be missing here.
    fn may_skip_to(&self, sequence: u32) -> bool {
        let missing = sequence.wrapping_sub(self.next);
        self.resumes != 0 && self.has_begun == 0 && missing <= UNSEEN
    }

    /// What may have been sent on ends here.
    fn passed(&self) -> u32 {
        self.next.wrapping_sub(self.held.into())
    }

    fn edits(&self) -> &[Edit] {
        self.edits.get(..usize::from(self.count)).unwrap_or_default()
    }

    /// Looks at what is new in a segment. What cannot be looked at yet is left to come again;
    /// [`Way::emit`] cuts it off.
    ///
    /// # Errors
    /// Nothing of the segment can be sent on: it is to be dropped.
    pub(super) fn take(
        &mut self,
        segment: Segment<'_>,
        reader: &mut impl LineReader,
    ) -> Result<(), DropReason> {
        if before(self.next, segment.sequence) {
            if segment.end() == segment.sequence {
                return Ok(());
            }
            let may_skip = reader.is_over() || self.may_skip_to(segment.sequence);
            if self.held > 0 || !may_skip {
                return Err(DropReason::HelperOutOfOrder);
            }
            self.next = segment.sequence;
        }
        let known = self.next.wrapping_sub(segment.sequence) as usize;
        let mut fresh = segment.data.get(known..).unwrap_or_default();
        while !fresh.is_empty() {
            let line = fresh.iter().position(|octet| *octet == b'\n').map(|at| at + 1);
            let (now, later) =
                fresh.split_at_checked(line.unwrap_or(fresh.len())).unwrap_or_default();
            if let Err(reason) = self.look(now, line.is_some(), reader) {
                return self.stop(segment, reason);
            }
            fresh = later;
        }
        if segment.fin && segment.data_end() == self.next {
            if let Err(reason) = self.release() {
                return self.stop(segment, reason);
            }
            self.next = self.next.wrapping_add(1);
            self.has_begun = 1;
        }
        Ok(())
    }

    /// What comes before the obstacle goes on: until the receiver acknowledges it, the obstacle
    /// may stay.
    fn stop(&self, segment: Segment<'_>, reason: DropReason) -> Result<(), DropReason> {
        if before(segment.sequence, self.passed()) { Ok(()) } else { Err(reason) }
    }

    /// Notes what a segment says of its sender, if it reaches just as far as what was looked at.
    /// Others are old, or a stranger's guess (RFC 5961 section 1.2).
    pub(super) fn note(&mut self, segment: Segment<'_>, window: U16, timestamp: Option<[u8; 4]>) {
        if segment.end() == self.next {
            self.window = window;
            self.timestamp = timestamp.unwrap_or_default();
        }
    }

    /// Looks at a line or what there is of it.
    fn look(
        &mut self,
        part: &[u8],
        is_whole: bool,
        reader: &mut impl LineReader,
    ) -> Result<(), DropReason> {
        if self.skips != 0 {
            self.advance(part);
            self.skips = (!is_whole).into();
            return Ok(());
        }
        let mut line = ArrayVec::<u8, MAX_LINE>::new();
        let fits = line.try_extend_from_slice(self.held()).is_ok()
            && line.try_extend_from_slice(part).is_ok();
        if !fits || reader.is_over() || !reader.may_matter(&line) {
            self.release()?;
            self.advance(part);
            self.skips = (!is_whole).into();
            return Ok(());
        }
        // Before the reader does anything that cannot be done twice.
        let room = usize::from(self.used) + part.len() + GROWTH <= TEXTS;
        if !room || usize::from(self.count) >= EDITS {
            return Err(DropReason::HelperBusy);
        }
        if !is_whole {
            self.put(part);
            self.held = self.held.saturating_add(u16::try_from(part.len()).unwrap_or(0));
            self.advance(part);
            return Ok(());
        }
        let mut text = Text::new();
        let outcome = reader.read(&line, &mut text)?;
        if outcome == Line::Replaced && text.as_slice() != line.as_slice() {
            self.used = self.used.saturating_sub(self.held);
            self.put(&text);
            self.add_edit(line.len(), text.len());
            self.held = 0;
        } else {
            self.release()?;
        }
        self.advance(part);
        Ok(())
    }

    fn advance(&mut self, part: &[u8]) {
        #[allow(
            clippy::cast_possible_truncation,
            reason = "an IP packet has less than 2^16 octets"
        )]
        let octets = part.len() as u32;
        self.next = self.next.wrapping_add(octets);
        self.has_begun = 1;
    }

    fn held(&self) -> &[u8] {
        let from = usize::from(self.used.saturating_sub(self.held));
        self.texts.get(from..usize::from(self.used)).unwrap_or_default()
    }

    /// Appends to the texts; the caller has checked the room.
    fn put(&mut self, octets: &[u8]) {
        let from = usize::from(self.used);
        if let Some(room) = self.texts.get_mut(from..from + octets.len()) {
            room.copy_from_slice(octets);
            self.used += u16::try_from(octets.len()).unwrap_or(0);
        }
    }

    /// Octets from the first held one on became others.
    fn add_edit(&mut self, old: usize, new: usize) {
        let start = self.passed();
        let (old, new) = (u16::try_from(old).unwrap_or(0), u16::try_from(new).unwrap_or(0));
        if let Some(edit) = self.edits.get_mut(usize::from(self.count)) {
            *edit = Edit { start, old, new };
            self.count += 1;
        }
    }

    /// What was held goes on as it is.
    fn release(&mut self) -> Result<(), DropReason> {
        if self.held > 0 {
            if usize::from(self.count) >= EDITS {
                return Err(DropReason::HelperBusy);
            }
            self.add_edit(self.held.into(), self.held.into());
            self.held = 0;
        }
        Ok(())
    }

    /// What a segment that was looked at becomes. Data that is not the sender's is written to
    /// `out`, at most `limit` octets: the sender will send again what does not fit.
    ///
    /// # Errors
    /// Not even the first text fits.
    pub(super) fn emit(
        &self,
        segment: Segment<'_>,
        limit: usize,
        out: &mut Vec<u8>,
    ) -> Result<Emission, DropReason> {
        let passed = self.passed();
        let (end, fin) = (segment.data_end(), segment.fin);
        let plain = |sequence| Emission { sequence, changed: false, fin };
        if segment.data.is_empty() && !fin {
            return Ok(plain(self.probe_there(segment.sequence)));
        }
        if self.count == 0 && !before(passed, end) {
            return Ok(plain(segment.sequence.wrapping_add(self.offset)));
        }
        out.clear();
        let (edits, texts, offset) = (self.edits(), &self.texts, self.offset);
        let (start, is_text) = (None, false);
        let mut writer = Writer { segment, edits, texts, offset, limit, out, start, is_text };
        let is_whole = writer.write(self.told, if before(passed, end) { passed } else { end })?;
        let (start, is_text) = (writer.start, writer.is_text);
        let sequence = start.unwrap_or_else(|| {
            let at = segment.sequence;
            self.there(if before(passed, at) { passed } else { at })
        });
        let is_all = is_whole && !before(passed, end);
        Ok(Emission { sequence, changed: is_text || !is_all, fin: fin && is_all })
    }

    /// The sequence number there of one here; within an edit: where that begins.
    pub(super) fn there(&self, here: u32) -> u32 {
        let mut offset = self.offset;
        for edit in self.edits() {
            if !before(here, edit.end()) {
                offset = offset.wrapping_add(edit.growth());
            } else if before(edit.start, here) {
                return edit.start.wrapping_add(offset);
            }
        }
        here.wrapping_add(offset)
    }

    /// As [`Way::there`], for a segment without data: an acknowledgement, or a probe, which lies
    /// before what the receiver expects (RFC 9293 section 3.8.4).
    fn probe_there(&self, here: u32) -> u32 {
        let passed = self.passed();
        if !before(passed, here) {
            return self.there(here);
        }
        let expected = self.there(passed);
        // What lies beyond a gap may be of another length there.
        if before(here, self.next) { expected.wrapping_sub(1) } else { expected }
    }

    /// The sequence number here of one there; within an edit: where that begins, or ends.
    fn here(&self, there: u32, round_up: bool) -> u32 {
        let mut offset = self.offset;
        for edit in self.edits() {
            let start = edit.start.wrapping_add(offset);
            if !before(start, there) {
                break;
            }
            if before(there, start.wrapping_add(edit.new.into())) {
                return edit.edge(round_up);
            }
            offset = offset.wrapping_add(edit.growth());
        }
        there.wrapping_sub(offset)
    }

    /// The receiver acknowledges `there`: what the sender is told.
    pub(super) fn acknowledge(&mut self, there: u32) -> u32 {
        let end = self.there(self.passed());
        if before(end, there) {
            return self.catch_up(there.wrapping_sub(end));
        }
        // One that came late stays as old as it is: it is no duplicate of the newest.
        let is_late = before(there, self.acked);
        if !is_late {
            self.acked = there;
        }
        let here = if there == end { self.next } else { self.here(there, false) };
        self.forget_acknowledged();
        if before(self.told, here) {
            self.told = here;
        }
        if before(here, self.told) && !is_late { self.told } else { here }
    }

    /// The receiver claims more than was seen here. Before the first octet that may be so: what
    /// came before this began, and crossed it; reading goes on behind it. Afterwards all that the
    /// receiver can have has passed here. Then nothing changes, and the sender will know what to
    /// think of it (RFC 9293 section 3.10.7.4): anybody can guess acknowledgements.
    fn catch_up(&mut self, unseen: u32) -> u32 {
        let here = self.next.wrapping_add(unseen);
        if self.has_begun == 0 && unseen <= UNSEEN {
            self.next = here;
            self.told = here;
            self.acked = here;
        }
        here
    }

    fn forget_acknowledged(&mut self) {
        while let [edit, ..] = *self.edits() {
            let end = edit.start.wrapping_add(self.offset).wrapping_add(edit.new.into());
            if before(self.acked, end) {
                return;
            }
            self.offset = self.offset.wrapping_add(edit.growth());
            self.edits.copy_within(1.., 0);
            self.count -= 1;
            self.texts.copy_within(usize::from(edit.new)..usize::from(self.used), 0);
            self.used = self.used.saturating_sub(edit.new);
        }
    }

    /// What the sender can be told in the receiver's place, because octets are held and the
    /// receiver has everything before them. Else a sender that waits for an acknowledgement
    /// before it sends the rest of a line (RFC 896) would wait for its timer.
    pub(super) fn acknowledge_held(&mut self) -> Option<u32> {
        let has_all = self.held > 0 && self.acked == self.there(self.passed());
        has_all.then(|| {
            self.told = self.next;
            self.next
        })
    }

    /// A SACK block (RFC 2018) as the sender understands it; a text counts whole.
    pub(super) fn selective(&self, (left, right): (u32, u32)) -> (u32, u32) {
        let (left, right) = (self.here(left, true), self.here(right, false));
        (left, if before(right, left) { left } else { right })
    }
}
