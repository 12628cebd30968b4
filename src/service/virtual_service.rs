//! A virtual service as the operator states it.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use super::{RealServer, Removal, SchedulerFlags, SchedulerKind, Timeouts};

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

/// Where a service listens: protocol, VIP and port. Written `tcp://203.0.113.10:80`,
/// `udp://[2001:db8::10]:53`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Listen {
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// The VIP and its port (never 0).
    pub address: SocketAddr,
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.protocol, self.address)
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = "expected tcp://ADDRESS:PORT, udp://ADDRESS:PORT or \
                        sctp://ADDRESS:PORT (an IPv6 address in brackets)";
        let (scheme, rest) =
            text.split_once("://").ok_or_else(|| format!("no protocol in {text:?}: {expected}"))?;
        let protocol = match scheme {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            _ => return Err(format!("unknown protocol {scheme:?}: {expected}")),
        };
        let address: SocketAddr = rest
            .parse()
            .map_err(|_| format!("{rest:?} is not an address with a port: {expected}"))?;
        if address.port() == 0 {
            return Err(format!("port 0 in {text:?}: a service needs a port from 1 to 65535"));
        }
        if address.ip().is_unspecified() || address.ip().is_multicast() {
            return Err(format!("{} cannot be a virtual service's address", address.ip()));
        }
        Ok(Self { protocol, address })
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

    /// The helper of a service that names none.
    pub fn default_of(listen: Listen) -> Option<Self> {
        let is_ftp = listen.protocol == Protocol::Tcp && listen.address.port() == Self::FTP_PORT;
        is_ftp.then_some(Self::Ftp)
    }
}

/// A virtual service: clients connect to `listen`, one of `servers` answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualService {
    /// The operator's name, unique; a label in metrics.
    pub name: String,
    /// Protocol, VIP, port.
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
        }
    }
}
