//! What decides about a template, in one word, so that one compare-exchange decides it.

use crate::ids::{ServerSlot, ServiceId};

/// A template: whose it is, in short, and its server. From the top: the service, the server's
/// slot, a part of the client's hash, how often the word has changed, and its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word(pub(super) u64);

/// The state of a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Proposed by a worker; nobody goes by it yet.
    Proposed = 1,
    /// In force; what lies beside the word is being written.
    Agreed = 2,
    /// In force, and whole.
    Settled = 3,
}

const STATE_BITS: u32 = 2;
/// So many that no worker is away from a place for as many changes of it.
const TURN_BITS: u32 = 10;
const TAG_BITS: u32 = 20;
const TAG_SHIFT: u32 = STATE_BITS + TURN_BITS;
const SLOT_SHIFT: u32 = TAG_SHIFT + TAG_BITS;
const SERVICE_SHIFT: u32 = SLOT_SHIFT + 16;

/// What of a word says whose it is.
const OWNER: u64 = 0xffff << SERVICE_SHIFT | ((1 << TAG_BITS) - 1) << TAG_SHIFT;

impl Word {
    /// Whose a template of this service and a client with this hash is: without server or state.
    pub(super) fn owner(service: ServiceId, hash: u64) -> Self {
        let tag = hash >> (64 - TAG_BITS);
        Self(u64::from(service.0) << SERVICE_SHIFT | tag << TAG_SHIFT)
    }

    fn with(self, slot: ServerSlot, turn: u64, state: State) -> Self {
        let turn = (turn & ((1 << TURN_BITS) - 1)) << STATE_BITS;
        Self(self.0 & OWNER | u64::from(slot.0) << SLOT_SHIFT | turn | state as u64)
    }

    const fn turn(self) -> u64 {
        self.0 >> STATE_BITS & ((1 << TURN_BITS) - 1)
    }

    /// A proposal in the place of `before`.
    pub(super) fn propose(self, slot: ServerSlot, before: Self) -> Self {
        self.with(slot, before.turn() + 1, State::Proposed)
    }

    /// The same, in force.
    pub(super) fn agreed(self) -> Self {
        self.with(self.slot(), self.turn(), State::Agreed)
    }

    /// The same, in force and whole; a settled one changes too.
    pub(super) fn settled(self) -> Self {
        self.with(self.slot(), self.turn() + 1, State::Settled)
    }

    /// No template any more.
    pub(super) const fn freed(self) -> Self {
        Self(((self.turn() + 1) & ((1 << TURN_BITS) - 1)) << STATE_BITS)
    }

    /// Whether it is no template; so is the word 0.
    pub(super) const fn is_free(self) -> bool {
        self.0 & ((1 << STATE_BITS) - 1) == 0
    }

    pub(super) const fn is_proposed(self) -> bool {
        self.0 & ((1 << STATE_BITS) - 1) == State::Proposed as u64
    }

    pub(super) const fn is_settled(self) -> bool {
        self.0 & ((1 << STATE_BITS) - 1) == State::Settled as u64
    }

    /// Whether it is in force.
    pub(super) const fn is_in_force(self) -> bool {
        !self.is_free() && !self.is_proposed()
    }

    /// Whether it may be the template of this owner: certainly not, if not.
    pub(super) const fn may_be_of(self, owner: Self) -> bool {
        !self.is_free() && self.0 & OWNER == owner.0
    }

    #[allow(clippy::cast_possible_truncation, reason = "taken apart as it was put together")]
    pub(super) const fn slot(self) -> ServerSlot {
        ServerSlot((self.0 >> SLOT_SHIFT) as u16)
    }

    #[allow(clippy::cast_possible_truncation, reason = "taken apart as it was put together")]
    pub(super) const fn service(self) -> ServiceId {
        ServiceId((self.0 >> SERVICE_SHIFT) as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_keeps_what_it_was_made_of_through_every_change() {
        let owner = Word::owner(ServiceId(65_534), u64::MAX);
        let mut word = Word(0);
        for round in 0..200_u16 {
            let slot = ServerSlot(round.wrapping_mul(331));
            let proposed = owner.propose(slot, word);
            assert!(proposed.is_proposed() && !proposed.is_settled() && !proposed.is_free());
            let agreed = proposed.agreed();
            assert!(!proposed.is_in_force() && agreed.is_in_force() && !agreed.is_settled());
            word = agreed.settled();
            assert!(word.is_settled() && word.is_in_force());
            assert_ne!(word, word.settled(), "a change can be seen");
            for word in [proposed, agreed, word, word.settled()] {
                assert_eq!((word.slot(), word.service()), (slot, ServiceId(65_534)));
                assert!(word.may_be_of(owner));
                assert!(!word.may_be_of(Word::owner(ServiceId(65_533), u64::MAX)));
                assert!(!word.may_be_of(Word::owner(ServiceId(65_534), 1 << 41)));
            }
        }
        let freed = word.freed();
        assert!(freed.is_free() && Word(0).is_free() && !freed.is_in_force());
        assert_ne!(owner.propose(ServerSlot(0), freed), owner.propose(ServerSlot(0), Word(0)));
        assert!(!Word(0).may_be_of(Word::owner(ServiceId(0), 0)));
    }
}
