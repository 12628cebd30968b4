//! What ipvsadm's language asks of a director.

use std::io;

use super::command::{ServerSpec, ServiceKey, ServiceSpec, Timeouts};
use super::rows::{ConnectionRow, ServiceRow};

/// Why something is not done; nothing has changed then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The service, or the server of the service, is there already.
    Exists,
    /// There is no such service.
    NoService,
    /// The service has no such server.
    NoServer,
    /// There is no such scheduler or persistence engine.
    NoScheduler,
    /// The lower threshold is above the upper one.
    OutOfRange,
    /// It cannot be for another reason, in a line.
    Other(String),
    /// Nobody answers, or not to this user.
    Unreachable(String),
}

/// Why a listing is cut short.
#[derive(Debug)]
pub enum Failure {
    /// The director refuses.
    Refused(Refusal),
    /// The output cannot be written.
    Output(io::Error),
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// Takes connections one after the other.
pub type ConnectionSink<'a> = dyn FnMut(&ConnectionRow) -> io::Result<()> + 'a;

/// A director, as ipvsadm speaks to the kernel.
///
/// Every change is whole: it is in force at all workers when it returns, or it is refused.
pub trait Director {
    /// How many connections fit, which listings show as `size`.
    fn capacity(&mut self) -> Result<u64, Refusal>;
    /// Every service, in the director's order.
    fn services(&mut self) -> Result<Vec<ServiceRow>, Refusal>;
    /// Every connection and every template, into `sink`.
    fn connections(&mut self, sink: &mut ConnectionSink<'_>) -> Result<(), Failure>;
    /// Idle times of connections.
    fn timeouts(&mut self) -> Result<Timeouts, Refusal>;
    /// Adds a service without servers.
    fn add_service(&mut self, service: &ServiceSpec) -> Result<(), Refusal>;
    /// Makes a service as stated; it keeps its servers.
    fn edit_service(&mut self, service: &ServiceSpec) -> Result<(), Refusal>;
    /// Removes a service with its servers.
    fn delete_service(&mut self, service: &ServiceKey) -> Result<(), Refusal>;
    /// Removes every service.
    fn clear(&mut self) -> Result<(), Refusal>;
    /// Adds a server to a service.
    fn add_server(&mut self, service: &ServiceKey, server: &ServerSpec) -> Result<(), Refusal>;
    /// Makes a server of a service as stated.
    fn edit_server(&mut self, service: &ServiceKey, server: &ServerSpec) -> Result<(), Refusal>;
    /// Removes a server from a service.
    fn delete_server(
        &mut self,
        service: &ServiceKey,
        server: std::net::SocketAddr,
    ) -> Result<(), Refusal>;
    /// Sets the counters of a service, or of all, back to 0.
    fn zero(&mut self, service: Option<&ServiceKey>) -> Result<(), Refusal>;
    /// Sets idle times; one that is 0 stays as it is.
    fn set_timeouts(&mut self, timeouts: Timeouts) -> Result<(), Refusal>;
}
