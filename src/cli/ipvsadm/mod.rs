//! ipvsadm's language: the options, formats, complaints and exit codes of ipvsadm 1.31.
//!
//! Scripts, exporters and monitoring plug-ins that speak to IPVS go on working where `ipvsadm`,
//! `ipvsadm-save` and `ipvsadm-restore` are names of this program. Everything here is facts about
//! ipvsadm's behaviour: its manual page, and what ipvsadm 1.31 was seen to do
//! (`tests/oracle/ipvsadm.json`, `tests/oracle/ipvsadm_arguments.json`). docs/ipvsadm.md lists what
//! differs.

mod arguments;
mod command;
mod connections;
mod director;
mod help;
mod listing;
mod names;
mod options;
mod order;
mod parameters;
mod popt;
mod remote;
mod rows;
mod save;
mod session;
mod stated;
#[cfg(test)]
mod tests;
mod text;
mod value;

use std::ffi::OsString;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use remote::Remote;

use super::output;
use crate::control::config::DirectorConfig;

pub use command::{
    Command, Forwarding, Granularity, Listing, Persistence, SchedulerFlags, ServerSpec, ServiceKey,
    ServiceSpec, Timeouts, View, What,
};
pub use director::{ConnectionSink, Director, Failure, Refusal};
pub use names::{Names, SystemNames};
pub use rows::{ConnectionRow, Counters, ServerRow, ServiceRow};
pub use session::Session;

/// The names that this is called by.
pub const PROGRAMS: [&str; 3] = ["ipvsadm", "ipvsadm-save", "ipvsadm-restore"];

/// The program that a call by this name means, if it is one of [`PROGRAMS`].
pub fn program_of(name: &str) -> Option<&'static str> {
    let base = name.rsplit('/').next().unwrap_or_default();
    PROGRAMS.into_iter().find(|program| *program == base)
}

/// Called by a name that means `program`, with these words; asks the director at the socket of
/// `POINTSMAN_SOCKET`, or at the usual one.
pub fn run(name: &str, program: &str, words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let words: Vec<_> = words.into_iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let socket = std::env::var_os("POINTSMAN_SOCKET").map(PathBuf::from);
    let socket = socket.unwrap_or_else(|| DirectorConfig::DEFAULT_SOCKET.into());
    let mut director = match Remote::new(socket) {
        Ok(director) => director,
        Err(cause) => return output::fail(&cause),
    };
    let mut stdout = BufWriter::new(io::stdout().lock());
    let mut session = Session {
        program: name,
        director: &mut director,
        names: &SystemNames::default(),
        input: &mut io::stdin().lock(),
        output: &mut stdout,
        errors: &mut io::stderr().lock(),
    };
    let code = match program {
        "ipvsadm-save" => session.ipvsadm_save(&words),
        "ipvsadm-restore" => session.ipvsadm_restore(),
        _ => session.ipvsadm(&words),
    };
    // What could not be written has been told.
    stdout.flush().ok();
    ExitCode::from(code)
}
