//! The transfer of everything to a director that joins: it asks, the active director tells the
//! beginning, all connections and templates, and the end, with the number of messages between. Who
//! has not got as many asks again.

use std::time::Duration;

use super::waiting::ByQueue;
use crate::wire::ipvs_sync::{Note, NoteKind};

/// How often it is asked.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// Without an answer for so long there is nobody who could give one: the active director is no
/// pointsman, or there is none.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often it is asked while everything is being told: the end may have been lost.
const REMIND_EVERY: Duration = Duration::from_secs(5);
/// How often a director says that it stands by.
const SAY_EVERY: Duration = Duration::from_secs(1);
/// After so long a director takes part with what it knows.
const LONGEST: Duration = Duration::from_secs(120);

/// What a standby knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It asks.
    Asking,
    /// It is told.
    Listening {
        /// Messages that the sender and this director counted at the beginning.
        sent: u32,
        received: u32,
        /// What was lost then.
        lost: u64,
    },
    /// It was told everything.
    Learnt,
}

/// What a standby does to learn everything.
#[derive(Debug)]
pub(super) struct Learning {
    asker: u64,
    number: u32,
    stage: Stage,
    since: Duration,
    ask_at: Duration,
    say_at: Duration,
    /// Somebody has answered.
    is_answered: bool,
    /// Messages with entries that came.
    received: u32,
}

impl Learning {
    /// `asker`: a random number.
    pub(super) const fn new(asker: u64) -> Self {
        Self {
            asker,
            number: 0,
            stage: Stage::Asking,
            since: Duration::ZERO,
            ask_at: Duration::ZERO,
            say_at: Duration::ZERO,
            is_answered: false,
            received: 0,
        }
    }

    /// From now on what this director knows grows old.
    pub(super) fn begin(&mut self, now: Duration) {
        *self = Self { since: now, number: self.number, ..Self::new(self.asker) };
        self.ask_anew(now);
    }

    fn ask_anew(&mut self, now: Duration) {
        self.number = self.number.wrapping_add(1);
        self.stage = Stage::Asking;
        self.ask_at = now;
    }

    /// What is to be sent.
    pub(super) fn ask(&mut self, now: Duration) -> Option<Note> {
        let every = match self.stage {
            Stage::Asking => ASK_EVERY,
            Stage::Listening { .. } => REMIND_EVERY,
            Stage::Learnt => return None,
        };
        if now < self.ask_at {
            return None;
        }
        self.ask_at = now + every;
        Some(Note { kind: NoteKind::Ask, asker: self.asker, number: self.number, messages: 0 })
    }

    /// That this director stands by, if it is time to say so.
    pub(super) fn stands_by(&mut self, now: Duration) -> Option<Note> {
        if now < self.say_at {
            return None;
        }
        self.say_at = now + SAY_EVERY;
        let number = u32::from(self.has_learnt());
        Some(Note { kind: NoteKind::StandsBy, asker: self.asker, number, messages: 0 })
    }

    /// A message with entries came.
    pub(super) fn count(&mut self) {
        self.received = self.received.wrapping_add(1);
    }

    /// What the active director says. `lost`: what found no room here so far.
    pub(super) fn hear(&mut self, note: &Note, lost: u64, now: Duration) {
        if note.asker != self.asker || note.number != self.number {
            return;
        }
        match (note.kind, self.stage) {
            (NoteKind::Begin, Stage::Asking | Stage::Listening { .. }) => {
                self.is_answered = true;
                self.ask_at = now + REMIND_EVERY;
                let (sent, received) = (note.messages, self.received);
                self.stage = Stage::Listening { sent, received, lost };
            }
            (NoteKind::End, Stage::Listening { sent, received, lost: before }) => {
                let told = note.messages.wrapping_sub(sent);
                let heard = self.received.wrapping_sub(received);
                if heard >= told && lost == before {
                    self.stage = Stage::Learnt;
                } else {
                    self.ask_anew(now);
                }
            }
            (NoteKind::Ask | NoteKind::Begin | NoteKind::End | NoteKind::StandsBy, _) => {}
        }
    }

    /// Whether it was told everything.
    pub(super) fn has_learnt(&self) -> bool {
        self.stage == Stage::Learnt
    }

    /// Whether this director may take over from one that works.
    pub(super) fn is_ready(&self, now: Duration) -> bool {
        let waited = now.saturating_sub(self.since);
        self.stage == Stage::Learnt || !self.is_answered && waited >= PATIENCE || waited >= LONGEST
    }

    /// In words.
    pub(super) fn shown(&self, now: Duration) -> Knowledge {
        match self.stage {
            Stage::Learnt => Knowledge::Learnt,
            Stage::Listening { .. } => Knowledge::Learning,
            Stage::Asking if self.is_answered => Knowledge::Learning,
            Stage::Asking if self.is_ready(now) => Knowledge::Unanswered,
            Stage::Asking => Knowledge::Asking,
        }
    }
}

/// How much a director knows of the other one's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::control) enum Knowledge {
    /// Connections are not synchronised.
    Off = 0,
    /// It is the one that tells.
    Telling,
    /// It has asked for everything.
    Asking,
    /// It is told everything.
    Learning,
    /// It was told everything, and is told what changes.
    Learnt,
    /// Nobody tells everything; it is told what changes, if anything.
    Unanswered,
}

impl Knowledge {
    /// All that there is to say.
    pub(in crate::control) const ALL: [Self; 6] =
        [Self::Off, Self::Telling, Self::Asking, Self::Learning, Self::Learnt, Self::Unanswered];

    pub(super) fn from_number(number: u8) -> Self {
        let mut all = Self::ALL.into_iter();
        all.find(|known| *known as u8 == number).unwrap_or(Self::Off)
    }

    /// Its name.
    pub(in crate::control) const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Telling => "telling",
            Self::Asking => "asking",
            Self::Learning => "learning",
            Self::Learnt => "learnt",
            Self::Unanswered => "unanswered",
        }
    }
}

/// Who asks, and the number of the transfer.
type Asked = (u64, u32);

/// Those that may ask at once.
const ASKERS: usize = 8;

/// What the active director does for those that ask.
#[derive(Debug, Default)]
pub(super) struct Telling {
    /// They wait for the next transfer.
    next: Vec<Asked>,
    /// They are told now.
    now: Vec<Asked>,
    /// By queue: connections that were collected and have to be sent before the end; `None`: the
    /// workers are not done.
    left: Option<ByQueue>,
}

impl Telling {
    /// Somebody asks.
    pub(super) fn hear(&mut self, note: &Note) {
        let asked = (note.asker, note.number);
        if note.kind != NoteKind::Ask || self.now.contains(&asked) {
            return;
        }
        self.next.retain(|(asker, _)| *asker != note.asker);
        if self.next.len() < ASKERS {
            self.next.push(asked);
        }
    }

    /// Begins a transfer if it is time to; who is to hear of that.
    pub(super) fn begin(&mut self) -> &[Asked] {
        if !self.now.is_empty() || self.next.is_empty() {
            return &[];
        }
        self.now = std::mem::take(&mut self.next);
        self.left = None;
        &self.now
    }

    /// So many connections were sent; whether the workers are done, and how much waits then.
    pub(super) fn go_on(&mut self, sent: ByQueue, is_transferred: bool, waiting: ByQueue) {
        self.left = match self.left {
            Some([plain, own]) => {
                Some([plain.saturating_sub(sent[0]), own.saturating_sub(sent[1])])
            }
            None => (is_transferred && !self.now.is_empty()).then_some(waiting),
        };
    }

    /// Ends a transfer if everything was sent; who is to hear of that.
    pub(super) fn end(&mut self) -> Vec<Asked> {
        if self.left != Some([0, 0]) {
            return Vec::new();
        }
        self.left = None;
        std::mem::take(&mut self.now)
    }

    /// This director is not the active one any more.
    pub(super) fn stop(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn who_stands_by_says_so_every_second_and_whether_it_knows_all() {
        let mut learning = Learning::new(7);
        learning.begin(SECOND);
        let said = |learning: &mut Learning, at| learning.stands_by(at).map(|note| note.number);
        assert_eq!(said(&mut learning, SECOND), Some(0));
        assert_eq!(said(&mut learning, SECOND * 3 / 2), None);
        assert_eq!(said(&mut learning, SECOND * 2), Some(0));
        let asked = (7, learning.number);
        learning.hear(&note(NoteKind::Begin, asked, 0), 0, SECOND * 2);
        learning.hear(&note(NoteKind::End, asked, 0), 0, SECOND * 2);
        assert_eq!(said(&mut learning, SECOND * 3), Some(1));
    }

    fn note(kind: NoteKind, (asker, number): Asked, messages: u32) -> Note {
        Note { kind, asker, number, messages }
    }

    #[test]
    fn a_standby_has_learnt_when_as_many_messages_came_as_were_sent() {
        let mut learning = Learning::new(7);
        learning.begin(SECOND);
        let asked = learning.ask(SECOND).unwrap();
        let asked = (asked.asker, asked.number);
        assert!(!learning.is_ready(SECOND));
        learning.hear(&note(NoteKind::Begin, asked, 100), 0, SECOND);
        (0..5).for_each(|_| learning.count());
        // One is missing.
        learning.hear(&note(NoteKind::End, asked, 106), 0, SECOND);
        assert_eq!(learning.shown(SECOND), Knowledge::Learning);
        let again = learning.ask(SECOND).unwrap();
        assert_ne!(again.number, asked.1);
        let again = (again.asker, again.number);
        learning.hear(&note(NoteKind::Begin, again, 106), 0, SECOND);
        (0..6).for_each(|_| learning.count());
        // One found no room.
        learning.hear(&note(NoteKind::End, again, 112), 1, SECOND);
        assert!(!learning.is_ready(SECOND));
        let third = learning.ask(SECOND).unwrap();
        let third = (third.asker, third.number);
        learning.hear(&note(NoteKind::Begin, third, 112), 1, SECOND);
        learning.hear(&note(NoteKind::End, again, 112), 1, SECOND);
        assert!(!learning.is_ready(SECOND), "the end of another one");
        learning.hear(&note(NoteKind::End, third, 112), 1, SECOND);
        assert!(learning.is_ready(SECOND));
        assert_eq!(learning.ask(SECOND * 100), None);
    }

    #[test]
    fn a_lost_end_is_asked_for_and_without_an_answer_nobody_is_waited_for() {
        let mut learning = Learning::new(7);
        learning.begin(SECOND);
        let asked = learning.ask(SECOND).unwrap();
        assert_eq!(learning.ask(SECOND), None);
        assert_eq!(learning.ask(SECOND * 2), Some(asked));
        assert!(!learning.is_ready(SECOND * 3) && learning.is_ready(SECOND * 4));
        learning.hear(&note(NoteKind::Begin, (7, asked.number), 0), 0, SECOND * 5);
        assert!(!learning.is_ready(SECOND * 6));
        assert_eq!(learning.ask(SECOND * 9), None);
        assert_eq!(learning.ask(SECOND * 11), Some(asked));
        assert!(learning.is_ready(SECOND * 121));
    }

    #[test]
    fn all_that_ask_are_told_of_the_beginning_and_the_end() {
        let mut telling = Telling::default();
        assert!(telling.begin().is_empty());
        telling.hear(&note(NoteKind::Ask, (1, 1), 0));
        telling.hear(&note(NoteKind::Ask, (2, 5), 0));
        assert_eq!(telling.begin(), [(1, 1), (2, 5)]);
        // While that goes on.
        telling.hear(&note(NoteKind::Ask, (1, 1), 0));
        telling.hear(&note(NoteKind::Ask, (3, 1), 0));
        assert!(telling.begin().is_empty());
        telling.go_on([10, 0], false, [50, 2]);
        assert!(telling.end().is_empty());
        telling.go_on([10, 0], true, [50, 2]);
        assert!(telling.end().is_empty());
        // News overtakes what waits in the other queue.
        telling.go_on([900, 1], true, [900, 1]);
        assert!(telling.end().is_empty());
        telling.go_on([0, 1], true, [900, 0]);
        assert_eq!(telling.end(), [(1, 1), (2, 5)]);
        assert_eq!(telling.begin(), [(3, 1)]);
    }
}
