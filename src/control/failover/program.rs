//! A program of the operator's: run for a time at most, and ended with all of its process group.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};

/// How a program ended.
///
/// # Errors
/// It could not be run; [`io::ErrorKind::TimedOut`]: it took longer than `patience`. Then, and where
/// nobody waits any more, it is ended with its process group: a shell's children would stay, one
/// more each time. What it leaves behind when it ends by itself goes on.
pub(super) async fn run(command: &mut Command, patience: Duration) -> io::Result<ExitStatus> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true).process_group(0);
    let mut child = command.spawn()?;
    let mut group = Group::of(&child);
    let status = tokio::time::timeout(patience, child.wait()).await??;
    group.0 = None;
    Ok(status)
}

/// A program that has not ended, and its children: they end when this is dropped. Until the program
/// is waited for nobody else can have its number.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        let number = child.id().and_then(|number| i32::try_from(number).ok());
        Self(number.and_then(Pid::from_raw))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // It may have ended in this moment.
            kill_process_group(leader, Signal::KILL).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::time::Instant;

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    /// A shell that begins something, writes down its number, and goes on with this.
    fn shell(told: &Path, goes_on: &str) -> Command {
        let told = told.display();
        let mut command = Command::new("/bin/sh");
        command.args([
            "-c",
            &format!("sleep 600 & echo $! >{told}.new; mv {told}.new {told}; {goes_on}"),
        ]);
        command.stderr(Stdio::null());
        command
    }

    async fn within<T>(longest: Duration, mut find: impl FnMut() -> Option<T>) -> Option<T> {
        let until = Instant::now() + longest;
        loop {
            let found = find();
            if found.is_some() || Instant::now() > until {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn number_in(told: &Path) -> Option<i32> {
        fs::read_to_string(told).ok()?.trim().parse().ok()
    }

    /// Whether a process runs; one that nobody has waited for does not.
    fn runs(number: i32) -> bool {
        let stat = fs::read_to_string(format!("/proc/{number}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
    }

    #[tokio::test]
    async fn what_a_program_began_ends_with_it_when_nobody_waits_any_more() {
        let directory = tempfile::tempdir().unwrap();
        let told = directory.path().join("told");
        let mut command = shell(&told, "wait");
        let waiting = tokio::spawn(async move { run(&mut command, LONG).await });
        let number = within(LONG, || number_in(&told)).await.unwrap();
        assert!(runs(number));
        waiting.abort();
        assert!(waiting.await.unwrap_err().is_cancelled());
        assert!(within(LONG, || (!runs(number)).then_some(())).await.is_some());
    }

    #[tokio::test]
    async fn a_program_that_takes_too_long_is_ended_with_what_it_began() {
        let directory = tempfile::tempdir().unwrap();
        let told = directory.path().join("told");
        let mut patience = Duration::from_millis(200);
        // On a busy machine it may not come so far.
        let number = loop {
            let error = run(&mut shell(&told, "wait"), patience).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            match number_in(&told) {
                Some(number) => break number,
                None => patience *= 2,
            }
        };
        assert!(within(LONG, || (!runs(number)).then_some(())).await.is_some());
    }

    #[tokio::test]
    async fn what_a_program_leaves_behind_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let told = directory.path().join("told");
        let status = run(&mut shell(&told, "exit 3"), LONG).await.unwrap();
        assert_eq!(status.code(), Some(3));
        let number = number_in(&told).unwrap();
        assert!(runs(number));
        rustix::process::kill_process(Pid::from_raw(number).unwrap(), Signal::KILL).unwrap();
    }
}
