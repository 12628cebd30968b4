//! Restart without losing connections: what a director knows of them goes into a file when it stops,
//! and out of it when it starts again (`file`); or from the running director to the one that takes
//! its place (`upgrade`, `successor`). Both are one stream of records (`codec`), which `sender`
//! fills and `receiver` gives to the workers.

pub mod codec;
pub mod file;
pub mod receiver;
pub mod sender;
pub mod successor;
mod listeners;
mod succession;
mod upgrade;

use std::io;
use std::sync::Arc;

pub use receiver::{Import, Taken};
pub(super) use succession::{NoUpgrade, Parts, Succession, UpgradeRequest};
pub use successor::{Successor, SuccessorError};
pub(super) use upgrade::{Ending, Upgrade, UpgradeParts};

use crate::dataplane::handover::Expectations;
use crate::wire::flow_key::HashSecret;

/// What handing connections over takes besides what the control thread has anyway.
#[derive(Debug)]
pub struct HandoverPlant {
    /// The data connections that helpers expect.
    pub expectations: Arc<Expectations>,
    /// Which worker a flow is of depends on this.
    pub secret: HashSecret,
    /// The time stamp counter.
    pub clock: fn() -> u64,
    /// Keeps descriptors of this process from programs that it starts.
    pub keep_descriptors: fn() -> io::Result<()>,
    /// What was taken over at the start.
    pub taken: Option<Taken>,
}
