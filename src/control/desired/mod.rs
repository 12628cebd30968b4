//! What the operator wants, and the one door through which it changes.
//!
//! What is wanted is a configuration file in memory ([`document`]). A change edits a copy of it;
//! the copy is validated whole, as a file is, and compiled; only then it takes the place of the
//! old one. So a file, the API and a command can say the same things, and get the same errors.

mod change;
mod document;
mod plan;
mod refused;
mod saving;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

pub(super) use change::Change;
pub(super) use document::{Keys, ServerName};
pub use plan::{Deed, KeyChange, Step};
pub use refused::{Problem, Refused};
pub(super) use saving::NotSaved;

use super::config::{self, Config, ConfigSource, Diagnostic, Loaded};
use crate::ids::{ServerSlot, TableVersion};
use crate::service::{RealServer, ServiceTable, SlotRegistry, VirtualService};
use document::Document;

/// The services in force, with the slots of their servers: a snapshot for readers.
#[derive(Debug)]
pub(super) struct Inventory {
    pub(super) version: TableVersion,
    /// Everything in force; what only a start reads is as it was then.
    pub(super) config: Config,
    pub(super) services: Vec<InventoryService>,
}

/// A service and its servers in the order of the file.
#[derive(Debug)]
pub(super) struct InventoryService {
    pub(super) service: VirtualService,
    pub(super) servers: Vec<(RealServer, ServerSlot)>,
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
    plan: Vec<Step>,
    warnings: Vec<Problem>,
}

impl DesiredState {
    /// What the director has started with, and the table compiled from it.
    pub(super) fn new(
        source: ConfigSource,
        config: Config,
        slots: SlotRegistry,
        table: Arc<ServiceTable>,
    ) -> Result<Self, Refused> {
        let running = Document::of(&source.text);
        let inventory = Arc::new(Inventory::new(table.version(), config, &slots)?);
        let wanted = running.clone();
        let warnings = Vec::new();
        let mut state = Self { source, running, wanted, slots, table, inventory, warnings };
        state.warnings = state.validate(&state.source.text)?.warnings;
        Ok(state)
    }

    /// What is in force.
    pub(super) fn inventory(&self) -> &Arc<Inventory> {
        &self.inventory
    }

    /// The version in force.
    pub(super) fn version(&self) -> TableVersion {
        self.table.version()
    }

    /// The configuration file.
    pub(super) fn path(&self) -> &Path {
        &self.source.path
    }

    /// What a change would come to.
    pub(super) fn preview(&self, change: &Change) -> Result<Outcome, Refused> {
        let Prospect { plan, warnings, .. } = self.prospect(change)?;
        Ok(Outcome { plan, warnings: self.news(&warnings), table: None })
    }

    /// Makes one change, whole or not at all.
    pub(super) fn apply(&mut self, change: &Change) -> Result<Outcome, Refused> {
        let Prospect { wanted, config, plan, warnings } = self.prospect(change)?;
        if let Change::Reload { text } = change {
            self.source.text.clone_from(text);
        }
        if plan.iter().all(|step| step.deed == Deed::NeedsRestart) {
            self.wanted = wanted;
            return Ok(Outcome { plan, warnings: self.news(&warnings), table: None });
        }
        let version = TableVersion(self.version().0 + 1);
        let table = ServiceTable::compile(version, config.rules(), &mut self.slots)
            .map_err(Refused::from)?;
        let inventory = Arc::new(Inventory::new(version, config, &self.slots)?);
        let news = self.news(&warnings);
        (self.wanted, self.table, self.inventory) = (wanted, Arc::new(table), inventory);
        self.warnings = warnings;
        Ok(Outcome { plan, warnings: news, table: Some(Arc::clone(&self.table)) })
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
        change.make(&mut wanted)?;
        let text = wanted.with_fixed_parts_of(&self.running).text();
        let Valid { mut config, warnings } = self.validate(&text)?;
        let in_force = &self.inventory.config;
        // Defaults there depend on the services: what was chosen at the start stays.
        config.director = in_force.director.clone();
        config.interfaces.clone_from(&in_force.interfaces);
        self.check_families(&config)?;
        plan.splice(0..0, plan::between(in_force, &config));
        Ok(Prospect { wanted, config, plan, warnings })
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
    fn check_families(&self, config: &Config) -> Result<(), Refused> {
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

impl Inventory {
    fn new(version: TableVersion, config: Config, slots: &SlotRegistry) -> Result<Self, Refused> {
        let with_slots = |service: &VirtualService| {
            let with_slot = |server: &RealServer| {
                let slot = slots.server(service.listen, server.address);
                slot.map(|slot| (*server, slot))
                    .ok_or(Refused::NoSlot { service: service.listen, server: server.address })
            };
            let servers = service.servers.iter().map(with_slot).collect::<Result<_, _>>()?;
            Ok(InventoryService { service: service.clone(), servers })
        };
        let services = config.services.iter().map(with_slots).collect::<Result<_, Refused>>()?;
        Ok(Self { version, config, services })
    }
}
