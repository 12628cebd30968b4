//! What the operator wants of the traffic, as the service table is compiled from it.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::{PortRange, Protocol, Timeouts, VirtualService};
use crate::ids::InterfaceId;

/// Connections that inside hosts open to the outside, and the addresses that they appear with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Masquerade {
    /// The inside hosts.
    pub sources: Vec<IpNet>,
    /// The external addresses, at least one of each family of `sources`. A host keeps its address
    /// as long as there are ports (RFC 4787 REQ-2, "paired").
    pub addresses: Vec<IpAddr>,
    /// Ports and ICMP identifiers to choose from where the host's own is not free.
    pub ports: RangeInclusive<u16>,
}

impl Masquerade {
    /// Key `ports`, where the file does not say: all but the well-known ones (RFC 6056 section
    /// 3.2).
    pub const DEFAULT_PORTS: RangeInclusive<u16> = 1024..=65_535;
}

/// Gives packets a firewall mark, by which one service takes what goes to many addresses, ports
/// and protocols: what `iptables -t mangle -j MARK` does for IPVS. A packet that meets every
/// condition has the mark; of several rules, the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarkRule {
    /// The mark.
    pub mark: NonZeroU32,
    /// Destinations, single addresses and networks; at least one.
    pub addresses: Vec<IpNet>,
    /// The protocol; `None`: TCP, UDP and SCTP.
    pub protocol: Option<Protocol>,
    /// Destination ports; none: all.
    pub ports: Vec<PortRange>,
    /// Where packets come from; none: from anywhere.
    pub sources: Vec<IpNet>,
    /// The interface that they come by; `None`: any.
    pub interface: Option<InterfaceId>,
}

impl MarkRule {
    /// The destinations that are one address.
    pub fn single_addresses(&self) -> impl Iterator<Item = IpAddr> {
        let single = |network: &&IpNet| network.prefix_len() == network.max_prefix_len();
        self.addresses.iter().filter(single).map(IpNet::addr)
    }
}

/// What a packet to a VIP or an own address is answered with where no service listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
pub enum ClosedPorts {
    /// A reset for TCP, ICMP Port Unreachable for others: what a host does.
    #[default]
    Reject,
    /// ICMP Port Unreachable, for TCP too.
    Unreachable,
    /// Silence.
    Drop,
}

impl ClosedPorts {
    /// All of them, in the order of the documentation.
    pub const ALL: [Self; 3] = [Self::Reject, Self::Unreachable, Self::Drop];

    /// The word of the configuration file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reject => "reject",
            Self::Unreachable => "unreachable",
            Self::Drop => "drop",
        }
    }
}

/// The largest TCP segment that SYN packets which cross an interface may announce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MssClamp {
    /// What fits the interface's MTU.
    Mtu,
    /// So many octets.
    Octets(u16),
}

/// What holds for all traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Policy {
    /// Answers where no service listens.
    pub closed_ports: ClosedPorts,
    /// Whether packets that no connection, service or masquerade explains are forwarded between
    /// the interfaces, as a router does.
    pub routing: bool,
}

/// All of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rules<'r> {
    /// The virtual services.
    pub services: &'r [VirtualService],
    /// What inside hosts may open; the first that has the source applies.
    pub masquerades: &'r [Masquerade],
    /// What gives packets firewall marks; the first that matches applies.
    pub marks: &'r [MarkRule],
    /// Idle times, where a service has none of its own.
    pub timeouts: Timeouts,
    /// What holds for all traffic.
    pub policy: Policy,
}

impl<'r> Rules<'r> {
    /// These services, and the defaults.
    pub fn of(services: &'r [VirtualService]) -> Self {
        Self { services, ..Self::default() }
    }
}
