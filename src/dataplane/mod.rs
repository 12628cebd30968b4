//! What a worker does with a burst. Allocates in constructors only: no log, clock, lock or
//! system call on a packet's way.
#![deny(clippy::indexing_slicing, clippy::disallowed_methods, clippy::disallowed_types)]

pub mod stats;
pub mod mailbox;
pub mod frame;
pub mod interface;
pub mod conn;
mod newcomer;
pub mod next_hop;
pub mod endpoint_hash;
pub mod steering;
pub mod classify;
mod family;
pub mod failover;
mod message;
pub mod sync;
pub mod handover;
mod nat;
mod icmp_error;
mod own_error;
mod datagrams;
mod fragment;
mod split;
mod vlan;
mod admit;
mod local_endpoint;
mod masquerade;
mod port_choice;
mod removal;
mod reuse;
mod ring;
mod route;
mod echo;
mod mss;
pub mod helper;
mod local;
pub mod pipeline;
mod shared;
mod flow;
pub mod stopwatch;
mod strangers;
mod hearing;
mod hit;
mod egress;
mod housekeeping;
#[cfg(feature = "dpdk")]
pub mod worker;

pub use pipeline::{Pipeline, PipelineSettings};
