//! Why a change is refused.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::control::config::{Diagnostic, field_at};
use crate::service::{CompileError, Listen};

/// Why a change is refused; nothing has changed then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is no such service.
    #[error("no virtual service {name:?}")]
    NoService {
        /// The name.
        name: String,
        /// The one that was probably meant.
        nearest: Option<String>,
    },
    /// The service has no such server.
    #[error("service {service:?} has no real server {server}")]
    NoServer {
        /// The service.
        service: String,
        /// The server.
        server: String,
        /// The one that was probably meant.
        nearest: Option<String>,
    },
    /// What would be in force is not valid.
    #[error("{}", .0.first().map_or("not valid", |problem| &*problem.message))]
    Invalid(Vec<Problem>),
    /// There are no connection tables for the address family.
    #[error(
        "service {service:?}: the director has started with no room for {family} connections \
         (ipv6_share is {share})"
    )]
    NoRoomForFamily {
        /// The service.
        service: String,
        /// IPv4 or IPv6.
        family: &'static str,
        /// Percent of the connections.
        share: u8,
    },
    /// The services cannot be compiled.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// A server of the table was never given a slot in the counters.
    #[error("server {server} of service {service} has no slot in the counters")]
    NoSlot {
        /// The service.
        service: Listen,
        /// The server.
        server: SocketAddr,
    },
}

/// Something wrong with what would be in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Where: `service[web].servers[10.0.0.11:8080].weight`, or a line of the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { field, message, help } = self;
        if let Some(field) = field {
            write!(f, "{field}: ")?;
        }
        f.write_str(message)?;
        help.as_ref().map_or(Ok(()), |help| write!(f, "; {help}"))
    }
}

impl Problem {
    /// What a check of `text` found.
    pub(super) fn of(diagnostic: &Diagnostic, text: &str) -> Self {
        let Diagnostic { message, help, note, .. } = diagnostic;
        let field = diagnostic.place.as_ref().and_then(|place| field_at(text, place));
        // Places in a text that nobody has seen help nobody.
        let help = help.clone().or_else(|| field.is_none().then(|| note.clone()).flatten());
        Self { field, message: message.clone(), help }
    }
}
