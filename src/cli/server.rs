//! `pointsman server`: real servers of the running director.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::json;

use super::change::{KeyValue, Manner};
use crate::control::api::client::ChangeCall;

const EXAMPLES: &str = "\
Examples:
  sudo pointsman server add web 10.0.0.13:8080 weight=2
  sudo pointsman server remove web 10.0.0.13:8080
  sudo pointsman set web/10.0.0.11:8080 weight=0

KEY=VALUE takes every key of a server (docs/configuration.md).";

/// Add and remove real servers.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Server {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Add a server to a service.
    Add {
        /// The service.
        service: String,
        /// Its address with its port.
        address: String,
        /// More keys of the server.
        #[arg(value_name = "KEY=VALUE")]
        keys: Vec<KeyValue>,
        #[command(flatten)]
        manner: Manner,
    },
    /// Remove a server from a service.
    Remove {
        /// The service.
        service: String,
        /// Its address with its port.
        address: String,
        /// What becomes of the connections: finish, reset or forget; otherwise as `on_removal` of
        /// the service says.
        #[arg(long, value_name = "ENDING")]
        connections: Option<String>,
        #[command(flatten)]
        manner: Manner,
    },
}

impl Server {
    pub(super) fn run(self) -> ExitCode {
        match self.action {
            Action::Add { service, address, keys, manner } => {
                let address = KeyValue::new("address", json!(address));
                let keys = keys.into_iter().chain([address]);
                manner.make_of(keys, |keys| ChangeCall::add_server(&service, keys))
            }
            Action::Remove { service, address, connections, manner } => manner.make(
                ChangeCall::remove_server(&service, &address).connections(connections.as_deref()),
            ),
        }
    }
}
