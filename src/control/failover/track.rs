//! What an election depends on besides links and workers: files in which others say how things
//! are, programs that find out, and the servers that there are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::control::config::{Track, TrackScript};
use crate::control::desired::Inventory;

/// A number that means: this director must not be the master.
const FAULT: i32 = -254;

/// What everything that is tracked comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::control) struct Verdict {
    /// What is added to the priority.
    pub(super) bonus: i32,
    /// Why this director must not be the master.
    pub(super) fault: Option<String>,
}

impl Verdict {
    /// `weight` is what a failure costs; 0: the mastership.
    fn fail(&mut self, weight: i32, what: impl FnOnce() -> String) {
        if weight == 0 {
            self.fault.get_or_insert_with(what);
        } else {
            self.bonus = self.bonus.saturating_add(weight);
        }
    }
}

/// The state of a program, told by its exit codes.
#[derive(Clone, Copy, Debug)]
struct Result {
    good: bool,
    /// Exit codes that said the contrary, in a row.
    contrary: u8,
}

/// Everything that is tracked.
#[derive(Debug, Default)]
pub(in crate::control) struct Tracks {
    list: Vec<Track>,
    /// Of the programs among them, by place in the list.
    results: Arc<Mutex<Vec<Result>>>,
    last: Verdict,
}

impl Tracks {
    /// Starts to run programs. Needs the context of a tokio runtime.
    pub(in crate::control) fn of(list: &[Track]) -> Self {
        let good = Result { good: true, contrary: 0 };
        let results = Arc::new(Mutex::new(vec![good; list.len()]));
        for (place, track) in list.iter().enumerate() {
            if let Track::Script(script) = track {
                tokio::spawn(run_again(script.clone(), place, Arc::clone(&results)));
            }
        }
        Self { list: list.to_vec(), results, last: Verdict::default() }
    }

    /// What it all comes to, if that is another thing than before.
    pub(in crate::control) fn news(&mut self, inventory: &Inventory) -> Option<Verdict> {
        let mut verdict = Verdict::default();
        let results = self.results.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (track, result) in self.list.iter().zip(results) {
            look(track, result.good, inventory, &mut verdict);
        }
        if verdict == self.last {
            return None;
        }
        self.last = verdict.clone();
        Some(verdict)
    }
}

/// Adds to a verdict what one of the things that are tracked says. `good`: what a program says.
fn look(track: &Track, good: bool, inventory: &Inventory, verdict: &mut Verdict) {
    match track {
        Track::File(path) => look_at(path, verdict),
        Track::Script(script) if !good => {
            verdict.fail(script.weight, || format!("{} has failed", script.path.display()));
        }
        Track::Script(_) => {}
        Track::Servers { percent, weight } => {
            let share = share_of_servers(inventory);
            if share < u32::from(*percent) {
                verdict.fail(*weight, || format!("{share} % of the servers take connections"));
            }
        }
    }
}

/// A file holds a number that is added to the priority; no file: nothing.
fn look_at(path: &Path, verdict: &mut Verdict) {
    let Ok(text) = fs::read_to_string(path) else { return };
    match text.trim().parse::<i32>() {
        Ok(number) if number <= FAULT => {
            verdict.fail(0, || format!("{} says {number}", path.display()));
        }
        Ok(number) => verdict.bonus = verdict.bonus.saturating_add(number),
        Err(_) => {
            let text = text.trim().escape_debug();
            tracing::debug!(path = %path.display(), %text, "is no number");
        }
    }
}

/// Percent of all servers that take new connections; 100, where there is none.
fn share_of_servers(inventory: &Inventory) -> u32 {
    let servers = inventory.services.iter().flat_map(|service| &service.servers);
    let (mut all, mut open) = (0_u32, 0_u32);
    for server in servers {
        all += 1;
        open += u32::from(server.weight > 0);
    }
    (open * 100).checked_div(all).unwrap_or(100)
}

async fn run_again(script: TrackScript, place: usize, results: Arc<Mutex<Vec<Result>>>) {
    loop {
        let good = succeeds(&script.path, script.timeout).await;
        if let Some(result) = results.lock().unwrap_or_else(PoisonError::into_inner).get_mut(place)
        {
            let needed = if good { script.rise } else { script.fall };
            result.contrary = if good == result.good { 0 } else { result.contrary + 1 };
            if result.contrary >= needed {
                *result = Result { good, contrary: 0 };
            }
        }
        tokio::time::sleep(script.interval).await;
    }
}

async fn succeeds(program: &PathBuf, timeout: Duration) -> bool {
    let mut command = tokio::process::Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let Ok(mut child) = command.spawn() else { return false };
    let ended = tokio::time::timeout(timeout, child.wait()).await;
    ended.is_ok_and(|status| status.is_ok_and(|status| status.success()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_adds_to_the_priority_or_takes_the_mastership() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("weight");
        let of = |text: Option<&str>| {
            text.map_or_else(|| fs::remove_file(&path).ok(), |text| fs::write(&path, text).ok());
            let mut verdict = Verdict::default();
            look_at(&path, &mut verdict);
            (verdict.bonus, verdict.fault.is_some())
        };
        assert_eq!(of(None), (0, false));
        assert_eq!(of(Some("-50\n")), (-50, false));
        assert_eq!(of(Some("20")), (20, false));
        assert_eq!(of(Some("-254")), (0, true));
        assert_eq!(of(Some("off")), (0, false));
    }

    #[tokio::test]
    async fn programs_say_by_their_exit_codes_how_things_are() {
        assert!(succeeds(&"/bin/true".into(), Duration::from_secs(5)).await);
        assert!(!succeeds(&"/bin/false".into(), Duration::from_secs(5)).await);
        assert!(!succeeds(&"/no/such/program".into(), Duration::from_secs(5)).await);
        let started = std::time::Instant::now();
        let slow = "/usr/bin/yes".into();
        assert!(!succeeds(&slow, Duration::from_millis(50)).await);
        assert!(started.elapsed() < Duration::from_secs(5));
    }
}
