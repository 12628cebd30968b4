//! Worker lcores: threads that EAL made and pinned. One piece of work at a time runs on each.

use std::any::Any;
use std::ffi::{c_int, c_void};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};

use super::eal::Eal;
use super::error::{Attempt, DpdkError};
use super::main_thread;

/// An lcore as EAL numbers it (`--lcores`): not always its CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LcoreId(pub u32);

impl fmt::Display for LcoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The lcore that the calling thread is; `None` on a thread that EAL did not make.
pub fn current() -> Option<LcoreId> {
    // SAFETY: reads a thread-local number.
    let lcore = unsafe { dpdk_sys::shim_lcore_id() };
    (lcore < dpdk_sys::RTE_MAX_LCORE).then_some(LcoreId(lcore))
}

/// Sleeps for about `us` microseconds and leaves the CPU to others meanwhile.
pub fn delay_us_sleep(us: u32) {
    // SAFETY: takes any number; it is nanosleep(2).
    unsafe { dpdk_sys::rte_delay_us_sleep(us) };
}

type Outcome<T> = Result<T, Box<dyn Any + Send>>;
/// What an lcore gets: the work wrapped so that its type is gone.
type Work = Box<dyn FnOnce() + Send>;

impl Eal {
    /// Runs `work` on a worker lcore.
    ///
    /// The lcore is free again when the handle was joined or dropped.
    pub fn launch<T: Send + 'static>(
        self: &Arc<Self>,
        lcore: LcoreId,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<LcoreHandle<T>, DpdkError> {
        let workers = self.worker_lcores();
        if !workers.contains(&lcore) {
            let workers = workers.iter().map(|lcore| lcore.0).collect();
            return Err(DpdkError::NoSuchLcore { lcore: lcore.0, workers });
        }
        let (sender, outcome) = mpsc::sync_channel::<Outcome<T>>(1);
        let work: Work = Box::new(move || {
            let result = catch_unwind(AssertUnwindSafe(work));
            // The handle waits for this even when dropped.
            drop(sender.send(result));
        });
        self.running().fetch_add(1, Ordering::SeqCst);
        if let Err(error) = start(lcore, work) {
            self.running().fetch_sub(1, Ordering::SeqCst);
            return Err(error);
        }
        Ok(LcoreHandle { eal: Arc::clone(self), lcore, outcome: Some(outcome) })
    }
}

/// Hands `work` to the lcore, from the main lcore as DPDK wants it.
fn start(lcore: LcoreId, work: Work) -> Result<(), DpdkError> {
    let attempt = Attempt::new("rte_eal_remote_launch");
    let code = main_thread::run(move || {
        let work = Box::into_raw(Box::new(work));
        // SAFETY: `run` has the right signature; `work` is taken back by it, or below.
        let code = unsafe { dpdk_sys::rte_eal_remote_launch(Some(run), work.cast(), lcore.0) };
        if code != 0 {
            // SAFETY: DPDK refused, so `run` never sees it.
            drop(unsafe { Box::from_raw(work) });
        }
        code
    });
    match code {
        Some(0) => Ok(()),
        Some(code) if code == -libc::EBUSY => Err(DpdkError::LcoreBusy(lcore.0)),
        Some(code) => Err(attempt.failed(format!("lcore {lcore}"), code)),
        None => Err(DpdkError::Ended),
    }
}

/// What DPDK calls on the lcore.
unsafe extern "C" fn run(work: *mut c_void) -> c_int {
    // SAFETY: `start` passes a box of this type, once.
    let work = unsafe { Box::from_raw(work.cast::<Work>()) };
    work();
    0
}

/// Work on an lcore. Dropping the handle waits for the work, as its packets and queues must not
/// outlive EAL.
#[derive(Debug)]
#[must_use = "dropping the handle waits for the work"]
pub struct LcoreHandle<T> {
    eal: Arc<Eal>,
    lcore: LcoreId,
    outcome: Option<mpsc::Receiver<Outcome<T>>>,
}

impl<T> LcoreHandle<T> {
    /// Where the work runs.
    pub fn lcore(&self) -> LcoreId {
        self.lcore
    }

    /// Waits for the work, gives its result. A panic becomes an error where the build unwinds.
    pub fn join(mut self) -> Result<T, DpdkError> {
        let lcore = self.lcore.0;
        match self.wait() {
            Some(Ok(result)) => Ok(result),
            Some(Err(panic)) => Err(DpdkError::Panicked { lcore, message: words(&*panic) }),
            None => Err(DpdkError::Ended),
        }
    }

    fn wait(&mut self) -> Option<Outcome<T>> {
        let outcome = self.outcome.take()?.recv().ok();
        let lcore = self.lcore.0;
        // The result is sent shortly before the lcore is idle again.
        // SAFETY: the number is that of a worker lcore.
        main_thread::run(move || unsafe { dpdk_sys::rte_eal_wait_lcore(lcore) });
        self.eal.running().fetch_sub(1, Ordering::SeqCst);
        outcome
    }
}

impl<T> Drop for LcoreHandle<T> {
    fn drop(&mut self) {
        if let Some(Err(panic)) = self.wait() {
            tracing::error!(lcore = self.lcore.0, message = words(&*panic), "a worker panicked");
        }
    }
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}
