//! Bindings to the DPDK installed on the build machine: exactly what pointsman calls, no more
//! (the list is in `build.rs`), and the inline functions of DPDK through `shim.c`.
//!
//! Nothing here is safe to use by itself; `pointsman::dpdk` is.
#![no_std]
#![allow(
    missing_docs,
    missing_debug_implementations,
    unsafe_code,
    unsafe_op_in_unsafe_fn,
    unreachable_pub,
    unused_qualifications,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    dead_code,
    improper_ctypes,
    unnecessary_transmutes,
    clippy::all,
    clippy::pedantic,
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    clippy::allow_attributes_without_reason,
    rustdoc::all,
    reason = "generated from C headers, in C's style"
)]

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
