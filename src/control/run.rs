//! The control loop.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Release};
use std::time::Duration;

use hashbrown::HashMap;
use tokio::signal::unix::SignalKind;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use super::acknowledgements::Acknowledgements;
use super::announcements::Announcements;
use super::api::message::{Changed, Failure, Saved, TakenOver, UpgradeStatus};
use super::config::Config;
use super::desired::{
    Change, DesiredState, InventoryService, NotSaved, Outcome, Refused, STEP, Step,
};
use super::failover::{Failover, Tracks, Transitions, Verdict};
use super::handover::{Ending, Parts, Succession};
use super::listeners::SocketFile;
use super::membership::Membership;
use super::neighbor::{Action, Audience, Neighbors};
use super::observed::{Clock, Observed, Shared, Worker, unix_seconds};
use super::outbox::Outbox;
use super::pages::PagesOwed;
use super::request::{ChangeRequest, NotChanged, Request, SaveRequest};
use super::thread::Signals;
use super::{FailoverPlant, Neighbor, Plant, StartError, api, ownership, service_manager};
use crate::dataplane::mailbox::{Command, ConnectionPage, Event};
use crate::dataplane::stats::WorkerStats;
use crate::ids::{ServerSlot, WorkerId};
use crate::service::ServiceTable;

/// Pause between two turns while something happens, and while nothing does.
const BUSY_PAUSE: Duration = Duration::from_millis(1);
const IDLE_PAUSE: Duration = Duration::from_millis(5);
/// How long after the last event something may still happen.
const BUSY_FOR: Duration = Duration::from_millis(100);
/// Events taken from one worker in one turn.
const EVENTS_PER_TURN: usize = 512;
/// Time over which rates are measured.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);
/// Requests of the API that may wait for the loop.
const REQUESTS: usize = 64;

/// The control side.
#[derive(Debug)]
pub(super) struct Control {
    observed: Arc<Observed>,
    state: DesiredState,
    outbox: Outbox,
    neighbors: Neighbors,
    requests: mpsc::Receiver<Request>,
    pages: PagesOwed,
    acknowledgements: Acknowledgements,
    announcements: Announcements,
    membership: Membership,
    next_sample: Duration,
    next_step: Duration,
    /// The states of servers when they were last looked at.
    states: HashMap<ServerSlot, &'static str>,
    busy_until: Duration,
    stop: Arc<AtomicBool>,
    stopping: bool,
    socket_file: SocketFile,
    /// Changes of the role in a pair.
    transitions: Transitions,
    tracks: Tracks,
    succession: Succession,
    /// Who serves the control socket and the metrics.
    servers: Vec<AbortHandle>,
}

impl Control {
    /// Takes over the plant and starts to listen. Needs the context of a tokio runtime.
    pub(super) fn new(plant: Plant) -> Result<Self, StartError> {
        let now = Duration::ZERO;
        let config = plant.config.clone();
        let state = DesiredState::new(plant.source, config, plant.slots, plant.table)?;
        let ids = plant.workers.iter().map(|worker| worker.id);
        let acknowledgements = Acknowledgements::new(ids, state.version());
        let addresses = ownership::staying_addresses(&plant.config);
        let membership = Membership::at_start(&plant.config, plant.macs, now);
        let neighbors = Neighbors::at_start(&plant.config, plant.handover.taken.as_ref(), now);
        let upgrade = UpgradeStatus::none(plant.handover.taken.as_ref().map(TakenOver::of));
        let succession =
            Succession::new(plant.handover, &plant.listeners).map_err(StartError::Thread)?;
        let stats: Vec<_> = plant.workers.iter().map(Worker::of).collect();
        let mailboxes = plant.workers.into_iter().map(|worker| (worker.id, worker.mailbox));
        let outbox = Outbox::new(mailboxes);
        let (tracks, tracked) = tracked_at_start(&plant.config, &state);
        let workers = stats.iter().map(|worker| Arc::clone(&worker.stats)).collect();
        let (failover, transitions) =
            pair(plant.failover, &plant.config, workers, tracked).map_err(StartError::Thread)?;
        let observed = Arc::new(Observed {
            config: plant.config,
            workers: stats,
            loads: plant.loads,
            devices: plant.devices.into(),
            inventory: Arc::clone(state.inventory()).into(),
            tsc_hz: plant.tsc_hz,
            build: plant.build,
            clock: Clock::start(),
            rates: Shared::default(),
            health: Shared::default(),
            changes: Shared::default(),
            ledger: Shared::default(),
            failover,
            upgrade: upgrade.into(),
        });
        let (request_sender, requests) = mpsc::channel(REQUESTS);
        let path = state.path().to_owned();
        let doors = api::Doors { observed: Arc::clone(&observed), requests: request_sender, path };
        let (socket_file, servers) = plant.listeners.serve(doors)?;
        Ok(Self {
            observed,
            state,
            outbox,
            neighbors,
            requests,
            pages: PagesOwed::default(),
            acknowledgements,
            announcements: Announcements::of(addresses, now),
            membership,
            next_sample: now,
            next_step: now,
            states: HashMap::new(),
            busy_until: BUSY_FOR,
            stop: plant.stop,
            stopping: false,
            socket_file,
            transitions,
            tracks,
            succession,
            servers,
        })
    }

    /// Runs until told to finish.
    pub(super) async fn run(mut self, mut signals: Signals, mut told: oneshot::Receiver<()>) {
        tracing::info!(socket = %self.socket_file.path().display(), "control is running");
        service_manager::tell("READY=1");
        loop {
            let now = self.now();
            self.turn(now);
            let pause = self.pause(now);
            tokio::select! {
                biased;
                _ = &mut told => break,
                signal = signals.next() => self.on_signal(signal),
                Some(request) = self.requests.recv() => self.on_request(request),
                transition = self.transitions.next() => self.transitions.tell(&transition),
                ending = self.succession.next() => self.on_ending(ending),
                () = tokio::time::sleep(pause) => {}
            }
        }
        // The workers have ended: what they retired last is freed here.
        let now = self.now();
        self.take_events(now, usize::MAX);
        self.finish(signals).await;
    }

    /// The operator's program hears of the end; who cannot wait for it sends a second signal.
    async fn finish(mut self, mut signals: Signals) {
        let told = std::mem::take(&mut self.transitions).finish();
        tokio::pin!(told);
        loop {
            tokio::select! {
                biased;
                () = &mut told => return,
                signal = signals.next() => self.on_signal(signal),
            }
        }
    }

    fn now(&self) -> Duration {
        self.observed.clock.uptime()
    }

    fn pause(&self, now: Duration) -> Duration {
        let awaited = self.outbox.is_waiting() || self.acknowledgements.is_awaited();
        let busy = now < self.busy_until || awaited;
        if busy { BUSY_PAUSE } else { IDLE_PAUSE }
    }

    /// Everything that is due, without waiting for anything.
    fn turn(&mut self, now: Duration) {
        self.outbox.flush();
        self.take_events(now, EVENTS_PER_TURN);
        self.neighbors.tick(now);
        self.acknowledgements.give_up(now);
        self.step(now);
        self.act(now);
        self.announce(now);
        if now >= self.next_sample {
            self.next_sample = now + SAMPLE_EVERY;
            self.observed.sample(now);
            self.membership.see(now, self.observed.links());
            self.log_states();
            self.track();
        }
        self.observed.beat(now, &self.neighbors);
        if let Some(failover) = &self.observed.failover {
            failover.beat();
        }
    }

    fn take_events(&mut self, now: Duration, per_worker: usize) {
        let Self { outbox, neighbors, pages, acknowledgements, busy_until, observed, .. } = self;
        let membership = &mut self.membership;
        outbox.drain(per_worker, |worker, event| {
            *busy_until = now + BUSY_FOR;
            match event {
                Event::Resolve { interface, address } => {
                    neighbors.resolve(now, worker, Neighbor { interface, address });
                }
                Event::NeighborSeen { interface, address, mac, answer } => {
                    neighbors.seen(now, Neighbor { interface, address }, mac, answer);
                }
                Event::ListenersQueried { interface, query } => {
                    let chance = getrandom::u32().unwrap_or_default();
                    membership.queried(now, interface, query, chance);
                }
                Event::Connections { worker, page } => pages.deliver(worker, page),
                Event::HandoverBegun { retired } => drop(retired),
                Event::Installed { worker, version, retired } => {
                    tracing::debug!(%worker, %version, "services installed");
                    let counts = |took| observed.count_acknowledged(took);
                    acknowledgements.installed(now, worker, version, counts);
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
        if self.stopping {
            return;
        }
        for &(interface, address) in self.announcements.due(now) {
            self.outbox.send_any(Command::Announce { interface, address });
        }
        for (interface, report) in self.membership.due(now) {
            self.outbox.send_any(Command::ReportListeners { interface, report });
        }
    }

    fn on_request(&mut self, request: Request) {
        match request {
            Request::Connections { worker, page, reply } => self.list(worker, page, reply),
            Request::Change(request) => self.on_change(request),
            Request::Upgrade(request) => {
                let Self { succession, observed, state, neighbors, outbox, .. } = self;
                let mut parts = Parts { observed, state, neighbors, outbox };
                succession.begin(request, &mut parts);
            }
            Request::Save(SaveRequest { force, reply }) => {
                // Who asked may have given up.
                reply.send(self.save(force)).ok();
            }
        }
    }

    fn list(
        &mut self,
        worker: WorkerId,
        page: ConnectionPage,
        reply: oneshot::Sender<ConnectionPage>,
    ) {
        if self.pages.owe(worker, &page, reply) {
            self.outbox.send(worker, Command::ListConnections(page));
            self.busy_until = self.now() + BUSY_FOR;
        }
    }

    fn on_change(&mut self, request: ChangeRequest) {
        let ChangeRequest { change, expected, dry_run, origin, reply } = request;
        match self.change(&change, expected, dry_run, &origin) {
            Ok((changed, true)) => {
                let (now, version) = (self.now(), self.state.version());
                let (acknowledged, answer) = oneshot::channel();
                self.acknowledgements.wait(now, version, changed, acknowledged);
                // Who asked may have given up.
                tokio::spawn(async move { answer.await.map(|changed| reply.send(Ok(changed))) });
            }
            Ok((changed, false)) => drop(reply.send(Ok(changed))),
            Err(why) => drop(reply.send(Err(why))),
        }
    }

    /// Makes a change, and tells whether the workers were told.
    fn change(
        &mut self,
        change: &Change,
        expected: Option<u64>,
        dry_run: bool,
        origin: &str,
    ) -> Result<(Changed, bool), NotChanged> {
        let version = self.state.revision();
        if let Some(expected) = expected.filter(|expected| *expected != version) {
            return Err(NotChanged::OtherVersion { expected, version });
        }
        if let Some(worker) = self.acknowledgements.straggler(self.state.version()) {
            return Err(NotChanged::Straggler(worker));
        }
        if self.succession.is_under_way() && !dry_run {
            return Err(NotChanged::Upgrade);
        }
        self.reclaim();
        let outcome =
            if dry_run { self.state.preview(change) } else { self.state.apply(change, self.now()) };
        let Outcome { plan, warnings, table } = outcome.map_err(|refused| {
            tracing::warn!(%origin, reason = %refused, "a change is refused");
            self.observed.count_change(|counts| counts.refused += 1);
            NotChanged::Refused(refused)
        })?;
        let installs = table.is_some();
        if !dry_run {
            self.observed.count_change(|counts| {
                counts.applied += u64::from(installs);
                counts.without_effect += u64::from(!installs);
            });
        }
        if let Some(table) = table {
            self.install(&table);
            self.adopt(&plan, origin);
        }
        let changed = Changed {
            version: self.state.revision(),
            plan,
            warnings,
            acknowledged_seconds: None,
            silent_workers: Vec::new(),
        };
        Ok((changed, installs))
    }

    /// Takes back the slots of servers that are gone, connections and all.
    fn reclaim(&mut self) {
        let acknowledged = self.acknowledgements.everywhere();
        let returned = self.state.reclaim(&self.observed.loads, acknowledged);
        self.observed.slots_returned(&returned);
    }

    /// Tells the workers and the readers.
    fn install(&mut self, table: &Arc<ServiceTable>) {
        table.set_thresholds(&self.observed.loads);
        self.outbox.send_all(|| Command::InstallServices(Arc::clone(table)));
        self.observed.set_inventory(self.state.inventory());
    }

    /// Servers that start slowly get a larger share; those that are drained and empty, or have no
    /// more time, go if they are to.
    fn step(&mut self, now: Duration) {
        if now < self.next_step {
            return;
        }
        self.next_step = now + STEP;
        if self.succession.is_under_way() {
            return;
        }
        if self.acknowledgements.straggler(self.state.version()).is_some() {
            return;
        }
        self.reclaim();
        let acknowledged = self.acknowledgements.everywhere();
        match self.state.step(now) {
            Ok(Some(table)) => self.install(&table),
            Ok(None) => {}
            Err(cause) => tracing::error!(%cause, "cannot make the next step of a slow start"),
        }
        for change in self.state.drained(unix_seconds(), &self.observed.loads, acknowledged) {
            if let Err(why) = self.change(&change, None, false, "drain") {
                tracing::error!(?change, ?why, "cannot remove a drained server");
            }
        }
    }

    /// Tells the election of what is tracked.
    fn track(&mut self) {
        if let Some(failover) = &self.observed.failover
            && let Some(verdict) = self.tracks.news(self.state.inventory())
        {
            tracing::warn!(?verdict, "what failover depends on has changed");
            failover.set_tracked(verdict);
        }
    }

    /// Says which servers are in another state than a second ago, and why.
    fn log_states(&mut self) {
        let inventory = self.state.inventory();
        let loads = &self.observed.loads;
        let servers =
            inventory.services.iter().flat_map(|InventoryService { service, servers }| {
                servers.iter().map(move |entry| (&service.name, entry))
            });
        let mut states = HashMap::new();
        for (service, entry) in servers {
            let (to, reason) = entry.state(loads);
            let server = entry.server.address;
            if let Some(from) = self.states.get(&entry.slot).filter(|from| **from != to) {
                tracing::info!(%service, %server, from, to, %reason, "a server's state has changed");
            }
            states.insert(entry.slot, to);
        }
        self.states = states;
    }

    /// What else follows from what is in force now.
    fn adopt(&mut self, plan: &[Step], origin: &str) {
        let now = self.now();
        self.busy_until = now + BUSY_FOR;
        let version = self.state.revision();
        for step in plan {
            tracing::info!(%version, %origin, change = %step, "what is wanted has changed");
        }
        let config = &self.state.inventory().config;
        self.neighbors.require(now, &ownership::essential_neighbors(config));
        let owned = ownership::staying_addresses(config);
        self.announcements.change(now, owned);
        self.membership.adopt(now, config);
        if let (Some(failover), Some(group)) = (&self.observed.failover, &config.failover) {
            failover.set_addresses(config, group);
        }
    }

    fn save(&mut self, force: bool) -> Result<Saved, Failure> {
        let path = self.state.path().display().to_string();
        let changed = self.state.save(force).map_err(|error| {
            let hint = match error {
                NotSaved::Overtaken(_) => "reload it first, or save with force to overwrite it",
                NotSaved::Unwritable { .. } => "nothing has been written",
            };
            Failure { error: error.to_string(), hint: hint.to_owned(), ..Failure::default() }
        })?;
        tracing::info!(%path, changed, "what is wanted was saved");
        Ok(Saved { path, changed })
    }

    /// Makes everything as the configuration file says it (SIGHUP).
    fn reload(&mut self) {
        let path = self.state.path().to_owned();
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(cause) => {
                tracing::error!(path = %path.display(), %cause, "cannot reload; nothing changes");
                return;
            }
        };
        match self.change(&Change::Reload { text }, None, false, "SIGHUP") {
            Ok((changed, _)) => {
                let steps = changed.plan.len();
                for step in changed.plan.iter().filter(|step| step.needs_restart()) {
                    tracing::warn!(change = %step, "wanted, but not at run time");
                }
                tracing::info!(path = %path.display(), steps, "reloaded");
            }
            Err(NotChanged::Refused(Refused::Invalid(problems))) => {
                for problem in &problems {
                    tracing::error!(%problem, "the file is not valid; nothing changes");
                }
            }
            Err(why) => tracing::error!(?why, "cannot reload; nothing changes"),
        }
    }

    /// The first signal stops in order, the second at once.
    #[allow(clippy::exit, reason = "a second signal means: at once, whatever is unfinished")]
    fn on_signal(&mut self, signal: SignalKind) {
        let number = signal.as_raw_value();
        if signal == SignalKind::hangup() {
            if !self.stopping {
                self.reload();
            }
            return;
        }
        if self.stopping {
            tracing::warn!(signal = number, "second signal: exit at once");
            self.socket_file.remove();
            std::process::exit(128 + number);
        }
        tracing::info!(signal = number, "stopping; a second signal exits at once");
        self.stopping = true;
        self.observed.stop();
        // In a pair the other director is told first.
        let failover = self.observed.failover.as_ref();
        if failover.is_some_and(|failover| failover.stop(&self.stop)) {
            return;
        }
        let Self { succession, observed, state, neighbors, outbox, stop, .. } = self;
        let mut parts = Parts { observed, state, neighbors, outbox };
        if succession.is_under_way() || !succession.leave(&mut parts, stop) {
            stop.store(true, Release);
        }
    }

    /// An upgrade has ended: another process forwards, or this one goes on.
    fn on_ending(&mut self, ending: Ending) {
        match ending {
            Ending::Done { pid, connections, gap } => {
                tracing::info!(
                    pid,
                    connections,
                    ?gap,
                    "a new director has taken over: this one ends"
                );
                service_manager::tell(&format!("MAINPID={pid}"));
                self.servers.iter().for_each(AbortHandle::abort);
                self.socket_file.leave();
                self.stopping = true;
                self.observed.stop();
                self.stop.store(true, Release);
            }
            Ending::Failed(error) => {
                tracing::error!(%error, "the upgrade has failed; this director goes on");
                self.observed.set_upgrade(UpgradeStatus::failed(error));
            }
        }
    }
}

/// What is tracked, and what that comes to.
fn tracked_at_start(config: &Config, state: &DesiredState) -> (Tracks, Verdict) {
    let track = config.failover.as_ref().map(|group| Tracks::of(&group.track));
    let mut tracks = track.unwrap_or_default();
    let verdict = tracks.news(state.inventory()).unwrap_or_default();
    (tracks, verdict)
}

/// Starts the failover thread, where the director is one of a pair.
fn pair(
    parts: Option<FailoverPlant>,
    config: &Config,
    workers: Vec<Arc<WorkerStats>>,
    tracked: Verdict,
) -> io::Result<(Option<Failover>, Transitions)> {
    let (Some(parts), Some(group)) = (parts, &config.failover) else {
        return Ok((None, Transitions::default()));
    };
    let (failover, transitions) = Failover::start(parts, (config, group), workers, tracked)?;
    Ok((Some(failover), Transitions::of(group, transitions)))
}
