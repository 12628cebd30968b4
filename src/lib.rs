//! pointsman: a Layer-4 load-balancing director (LVS NAT routing) on DPDK.
//!
//! # Layers, and who may import whom (downward only; `tests/layering.rs` enforces it)
//!
//! | layer | module | may import |
//! |---|---|---|
//! | L0 | [`wire`], [`ids`], [`clock`] | nothing |
//! | L1 | [`service`]: what the operator configures | wire, ids, clock |
//! | L1 | [`dpdk`]: the only `unsafe` | ids, clock |
//! | L2 | [`dataplane`]: what a worker does with a burst | wire, service, dpdk |
//! | L3 | [`control`]: one thread, and in a pair two for failover; never sees an mbuf | wire, service, dataplane's mailbox, failover, handover, stats and connection states |
//! | top | `director`: starts and stops every part; [`cli`]: the subcommands | all |
//!
//! # A packet's way
//!
//! `Worker::poll_once` → `RxQueue::rx_burst` → `Pipeline::process_burst` { `classify` all,
//! `steering::owner` of all (another worker's packets leave by its ring), look up all,
//! then per packet: hit or `admit`, state, `nat::translate`, `next_hop` } → `TxQueue::tx_burst`.

pub mod ids;
pub mod clock;
pub mod wire;
pub mod service;
pub mod dpdk;
pub mod dataplane;
pub mod control;
#[cfg(feature = "dpdk")]
pub mod director;
pub mod cli;
