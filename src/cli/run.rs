//! `pointsman run`: the director.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::output;
#[cfg(feature = "dpdk")]
use crate::control::config::preflight;
use crate::control::config::{self, Listing, LoadError, Loaded, LogConfig, LogFormat};
use crate::control::handover::Successor;

const EXAMPLES: &str = "\
Examples:
  sudo pointsman run --config /etc/pointsman/pointsman.toml
  sudo pointsman run --config dpdk-config/null.toml     no NIC needed: packets from nowhere

Exit code 0: stopped in order; 1: it could not start, or something was left behind; 2: the
configuration cannot be read. The log goes to stderr, or to the journal; `log` and
`log_format` in [director] say what and how.";

/// Run the director until SIGTERM or Ctrl-C.
///
/// The first signal stops in order: workers return their packets, ports stop, the control socket
/// goes. A second one exits at once.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Run {
    /// The configuration file; `pointsman check FILE` says whether it is good.
    #[arg(long, short, value_name = "FILE")]
    config: PathBuf,
    /// Take the place of the director that has started this one; `pointsman upgrade` does that.
    #[arg(long, hide = true)]
    successor: bool,
}

impl Run {
    pub(super) fn run(self) -> ExitCode {
        let mut stderr = io::stderr().lock();
        let Loaded { config, source, warnings } = match config::load(&self.config) {
            Ok(loaded) => loaded,
            Err(LoadError::Invalid(diagnostics)) => {
                write!(stderr, "{}", Listing(&diagnostics)).ok();
                writeln!(stderr, "{}: not started", self.config.display()).ok();
                return ExitCode::FAILURE;
            }
            Err(error @ LoadError::Unreadable { .. }) => {
                writeln!(stderr, "error: {error}").ok();
                return ExitCode::from(2);
            }
        };
        write!(stderr, "{}", Listing(&warnings)).ok();
        drop(stderr);
        match begin_log(&config.director.log) {
            Ok(()) if self.successor => succeed(config, source),
            Ok(()) => direct(config, source, None),
            Err(error) => output::fail(&error),
        }
    }
}

/// As [`direct`], in the place of the director at the other end of standard input.
fn succeed(config: config::Config, source: config::ConfigSource) -> ExitCode {
    match Successor::take() {
        Ok(running) => direct(config, source, Some(running)),
        Err(error) => output::fail(&error),
    }
}

#[cfg(feature = "dpdk")]
fn direct(
    config: config::Config,
    source: config::ConfigSource,
    running: Option<Successor>,
) -> ExitCode {
    // Before the start: what a director has taken that failed halfway would look like missing.
    let file = source.path.display().to_string();
    let mut findings = preflight::check(&config, &file, &preflight::ThisHost);
    let Err(error) = crate::director::run(config, source, running) else {
        return ExitCode::SUCCESS;
    };
    let code = output::fail(&error);
    findings.retain(config::Diagnostic::is_error);
    if error.concerns_the_machine() && !findings.is_empty() {
        let mut stderr = io::stderr().lock();
        write!(stderr, "\nWhat `pointsman check` finds:\n{}", Listing(&findings)).ok();
    }
    code
}

#[cfg(not(feature = "dpdk"))]
fn direct(
    _config: config::Config,
    _source: config::ConfigSource,
    _running: Option<Successor>,
) -> ExitCode {
    output::fail(&"this pointsman was built without DPDK; build it with `--features dpdk`")
}

fn begin_log(log: &LogConfig) -> Result<(), String> {
    let filter = EnvFilter::try_new(&log.filter).map_err(|error| {
        format!(
            "`log = {:?}` is not understood: {error}; use info, or a tracing filter",
            log.filter
        )
    })?;
    let to_stderr = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    let registry = tracing_subscriber::registry().with(filter);
    let done = match log.format {
        LogFormat::Text => registry.with(to_stderr.with_target(false)).try_init(),
        LogFormat::Json => registry.with(to_stderr.json()).try_init(),
        LogFormat::Journal => {
            let journal = tracing_journald::layer().map_err(|error| {
                format!("`log_format = \"journal\"`: {error}; use \"text\" where systemd is not")
            })?;
            registry.with(journal.with_field_prefix(Some("POINTSMAN".to_owned()))).try_init()
        }
    };
    done.map_err(|error| format!("cannot set up the log: {error}"))
}
