//! DPDK's main lcore: a thread of its own that starts EAL, runs what only the main lcore may do,
//! passes DPDK's log on to `tracing`, and ends EAL.
//!
//! No other thread of the program is an EAL thread besides the worker lcores, so EAL neither pins
//! the caller to a CPU nor gives it a mempool cache, and EAL ends where it began.

use std::collections::VecDeque;
use std::ffi::c_char;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, mpsc};

use super::capture;

/// Log lines waiting to be passed on, at most; the oldest go first.
const WAITING_LINES: usize = 1024;
/// Lines remembered for error messages.
const REMEMBERED_LINES: usize = 64;

pub(super) type Job = Box<dyn FnOnce() + Send>;

/// One line of DPDK's log.
#[derive(Clone, Debug)]
pub(super) struct LogLine {
    /// `RTE_LOG_*`: 1 is the worst, 8 the chattiest.
    pub(super) level: u32,
    pub(super) text: String,
}

struct Queue {
    lines: VecDeque<LogLine>,
    lost: u64,
    remembered: VecDeque<String>,
    /// How many lines were ever logged.
    logged: u64,
    jobs: VecDeque<Job>,
    stopping: bool,
}

// One EAL per process, and DPDK's log calls back without a context.
static QUEUE: Mutex<Queue> = Mutex::new(Queue {
    lines: VecDeque::new(),
    lost: 0,
    remembered: VecDeque::new(),
    logged: 0,
    jobs: VecDeque::new(),
    stopping: false,
});
static WAKE: Condvar = Condvar::new();

fn queue() -> MutexGuard<'static, Queue> {
    QUEUE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sends DPDK's log here. `false` if the system has no memory for a stream.
pub(super) fn take_log() -> bool {
    // SAFETY: `sink` has the signature of shim_log_sink and lives for ever.
    unsafe { dpdk_sys::shim_log_to(Some(sink)) == 0 }
}

/// DPDK's log callback. It may run on any thread that calls DPDK, a worker included.
unsafe extern "C" fn sink(level: u32, text: *const c_char, octets: usize) {
    // SAFETY: DPDK passes `octets` octets, valid during this call.
    let text = unsafe { std::slice::from_raw_parts(text.cast::<u8>(), octets) };
    let text = String::from_utf8_lossy(text);
    if level <= dpdk_sys::RTE_LOG_CRIT {
        capture::write_to_real_stderr(&text);
    }
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        push_line(level, line);
    }
}

/// Adds a line to the log.
pub(super) fn push_line(level: u32, text: &str) {
    let mut queue = queue();
    if queue.lines.len() == WAITING_LINES {
        queue.lines.pop_front();
        queue.lost += 1;
    }
    if queue.remembered.len() == REMEMBERED_LINES {
        queue.remembered.pop_front();
    }
    queue.lines.push_back(LogLine { level, text: text.to_owned() });
    queue.remembered.push_back(text.to_owned());
    queue.logged += 1;
    WAKE.notify_one();
}

/// A point in the log, for [`lines_since`].
pub(super) fn log_mark() -> u64 {
    queue().logged
}

/// What was logged since `mark`, as far as it is remembered.
pub(super) fn lines_since(mark: u64) -> Vec<String> {
    let queue = queue();
    let new = usize::try_from(queue.logged - mark).unwrap_or(REMEMBERED_LINES);
    let skip = queue.remembered.len().saturating_sub(new);
    queue.remembered.iter().skip(skip).cloned().collect()
}

/// Runs `job` on the main lcore and waits for its result; `None` once the main lcore has ended.
pub(super) fn run<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (result, receiver) = mpsc::sync_channel(1);
    let job = Box::new(move || {
        // Nobody waits for the result only if the caller's thread is gone.
        drop(result.send(job()));
    });
    {
        let mut queue = queue();
        if queue.stopping {
            return None;
        }
        queue.jobs.push_back(job);
    }
    WAKE.notify_one();
    receiver.recv().ok()
}

/// Asks the main lcore to end.
pub(super) fn stop() {
    queue().stopping = true;
    WAKE.notify_one();
}

/// Ends the service, also by a panic of whatever listens to `tracing`: whoever waits is told.
struct Ending;

impl Drop for Ending {
    fn drop(&mut self) {
        let jobs = {
            let mut queue = queue();
            queue.stopping = true;
            std::mem::take(&mut queue.jobs)
        };
        drop(jobs);
    }
}

/// The life of the main lcore after EAL started: until [`stop`].
pub(super) fn serve() {
    let _ending = Ending;
    loop {
        let (lines, lost, jobs, stopping) = {
            let mut queue = WAKE
                .wait_while(queue(), |queue| {
                    queue.lines.is_empty() && queue.jobs.is_empty() && !queue.stopping
                })
                .unwrap_or_else(PoisonError::into_inner);
            let lost = std::mem::take(&mut queue.lost);
            let lines = std::mem::take(&mut queue.lines);
            (lines, lost, std::mem::take(&mut queue.jobs), queue.stopping)
        };
        for job in jobs {
            job();
        }
        report(lines, lost);
        if stopping {
            return;
        }
    }
}

/// Passes on what was logged and not yet passed on.
pub(super) fn drain() {
    let (lines, lost) = {
        let mut queue = queue();
        (std::mem::take(&mut queue.lines), std::mem::take(&mut queue.lost))
    };
    report(lines, lost);
}

fn report(lines: VecDeque<LogLine>, lost: u64) {
    if lost > 0 {
        tracing::warn!(target: "dpdk", lost, "DPDK logged faster than its log was read");
    }
    for LogLine { level, text } in lines {
        match level {
            ..=dpdk_sys::RTE_LOG_ERR => tracing::error!(target: "dpdk", "{text}"),
            dpdk_sys::RTE_LOG_WARNING => tracing::warn!(target: "dpdk", "{text}"),
            dpdk_sys::RTE_LOG_NOTICE | dpdk_sys::RTE_LOG_INFO => {
                tracing::info!(target: "dpdk", "{text}");
            }
            _ => tracing::debug!(target: "dpdk", "{text}"),
        }
    }
}
