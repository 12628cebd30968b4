//! The control side: one thread, may allocate, never sees an mbuf.

pub mod config;
