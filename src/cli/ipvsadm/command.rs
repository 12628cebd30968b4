//! What a command line of ipvsadm asks for.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::service::Protocol;

/// A command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// `-A`
    AddService(ServiceSpec),
    /// `-E`: the whole service is as given from then on, but for its servers.
    EditService(ServiceSpec),
    /// `-D`
    DeleteService(ServiceKey),
    /// `-C`
    Clear,
    /// `-R`
    Restore,
    /// `-S`
    Save {
        /// `-n`
        numeric: bool,
    },
    /// `-a`
    AddServer(ServiceKey, ServerSpec),
    /// `-e`: the whole server is as given from then on.
    EditServer(ServiceKey, ServerSpec),
    /// `-d`
    DeleteServer(ServiceKey, SocketAddr),
    /// `-L`, `-l`
    List(Listing),
    /// `-Z`, of one service or all
    Zero(Option<ServiceKey>),
    /// `--set`
    Set(Timeouts),
    /// `--start-daemon`
    StartDaemon,
    /// `--stop-daemon`
    StopDaemon,
    /// `-h`
    Help,
    /// `-v`
    Version,
}

/// Which service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServiceKey {
    /// What comes to an address; port 0: to all ports that have no service of their own.
    Endpoint {
        /// The transport protocol.
        protocol: Protocol,
        /// Address and port.
        address: SocketAddr,
    },
    /// What carries a firewall mark.
    Mark {
        /// The mark, not 0.
        mark: u32,
        /// Of IPv6 packets, not IPv4.
        ipv6: bool,
    },
}

impl ServiceKey {
    /// Whether its packets are IPv6.
    pub const fn is_ipv6(&self) -> bool {
        match self {
            Self::Endpoint { address, .. } => address.is_ipv6(),
            Self::Mark { ipv6, .. } => *ipv6,
        }
    }

    /// The name of a service that ipvsadm has made, which gives none: `tcp-192.0.2.100-80`,
    /// `udp-2001-db8--53-53`, `fwm-7`, `fwm6-8`.
    pub fn service_name(&self) -> String {
        match self {
            Self::Endpoint { protocol, address } => {
                let ip = address.ip().to_string().replace(':', "-");
                format!("{protocol}-{ip}-{}", address.port())
            }
            Self::Mark { mark, ipv6: false } => format!("fwm-{mark}"),
            Self::Mark { mark, ipv6: true } => format!("fwm6-{mark}"),
        }
    }
}

/// Options of schedulers (`-b`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SchedulerFlags {
    /// flag-1; of sh and mh: where the server takes no new connections, try another.
    pub fallback: bool,
    /// flag-2; of sh and mh: the client's port counts.
    pub port: bool,
    /// flag-3: no scheduler uses it.
    pub third: bool,
}

impl SchedulerFlags {
    /// None is set.
    pub const NONE: Self = Self { fallback: false, port: false, third: false };

    pub(super) fn is_none(self) -> bool {
        self == Self::NONE
    }

    /// The flags as they are named with that scheduler.
    pub(super) fn names(self, scheduler: &str) -> String {
        let names = match scheduler {
            "sh" => ["sh-fallback", "sh-port", "flag-3"],
            "mh" => ["mh-fallback", "mh-port", "flag-3"],
            _ => ["flag-1", "flag-2", "flag-3"],
        };
        let set = [self.fallback, self.port, self.third];
        let named: Vec<_> =
            names.into_iter().zip(set).filter(|(_, set)| *set).map(|(name, _)| name).collect();
        named.join(",")
    }
}

/// Which clients count as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granularity {
    /// The mask of IPv4 clients.
    Mask(Ipv4Addr),
    /// The length of the prefix of IPv6 clients.
    Prefix(u8),
}

impl Granularity {
    /// Whether every client counts alone, which is the default.
    pub fn is_whole(self) -> bool {
        matches!(self, Self::Mask(Ipv4Addr::BROADCAST) | Self::Prefix(128))
    }
}

impl fmt::Display for Granularity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mask(mask) => mask.fmt(f),
            Self::Prefix(length) => length.fmt(f),
        }
    }
}

/// Persistence of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Persistence {
    /// Seconds that a client is remembered.
    pub timeout: u32,
    /// Which clients count as one.
    pub granularity: Granularity,
}

impl Persistence {
    /// The default, seconds.
    pub const TIMEOUT: u32 = 360;
}

/// A service as `-A` and `-E` state it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceSpec {
    /// Which.
    pub key: ServiceKey,
    /// The name of its scheduler.
    pub scheduler: String,
    /// Its options.
    pub flags: SchedulerFlags,
    /// `-p`
    pub persistence: Option<Persistence>,
    /// `-o`
    pub one_packet: bool,
    /// `--pe`
    pub engine: Option<String>,
}

/// How packets reach a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Forwarding {
    /// `-g`: direct routing, which is ipvsadm's default.
    #[default]
    Gatewaying,
    /// `-i`: in a tunnel.
    Tunneling,
    /// `-m`: NAT.
    Masquerading,
}

/// A real server as `-a` and `-e` state it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerSpec {
    /// Address and port.
    pub address: SocketAddr,
    /// How packets reach it.
    pub forwarding: Forwarding,
    /// `-w`
    pub weight: u32,
    /// `-x`; 0: none.
    pub upper: u32,
    /// `-y`; 0: three quarters of the upper one.
    pub lower: u32,
}

/// Idle times, seconds. In `--set`, 0 leaves one as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Established TCP connections.
    pub tcp: u32,
    /// TCP connections that close.
    pub tcp_fin: u32,
    /// UDP.
    pub udp: u32,
}

/// What `-L` lists, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listing {
    /// What is listed.
    pub what: What,
    /// `-n`: no names for addresses and ports.
    pub numeric: bool,
    /// `--exact`: numbers are not shortened.
    pub exact: bool,
    /// Not `--nosort`.
    pub sorted: bool,
}

/// What is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Services and their servers; of one service only.
    Services(View, Option<ServiceKey>),
    /// `-c`: connections.
    Connections {
        /// `--persistent-conn`: with the data of persistence engines.
        engines: bool,
    },
    /// `--timeout`
    Timeouts,
    /// `--daemon`
    Daemons,
}

/// What is told of servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// Forwarding, weight, connections.
    Plain,
    /// `--stats`
    Stats,
    /// `--rate`
    Rate,
    /// `--thresholds`
    Thresholds,
    /// `--persistent-conn`
    PersistentConn,
    /// `--tun-info`
    TunnelInfo,
}

/// The unspecified address of a family, port 0.
pub(super) fn unspecified(ipv6: bool) -> IpAddr {
    if ipv6 { IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED) } else { Ipv4Addr::UNSPECIFIED.into() }
}
