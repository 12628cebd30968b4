//! What the operator configures: virtual services, their real servers, the schedulers, and the
//! immutable [`ServiceTable`] that the workers look services up in. The contract between the
//! control thread and the workers.

mod virtual_service;
mod real_server;
mod timeouts;

pub use real_server::RealServer;
pub use timeouts::{TimeoutPreset, Timeouts};
pub use virtual_service::{Listen, Protocol, SchedulerKind, VirtualService};
