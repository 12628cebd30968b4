//! The control API: JSON over HTTP on a Unix socket. [`message`] is what both ends speak.

pub mod client;
pub mod message;
pub mod spec;
pub mod server;
mod call;
mod changes;
mod connections;
mod failover;
mod status;
mod templates;
mod upgrade;
mod zero;

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::observed::Observed;
use super::request::Request;

/// What the API may see, and how it asks the control loop.
#[derive(Clone, Debug)]
pub(super) struct Doors {
    pub(super) observed: Arc<Observed>,
    pub(super) requests: mpsc::Sender<Request>,
    /// The configuration file.
    pub(super) path: PathBuf,
}
