//! The control side: one thread, in a pair two more for failover; may allocate, never sees an mbuf.
//!
//! The director binds the [`Listeners`] before it starts anything, hands a [`Plant`] to
//! [`spawn`] once the workers exist, and tells the [`ControlThread`] to finish after they have
//! ended. Everything in between is one loop on one thread ([`run`](self)): events of the
//! workers, neighbours, signals, the API and metrics.

pub mod config;
pub mod api;
pub mod metrics;
mod listeners;
mod plant;
mod ownership;
mod desired;
pub mod failover;
pub mod handover;
mod acknowledgements;
mod announcements;
mod membership;
mod neighbor;
mod outbox;
mod rates;
mod observed;
mod http;
mod request;
mod pages;
mod run;
mod thread;
mod ledger;
mod service_manager;
#[cfg(test)]
mod test_config;

pub use desired::{Problem, Refused, at_start};
pub use failover::{FailoverPlant, LinkSource};
pub use handover::HandoverPlant;
pub use listeners::{Listeners, StartError};
pub use ownership::{
    essential_neighbors, moving_addresses, next_hop, owned_addresses, static_neighbors,
};
pub use plant::{
    BuildInfo, DeviceSource, HashCheck, Neighbor, Plant, PoolReport, PortCounters, PortReport,
    SteeringMode, WorkerHandle,
};
pub use thread::{ControlError, ControlThread, Reins, spawn};
