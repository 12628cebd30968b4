//! `pointsman reload` and `pointsman save`: between the director and its configuration file.

use std::process::ExitCode;

use clap::Args;

use super::change::Manner;
use super::{Socket, json};
use crate::control::api::client::ChangeCall;

const RELOAD_EXAMPLES: &str = "\
Examples:
  sudo pointsman reload --dry-run        what would change
  sudo pointsman reload                  the same as kill -HUP

Whatever the director was told meanwhile, it does as the file says afterwards. A file that is not
valid changes nothing. Lines with ! need a restart: ports, workers, memory.";

/// Make the running director do as its configuration file says.
#[derive(Debug, Args)]
#[command(after_help = RELOAD_EXAMPLES)]
pub(super) struct Reload {
    #[command(flatten)]
    manner: Manner,
}

impl Reload {
    pub(super) fn run(self) -> ExitCode {
        self.manner.make(ChangeCall::reload())
    }
}

const SAVE_EXAMPLES: &str = "\
Example:
  sudo pointsman save

Comments, and what was not changed, stay as they are in the file.";

/// Write what was changed at run time into the configuration file.
#[derive(Debug, Args)]
#[command(after_help = SAVE_EXAMPLES)]
pub(super) struct Save {
    /// Overwrite what somebody else has written into the file meanwhile.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    socket: Socket,
    /// Print JSON, as the control socket gives it.
    #[arg(long)]
    json: bool,
}

impl Save {
    pub(super) fn run(self) -> ExitCode {
        let Self { force, socket, json: as_json } = self;
        socket.ask(async move |client| {
            let saved = client.save(force).await?;
            if as_json {
                return json(&saved);
            }
            let what = if saved.changed { "written" } else { "is up to date" };
            Ok(format!("{} {what}\n", saved.path))
        })
    }
}
