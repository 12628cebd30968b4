//! Octets: one header per file, as fixed layouts that are read and written in place.
//!
//! Every type here is a `#[repr(C)]` view of alignment 1 whose fields are in network order.
//! Nothing allocates and nothing can panic: a view is taken with zerocopy's
//! `ref_from_prefix`/`mut_from_prefix`, which fail when the buffer is too short.
#![deny(clippy::indexing_slicing, clippy::disallowed_methods, clippy::disallowed_types)]

pub mod address;
pub mod arp;
pub mod checksum;
pub mod crc32c;
pub mod ethernet;
pub mod flow_key;
pub mod icmpv4;
pub mod icmpv6;
pub mod ipv4;
pub mod ipv6;
pub mod ipvs_sync;
pub mod mld;
pub mod prefix;
pub mod sctp;
pub mod tcp;
pub mod toeplitz;
pub mod udp;
pub mod vrrp;

pub use zerocopy::network_endian::{U16, U32};
