//! What listings are made of.

use std::net::SocketAddr;

use super::command::{Persistence, SchedulerFlags, ServiceKey};

/// Totals, or what comes in a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections scheduled.
    pub connections: u64,
    /// Packets from clients.
    pub in_packets: u64,
    /// Packets to clients.
    pub out_packets: u64,
    /// Octets from clients.
    pub in_octets: u64,
    /// Octets to clients.
    pub out_octets: u64,
}

/// A service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRow {
    /// Which.
    pub key: ServiceKey,
    /// It is a range of ports, of which the key has the first: more than ipvsadm can say.
    pub is_range: bool,
    /// The name of its scheduler.
    pub scheduler: String,
    /// Its options.
    pub flags: SchedulerFlags,
    /// Whether it is persistent.
    pub persistence: Option<Persistence>,
    /// Every packet is scheduled.
    pub one_packet: bool,
    /// Since the start, or since `-Z`.
    pub totals: Counters,
    /// In a second.
    pub rates: Counters,
    /// The newest first, as the kernel lists them.
    pub servers: Vec<ServerRow>,
}

/// A real server of a service; packets reach it by masquerading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerRow {
    /// Address and port.
    pub address: SocketAddr,
    /// Its share, as it is stated.
    pub weight: u32,
    /// Its share now: 0 where it is drained.
    pub weight_in_force: u32,
    /// Connections at which it is overloaded; 0: never.
    pub upper: u32,
    /// Connections below which it no longer is.
    pub lower: u32,
    /// Active connections.
    pub active: u32,
    /// Inactive connections.
    pub inactive: u32,
    /// Clients that persist on it.
    pub persistent: u32,
    /// Since the start, or since `-Z`.
    pub totals: Counters,
    /// In a second.
    pub rates: Counters,
}

/// A connection, or the template of a client that persists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionRow {
    /// TCP, UDP, SCTP; IP for templates of firewall marks.
    pub protocol: String,
    /// Seconds until it is forgotten.
    pub expires: u32,
    /// Its state, as IPVS names it.
    pub state: String,
    /// The client.
    pub client: SocketAddr,
    /// The virtual service.
    pub service: SocketAddr,
    /// The real server.
    pub server: SocketAddr,
}
