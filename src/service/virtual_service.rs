//! A virtual service as the operator states it.

use std::fmt;
use std::time::Duration;

use super::{Listen, RealServer, Removal, SchedulerFlags, SchedulerKind, Timeouts};

/// Transport protocol of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Protocol {
    /// TCP, IP protocol 6.
    Tcp = 6,
    /// UDP, IP protocol 17.
    Udp = 17,
    /// SCTP, IP protocol 132.
    Sctp = 132,
}

impl Protocol {
    /// The name as it is written in `listen` and in labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is done with a TCP segment that is not a SYN and belongs to no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
pub enum NonSyn {
    /// Dropped and counted.
    #[default]
    Drop,
    /// Answered with a reset (RFC 9293 section 3.10.7.1), as if the port were closed.
    Reset,
    /// It opens a connection, unless it is a reset (IPVS `sloppy_tcp`).
    Schedule,
}

impl NonSyn {
    /// All of them, in the order of the documentation.
    pub const ALL: [Self; 3] = [Self::Drop, Self::Reset, Self::Schedule];

    /// The word of the configuration file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Reset => "reset",
            Self::Schedule => "schedule",
        }
    }
}

/// What reads the text of a service's connections, for the sake of further connections that it
/// names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Helper {
    /// FTP (RFC 959, RFC 2428).
    Ftp,
}

impl Helper {
    /// The well-known port of FTP.
    pub const FTP_PORT: u16 = 21;

    /// The helper of a service that names none. A service of many ports has it for this port
    /// alone.
    pub fn default_of(listen: Listen) -> Option<Self> {
        listen.covers(Protocol::Tcp, Self::FTP_PORT).then_some(Self::Ftp)
    }
}

/// A client's connections go to one server (`ipvsadm -p`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Persistence {
    /// How long after its last new connection a client is remembered; longer while it has
    /// connections.
    pub timeout: Duration,
    /// Clients that have so many leading bits of their address in common count as one
    /// (`ipvsadm -M`, a netmask for IPv4).
    pub prefix: u8,
}

impl Persistence {
    /// The timeout of `ipvsadm -p` without a number, as of version 1.27 (300 s before).
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(360);

    /// The longest prefix of a family: every client for itself.
    pub const fn whole_address(ipv6: bool) -> u8 {
        if ipv6 { 128 } else { 32 }
    }

    /// With this timeout, every client for itself.
    pub const fn of(timeout: Duration, listen: &Listen) -> Self {
        Self { timeout, prefix: Self::whole_address(listen.is_ipv6()) }
    }
}

/// A virtual service: clients connect to `listen`, one of `servers` answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualService {
    /// The operator's name, unique; a label in metrics.
    pub name: String,
    /// Protocol, VIP and ports, or a firewall mark.
    pub listen: Listen,
    /// Chooses the server of a new connection.
    pub scheduler: SchedulerKind,
    /// Change how the scheduler works; those that do not fit it mean nothing.
    pub scheduler_flags: SchedulerFlags,
    /// What becomes of the connections of a server that is removed.
    pub removal: Removal,
    /// In the order of the file; at least one.
    pub servers: Vec<RealServer>,
    /// TCP: what is done with segments that belong to no connection and are no SYN.
    pub non_syn: NonSyn,
    /// UDP: every datagram is scheduled anew, and no connection is kept (`ipvsadm -o`).
    pub one_packet: bool,
    /// TCP: what reads the text of its connections.
    pub helper: Option<Helper>,
    /// Idle times of this service's connections; `None`: the director's.
    pub timeouts: Option<Timeouts>,
    /// Whether a client's connections go to one server, and for how long.
    pub persistence: Option<Persistence>,
    /// Connections that it may have, over all servers and workers; further ones are refused.
    pub connection_limit: Option<u32>,
    /// Whether the other director of a pair is told of its connections.
    pub is_synchronised: bool,
}

impl VirtualService {
    /// A service without servers, with every default.
    pub fn new(name: impl Into<String>, listen: Listen) -> Self {
        Self {
            name: name.into(),
            listen,
            scheduler: SchedulerKind::default(),
            scheduler_flags: SchedulerFlags::default(),
            removal: Removal::default(),
            servers: Vec::new(),
            non_syn: NonSyn::default(),
            one_packet: false,
            helper: Helper::default_of(listen),
            timeouts: None,
            persistence: None,
            connection_limit: None,
            is_synchronised: true,
        }
    }
}
