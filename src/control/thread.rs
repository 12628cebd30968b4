//! The control thread: where it runs, how it starts and how it ends.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Release};
use std::thread::JoinHandle;

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use super::run::Control;
use super::{Plant, StartError};
use crate::ids::CpuId;

/// Why the control thread ended when it should not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// A bug.
    #[error("the control thread panicked; its message is in the log")]
    Panicked,
}

/// The running control thread. It must be told when to finish; dropping this tells it too, but
/// does not wait.
#[derive(Debug)]
pub struct ControlThread {
    thread: JoinHandle<()>,
    told: oneshot::Sender<()>,
}

impl ControlThread {
    /// Ends the thread and waits for it: listeners are closed, the socket's file is gone.
    /// To be called when the workers have ended; until then their events are taken and the API
    /// answers.
    pub fn finish(self) -> Result<(), ControlError> {
        // The thread may have ended by a panic; `join` tells.
        self.told.send(()).ok();
        self.thread.join().map_err(|_| ControlError::Panicked)
    }

    /// Whether the thread has ended, which it should not do by itself.
    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }
}

/// SIGTERM and SIGINT, which stop the director, and SIGHUP, which has it read its file again.
#[derive(Debug)]
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn catch() -> io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Self { terminate, interrupt, hangup: signal(SignalKind::hangup())? })
    }

    /// The next signal.
    pub(super) async fn next(&mut self) -> SignalKind {
        tokio::select! {
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = self.hangup.recv() => SignalKind::hangup(),
        }
    }

    /// The next signal to stop.
    async fn next_stop(&mut self) -> SignalKind {
        tokio::select! {
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.interrupt.recv() => SignalKind::interrupt(),
        }
    }
}

/// SIGTERM and SIGINT, caught from the very beginning: a director that is told to stop while it
/// starts finishes its start, stops in order and leaves nothing behind.
#[derive(Debug)]
pub struct Reins {
    runtime: Runtime,
    signals: Signals,
    pulled: bool,
}

impl Reins {
    /// From now on the signals are caught.
    pub fn take() -> Result<Self, StartError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(StartError::Thread)?;
        let signals = {
            let _context = runtime.enter();
            Signals::catch().map_err(StartError::Thread)?
        };
        Ok(Self { runtime, signals, pulled: false })
    }

    /// Whether a signal has come, for a part of the start that may take long.
    pub fn were_pulled(&mut self) -> bool {
        let Self { runtime, signals, pulled } = self;
        *pulled = *pulled
            || runtime.block_on(async {
                let moment = tokio::time::sleep(std::time::Duration::from_millis(1));
                tokio::select! {
                    biased;
                    _ = signals.next_stop() => true,
                    () = moment => false,
                }
            });
        *pulled
    }
}

/// Starts the control thread on the configured CPU. From its return on, the listeners answer.
pub fn spawn(reins: Reins, plant: Plant) -> Result<ControlThread, StartError> {
    let Reins { runtime, signals, pulled } = reins;
    let (told, when_told) = oneshot::channel();
    let stop = StopAtEnd(Arc::clone(&plant.stop));
    let cpu = plant.config.director.control_cpu;
    let control = {
        let _context = runtime.enter();
        Control::new(plant)?
    };
    if pulled {
        stop.0.store(true, Release);
    }
    let thread = std::thread::Builder::new()
        .name("control".into())
        .spawn(move || {
            let _stop = stop;
            pin(cpu);
            run(&runtime, control, signals, when_told);
        })
        .map_err(StartError::Thread)?;
    Ok(ControlThread { thread, told })
}

fn run(runtime: &Runtime, control: Control, signals: Signals, told: oneshot::Receiver<()>) {
    runtime.block_on(control.run(signals, told));
}

/// Keeps the thread on a CPU.
pub(super) fn pin(cpu: CpuId) {
    if !core_affinity::set_for_current(core_affinity::CoreId { id: cpu.index() }) {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or_default();
        tracing::warn!(%cpu, name, "the thread cannot be pinned to its CPU and runs on any");
    }
}

/// Stops the workers when the control thread is gone, for whatever reason.
struct StopAtEnd(Arc<AtomicBool>);

impl Drop for StopAtEnd {
    fn drop(&mut self) {
        self.0.store(true, Release);
    }
}
