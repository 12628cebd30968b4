//! The table that workers find services in: immutable, made anew for each change.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use super::scheduler::{Scheduler, SchedulerState};
use super::{Listen, Protocol, ServerLoads, VirtualService};
use crate::ids::{ServerSlot, ServiceId, TableVersion};
use crate::wire::U16;
use crate::wire::address::{Address, V4, V6};

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
    /// Whether any TCP segment may open a connection.
    pub sloppy_tcp: bool,
    /// Whether any SCTP packet may open a connection.
    pub sloppy_sctp: bool,
    /// Idle time of UDP flows, milliseconds; `None`: the director's.
    pub udp_timeout_ms: Option<u32>,
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
pub struct FamilyServices<A> {
    services: Vec<Service<A>>,
    index: Map<(A, U16, u8), u32>,
    vips: Set<A>,
}

impl<A: Address> FamilyServices<A> {
    fn new() -> Self {
        Self { services: Vec::new(), index: Map::default(), vips: Set::default() }
    }

    /// The service that listens at this address, port and IP protocol.
    #[inline]
    pub fn find(&self, vip: A, port: U16, protocol: u8) -> Option<&Service<A>> {
        let place = self.index.get(&(vip, port, protocol))?;
        self.services.get(*place as usize)
    }

    /// Whether an address is a VIP.
    #[inline]
    pub fn is_vip(&self, address: &A) -> bool {
        self.vips.contains(address)
    }

    /// All VIPs.
    pub fn vips(&self) -> impl Iterator<Item = &A> {
        self.vips.iter()
    }

    fn add(&mut self, service: Service<A>) -> Result<(), CompileError> {
        let key = (service.vip, service.port, service.protocol as u8);
        let place =
            u32::try_from(self.services.len()).map_err(|_| CompileError::TooManyServices)?;
        if self.index.insert(key, place).is_some() {
            let address = SocketAddr::new(service.vip.to_ip(), service.port.get());
            return Err(CompileError::Twice(Listen { protocol: service.protocol, address }));
        }
        self.vips.insert(service.vip);
        self.services.push(service);
        Ok(())
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

/// Gives services and servers their slots, and keeps them over versions of the table.
#[derive(Debug)]
pub struct SlotRegistry {
    capacity: usize,
    services: Map<Listen, (ServiceId, Arc<SchedulerState>)>,
    servers: Map<(Listen, SocketAddr), ServerSlot>,
}

impl SlotRegistry {
    /// A registry for at most `capacity` servers.
    pub fn new(capacity: usize) -> Self {
        Self { capacity, services: Map::default(), servers: Map::default() }
    }

    /// The slot of a server that has one.
    pub fn server(&self, listen: Listen, server: SocketAddr) -> Option<ServerSlot> {
        self.servers.get(&(listen, server)).copied()
    }

    fn service_entry(
        &mut self,
        listen: Listen,
    ) -> Result<(ServiceId, Arc<SchedulerState>), CompileError> {
        if let Some((id, state)) = self.services.get(&listen) {
            return Ok((*id, Arc::clone(state)));
        }
        let number =
            u16::try_from(self.services.len()).map_err(|_| CompileError::TooManyServices)?;
        let entry = (ServiceId(number), Arc::new(SchedulerState::default()));
        self.services.insert(listen, (entry.0, Arc::clone(&entry.1)));
        Ok(entry)
    }

    fn server_slot(
        &mut self,
        listen: Listen,
        server: SocketAddr,
    ) -> Result<ServerSlot, CompileError> {
        if let Some(slot) = self.servers.get(&(listen, server)) {
            return Ok(*slot);
        }
        let taken = self.servers.len();
        let slot = u16::try_from(taken)
            .ok()
            .filter(|_| taken < self.capacity)
            .map(ServerSlot)
            .ok_or(CompileError::TooManyServers(self.capacity))?;
        self.servers.insert((listen, server), slot);
        Ok(slot)
    }
}

/// All services of both families, immutable, with a version.
#[derive(Debug)]
pub struct ServiceTable {
    version: TableVersion,
    v4: FamilyServices<V4>,
    v6: FamilyServices<V6>,
}

impl ServiceTable {
    /// A table without services.
    pub fn empty() -> Self {
        Self {
            version: TableVersion::default(),
            v4: FamilyServices::new(),
            v6: FamilyServices::new(),
        }
    }

    /// Compiles what the operator configured.
    pub fn compile(
        version: TableVersion,
        services: &[VirtualService],
        slots: &mut SlotRegistry,
    ) -> Result<Self, CompileError> {
        let mut table = Self { version, ..Self::empty() };
        for service in services {
            if service.listen.address.is_ipv4() {
                table.v4.add(compile_service(service, slots)?)?;
            } else {
                table.v6.add(compile_service(service, slots)?)?;
            }
        }
        Ok(table)
    }

    /// The version.
    pub const fn version(&self) -> TableVersion {
        self.version
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
    let (id, state) = slots.service_entry(listen)?;
    let mut servers = Vec::with_capacity(service.servers.len());
    for server in service.servers.iter().rev() {
        servers.push(Server {
            slot: slots.server_slot(listen, server.address)?,
            address: A::from_ip(server.address.ip()).ok_or_else(|| family(server.address))?,
            port: U16::new(server.address.port()),
            weight: server.weight,
        });
    }
    let udp_timeout_ms = service
        .udp_timeout
        .map(|timeout| u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX / 2));
    Ok(Service {
        id,
        vip: A::from_ip(listen.address.ip()).ok_or_else(|| family(listen.address))?,
        port: U16::new(listen.address.port()),
        protocol: listen.protocol,
        sloppy_tcp: service.sloppy_tcp,
        sloppy_sctp: service.sloppy_sctp,
        udp_timeout_ms,
        scheduler: Scheduler::new(service.scheduler, &servers),
        servers: servers.into_boxed_slice(),
        state,
    })
}
