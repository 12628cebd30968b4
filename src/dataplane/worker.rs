//! A worker: one lcore with its queues, its pipeline and its ends of the rings. Polls, and never
//! waits for anything while there are packets.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::failover::FailoverChannel;
use super::frame::{FrameBurst, Outlet};
use super::handover::Phase;
use super::pipeline::{Origin, Pipeline};
use super::stats::{DropReason, Stage, WorkerStats};
use super::stopwatch;
use crate::clock::Tick;
use crate::dpdk::burst::{Burst, free_all};
use crate::dpdk::lcore::delay_us_sleep;
use crate::dpdk::mbuf::Mbuf;
use crate::dpdk::mempool::Mempool;
use crate::dpdk::queue::{RxQueue, TxQueue};
use crate::dpdk::ring::{RingConsumer, RingProducer};
use crate::dpdk::tsc;
use crate::ids::{InterfaceId, WorkerId};

/// A full queue is tried for this part of a second for what is urgent: 50 microseconds.
const URGENT_PART: u64 = 20_000;
/// Rounds between two looks at the mailbox and the timers, under load.
const HOUSEKEEPING_ROUNDS: u32 = 16;
/// Rounds between two looks at what waits in queues, which some drivers count one by one.
const DEPTH_ROUNDS: u32 = 1024;
/// Empty rounds before a worker may sleep.
const EMPTY_ROUNDS: u32 = 256;
/// What a worker sleeps between two rounds while it does not forward, microseconds.
const PAUSE_US: u32 = 20;

/// What a worker does when nothing comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdlePolicy {
    /// Polls on.
    Busy,
    /// Sleeps for so many microseconds after some hundred empty rounds.
    Sleep(u32),
}

/// How a worker reaches a port.
#[derive(Debug)]
pub enum Egress {
    /// By a transmit queue of its own.
    Queue(TxQueue),
    /// By the worker that has one: the port has fewer queues than there are workers.
    Proxy(WorkerId),
}

/// The rings to and from one other worker.
#[derive(Debug, Default)]
pub struct Peer {
    /// Packets of flows that the other owns.
    pub to_owner: Option<RingProducer>,
    /// Packets of our flows that the other received.
    pub from_owner: Option<RingConsumer>,
    /// Packets that leave by the other's transmit queue, by port.
    pub to_proxy: Vec<Option<RingProducer>>,
    /// Packets of the other that leave by our transmit queue, by port.
    pub from_proxy: Vec<Option<RingConsumer>>,
}

/// What a worker is made of.
#[derive(Debug)]
pub struct WorkerParts {
    /// Its number.
    pub id: WorkerId,
    /// Its packet processing.
    pub pipeline: Pipeline<Mbuf>,
    /// Its receive queues.
    pub rx: Vec<RxQueue>,
    /// By port.
    pub egress: Vec<Egress>,
    /// The port of each interface, as its place in `egress`; VLANs of one NIC share theirs.
    pub ports: Vec<usize>,
    /// By worker; `None` for itself.
    pub peers: Vec<Option<Peer>>,
    /// Buffers for packets of its own.
    pub pool: Mempool,
    /// Its counters.
    pub stats: Arc<WorkerStats>,
    /// What to do when nothing comes.
    pub idle: IdlePolicy,
    /// What it shares with the failover thread, as its pipeline.
    pub failover: Option<Arc<FailoverChannel>>,
    /// Set when it is to end.
    pub stop: Arc<AtomicBool>,
    /// TSC when the director started.
    pub epoch: u64,
}

/// The way out of a worker: buffers before queues and rings.
#[derive(Debug)]
struct Exits {
    /// By port.
    egress: Vec<Egress>,
    /// By interface.
    ports: Vec<usize>,
    /// By interface.
    transmit: Vec<Burst>,
    peers: Vec<Option<Peer>>,
    /// By worker.
    hand_over: Vec<Burst>,
    discarded: Burst,
    pool: Mempool,
    stats: Arc<WorkerStats>,
    failover: Option<Arc<FailoverChannel>>,
    /// Whether this director was the active one when the round began.
    is_active: bool,
    /// How long a full queue is tried for what is urgent.
    urgent_cycles: u64,
}

/// A worker, ready to run on its lcore.
#[derive(Debug)]
pub struct Worker {
    pipeline: Pipeline<Mbuf>,
    rx: Vec<RxQueue>,
    exits: Exits,
    stats: Arc<WorkerStats>,
    idle: IdlePolicy,
    stop: Arc<AtomicBool>,
    epoch: u64,
    cycles_per_ms: u64,
}

impl Worker {
    /// Allocates the buffers.
    pub fn new(parts: WorkerParts) -> Self {
        let buffers = |count: usize| (0..count).map(|_| Burst::new()).collect();
        Self {
            pipeline: parts.pipeline,
            rx: parts.rx,
            exits: Exits {
                transmit: buffers(parts.ports.len()),
                egress: parts.egress,
                ports: parts.ports,
                hand_over: buffers(parts.peers.len()),
                peers: parts.peers,
                discarded: Burst::new(),
                pool: parts.pool,
                stats: Arc::clone(&parts.stats),
                failover: parts.failover,
                is_active: false,
                urgent_cycles: tsc::hz() / URGENT_PART,
            },
            stats: parts.stats,
            idle: parts.idle,
            stop: parts.stop,
            epoch: parts.epoch,
            cycles_per_ms: (tsc::hz() / 1000).max(1),
        }
    }

    /// The time, for this round.
    fn tick(&self, tsc: u64) -> Tick {
        #[allow(clippy::cast_possible_truncation, reason = "a tick wraps by design")]
        let ms = (tsc.wrapping_sub(self.epoch) / self.cycles_per_ms) as u32;
        Tick(ms)
    }

    /// Polls until told to stop. Queues and buffers are given back; what lies in the rings from
    /// other workers is for the caller to clear once all of them have ended.
    pub fn run(mut self) -> Leftovers {
        let mut before = tsc::now();
        let mut empty_rounds: u32 = 0;
        let mut rounds: u32 = 0;
        while !self.stop.load(Relaxed) {
            let now = self.tick(before);
            let is_active = self.pipeline.look_at_standing(before);
            self.exits.stand(is_active);
            if rounds.is_multiple_of(stopwatch::ROUNDS) {
                self.pipeline.stopwatch.start();
            }
            let phase = self.pipeline.phase();
            let packets = if phase == Phase::Hold { 0 } else { self.poll_once(now) };
            rounds = rounds.wrapping_add(1);
            if packets == 0 {
                empty_rounds = empty_rounds.saturating_add(1);
            } else {
                empty_rounds = 0;
            }
            // As many connections can end in a round as begin in it.
            if phase != Phase::Hold {
                self.pipeline.expire(now, u32::try_from(packets).unwrap_or(u32::MAX));
            }
            if packets == 0 || rounds.is_multiple_of(HOUSEKEEPING_ROUNDS) {
                self.pipeline.housekeep(now, &mut self.exits);
                self.exits.flush();
            }
            self.pipeline.stopwatch.lap(Stage::Housekeep);
            self.pipeline.stopwatch.stop(packets, &self.stats.stages);
            if rounds.is_multiple_of(DEPTH_ROUNDS) {
                self.note_depths();
            }
            let after = tsc::now();
            self.count_round(packets, after.wrapping_sub(before));
            before = self.rest(phase, empty_rounds, after);
        }
        self.pipeline.shut_down(&mut self.exits);
        self.exits.flush();
        Leftovers { peers: self.exits.peers, stats: self.stats }
    }

    /// Asks receive queues and rings how many packets wait in them.
    #[cold]
    fn note_depths(&self) {
        let queued = self.rx.iter().map(|queue| u64::from(queue.depth().unwrap_or(0)));
        self.stats.receive_depth.set(queued.sum());
        let rings = self.exits.peers.iter().flatten().filter_map(|peer| peer.from_owner.as_ref());
        self.stats.hand_over_depth.set(rings.map(|ring| ring.len() as u64).sum());
    }

    /// Sleeps, if the idle policy says so and there has been nothing to do for a while; the time
    /// afterwards.
    fn rest(&self, phase: Phase, empty_rounds: u32, now: u64) -> u64 {
        let microseconds = match (phase, self.idle) {
            // Another director's worker has the CPU.
            (Phase::Hold, _) if self.pipeline.is_handing_over() => return now,
            (Phase::Mute | Phase::Hold, _) => PAUSE_US,
            (Phase::Open, IdlePolicy::Sleep(pause)) if empty_rounds > EMPTY_ROUNDS => pause,
            (Phase::Open, _) => return now,
        };
        delay_us_sleep(microseconds);
        let after = tsc::now();
        self.stats.cycles.add(after.wrapping_sub(now));
        after
    }

    fn count_round(&self, packets: usize, cycles: u64) {
        self.stats.polls.increment();
        self.stats.cycles.add(cycles);
        if packets > 0 {
            self.stats.busy_polls.increment();
            self.stats.busy_cycles.add(cycles);
        }
    }

    /// One round over all receive queues and rings: how many packets came.
    #[inline]
    fn poll_once(&mut self, now: Tick) -> usize {
        let mut packets = 0;
        let mut burst = FrameBurst::<Mbuf>::new();
        for queue in &mut self.rx {
            let received = queue.rx_burst(&mut burst);
            self.pipeline.stopwatch.lap(Stage::Receive);
            if received == 0 {
                continue;
            }
            packets += received;
            self.stats.bursts.increment();
            self.stats.received.add(received as u64);
            let octets: usize = burst.iter().map(Mbuf::len).sum();
            self.stats.received_octets.add(octets as u64);
            self.pipeline.process_burst(&mut burst, Origin::Port, now, &mut self.exits);
            self.exits.flush();
            self.pipeline.stopwatch.lap(Stage::Transmit);
        }
        for worker in 0..self.exits.peers.len() {
            let Some(peer) = self.exits.peers.get_mut(worker).and_then(Option::as_mut) else {
                continue;
            };
            let taken = peer.from_owner.as_mut().map_or(0, |ring| ring.pop_burst(&mut burst));
            self.pipeline.stopwatch.lap(Stage::Receive);
            if taken > 0 {
                packets += taken;
                self.stats.bursts.increment();
                self.stats.handed_in.add(taken as u64);
                self.pipeline.process_burst(&mut burst, Origin::Worker, now, &mut self.exits);
                self.exits.flush();
            }
            packets += self.exits.transmit_for(worker);
            self.pipeline.stopwatch.lap(Stage::Transmit);
        }
        packets
    }
}

/// The rings of a worker that has ended.
#[derive(Debug)]
pub struct Leftovers {
    peers: Vec<Option<Peer>>,
    stats: Arc<WorkerStats>,
}

impl Leftovers {
    /// Drops what others had put into the rings, so that the books balance. To be called when no
    /// worker runs any more.
    pub fn clear(&mut self) {
        for peer in self.peers.iter_mut().flatten() {
            let rings = peer.from_owner.iter_mut().chain(peer.from_proxy.iter_mut().flatten());
            rings.for_each(|ring| clear(ring, DropReason::Shutdown, &self.stats));
        }
    }
}

fn clear(ring: &mut RingConsumer, reason: DropReason, stats: &WorkerStats) {
    let mut burst = Burst::new();
    while ring.pop_burst(&mut burst) > 0 {
        stats.handed_in.add(burst.len() as u64);
        give_up(&mut burst, reason, stats);
    }
}

impl Outlet<Mbuf> for Exits {
    fn allocate(&mut self) -> Option<Mbuf> {
        self.pool.alloc()
    }

    #[inline(always)]
    #[expect(clippy::inline_always, reason = "the hit path, called from a few places of it")]
    fn transmit(&mut self, interface: InterfaceId, frame: Mbuf) {
        let Some(burst) = self.transmit.get_mut(interface.index()) else {
            return self.stats.dropped.count(DropReason::NoRoute);
        };
        let is_full = burst.remaining_capacity() == 1;
        burst.push(frame);
        if is_full {
            self.flush_interface(interface.index());
        }
    }

    fn transmit_now(&mut self, interface: InterfaceId, frame: Mbuf, is_urgent: bool) -> bool {
        let port = self.ports.get(interface.index()).copied().unwrap_or(usize::MAX);
        let mut burst = Burst::new();
        burst.push(frame);
        let Some(Egress::Queue(queue)) = self.egress.get_mut(port) else {
            give_up(&mut burst, DropReason::NoRoute, &self.stats);
            return false;
        };
        let octets = burst.iter().map(Mbuf::len).sum::<usize>() as u64;
        let until = tsc::now() + if is_urgent { self.urgent_cycles } else { 0 };
        while queue.tx_burst(&mut burst) == 0 {
            if tsc::now() >= until {
                give_up(&mut burst, DropReason::TransmitFull, &self.stats);
                return false;
            }
            std::hint::spin_loop();
        }
        self.stats.transmitted.increment();
        self.stats.transmitted_octets.add(octets);
        true
    }

    #[inline]
    fn hand_over(&mut self, worker: WorkerId, frame: Mbuf) {
        let Some(burst) = self.hand_over.get_mut(worker.index()) else {
            return self.stats.dropped.count(DropReason::HandOverFull);
        };
        let is_full = burst.remaining_capacity() == 1;
        burst.push(frame);
        if is_full {
            self.flush_worker(worker.index());
        }
    }

    #[inline]
    fn discard(&mut self, frame: Mbuf) {
        if self.discarded.is_full() {
            free_all(&mut self.discarded);
        }
        self.discarded.push(frame);
    }
}

impl Exits {
    /// Sends everything that is in the buffers.
    #[inline]
    fn flush(&mut self) {
        for interface in 0..self.transmit.len() {
            self.flush_interface(interface);
        }
        for worker in 0..self.hand_over.len() {
            self.flush_worker(worker);
        }
        free_all(&mut self.discarded);
    }

    /// Sends a buffer by its queue, or by the ring to the worker that has the queue.
    #[inline]
    fn flush_interface(&mut self, interface: usize) {
        let Some(burst) = self.transmit.get_mut(interface) else { return };
        if burst.is_empty() {
            return;
        }
        if self.is_active && has_lapsed(self.failover.as_deref()) {
            // It stood still: another director may be the active one by now.
            return give_up(burst, DropReason::Standby, &self.stats);
        }
        let port = self.ports.get(interface).copied().unwrap_or(usize::MAX);
        let Some(egress) = self.egress.get_mut(port) else {
            return give_up(burst, DropReason::NoRoute, &self.stats);
        };
        match egress {
            Egress::Queue(queue) => send(queue, burst, &self.stats),
            Egress::Proxy(worker) => {
                let peer = self.peers.get_mut(worker.index()).and_then(Option::as_mut);
                let ring = peer.and_then(|peer| peer.to_proxy.get_mut(port)?.as_mut());
                push(ring, burst, DropReason::TransmitFull, &self.stats);
            }
        }
    }

    #[inline]
    fn flush_worker(&mut self, worker: usize) {
        let Some(burst) = self.hand_over.get_mut(worker) else { return };
        if burst.is_empty() {
            return;
        }
        let peer = self.peers.get_mut(worker).and_then(Option::as_mut);
        let ring = peer.and_then(|peer| peer.to_owner.as_mut());
        push(ring, burst, DropReason::HandOverFull, &self.stats);
    }

    /// Whether the director is the active one in this round. When it is no more, what other workers
    /// gave us to send as the active one is sent no more.
    #[inline]
    fn stand(&mut self, is_active: bool) {
        if self.is_active && !is_active {
            self.forget_proxies();
        }
        self.is_active = is_active;
    }

    #[cold]
    fn forget_proxies(&mut self) {
        let rings = self.peers.iter_mut().flatten().flat_map(|peer| &mut peer.from_proxy).flatten();
        for ring in rings {
            clear(ring, DropReason::Standby, &self.stats);
        }
    }

    /// Sends what another worker gave us for our transmit queues.
    fn transmit_for(&mut self, worker: usize) -> usize {
        let Some(peer) = self.peers.get_mut(worker).and_then(Option::as_mut) else { return 0 };
        let mut packets = 0;
        for (ring, egress) in peer.from_proxy.iter_mut().zip(&mut self.egress) {
            let (Some(ring), Egress::Queue(queue)) = (ring, egress) else { continue };
            let mut burst = Burst::new();
            let taken = ring.pop_burst(&mut burst);
            if taken > 0 {
                packets += taken;
                self.stats.handed_in.add(taken as u64);
                let is_over = self.is_active && has_lapsed(self.failover.as_deref());
                send_or_drop(queue, &mut burst, is_over, &self.stats);
            }
        }
        packets
    }
}

/// Whether the lease of the active director has ended.
#[inline]
fn has_lapsed(failover: Option<&FailoverChannel>) -> bool {
    failover.is_some_and(|channel| !channel.standing.is_active(tsc::now()))
}

/// Sends a burst; what the queue does not take is dropped.
#[inline]
fn send(queue: &mut TxQueue, burst: &mut Burst, stats: &WorkerStats) {
    let all: usize = burst.iter().map(Mbuf::len).sum();
    let sent = queue.tx_burst(burst);
    let left: usize = burst.iter().map(Mbuf::len).sum();
    stats.transmitted.add(sent as u64);
    stats.transmitted_octets.add((all - left) as u64);
    give_up(burst, DropReason::TransmitFull, stats);
}

/// Sends a burst, unless this director is the active one no more.
#[inline]
fn send_or_drop(queue: &mut TxQueue, burst: &mut Burst, is_over: bool, stats: &WorkerStats) {
    if is_over {
        give_up(burst, DropReason::Standby, stats);
    } else {
        send(queue, burst, stats);
    }
}

/// Pushes a burst into a ring; what does not fit is dropped.
#[inline]
fn push(
    ring: Option<&mut RingProducer>,
    burst: &mut Burst,
    reason: DropReason,
    stats: &WorkerStats,
) {
    if let Some(ring) = ring {
        let taken = ring.push_burst(burst);
        stats.handed_out.add(taken as u64);
    }
    give_up(burst, reason, stats);
}

fn give_up(burst: &mut Burst, reason: DropReason, stats: &WorkerStats) {
    for _ in 0..burst.len() {
        stats.dropped.count(reason);
    }
    free_all(burst);
}
