//! The subcommands, a file each.

pub mod check;
mod completions;
mod change;
mod connections;
mod drain;
mod ha;
pub mod ipvsadm;
mod output;
mod reload;
mod run;
mod server;
mod service;
mod set;
mod status;
mod upgrade;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::control::api::client::{Client, ClientError};
use crate::control::config::DirectorConfig;

const EXAMPLES: &str = "\
Examples:
  pointsman check pointsman.toml          is this configuration good, and good here?
  sudo pointsman run --config pointsman.toml
                                          run the director; Ctrl-C stops it in order
  sudo pointsman status                   services, servers, connections, rates
  sudo pointsman status | head            what fits on the screen
  sudo pointsman server add web 10.0.0.13:8080
                                          one more real server, at once
  sudo pointsman reload --dry-run         what would the file change?
  curl http://127.0.0.1:9464/metrics      what Prometheus sees";

/// A Layer-4 load balancer (LVS NAT routing) on DPDK.
///
/// Clients connect to a virtual service; the director sends each connection to one of the real
/// servers and rewrites addresses on the way there and back.
#[derive(Debug, Parser)]
#[command(name = "pointsman", version = VERSION, after_help = EXAMPLES, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("POINTSMAN_COMMIT"), ")");

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Run),
    Check(Check),
    Status(status::Status),
    Connections(connections::Connections),
    Service(service::Service),
    Server(server::Server),
    Set(set::Set),
    Timeout(set::Timeout),
    Drain(drain::Drain),
    Ha(ha::Ha),
    Upgrade(upgrade::Upgrade),
    Reload(reload::Reload),
    Save(reload::Save),
    Ipvsadm(Ipvsadm),
    Completions(completions::Completions),
}

/// Speak ipvsadm's language: every option and format of ipvsadm 1.31.
///
/// The same as a link named ipvsadm, ipvsadm-save or ipvsadm-restore to this program. The
/// director is found by `POINTSMAN_SOCKET`, or at its usual socket.
#[derive(Debug, Args)]
#[command(
    disable_help_flag = true,
    after_help = "Examples:\n  sudo pointsman ipvsadm -ln --stats\n  sudo pointsman ipvsadm -h"
)]
struct Ipvsadm {
    /// The options of ipvsadm.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    words: Vec<OsString>,
}

/// Check a configuration without starting anything.
///
/// Tells every error at once, with its place and what would be right. Exit code 0: good; 1: not
/// good, or not on this machine; 2: the file cannot be read.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  pointsman check /etc/pointsman/pointsman.toml")]
struct Check {
    /// The configuration file.
    file: PathBuf,
}

impl Cli {
    /// Does what was asked for.
    pub fn run(self) -> ExitCode {
        match self.command {
            Command::Run(run) => run.run(),
            Command::Check(check) => check::run(&check.file),
            Command::Status(status) => status.run(),
            Command::Connections(connections) => connections.run(),
            Command::Service(service) => service.run(),
            Command::Server(server) => server.run(),
            Command::Set(set) => set.run(),
            Command::Timeout(timeout) => timeout.run(),
            Command::Drain(drain) => drain.run(),
            Command::Ha(ha) => ha.run(),
            Command::Upgrade(upgrade) => upgrade.run(),
            Command::Reload(reload) => reload.run(),
            Command::Save(save) => save.run(),
            Command::Ipvsadm(Ipvsadm { words }) => ipvsadm::run("ipvsadm", "ipvsadm", words),
            Command::Completions(completions) => completions.run(),
        }
    }
}

/// Which director to ask.
#[derive(Debug, Args)]
struct Socket {
    /// The control socket of the director (`socket` in its configuration).
    #[arg(
        long,
        value_name = "PATH",
        env = "POINTSMAN_SOCKET",
        default_value = DirectorConfig::DEFAULT_SOCKET
    )]
    socket: PathBuf,
}

impl Socket {
    /// Asks the director and prints what `ask` makes of its answer.
    fn ask<F>(self, ask: impl FnOnce(Client) -> F) -> ExitCode
    where
        F: Future<Output = Result<String, ClientError>>,
    {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(cause) => return output::fail(&cause),
        };
        match runtime.block_on(ask(Client::new(self.socket))) {
            Ok(text) => output::print(text.as_bytes()),
            Err(error) => output::fail(&error),
        }
    }
}

/// JSON for programs.
fn json<T: serde::Serialize>(value: &T) -> Result<String, ClientError> {
    let text = serde_json::to_string_pretty(value);
    text.map(|text| text + "\n").map_err(|error| ClientError::NotUnderstood(error.to_string()))
}
