//! The table that workers find services in: immutable, made anew for each change.

mod family;
mod service;

use std::net::{IpAddr, SocketAddr};

pub use self::family::FamilyServices;
pub use self::service::{Server, Service};
use super::registry::SlotRegistry;
use super::{
    IdleTimes, Listen, Policy, Protocol, RealServer, Removal, Rules, ServerLoads, TemplateKey,
    Timeouts, VirtualService,
};
use crate::ids::{ServerSlot, ServiceId, TableVersion};
use crate::wire::address::{Address, V4, V6};

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
    /// [`ServiceTable::shortest_told_idle_ms`].
    shortest_told_idle_ms: u32,
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
            shortest_told_idle_ms: u32::MAX,
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
                table.v6.add(Service::compile(service, slots)?, listen)?
            } else {
                table.v4.add(Service::compile(service, slots)?, listen)?
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
        let of_masqueraded = idle_times.shortest_of_lasting(None);
        let of_masqueraded = table.has_masqueraded.then_some(of_masqueraded);
        let of_services = services.iter().filter_map(|service| told_idle_ms(service, &idle_times));
        table.shortest_told_idle_ms = of_services.chain(of_masqueraded).min().unwrap_or(u32::MAX);
        slots.settle(version);
        table.last_removal = slots.last_removal();
        for (slot, removal) in slots.departed() {
            set(&mut table.departed, slot.index(), Some(removal));
        }
        table.v4.remember_externals(slots);
        table.v6.remember_externals(slots);
        Ok(table)
    }

    /// The shortest idle time that a connection under way may have of which another director is told,
    /// milliseconds.
    pub const fn shortest_told_idle_ms(&self) -> u32 {
        self.shortest_told_idle_ms
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

/// The shortest idle time of a service's connections; `None`: no other director is told of them.
fn told_idle_ms(service: &VirtualService, usual: &IdleTimes) -> Option<u32> {
    let protocol = service.listen.protocol();
    let is_kept = !service.one_packet || protocol != Some(Protocol::Udp);
    let own = service.timeouts.map(|timeouts| timeouts.in_milliseconds());
    let shortest = own.as_ref().unwrap_or(usual).shortest_of_lasting(protocol);
    (service.is_synchronised && is_kept).then_some(shortest)
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
