//! `pointsman set` and `pointsman timeout`: keys of what is there.

use std::process::ExitCode;

use clap::Args;

use super::change::{KeyValue, Manner};
use super::{Socket, output};
use crate::control::api::client::ChangeCall;

const SET_EXAMPLES: &str = "\
Examples:
  sudo pointsman set web scheduler=wrr
  sudo pointsman set web/10.0.0.11:8080 weight=0     takes no new connections
  sudo pointsman set web timeouts.established=1h
  sudo pointsman set web scheduler=                  back to its default";

/// Set keys of a service or of one of its servers.
#[derive(Debug, Args)]
#[command(after_help = SET_EXAMPLES)]
pub(super) struct Set {
    /// The service, or a server of it: web, web/10.0.0.11:8080.
    #[arg(value_name = "SERVICE[/SERVER]")]
    what: String,
    /// What is set; without a value the key gets its default.
    #[arg(value_name = "KEY=VALUE", required = true)]
    keys: Vec<KeyValue>,
    #[command(flatten)]
    manner: Manner,
}

impl Set {
    pub(super) fn run(self) -> ExitCode {
        let Self { what, keys, manner } = self;
        manner.make_of(keys, |keys| match what.split_once('/') {
            Some((service, server)) => ChangeCall::set_server(service, server, keys),
            None => ChangeCall::set_service(&what, keys),
        })
    }
}

const TIMEOUT_EXAMPLES: &str = "\
Examples:
  sudo pointsman timeout                             show them
  sudo pointsman timeout established=15m udp=5m
  sudo pointsman timeout udp=                        back to its default

Connections that live get a new idle time with their next change of state; those that begin, at
once.";

/// Show or set the idle times of connections.
#[derive(Debug, Args)]
#[command(after_help = TIMEOUT_EXAMPLES)]
pub(super) struct Timeout {
    /// What is set; nothing: show them.
    #[arg(value_name = "KEY=VALUE")]
    keys: Vec<KeyValue>,
    #[command(flatten)]
    manner: Manner,
}

impl Timeout {
    pub(super) fn run(self) -> ExitCode {
        let Self { keys, manner } = self;
        if keys.is_empty() {
            return show(manner.into_socket());
        }
        manner.make_of(keys, ChangeCall::set_timeouts)
    }
}

fn show((socket, as_json): (Socket, bool)) -> ExitCode {
    socket.ask(async move |client| {
        let timeouts = client.timeouts().await?;
        if as_json {
            return super::json(&timeouts);
        }
        let mut table = output::table(&["STATE", "IDLE TIME"], 2);
        for (state, idle) in &timeouts {
            table.add_row([state, idle]);
        }
        Ok(table.trim_fmt() + "\n")
    })
}
