//! Safe, owning wrappers of DPDK, and the only `unsafe` of this crate.
