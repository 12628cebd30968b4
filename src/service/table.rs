//! The table that workers find services in: immutable, made anew for each change.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use super::marks::Marks;
use super::registry::SlotRegistry;
use super::scheduler::{Asking, Candidates, Destinations, Scheduler, SchedulerState, Setup};
use super::wide::WideServices;
use super::{
    Helper, IdleTimes, Listen, MarkRule, Masquerade, MasqueradeRule, NonSyn, Persistent, Policy,
    PortRange, Protocol, RealServer, Removal, Rules, ServerLoads, TemplateKey, Timeouts,
    VirtualService,
};
use crate::ids::{InterfaceId, ServerSlot, ServiceId, TableVersion};
use crate::wire::U16;
use crate::wire::address::{Address, V4, V6};
use crate::wire::checksum::Delta;
use crate::wire::flow_key::FlowKey;
use crate::wire::ipv4::protocol;
use crate::wire::prefix::{AddressFilter, AddressSet, Prefix};

type Map<K, V> = HashMap<K, V, ahash::RandomState>;
type Set<K> = HashSet<K, ahash::RandomState>;

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
    one_packet_replies: bool,
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
    pub(super) fn is_open(&self, server: &Server<A>, loads: &ServerLoads) -> bool {
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
        loads.map(super::ServerLoad::connections).map(|(a, b)| u64::from(a) + u64::from(b)).sum()
    }

    /// Whether replies of a server of a one-packet service tell by its address and port what they
    /// are replies to.
    fn knows_replies(&self, server: &Server<A>) -> bool {
        self.one_packet_replies && (!self.is_wide || server.port.get() == 0)
    }

    /// The servers, the last configured first.
    pub fn servers(&self) -> &[Server<A>] {
        &self.servers
    }
}

/// The services of one address family.
#[derive(Debug)]
pub struct FamilyServices<A: Address> {
    services: Vec<Service<A>>,
    by_id: Vec<Option<u32>>,
    /// Of one port each.
    index: Map<FlowKey<A>, u32>,
    /// Of many ports.
    wide: WideServices<A>,
    /// By firewall mark.
    by_mark: Map<NonZeroU32, u32>,
    marks: Marks<A>,
    vips: Set<A>,
    masquerades: Vec<MasqueradeRule<A>>,
    /// VIPs, single destinations of firewall marks, and the addresses of masquerades.
    external: Set<A>,
    /// Of these.
    filter: AddressFilter,
    /// These, and those of earlier tables that connections may have.
    ever_external: AddressSet<A>,
    /// Networks that are destinations of firewall marks, by this table or an earlier one.
    ever_networks: Vec<Prefix<A>>,
    /// The services of real servers that answer one-packet services, by the server's endpoint.
    one_packet: Map<FlowKey<A>, u32>,
}

/// Whether an address is in one of these networks.
#[inline]
fn is_within<A: Address>(networks: &[Prefix<A>], address: A) -> bool {
    networks.iter().any(|network| network.contains(address))
}

/// An endpoint as a key that is hashed and compared in few words.
#[inline]
fn endpoint<A: Address>(address: A, port: U16, protocol: u8) -> FlowKey<A> {
    FlowKey { source: address, source_port: port, protocol, ..FlowKey::default() }
}

impl<A: Address> FamilyServices<A> {
    fn new() -> Self {
        Self {
            services: Vec::new(),
            by_id: Vec::new(),
            index: Map::default(),
            wide: WideServices::default(),
            by_mark: Map::default(),
            marks: Marks::default(),
            vips: Set::default(),
            masquerades: Vec::new(),
            external: Set::default(),
            ever_external: AddressSet::from_iter([]),
            filter: AddressFilter::default(),
            ever_networks: Vec::new(),
            one_packet: Map::default(),
        }
    }

    /// The service that a packet is for: that of its firewall mark, or else of its destination:
    /// the service of that port, of a range of ports with it, of all ports. The order of IPVS.
    /// Where there are firewall marks, `interface` is where the packet came in.
    #[inline]
    pub fn service_of(
        &self,
        key: &FlowKey<A>,
        interface: Option<InterfaceId>,
    ) -> Option<&Service<A>> {
        if self.has_marks()
            && let Some(place) = self.marks.find(key, interface)
        {
            return self.services.get(place as usize);
        }
        self.find(key.destination, key.destination_port, key.protocol)
    }

    /// The service that listens at this address, port and IP protocol.
    #[inline]
    pub fn find(&self, vip: A, port: U16, protocol: u8) -> Option<&Service<A>> {
        let place = match self.index.get(&endpoint(vip, port, protocol)) {
            Some(place) => *place,
            None if self.wide.is_empty() => return None,
            None => self.wide.find(vip, port, protocol)?,
        };
        self.services.get(place as usize)
    }

    /// The persistence of a service.
    pub fn persistence(&self, service: ServiceId) -> Option<&Persistent<A>> {
        let place = self.by_id.get(service.index()).copied().flatten()?;
        self.services.get(place as usize)?.persistence.as_ref()
    }

    fn template_key(&self, service: ServiceId, client: A) -> Option<TemplateKey> {
        self.persistence(service).map(|known| TemplateKey::new(service, client, known.mask()))
    }

    /// Whether there are firewall marks.
    #[inline]
    pub fn has_marks(&self) -> bool {
        !self.marks.is_empty()
    }

    /// Whether a service listens at this port and does not just take what no other one does: such
    /// ports are no masquerade's.
    pub fn names(&self, vip: A, port: U16, protocol: u8) -> bool {
        self.index.contains_key(&endpoint(vip, port, protocol))
            || self.wide.range(vip, port, protocol).is_some()
    }

    /// Whether an address is a VIP.
    #[inline]
    pub fn is_vip(&self, address: &A) -> bool {
        self.vips.contains(address)
    }

    /// Whether the director has this address for outside parties: VIPs, single destinations of
    /// firewall marks, and what masquerades appear with.
    #[inline]
    pub fn is_external(&self, address: &A) -> bool {
        self.filter.may_contain(*address) && self.external.contains(address)
    }

    /// Whether outside parties send to this address, or did by an earlier table: connections
    /// outlive their service, and stay with their worker. Networks of firewall marks count, whose
    /// addresses are not the director's.
    #[inline]
    pub fn was_external(&self, address: &A) -> bool {
        self.ever_external.contains(*address) || is_within(&self.ever_networks, *address)
    }

    /// The rule by which an inside host may open connections to the outside.
    pub fn masquerade(&self, source: &A) -> Option<&MasqueradeRule<A>> {
        self.masquerades.iter().find(|rule| rule.covers(source))
    }

    /// The one-packet service that a real server answers for, and that server.
    pub fn one_packet_service(
        &self,
        server: A,
        port: U16,
        protocol: u8,
    ) -> Option<(&Service<A>, &Server<A>)> {
        if self.one_packet.is_empty() {
            return None;
        }
        let of = |port| self.one_packet.get(&endpoint(server, port, protocol));
        let place = of(port).or_else(|| of(U16::new(0)))?;
        let service = self.services.get(*place as usize)?;
        let keeps_port =
            |known: &Server<A>| known.port.get() == 0 && service.ports.contains(port.get());
        let mut servers = service.servers.iter();
        let server = servers
            .find(|known| known.address == server && (known.port == port || keeps_port(known)))?;
        Some((service, server))
    }

    /// All VIPs.
    pub fn vips(&self) -> impl Iterator<Item = &A> {
        self.vips.iter()
    }

    fn add(&mut self, service: Service<A>, listen: &Listen) -> Result<ServiceId, CompileError> {
        let id = service.id;
        let place =
            u32::try_from(self.services.len()).map_err(|_| CompileError::TooManyServices)?;
        let (vip, ports) = (service.vip, service.ports);
        let taken = match (listen, ports.single()) {
            (Listen::Mark { mark, .. }, _) => self.by_mark.insert(*mark, place),
            (Listen::Vip { protocol, .. }, Some(port)) => {
                let key = endpoint(vip, U16::new(port), *protocol as u8);
                let in_range = self.wide.range(vip, U16::new(port), *protocol as u8);
                self.index.insert(key, place).or(in_range)
            }
            (Listen::Vip { protocol, .. }, None) => {
                let key = (vip, *protocol as u8);
                let is_in = |known: &FlowKey<A>| {
                    (known.source, known.protocol) == key && ports.contains(known.source_port.get())
                };
                let single = self.index.iter().find(|(known, _)| !ports.is_all() && is_in(known));
                let single = single.map(|(_, place)| *place);
                self.wide.add(key, ports, place).or(single)
            }
        };
        if taken.is_some() {
            return Err(CompileError::Twice(*listen));
        }
        if listen.ip().is_some() {
            self.vips.insert(vip);
            self.external.insert(vip);
        }
        set(&mut self.by_id, id.index(), Some(place));
        self.services.push(service);
        Ok(id)
    }

    /// Takes down what real servers answer from for one-packet services. The VIP of a mark's is
    /// known where it is one.
    fn expect_replies(&mut self, rules: &[MarkRule]) {
        for (mark, place) in &self.by_mark {
            let Some(service) = self.services.get_mut(*place as usize) else { continue };
            let rules = rules.iter().filter(|rule| rule.mark == *mark);
            let all: BTreeSet<_> = rules.flat_map(|rule| &rule.addresses).collect();
            let mut own = all.into_iter().filter(|net| net.addr().is_ipv6() == A::IS_V6);
            let only = own.next().filter(|net| net.prefix_len() == net.max_prefix_len());
            match only.and_then(|net| A::from_ip(net.addr())).filter(|_| own.next().is_none()) {
                Some(vip) => service.vip = vip,
                None => service.one_packet_replies = false,
            }
        }
        for (place, service) in (0..).zip(&self.services) {
            let answering = service.servers.iter().filter(|server| service.knows_replies(server));
            for server in answering.filter(|_| service.one_packet) {
                self.one_packet.insert(endpoint(server.address, server.port, protocol::UDP), place);
            }
        }
    }

    /// Takes what is of this family of a rule.
    fn mark_by(&mut self, rule: &MarkRule) {
        self.marks.add(rule, self.by_mark.get(&rule.mark).copied());
        self.external.extend(rule.single_addresses().filter_map(A::from_ip));
    }

    /// Takes what is of this family of a rule.
    fn masquerade_by(&mut self, rule: &Masquerade) {
        if let Some(rule) = MasqueradeRule::compile(rule) {
            self.external.extend(rule.addresses());
            self.masquerades.push(rule);
        }
    }

    /// Takes over the external addresses that connections may have.
    fn remember_externals(&mut self, slots: &SlotRegistry) {
        self.ever_networks = slots.external_networks().filter_map(Prefix::of).collect();
        self.ever_external = slots.externals().filter_map(A::from_ip).collect();
        self.filter.extend(self.external.iter().copied());
    }
}

/// Why services cannot be compiled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// Two services listen at the same place.
    #[error("two services listen on {0}; every service needs an address and ports of its own")]
    Twice(Listen),
    /// A server's address is of another family than its VIP.
    #[error(
        "service {service}: server {server} is not of the VIP's address family; NAT does not translate between IPv4 and IPv6"
    )]
    Family {
        /// The service.
        service: Listen,
        /// The server.
        server: SocketAddr,
    },
    /// A service of every port without persistence.
    #[error("service {0}: port 0 stands for every port, which needs persistence")]
    EveryPort(Listen),
    /// All slots are taken.
    #[error("no room for more than {0} real servers over all services")]
    TooManyServers(usize),
    /// All service numbers are taken.
    #[error("no room for more services")]
    TooManyServices,
}

/// All services of both families, immutable, with a version.
#[derive(Debug)]
pub struct ServiceTable {
    version: TableVersion,
    policy: Policy,
    idle_times: IdleTimes,
    has_masqueraded: bool,
    /// By [`ServiceId`]: idle times that differ from `idle_times`.
    service_idle_times: Vec<Option<IdleTimes>>,
    /// By [`ServerSlot`]: the weight of a server that is configured.
    weights: Vec<Option<u32>>,
    /// By [`ServerSlot`]: what becomes of the connections of a server that is configured no more.
    departed: Vec<Option<Removal>>,
    /// The last version that did without a server of the one before.
    last_removal: TableVersion,
    /// The upper and lower thresholds of each server.
    thresholds: Vec<(ServerSlot, u32, u32)>,
    v4: FamilyServices<V4>,
    v6: FamilyServices<V6>,
}

impl ServiceTable {
    /// A table without services.
    pub fn empty() -> Self {
        Self {
            version: TableVersion::default(),
            policy: Policy::default(),
            has_masqueraded: false,
            idle_times: Timeouts::default().in_milliseconds(),
            service_idle_times: Vec::new(),
            weights: Vec::new(),
            departed: Vec::new(),
            last_removal: TableVersion::default(),
            thresholds: Vec::new(),
            v4: FamilyServices::new(),
            v6: FamilyServices::new(),
        }
    }

    /// Compiles what the operator configured.
    pub fn compile(
        version: TableVersion,
        rules: Rules<'_>,
        slots: &mut SlotRegistry,
    ) -> Result<Self, CompileError> {
        let Rules { services, masquerades, marks, timeouts, policy } = rules;
        let idle_times = timeouts.in_milliseconds();
        slots.begin();
        let mut table = Self { version, policy, idle_times, ..Self::empty() };
        for service in services {
            let listen = &service.listen;
            let id = if listen.is_ipv6() {
                table.v6.add(compile_service(service, slots)?, listen)?
            } else {
                table.v4.add(compile_service(service, slots)?, listen)?
            };
            table.note_servers(service, slots);
            let own = service.timeouts.map(|timeouts| timeouts.in_milliseconds());
            set(&mut table.service_idle_times, id.index(), own);
        }
        for rule in masquerades {
            table.v4.masquerade_by(rule);
            table.v6.masquerade_by(rule);
        }
        for rule in marks {
            table.v4.mark_by(rule);
            table.v6.mark_by(rule);
        }
        table.v4.expect_replies(marks);
        table.v6.expect_replies(marks);
        slots.mark_by(marks);
        for rule in masquerades {
            slots.masquerade_by(&rule.addresses);
        }
        table.has_masqueraded = slots.has_masqueraded;
        slots.settle(version);
        table.last_removal = slots.last_removal();
        for (slot, removal) in slots.departed() {
            set(&mut table.departed, slot.index(), Some(removal));
        }
        table.v4.remember_externals(slots);
        table.v6.remember_externals(slots);
        Ok(table)
    }

    /// Notes what is asked of servers by slot.
    fn note_servers(&mut self, service: &VirtualService, slots: &SlotRegistry) {
        for server in &service.servers {
            let RealServer { address, weight, upper_threshold, lower_threshold, slow_start: _ } =
                *server;
            let Some(slot) = slots.server(service.listen, address) else { continue };
            set(&mut self.weights, slot.index(), Some(weight));
            self.thresholds.push((slot, upper_threshold, lower_threshold));
        }
    }

    /// Whether inside hosts may open connections to the outside, or might by an earlier table:
    /// what they opened lives on.
    #[inline]
    pub const fn has_masqueraded(&self) -> bool {
        self.has_masqueraded
    }

    /// What holds for all traffic.
    #[inline]
    pub const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The idle times of a service's connections.
    #[inline]
    pub fn idle_times(&self, service: ServiceId) -> &IdleTimes {
        let own = self.service_idle_times.get(service.index()).and_then(Option::as_ref);
        own.unwrap_or(&self.idle_times)
    }

    /// Whose the template of a service's client is, if the service has persistence.
    pub fn template_key<A: Address>(&self, service: ServiceId, client: A) -> Option<TemplateKey> {
        match client.to_ip() {
            IpAddr::V4(v4) => self.v4.template_key(service, v4.octets()),
            IpAddr::V6(v6) => self.v6.template_key(service, v6.octets()),
        }
    }

    /// Whether a template is of use: its service has persistence, and its server is configured.
    pub fn wants_template(&self, service: ServiceId, server: ServerSlot) -> bool {
        let has_persistence =
            self.v4.persistence(service).is_some() || self.v6.persistence(service).is_some();
        has_persistence && self.weight(server).is_some()
    }

    /// The weight of a server; `None`: it is not configured (any more).
    #[inline]
    pub fn weight(&self, server: ServerSlot) -> Option<u32> {
        self.weights.get(server.index()).copied().flatten()
    }

    /// What becomes of the connections of a server; `None`: it is configured, or was never.
    #[inline]
    pub fn departed(&self, server: ServerSlot) -> Option<Removal> {
        self.departed.get(server.index()).copied().flatten()
    }

    /// The last version that did without a server of the one before.
    pub const fn last_removal(&self) -> TableVersion {
        self.last_removal
    }

    /// Sets the thresholds of its servers. The control thread does so before it installs the
    /// table.
    pub fn set_thresholds(&self, loads: &ServerLoads) {
        for (slot, upper, lower) in &self.thresholds {
            loads.set_thresholds(*slot, *upper, *lower);
        }
    }

    /// The version.
    pub const fn version(&self) -> TableVersion {
        self.version
    }

    /// Whether the director has this address for outside parties: VIPs, single destinations of
    /// firewall marks, and what masquerades appear with.
    #[inline]
    pub fn is_external(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => self.v4.is_external(&v4.octets()),
            IpAddr::V6(v6) => self.v6.is_external(&v6.octets()),
        }
    }

    /// Whether outside parties send to this address, or did by an earlier table.
    #[inline]
    pub fn was_external(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => self.v4.was_external(&v4.octets()),
            IpAddr::V6(v6) => self.v6.was_external(&v6.octets()),
        }
    }

    /// Whether an address is a VIP.
    #[inline]
    pub fn is_vip(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => self.v4.is_vip(&v4.octets()),
            IpAddr::V6(v6) => self.v6.is_vip(&v6.octets()),
        }
    }

    /// The IPv4 services.
    #[inline]
    pub const fn v4(&self) -> &FamilyServices<V4> {
        &self.v4
    }

    /// The IPv6 services.
    #[inline]
    pub const fn v6(&self) -> &FamilyServices<V6> {
        &self.v6
    }
}

fn compile_service<A: Address>(
    service: &VirtualService,
    slots: &mut SlotRegistry,
) -> Result<Service<A>, CompileError> {
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
        servers.push(Server {
            slot,
            address,
            port: server_port,
            weight: server.weight,
            address_delta: Delta::between(vip.octets(), address.octets()),
            port_delta: Delta::between(&port.to_bytes(), &server_port.to_bytes()),
        });
    }
    let entry = slots.service_entry(listen, service.removal)?;
    let setup = Setup {
        kind: service.scheduler,
        flags: service.scheduler_flags,
        servers: &servers,
        last_weights: &last_weights,
        destinations: if listen.mark().is_some() { Destinations::Many } else { Destinations::One },
        state: &entry.state,
    };
    let scheduler = Scheduler::new(&setup, &mut entry.history);
    Ok(Service {
        id: entry.id,
        vip,
        port,
        is_wide: ports.single().is_none(),
        protocol: listen.protocol(),
        ports,
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

/// Puts a value at a place of a list that grows as needed.
fn set<T: Clone>(list: &mut Vec<Option<T>>, place: usize, value: Option<T>) {
    if list.len() <= place {
        list.resize(place + 1, None);
    }
    if let Some(entry) = list.get_mut(place) {
        *entry = value;
    }
}
