//! A virtual service and its real servers as workers see them.

use std::num::NonZeroU32;
use std::sync::Arc;

use super::CompileError;
use crate::ids::{ServerSlot, ServiceId};
use crate::service::registry::SlotRegistry;
use crate::service::scheduler::{
    Asking, Candidates, Destinations, Scheduler, SchedulerState, Setup,
};
use crate::service::{
    Helper, NonSyn, Persistent, PortRange, Protocol, ServerLoad, ServerLoads, VirtualService,
};
use crate::wire::U16;
use crate::wire::address::Address;
use crate::wire::checksum::Delta;
use crate::wire::ipv4::protocol;

/// A real server, ready to be scheduled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Server<A> {
    /// Its slot in loads and counters.
    pub slot: ServerSlot,
    /// Where packets are rewritten to.
    pub address: A,
    /// And to which port.
    pub port: U16,
    /// 0: takes no new connections.
    pub weight: u32,
    /// What rewriting the VIP changes in a checksum over addresses.
    pub address_delta: Delta,
    /// What rewriting the service's port changes in a checksum over ports.
    pub port_delta: Delta,
}

impl<A: Address> Server<A> {
    /// Behind a VIP and its port.
    fn new(
        (slot, weight): (ServerSlot, u32),
        (vip, vip_port): (A, U16),
        (address, port): (A, U16),
    ) -> Self {
        let address_delta = Delta::between(vip.octets(), address.octets());
        let port_delta = Delta::between(&vip_port.to_bytes(), &port.to_bytes());
        Self { slot, address, port, weight, address_delta, port_delta }
    }

    /// The server of a connection to one of many addresses or ports.
    #[cold]
    #[must_use]
    pub fn of_many(&self, (vip, port): (A, U16)) -> Self {
        let server_port = if self.port.get() == 0 { port } else { self.port };
        Self {
            port: server_port,
            address_delta: Delta::between(vip.octets(), self.address.octets()),
            port_delta: Delta::between(&port.to_bytes(), &server_port.to_bytes()),
            ..*self
        }
    }
}

/// A virtual service, ready to be found.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is a setting of its own")]
pub struct Service<A: Address> {
    /// Its slot.
    pub id: ServiceId,
    /// The VIP; of no meaning where packets to several addresses are the service's.
    pub vip: A,
    /// The service's port; 0: it has many.
    pub port: U16,
    /// Whether its packets differ in their destination: it has many ports, or is a mark's. What a
    /// packet was sent to is its connection's VIP then, and [`Server`]'s deltas do not hold.
    pub is_wide: bool,
    /// TCP, UDP or SCTP; `None`: all.
    pub protocol: Option<Protocol>,
    /// The ports.
    pub ports: PortRange,
    /// Its firewall mark; 0: it has none.
    pub mark: u32,
    /// Whether another director is told of its connections.
    pub is_synchronised: bool,
    /// What is done with TCP segments that belong to no connection and are no SYN.
    pub non_syn: NonSyn,
    /// Every datagram is scheduled anew.
    pub one_packet: bool,
    /// What reads the text of its connections.
    pub helper: Option<Helper>,
    /// Whether a client's connections go to one server.
    pub persistence: Option<Persistent<A>>,
    /// Connections that it may have.
    pub connection_limit: Option<u32>,
    /// Whether it is known which VIP replies to single datagrams have.
    pub(super) one_packet_replies: bool,
    /// In scheduling order: the last configured first.
    servers: Box<[Server<A>]>,
    scheduler: Scheduler,
    state: Arc<SchedulerState>,
    /// Whether a server has a threshold.
    limited: bool,
}

impl<A: Address> Service<A> {
    /// The server of the next connection; `None` when every weight is 0 or every server is
    /// overloaded, or by the rules of the scheduler.
    #[inline]
    pub fn schedule(&self, asking: &Asking<'_, A>, loads: &ServerLoads) -> Option<&Server<A>> {
        self.scheduler.pick(&self.candidates(loads), &self.state, asking)
    }

    /// The servers that take new connections.
    #[inline]
    pub fn open_servers<'s>(
        &'s self,
        loads: &'s ServerLoads,
    ) -> impl Iterator<Item = &'s Server<A>> {
        let from = self.candidates(loads);
        self.servers.iter().filter(move |server| from.is_open(server))
    }

    /// Whether a server takes new connections.
    #[inline]
    pub(in crate::service) fn is_open(&self, server: &Server<A>, loads: &ServerLoads) -> bool {
        self.candidates(loads).is_open(server)
    }

    #[inline]
    fn candidates<'l>(&self, loads: &'l ServerLoads) -> Candidates<'_, 'l, A> {
        Candidates { servers: &self.servers, loads, limited: self.limited }
    }

    /// Whether a helper reads connections to this port; of many ports it is that of FTP alone.
    #[inline]
    pub fn is_helped(&self, port: U16, protocol: u8) -> bool {
        self.helper.is_some()
            && protocol == protocol::TCP
            && (!self.is_wide || port.get() == Helper::FTP_PORT)
    }

    /// Whether packets of this protocol are scheduled one by one: datagrams alone, as with IPVS.
    #[inline]
    pub fn is_one_packet(&self, protocol: u8) -> bool {
        self.one_packet && protocol == protocol::UDP
    }

    /// Whether it has as many connections as it may have. Workers that ask at the same time may
    /// each begin one more.
    #[inline]
    pub fn is_full(&self, loads: &ServerLoads) -> bool {
        self.connection_limit.is_some_and(|limit| self.connections(loads) >= u64::from(limit))
    }

    /// The connections of its servers.
    #[cold]
    fn connections(&self, loads: &ServerLoads) -> u64 {
        let loads = self.servers.iter().filter_map(|server| loads.of(server.slot));
        loads.map(ServerLoad::connections).map(|(a, b)| u64::from(a) + u64::from(b)).sum()
    }

    /// Whether replies of a server of a one-packet service tell by its address and port what they
    /// are replies to.
    pub(super) fn knows_replies(&self, server: &Server<A>) -> bool {
        self.one_packet_replies && (!self.is_wide || server.port.get() == 0)
    }

    /// What it is called by: the VIP and its first port; of a firewall mark's neither means
    /// anything.
    pub const fn named(&self) -> (A, U16) {
        (self.vip, U16::new(self.ports.first()))
    }

    /// The servers, the last configured first.
    pub fn servers(&self) -> &[Server<A>] {
        &self.servers
    }
}

impl<A: Address> Service<A> {
    /// Compiles a service of this family.
    pub(super) fn compile(
        service: &VirtualService,
        slots: &mut SlotRegistry,
    ) -> Result<Self, CompileError> {
        let listen = service.listen;
        let family = |server| CompileError::Family { service: listen, server };
        let vip = listen.ip().and_then(A::from_ip).unwrap_or_default();
        let ports = listen.ports();
        let port = U16::new(ports.single().unwrap_or(0));
        if listen.ip().is_some() && ports.is_all() && service.persistence.is_none() {
            return Err(CompileError::EveryPort(listen));
        }
        // As with IPVS, clients of a persistent service of every port reach the ports that they ask for.
        let keeps_ports = ports.is_all() && service.persistence.is_some();
        slots.service_entry(listen, service.removal)?;
        let mut servers = Vec::with_capacity(service.servers.len());
        let mut last_weights = Vec::with_capacity(service.servers.len());
        for server in service.servers.iter().rev() {
            let (slot, last_weight) = slots.server_entry(listen, server)?;
            last_weights.push(last_weight);
            let address = A::from_ip(server.address.ip()).ok_or_else(|| family(server.address))?;
            let server_port = match server.address.port() {
                _ if keeps_ports => 0,
                0 => ports.single().unwrap_or(0),
                port => port,
            };
            let server_port = U16::new(server_port);
            let to = (address, server_port);
            servers.push(Server::new((slot, server.weight), (vip, port), to));
        }
        let entry = slots.service_entry(listen, service.removal)?;
        let setup = Setup {
            kind: service.scheduler,
            flags: service.scheduler_flags,
            servers: &servers,
            last_weights: &last_weights,
            destinations: listen.mark().map_or(Destinations::One, |_| Destinations::Many),
            state: &entry.state,
        };
        let scheduler = Scheduler::new(&setup, &mut entry.history);
        Ok(Self {
            id: entry.id,
            vip,
            port,
            is_wide: ports.single().is_none(),
            protocol: listen.protocol(),
            ports,
            mark: listen.mark().map_or(0, NonZeroU32::get),
            is_synchronised: service.is_synchronised,
            non_syn: service.non_syn,
            one_packet: service.one_packet,
            helper: service.helper,
            persistence: service.persistence.as_ref().map(Persistent::compile),
            connection_limit: service.connection_limit,
            one_packet_replies: true,
            scheduler,
            servers: servers.into_boxed_slice(),
            state: Arc::clone(&entry.state),
            limited: service.servers.iter().any(|server| server.upper_threshold > 0),
        })
    }
}
