//! The pair: a thread of its own that nothing delays, with the election, the announcements and a
//! look at what a director needs to do its work.
//!
//! The thread shares a [`FailoverChannel`] with the workers: they bring what they hear of other
//! directors, and one of them sends what is to be said. The control side is told of transitions
//! (`Transition`), logs them and runs the operator's program.

mod announcer;
mod backing;
mod election;
mod health;
mod lease;
mod link;
mod notify;
mod program;
mod role;
mod status;
mod sync;
mod track;
mod transitions;
mod weight_file;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Release};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc as tokio_mpsc, oneshot};

use super::config::{Config, FailoverConfig};
use super::ownership;
use crate::dataplane::failover::{Errand, FailoverChannel, HeardMessage, MESSAGE, Unheard};
use crate::dataplane::stats::WorkerStats;
use crate::dataplane::sync::SyncConnection;
use crate::ids::{CpuId, InterfaceId, OwnersOf};
use crate::wire::ethernet::Mac;
use crate::wire::vrrp::RESIGNED;
use crate::wire::{ipv4, ipv6};

use announcer::{Announcement, Announcer};
use backing::Backing;
pub use election::{Action, Election, Heard, Order, Rules};
pub use health::LinkSource;
pub(super) use health::Pulse;
use health::{Health, Ways};
use lease::{Lapse, LeaseWatch};
use link::Link;
pub(super) use link::groups;
pub use link::hearing;
pub use role::{Cause, Role};
use status::Shown;
pub use status::{FailoverStatus, LinkStatus, PeerStatus, RefusedAdvertisements};
pub(super) use sync::Knowledge;
use sync::{SyncCounts, Synchroniser};
pub(super) use track::{Tracks, Verdict};
pub(super) use transitions::{Transition, Transitions};

/// Longest and shortest pause between two turns.
const LONGEST_PAUSE: Duration = Duration::from_millis(5);
const SHORTEST_PAUSE: Duration = Duration::from_micros(500);
/// Turns that fit an interval.
const TURNS: u32 = 20;
/// How often links and workers are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How often the status is renewed.
const SHOW_EVERY: Duration = Duration::from_millis(100);
/// Errands that announcements leave room for.
const KEPT_ROOM: usize = 64;
/// Messages that are taken in one turn: all that wait for one worker.
const HEARD_IN_ONE_TURN: usize = 256;
/// How long who gives an order waits for its answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How long the last words may take.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// What the director gives the failover thread.
pub struct FailoverPlant {
    /// What it shares with the workers.
    pub channel: Arc<FailoverChannel>,
    /// The Ethernet address of every interface.
    pub macs: Vec<Mac>,
    /// The MTU of every interface, octets of an IP packet.
    pub mtus: Vec<u16>,
    /// The links of every interface.
    pub links: Box<dyn LinkSource>,
    /// Which worker a connection is of.
    pub owners: OwnersOf<SyncConnection>,
    /// The time stamp counter.
    pub clock: fn() -> u64,
    /// Cycles of it in a second.
    pub hz: u64,
}

impl std::fmt::Debug for FailoverPlant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FailoverPlant").field("macs", &self.macs).finish_non_exhaustive()
    }
}

/// What the thread is told.
#[derive(Debug)]
enum Word {
    /// The active director answers for these, which are reached by those.
    Addresses(Vec<Announcement>, Vec<Ways>),
    /// What is tracked says so.
    Tracked(Verdict),
    /// What the operator wants.
    Order(Order, oneshot::Sender<Result<FailoverStatus, String>>),
    /// The director ends: others are told, then the workers are stopped.
    Stop(Arc<AtomicBool>),
}

/// What the thread is told. It takes the lock only where nobody has it: whoever it interrupts goes on
/// after it, and a queue on which it waits for the others would keep its CPU for ever.
#[derive(Debug)]
struct Words(Mutex<Option<VecDeque<Word>>>);

impl Words {
    /// Tells the thread; `false`: it is gone.
    fn put(&self, word: Word) -> bool {
        let Ok(mut words) = self.0.lock() else { return false };
        words.as_mut().map(|words| words.push_back(word)).is_some()
    }
}

/// The thread's end.
#[derive(Debug)]
struct Ear(Arc<Words>);

impl Ear {
    /// The next word, unless another thread is at them just now.
    fn take(&self) -> Option<Word> {
        self.0.0.try_lock().ok()?.as_mut()?.pop_front()
    }
}

impl Drop for Ear {
    /// Who waits for an answer learns that there is none.
    fn drop(&mut self) {
        if let Ok(mut words) = self.0.0.lock() {
            *words = None;
        }
    }
}

/// The failover thread, from outside.
#[derive(Debug)]
pub(super) struct Failover {
    words: Arc<Words>,
    shown: Arc<Shown>,
    sync_counts: Arc<SyncCounts>,
    pulse: Pulse,
}

impl Failover {
    /// Starts the thread. Transitions come by the receiver. `tracked`: what is tracked comes to.
    pub(super) fn start(
        plant: FailoverPlant,
        (config, group): (&Config, &FailoverConfig),
        workers: Vec<Arc<WorkerStats>>,
        tracked: Verdict,
    ) -> io::Result<(Self, tokio_mpsc::UnboundedReceiver<Transition>)> {
        let links = Link::all(config, group, &plant.macs);
        let pulse = Pulse::default();
        let words = Arc::new(Words(Mutex::new(Some(VecDeque::new()))));
        let told = Ear(Arc::clone(&words));
        let (transitions, happened) = tokio_mpsc::unbounded_channel();
        let shown = Arc::new(Shown::of(group));
        let addresses = ownership::moving_addresses(config);
        let names = config.interfaces.iter().map(|interface| interface.name.clone()).collect();
        let watched = (names, health::ways(&addresses, group));
        let health = Health::new(plant.links, watched, workers, pulse.clone());
        let mut announcer = Announcer::new(group.announcements);
        announcer.set(addresses);
        let (is_master, ended) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let sync_counts = Arc::<SyncCounts>::default();
        let parts = (Arc::clone(&is_master), Arc::clone(&sync_counts));
        let channel = Arc::clone(&plant.channel);
        let sync = Synchroniser::new((config, group), &plant.mtus, channel, plant.owners, parts);
        if let Some(sync) = sync.map_err(io::Error::other)? {
            let ended = Arc::clone(&ended);
            let sync = move || sync.run(&ended);
            std::thread::Builder::new().name("sync".into()).spawn(sync)?;
        }
        let turner = Turner {
            pause: (group.interval / TURNS).clamp(SHORTEST_PAUSE, LONGEST_PAUSE),
            announcer,
            group: group.clone(),
            links,
            mtus: plant.mtus,
            health,
            backing: Backing::default(),
            channel: plant.channel,
            clock: plant.clock,
            cycles_per_us: plant.hz / 1_000_000,
            cpu: config.director.control_cpu,
            told,
            transitions,
            shown: Arc::clone(&shown),
            counts: status::Counts::default(),
            role: Role::Stopped,
            tracked,
            lease: LeaseWatch::default(),
            is_master,
            ended,
            sync_counts: Arc::clone(&sync_counts),
        };
        std::thread::Builder::new().name("failover".into()).spawn(move || turner.run())?;
        Ok((Self { words, shown, sync_counts, pulse }, happened))
    }

    /// The control side has turned.
    pub(super) fn beat(&self) {
        self.pulse.beat();
    }

    /// The active director answers for these from now on.
    pub(super) fn set_addresses(&self, config: &Config, group: &FailoverConfig) {
        let addresses = ownership::moving_addresses(config);
        let ways = health::ways(&addresses, group);
        self.words.put(Word::Addresses(addresses, ways));
    }

    /// What is tracked comes to something else.
    pub(super) fn set_tracked(&self, verdict: Verdict) {
        self.words.put(Word::Tracked(verdict));
    }

    /// Does as the operator says: how things are then, or why not. `None`: the thread is gone. Needs the
    /// context of a tokio runtime.
    pub(super) async fn order(&self, order: Order) -> Option<Result<FailoverStatus, String>> {
        let (answer, answered) = oneshot::channel();
        self.words.put(Word::Order(order, answer));
        let Ok(answered) = tokio::time::timeout(ANSWER_WITHIN, answered).await else {
            return Some(
                Err("the failover thread has not answered; it may still do so".to_owned()),
            );
        };
        Some(answered.ok()?.map(|status| self.with_told(status)))
    }

    /// Tells others that this director ends, and then the workers to stop; `false`: the thread is
    /// gone, and nobody does.
    pub(super) fn stop(&self, workers: &Arc<AtomicBool>) -> bool {
        self.words.put(Word::Stop(Arc::clone(workers)))
    }

    /// How things are.
    pub(super) fn status(&self) -> FailoverStatus {
        self.with_told(FailoverStatus::clone(&self.shown.get()))
    }

    /// With what the thread does not look up, for it is behind a lock.
    fn with_told(&self, status: FailoverStatus) -> FailoverStatus {
        let connection_message_refused = self.sync_counts.refusal();
        FailoverStatus { connection_message_refused, ..status }.with(self.sync_counts.standby())
    }
}

/// What the thread has.
struct Turner {
    group: FailoverConfig,
    links: Vec<Link>,
    mtus: Vec<u16>,
    health: Health,
    backing: Backing,
    announcer: Announcer,
    channel: Arc<FailoverChannel>,
    clock: fn() -> u64,
    cycles_per_us: u64,
    cpu: CpuId,
    pause: Duration,
    told: Ear,
    transitions: tokio_mpsc::UnboundedSender<Transition>,
    shown: Arc<Shown>,
    counts: status::Counts,
    role: Role,
    tracked: Verdict,
    lease: LeaseWatch,
    /// Whether this director is the master, for the synchronisation.
    is_master: Arc<AtomicBool>,
    /// Set when the synchronisation is to end.
    ended: Arc<AtomicBool>,
    sync_counts: Arc<SyncCounts>,
}

impl Turner {
    fn run(mut self) {
        // Not among the workers, which it would interrupt.
        super::thread::pin(self.cpu);
        // Whatever waits on this machine waits longer. Without the right to that it goes on.
        if let Err(error) = raise_priority() {
            tracing::warn!(?error, "the failover thread has no real-time priority");
        }
        let start = Instant::now();
        let rules = Rules {
            version: self.group.version,
            priority: self.group.priority,
            interval: self.group.interval,
            preempt: self.group.preempt,
            learns: self.group.sync.is_some(),
            links: self.links.iter().map(|link| link.own).collect(),
        };
        let mut actions = Vec::new();
        let fault = self.fault(Duration::ZERO, None);
        let mut election = Election::new(rules, fault.as_deref(), Duration::ZERO, &mut actions);
        election.set_bonus(self.tracked.bonus);
        let (mut next_look, mut next_show) = (Duration::ZERO, Duration::ZERO);
        loop {
            let now = start.elapsed();
            // What has come first: who does not listen cannot say that nobody spoke.
            let channel = Arc::clone(&self.channel);
            let heard = heard_in_one_turn(&channel).filter_map(|message| self.read(&message));
            for (link, advertisement) in not_taken_back(heard.collect()) {
                election.hear(now, link, advertisement, &mut actions);
            }
            if let Some(workers) = self.listen(now, &mut election, &mut actions) {
                election.stop(now, &mut actions);
                self.act(now, &mut election, &mut actions);
                self.show(now, &election);
                self.finish(&workers);
                return;
            }
            let is_over = self.look_at_lease(now, &mut election, &mut actions);
            if is_over || now >= next_look {
                next_look = now + LOOK_EVERY;
                let fault = self.fault(now, Some(&election));
                election.set_fault(now, fault.as_deref(), &mut actions);
            }
            election.set_learnt(self.sync_counts.is_ready());
            let is_watching = self.health.blind_for(now) <= self.group.interval;
            election.tick(now, is_watching, &mut actions);
            let has_acted = !actions.is_empty();
            self.act(now, &mut election, &mut actions);
            self.announce(now);
            if has_acted || now >= next_show {
                next_show = self.show(now, &election);
            }
            std::thread::sleep(self.pause);
        }
    }

    /// A master whose lease has ended is none any more; whether it could not send.
    fn look_at_lease(
        &mut self,
        now: Duration,
        election: &mut Election,
        actions: &mut Vec<Action>,
    ) -> bool {
        if self.role != Role::Master {
            return false;
        }
        let time = (now, (self.clock)());
        match self.lease.look(time, &self.channel, election.lease()) {
            Some(Lapse::Stalled(silent)) => election.step_down(now, silent, actions),
            Some(Lapse::Unsent(_)) => return true,
            None => {}
        }
        false
    }

    /// What is broken.
    fn fault(&mut self, now: Duration, election: Option<&Election>) -> Option<String> {
        // Where connections are not synchronised nobody says that it stands by.
        let is_backed = self.group.sync.is_none()
            || election
                .is_some_and(|it| self.backing.is_there(now, self.sync_counts.standbys(), it));
        let mute = self.lease.mute(now).and_then(|mute| {
            let link = self.links.iter().find(|link| link.interface == mute)?;
            Some(format!("interface {} does not send", link.name))
        });
        let fault = self.health.fault(now, is_backed).or(mute);
        fault.or_else(|| self.tracked.fault.clone())
    }

    /// What an advertisement says, and on which link.
    fn read(&mut self, message: &HeardMessage) -> Option<(usize, Heard)> {
        let place = self.links.iter().position(|link| link.is_of(message));
        let read = place.ok_or(Unheard::Sender).and_then(|place| {
            let heard = Link::read(&self.group, message)?;
            Ok((place, heard))
        });
        match read {
            Ok(_) => self.counts.received += 1,
            Err(why) => self.counts.refuse(why),
        }
        read.ok()
    }

    /// What this side is told; the workers, if it is to end.
    fn listen(
        &mut self,
        now: Duration,
        election: &mut Election,
        actions: &mut Vec<Action>,
    ) -> Option<Arc<AtomicBool>> {
        while let Some(word) = self.told.take() {
            match word {
                Word::Addresses(addresses, ways) => {
                    self.announcer.set(addresses);
                    self.health.watch(ways);
                }
                Word::Tracked(verdict) => {
                    election.set_bonus(verdict.bonus);
                    self.tracked = verdict;
                }
                Word::Order(order, answer) => {
                    let done = election.obey(now, order, actions);
                    // Who asked may have given up.
                    answer.send(done.map(|()| status::of(self, now, election))).ok();
                }
                Word::Stop(workers) => return Some(workers),
            }
        }
        None
    }

    /// Does what the election wants.
    fn act(&mut self, now: Duration, election: &mut Election, actions: &mut Vec<Action>) {
        let cycles = u64::try_from(election.lease().as_micros()).unwrap_or(u64::MAX);
        let until = (self.clock)().saturating_add(cycles.saturating_mul(self.cycles_per_us));
        for action in actions.iter() {
            let Action::Enter(role, cause) = action else { continue };
            // Before anything is said.
            self.channel.standing.begin_term();
            let from = std::mem::replace(&mut self.role, *role);
            let is_in_order = !matches!(cause, Cause::Stalled { .. });
            self.sync_counts.change_role(from == Role::Master && is_in_order);
            self.is_master.store(*role == Role::Master, Release);
            self.sync_counts.stand_by(*role == Role::Backup);
            if *role == Role::Master {
                self.announcer.begin(now);
                self.lease.begin(now, &self.channel);
            } else {
                self.announcer.end();
            }
            if from == Role::Fault {
                self.sync_counts.join();
                self.ask_for_peers();
            }
            self.counts.transitions += u64::from(from != Role::Stopped);
            let transition = Transition { from, to: *role, cause: cause.clone() };
            // The control side may be at its end.
            self.transitions.send(transition).ok();
        }
        let is_said_by = |link: usize, action: &Action| matches!(action, Action::Advertise { link: by, priority } if *by == link && *priority != RESIGNED);
        let links = 0..self.links.len();
        let by_all = links.into_iter().all(|link| actions.iter().any(|it| is_said_by(link, it)));
        let mut is_said = true;
        for action in actions.drain(..) {
            match action {
                Action::Enter(..) => {}
                Action::Announce { .. } => self.announcer.again(now),
                Action::Advertise { link, priority } => {
                    is_said &= self.advertise(link, priority, until);
                }
            }
        }
        if self.role == Role::Master && by_all && is_said {
            self.channel.ask(Errand::Renew(self.channel.standing.lease(until)));
        }
    }

    /// Who could not reach this director for long has to learn anew where it is, to be heard in time.
    fn ask_for_peers(&self) {
        for link in &self.links {
            for address in link.peers().iter().copied() {
                self.channel.ask(Errand::Solicit { interface: link.interface, address });
            }
        }
    }

    /// Has an advertisement sent before its time is over; whether a worker will see to all of it.
    fn advertise(&mut self, link: usize, priority: u8, until: u64) -> bool {
        let Some(link) = self.links.get(link) else { return false };
        let (mut asked, mut left) = (0, 0);
        let room = room_for_message(&self.mtus, link.interface, link.own.is_ipv6());
        for message in link.advertisements(&self.group, priority, room) {
            let is_asked = self.channel.ask(Errand::Send(message, until));
            asked += u64::from(is_asked);
            left += u64::from(!is_asked);
        }
        self.counts.sent += asked;
        asked > 0 && left == 0
    }

    fn announce(&mut self, now: Duration) {
        let room = self.channel.room().saturating_sub(KEPT_ROOM);
        for (interface, address) in self.announcer.due(now, room) {
            self.counts.announced += 1;
            self.channel.ask(Errand::Announce { interface, address });
        }
    }

    /// When it is to be shown again: at once, where somebody reads in this moment.
    fn show(&self, now: Duration, election: &Election) -> Duration {
        let is_shown = self.shown.put(status::of(self, now, election));
        now + if is_shown { SHOW_EVERY } else { Duration::ZERO }
    }

    /// Waits until everything has been said, and has the workers stop.
    fn finish(&self, workers: &AtomicBool) {
        let until = Instant::now() + LAST_WORDS;
        let has_words = || self.channel.is_asked() || self.sync_counts.is_parting();
        while has_words() && Instant::now() < until {
            std::thread::sleep(SHORTEST_PAUSE);
        }
        // What the worker has taken last it may still be sending.
        std::thread::sleep(SHORTEST_PAUSE * 4);
        self.ended.store(true, Release);
        workers.store(true, Release);
    }
}

/// Octets that a message may have behind its IP header, that it fits a link.
fn room_for_message(mtus: &[u16], interface: InterfaceId, is_v6: bool) -> usize {
    let head = if is_v6 { ipv6::HEADER } else { ipv4::HEADER };
    let mtu = mtus.get(interface.index()).copied().unwrap_or(u16::MAX);
    usize::from(mtu).saturating_sub(head).min(MESSAGE)
}

/// What was heard, as far as it is taken in one turn: where a loop brings ever more, it is not all.
fn heard_in_one_turn(channel: &FailoverChannel) -> impl Iterator<Item = HeardMessage> {
    std::iter::from_fn(|| channel.heard()).take(HEARD_IN_ONE_TURN)
}

/// Without what those have said in the same turn, before, who give up at its end. A device without a link
/// keeps some frames, and sends them when the link is back: the last ones of a master that has given
/// up since, one right behind the other.
fn not_taken_back(mut heard: Vec<(usize, Heard)>) -> Vec<(usize, Heard)> {
    let mut gave_up = Vec::new();
    heard.reverse();
    heard.retain(|&(link, Heard { from, priority, .. })| {
        let has_spoken_last = !gave_up.contains(&(link, from));
        if priority == RESIGNED && has_spoken_last {
            gave_up.push((link, from));
        }
        has_spoken_last
    });
    heard.reverse();
    heard
}

/// Before all threads of ordinary priority: the least of the real-time ones.
fn raise_priority() -> Result<(), thread_priority::Error> {
    use thread_priority::{
        RealtimeThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy,
        set_thread_priority_and_policy, thread_native_id,
    };
    let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
    let least = ThreadPriority::Crossplatform(
        1_u8.try_into().map_err(|_| thread_priority::Error::PriorityNotInRange(0..=99))?,
    );
    set_thread_priority_and_policy(thread_native_id(), least, policy)
}
