//! The control loop.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Release};
use std::time::Duration;

use tokio::signal::unix::SignalKind;
use tokio::sync::{mpsc, oneshot};

use super::listeners::SocketFile;
use super::neighbor::{Action, Audience, Neighbors};
use super::observed::{Clock, Observed, Shared, Worker};
use super::outbox::Outbox;
use super::state::{Change, DesiredState};
use super::thread::Signals;
use super::{Neighbor, Plant, StartError, api, metrics, ownership};
use crate::dataplane::mailbox::{Command, ConnectionPage, Event};
use crate::ids::{InterfaceId, WorkerId};

/// Pause between two turns while something happens, and while nothing does.
const BUSY_PAUSE: Duration = Duration::from_millis(1);
const IDLE_PAUSE: Duration = Duration::from_millis(5);
/// How long after the last event something may still happen.
const BUSY_FOR: Duration = Duration::from_millis(100);
/// Events taken from one worker in one turn.
const EVENTS_PER_TURN: usize = 512;
/// Neighbours kept, besides the configured and the essential ones.
const NEIGHBORS: usize = 16_384;
/// How often and at what distance owned addresses are announced at the start.
const ANNOUNCEMENTS: u8 = 3;
const ANNOUNCE_EVERY: Duration = Duration::from_secs(1);
/// Time over which rates are measured.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);
/// Requests of the API that may wait for the loop, and pages that one worker may owe.
const REQUESTS: usize = 64;
const PAGES_OWED: usize = 16;

/// What the API asks of the loop.
#[derive(Debug)]
pub(super) enum Request {
    /// A page of one worker's connections. The reply is dropped when the worker owes too many.
    Connections { worker: WorkerId, page: ConnectionPage, reply: oneshot::Sender<ConnectionPage> },
}

/// A page that a worker owes.
#[derive(Debug)]
struct Owed {
    worker: WorkerId,
    /// The page's buffer, which tells it from others: an event may be lost.
    buffer: usize,
    reply: oneshot::Sender<ConnectionPage>,
}

/// The control side.
#[derive(Debug)]
pub(super) struct Control {
    observed: Arc<Observed>,
    state: DesiredState,
    outbox: Outbox,
    neighbors: Neighbors,
    requests: mpsc::Receiver<Request>,
    /// Pages that the workers owe, oldest first.
    owed: Vec<Owed>,
    announcements: Announcements,
    next_sample: Duration,
    busy_until: Duration,
    stop: Arc<AtomicBool>,
    stopping: bool,
    socket_file: SocketFile,
}

/// The addresses to announce, and when.
#[derive(Debug)]
struct Announcements {
    addresses: Vec<(InterfaceId, IpAddr)>,
    left: u8,
    next: Duration,
}

impl Control {
    /// Takes over the plant and starts to listen. Needs the context of a tokio runtime.
    pub(super) fn new(plant: Plant) -> Result<Self, StartError> {
        let now = Duration::ZERO;
        let mut state = DesiredState::new(plant.slots);
        let services = plant.config.services.clone();
        let inventory = state.apply(Change::Adopt { services, table: plant.table })?;
        let addresses = ownership::owned_addresses(&plant.config);
        let mut neighbors = Neighbors::new(NEIGHBORS);
        for (neighbor, mac) in ownership::static_neighbors(&plant.config) {
            neighbors.add_permanent(neighbor, mac);
        }
        for neighbor in ownership::essential_neighbors(&plant.config) {
            neighbors.add_essential(now, neighbor);
        }
        let stats: Vec<_> = plant.workers.iter().map(Worker::of).collect();
        let mailboxes = plant.workers.into_iter().map(|worker| (worker.id, worker.mailbox));
        let outbox = Outbox::new(mailboxes);
        let observed = Arc::new(Observed {
            config: plant.config,
            workers: stats,
            loads: plant.loads,
            devices: plant.devices.into(),
            inventory: inventory.into(),
            tsc_hz: plant.tsc_hz,
            build: plant.build,
            clock: Clock::start(),
            rates: Shared::default(),
            health: Shared::default(),
        });
        let (request_sender, requests) = mpsc::channel(REQUESTS);
        let socket_file = plant.listeners.api.file;
        let doors = api::Doors { observed: Arc::clone(&observed), requests: request_sender };
        api::server::start(plant.listeners.api.socket, doors)
            .map_err(|cause| StartError::Socket { path: socket_file.path().to_owned(), cause })?;
        if let Some(listener) = plant.listeners.metrics {
            metrics::exporter::start(listener, &observed).map_err(StartError::Thread)?;
        }
        Ok(Self {
            observed,
            state,
            outbox,
            neighbors,
            requests,
            owed: Vec::new(),
            announcements: Announcements { addresses, left: ANNOUNCEMENTS, next: now },
            next_sample: now,
            busy_until: BUSY_FOR,
            stop: plant.stop,
            stopping: false,
            socket_file,
        })
    }

    /// Runs until told to finish.
    pub(super) async fn run(mut self, mut signals: Signals, mut told: oneshot::Receiver<()>) {
        tracing::info!(socket = %self.socket_file.path().display(), "control is running");
        loop {
            let now = self.now();
            self.turn(now);
            let pause = self.pause(now);
            tokio::select! {
                biased;
                _ = &mut told => break,
                signal = signals.next() => self.on_signal(signal),
                Some(request) = self.requests.recv() => self.on_request(request),
                () = tokio::time::sleep(pause) => {}
            }
        }
        // The workers have ended: what they retired last is freed here.
        let now = self.now();
        self.take_events(now, usize::MAX);
    }

    fn now(&self) -> Duration {
        self.observed.clock.uptime()
    }

    fn pause(&self, now: Duration) -> Duration {
        let busy = now < self.busy_until || self.outbox.is_waiting();
        if busy { BUSY_PAUSE } else { IDLE_PAUSE }
    }

    /// Everything that is due, without waiting for anything.
    fn turn(&mut self, now: Duration) {
        self.outbox.flush();
        self.take_events(now, EVENTS_PER_TURN);
        self.neighbors.tick(now);
        self.act(now);
        self.announce(now);
        if now >= self.next_sample {
            self.next_sample = now + SAMPLE_EVERY;
            self.observed.sample(now);
        }
        self.observed.beat(now, &self.neighbors);
    }

    fn take_events(&mut self, now: Duration, per_worker: usize) {
        let Self { outbox, neighbors, owed, state, busy_until, .. } = self;
        outbox.drain(per_worker, |worker, event| {
            *busy_until = now + BUSY_FOR;
            match event {
                Event::Resolve { interface, address } => {
                    neighbors.resolve(now, worker, Neighbor { interface, address });
                }
                Event::NeighborSeen { interface, address, mac, answer } => {
                    neighbors.seen(now, Neighbor { interface, address }, mac, answer);
                }
                Event::Connections { worker, page } => deliver(owed, worker, page),
                Event::Installed { worker, version, retired } => {
                    let wanted = state.version();
                    tracing::debug!(%worker, %version, %wanted, "services installed");
                    drop(retired);
                }
            }
        });
    }

    /// Passes on what the neighbour cache wants done.
    fn act(&mut self, now: Duration) {
        for action in self.neighbors.take_actions() {
            self.busy_until = now + BUSY_FOR;
            if let Action::Unreachable { neighbor, worker: None } = action {
                let Neighbor { interface, address } = neighbor;
                tracing::debug!(%interface, %address, "a neighbour is unreachable or unused");
            }
            match action.audience() {
                Audience::Any => self.outbox.send_any(action.command()),
                Audience::One(worker) => self.outbox.send(worker, action.command()),
                Audience::All => self.outbox.send_all(|| action.command()),
            }
        }
    }

    fn announce(&mut self, now: Duration) {
        let due = &mut self.announcements;
        if due.left == 0 || now < due.next || self.stopping {
            return;
        }
        due.left -= 1;
        due.next = now + ANNOUNCE_EVERY;
        for &(interface, address) in &due.addresses {
            self.outbox.send_any(Command::Announce { interface, address });
        }
    }

    fn on_request(&mut self, request: Request) {
        let Request::Connections { worker, page, reply } = request;
        // A lost page is owed until who asked has given up.
        self.owed.retain(|owed| !owed.reply.is_closed());
        if self.owed.iter().filter(|owed| owed.worker == worker).count() < PAGES_OWED {
            self.owed.push(Owed { worker, buffer: page.rows.as_ptr().addr(), reply });
            self.outbox.send(worker, Command::ListConnections(page));
            self.busy_until = self.now() + BUSY_FOR;
        }
    }

    /// The first signal stops in order, the second at once.
    #[allow(clippy::exit, reason = "a second signal means: at once, whatever is unfinished")]
    fn on_signal(&mut self, signal: SignalKind) {
        let number = signal.as_raw_value();
        if self.stopping {
            tracing::warn!(signal = number, "second signal: exit at once");
            self.socket_file.remove();
            std::process::exit(128 + number);
        }
        tracing::info!(signal = number, "stopping; a second signal exits at once");
        self.stopping = true;
        self.observed.stop();
        self.stop.store(true, Release);
    }
}

/// Gives a page to who asked for it. The youngest match: an older one was lost, and its memory
/// used again.
fn deliver(owed: &mut Vec<Owed>, worker: WorkerId, page: ConnectionPage) {
    let buffer = page.rows.as_ptr().addr();
    let place = owed.iter().rposition(|owed| owed.worker == worker && owed.buffer == buffer);
    if let Some(place) = place {
        // Who asked may have given up.
        owed.remove(place).reply.send(page).ok();
    }
}
