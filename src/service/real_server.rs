//! A real server as the operator states it.

use std::net::SocketAddr;
use std::time::Duration;

/// A real server of one virtual service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RealServer {
    /// Address and port that packets are rewritten to; the VIP's family. Port 0: the port that
    /// the client sent to is kept, which only services of many ports have.
    pub address: SocketAddr,
    /// Share of new connections, relative to the other servers. 0: existing connections go on,
    /// new ones go elsewhere (quiesced).
    pub weight: u32,
    /// Time over which its share of new connections grows to its weight when it begins to take
    /// some; `None`: at once.
    pub slow_start: Option<Duration>,
    /// Connections over the whole director from which on the server takes no new ones; 0: no
    /// limit (`ipvsadm -x`).
    pub upper_threshold: u32,
    /// Connections below which a server that reached the upper threshold takes new ones again;
    /// 0: three quarters of the upper threshold (`ipvsadm -y`).
    pub lower_threshold: u32,
}

impl RealServer {
    /// Weight of a server whose weight is not stated.
    pub const DEFAULT_WEIGHT: u32 = 1;
    /// The largest weight that schedulers accept, that of ipvsadm 1.31.
    pub const MAX_WEIGHT: u32 = 2_147_483_647;

    /// A server without anything special.
    pub const fn new(address: SocketAddr, weight: u32) -> Self {
        Self { address, weight, upper_threshold: 0, lower_threshold: 0, slow_start: None }
    }
}
