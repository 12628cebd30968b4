//! What the API asks of the control loop.

use tokio::sync::oneshot;

use super::api::message::{Changed, Failure, Saved};
use super::desired::{Change, Refused};
use super::handover::UpgradeRequest;
use crate::dataplane::mailbox::ConnectionPage;
use crate::ids::WorkerId;

/// A request, with the way back.
#[derive(Debug)]
pub(super) enum Request {
    /// A page of one worker's connections. The reply is dropped when the worker owes too many.
    Connections { worker: WorkerId, page: ConnectionPage, reply: oneshot::Sender<ConnectionPage> },
    /// A change of what the operator wants.
    Change(ChangeRequest),
    /// What is wanted is to be written into the configuration file.
    Save(SaveRequest),
    /// A new director is to take the place of this one.
    Upgrade(UpgradeRequest),
}

/// A change that somebody asks for.
#[derive(Debug)]
pub(super) struct ChangeRequest {
    pub(super) change: Change,
    /// The version that the caller has decided by.
    pub(super) expected: Option<u64>,
    /// Only tell what would change.
    pub(super) dry_run: bool,
    /// Who asks, for the log.
    pub(super) origin: String,
    pub(super) reply: oneshot::Sender<Result<Changed, NotChanged>>,
}

/// Somebody wants the file written.
#[derive(Debug)]
pub(super) struct SaveRequest {
    pub(super) force: bool,
    pub(super) reply: oneshot::Sender<Result<Saved, Failure>>,
}

/// Why nothing has changed.
#[derive(Debug)]
pub(super) enum NotChanged {
    /// It is not valid.
    Refused(Refused),
    /// The caller has decided by another version.
    OtherVersion { expected: u64, version: u64 },
    /// A worker has not taken the last changes over.
    Straggler(WorkerId),
    /// A new director is about to take this one's place, and would not know.
    Upgrade,
}
