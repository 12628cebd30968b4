//! What the tests of the packet path share: packets, a director without ports, pcap files.
#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::wildcard_enum_match_arm,
    clippy::excessive_nesting,
    clippy::format_push_string,
    clippy::wrong_self_convention,
    clippy::missing_panics_doc,
    clippy::return_self_not_must_use,
    reason = "tests fail by panicking; not every test program uses all of it"
)]

pub mod packet;
pub mod topology;
pub mod director;
pub mod pcap;
pub mod golden;
