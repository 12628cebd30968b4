//! The numbers of services and servers, and what else outlives a version of the table.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use super::scheduler::{History, SchedulerState};
use super::{CompileError, Listen, RealServer};
use crate::ids::{ServerSlot, ServiceId};

type Map<K, V> = HashMap<K, V, ahash::RandomState>;
type Set<K> = HashSet<K, ahash::RandomState>;

/// What of a service outlives a version of the table.
#[derive(Debug)]
pub(super) struct ServiceEntry {
    pub(super) id: ServiceId,
    pub(super) state: Arc<SchedulerState>,
    pub(super) history: History,
}

/// What of a server outlives a version of the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct ServerEntry {
    pub(super) slot: ServerSlot,
    /// Its weight when that was last above 0.
    pub(super) last_weight: u32,
}

/// Gives services and servers their slots, and keeps them over versions of the table.
#[derive(Debug)]
pub struct SlotRegistry {
    capacity: usize,
    services: Map<Listen, ServiceEntry>,
    servers: Map<(Listen, SocketAddr), ServerEntry>,
    /// Every address that outside parties were ever to send to.
    pub(super) externals: Set<IpAddr>,
    /// Whether inside hosts were ever allowed to open connections.
    pub(super) has_masqueraded: bool,
}

impl SlotRegistry {
    /// A registry for at most `capacity` servers.
    pub fn new(capacity: usize) -> Self {
        let (services, servers) = (Map::default(), Map::default());
        Self { capacity, services, servers, externals: Set::default(), has_masqueraded: false }
    }

    /// The slot of a server that has one.
    pub fn server(&self, listen: Listen, server: SocketAddr) -> Option<ServerSlot> {
        self.servers.get(&(listen, server)).map(|entry| entry.slot)
    }

    pub(super) fn service_entry(
        &mut self,
        listen: Listen,
    ) -> Result<&mut ServiceEntry, CompileError> {
        let number = u16::try_from(self.services.len()).ok();
        match self.services.entry(listen) {
            hashbrown::hash_map::Entry::Occupied(known) => Ok(known.into_mut()),
            hashbrown::hash_map::Entry::Vacant(vacant) => {
                // The last number stands for no service.
                let number = number
                    .filter(|number| *number < u16::MAX)
                    .ok_or(CompileError::TooManyServices)?;
                let (state, history) = (Arc::default(), History::default());
                Ok(vacant.insert(ServiceEntry { id: ServiceId(number), state, history }))
            }
        }
    }

    pub(super) fn server_entry(
        &mut self,
        listen: Listen,
        server: &RealServer,
    ) -> Result<ServerEntry, CompileError> {
        if let Some(entry) = self.servers.get_mut(&(listen, server.address)) {
            if server.weight > 0 {
                entry.last_weight = server.weight;
            }
            return Ok(*entry);
        }
        let taken = self.servers.len();
        let slot = u16::try_from(taken)
            .ok()
            // The last number stands for no server.
            .filter(|number| taken < self.capacity && *number < u16::MAX)
            .map(ServerSlot)
            .ok_or(CompileError::TooManyServers(self.capacity))?;
        let entry = ServerEntry { slot, last_weight: server.weight };
        self.servers.insert((listen, server.address), entry);
        Ok(entry)
    }
}
