//! The straight line: what happens to a burst between receive and transmit.

use std::net::IpAddr;
use std::sync::Arc;

use zerocopy::FromBytes;

use super::admit::{admit, begins_anew};
use super::classify::{Class, Packet, classify};
use super::conn::tcp_state::{ConnectionState, StateTimeouts};
use super::conn::{Connection, ConnectionTable, Found};
use super::datagrams::FragmentKey;
use super::family::Family;
use super::fragment::Fragments;
use super::frame::{BURST, Frame, FrameBurst, Outlet};
use super::icmp_error;
use super::interface::Interfaces;
use super::local;
use super::mailbox::{Event, WorkerMailbox};
use super::nat;
use super::next_hop::{AdjacencyId, NextHops, Reachability, RouteSpec, Waiting};
use super::own_error::{self, RateLimit, Refusal};
use super::split;
use super::stats::{DropReason, TableGauges, WorkerStats};
use super::steering::Steering;
use crate::clock::Tick;
use crate::dpdk::memory::{HugePages, MemoryError};
use crate::ids::{InterfaceId, WorkerId};
use crate::service::{ServerLoads, ServiceTable};
use crate::wire::address::{Address, V4, V6};
use crate::wire::ethernet::{EthernetHeader, Mac};
use crate::wire::flow_key::{Direction, FlowKey, HashSecret};
use crate::wire::ipv4::protocol;

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
    /// Idle times.
    pub timeouts: StateTimeouts,
    /// How long fragments wait for their first one, and datagrams are remembered, milliseconds.
    pub fragment_timeout_ms: u32,
    /// ICMP errors and TCP resets that the worker may send in a second.
    pub errors_per_second: u32,
    /// Connections that fit, IPv4 and IPv6.
    pub connections: (u32, u32),
    /// Whether the connection tables may take reserved huge pages. If so they are taken whole at
    /// the start, so that no packet waits for a page.
    pub huge_pages: HugePages,
    /// Secret of the connection tables' hash; any, per worker.
    pub table_secret: HashSecret,
    /// Which worker owns a flow; the same for all workers.
    pub steering: Steering,
    /// The services.
    pub services: Arc<ServiceTable>,
    /// Connections per server, over all workers.
    pub loads: Arc<ServerLoads>,
    /// This worker's counters.
    pub stats: Arc<WorkerStats>,
    /// This worker's mailbox.
    pub mailbox: WorkerMailbox,
}

/// What both address families share.
#[derive(Debug)]
pub(super) struct Shared<F> {
    pub(super) worker: WorkerId,
    pub(super) interfaces: Arc<Interfaces>,
    pub(super) services: Arc<ServiceTable>,
    pub(super) loads: Arc<ServerLoads>,
    pub(super) stats: Arc<WorkerStats>,
    pub(super) mailbox: WorkerMailbox,
    /// An answer to a command that found the event queue full: it is kept, never lost.
    pub(super) unsent: Option<Event>,
    pub(super) next_hops: NextHops,
    pub(super) waiting: Waiting<F>,
    pub(super) timeouts: StateTimeouts,
    pub(super) error_limit: RateLimit,
    steering: Steering,
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
    pub(super) fragments_v4: Fragments<V4, F>,
    pub(super) fragments_v6: Fragments<V6, F>,
    /// The packets of the burst at hand, with the hash of their flow.
    packets: [(Packet, u64); BURST],
}

const NO_PACKET: Packet = Packet {
    class: Class::Drop(DropReason::Truncated),
    transport: 0,
    ip_octets: 0,
    ttl: 0,
    control: 0,
};

impl<F: Frame> Pipeline<F> {
    /// Allocates everything that the pipeline will ever need.
    ///
    /// # Errors
    /// When the memory for the connection tables cannot be had.
    pub fn new(settings: PipelineSettings, now: Tick) -> Result<Self, MemoryError> {
        let (v4, v6) = settings.connections;
        let stats = settings.stats;
        stats.table_v4.capacity.set(u64::from(v4));
        stats.table_v6.capacity.set(u64::from(v6));
        Ok(Self {
            v4: ConnectionTable::new(v4, settings.table_secret, settings.huge_pages, now)?,
            v6: ConnectionTable::new(v6, settings.table_secret, settings.huge_pages, now)?,
            shared: Shared {
                worker: settings.worker,
                interfaces: settings.interfaces,
                services: settings.services,
                loads: settings.loads,
                stats,
                mailbox: settings.mailbox,
                unsent: None,
                next_hops: NextHops::new(settings.routes, settings.neighbors),
                waiting: Waiting::new(),
                timeouts: settings.timeouts,
                error_limit: RateLimit::new(settings.errors_per_second, now),
                steering: settings.steering,
            },
            fragments_v4: Fragments::new(settings.fragment_timeout_ms),
            fragments_v6: Fragments::new(settings.fragment_timeout_ms),
            packets: [(NO_PACKET, 0); BURST],
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
        for (frame, slot) in burst.iter_mut().zip(&mut self.packets) {
            *slot = self.shared.look_up_class(frame, &self.v4, &self.v6);
        }
        let count = burst.len();
        for (packet, hash) in self.packets.iter().take(count) {
            match packet.class {
                Class::FlowV4(_) => self.v4.prefetch_record(*hash),
                Class::FlowV6(_) => self.v6.prefetch_record(*hash),
                Class::Arp
                | Class::Icmp
                | Class::Icmpv6
                | Class::ErrorV4
                | Class::ErrorV6
                | Class::FragmentV4
                | Class::FragmentV6
                | Class::Drop(_) => {}
            }
        }
        let Self { shared, v4, v6, fragments_v4, fragments_v6, packets } = self;
        for (frame, (packet, hash)) in burst.drain(..).zip(packets.iter()) {
            match &packet.class {
                Class::FlowV4(key) => {
                    shared.flow(v4, &Flow { packet, key, hash: *hash, origin, now }, frame, outlet);
                }
                Class::FlowV6(key) => {
                    shared.flow(v6, &Flow { packet, key, hash: *hash, origin, now }, frame, outlet);
                }
                Class::Arp | Class::Icmp | Class::Icmpv6 => {
                    local::receive(shared, packet, frame, outlet);
                }
                Class::ErrorV4 => icmp_error::receive(shared, v4, packet, origin, frame, outlet),
                Class::ErrorV6 => icmp_error::receive(shared, v6, packet, origin, frame, outlet),
                Class::FragmentV4 => {
                    fragments_v4.receive(shared, v4, (packet, origin, now), frame, outlet);
                }
                Class::FragmentV6 => {
                    fragments_v6.receive(shared, v6, (packet, origin, now), frame, outlet);
                }
                Class::Drop(reason) => shared.drop(frame, *reason, outlet),
            }
        }
    }
}

/// A packet of a flow, on its way.
pub(super) struct Flow<'p, A> {
    pub(super) packet: &'p Packet,
    pub(super) key: &'p FlowKey<A>,
    pub(super) hash: u64,
    pub(super) origin: Origin,
    pub(super) now: Tick,
}

impl<F: Frame> Shared<F> {
    /// Classifies a frame, and fetches the index line of its flow.
    #[inline]
    fn look_up_class(
        &self,
        frame: &mut F,
        v4: &ConnectionTable<V4>,
        v6: &ConnectionTable<V6>,
    ) -> (Packet, u64) {
        let mac = self.interfaces.of_port(frame.input()).map_or([0; 6], |found| found.mac);
        let packet = classify(frame, &mac);
        let hash = match &packet.class {
            Class::FlowV4(key) => {
                let hash = v4.hash(key);
                v4.prefetch_index(hash);
                hash
            }
            Class::FlowV6(key) => {
                let hash = v6.hash(key);
                v6.prefetch_index(hash);
                hash
            }
            Class::Arp
            | Class::Icmp
            | Class::Icmpv6
            | Class::ErrorV4
            | Class::ErrorV6
            | Class::FragmentV4
            | Class::FragmentV6
            | Class::Drop(_) => 0,
        };
        (packet, hash)
    }

    /// A TCP or UDP packet: to its owner, or translated and sent on, or dropped.
    #[inline]
    fn flow<A: Family>(
        &mut self,
        table: &mut ConnectionTable<A>,
        flow: &Flow<'_, A>,
        mut frame: F,
        outlet: &mut impl Outlet<F>,
    ) {
        if let Some(owner) = self.other_owner(flow.key, flow.origin) {
            return outlet.hand_over(owner, frame);
        }
        match self.translate(table, flow, &mut frame) {
            Ok(hop) => self.send(hop, flow.packet.ip_octets, frame, outlet),
            Err(refusal) => {
                let what = (flow.key, flow.packet);
                own_error::tell(self, refusal, what, &frame, flow.now, outlet);
                self.drop(frame, refusal.reason, outlet);
            }
        }
    }

    /// The worker that owns a flow, if that is another one.
    #[inline]
    pub(super) fn other_owner<A: Address>(
        &self,
        key: &FlowKey<A>,
        origin: Origin,
    ) -> Option<WorkerId> {
        if origin == Origin::Worker || !self.steering.is_needed() {
            return None;
        }
        let owner = self.owner(key);
        (owner != self.worker).then_some(owner)
    }

    /// The worker that owns a flow.
    #[inline]
    pub(super) fn owner<A: Address>(&self, key: &FlowKey<A>) -> WorkerId {
        self.steering.owner(key, self.is_ours(key.destination))
    }

    /// The worker that sees all fragments of a datagram first.
    pub(super) fn fragment_owner<A: Address>(&self, key: &FragmentKey<A>) -> WorkerId {
        let outside = if self.is_ours(key.destination) { &key.source } else { &key.destination };
        self.steering.fragment_owner(outside, key.identification)
    }

    /// Finds or opens the packet's connection, moves its state on, rewrites the packet.
    #[inline]
    pub(super) fn translate<A: Family>(
        &mut self,
        table: &mut ConnectionTable<A>,
        flow: &Flow<'_, A>,
        frame: &mut F,
    ) -> Result<AdjacencyId, Refusal> {
        let packet = flow.packet;
        let mut known = table.find(flow.hash, flow.key);
        if packet.ttl <= 1 && known.is_some() {
            return Err(DropReason::TtlExpired.into());
        }
        if packet.is_syn() {
            known = known.filter(|found| !self.give_way(table, *found));
        }
        let found = match known {
            Some(found) => found,
            None => admit(table, self, packet, flow.key, flow.now)?,
        };
        let connection = table.get_mut(found.id).ok_or(DropReason::NoConnection)?;
        let hop = match found.direction {
            Direction::Inbound => connection.to_server,
            Direction::Reply => connection.to_client,
        };
        let mtu = self.next_hops.get(hop).map_or(0, |adjacency| adjacency.mtu);
        if packet.ip_octets > mtu && !A::may_be_split(frame.octets()) {
            return Err(Refusal::too_big(mtu));
        }
        connection.last_seen = flow.now.0;
        self.count(connection, found.direction, packet.ip_octets);
        nat::translate(
            frame.octets_mut(),
            usize::from(packet.transport),
            connection,
            found.direction,
        )
        .ok_or(DropReason::Truncated)?;
        if connection.protocol == protocol::TCP {
            let old = connection.state();
            let new = old.next(found.direction, packet.control);
            if new != old {
                self.change_state(table, found, old, new);
            }
        }
        Ok(hop)
    }

    /// Removes a connection that a client's SYN shows to be over.
    #[cold]
    fn give_way<A: Family>(&mut self, table: &mut ConnectionTable<A>, found: Found) -> bool {
        let Some(connection) = table.get(found.id) else { return false };
        let gives_way = found.direction == Direction::Inbound
            && begins_anew(A::services(&self.services), connection);
        if gives_way && let Some(connection) = table.remove(found.id) {
            self.connection_ends(&connection);
        }
        gives_way
    }

    #[inline]
    pub(super) fn count<A>(&self, connection: &Connection<A>, direction: Direction, octets: u16) {
        if let Some(server) = self.stats.server(connection.slot.into()) {
            match direction {
                Direction::Inbound => {
                    server.in_packets.increment();
                    server.in_octets.add(u64::from(octets));
                }
                Direction::Reply => {
                    server.out_packets.increment();
                    server.out_octets.add(u64::from(octets));
                }
            }
        }
    }

    #[cold]
    fn change_state<A: Family>(
        &mut self,
        table: &mut ConnectionTable<A>,
        found: Found,
        old: ConnectionState,
        new: ConnectionState,
    ) {
        let Some(connection) = table.get_mut(found.id) else { return };
        connection.set_state(new);
        let timeout = self.timeout(connection, new);
        let is_shorter = timeout < connection.timeout_ms;
        connection.timeout_ms = timeout;
        let slot = connection.slot;
        if is_shorter {
            table.rearm(found.id);
        }
        let gauges = self.gauges::<A>();
        gauges.states.of(old).decrement();
        gauges.states.of(new).increment();
        if old.is_active() != new.is_active()
            && let Some(load) = self.loads.of(slot.into())
        {
            load.change(new.is_active());
        }
    }

    /// The idle time of a connection in a state.
    #[inline]
    pub(super) fn timeout<A>(&self, connection: &Connection<A>, state: ConnectionState) -> u32 {
        if state == ConnectionState::Udp {
            connection.udp_timeout_ms
        } else {
            self.timeouts.of(state)
        }
    }

    fn gauges<A: Address>(&self) -> &TableGauges {
        if A::IS_V6 { &self.stats.table_v6 } else { &self.stats.table_v4 }
    }

    /// Counts a connection that was just inserted.
    pub(super) fn connection_begins<A: Address>(&mut self, connection: &Connection<A>) {
        let state = connection.state();
        if let Some(server) = self.stats.server(connection.slot.into()) {
            server.connections.increment();
        }
        if let Some(load) = self.loads.of(connection.slot.into()) {
            load.add(state.is_active());
        }
        let gauges = self.gauges::<A>();
        gauges.used.increment();
        gauges.states.of(state).increment();
        self.next_hops.acquire(connection.to_server);
        self.next_hops.acquire(connection.to_client);
    }

    /// Counts a connection that was just removed.
    pub(super) fn connection_ends<A: Address>(&mut self, connection: &Connection<A>) {
        let state = connection.state();
        if let Some(load) = self.loads.of(connection.slot.into()) {
            load.remove(state.is_active());
        }
        let gauges = self.gauges::<A>();
        gauges.used.decrement();
        gauges.expired.increment();
        gauges.states.of(state).decrement();
        self.next_hops.release(connection.to_server);
        self.next_hops.release(connection.to_client);
    }

    /// Whether an address is a VIP or one of the director's own.
    #[inline]
    pub(super) fn is_ours<A: Address>(&self, address: A) -> bool {
        let ip = address.to_ip();
        self.services.is_vip(ip) || self.interfaces.own(ip)
    }

    /// Sends a frame by a next hop; lets it wait while the neighbour is not known.
    #[inline]
    pub(super) fn send(
        &mut self,
        hop: AdjacencyId,
        ip_octets: u16,
        mut frame: F,
        outlet: &mut impl Outlet<F>,
    ) {
        let Some(adjacency) = self.next_hops.get(hop) else {
            return self.drop(frame, DropReason::NoRoute, outlet);
        };
        if adjacency.reachability != Reachability::Reachable {
            return self.hold(hop, frame, outlet);
        }
        let (interface, mtu) = (adjacency.interface, adjacency.mtu);
        if let Ok((link, _)) = EthernetHeader::mut_from_prefix(frame.octets_mut()) {
            link.destination = adjacency.destination;
            link.source = adjacency.source;
        }
        if ip_octets > mtu {
            return self.send_split(interface, mtu, frame, outlet);
        }
        outlet.transmit(interface, frame);
    }

    /// Sends a packet that does not fit its link in pieces.
    #[cold]
    fn send_split(
        &mut self,
        interface: InterfaceId,
        mtu: u16,
        frame: F,
        outlet: &mut impl Outlet<F>,
    ) {
        let stats = &self.stats;
        match split::send(&frame, mtu, interface, outlet, || stats.originated.increment()) {
            Ok(()) => {
                self.stats.consumed.increment();
                outlet.discard(frame);
            }
            Err(reason) => self.drop(frame, reason, outlet),
        }
    }

    #[cold]
    fn hold(&mut self, hop: AdjacencyId, frame: F, outlet: &mut impl Outlet<F>) {
        let Some(entry) = self.next_hops.get_mut(hop) else {
            return self.drop(frame, DropReason::NoRoute, outlet);
        };
        if entry.reachability == Reachability::Unresolved {
            let wanted = Event::Resolve { interface: entry.interface, address: entry.address };
            if self.mailbox.post(wanted).is_err() {
                // Nobody would ask: the frame must not wait for an answer.
                self.stats.events_lost.increment();
                return self.drop(frame, DropReason::NeighborQueueFull, outlet);
            }
            entry.reachability = Reachability::Resolving;
        }
        match self.waiting.hold(hop, entry, frame) {
            None => self.stats.held.increment(),
            Some(frame) => self.drop(frame, DropReason::NeighborQueueFull, outlet),
        }
    }

    /// Drops a frame for a reason.
    #[inline]
    pub(super) fn drop(&self, frame: F, reason: DropReason, outlet: &mut impl Outlet<F>) {
        self.stats.dropped.count(reason);
        outlet.discard(frame);
    }

    /// Tells the control thread of a neighbour: of any that the packet proves to deal with us
    /// (`may_create`), else only of those that are in use.
    pub(super) fn neighbor_seen(
        &self,
        interface: InterfaceId,
        address: IpAddr,
        mac: Mac,
        may_create: bool,
    ) {
        let known = self.next_hops.find(interface, address).and_then(|id| self.next_hops.get(id));
        let is_news = known.is_some_and(|entry| {
            entry.reachability != Reachability::Reachable || entry.destination != mac
        });
        if (may_create || is_news)
            && self
                .mailbox
                .post(Event::NeighborSeen { interface, address, mac, answer: may_create })
                .is_err()
        {
            self.stats.events_lost.increment();
        }
    }
}
