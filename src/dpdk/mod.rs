//! Safe, owning wrappers of DPDK, and the only `unsafe` of this crate.
//!
//! What the types promise:
//! - an [`Mbuf`](mbuf::Mbuf) has one owner and goes back to its pool once, whoever drops it;
//! - a pool, a port or the EAL is never torn down under something that still uses it;
//! - a queue or a ring end belongs to one thread at a time, so nothing on the packet path locks.
//!
//! `affine`, `descriptors`, `lanes`, `memory`, `prefetch` and `tsc` need no DPDK; the rest is behind the feature `dpdk`.
#![allow(unsafe_code, reason = "the one place where DPDK and raw memory are made safe")]

pub mod affine;
pub mod descriptors;
pub mod lanes;
pub mod memory;
pub mod prefetch;
pub mod tsc;

#[cfg(feature = "dpdk")]
mod capture;
#[cfg(feature = "dpdk")]
mod interrupts;
#[cfg(feature = "dpdk")]
mod main_thread;

#[cfg(feature = "dpdk")]
pub mod error;
#[cfg(feature = "dpdk")]
pub mod eal_error;
#[cfg(feature = "dpdk")]
pub mod eal;
#[cfg(feature = "dpdk")]
pub mod lcore;
#[cfg(feature = "dpdk")]
pub mod mbuf;
#[cfg(feature = "dpdk")]
pub mod burst;
#[cfg(feature = "dpdk")]
pub mod mempool;
#[cfg(feature = "dpdk")]
pub mod ring;
#[cfg(feature = "dpdk")]
pub mod hash;
#[cfg(feature = "dpdk")]
pub mod capabilities;
#[cfg(feature = "dpdk")]
pub mod port;
#[cfg(feature = "dpdk")]
pub mod port_stats;
#[cfg(feature = "dpdk")]
pub mod rss;
#[cfg(feature = "dpdk")]
pub mod flow_rule;
#[cfg(feature = "dpdk")]
pub mod hash_sample;
#[cfg(feature = "dpdk")]
mod configure;
#[cfg(feature = "dpdk")]
pub mod queue;
