//! The changes that there are.

use super::document::{Document, Keys, ServerName};
use super::{DrainOrder, Refused};

/// A change of what the operator wants.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::control) enum Change {
    /// One more service.
    AddService(Keys),
    /// Keys of a service.
    SetService { service: String, keys: Keys },
    /// A service and its servers go.
    RemoveService { service: String },
    /// All services are these.
    ReplaceServices(Vec<Keys>),
    /// One more server.
    AddServer { service: String, keys: Keys },
    /// Keys of a server.
    SetServer { service: String, server: ServerName, keys: Keys },
    /// A server goes.
    RemoveServer { service: String, server: ServerName },
    /// Keys of the idle times.
    SetTimeouts(Keys),
    /// A server is emptied, or not any more.
    Drain(DrainOrder),
    /// Everything is as this file says.
    Reload { text: String },
}

impl Change {
    /// Edits what is wanted.
    pub(super) fn make(&self, wanted: &mut Document) -> Result<(), Refused> {
        match self {
            Self::AddService(keys) => wanted.add_service(keys),
            Self::SetService { service, keys } => wanted.set_service(service, keys)?,
            Self::RemoveService { service } => wanted.remove_service(service)?,
            Self::ReplaceServices(services) => {
                wanted.clear_services();
                services.iter().for_each(|keys| wanted.add_service(keys));
            }
            Self::AddServer { service, keys } => wanted.add_server(service, keys)?,
            Self::SetServer { service, server, keys } => {
                wanted.set_server(service, *server, keys)?;
            }
            Self::RemoveServer { service, server } => wanted.remove_server(service, *server)?,
            Self::SetTimeouts(keys) => wanted.set_timeouts(keys),
            // It is not part of the file.
            Self::Drain(_) => {}
            Self::Reload { text } => *wanted = Document::of(text),
        }
        Ok(())
    }
}
