//! The choice of a real server for a new connection.
//!
//! All workers share a service's [`SchedulerState`], so that the sequence is the service's and
//! not each worker's. Servers are walked in table order: the last configured first, as in IPVS,
//! whose lists grow at the head.

mod least_connections;
mod round_robin;
mod weighted_round_robin;

use std::sync::atomic::AtomicU64;

use super::table::Server;
use super::{SchedulerKind, ServerLoads};

/// Where a service's rotation stands; survives new versions of the table.
#[derive(Debug, Default)]
pub struct SchedulerState {
    /// Meaning by scheduler; 0 is its beginning.
    cursor: AtomicU64,
}

/// A scheduler with what it precomputed of the servers' weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheduler {
    /// rr
    RoundRobin,
    /// wrr
    WeightedRoundRobin(weighted_round_robin::Weights),
    /// lc
    LeastConnections,
    /// wlc
    WeightedLeastConnections,
}

impl Scheduler {
    /// Prepares a scheduler for these servers.
    pub fn new<A>(kind: SchedulerKind, servers: &[Server<A>]) -> Self {
        match kind {
            SchedulerKind::RoundRobin => Self::RoundRobin,
            SchedulerKind::WeightedRoundRobin => Self::WeightedRoundRobin(
                weighted_round_robin::Weights::of(servers.iter().map(|server| server.weight)),
            ),
            SchedulerKind::LeastConnections => Self::LeastConnections,
            SchedulerKind::WeightedLeastConnections => Self::WeightedLeastConnections,
        }
    }

    /// The server of the next connection; `None` when every weight is 0.
    #[inline]
    pub fn pick<'s, A>(
        &self,
        servers: &'s [Server<A>],
        state: &SchedulerState,
        loads: &ServerLoads,
    ) -> Option<&'s Server<A>> {
        match self {
            Self::RoundRobin => round_robin::pick(servers, &state.cursor),
            Self::WeightedRoundRobin(weights) => weights.pick(servers, &state.cursor),
            Self::LeastConnections => least_connections::least(servers, loads),
            Self::WeightedLeastConnections => least_connections::least_weighted(servers, loads),
        }
    }
}

#[cfg(test)]
mod tests;
