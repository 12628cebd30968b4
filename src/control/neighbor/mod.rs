//! The ARP and Neighbor Discovery cache: which Ethernet address is behind which IP address.
//!
//! A pure machine: it is told what happened and what time it is, and answers with [`Action`]s.
//! It never asks for one neighbour more than once in [`RETRY`], nor for all together faster than
//! [`SOLICITS_PER_SECOND`], whatever the workers ask for.

mod budget;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::time::Duration;

use hashbrown::HashMap;

use super::config::Config;
use super::handover::Taken;
use super::{Neighbor, ownership};
use crate::dataplane::mailbox::Command;
use crate::ids::WorkerId;
use crate::wire::ethernet::{Mac, is_group};
use budget::Budget;

/// Neighbours kept, besides the configured and the essential ones.
const CAPACITY: usize = 16_384;
/// Time to wait for an answer before asking again.
pub(super) const RETRY: Duration = Duration::from_secs(1);
/// Questions without answer after which a neighbour is unreachable.
const TRIES: u8 = 3;
/// Time after a failure before the neighbour is asked for again.
const HOLD_DOWN: Duration = Duration::from_secs(1);
/// Time after the hold-down before an essential neighbour is asked for although nobody wants it.
const ESSENTIAL_RETRY: Duration = Duration::from_secs(4);
/// Time for which an answer is believed (RFC 4861 section 10: `REACHABLE_TIME`).
const REACHABLE: Duration = Duration::from_secs(30);
/// Questions in a second, over all neighbours, and how many may come at once.
const SOLICITS_PER_SECOND: u32 = 1000;
const SOLICITS_AT_ONCE: u32 = 250;
/// Changes of one neighbour's Ethernet address that are believed in a second.
const CHANGES_PER_SECOND: u32 = 4;
/// Strangers that are remembered in a second because they asked for an address of ours.
const STRANGERS_PER_SECOND: u32 = 500;
/// Time until a question for which there was no budget is tried again.
const POSTPONED: Duration = Duration::from_millis(10);

/// What is to be done; [`Action::command`] says how the workers are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Ask the link who has the address.
    Ask(Neighbor),
    /// Ask the known station whether it is still there.
    Probe { neighbor: Neighbor, station: Mac, only_if_used: bool },
    /// Tell the Ethernet address, to one worker or all.
    Tell { neighbor: Neighbor, mac: Mac, permanent: bool, worker: Option<WorkerId> },
    /// Tell that there is none, to one worker or all.
    Unreachable { neighbor: Neighbor, worker: Option<WorkerId> },
}

/// Who is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Audience {
    /// Any one worker will do.
    Any,
    /// This worker.
    One(WorkerId),
    /// Every worker.
    All,
}

impl Action {
    /// Who is told.
    pub(super) fn audience(&self) -> Audience {
        match *self {
            Self::Ask(_) | Self::Probe { only_if_used: false, .. } => Audience::Any,
            Self::Probe { only_if_used: true, .. } => Audience::All,
            Self::Tell { worker, .. } | Self::Unreachable { worker, .. } => {
                worker.map_or(Audience::All, Audience::One)
            }
        }
    }

    /// What the workers are told.
    pub(super) fn command(&self) -> Command {
        match *self {
            Self::Ask(Neighbor { interface, address }) => {
                Command::Solicit { interface, address, station: None, only_if_used: false }
            }
            Self::Probe { neighbor, station, only_if_used } => Command::Solicit {
                interface: neighbor.interface,
                address: neighbor.address,
                station: Some(station),
                only_if_used,
            },
            Self::Tell { neighbor: Neighbor { interface, address }, mac, permanent, .. } => {
                Command::SetNeighbor { interface, address, mac, permanent }
            }
            Self::Unreachable { neighbor: Neighbor { interface, address }, .. } => {
                Command::NeighborUnreachable { interface, address }
            }
        }
    }
}

/// What is known of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Asked for; no answer yet.
    Incomplete { tries: u8 },
    /// It answered not long ago.
    Reachable { mac: Mac },
    /// It answered once, and is asked whether it is still there.
    Probing { mac: Mac, tries: u8 },
    /// It does not answer. Not asked for again before `until`.
    Failed { until: Duration, wanted: bool },
    /// Configured.
    Permanent { mac: Mac },
}

#[derive(Debug)]
struct Entry {
    state: State,
    /// When something is to be done; mirrored in `Neighbors::deadlines`.
    deadline: Option<Duration>,
    /// Never given up, and kept by the workers although nothing uses it.
    essential: bool,
    /// It spoke to us before anybody wanted it: gives way when the cache is full.
    stranger: bool,
    /// Limits believed changes of the Ethernet address.
    changes: Budget,
}

/// The cache. Time is counted from any one instant.
#[derive(Debug)]
pub(super) struct Neighbors {
    entries: HashMap<Neighbor, Entry, ahash::RandomState>,
    deadlines: BTreeSet<(Duration, Neighbor)>,
    capacity: usize,
    solicits: Budget,
    strangers: Budget,
    unsettled: BTreeSet<Neighbor>,
    actions: Vec<Action>,
}

impl Neighbors {
    /// A cache for at most `capacity` neighbours that are neither configured nor essential.
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            entries: HashMap::default(),
            deadlines: BTreeSet::new(),
            capacity,
            solicits: Budget::new(SOLICITS_PER_SECOND, SOLICITS_AT_ONCE),
            strangers: Budget::new(STRANGERS_PER_SECOND, STRANGERS_PER_SECOND),
            unsettled: BTreeSet::new(),
            actions: Vec::new(),
        }
    }

    /// With the neighbours that the configuration names, and those that the director before knew.
    pub(super) fn at_start(config: &Config, taken: Option<&Taken>, now: Duration) -> Self {
        let mut neighbors = Self::new(CAPACITY);
        for (neighbor, mac) in ownership::static_neighbors(config) {
            neighbors.add_permanent(neighbor, mac);
        }
        for neighbor in ownership::essential_neighbors(config) {
            neighbors.add_essential(now, neighbor);
        }
        for &(neighbor, mac) in taken.iter().flat_map(|taken| &taken.neighbors) {
            neighbors.restore(now, neighbor, mac);
        }
        neighbors
    }

    /// What is to be done since the last call.
    pub(super) fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// Essential neighbours that have neither answered nor failed to since the start.
    pub(super) fn unsettled(&self) -> &BTreeSet<Neighbor> {
        &self.unsettled
    }

    /// Those that answer, and where.
    pub(super) fn reachable(&self) -> impl Iterator<Item = (Neighbor, Mac)> {
        self.entries.iter().filter_map(|(neighbor, entry)| match entry.state {
            State::Reachable { mac } | State::Probing { mac, .. } => Some((*neighbor, mac)),
            State::Incomplete { .. } | State::Failed { .. } | State::Permanent { .. } => None,
        })
    }

    /// A neighbour that answered the director before this one.
    pub(super) fn restore(&mut self, now: Duration, neighbor: Neighbor, mac: Mac) {
        let is_essential = match self.entries.get(&neighbor).map(|known| known.state) {
            Some(State::Permanent { .. }) => return,
            Some(_) => true,
            None if self.entries.len() >= self.capacity => return,
            None => false,
        };
        if !is_essential {
            self.insert(neighbor, State::Incomplete { tries: 0 }, false);
        }
        // It is asked soon whether it is still there.
        self.seen(now, neighbor, mac, true);
    }

    /// A configured neighbour.
    pub(super) fn add_permanent(&mut self, neighbor: Neighbor, mac: Mac) {
        self.insert(neighbor, State::Permanent { mac }, true);
        self.actions.push(Action::Tell { neighbor, mac, permanent: true, worker: None });
    }

    /// A neighbour that the director cannot do without: asked for now, and never given up.
    pub(super) fn add_essential(&mut self, now: Duration, neighbor: Neighbor) {
        if let Some(entry) = self.entries.get_mut(&neighbor) {
            entry.essential = true;
        } else {
            self.insert(neighbor, State::Incomplete { tries: 0 }, true);
            self.unsettled.insert(neighbor);
            self.ask(now, neighbor, 0);
        }
    }

    /// From now on the director cannot do without these, and can without others that were
    /// essential. Nothing waits for them to settle.
    pub(super) fn require(&mut self, now: Duration, essential: &BTreeSet<Neighbor>) {
        let mut told = Vec::new();
        for (neighbor, entry) in &mut self.entries {
            let needed = essential.contains(neighbor);
            let mac = match entry.state {
                State::Permanent { .. } => continue,
                State::Reachable { mac } | State::Probing { mac, .. } => Some(mac),
                State::Incomplete { .. } | State::Failed { .. } => None,
            };
            if entry.essential != needed {
                entry.essential = needed;
                told.extend(mac.map(|mac| (*neighbor, mac, needed)));
            }
        }
        self.unsettled.retain(|neighbor| essential.contains(neighbor));
        for (neighbor, mac, permanent) in told {
            self.actions.push(Action::Tell { neighbor, mac, permanent, worker: None });
        }
        for &neighbor in essential {
            if !self.entries.contains_key(&neighbor) {
                self.insert(neighbor, State::Incomplete { tries: 0 }, true);
                self.ask(now, neighbor, 0);
            }
        }
    }

    /// A packet waits at a worker for this neighbour.
    pub(super) fn resolve(&mut self, now: Duration, worker: WorkerId, neighbor: Neighbor) {
        let Some(entry) = self.entries.get_mut(&neighbor) else {
            self.resolve_unknown(now, worker, neighbor);
            return;
        };
        entry.stranger = false;
        match &mut entry.state {
            State::Incomplete { .. } => {}
            State::Permanent { mac } | State::Reachable { mac } | State::Probing { mac, .. } => {
                let (mac, permanent, worker) = (*mac, entry.essential, Some(worker));
                self.actions.push(Action::Tell { neighbor, mac, permanent, worker });
            }
            State::Failed { until, .. } if now >= *until => self.ask(now, neighbor, 0),
            State::Failed { wanted, .. } => *wanted = true,
        }
    }

    fn resolve_unknown(&mut self, now: Duration, worker: WorkerId, neighbor: Neighbor) {
        if self.make_room() {
            self.insert(neighbor, State::Incomplete { tries: 0 }, false);
            self.ask(now, neighbor, 0);
        } else {
            self.actions.push(Action::Unreachable { neighbor, worker: Some(worker) });
        }
    }

    /// A worker heard the neighbour's Ethernet address. A neighbour that is not known yet is
    /// remembered only if the packet was meant for us (`answer`): it will want a reply.
    pub(super) fn seen(&mut self, now: Duration, neighbor: Neighbor, mac: Mac, answer: bool) {
        if is_group(&mac) || mac == [0; 6] {
            return;
        }
        let known = self.entries.contains_key(&neighbor);
        let welcome = known || answer && self.admit_stranger(now, neighbor);
        if !welcome {
            return;
        }
        let Some(entry) = self.entries.get_mut(&neighbor) else { return };
        let is_news = match entry.state {
            State::Permanent { .. } => return,
            State::Reachable { mac: known } | State::Probing { mac: known, .. } => known != mac,
            State::Incomplete { .. } | State::Failed { .. } => true,
        };
        if is_news {
            if !entry.changes.take(now) {
                return;
            }
            let permanent = entry.essential;
            self.actions.push(Action::Tell { neighbor, mac, permanent, worker: None });
        }
        entry.state = State::Reachable { mac };
        self.unsettled.remove(&neighbor);
        self.schedule(neighbor, Some(now + REACHABLE));
    }

    /// Does what is due.
    pub(super) fn tick(&mut self, now: Duration) {
        while let Some(&(deadline, neighbor)) = self.deadlines.first() {
            if deadline > now {
                return;
            }
            self.schedule(neighbor, None);
            self.due(now, neighbor);
        }
    }

    fn due(&mut self, now: Duration, neighbor: Neighbor) {
        let Some(entry) = self.entries.get(&neighbor) else { return };
        match entry.state {
            State::Incomplete { tries: TRIES.. } => self.fail(now, neighbor),
            State::Incomplete { tries } => self.ask(now, neighbor, tries),
            State::Reachable { mac } => self.probe(now, neighbor, mac, 0),
            State::Probing { tries: TRIES.., .. } => self.lose(now, neighbor),
            State::Probing { mac, tries } => self.probe(now, neighbor, mac, tries),
            State::Failed { wanted: true, .. } => self.ask(now, neighbor, 0),
            State::Failed { until, .. } if entry.essential => {
                let again = until + ESSENTIAL_RETRY;
                if now >= again {
                    self.ask(now, neighbor, 0);
                } else {
                    self.schedule(neighbor, Some(again));
                }
            }
            State::Failed { .. } => self.forget(neighbor),
            State::Permanent { .. } => {}
        }
    }

    /// Asks the link, `tries` questions having been asked.
    fn ask(&mut self, now: Duration, neighbor: Neighbor, tries: u8) {
        let granted = self.solicits.take(now);
        if granted {
            self.actions.push(Action::Ask(neighbor));
        }
        self.set_state(neighbor, State::Incomplete { tries: tries + u8::from(granted) });
        self.schedule(neighbor, Some(now + if granted { RETRY } else { POSTPONED }));
    }

    /// Asks the station, `tries` questions having been asked.
    fn probe(&mut self, now: Duration, neighbor: Neighbor, mac: Mac, tries: u8) {
        let only_if_used = self.entries.get(&neighbor).is_some_and(|entry| !entry.essential);
        let granted = self.solicits.take(now);
        if granted {
            self.actions.push(Action::Probe { neighbor, station: mac, only_if_used });
        }
        self.set_state(neighbor, State::Probing { mac, tries: tries + u8::from(granted) });
        self.schedule(neighbor, Some(now + if granted { RETRY } else { POSTPONED }));
    }

    /// Nobody answered the questions.
    fn fail(&mut self, now: Duration, neighbor: Neighbor) {
        let until = now + HOLD_DOWN;
        self.actions.push(Action::Unreachable { neighbor, worker: None });
        self.set_state(neighbor, State::Failed { until, wanted: false });
        self.schedule(neighbor, Some(until));
        self.unsettled.remove(&neighbor);
    }

    /// The station answers no more, or nothing uses it.
    fn lose(&mut self, now: Duration, neighbor: Neighbor) {
        if self.entries.get(&neighbor).is_some_and(|entry| entry.essential) {
            self.fail(now, neighbor);
        } else {
            self.actions.push(Action::Unreachable { neighbor, worker: None });
            self.forget(neighbor);
        }
    }

    /// A place for a stranger; they never get more than half of the cache.
    fn admit_stranger(&mut self, now: Duration, neighbor: Neighbor) -> bool {
        if self.deadlines.len() >= self.capacity / 2 || !self.strangers.take(now) {
            return false;
        }
        self.insert(neighbor, State::Incomplete { tries: 0 }, false);
        if let Some(entry) = self.entries.get_mut(&neighbor) {
            entry.stranger = true;
        }
        true
    }

    /// Whether one more neighbour fits, if need be in the place of one that does not answer or
    /// that nobody wanted.
    fn make_room(&mut self) -> bool {
        if self.deadlines.len() < self.capacity {
            return true;
        }
        // A bounded search: a full table is under attack, and time is short.
        let near = self.deadlines.iter().take(64).map(|(_, neighbor)| *neighbor);
        let victim = near.into_iter().find(|neighbor| {
            self.entries.get(neighbor).is_some_and(|entry| {
                let failed = matches!(entry.state, State::Failed { wanted: false, .. });
                !entry.essential && (failed || entry.stranger)
            })
        });
        let Some(victim) = victim else { return false };
        // The workers must not go on with what nobody looks after any more.
        self.actions.push(Action::Unreachable { neighbor: victim, worker: None });
        self.forget(victim);
        true
    }

    fn insert(&mut self, neighbor: Neighbor, state: State, essential: bool) {
        self.schedule(neighbor, None);
        let changes = Budget::new(CHANGES_PER_SECOND, CHANGES_PER_SECOND);
        let entry = Entry { state, deadline: None, essential, stranger: false, changes };
        self.entries.insert(neighbor, entry);
    }

    fn set_state(&mut self, neighbor: Neighbor, state: State) {
        if let Some(entry) = self.entries.get_mut(&neighbor) {
            entry.state = state;
        }
    }

    fn forget(&mut self, neighbor: Neighbor) {
        self.schedule(neighbor, None);
        self.entries.remove(&neighbor);
    }

    /// The one place where deadlines change.
    fn schedule(&mut self, neighbor: Neighbor, deadline: Option<Duration>) {
        let Some(entry) = self.entries.get_mut(&neighbor) else { return };
        if let Some(old) = entry.deadline {
            self.deadlines.remove(&(old, neighbor));
        }
        entry.deadline = deadline;
        if let Some(new) = deadline {
            self.deadlines.insert((new, neighbor));
        }
    }
}
