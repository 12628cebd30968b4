//! What a worker does with a burst. Allocates in constructors only: no log, clock, lock or
//! system call on a packet's way.
#![deny(clippy::indexing_slicing, clippy::disallowed_methods, clippy::disallowed_types)]

pub mod conn;
pub mod stats;
pub mod mailbox;
