//! The choice of a real server for a new connection.
//!
//! All workers share a service's [`SchedulerState`], so that the sequence is the service's and
//! not each worker's. Servers are walked in table order: the last configured first, as in IPVS,
//! whose lists grow at the head.

mod kind;
mod rotation;
mod round_robin;
mod weighted_round_robin;
mod least_connections;
mod priority;
mod two_choices;
mod client_hash;
mod hashed;
mod maglev_hashing;
mod maglev;
mod locality;
mod locality_table;

use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;

use super::ServerLoads;
use super::table::Server;
use crate::clock::Tick;
use crate::wire::address::Address;
use crate::wire::flow_key::FlowKey;

pub use kind::{SchedulerFlag, SchedulerFlags, SchedulerKind};
pub(super) use rotation::History;

use hashed::Hashed;
use locality_table::LocalityTable;
use rotation::Rotation;

/// Where a service's rotation stands, and what its clients' destinations were given; survives new
/// versions of the table.
#[derive(Debug, Default)]
pub struct SchedulerState {
    /// See `rotation`; 0 is its beginning.
    cursor: AtomicU64,
    /// What random numbers are drawn from.
    draws: AtomicU64,
    /// Where the scheduler of some version needed it.
    localities: OnceLock<LocalityTable>,
}

/// How many destinations the clients of a service have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destinations {
    /// The VIP.
    One,
    /// Whatever a firewall mark is given to.
    Many,
}

/// Who asks for a server.
#[derive(Debug)]
pub struct Asking<'k, A: Address> {
    /// The first packet's addresses and ports.
    pub key: &'k FlowKey<A>,
    /// Now.
    pub now: Tick,
}

/// The servers that there are to choose from.
#[derive(Debug)]
pub(super) struct Candidates<'s, 'l, A> {
    pub(super) servers: &'s [Server<A>],
    pub(super) loads: &'l ServerLoads,
    /// Whether a server has a threshold.
    pub(super) limited: bool,
}

impl<'s, A> Candidates<'s, '_, A> {
    /// Whether a server has reached its upper threshold.
    #[inline]
    fn is_overloaded(&self, server: &Server<A>) -> bool {
        self.limited && self.loads.is_overloaded(server.slot)
    }

    /// Whether a server takes new connections.
    #[inline]
    pub(super) fn is_open(&self, server: &Server<A>) -> bool {
        server.weight > 0 && !self.is_overloaded(server)
    }

    /// Those that take new connections.
    #[inline]
    pub(super) fn open(&self) -> impl Iterator<Item = &'s Server<A>> {
        self.servers.iter().filter(|server| self.is_open(server))
    }
}

/// What a scheduler is prepared from.
#[derive(Debug)]
pub(super) struct Setup<'s, A> {
    pub(super) kind: SchedulerKind,
    pub(super) flags: SchedulerFlags,
    pub(super) servers: &'s [Server<A>],
    /// The weights that the servers had when they last had one above 0.
    pub(super) last_weights: &'s [u32],
    pub(super) destinations: Destinations,
    pub(super) state: &'s SchedulerState,
}

/// A scheduler with what it precomputed of the servers and their weights.
#[derive(Clone, Debug)]
pub(super) enum Scheduler {
    RoundRobin(Rotation),
    WeightedRoundRobin(Rotation, weighted_round_robin::Weights),
    LeastConnections,
    WeightedLeastConnections,
    Locality(locality::Places),
    LocalityReplicated(locality::Places),
    DestinationHashing(Hashed),
    SourceHashing(Hashed),
    ShortestExpectedDelay,
    NeverQueue,
    WeightedFailover,
    WeightedOverflow,
    MaglevHashing(Hashed),
    PowerOfTwoChoices,
    Maglev(Hashed),
}

impl Scheduler {
    /// Prepares a scheduler.
    pub(super) fn new<A: Address>(setup: &Setup<'_, A>, history: &mut History) -> Self {
        let rotation = history.go_on(setup.servers, &setup.state.cursor);
        match setup.kind {
            SchedulerKind::RoundRobin => Self::RoundRobin(rotation),
            SchedulerKind::WeightedRoundRobin => Self::WeightedRoundRobin(
                rotation,
                weighted_round_robin::Weights::of(setup.servers.iter().map(|server| server.weight)),
            ),
            SchedulerKind::LeastConnections => Self::LeastConnections,
            SchedulerKind::WeightedLeastConnections => Self::WeightedLeastConnections,
            SchedulerKind::LocalityLeastConnections => Self::Locality(locality::Places::new(setup)),
            SchedulerKind::LocalityLeastConnectionsReplicated => {
                Self::LocalityReplicated(locality::Places::new(setup))
            }
            SchedulerKind::DestinationHashing => {
                Self::DestinationHashing(Hashed::new(setup, history))
            }
            SchedulerKind::SourceHashing => Self::SourceHashing(Hashed::new(setup, history)),
            SchedulerKind::ShortestExpectedDelay => Self::ShortestExpectedDelay,
            SchedulerKind::NeverQueue => Self::NeverQueue,
            SchedulerKind::WeightedFailover => Self::WeightedFailover,
            SchedulerKind::WeightedOverflow => Self::WeightedOverflow,
            SchedulerKind::MaglevHashing => Self::MaglevHashing(Hashed::new(setup, history)),
            SchedulerKind::PowerOfTwoChoices => Self::PowerOfTwoChoices,
            SchedulerKind::Maglev => Self::Maglev(Hashed::new(setup, history)),
        }
    }

    /// The server of the next connection; `None` when none may take it.
    #[inline]
    pub(super) fn pick<'s, A: Address>(
        &self,
        from: &Candidates<'s, '_, A>,
        state: &SchedulerState,
        asking: &Asking<'_, A>,
    ) -> Option<&'s Server<A>> {
        match self {
            Self::RoundRobin(rotation) => round_robin::pick(from, rotation, &state.cursor),
            Self::WeightedRoundRobin(rotation, weights) => {
                weights.pick(from, rotation, &state.cursor)
            }
            Self::LeastConnections => least_connections::least(from),
            Self::WeightedLeastConnections => least_connections::least_weighted(from),
            Self::Locality(places) => places.pick(from, state, asking),
            Self::LocalityReplicated(places) => places.pick_replicated(from, state, asking),
            Self::DestinationHashing(hashed) => hashed.by_destination(from, asking.key),
            Self::SourceHashing(hashed) => hashed.by_source(from, asking.key),
            Self::ShortestExpectedDelay => least_connections::shortest_delay(from),
            Self::NeverQueue => least_connections::never_queue(from),
            Self::WeightedFailover => priority::failover(from),
            Self::WeightedOverflow => priority::overflow(from),
            Self::MaglevHashing(hashed) => hashed.by_maglev_hashing(from, asking.key),
            Self::PowerOfTwoChoices => two_choices::pick(from, &state.draws),
            Self::Maglev(hashed) => hashed.by_maglev(from, asking.key),
        }
    }
}

#[cfg(test)]
mod tests;
