//! The director with real clients and servers: kernels in network namespaces (`scripts/lab/lab`),
//! nginx, curl, wrk, iperf3, ping, dig, socat and others. Needs root, and says so without it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::excessive_nesting,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests; the lints' own exemption does not reach helper functions"
)]

mod director;
mod lab;

mod corners;
mod devices;
mod election;
mod ftp;
mod health;
mod ipvsadm;
mod keepalived;
mod lifecycle;
mod live;
mod masquerade;
mod neighbors;
mod pair;
mod persistence;
mod refusals;
mod removal;
mod restart;
mod routers;
mod settings;
mod snooping;
mod sync;
mod takeover;
mod tools;
mod tracking;
mod traffic;
mod virtual_mac;
mod wire;
mod workers;
