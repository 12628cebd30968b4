//! Compares the values of a file with each other and with the machine. Everything is looked at;
//! a check whose input is missing or wrong is left out, because that has been noted already.

mod director;
mod devices;
mod interfaces;
mod marks;
mod masquerades;
mod networks;
mod one_packet;
mod persistence;
mod services;

pub use services::MAX_SERVERS;

use super::diagnostic::Span;
use super::draft::Draft;
use super::failover;
use super::machine::Machine;
use super::reader::Problems;
use networks::Networks;

pub(super) use director::{control_cpu, workers};

pub(super) fn check(draft: &Draft, machine: &Machine, problems: &Problems) {
    director::check(draft, machine, problems);
    let networks = Networks::new(&draft.interfaces);
    interfaces::check(draft, &networks, problems);
    services::check(draft, &networks, problems);
    marks::check(draft, &networks, problems);
    masquerades::check(draft, &networks, problems);
    failover::check(draft, problems);
}
