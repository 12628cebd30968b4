//! `pointsman upgrade`: a new process in the place of the running one.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::{Socket, json};
use crate::control::api::client::{Client, ClientError};
use crate::control::api::message::{Failure, TakenOver, UpgradeSpec, UpgradeStatus};

const EXAMPLES: &str = "\
Examples:
  sudo pointsman upgrade                 the program as it is on disk now, the same configuration
  sudo pointsman upgrade --config new.toml
  sudo pointsman upgrade --program /usr/local/bin/pointsman-1.2

Where two processes cannot hold the ports (a NIC of DPDK's own), set `state_file` in [director] and
restart the service. In a pair: `pointsman ha release`, then restart the service.";

/// How often it is asked how things are.
const PAUSE: Duration = Duration::from_millis(100);
/// How long it may take.
const LONGEST: Duration = Duration::from_secs(180);

/// Put a new director in the place of the running one; connections go on.
///
/// The new one starts beside the running one and takes over its connections. Until it forwards
/// nothing has changed: if it cannot, the running one goes on.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Upgrade {
    /// The new director's program; without it the running one's, as it is on disk now.
    #[arg(long, value_name = "PATH")]
    program: Option<PathBuf>,
    /// Its configuration file; without it the running one's.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    socket: Socket,
    /// Print JSON, as the control socket gives it.
    #[arg(long)]
    json: bool,
}

impl Upgrade {
    pub(super) fn run(self) -> ExitCode {
        let Self { program, config, socket, json: as_json } = self;
        socket.ask(async move |client| {
            let spec = UpgradeSpec {
                program: program.map(whole).transpose()?,
                config: config.map(whole).transpose()?,
            };
            let begun = client.begin_upgrade(&spec).await?;
            let status = end_of(&client, &begun).await?;
            if as_json { json(&status) } else { Ok(text(&status)) }
        })
    }
}

/// The path of a file, for a process in another directory.
fn whole(path: PathBuf) -> Result<String, ClientError> {
    let whole = std::path::absolute(&path).unwrap_or(path);
    whole.into_os_string().into_string().map_err(|path| {
        ClientError::Refused(Box::new(Failure {
            error: format!("{} is not UTF-8", path.display()),
            hint: "give it another name".to_owned(),
            ..Failure::default()
        }))
    })
}

/// What the new director has taken over, or why it has not.
async fn end_of(client: &Client, begun: &UpgradeStatus) -> Result<UpgradeStatus, ClientError> {
    let waited = async {
        loop {
            tokio::time::sleep(PAUSE).await;
            // One of them may be just about to end.
            let Ok(status) = client.upgrade().await else { continue };
            if begun.successor == Some(status.pid) || status.pid == begun.pid && is_over(&status) {
                return status;
            }
        }
    };
    let status = tokio::time::timeout(LONGEST, waited).await;
    let refused = |error: String| {
        let hint = "the running director goes on".to_owned();
        ClientError::Refused(Box::new(Failure { error, hint, ..Failure::default() }))
    };
    match status {
        Ok(UpgradeStatus { error: Some(error), .. }) => Err(refused(error)),
        Ok(status) => Ok(status),
        Err(_) => Err(refused("the upgrade has not ended in time".to_owned())),
    }
}

fn is_over(status: &UpgradeStatus) -> bool {
    status.error.is_some()
}

fn text(status: &UpgradeStatus) -> String {
    let UpgradeStatus { pid, taken_over, .. } = status;
    let Some(TakenOver { connections, refused, gap_seconds, .. }) = taken_over else {
        return format!("process {pid} is the director\n");
    };
    let gap = gap_seconds * 1000.0;
    let refused = match refused {
        0 => String::new(),
        refused => format!("; {refused} could not be taken over"),
    };
    format!(
        "process {pid} is the director: {connections} connections go on{refused}; nobody forwarded \
         for {gap:.1} ms\n"
    )
}
