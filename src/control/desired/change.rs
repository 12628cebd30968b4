//! The changes that there are.

use std::net::SocketAddr;

use super::document::{Document, Keys, ServerName};
use super::{DrainOrder, Refused};
use crate::control::config::Config;
use crate::service::{Listen, RealServer, Removal, VirtualService};

/// A change of what the operator wants.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::control) enum Change {
    /// One more service.
    AddService(Keys),
    /// Keys of a service.
    SetService { service: String, keys: Keys },
    /// A service and its servers go.
    RemoveService { service: String, connections: Option<Removal> },
    /// All services are these.
    ReplaceServices(Vec<Keys>),
    /// One more server.
    AddServer { service: String, keys: Keys },
    /// Keys of a server.
    SetServer { service: String, server: ServerName, keys: Keys },
    /// A server goes.
    RemoveServer { service: String, server: ServerName, connections: Option<Removal> },
    /// Keys of the idle times.
    SetTimeouts(Keys),
    /// A server is emptied, or not any more.
    Drain(DrainOrder),
    /// Everything is as this file says.
    Reload { text: String },
}

impl Change {
    /// The servers whose connections are to end otherwise than their services say, with how.
    pub(super) fn retired(&self, config: &Config) -> Vec<(Listen, SocketAddr, Removal)> {
        let (name, server, removal) = match self {
            Self::RemoveService { service, connections: Some(removal) } => {
                (service, None, *removal)
            }
            Self::RemoveServer { service, server, connections: Some(removal) } => {
                (service, Some(*server), *removal)
            }
            Self::RemoveService { connections: None, .. }
            | Self::RemoveServer { connections: None, .. }
            | Self::AddService(_)
            | Self::SetService { .. }
            | Self::ReplaceServices(_)
            | Self::AddServer { .. }
            | Self::SetServer { .. }
            | Self::SetTimeouts(_)
            | Self::Drain(_)
            | Self::Reload { .. } => return Vec::new(),
        };
        let services = config.services.iter().filter(|service| service.name == *name);
        let of_service = |service: &VirtualService| {
            let port = service.listen.ports().single();
            let is_meant = move |known: &&RealServer| {
                server.is_none_or(|server| server.is_at(known.address, port))
            };
            let listen = service.listen;
            let servers = service.servers.iter().filter(is_meant);
            servers.map(|known| (listen, known.address, removal)).collect::<Vec<_>>()
        };
        services.flat_map(of_service).collect()
    }

    /// Edits what is wanted.
    pub(super) fn make(&self, wanted: &mut Document) -> Result<(), Refused> {
        match self {
            Self::AddService(keys) => wanted.add_service(keys),
            Self::SetService { service, keys } => wanted.set_service(service, keys)?,
            Self::RemoveService { service, .. } => wanted.remove_service(service)?,
            Self::ReplaceServices(services) => {
                wanted.clear_services();
                for keys in services {
                    wanted.add_service(keys);
                }
            }
            Self::AddServer { service, keys } => wanted.add_server(service, keys)?,
            Self::SetServer { service, server, keys } => {
                wanted.set_server(service, *server, keys)?;
            }
            Self::RemoveServer { service, server, .. } => wanted.remove_server(service, *server)?,
            Self::SetTimeouts(keys) => wanted.set_timeouts(keys),
            // It is not part of the file.
            Self::Drain(_) => {}
            Self::Reload { text } => *wanted = Document::of(text),
        }
        Ok(())
    }
}
