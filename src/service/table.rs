//! The table that workers find services in: immutable, made anew for each change.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use super::registry::SlotRegistry;
use super::scheduler::{Scheduler, SchedulerState};
use super::{
    Helper, IdleTimes, Listen, Masquerade, MasqueradeRule, NonSyn, Policy, Protocol, Rules,
    ServerLoads, Timeouts, VirtualService,
};
use crate::ids::{ServerSlot, ServiceId, TableVersion};
use crate::wire::U16;
use crate::wire::address::{Address, V4, V6};
use crate::wire::checksum::Delta;
use crate::wire::flow_key::FlowKey;
use crate::wire::prefix::{AddressFilter, AddressSet};

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

/// A virtual service, ready to be found.
#[derive(Debug)]
pub struct Service<A> {
    /// Its slot.
    pub id: ServiceId,
    /// The VIP.
    pub vip: A,
    /// The service's port.
    pub port: U16,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// What is done with TCP segments that belong to no connection and are no SYN.
    pub non_syn: NonSyn,
    /// Every datagram is scheduled anew.
    pub one_packet: bool,
    /// What reads the text of its connections.
    pub helper: Option<Helper>,
    /// In scheduling order: the last configured first.
    servers: Box<[Server<A>]>,
    scheduler: Scheduler,
    state: Arc<SchedulerState>,
}

impl<A: Address> Service<A> {
    /// The server of the next connection; `None` when every weight is 0.
    #[inline]
    pub fn schedule(&self, loads: &ServerLoads) -> Option<&Server<A>> {
        self.scheduler.pick(&self.servers, &self.state, loads)
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
    index: Map<FlowKey<A>, u32>,
    vips: Set<A>,
    masquerades: Vec<MasqueradeRule<A>>,
    /// VIPs and the addresses of masquerades.
    external: Set<A>,
    /// Of these.
    filter: AddressFilter,
    /// These, and those of earlier tables.
    ever_external: AddressSet<A>,
    /// The services of real servers that answer one-packet services, by the server's endpoint.
    one_packet: Map<FlowKey<A>, u32>,
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
            index: Map::default(),
            vips: Set::default(),
            masquerades: Vec::new(),
            external: Set::default(),
            ever_external: AddressSet::from_iter([]),
            filter: AddressFilter::default(),
            one_packet: Map::default(),
        }
    }

    /// The service that listens at this address, port and IP protocol.
    #[inline]
    pub fn find(&self, vip: A, port: U16, protocol: u8) -> Option<&Service<A>> {
        let place = self.index.get(&endpoint(vip, port, protocol))?;
        self.services.get(*place as usize)
    }

    /// Whether an address is a VIP.
    #[inline]
    pub fn is_vip(&self, address: &A) -> bool {
        self.vips.contains(address)
    }

    /// Whether outside parties send to this address: VIPs, and what masquerades appear with.
    #[inline]
    pub fn is_external(&self, address: &A) -> bool {
        self.filter.may_contain(*address) && self.external.contains(address)
    }

    /// Whether outside parties send to this address, or did by an earlier table: connections
    /// outlive their service, and stay with their worker.
    #[inline]
    pub fn was_external(&self, address: &A) -> bool {
        self.ever_external.contains(*address)
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
        let place = self.one_packet.get(&endpoint(server, port, protocol))?;
        let service = self.services.get(*place as usize)?;
        let mut servers = service.servers.iter();
        let server = servers.find(|known| known.address == server && known.port == port)?;
        Some((service, server))
    }

    /// All VIPs.
    pub fn vips(&self) -> impl Iterator<Item = &A> {
        self.vips.iter()
    }

    fn add(&mut self, service: Service<A>) -> Result<ServiceId, CompileError> {
        let id = service.id;
        let key = endpoint(service.vip, service.port, service.protocol as u8);
        let place =
            u32::try_from(self.services.len()).map_err(|_| CompileError::TooManyServices)?;
        if self.index.insert(key, place).is_some() {
            let address = SocketAddr::new(service.vip.to_ip(), service.port.get());
            return Err(CompileError::Twice(Listen { protocol: service.protocol, address }));
        }
        self.vips.insert(service.vip);
        self.external.insert(service.vip);
        if service.one_packet {
            for server in &service.servers {
                let answers = endpoint(server.address, server.port, service.protocol as u8);
                self.one_packet.insert(answers, place);
            }
        }
        self.services.push(service);
        Ok(id)
    }

    /// Takes what is of this family of a rule.
    fn masquerade_by(&mut self, rule: &Masquerade) {
        if let Some(rule) = MasqueradeRule::compile(rule) {
            self.external.extend(rule.addresses());
            self.masquerades.push(rule);
        }
    }

    /// Adds the external addresses to those that there ever were, and takes these over.
    fn remember_externals(&mut self, ever: &mut Set<IpAddr>) {
        ever.extend(self.external.iter().map(|address| address.to_ip()));
        self.ever_external = ever.iter().copied().filter_map(A::from_ip).collect();
        self.filter.extend(self.external.iter().copied());
    }
}

/// Why services cannot be compiled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// Two services listen at the same place.
    #[error("two services listen on {0}; every service needs an address and port of its own")]
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
        let Rules { services, masquerades, timeouts, policy } = rules;
        let idle_times = timeouts.in_milliseconds();
        let mut table = Self { version, policy, idle_times, ..Self::empty() };
        for service in services {
            let id = if service.listen.address.is_ipv4() {
                table.v4.add(compile_service(service, slots, &mut table.weights)?)?
            } else {
                table.v6.add(compile_service(service, slots, &mut table.weights)?)?
            };
            let own = service.timeouts.map(|timeouts| timeouts.in_milliseconds());
            set(&mut table.service_idle_times, id.index(), own);
        }
        for rule in masquerades {
            table.v4.masquerade_by(rule);
            table.v6.masquerade_by(rule);
        }
        slots.has_masqueraded |= !masquerades.is_empty();
        table.has_masqueraded = slots.has_masqueraded;
        table.v4.remember_externals(&mut slots.externals);
        table.v6.remember_externals(&mut slots.externals);
        Ok(table)
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

    /// The weight of a server; `None`: it is not configured (any more).
    #[inline]
    pub fn weight(&self, server: ServerSlot) -> Option<u32> {
        self.weights.get(server.index()).copied().flatten()
    }

    /// The version.
    pub const fn version(&self) -> TableVersion {
        self.version
    }

    /// Whether outside parties send to this address: VIPs, and what masquerades appear with.
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
    weights: &mut Vec<Option<u32>>,
) -> Result<Service<A>, CompileError> {
    let listen = service.listen;
    let family = |server| CompileError::Family { service: listen, server };
    let vip = A::from_ip(listen.address.ip()).ok_or_else(|| family(listen.address))?;
    let port = U16::new(listen.address.port());
    let (id, state) = slots.service_entry(listen)?;
    let mut servers = Vec::with_capacity(service.servers.len());
    for server in service.servers.iter().rev() {
        let slot = slots.server_slot(listen, server.address)?;
        set(weights, slot.index(), Some(server.weight));
        let address = A::from_ip(server.address.ip()).ok_or_else(|| family(server.address))?;
        let server_port = U16::new(server.address.port());
        servers.push(Server {
            slot,
            address,
            port: server_port,
            weight: server.weight,
            address_delta: Delta::between(vip.octets(), address.octets()),
            port_delta: Delta::between(&port.to_bytes(), &server_port.to_bytes()),
        });
    }
    Ok(Service {
        id,
        vip,
        port,
        protocol: listen.protocol,
        non_syn: service.non_syn,
        one_packet: service.one_packet,
        helper: service.helper,
        scheduler: Scheduler::new(service.scheduler, &servers),
        servers: servers.into_boxed_slice(),
        state,
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
