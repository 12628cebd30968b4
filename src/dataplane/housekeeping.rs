//! What a worker does between bursts: commands, expiry, listings.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::conn::{Connection, ConnectionTable, Expiry};
use super::frame::{Frame, Outlet};
use super::handover::Walk;
use super::helper;
use super::local;
use super::mailbox::{Command, ConnectionPage, ConnectionRow, Event};
use super::next_hop::AdjacencyId;
use super::pipeline::Pipeline;
use super::shared::Shared;
use super::stats::DropReason;
use crate::clock::Tick;
use crate::ids::{InterfaceId, WorkerId};
use crate::service::ServiceTable;
use crate::wire::U16;
use crate::wire::address::Address;
use crate::wire::ethernet::{self, Mac};

/// Commands that are carried out in one go.
const COMMANDS: usize = 32;
/// Records of each table that expiry looks at in one go.
const EXPIRY_BUDGET: u32 = 64;
/// Records that a listing looks at in one go.
const LISTING_BUDGET: u32 = 1024;
/// Cursor of a listing: set while in the IPv6 table.
const CURSOR_V6: u64 = 1 << 32;

/// Where the search for templates whose time is over goes on.
#[derive(Debug, Default)]
pub(super) struct TemplateSweep {
    at: usize,
    /// When they were last looked at.
    looked_at: Tick,
}

impl<F: Frame> Pipeline<F> {
    /// Carries out what the control thread asks for and forgets connections whose time is over,
    /// a bounded number of each.
    pub fn housekeep(&mut self, now: Tick, outlet: &mut impl Outlet<F>) {
        for _ in 0..COMMANDS {
            if !self.shared.is_answered() {
                break;
            }
            let Some(command) = self.shared.mailbox.command() else { break };
            self.execute(command, now, outlet);
        }
        self.run_errands(outlet);
        self.synchronise(now, outlet);
        self.hand_over(now);
        self.expire(now, EXPIRY_BUDGET);
        self.sweep(now, outlet);
        self.shared.helpers.sweep(&self.shared.stats, self.shared.worker, now);
        self.shared.sweep_templates(now);
        self.fragments_v4.expire(&self.shared, now, outlet);
        self.fragments_v6.expire(&self.shared, now, outlet);
        self.shared.stats.neighbors.set(self.shared.next_hops.len() as u64);
    }

    /// Forgets connections whose time is over; looks at no more than `budget` records of each
    /// table.
    #[inline]
    pub fn expire(&mut self, now: Tick, budget: u32) {
        let Self { shared, v4, v6, .. } = self;
        v4.expire(now, budget, shared);
        v6.expire(now, budget, shared);
    }

    /// Drops the packets that still wait: the worker stops.
    pub fn shut_down(&mut self, outlet: &mut impl Outlet<F>) {
        self.fragments_v4.shut_down(&self.shared, outlet);
        self.fragments_v6.shut_down(&self.shared, outlet);
        while let Some(frame) = self.shared.waiting.pop() {
            self.shared.stats.held.decrement();
            self.shared.drop(frame, DropReason::Shutdown, outlet);
        }
    }

    /// Live connections, IPv4 and IPv6.
    pub fn connections(&self) -> (u32, u32) {
        (self.v4.room().used, self.v6.room().used)
    }

    fn execute(&mut self, command: Command, now: Tick, outlet: &mut impl Outlet<F>) {
        let shared = &mut self.shared;
        match command {
            Command::InstallServices(table) => self.install(table),
            Command::SetNeighbor { interface, address, mac, permanent } => {
                shared.set_neighbor((interface, address), mac, permanent, outlet);
            }
            Command::NeighborUnreachable { interface, address } => {
                shared.neighbor_unreachable(interface, address, outlet);
            }
            Command::Solicit { interface, address, station, only_if_used } => {
                if !only_if_used || shared.next_hops.is_used(interface, address, now) {
                    local::solicit(shared, interface, address, station, outlet);
                }
            }
            Command::Announce { interface, address } => {
                local::announce(shared, interface, address, outlet);
            }
            Command::ReportListeners { interface, report } => {
                local::report(shared, interface, &report, outlet);
            }
            Command::ListConnections(page) => self.list(page, now),
            Command::BeginHandover(handover) => {
                self.shared.handing.walk = Walk::default();
                let retired = self.shared.handing.channel.replace(handover);
                self.shared.answer(Event::HandoverBegun { retired });
            }
        }
    }

    fn install(&mut self, table: Arc<ServiceTable>) {
        let version = table.version();
        let has_removed = table.last_removal() > self.shared.services.version();
        let retired = std::mem::replace(&mut self.shared.services, table);
        if has_removed {
            self.begin_sweep();
        }
        let worker = self.shared.worker;
        self.shared.answer(Event::Installed { worker, version, retired });
    }

    /// Fills a page and sends it back.
    fn list(&mut self, mut page: ConnectionPage, now: Tick) {
        let start = u32::try_from(page.cursor & (CURSOR_V6 - 1)).unwrap_or(0);
        let (cursor, done) = if page.cursor & CURSOR_V6 == 0 {
            match self.shared.fill(&self.v4, &mut page, start, now) {
                Some(next) => (u64::from(next), false),
                None => (CURSOR_V6, false),
            }
        } else {
            match self.shared.fill(&self.v6, &mut page, start, now) {
                Some(next) => (CURSOR_V6 | u64::from(next), false),
                None => (0, true),
            }
        };
        page.cursor = cursor;
        page.done = done;
        self.shared.answer(Event::Connections { worker: self.shared.worker, page });
    }
}

impl<F: Frame> Shared<F> {
    /// Appends connections from record `start` on, as far as the page's capacity and the budget
    /// reach; where to go on, or `None` at the end.
    fn fill<A: Address>(
        &self,
        table: &ConnectionTable<A>,
        page: &mut ConnectionPage,
        start: u32,
        now: Tick,
    ) -> Option<u32> {
        let (live, next) = table.walk(start, LISTING_BUDGET);
        for (record, connection) in live {
            if page.rows.len() == page.rows.capacity() {
                return Some(record);
            }
            if !self.is_half(connection) {
                page.rows.push(row(connection, now));
            }
        }
        next
    }
}

fn row<A: Address>(connection: &Connection<A>, now: Tick) -> ConnectionRow {
    let endpoint = |(address, port): (A, U16)| SocketAddr::new(address.to_ip(), port.get());
    let idle = now.since(Tick(connection.last_seen));
    ConnectionRow {
        protocol: connection.protocol,
        state: connection.state(),
        client: endpoint(connection.client()),
        service: endpoint(connection.vip()),
        server: endpoint(connection.server()),
        expires_ms: connection.timeout_ms.saturating_sub(idle),
    }
}

impl<F: Frame, A: Address> Expiry<A> for Shared<F> {
    #[inline]
    fn grace_ms(&self, connection: &Connection<A>) -> Option<u32> {
        self.helpers.needs(connection).then_some(helper::GRACE_MS)
    }

    #[inline]
    fn lives(&self, connection: &Connection<A>, until: Tick) {
        if connection.flags.is_by_template() {
            self.hold_template(connection, until);
        }
    }

    #[inline]
    fn ended(&mut self, connection: &Connection<A>) {
        self.connection_ends(connection);
    }
}

impl<F: Frame> Shared<F> {
    /// The template that led to a live connection's server lives, too.
    #[cold]
    fn hold_template<A: Address>(&self, connection: &Connection<A>, until: Tick) {
        let service = connection.service();
        let client = connection.client().0;
        if let Some(key) = self.services.template_key(service, client) {
            self.loads.templates().hold(&key, connection.slot(), until);
        }
    }

    /// Clears some templates whose time is over or that are of no use any more, once a millisecond.
    fn sweep_templates(&mut self, now: Tick) {
        if self.template_sweep.looked_at == now {
            return;
        }
        self.template_sweep.looked_at = now;
        let Self { services, loads, template_sweep: TemplateSweep { at, .. }, .. } = self;
        let is_wanted = |service, server| services.wants_template(service, server);
        *at = loads.sweep_templates((*at, now), is_wanted);
        if self.worker == WorkerId(0) {
            let templates = self.loads.templates();
            templates.set_clock(now);
            self.stats.templates.set(templates.len().into());
        }
    }

    /// Answers a command. What the control thread gave must come back to it: no memory is freed
    /// on a worker.
    fn answer(&mut self, event: Event) {
        self.unsent = self.mailbox.post(event).err();
    }

    /// Whether the last answer is on its way; tries once more if it is not.
    fn is_answered(&mut self) -> bool {
        if let Some(event) = self.unsent.take() {
            self.answer(event);
        }
        self.unsent.is_none()
    }

    fn set_neighbor(
        &mut self,
        (interface, address): (InterfaceId, IpAddr),
        mac: Mac,
        permanent: bool,
        outlet: &mut impl Outlet<F>,
    ) {
        let Some(id) = self.next_hops.find_or_add(&self.interfaces, interface, address) else {
            return;
        };
        self.next_hops.set(id, mac, permanent);
        while let Some(frame) = self.next_waiting(id) {
            if !self.is_active {
                self.drop(frame, DropReason::Standby, outlet);
                continue;
            }
            let ip_octets = frame.total_len().saturating_sub(ethernet::HEADER);
            self.send(id, u16::try_from(ip_octets).unwrap_or(u16::MAX), frame, outlet);
        }
    }

    fn neighbor_unreachable(
        &mut self,
        interface: InterfaceId,
        address: IpAddr,
        outlet: &mut impl Outlet<F>,
    ) {
        let Some(id) = self.next_hops.find(interface, address) else { return };
        self.next_hops.unset(id);
        while let Some(frame) = self.next_waiting(id) {
            self.drop(frame, DropReason::NeighborUnreachable, outlet);
        }
    }

    fn next_waiting(&mut self, id: AdjacencyId) -> Option<F> {
        let entry = self.next_hops.get_mut(id)?;
        let frame = self.waiting.take(id, entry)?;
        self.stats.held.decrement();
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::PipelineSettings;
    use crate::dataplane::frame::BufferFrame;
    use crate::dataplane::interface::Interfaces;
    use crate::dataplane::mailbox::{ControlMailbox, EVENTS, mailbox};
    use crate::dataplane::stats::WorkerStats;
    use crate::dataplane::steering::Steering;
    use crate::dpdk::memory::HugePages;
    use crate::service::ServerLoads;

    /// No frames are expected.
    struct Nowhere;

    impl Outlet<BufferFrame> for Nowhere {
        fn allocate(&mut self) -> Option<BufferFrame> {
            None
        }
        fn transmit(&mut self, _: InterfaceId, _: BufferFrame) {}
        fn hand_over(&mut self, _: WorkerId, _: BufferFrame) {}
        fn discard(&mut self, _: BufferFrame) {}
    }

    fn idle_pipeline() -> (Pipeline<BufferFrame>, ControlMailbox) {
        let (mailbox, control) = mailbox();
        let settings = PipelineSettings {
            worker: WorkerId(0),
            interfaces: Arc::new(Interfaces::new(Vec::new())),
            routes: Vec::new(),
            neighbors: 4,
            fragment_timeout_ms: 30_000,
            errors_per_second: 1000,
            connections: (8, 8),
            huge_pages: HugePages::Never,
            table_secret: [1; 4],
            port_seed: 1,
            steering: Steering::new(1, [2; 4]),
            services: Arc::new(ServiceTable::empty()),
            loads: Arc::new(ServerLoads::new(1)),
            control_connections: 1,
            expectations: Arc::new(helper::Expectations::for_workers(1, [3; 4])),
            stats: Arc::new(WorkerStats::new(1)),
            mailbox,
            failover: None,
            handover: None,
        };
        (Pipeline::new(settings, Tick(0)).unwrap(), control)
    }

    #[test]
    fn an_answer_waits_while_the_event_queue_is_full_and_no_command_overtakes_it() {
        let (mut pipeline, control) = idle_pipeline();
        let wanted = || Event::Resolve { interface: InterfaceId(0), address: IpAddr::from([1; 4]) };
        for _ in 0..EVENTS {
            pipeline.shared.mailbox.post(wanted()).unwrap();
        }
        let table = Arc::new(ServiceTable::empty());
        control.send(Command::InstallServices(Arc::clone(&table))).unwrap();
        control.send(Command::ListConnections(ConnectionPage::new(1))).unwrap();
        pipeline.housekeep(Tick(1), &mut Nowhere);
        assert!(Arc::ptr_eq(&pipeline.shared.services, &table));
        for _ in 0..EVENTS {
            assert!(matches!(control.event(), Some(Event::Resolve { .. })));
        }
        assert!(control.event().is_none());
        pipeline.housekeep(Tick(2), &mut Nowhere);
        assert!(matches!(control.event(), Some(Event::Installed { .. })));
        assert!(matches!(control.event(), Some(Event::Connections { .. })));
    }
}
