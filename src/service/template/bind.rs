//! The server of a new connection, by template where the service has persistence.

use super::{Ask, TemplateKey};
use crate::clock::Tick;
use crate::ids::ServerSlot;
use crate::service::{Asking, Persistence, Server, ServerLoads, Service};
use crate::wire::address::Address;
use crate::wire::prefix::mask;

/// Persistence, ready to be used.
#[derive(Clone, Copy, Debug)]
pub struct Persistent<A: Address> {
    timeout_ms: u32,
    /// The bits of an address that count.
    mask: A::Bits,
}

impl<A: Address> Persistent<A> {
    /// What the operator states. Times beyond 24 days count as 24 days.
    pub(in crate::service) fn compile(persistence: &Persistence) -> Self {
        let timeout = persistence.timeout.min(Tick::MAX_SPAN).as_millis();
        let timeout_ms = u32::try_from(timeout).unwrap_or(u32::MAX / 2);
        Self { timeout_ms, mask: mask::<A>(persistence.prefix) }
    }

    /// How long a client is remembered, milliseconds.
    pub const fn timeout_ms(&self) -> u32 {
        self.timeout_ms
    }

    /// The bits of a client's address that count.
    #[inline]
    pub const fn mask(&self) -> A::Bits {
        self.mask
    }
}

/// Whose turn it is, and how that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound<'s, A> {
    /// The server.
    pub server: &'s Server<A>,
    /// A template says so, which the connection is to keep alive.
    pub by_template: bool,
    /// There is no room for a template.
    pub is_lost: bool,
}

impl<A: Address> Service<A> {
    /// The server of a client's next connection, whose timer will be looked at in `hold_ms`.
    /// `None`: none takes new connections.
    #[inline]
    pub fn server_for(
        &self,
        asking: &Asking<'_, A>,
        loads: &ServerLoads,
        hold_ms: impl FnOnce() -> u32,
    ) -> Option<Bound<'_, A>> {
        match &self.persistence {
            None => {
                let server = self.schedule(asking, loads)?;
                Some(Bound { server, by_template: false, is_lost: false })
            }
            Some(persistent) => self.by_template(persistent, asking, loads, hold_ms()),
        }
    }

    #[cold]
    fn by_template(
        &self,
        persistent: &Persistent<A>,
        asking: &Asking<'_, A>,
        loads: &ServerLoads,
        hold_ms: u32,
    ) -> Option<Bound<'_, A>> {
        let Persistent { timeout_ms, mask } = *persistent;
        let key = TemplateKey::new(self.id, asking.key.source, mask);
        let ask = Ask { key, now: asking.now, timeout_ms, hold_ms };
        let server_of = |slot: ServerSlot| {
            let mut servers = self.servers().iter();
            servers.find(|server| server.slot == slot)
        };
        // A server that takes no new connections takes none by a template either.
        let accepts = |slot| server_of(slot).is_some_and(|server| self.is_open(server, loads));
        let schedule = || self.schedule(asking, loads).map(|server| server.slot);
        let (slot, by_template) = loads.templates().server(loads, &ask, accepts, schedule)?;
        Some(Bound { server: server_of(slot)?, by_template, is_lost: !by_template })
    }
}
