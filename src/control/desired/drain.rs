//! Servers that are emptied: they take no new connections, whatever their weight, until somebody
//! says otherwise or they are gone. A drain is not part of the configuration file, so that neither
//! a reload nor `save` ends it or makes it permanent; it is kept in a file of its own, so that a
//! restart does not end it either.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Refused, ServerName, replace};
use crate::control::config::Config;
use crate::service::{RealServer, VirtualService};

/// A server of one service that is emptied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::control) struct Drain {
    /// Where the service listens: what identifies it.
    pub(in crate::control) listen: String,
    /// The server.
    pub(in crate::control) server: String,
    /// Seconds since 1970.
    pub(in crate::control) since: u64,
    /// When it should be empty, seconds since 1970.
    pub(in crate::control) deadline: Option<u64>,
    /// Whether it is removed then.
    pub(in crate::control) remove: bool,
}

impl Drain {
    /// Whether it is of this server.
    pub(in crate::control) fn is_of(&self, service: &VirtualService, server: &RealServer) -> bool {
        self.server == server.address.to_string() && self.listen == service.listen.to_string()
    }
}

/// Which servers are to be emptied, or not any more.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::control) struct DrainOrder {
    /// The server; without a port, all of that address.
    pub(in crate::control) server: ServerName,
    /// Of this service alone.
    pub(in crate::control) service: Option<String>,
    /// How; `None`: they take connections again.
    pub(in crate::control) how: Option<Emptying>,
}

/// How a server is emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::control) struct Emptying {
    /// Time that its connections have; `None`: as long as they take.
    pub(in crate::control) timeout: Option<Duration>,
    /// Whether it is removed when it is empty, or has no more time.
    pub(in crate::control) remove: bool,
    /// Seconds since 1970.
    pub(in crate::control) now: u64,
}

/// All drains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::control) struct Drains(Vec<Drain>);

impl Drains {
    /// Those of an earlier director.
    pub(in crate::control) fn load(file: &Path) -> io::Result<Self> {
        match fs::read(file) {
            Ok(octets) => serde_json::from_slice(&octets).map(Self).map_err(Into::into),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(cause) => Err(cause),
        }
    }

    /// Keeps them for a later director.
    pub(super) fn store(&self, file: &Path) -> io::Result<()> {
        if self.0.is_empty() {
            return match fs::remove_file(file) {
                Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(cause),
                Ok(()) | Err(_) => Ok(()),
            };
        }
        replace(file, &(serde_json::to_string_pretty(&self.0)? + "\n"))
    }

    /// The drain of a server.
    pub(in crate::control) fn of(
        &self,
        service: &VirtualService,
        server: &RealServer,
    ) -> Option<&Drain> {
        self.0.iter().find(|drain| drain.is_of(service, server))
    }

    /// Does as somebody wants it.
    pub(super) fn follow(&mut self, order: &DrainOrder, config: &Config) -> Result<(), Refused> {
        let DrainOrder { server, service, how } = order;
        if let Some(name) = service
            && !config.services.iter().any(|known| known.name == *name)
        {
            return Err(super::no_service(name, config));
        }
        let mut found = false;
        let of_service =
            |known: &&VirtualService| service.as_ref().is_none_or(|service| *service == known.name);
        for service in config.services.iter().filter(of_service) {
            let port = service.listen.ports().single();
            let is_meant = |known: &&RealServer| {
                let address = known.address;
                let wanted = server.port.is_none_or(|port| port == address.port());
                address.ip() == server.ip && (wanted || address.port() == 0 && server.port == port)
            };
            for known in service.servers.iter().filter(is_meant) {
                found = true;
                self.0.retain(|drain| !drain.is_of(service, known));
                self.0.extend(how.map(|how| Drain {
                    listen: service.listen.to_string(),
                    server: known.address.to_string(),
                    since: how.now,
                    deadline: how.timeout.map(|timeout| how.now.saturating_add(timeout.as_secs())),
                    remove: how.remove,
                }));
            }
        }
        if found {
            return Ok(());
        }
        let service = service.clone().unwrap_or_else(|| "(any)".to_owned());
        let all = config.services.iter().flat_map(|service| &service.servers);
        let nearest = server.nearest(all.map(|known| known.address.to_string()).collect());
        Err(Refused::NoServer { service, server: server.to_string(), nearest })
    }

    /// A service that listens elsewhere now, and is known by its name, keeps its drains.
    pub(super) fn follow_services(&mut self, before: &Config, after: &Config) {
        for drain in &mut self.0 {
            let listens = |service: &&VirtualService| service.listen.to_string() == drain.listen;
            if after.services.iter().any(|service| listens(&service)) {
                continue;
            }
            let old = before.services.iter().find(listens);
            let new = old.and_then(|old| after.services.iter().find(|new| new.name == old.name));
            if let Some(new) = new {
                drain.listen = new.listen.to_string();
            }
        }
    }

    /// Forgets those of servers that are gone.
    pub(super) fn keep_known(&mut self, config: &Config) {
        self.0.retain(|drain| {
            let servers = |service: &VirtualService| {
                service.servers.iter().any(|server| drain.is_of(service, server))
            };
            config.services.iter().any(servers)
        });
    }

    /// The services with the weights that hold: 0 for a server that is emptied.
    pub(in crate::control) fn over(&self, services: &[VirtualService]) -> Vec<VirtualService> {
        let mut services = services.to_vec();
        for service in &mut services {
            let is_drained = |server: &RealServer| self.of(service, server).is_some();
            let drained: Vec<_> = service.servers.iter().map(is_drained).collect();
            let servers = service.servers.iter_mut().zip(drained);
            servers.filter(|(_, drained)| *drained).for_each(|(server, _)| server.weight = 0);
        }
        services
    }
}

/// Where drains are kept: beside the control socket.
pub(in crate::control) fn file_of(config: &Config) -> PathBuf {
    let mut name = config.director.socket.file_stem().unwrap_or_default().to_owned();
    name.push(".drains.json");
    config.director.socket.with_file_name(name)
}
