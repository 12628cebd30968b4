//! A generator and analyser for a director between two ports: the measurements of RFC 2544 and
//! RFC 9693. The ports are NICs in a laboratory, or virtual devices where there is none.

mod client_side;
mod clients;
mod frames;
mod inspect;
mod link;
mod metrics;
mod numbers;
mod pace;
mod plan;
mod report;
pub(crate) mod rfc2544;
pub(crate) mod rfc9693;
mod search;
pub(crate) mod selftest;
mod server_side;
mod session;
mod settings;
mod sizes;
mod station;
mod tally;
mod trial;
