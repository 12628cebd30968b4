//! Changes of the role, as the control side tells them: in the log, and to the operator's program.

use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;

use super::notify::Notifier;
use super::role::{Cause, Role};
use crate::control::config::FailoverConfig;

/// How long the operator's program keeps the director from its end.
const LAST_CALLS: Duration = Duration::from_secs(5);

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
    notifier: Option<Notifier>,
    receiver: Option<UnboundedReceiver<Transition>>,
}

impl Transitions {
    /// Those of a group. Needs the context of a tokio runtime.
    pub(in crate::control) fn of(
        group: &FailoverConfig,
        receiver: UnboundedReceiver<Transition>,
    ) -> Self {
        let notifier = group.notify.clone().map(Notifier::of);
        Self { group: group.name.clone(), notifier, receiver: Some(receiver) }
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

    /// Logs it, and has the program called with the group, the role, the role before and the reason.
    pub(in crate::control) fn tell(&self, transition: &Transition) {
        let Transition { from, to, cause } = transition;
        let (group, from, to, reason) = (&self.group, from.name(), to.name(), cause.to_string());
        if *cause == Cause::Started || *cause == Cause::Stops {
            tracing::info!(%group, from, to, reason, "the failover role has changed");
        } else {
            tracing::warn!(%group, from, to, reason, "the failover role has changed");
        }
        if let Some(notifier) = &self.notifier {
            notifier.call([group.clone(), to.to_owned(), from.to_owned(), reason]);
        }
    }

    /// Tells what is left, and waits a bounded time for the program.
    pub(in crate::control) async fn finish(mut self) {
        while let Some(transition) = self.receiver.as_mut().and_then(|left| left.try_recv().ok()) {
            self.tell(&transition);
        }
        if let Some(notifier) = self.notifier {
            notifier.finish(LAST_CALLS).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::notify::tests::Script;
    use super::*;

    #[tokio::test]
    async fn what_has_not_been_told_when_the_director_ends_is_told_then() {
        let script = Script::new();
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        let (group, notifier) = ("pair".to_owned(), Some(script.notifier()));
        let mut transitions = Transitions { group, notifier, receiver: Some(receiver) };
        let send = |from, to, cause| sender.send(Transition { from, to, cause }).unwrap();
        send(Role::Stopped, Role::Backup, Cause::Started);
        let first = transitions.next().await;
        transitions.tell(&first);
        send(Role::Backup, Role::Master, Cause::Silence);
        send(Role::Master, Role::Stopped, Cause::Stops);
        transitions.finish().await;
        let told = script.told();
        let roles: Vec<_> = told.lines().filter_map(|line| line.split(' ').nth(1)).collect();
        assert_eq!(roles, ["backup", "master", "stopped"]);
    }
}
