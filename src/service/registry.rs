//! The numbers of services and servers, and what else outlives a version of the table.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use ipnet::IpNet;

use super::scheduler::SchedulerState;
use super::{CompileError, Listen};
use crate::ids::{ServerSlot, ServiceId};

type Map<K, V> = HashMap<K, V, ahash::RandomState>;
type Set<K> = HashSet<K, ahash::RandomState>;

/// Gives services and servers their slots, and keeps them over versions of the table.
#[derive(Debug)]
pub struct SlotRegistry {
    capacity: usize,
    services: Map<Listen, (ServiceId, Arc<SchedulerState>)>,
    servers: Map<(Listen, SocketAddr), ServerSlot>,
    /// Every address that outside parties were ever to send to.
    pub(super) externals: Set<IpAddr>,
    /// Every network that was ever a destination of firewall marks.
    pub(super) external_networks: Set<IpNet>,
    /// Whether inside hosts were ever allowed to open connections.
    pub(super) has_masqueraded: bool,
}

impl SlotRegistry {
    /// A registry for at most `capacity` servers.
    pub fn new(capacity: usize) -> Self {
        let (services, servers) = (Map::default(), Map::default());
        let (externals, external_networks) = (Set::default(), Set::default());
        Self { capacity, services, servers, externals, external_networks, has_masqueraded: false }
    }

    /// The slot of a server that has one.
    pub fn server(&self, listen: Listen, server: SocketAddr) -> Option<ServerSlot> {
        self.servers.get(&(listen, server)).copied()
    }

    pub(super) fn service_entry(
        &mut self,
        listen: Listen,
    ) -> Result<(ServiceId, Arc<SchedulerState>), CompileError> {
        if let Some((id, state)) = self.services.get(&listen) {
            return Ok((*id, Arc::clone(state)));
        }
        let number = u16::try_from(self.services.len()).ok();
        // The last number stands for no service.
        let number =
            number.filter(|number| *number < u16::MAX).ok_or(CompileError::TooManyServices)?;
        let entry = (ServiceId(number), Arc::new(SchedulerState::default()));
        self.services.insert(listen, (entry.0, Arc::clone(&entry.1)));
        Ok(entry)
    }

    pub(super) fn server_slot(
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
