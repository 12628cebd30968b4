//! Changes of the role, as the control side tells them: in the log, and to the operator's program.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;

use super::election::{Cause, Role};
use crate::control::config::FailoverConfig;

/// How long the operator's program may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A change of the role.
#[derive(Clone, Debug)]
pub(in crate::control) struct Transition {
    pub(super) from: Role,
    pub(super) to: Role,
    pub(super) cause: Cause,
}

/// Changes to come; none, where the director is alone.
#[derive(Debug, Default)]
pub(in crate::control) struct Transitions {
    group: String,
    notify: Option<PathBuf>,
    receiver: Option<UnboundedReceiver<Transition>>,
}

impl Transitions {
    /// Those of a group.
    pub(in crate::control) fn of(
        group: &FailoverConfig,
        receiver: UnboundedReceiver<Transition>,
    ) -> Self {
        let receiver = Some(receiver);
        Self { group: group.name.clone(), notify: group.notify.clone(), receiver }
    }

    /// The next one.
    pub(in crate::control) async fn next(&mut self) -> Transition {
        if let Some(receiver) = &mut self.receiver
            && let Some(transition) = receiver.recv().await
        {
            return transition;
        }
        // Nothing will come any more.
        self.receiver = None;
        std::future::pending().await
    }

    /// Logs it, and runs the program with the group, the role, the role before and the reason.
    pub(in crate::control) fn tell(&self, transition: &Transition) {
        let Transition { from, to, cause } = transition;
        let (group, from, to, reason) = (&self.group, from.name(), to.name(), cause.to_string());
        if *cause == Cause::Started || *cause == Cause::Stops {
            tracing::info!(%group, from, to, reason, "the failover role has changed");
        } else {
            tracing::warn!(%group, from, to, reason, "the failover role has changed");
        }
        let Some(program) = &self.notify else { return };
        let mut command = tokio::process::Command::new(program);
        command.args([group.as_str(), to, from, &reason]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
        let program = program.display().to_string();
        tokio::spawn(async move {
            match command.spawn() {
                Ok(mut child) => match tokio::time::timeout(PATIENCE, child.wait()).await {
                    Ok(Ok(status)) if status.success() => {}
                    Ok(Ok(status)) => tracing::warn!(%program, %status, "notify has failed"),
                    Ok(Err(cause)) => tracing::warn!(%program, %cause, "notify has failed"),
                    Err(_) => tracing::warn!(%program, ?PATIENCE, "notify took too long: ended"),
                },
                Err(cause) => tracing::warn!(%program, %cause, "notify cannot be run"),
            }
        });
    }
}
