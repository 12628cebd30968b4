//! The straight line: what happens to a burst between receive and transmit.

use std::slice;
use std::sync::Arc;

use arrayvec::Drain;

use super::classify::{Class, FlowHash, Packet, Station, classify};
use super::conn::{Candidate, ConnectionTable};
use super::echo;
use super::failover::{FailoverChannel, Spoken};
use super::family::Family;
use super::fragment::Fragments;
use super::frame::{BURST, Frame, FrameBurst, Outlet};
use super::handover::{Handing, Handover};
use super::helper::{Controls, Expectations, Helpers};
use super::housekeeping::TemplateSweep;
use super::icmp_error;
use super::interface::{Interfaces, PortInterfaces, Sides};
use super::local;
use super::mailbox::WorkerMailbox;
use super::newcomer::Newcomers;
use super::next_hop::{NextHops, RouteSpec, Waiting};
use super::own_error::RateLimit;
use super::port_choice::PortChoice;
use super::removal::Sweep;
use super::shared::Shared;
use super::stats::{DropReason, Stage, WorkerStats};
use super::steering::Steering;
use super::stopwatch::Stopwatch;
use super::strangers::Strangers;
use super::sync::SyncWalk;
use super::vlan;
use crate::clock::Tick;
use crate::dpdk::memory::{HugePages, MemoryError};
use crate::ids::WorkerId;
use crate::service::{ServerLoads, ServiceTable};
use crate::wire::address::{V4, V6};
use crate::wire::flow_key::HashSecret;

/// What a pipeline is made of.
#[derive(Debug)]
pub struct PipelineSettings {
    /// The worker that runs it.
    pub worker: WorkerId,
    /// All interfaces.
    pub interfaces: Arc<Interfaces>,
    /// Connected networks, routes and gateways.
    pub routes: Vec<RouteSpec>,
    /// Neighbours that fit.
    pub neighbors: usize,
    /// How long fragments wait for their first one, and datagrams are remembered, milliseconds.
    pub fragment_timeout_ms: u32,
    /// ICMP errors and TCP resets that the worker may send in a second.
    pub errors_per_second: u32,
    /// Connections that fit, IPv4 and IPv6.
    pub connections: (u32, u32),
    /// Whether the connection tables may take reserved huge pages. If so they are taken whole at
    /// the start, so that no packet waits for a page.
    pub huge_pages: HugePages,
    /// Secret of the connection tables' hash; any, the same for all workers, which tell each other
    /// the hashes of what they hand over.
    pub table_secret: HashSecret,
    /// Where the search for free ports begins; any, per worker.
    pub port_seed: u64,
    /// Which worker owns a flow; the same for all workers.
    pub steering: Steering,
    /// The services.
    pub services: Arc<ServiceTable>,
    /// Connections per server, over all workers.
    pub loads: Arc<ServerLoads>,
    /// Control connections that helpers read on this worker.
    pub control_connections: u32,
    /// The data connections that helpers expect, of all workers.
    pub expectations: Arc<Expectations>,
    /// This worker's counters.
    pub stats: Arc<WorkerStats>,
    /// This worker's mailbox.
    pub mailbox: WorkerMailbox,
    /// What it shares with the failover thread; `None`: the director is alone, and always active.
    pub failover: Option<Arc<FailoverChannel>>,
    /// Where connections of another director come from; `None`: there are none.
    pub handover: Option<Arc<Handover>>,
}

/// Where a burst came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A receive queue: flows of other workers are handed over.
    Port,
    /// Another worker: every flow is ours.
    Worker,
}

/// A worker's packet processing: everything but the queues.
#[derive(Debug)]
pub struct Pipeline<F> {
    pub(super) shared: Shared<F>,
    pub(super) v4: ConnectionTable<V4>,
    pub(super) v6: ConnectionTable<V6>,
    newcomers_v4: Newcomers<V4, F>,
    newcomers_v6: Newcomers<V6, F>,
    pub(super) fragments_v4: Fragments<V4, F>,
    pub(super) fragments_v6: Fragments<V6, F>,
    /// Where the cycles go, of some rounds; the worker starts and stops it.
    pub stopwatch: Stopwatch,
    /// The packets of the burst at hand.
    pub(super) packets: [Looked; BURST],
}

/// What is known of a packet before its connection is looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Looked {
    pub(super) packet: Packet,
    /// Of its flow.
    pub(super) hash: u64,
    /// The connection that it most probably belongs to.
    pub(super) candidate: Candidate,
}

/// Packets that are on their way from another CPU's cache at any time: two lines each, as many as
/// a CPU can wait for. A burst at once would have it wait for most of them and do nothing.
const MOVING: usize = 12;

/// Packets that are looked at before the records of as many earlier ones are fetched. The records of a
/// whole burst at once are more lines than a CPU can wait for.
const GROUP: usize = 8;

/// Where a packet is in the burst at hand, and where and when that came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) place: u8,
    pub(super) origin: Origin,
    pub(super) now: Tick,
}

/// The packets of a burst that are still to come, in their order.
pub(super) struct Queue<'b, F> {
    frames: Drain<'b, F, BURST>,
    looked: slice::Iter<'b, Looked>,
    /// Of the whole burst.
    count: usize,
}

impl<'b, F> Queue<'b, F> {
    #[inline]
    fn of(burst: &'b mut FrameBurst<F>, packets: &'b [Looked; BURST]) -> Self {
        let count = burst.len();
        let looked = packets.get(..count).unwrap_or_default().iter();
        Self { frames: burst.drain(..), looked, count }
    }

    /// What is known of the next one.
    #[inline]
    pub(super) fn peek(&self) -> Option<&'b Looked> {
        self.looked.as_slice().first()
    }

    /// Takes the next one.
    #[inline]
    pub(super) fn next(&mut self) -> Option<(F, &'b Looked)> {
        self.frames.next().zip(self.looked.next())
    }

    /// Where in the burst the one is that was taken last.
    #[inline]
    fn place(&self) -> u8 {
        u8::try_from((self.count - self.looked.len()).saturating_sub(1)).unwrap_or(0)
    }
}

const NOTHING: Looked = Looked {
    packet: Packet::of(Class::Drop(DropReason::Truncated)),
    hash: 0,
    candidate: Candidate::NONE,
};

/// The connections, by family.
type Tables<'p> = (&'p ConnectionTable<V4>, &'p ConnectionTable<V6>);

impl Looked {
    /// Whether the index knew nothing of the packet's flow, which is over this family.
    #[inline]
    fn is_newcomer<A: Family>(&self) -> bool {
        A::key_of(&self.packet.class).is_some() && self.candidate.is_none()
    }

    /// Whether the packet is of no flow here.
    #[inline]
    const fn is_nobodys(&self) -> bool {
        matches!(self.packet.class, Class::Elsewhere(_) | Class::Drop(_))
    }

    /// The packet is to be dropped.
    fn drop(&mut self, reason: DropReason) {
        self.packet = Packet::of(Class::Drop(reason));
    }
}

impl<F: Frame> Pipeline<F> {
    /// Allocates everything that the pipeline will ever need.
    ///
    /// # Errors
    /// When the memory for the connection tables cannot be had.
    pub fn new(settings: PipelineSettings, now: Tick) -> Result<Self, MemoryError> {
        let (v4, v6) = settings.connections;
        let controls = settings.control_connections;
        let first = u32::from(settings.worker.0) * controls;
        let controls = Controls::new(controls, first, settings.expectations)?;
        let interfaces = settings.interfaces;
        let clamps_mss = interfaces.iter().any(|link| link.mss_clamp.is_some());
        let ports = interfaces.ports();
        let least_mtu = interfaces.iter().map(|link| link.mtu).min().unwrap_or(0);
        let stats = settings.stats;
        stats.table_v4.capacity.set(u64::from(v4));
        stats.table_v6.capacity.set(u64::from(v6));
        Ok(Self {
            v4: ConnectionTable::new(v4, settings.table_secret, settings.huge_pages, now)?,
            v6: ConnectionTable::new(v6, settings.table_secret, settings.huge_pages, now)?,
            shared: Shared {
                clamps_mss,
                least_mtu,
                worker: settings.worker,
                secret: settings.table_secret,
                interfaces,
                services: settings.services,
                loads: settings.loads,
                stats,
                mailbox: settings.mailbox,
                unsent: None,
                next_hops: NextHops::new(settings.routes, settings.neighbors),
                waiting: Waiting::new(),
                error_limit: RateLimit::new(settings.errors_per_second, now),
                steering: settings.steering,
                strangers: Strangers::new(ports),
                port_choice: PortChoice::new(settings.port_seed),
                sweep: Sweep::new(now),
                template_sweep: TemplateSweep::default(),
                helpers: Helpers::new(controls),
                is_active: settings.failover.is_none(),
                spoken: Spoken::nothing(),
                sync_walk: SyncWalk::default(),
                put_off: None,
                failover: settings.failover,
                handing: Handing::by(settings.handover),
            },
            newcomers_v4: Newcomers::new(),
            newcomers_v6: Newcomers::new(),
            fragments_v4: Fragments::new(settings.fragment_timeout_ms),
            fragments_v6: Fragments::new(settings.fragment_timeout_ms),
            stopwatch: Stopwatch::default(),
            packets: [NOTHING; BURST],
        })
    }

    /// Processes a burst; afterwards it is empty.
    pub fn process_burst(
        &mut self,
        burst: &mut FrameBurst<F>,
        origin: Origin,
        now: Tick,
        outlet: &mut impl Outlet<F>,
    ) {
        if !self.shared.is_active {
            return self.stand_by(burst, origin, outlet);
        }
        self.look_up(burst, origin);
        let Self { shared, v4, v6, fragments_v4, fragments_v6, packets, .. } = self;
        let (newcomers_v4, newcomers_v6) = (&mut self.newcomers_v4, &mut self.newcomers_v6);
        let mut queue = Queue::of(burst, packets);
        while let Some(next) = queue.peek() {
            // Newcomers wait while more of them follow: no packet of a flow overtakes another.
            if newcomers_v4.len() | newcomers_v6.len() != 0 && !next.is_nobodys() {
                let newcomers = (&mut *newcomers_v4, &mut *newcomers_v6);
                admit_before(next, newcomers, (shared, v4, v6), (packets, now), outlet);
            }
            // Nearly always this takes all that is left.
            let left = if matches!(next.packet.class, Class::FlowV4(_)) {
                shared.forward_run(v4, &mut queue, now, outlet)
            } else if matches!(next.packet.class, Class::FlowV6(_)) {
                shared.forward_run(v6, &mut queue, now, outlet)
            } else if matches!(next.packet.class, Class::Elsewhere(_)) {
                shared.hand_over_run(&mut queue, outlet);
                continue;
            } else {
                queue.next()
            };
            let Some((frame, looked)) = left else { continue };
            let packet = &looked.packet;
            let at = Arrival { place: queue.place(), origin, now };
            match &packet.class {
                Class::FlowV4(key) => {
                    shared.look_closer(v4, (looked, key), at, frame, newcomers_v4, outlet);
                }
                Class::FlowV6(key) => {
                    shared.look_closer(v6, (looked, key), at, frame, newcomers_v6, outlet);
                }
                Class::Arp => local::receive(shared, packet, frame, outlet),
                Class::Icmp => echo::receive(shared, v4, (packet, origin, now), frame, outlet),
                Class::Icmpv6 => echo::receive(shared, v6, (packet, origin, now), frame, outlet),
                Class::ErrorV4 => icmp_error::receive(shared, v4, packet, origin, frame, outlet),
                Class::ErrorV6 => icmp_error::receive(shared, v6, packet, origin, frame, outlet),
                Class::FragmentV4 => {
                    fragments_v4.receive(shared, v4, (packet, origin, now), frame, outlet);
                }
                Class::FragmentV6 => {
                    fragments_v6.receive(shared, v6, (packet, origin, now), frame, outlet);
                }
                Class::Vrrp => shared.hear(packet, frame, outlet),
                Class::Elsewhere(owner) => shared.hand_over(*owner, frame, outlet),
                Class::Drop(reason) => shared.drop(frame, *reason, outlet),
            }
        }
        newcomers_v4.admit((shared, v4), packets, now, outlet);
        newcomers_v6.admit((shared, v6), packets, now, outlet);
        shared.strangers.settle();
        self.stopwatch.lap(Stage::Forward);
    }

    /// What each frame of a burst is.
    #[inline]
    fn look_up(&mut self, burst: &mut FrameBurst<F>, origin: Origin) {
        match origin {
            Origin::Port => {
                let strangers = &mut self.shared.strangers;
                strangers.begin(burst.first().map(Frame::input), burst.len());
                let asks_first = strangers.are_many();
                self.look_up_received(burst, asks_first);
            }
            Origin::Worker => self.look_up_handed_over(burst),
        }
        self.newcomers_v4.look_up(&self.v4);
        self.newcomers_v6.look_up(&self.v6);
        self.stopwatch.lap(Stage::LookUp);
    }

    /// What each frame of a burst is that a port received. `asks_first`: a packet of another worker's
    /// flow is that, and no more.
    pub(super) fn look_up_received(&mut self, burst: &mut FrameBurst<F>, asks_first: bool) {
        burst.iter().for_each(Frame::prefetch);
        if asks_first {
            self.look_up_each::<true>(burst);
        } else {
            self.look_up_each::<false>(burst);
        }
    }

    #[inline(never)]
    fn look_up_each<const ASKS_FIRST: bool>(&mut self, burst: &mut FrameBurst<F>) {
        let (shared, tables) = (&self.shared, (&self.v4, &self.v6));
        let mut before: &mut [Looked] = &mut [];
        for (frames, group) in burst.chunks_mut(GROUP).zip(self.packets.chunks_mut(GROUP)) {
            for (frame, looked) in frames.iter_mut().zip(&mut *group) {
                shared.look_up_received::<ASKS_FIRST>(frame, tables, looked);
            }
            fetch_records(tables, before);
            before = group.get_mut(..frames.len()).unwrap_or_default();
        }
        fetch_records(tables, before);
    }

    /// What each frame of a burst is that another worker received.
    #[inline(never)]
    pub(super) fn look_up_handed_over(&mut self, burst: &mut FrameBurst<F>) {
        burst.iter().take(MOVING).for_each(Frame::prefetch_moved);
        let (shared, tables) = (&self.shared, (&self.v4, &self.v6));
        let end = burst.len();
        let mut before: &mut [Looked] = &mut [];
        for (first, group) in (0..end).step_by(GROUP).zip(self.packets.chunks_mut(GROUP)) {
            for (place, looked) in (first..end).zip(&mut *group) {
                shared.look_up_moved((burst, place), tables, looked);
            }
            fetch_records(tables, before);
            before = group.get_mut(..GROUP.min(end - first)).unwrap_or_default();
        }
        fetch_records(tables, before);
    }
}

/// Fetches the records that packets will most probably need.
#[inline(always)]
#[expect(clippy::inline_always, reason = "the hit path")]
fn fetch_records((v4, v6): Tables<'_>, looked: &mut [Looked]) {
    for Looked { packet, hash, candidate } in looked {
        if matches!(packet.class, Class::FlowV4(_)) {
            *candidate = v4.prefetch_record(*hash);
        } else if matches!(packet.class, Class::FlowV6(_)) {
            *candidate = v6.prefetch_record(*hash);
        }
    }
}

/// Begins with the newcomers that wait, but for those whose family this packet is a newcomer of.
#[cold]
#[inline(never)]
fn admit_before<F: Frame>(
    looked: &Looked,
    (new_v4, new_v6): (&mut Newcomers<V4, F>, &mut Newcomers<V6, F>),
    (shared, v4, v6): (&mut Shared<F>, &mut ConnectionTable<V4>, &mut ConnectionTable<V6>),
    (packets, now): (&[Looked; BURST], Tick),
    outlet: &mut impl Outlet<F>,
) {
    if !looked.is_newcomer::<V4>() {
        new_v4.admit((shared, v4), packets, now, outlet);
    }
    if !looked.is_newcomer::<V6>() {
        new_v6.admit((shared, v6), packets, now, outlet);
    }
}

impl<F: Frame> Shared<F> {
    /// What a received frame is; fetches the index line of its flow.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "the hit path; left alone, some programs call it")]
    fn look_up_received<const ASKS_FIRST: bool>(
        &self,
        frame: &mut F,
        tables: Tables<'_>,
        looked: &mut Looked,
    ) {
        let Some(port) = self.interfaces.port(frame.input()) else {
            return looked.drop(DropReason::NotForUs);
        };
        if port.has_vlans {
            return self.look_up_tagged((frame, port), ASKS_FIRST, tables, looked);
        }
        if ASKS_FIRST && let Some(owner) = self.elsewhere(frame.octets(), &port.station) {
            looked.packet.class = Class::Elsewhere(owner);
            return;
        }
        let is_flow = self.look_up_class(frame, (&port.station, port.sides), tables, looked);
        if !is_flow && looked.packet.class == Class::Drop(DropReason::UnknownVlan) {
            self.look_up_tagged((frame, port), ASKS_FIRST, tables, looked);
        }
    }

    /// Hands over the packets that come next and are other workers'.
    #[inline(never)]
    fn hand_over_run(&mut self, queue: &mut Queue<'_, F>, outlet: &mut impl Outlet<F>) {
        while let Some(Looked { packet: Packet { class: Class::Elsewhere(owner), .. }, .. }) =
            queue.peek()
            && let Some((frame, _)) = queue.next()
        {
            self.hand_over(*owner, frame, outlet);
        }
    }

    /// As [`Shared::look_up_received`], of a frame that may have a VLAN tag.
    #[inline(never)]
    fn look_up_tagged(
        &self,
        (frame, port): (&mut F, &PortInterfaces),
        asks_first: bool,
        tables: Tables<'_>,
        looked: &mut Looked,
    ) {
        match vlan::take_off(frame, port) {
            Ok(()) => {
                let vlan = frame.vlan();
                let link = (port.station_of(vlan), port.sides_of(vlan));
                if asks_first && let Some(owner) = self.elsewhere(frame.octets(), link.0) {
                    looked.packet.class = Class::Elsewhere(owner);
                    return;
                }
                self.look_up_class(frame, link, tables, looked);
            }
            Err(reason) => looked.drop(reason),
        }
    }

    /// As [`Shared::look_up_received`], of the frame at a place of a burst that another worker received:
    /// it has no VLAN tag any more. A later one is on its way meanwhile.
    #[inline]
    fn look_up_moved(
        &self,
        (burst, place): (&mut FrameBurst<F>, usize),
        tables: Tables<'_>,
        looked: &mut Looked,
    ) {
        if let Some(later) = burst.get(place + MOVING) {
            later.prefetch_moved();
        }
        let Some(frame) = burst.get_mut(place) else { return };
        let Some(port) = self.interfaces.port(frame.input()) else {
            return looked.drop(DropReason::NotForUs);
        };
        let link = if port.has_vlans {
            (port.station_of(frame.vlan()), port.sides_of(frame.vlan()))
        } else {
            (&port.station, port.sides)
        };
        self.look_up_class(frame, link, tables, looked);
    }

    /// Classifies a frame without a VLAN tag, and notes the hash of its flow and fetches that one's
    /// index line, if it is of one.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "the hit path; left alone, some programs call it")]
    fn look_up_class(
        &self,
        frame: &mut F,
        (station, sides): (&Station, Sides),
        tables: Tables<'_>,
        looked: &mut Looked,
    ) -> bool {
        let Looked { packet, hash: expected, .. } = looked;
        let (v4, v6) = tables;
        classify(frame, station, sides, &self.secret, packet, &mut |hash| match hash {
            FlowHash::V4(hash) => {
                v4.prefetch_index(hash);
                *expected = hash;
            }
            FlowHash::V6(hash) => {
                v6.prefetch_index(hash);
                *expected = hash;
            }
        })
    }
}
