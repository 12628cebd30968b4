//! The operator's program: called once for every change of the role, one call after the other, so
//! that the last call tells the newest role.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinHandle;

use super::program;

/// How long one call may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The arguments of a call.
type Call = [String; 4];

/// A queue of calls, and who makes them.
#[derive(Debug)]
pub(super) struct Notifier {
    calls: UnboundedSender<Call>,
    caller: JoinHandle<()>,
}

impl Notifier {
    /// Of a program. Needs the context of a tokio runtime.
    pub(super) fn of(program: PathBuf) -> Self {
        let (calls, queue) = mpsc::unbounded_channel();
        Self { calls, caller: tokio::spawn(make_all(program, queue)) }
    }

    /// Has the program called when all calls before are over.
    pub(super) fn call(&self, call: Call) {
        // The queue lives as long as this does.
        self.calls.send(call).ok();
    }

    /// Waits until all calls are over; those that are not by then are ended or not made.
    pub(super) async fn finish(self, patience: Duration) {
        let Self { calls, caller } = self;
        drop(calls);
        let abort = caller.abort_handle();
        if tokio::time::timeout(patience, caller).await.is_err() {
            tracing::warn!(?patience, "notify is not done when the director ends: ended");
            abort.abort();
        }
    }
}

async fn make_all(program: PathBuf, mut queue: UnboundedReceiver<Call>) {
    while let Some(call) = queue.recv().await {
        make(&program, &call).await;
    }
}

async fn make(path: &Path, call: &Call) {
    let name = path.display();
    match program::run(Command::new(path).args(call), PATIENCE).await {
        Ok(status) if status.success() => {}
        Ok(status) => tracing::warn!(program = %name, %status, "notify has failed"),
        Err(cause) if cause.kind() == ErrorKind::TimedOut => {
            tracing::warn!(program = %name, ?PATIENCE, "notify took too long: ended");
        }
        Err(cause) => tracing::warn!(program = %name, %cause, "notify cannot be run"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs;
    use std::time::Instant;

    use tempfile::TempDir;

    use super::*;

    /// A program that takes its time for some roles, and then writes down its arguments.
    pub(in super::super) struct Script {
        directory: TempDir,
    }

    impl Script {
        pub(in super::super) fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let (path, told) = (directory.path().join("notify"), directory.path().join("told"));
            let text = format!(
                "#!/bin/sh\ncase $2 in master|stopped) sleep 0.3;; fault) exec sleep 60;; esac\n\
                 echo \"$*\" >>{}\n",
                told.display()
            );
            let source = directory.path().join("text");
            fs::write(&source, text).unwrap();
            // Another process writes it: what this one writes, a child of another test may hold
            // open, and then it cannot be run.
            let install = std::process::Command::new("install").arg(source).arg(path).status();
            assert!(install.unwrap().success());
            Self { directory }
        }

        pub(in super::super) fn notifier(&self) -> Notifier {
            Notifier::of(self.directory.path().join("notify"))
        }

        pub(in super::super) fn told(&self) -> String {
            fs::read_to_string(self.directory.path().join("told")).unwrap_or_default()
        }
    }

    fn call(role: &str, before: &str) -> Call {
        ["pair", role, before, "a reason"].map(str::to_owned)
    }

    #[tokio::test]
    async fn calls_keep_their_order_and_the_last_one_is_waited_for() {
        let script = Script::new();
        let notifier = script.notifier();
        notifier.call(call("master", "backup"));
        notifier.call(call("backup", "master"));
        notifier.call(call("stopped", "backup"));
        notifier.finish(Duration::from_secs(30)).await;
        let told = script.told();
        let expected = [
            "pair master backup a reason",
            "pair backup master a reason",
            "pair stopped backup a reason",
        ];
        assert_eq!(told.lines().collect::<Vec<_>>(), expected);
    }

    #[tokio::test]
    async fn a_program_that_does_not_end_delays_the_end_for_a_bounded_time() {
        let script = Script::new();
        let notifier = script.notifier();
        notifier.call(call("fault", "master"));
        notifier.call(call("stopped", "fault"));
        let begun = Instant::now();
        notifier.finish(Duration::from_millis(200)).await;
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        assert_eq!(script.told(), "");
    }

    #[tokio::test]
    async fn a_call_that_fails_does_not_keep_the_next_one_from_being_made() {
        let missing = Notifier::of("/no/such/program".into());
        missing.call(call("master", "backup"));
        missing.call(call("backup", "master"));
        missing.finish(Duration::from_secs(30)).await;
    }
}
