//! The numbers of services and servers, and what else outlives a version of the table.

mod numbers;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use hashbrown::hash_map::Entry;
use hashbrown::{HashMap, HashSet};
use ipnet::IpNet;

use super::scheduler::{History, SchedulerState};
use super::{CompileError, Listen, MarkRule, RealServer, Removal, ServerLoads};
use crate::ids::{ServerSlot, ServiceId, TableVersion};
use numbers::Numbers;

type Map<K, V> = HashMap<K, V, ahash::RandomState>;
type Set<K> = HashSet<K, ahash::RandomState>;

/// Whether a service or server is in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    /// No table that was completed had it.
    New,
    /// It is in the last complete table.
    Listed,
    /// The table of this version was the first without it.
    Gone(TableVersion),
}

impl Presence {
    /// A table of this version is complete. Whether it was the first without.
    fn settle(&mut self, is_wanted: bool, version: TableVersion) -> bool {
        let before = *self;
        match (is_wanted, before) {
            (true, _) => *self = Self::Listed,
            (false, Self::New | Self::Listed) => *self = Self::Gone(version),
            (false, Self::Gone(_)) => (),
        }
        !is_wanted && before == Self::Listed
    }

    /// Whether no worker that has acknowledged this version knows it.
    fn is_gone_by(self, acknowledged: TableVersion) -> bool {
        matches!(self, Self::Gone(version) if version <= acknowledged)
    }
}

/// What of a service outlives a version of the table.
#[derive(Debug)]
pub(super) struct ServiceEntry {
    pub(super) id: ServiceId,
    pub(super) state: Arc<SchedulerState>,
    pub(super) history: History,
    presence: Presence,
    /// The last compilation that asked for it.
    wanted: u64,
    /// For servers that are removed, unless told otherwise.
    removal: Removal,
    /// The same, if the table at hand is completed.
    next_removal: Removal,
    /// Servers that have slots.
    servers: usize,
}

impl ServiceEntry {
    /// A server's slot is free again.
    fn lose(&mut self, slot: ServerSlot) {
        self.history.forget(slot, &self.state);
        self.servers -= 1;
    }
}

/// What of a server outlives a version of the table.
#[derive(Clone, Copy, Debug)]
struct ServerEntry {
    slot: ServerSlot,
    presence: Presence,
    /// The last compilation that asked for it.
    wanted: u64,
    /// Its weight when that was last above 0.
    last_weight: u32,
    /// The same, if the table at hand is completed.
    next_weight: u32,
    /// What becomes of its connections when it is removed, where that was said of it.
    own_removal: Option<Removal>,
    /// What becomes of its connections, since it is gone.
    removal: Removal,
}

/// Gives services and servers their slots, and keeps them over versions of the table: until they are
/// gone from the table, the workers have acknowledged that, and the last connection has ended.
#[derive(Debug)]
pub struct SlotRegistry {
    capacity: usize,
    services: Map<Listen, ServiceEntry>,
    servers: Map<(Listen, SocketAddr), ServerEntry>,
    service_numbers: Numbers,
    server_numbers: Numbers,
    /// The number of the compilation at hand: one that fails has no table of its version.
    compilation: u64,
    /// The last version that did without a server of the one before.
    last_removal: TableVersion,
    /// The addresses that inside hosts were ever to appear with: connections from these are not
    /// counted by address.
    masquerade_addresses: Set<IpAddr>,
    /// The destinations that firewall marks were ever given for: connections to these are not
    /// counted by address.
    marked: Set<IpNet>,
    /// Whether inside hosts were ever allowed to open connections.
    pub(super) has_masqueraded: bool,
}

impl SlotRegistry {
    /// A registry for at most `capacity` servers.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            services: Map::default(),
            servers: Map::default(),
            service_numbers: Numbers::default(),
            server_numbers: Numbers::default(),
            compilation: 0,
            last_removal: TableVersion::default(),
            masquerade_addresses: Set::default(),
            marked: Set::default(),
            has_masqueraded: false,
        }
    }

    /// The slot of a server that has one.
    pub fn server(&self, listen: Listen, server: SocketAddr) -> Option<ServerSlot> {
        self.servers.get(&(listen, server)).map(|entry| entry.slot)
    }

    /// The number of a service that has one.
    pub fn service(&self, listen: Listen) -> Option<ServiceId> {
        self.services.get(&listen).map(|entry| entry.id)
    }

    /// The services that have numbers.
    pub fn services(&self) -> impl Iterator<Item = (ServiceId, Listen)> {
        self.services.iter().map(|(listen, entry)| (entry.id, *listen))
    }

    /// The servers that have slots.
    pub fn servers(&self) -> impl Iterator<Item = (ServerSlot, Listen, SocketAddr)> {
        self.servers.iter().map(|((listen, server), entry)| (entry.slot, *listen, *server))
    }

    /// Says what becomes of the connections of a server that the next table does without, other
    /// than its service says. It means nothing if the next table has it. Whether there is such a
    /// server in the last table.
    pub fn retire(&mut self, listen: Listen, server: SocketAddr, removal: Removal) -> bool {
        let entry = self.servers.get_mut(&(listen, server));
        let listed = entry.filter(|entry| entry.presence == Presence::Listed);
        listed.map(|entry| entry.own_removal = Some(removal)).is_some()
    }

    /// What was said by [`Self::retire`] means nothing: the table was not compiled.
    pub fn keep_all(&mut self) {
        self.servers.values_mut().for_each(|entry| entry.own_removal = None);
    }

    /// Frees the slots of servers that are gone from the table, that all workers have let go of
    /// (`acknowledged`: the oldest version that one of them has), and that have no connections or
    /// templates any more; and the numbers of their services. To be called by whoever compiles
    /// tables, before the next one. The counters of these slots go on from where they are when
    /// another server gets the slot.
    pub fn reclaim(&mut self, loads: &ServerLoads, acknowledged: TableVersion) -> Vec<ServerSlot> {
        let Self { services, servers, server_numbers, service_numbers, .. } = self;
        let mut freed = Vec::new();
        servers.retain(|(listen, _), entry| {
            let is_idle = loads.of(entry.slot).is_none_or(super::ServerLoad::is_idle);
            let ends = entry.presence.is_gone_by(acknowledged) && is_idle;
            if ends {
                freed.push(entry.slot);
                services.get_mut(listen).into_iter().for_each(|service| service.lose(entry.slot));
            }
            !ends
        });
        for slot in &freed {
            loads.set_thresholds(*slot, 0, 0);
            server_numbers.give_back(slot.0);
        }
        services.retain(|_, entry| {
            let ends = entry.presence.is_gone_by(acknowledged) && entry.servers == 0;
            if ends {
                service_numbers.give_back(entry.id.0);
            }
            !ends
        });
        freed
    }

    /// A table is to be compiled.
    pub(super) const fn begin(&mut self) {
        self.compilation += 1;
    }

    /// The entry of a service that is to be in the table at hand.
    pub(super) fn service_entry(
        &mut self,
        listen: Listen,
        removal: Removal,
    ) -> Result<&mut ServiceEntry, CompileError> {
        let entry = match self.services.entry(listen) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(vacant) => {
                let number = self.service_numbers.take(usize::from(u16::MAX));
                let number = number.ok_or(CompileError::TooManyServices)?;
                vacant.insert(ServiceEntry {
                    id: ServiceId(number),
                    state: Arc::default(),
                    history: History::default(),
                    presence: Presence::New,
                    wanted: 0,
                    removal,
                    next_removal: removal,
                    servers: 0,
                })
            }
        };
        entry.wanted = self.compilation;
        entry.next_removal = removal;
        Ok(entry)
    }

    /// The slot of a server that is to be in the table at hand, and its weight when that was last
    /// above 0. Its service has an entry.
    pub(super) fn server_entry(
        &mut self,
        listen: Listen,
        server: &RealServer,
    ) -> Result<(ServerSlot, u32), CompileError> {
        let entry = match self.servers.entry((listen, server.address)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(vacant) => {
                let number = self.server_numbers.take(self.capacity);
                let number = number.ok_or(CompileError::TooManyServers(self.capacity))?;
                if let Some(service) = self.services.get_mut(&listen) {
                    service.servers += 1;
                }
                vacant.insert(ServerEntry {
                    slot: ServerSlot(number),
                    presence: Presence::New,
                    wanted: 0,
                    last_weight: 0,
                    next_weight: 0,
                    own_removal: None,
                    removal: Removal::default(),
                })
            }
        };
        entry.wanted = self.compilation;
        entry.next_weight = if server.weight > 0 { server.weight } else { entry.last_weight };
        Ok((entry.slot, entry.next_weight))
    }

    /// Inside hosts are to appear with these addresses.
    pub(super) fn masquerade_by(&mut self, addresses: &[IpAddr]) {
        self.masquerade_addresses.extend(addresses);
        self.has_masqueraded = true;
    }

    /// Packets to these destinations are to have firewall marks.
    pub(super) fn mark_by(&mut self, rules: &[MarkRule]) {
        self.marked.extend(rules.iter().flat_map(|rule| &rule.addresses));
    }

    /// The table of this version is complete: what was not asked for is gone.
    pub(super) fn settle(&mut self, version: TableVersion) {
        let Self { services, servers, compilation, .. } = self;
        for entry in services.values_mut() {
            let is_wanted = entry.wanted == *compilation;
            entry.presence.settle(is_wanted, version);
            if is_wanted {
                entry.removal = entry.next_removal;
            }
        }
        for ((listen, _), entry) in servers {
            let is_wanted = entry.wanted == *compilation;
            if entry.presence.settle(is_wanted, version) {
                let of_service = services.get(listen).map(|service| service.removal);
                entry.removal = entry.own_removal.or(of_service).unwrap_or_default();
                self.last_removal = version;
            }
            if is_wanted {
                entry.last_weight = entry.next_weight;
            }
            entry.own_removal = None;
        }
    }

    /// The last version that did without a server of the one before.
    pub(super) const fn last_removal(&self) -> TableVersion {
        self.last_removal
    }

    /// The servers that are gone and still have slots, and what becomes of their connections.
    pub(super) fn departed(&self) -> impl Iterator<Item = (ServerSlot, Removal)> {
        let all = self.servers.values();
        let gone = all.filter(|entry| matches!(entry.presence, Presence::Gone(_)));
        gone.map(|entry| (entry.slot, entry.removal))
    }

    /// Every address that outside parties send to, or may still send to for connections that
    /// outlive their service.
    pub(super) fn externals(&self) -> impl Iterator<Item = IpAddr> {
        let vips = self.services.keys().filter_map(Listen::ip);
        let single = |network: &&IpNet| network.prefix_len() == network.max_prefix_len();
        let marked = self.marked.iter().filter(single).map(IpNet::addr);
        vips.chain(marked).chain(self.masquerade_addresses.iter().copied())
    }

    /// The same for networks.
    pub(super) fn external_networks(&self) -> impl Iterator<Item = IpNet> {
        let wide = |network: &&IpNet| network.prefix_len() < network.max_prefix_len();
        self.marked.iter().filter(wide).copied()
    }
}

#[cfg(test)]
mod tests;
