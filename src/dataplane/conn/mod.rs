//! Connections: the record, the state machine, the table and its timer wheel.

pub mod tcp_state;
