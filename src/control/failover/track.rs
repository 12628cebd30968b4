//! What an election depends on besides links and workers: files in which others say how things
//! are, programs that find out, and the servers that there are.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use tokio::process::Command;

use super::program;
use super::weight_file::WeightFile;
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
    /// `number` is what a file says.
    fn add(&mut self, number: i32, file: &Path) {
        if number <= FAULT {
            self.fail(0, || format!("{} says {number}", file.display()));
        } else {
            self.bonus = self.bonus.saturating_add(number);
        }
    }

    /// `weight` is what a failure costs; 0: the mastership.
    fn fail(&mut self, weight: i32, what: impl FnOnce() -> String) {
        if weight == 0 {
            self.fault.get_or_insert_with(what);
        } else {
            self.bonus = self.bonus.saturating_add(weight);
        }
    }
}

/// One of the things that are tracked.
#[derive(Debug)]
enum Tracked {
    File(WeightFile),
    /// A program, what its failure costs, and whether all is well.
    Script {
        path: PathBuf,
        weight: i32,
        is_good: Arc<AtomicBool>,
    },
    /// Percent of the servers that must take connections, and what it costs if they do not.
    Servers {
        percent: u8,
        weight: i32,
    },
}

/// Everything that is tracked.
#[derive(Debug, Default)]
pub(in crate::control) struct Tracks {
    list: Vec<Tracked>,
    last: Verdict,
}

impl Tracks {
    /// Starts to look at files and to run programs. Needs the context of a tokio runtime.
    pub(in crate::control) fn of(list: &[Track]) -> Self {
        Self { list: list.iter().map(Tracked::begin).collect(), last: Verdict::default() }
    }

    /// What it all comes to, if that is another thing than before.
    pub(in crate::control) fn news(&mut self, inventory: &Inventory) -> Option<Verdict> {
        let mut verdict = Verdict::default();
        for tracked in &self.list {
            tracked.judge(inventory, &mut verdict);
        }
        if verdict == self.last {
            return None;
        }
        self.last = verdict.clone();
        Some(verdict)
    }
}

impl Tracked {
    fn begin(track: &Track) -> Self {
        match track {
            Track::File(path) => Self::File(WeightFile::watch(path)),
            Track::Script(script) => {
                let is_good = Arc::new(AtomicBool::new(true));
                tokio::spawn(run_again(script.clone(), Arc::clone(&is_good)));
                Self::Script { path: script.path.clone(), weight: script.weight, is_good }
            }
            Track::Servers { percent, weight } => {
                Self::Servers { percent: *percent, weight: *weight }
            }
        }
    }

    /// Adds what it says to a verdict.
    fn judge(&self, inventory: &Inventory, verdict: &mut Verdict) {
        match self {
            Self::File(file) => verdict.add(file.number(), file.path()),
            Self::Script { path, weight, is_good } => {
                if !is_good.load(Relaxed) {
                    verdict.fail(*weight, || format!("{} has failed", path.display()));
                }
            }
            Self::Servers { percent, weight } => {
                let share = share_of_servers(inventory);
                if share < u32::from(*percent) {
                    verdict.fail(*weight, || format!("{share} % of the servers take connections"));
                }
            }
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

async fn run_again(script: TrackScript, is_good: Arc<AtomicBool>) {
    // What it says first counts at once: nothing is known yet.
    is_good.store(succeeds(&script.path, script.timeout).await, Relaxed);
    // Exit codes that said the contrary, in a row.
    let mut contrary = 0;
    loop {
        tokio::time::sleep(script.interval).await;
        let good = succeeds(&script.path, script.timeout).await;
        let needed = if good { script.rise } else { script.fall };
        contrary = if good == is_good.load(Relaxed) { 0 } else { contrary + 1 };
        if contrary >= needed {
            is_good.store(good, Relaxed);
            contrary = 0;
        }
    }
}

async fn succeeds(path: &PathBuf, timeout: Duration) -> bool {
    let mut command = Command::new(path);
    let status = program::run(command.stderr(Stdio::null()), timeout).await;
    status.is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_adds_to_the_priority_or_takes_the_mastership() {
        let of = |number: i32| {
            let mut verdict = Verdict::default();
            verdict.add(number, Path::new("/run/weight"));
            (verdict.bonus, verdict.fault)
        };
        assert_eq!(of(-50), (-50, None));
        assert_eq!(of(20), (20, None));
        assert_eq!(of(-254), (0, Some("/run/weight says -254".to_owned())));
    }

    /// Later it takes as many bad ends in a row as are stated.
    #[tokio::test]
    async fn what_a_program_says_first_counts_at_once() {
        let is_good = Arc::new(AtomicBool::new(true));
        let script = TrackScript {
            path: "/bin/false".into(),
            interval: Duration::from_secs(3600),
            timeout: Duration::from_secs(5),
            rise: 1,
            fall: 3,
            weight: 0,
        };
        let running = tokio::spawn(run_again(script, Arc::clone(&is_good)));
        let until = std::time::Instant::now() + Duration::from_secs(10);
        while is_good.load(Relaxed) && std::time::Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        running.abort();
        assert!(!is_good.load(Relaxed));
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
