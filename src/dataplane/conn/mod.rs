//! Connections: the record, the state machine, the table and its timer wheel.

mod connection;
mod index;
mod path;
pub mod sctp_state;
mod table;
pub mod tcp_state;
mod timer_wheel;

pub use connection::{Connection, Endpoints, Flags};
pub use index::Full;
pub use path::Path;
pub use table::{Candidate, ConnectionId, ConnectionTable, Expiry, Found, Hit, InsertError, Room};

#[cfg(test)]
mod tests;
