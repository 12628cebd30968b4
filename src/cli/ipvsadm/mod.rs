//! ipvsadm's language: the options, formats, complaints and exit codes of ipvsadm 1.31.
//!
//! Scripts, exporters and monitoring plug-ins that speak to IPVS go on working where `ipvsadm`,
//! `ipvsadm-save` and `ipvsadm-restore` are names of this program. Everything here is facts about
//! ipvsadm's behaviour: its manual page, and what ipvsadm 1.31 was seen to do
//! (`tests/oracle/ipvsadm.json`, `tests/oracle/ipvsadm_arguments.json`). docs/ipvsadm.md lists what
//! differs.

mod arguments;
mod command;
mod connections;
mod director;
mod help;
mod listing;
mod names;
mod options;
mod order;
mod parameters;
mod popt;
mod rows;
mod save;
mod session;
#[cfg(test)]
mod tests;
mod text;
mod value;

pub use command::{
    Command, Forwarding, Granularity, Listing, Persistence, SchedulerFlags, ServerSpec, ServiceKey,
    ServiceSpec, Timeouts, View, What,
};
pub use director::{ConnectionSink, Director, Failure, Refusal};
pub use names::{Names, SystemNames};
pub use rows::{ConnectionRow, Counters, ServerRow, ServiceRow};
pub use session::Session;
