//! What the operator wants, and the one door through which it changes.
//!
//! What is wanted is a configuration file in memory ([`document`]). A change edits a copy of it;
//! the copy is validated whole, as a file is, and compiled; only then it takes the place of the
//! old one. So a file, the API and a command can say the same things, and get the same errors.

mod change;
mod document;
mod drain;
mod overlay;
mod plan;
mod refused;
mod saving;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

pub(super) use change::Change;
pub(super) use document::{Keys, ServerName};
pub(super) use drain::{DrainOrder, Drains, Emptying, file_of};
pub(super) use overlay::STEP;
pub use plan::{Deed, KeyChange, Step};
pub use refused::{Problem, Refused};
pub(super) use saving::NotSaved;

use super::config::{self, Config, ConfigSource, Diagnostic, Loaded};
use crate::ids::{ServerSlot, TableVersion};
use crate::service::{
    RealServer, Rules, ServerLoad, ServerLoads, ServiceTable, SlotRegistry, VirtualService,
};
use document::Document;
use drain::Drain;
use overlay::Ramps;
use saving::replace;

/// The services in force, with the slots of their servers: a snapshot for readers.
#[derive(Debug)]
pub(super) struct Inventory {
    /// What the operator wants; it grows with every change of that.
    pub(super) revision: u64,
    /// The table that the workers have or get.
    pub(super) version: TableVersion,
    /// Everything in force; what only a start reads is as it was then.
    pub(super) config: Config,
    pub(super) services: Vec<InventoryService>,
}

/// A service and its servers in the order of the file.
#[derive(Debug)]
pub(super) struct InventoryService {
    pub(super) service: VirtualService,
    pub(super) servers: Vec<InventoryServer>,
}

/// A server as it is now.
#[derive(Debug)]
pub(super) struct InventoryServer {
    /// As it is stated.
    pub(super) server: RealServer,
    pub(super) slot: ServerSlot,
    /// 0 where it takes no new connections, whatever is stated.
    pub(super) weight: u32,
    pub(super) drain: Option<Drain>,
    /// When it began to take connections, since the start of the director, where it does so
    /// slowly.
    pub(super) slow_since: Option<Duration>,
}

/// What a change comes to.
#[derive(Debug)]
pub(super) struct Outcome {
    /// From what was in force to what is wanted.
    pub(super) plan: Vec<Step>,
    /// What the operator should look at nevertheless, and had not to before.
    pub(super) warnings: Vec<Problem>,
    /// What the workers are to install; `None`: nothing changes for them.
    pub(super) table: Option<Arc<ServiceTable>>,
}

/// Services by their numbers: where they listen.
pub(super) type NumberedServices = Vec<(u16, String)>;
/// Servers by their numbers: where their service listens, and their address.
pub(super) type NumberedServers = Vec<(u16, String, SocketAddr)>;

/// What the operator wants.
#[derive(Debug)]
pub(super) struct DesiredState {
    source: ConfigSource,
    /// The file that the director has started with.
    running: Document,
    /// What is wanted now.
    wanted: Document,
    slots: SlotRegistry,
    /// Kept until the next version: the workers hold references to the same table.
    table: Arc<ServiceTable>,
    inventory: Arc<Inventory>,
    /// What the operator should look at of what is in force.
    warnings: Vec<Problem>,
    drains: Drains,
    drain_file: PathBuf,
    ramps: Ramps,
}

/// A text that is valid.
struct Valid {
    config: Config,
    warnings: Vec<Problem>,
}

/// What would be in force after a change.
struct Prospect {
    wanted: Document,
    config: Config,
    drains: Drains,
    plan: Vec<Step>,
    warnings: Vec<Problem>,
}

/// The services that a director starts with: servers that were emptied before are still.
pub fn at_start(config: &Config) -> Vec<VirtualService> {
    let file = file_of(config);
    let drains = Drains::load(&file).unwrap_or_else(|cause| {
        let file = file.display();
        tracing::warn!(%file, %cause, "cannot read which servers are drained: none is");
        Drains::default()
    });
    drains.over(&config.services)
}

impl DesiredState {
    /// What the director has started with, and the table compiled from [`at_start`].
    pub(super) fn new(
        source: ConfigSource,
        config: Config,
        slots: SlotRegistry,
        table: Arc<ServiceTable>,
    ) -> Result<Self, Refused> {
        let running = Document::of(&source.text);
        let drain_file = file_of(&config);
        let mut drains = Drains::load(&drain_file).unwrap_or_default();
        let loaded = drains.clone();
        drains.keep_known(&config);
        if drains != loaded {
            // Servers that are gone must not be drained when they come again.
            drains.store(&drain_file).unwrap_or_else(|cause| {
                tracing::warn!(file = %drain_file.display(), %cause, "cannot forget drains");
            });
        }
        let ramps = Ramps::default();
        let weights = drains.over(&config.services);
        let inventory =
            Inventory::new((1, table.version()), config, &slots, (&weights, &drains, &ramps))?;
        let mut state = Self {
            source,
            wanted: running.clone(),
            running,
            slots,
            table,
            inventory: Arc::new(inventory),
            warnings: Vec::new(),
            drains,
            drain_file,
            ramps,
        };
        state.warnings = state.validate(&state.source.text)?.warnings;
        Ok(state)
    }

    /// What is in force.
    pub(super) fn inventory(&self) -> &Arc<Inventory> {
        &self.inventory
    }

    /// What the operator wants; it grows with every change of that.
    pub(super) fn revision(&self) -> u64 {
        self.inventory.revision
    }

    /// The version of the table in force.
    pub(super) fn version(&self) -> TableVersion {
        self.table.version()
    }

    /// The configuration file.
    pub(super) fn path(&self) -> &Path {
        &self.source.path
    }

    /// Whether what is wanted is in no file.
    pub(super) fn is_unsaved(&self) -> bool {
        self.wanted.text() != self.source.text
    }

    /// The numbers of services and servers, those that are gone but may have connections among
    /// them: where a service listens, and a server's address.
    pub(super) fn numbers(&self) -> (NumberedServices, NumberedServers) {
        let services = self.slots.services().map(|(id, listen)| (id.0, listen.to_string()));
        let servers =
            self.slots.servers().map(|(slot, listen, at)| (slot.0, listen.to_string(), at));
        (services.collect(), servers.collect())
    }

    /// What a change would come to.
    pub(super) fn preview(&self, change: &Change) -> Result<Outcome, Refused> {
        let Prospect { plan, warnings, .. } = self.prospect(change)?;
        Ok(Outcome { plan, warnings: self.news(&warnings), table: None })
    }

    /// Makes one change, whole or not at all. `now` is the time since the director's start.
    pub(super) fn apply(&mut self, change: &Change, now: Duration) -> Result<Outcome, Refused> {
        let before = Arc::clone(&self.inventory);
        let Prospect { wanted, config, drains, plan, warnings } = self.prospect(change)?;
        let same = config == before.config && drains == self.drains;
        if same && plan.iter().all(|step| step.deed == Deed::NeedsRestart) {
            self.wanted = wanted;
            self.has_read(change);
            return Ok(Outcome { plan, warnings: self.news(&warnings), table: None });
        }
        let mut ramps = self.ramps.clone();
        let weights = self.drains.over(&before.config.services);
        ramps.follow(now, &weights, &drains.over(&config.services));
        let revision = self.revision() + 1;
        for (listen, server, removal) in change.retired(&before.config) {
            self.slots.retire(listen, server, removal);
        }
        let compiled = self.compile(revision, config, &drains, &ramps, now);
        let (table, inventory) = compiled.inspect_err(|_| self.slots.keep_all())?;
        let mut news = self.news(&warnings);
        if self.drains != drains {
            news.extend(drains.store(&self.drain_file).err().map(|cause| self.not_kept(&cause)));
        }
        (self.wanted, self.drains, self.ramps, self.warnings) = (wanted, drains, ramps, warnings);
        (self.table, self.inventory) = (table, inventory);
        self.has_read(change);
        Ok(Outcome { plan, warnings: news, table: Some(Arc::clone(&self.table)) })
    }

    /// The next step of servers that start slowly, if there are any.
    pub(super) fn step(&mut self, now: Duration) -> Result<Option<Arc<ServiceTable>>, Refused> {
        if !self.ramps.is_any() {
            return Ok(None);
        }
        let mut ramps = self.ramps.clone();
        let config = self.inventory.config.clone();
        let services = self.drains.over(&config.services);
        ramps.follow(now, &services, &services);
        let drains = self.drains.clone();
        let (table, inventory) = self.compile(self.revision(), config, &drains, &ramps, now)?;
        (self.table, self.inventory, self.ramps) = (table, inventory, ramps);
        Ok(Some(Arc::clone(&self.table)))
    }

    /// Takes back the slots of servers that are gone, connections and all. `acknowledged`: the
    /// oldest version that a worker has.
    pub(super) fn reclaim(
        &mut self,
        loads: &ServerLoads,
        acknowledged: TableVersion,
    ) -> Vec<ServerSlot> {
        self.slots.reclaim(loads, acknowledged)
    }

    /// The removals of servers that were drained for that and are empty, or have no more time.
    /// `now`: seconds since 1970.
    pub(super) fn drained(
        &self,
        now: u64,
        loads: &ServerLoads,
        acknowledged: TableVersion,
    ) -> Vec<Change> {
        // Until all workers know of the drain, they may still send it connections.
        let is_known = acknowledged.0 >= self.version().0;
        let is_due = |entry: &InventoryServer| {
            let drain = entry.drain.as_ref().filter(|drain| drain.remove);
            drain.is_some_and(|drain| {
                drain.deadline.is_some_and(|deadline| now >= deadline)
                    || is_known && entry.connections(loads) == 0
            })
        };
        let of_service = |InventoryService { service, servers }: &InventoryService| {
            let removal = |entry: &InventoryServer| Change::RemoveServer {
                service: service.name.clone(),
                server: ServerName::of(entry.server.address),
                connections: None,
            };
            let due = servers.iter().filter(|entry| is_due(entry));
            due.map(removal).collect::<Vec<_>>()
        };
        self.inventory.services.iter().flat_map(of_service).collect()
    }

    /// A table of what is to be in force, and its inventory.
    fn compile(
        &mut self,
        revision: u64,
        config: Config,
        drains: &Drains,
        ramps: &Ramps,
        now: Duration,
    ) -> Result<(Arc<ServiceTable>, Arc<Inventory>), Refused> {
        let version = TableVersion(self.version().0 + 1);
        let services = overlay::in_force(&config.services, drains, ramps, now);
        let rules = Rules { services: &services, ..config.rules() };
        let table = ServiceTable::compile(version, rules, &mut self.slots)?;
        // What is shown is what the operator knows, not what a slow start multiplies.
        let shown = drains.over(&config.services);
        let overlays = (&shown[..], drains, ramps);
        let inventory = Inventory::new((revision, version), config, &self.slots, overlays)?;
        Ok((Arc::new(table), Arc::new(inventory)))
    }

    /// A reload knows what is in the file now.
    fn has_read(&mut self, change: &Change) {
        if let Change::Reload { text } = change {
            self.source.text.clone_from(text);
        }
    }

    fn not_kept(&self, cause: &io::Error) -> Problem {
        let file = self.drain_file.display();
        tracing::warn!(%file, %cause, "a restart will not know which servers are drained");
        Problem {
            field: None,
            message: format!(
                "{file}: {cause}: a restart of the director will not know which servers are drained"
            ),
            help: Some("make the directory of the control socket writable".to_owned()),
        }
    }

    fn news(&self, warnings: &[Problem]) -> Vec<Problem> {
        warnings.iter().filter(|warning| !self.warnings.contains(warning)).cloned().collect()
    }

    fn prospect(&self, change: &Change) -> Result<Prospect, Refused> {
        let mut wanted = self.wanted.clone();
        let mut plan = Vec::new();
        if let Change::Reload { text } = change {
            // The file by itself first: its errors have places in it.
            self.validate(text)?;
            plan = plan::needing_restart(&self.running.text(), text);
        }
        let mut drains = self.drains.clone();
        if let Change::Drain(order) = change {
            drains.follow(order, &self.inventory.config)?;
        }
        change.make(&mut wanted)?;
        let text = wanted.with_fixed_parts_of(&self.running).text();
        let Valid { mut config, warnings } = self.validate(&text)?;
        let in_force = &self.inventory.config;
        // Defaults there depend on the services: what was chosen at the start stays.
        config.director = in_force.director.clone();
        config.interfaces.clone_from(&in_force.interfaces);
        Self::check_families(&config)?;
        drains.follow_services(in_force, &config);
        drains.keep_known(&config);
        plan.splice(0..0, plan::between(in_force, &config));
        plan.extend(plan::of_drains(&self.drains, &drains, &config));
        Ok(Prospect { wanted, config, drains, plan, warnings })
    }

    fn validate(&self, text: &str) -> Result<Valid, Refused> {
        let ConfigSource { path, machine, .. } = &self.source;
        let problem = |diagnostic| Problem::of(diagnostic, text);
        match config::parse(text, &path.display().to_string(), machine) {
            Ok(Loaded { config, warnings, .. }) => {
                Ok(Valid { config, warnings: warnings.iter().map(problem).collect() })
            }
            Err(diagnostics) => {
                let errors = diagnostics.iter().filter(|found| Diagnostic::is_error(found));
                Err(Refused::Invalid(errors.map(problem).collect()))
            }
        }
    }

    /// Connection tables are made at the start: a family that had no room then has none now.
    fn check_families(config: &Config) -> Result<(), Refused> {
        let share = config.director.ipv6_share;
        let without_room = config
            .services
            .iter()
            .find(|service| if service.listen.is_ipv6() { share == 0 } else { share == 100 });
        without_room.map_or(Ok(()), |service| {
            let family = if service.listen.is_ipv6() { "IPv6" } else { "IPv4" };
            Err(Refused::NoRoomForFamily { service: service.name.clone(), family, share })
        })
    }
}

impl InventoryServer {
    /// Its state, and the reason where that is not plain.
    pub(super) fn state(&self, loads: &ServerLoads) -> (&'static str, String) {
        if let Some(drain) = &self.drain {
            let since = UNIX_EPOCH + Duration::from_secs(drain.since);
            let since = humantime::format_rfc3339_seconds(since);
            ("draining", format!("drained since {since}"))
        } else if self.weight == 0 {
            ("quiesced", "its weight is 0".to_owned())
        } else if loads.of(self.slot).is_some_and(ServerLoad::is_overloaded) {
            let upper = self.server.upper_threshold;
            ("overloaded", format!("it has reached its upper threshold of {upper} connections"))
        } else if let (Some(time), Some(_)) = (self.server.slow_start, self.slow_since) {
            ("starting", format!("slowly, over {}", humantime::format_duration(time)))
        } else {
            ("in_service", String::new())
        }
    }

    /// Connections that it has, active and inactive ones.
    pub(super) fn connections(&self, loads: &ServerLoads) -> u64 {
        let (active, inactive) =
            loads.of(self.slot).map(ServerLoad::connections).unwrap_or_default();
        u64::from(active) + u64::from(inactive)
    }
}

impl Inventory {
    fn new(
        (revision, version): (u64, TableVersion),
        config: Config,
        slots: &SlotRegistry,
        (weights, drains, ramps): (&[VirtualService], &Drains, &Ramps),
    ) -> Result<Self, Refused> {
        let with_slots = |(service, in_force): (&VirtualService, &VirtualService)| {
            let with_slot = |(server, in_force): (&RealServer, &RealServer)| {
                let slot = slots.server(service.listen, server.address);
                let slot = slot
                    .ok_or(Refused::NoSlot { service: service.listen, server: server.address })?;
                Ok(InventoryServer {
                    server: *server,
                    slot,
                    weight: in_force.weight,
                    drain: drains.of(service, server).cloned(),
                    slow_since: ramps.began(service, server),
                })
            };
            let servers = service.servers.iter().zip(&in_force.servers).map(with_slot);
            let servers = servers.collect::<Result<_, Refused>>()?;
            Ok(InventoryService { service: service.clone(), servers })
        };
        let services = config.services.iter().zip(weights).map(with_slots);
        let services = services.collect::<Result<_, Refused>>()?;
        Ok(Self { revision, version, config, services })
    }
}

/// That there is no such service, and which one was probably meant.
pub(super) fn no_service(name: &str, config: &Config) -> Refused {
    let names: Vec<_> = config.services.iter().map(|service| service.name.clone()).collect();
    let nearest = config::nearest(name, &names).map(str::to_owned);
    Refused::NoService { name: name.to_owned(), nearest }
}
