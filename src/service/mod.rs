//! What the operator configures: virtual services, their real servers, the schedulers, and the
//! immutable [`ServiceTable`] that the workers look services up in. The contract between the
//! control thread and the workers.

mod virtual_service;
mod listen;
mod real_server;
mod removal;
mod timeouts;
mod load;
mod marks;
mod masquerade;
mod registry;
mod rules;
pub mod scheduler;
mod table;
mod template;
mod wide;

pub use listen::{Listen, PortRange};
pub use load::{ServerLoad, ServerLoads};
pub use masquerade::MasqueradeRule;
pub use real_server::RealServer;
pub use registry::SlotRegistry;
pub use removal::Removal;
pub use rules::{ClosedPorts, MarkRule, Masquerade, MssClamp, Policy, Rules};
pub use scheduler::{
    Asking, Destinations, SchedulerFlag, SchedulerFlags, SchedulerKind, SchedulerState,
};
pub use table::{CompileError, FamilyServices, Server, Service, ServiceTable};
pub use template::{Ask, Bound, Persistent, TemplateKey, TemplateRow, Templates};
pub use timeouts::{IdleTimes, TimeoutPreset, Timeouts};
pub use virtual_service::{Helper, NonSyn, Persistence, Protocol, VirtualService};
