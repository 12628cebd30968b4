//! How workers that schedule one client at the same time agree on one server, without waiting for
//! each other:
//!
//! 1. A worker that finds no template in the window of places where it may be *proposes* one in a
//!    free place, and looks through the window again.
//! 2. Of several proposals that for the first place counts; whoever sees them undoes the others. A
//!    template in force goes before any proposal.
//! 3. A proposal that was there before a worker looked through the whole window, and is the only
//!    one, is put in force, by any worker. What is proposed later is proposed by a worker that then
//!    looks again, and sees this one.

use std::sync::atomic::Ordering::Relaxed;

use super::word::Word;
use super::{Ask, Templates};
use crate::ids::ServerSlot;
use crate::service::ServerLoads;

/// How often a worker looks through the window at most. But for a few times, somebody has decided
/// something meanwhile.
const ROUNDS: usize = 64;

/// What a worker sees that looks through a window. Places by number.
#[derive(Default)]
struct Look {
    /// In force, and its server is good.
    good: Option<(usize, Word)>,
    /// The first proposal.
    proposed: Option<(usize, Word)>,
    /// The template of the same client, but its time is over, or its server takes nothing new.
    stale: Option<(usize, Word)>,
    /// Nobody's, or nobody's any more.
    free: Option<(usize, Word)>,
}

impl Templates {
    /// Makes a template, or takes what another worker makes. `None`: there is no room.
    #[cold]
    pub(super) fn agree(
        &self,
        loads: &ServerLoads,
        ask: &Ask,
        accepts: impl Fn(ServerSlot) -> bool,
        scheduled: ServerSlot,
    ) -> Option<ServerSlot> {
        let (start, owner) = self.of(&ask.key);
        // A proposal that was there before the next look.
        let mut earlier = None;
        for _ in 0..ROUNDS {
            let Some(look) = self.look(start, owner, ask, &accepts) else { continue };
            let decided = match look {
                Look { good: Some((number, word)), proposed, .. } => {
                    let is_alone = proposed.is_none_or(|(other, word)| self.undo(other, word));
                    let place = self.places.get(number)?;
                    (is_alone && Self::extend(place, word, ask)).then_some(word)
                }
                Look { proposed: Some(proposed), .. } => {
                    let was_there = earlier.replace(proposed) == Some(proposed);
                    self.take_up(loads, ask, &accepts, proposed, was_there)
                }
                Look { stale, free, .. } => {
                    let (number, before) = stale.or(free)?;
                    let proposal = owner.propose(scheduled, before);
                    let is_made = self.replace(loads, number, before, proposal);
                    earlier = is_made.then_some((number, proposal)).or(earlier);
                    None
                }
            };
            if let Some(word) = decided {
                return Some(word.slot());
            }
        }
        None
    }

    /// A proposal that is the only one: undone if its server takes nothing new, put in force if it
    /// was there before this look. What is in force then.
    fn take_up(
        &self,
        loads: &ServerLoads,
        ask: &Ask,
        accepts: impl Fn(ServerSlot) -> bool,
        (number, word): (usize, Word),
        was_there: bool,
    ) -> Option<Word> {
        if !accepts(word.slot()) {
            self.undo(number, word);
            return None;
        }
        (was_there && self.settle(loads, ask, number, word)).then_some(word)
    }

    /// Looks through a window. `None`: something changed on the way.
    fn look(
        &self,
        start: usize,
        owner: Word,
        ask: &Ask,
        accepts: impl Fn(ServerSlot) -> bool,
    ) -> Option<Look> {
        let mut look = Look::default();
        for (number, place) in self.window(start) {
            let word = place.word();
            let at = Some((number, word));
            if word.is_proposed() {
                // One that is not this key's is nothing; of several the first counts.
                let mine = at.filter(|_| word.may_be_of(owner));
                let is_another = mine.is_some() && look.proposed.is_some();
                (!is_another || self.undo(number, word)).then_some(())?;
                look.proposed = look.proposed.or(mine);
            } else if word.is_free() || !Self::is_of(place, word, owner, &ask.key)? {
                let is_free = word.is_free() || place.is_over(word, ask.now);
                look.free = look.free.or(at.filter(|_| is_free));
            } else if place.lives(word, ask.now) && accepts(word.slot()) {
                look.good = look.good.or(at);
            } else {
                look.stale = look.stale.or(at);
            }
        }
        Some(look)
    }

    /// Takes a proposal back. Whether it was still there.
    fn undo(&self, number: usize, word: Word) -> bool {
        let is_undone =
            self.places.get(number).is_some_and(|place| place.change(word, word.freed()));
        if is_undone {
            self.used.fetch_sub(1, Relaxed);
        }
        is_undone
    }

    /// Puts a proposal in force. Who does so, and nobody else, writes what lies beside it.
    fn settle(&self, loads: &ServerLoads, ask: &Ask, number: usize, word: Word) -> bool {
        let Some(place) = self.places.get(number) else { return false };
        let agreed = word.agreed();
        if !place.change(word, agreed) {
            return false;
        }
        if let Some(load) = loads.of(word.slot()) {
            load.add_template();
        }
        for (half, new) in place.client.iter().zip(ask.key.client) {
            half.store(new, Relaxed);
        }
        place.expires.store(ask.now.after(ask.timeout_ms).0, Relaxed);
        place.held.store(ask.now.after(ask.hold_ms).0, Relaxed);
        // Where it is not there any more, it was forgotten: its decision stands.
        place.change(agreed, agreed.settled());
        true
    }
}
