//! What identifies a service: packets to a VIP, or packets with a firewall mark.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::str::FromStr;

use super::Protocol;

/// Ports that belong together: one, a range, or all of them. Written `80`, `8000-8099`, `0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// Every port: what IPVS calls port 0.
    pub const ALL: Self = Self { first: 0, last: u16::MAX };

    /// One port; 0 stands for all.
    pub const fn one(port: u16) -> Self {
        if port == 0 { Self::ALL } else { Self { first: port, last: port } }
    }

    /// A range; `None`: it is empty, or begins with port 0.
    pub const fn new(first: u16, last: u16) -> Option<Self> {
        if first == 0 || first > last { None } else { Some(Self { first, last }) }
    }

    /// The first port; 0 where these are all.
    pub const fn first(self) -> u16 {
        self.first
    }

    /// The last port.
    pub const fn last(self) -> u16 {
        self.last
    }

    /// The port, where it is one.
    pub const fn single(self) -> Option<u16> {
        if self.first == self.last { Some(self.first) } else { None }
    }

    /// Whether these are all ports.
    pub const fn is_all(self) -> bool {
        self.first == 0
    }

    /// Whether a port is among them.
    #[inline]
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }

    /// Whether they have a port in common.
    pub const fn meets(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// All of them that a packet can have.
    pub const fn numbers(self) -> RangeInclusive<u16> {
        self.first..=self.last
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.is_all(), self.single()) {
            (true, _) => f.write_str("0"),
            (false, Some(port)) => port.fmt(f),
            (false, None) => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = "expected a port such as 80 or a range such as 8000-8099";
        let port = |text: &str| {
            let is_number = text.bytes().all(|octet| octet.is_ascii_digit());
            text.parse::<u16>().ok().filter(|_| is_number)
        };
        match text.split_once('-') {
            None => port(text).map(Self::one).ok_or_else(|| format!("{text:?}: {expected}")),
            Some((first, last)) => {
                let (Some(first), Some(last)) = (port(first), port(last)) else {
                    return Err(format!("{text:?}: {expected}"));
                };
                Self::new(first, last).ok_or_else(|| match first {
                    0 => format!("{text:?} begins with port 0: {expected}; 0 alone is every port"),
                    _ => format!("{text:?} holds no ports: {expected}"),
                })
            }
        }
    }
}

/// Where a service listens, which is what identifies it. Written `tcp://203.0.113.10:80`,
/// `udp://[2001:db8::10]:53`, `tcp://203.0.113.10:8000-8099`, `tcp://203.0.113.10:0` (every port),
/// `fwmark://7`, `fwmark6://7` (IPv6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Listen {
    /// Packets to an address.
    Vip {
        /// TCP, UDP or SCTP.
        protocol: Protocol,
        /// The VIP.
        ip: IpAddr,
        /// One port, a range, or all: IPVS's port 0, which needs persistence.
        ports: PortRange,
    },
    /// Packets with a firewall mark, of all three protocols.
    Mark {
        /// The mark that a [`MarkRule`](super::MarkRule) gives.
        mark: NonZeroU32,
        /// IPv6 packets, or IPv4 ones.
        ipv6: bool,
    },
}

impl Listen {
    /// A VIP and one port; port 0 stands for all.
    pub const fn at(protocol: Protocol, address: SocketAddr) -> Self {
        Self::Vip { protocol, ip: address.ip(), ports: PortRange::one(address.port()) }
    }

    /// The protocol; `None`: all.
    pub const fn protocol(&self) -> Option<Protocol> {
        match self {
            Self::Vip { protocol, .. } => Some(*protocol),
            Self::Mark { .. } => None,
        }
    }

    /// The VIP; `None`: a mark's.
    pub const fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Vip { ip, .. } => Some(*ip),
            Self::Mark { .. } => None,
        }
    }

    /// The ports; all for a mark.
    pub const fn ports(&self) -> PortRange {
        match self {
            Self::Vip { ports, .. } => *ports,
            Self::Mark { .. } => PortRange::ALL,
        }
    }

    /// VIP and port, where there is one of each.
    pub const fn address(&self) -> Option<SocketAddr> {
        match (self.ip(), self.ports().single()) {
            (Some(ip), Some(port)) => Some(SocketAddr::new(ip, port)),
            _ => None,
        }
    }

    /// The firewall mark.
    pub const fn mark(&self) -> Option<NonZeroU32> {
        match self {
            Self::Vip { .. } => None,
            Self::Mark { mark, .. } => Some(*mark),
        }
    }

    /// Whether its packets are IPv6.
    pub const fn is_ipv6(&self) -> bool {
        match self {
            Self::Vip { ip, .. } => ip.is_ipv6(),
            Self::Mark { ipv6, .. } => *ipv6,
        }
    }

    /// Whether its packets are of this protocol and port.
    pub fn covers(&self, protocol: Protocol, port: u16) -> bool {
        self.protocol().is_none_or(|own| own == protocol) && self.ports().contains(port)
    }

    /// Whether a packet could belong to either, without a rule that one of them goes first: the
    /// service of all ports takes what no other one of its VIP does, and marks go before all.
    pub fn conflicts(&self, other: &Self) -> bool {
        let same = |a: &Self| (a.protocol(), a.ip(), a.mark(), a.is_ipv6(), a.ports().is_all());
        same(self) == same(other) && self.ports().meets(other.ports())
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vip { protocol, ip: IpAddr::V4(ip), ports } => {
                write!(f, "{protocol}://{ip}:{ports}")
            }
            Self::Vip { protocol, ip: IpAddr::V6(ip), ports } => {
                write!(f, "{protocol}://[{ip}]:{ports}")
            }
            Self::Mark { mark, ipv6: false } => write!(f, "fwmark://{mark}"),
            Self::Mark { mark, ipv6: true } => write!(f, "fwmark6://{mark}"),
        }
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = "expected tcp://ADDRESS:PORT, udp://ADDRESS:PORT, sctp://ADDRESS:PORT (an \
                        IPv6 address in brackets) or fwmark://MARK";
        let (scheme, rest) =
            text.split_once("://").ok_or_else(|| format!("no protocol in {text:?}: {expected}"))?;
        let protocol = match scheme {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            "fwmark" => return Ok(Self::Mark { mark: mark(rest)?, ipv6: false }),
            "fwmark6" => return Ok(Self::Mark { mark: mark(rest)?, ipv6: true }),
            _ => return Err(format!("unknown protocol {scheme:?}: {expected}")),
        };
        let wrong = || format!("{rest:?} is not an address with a port: {expected}");
        let (host, ports) = rest.rsplit_once(':').ok_or_else(wrong)?;
        // The standard library knows how an address and a port are written.
        let ip = format!("{host}:1").parse::<SocketAddr>().map_err(|_| wrong())?.ip();
        if ports.is_empty() {
            return Err(wrong());
        }
        let ports: PortRange = ports.parse()?;
        if ip.is_unspecified() || ip.is_multicast() {
            return Err(format!("{ip} cannot be a virtual service's address"));
        }
        Ok(Self::Vip { protocol, ip, ports })
    }
}

fn mark(text: &str) -> Result<NonZeroU32, String> {
    let is_number = text.bytes().all(|octet| octet.is_ascii_digit());
    text.parse().ok().filter(|_| is_number).ok_or_else(|| {
        format!("{text:?} is not a firewall mark: expected a number from 1 to {}", u32::MAX)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn listen(text: &str) -> Listen {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_written_is_read_back() {
        for text in [
            "tcp://203.0.113.10:80",
            "udp://[2001:db8::10]:53",
            "sctp://203.0.113.10:1-65535",
            "tcp://203.0.113.10:8000-8099",
            "tcp://[2001:db8::10]:0",
            "fwmark://1",
            "fwmark6://4294967295",
        ] {
            assert_eq!(listen(text).to_string(), text);
        }
        assert_eq!(listen("tcp://203.0.113.10:80-80"), listen("tcp://203.0.113.10:80"));
    }

    #[test]
    fn errors_name_what_is_right() {
        for (text, part) in [
            ("203.0.113.10:80", "no protocol"),
            ("icmp://203.0.113.10:80", "unknown protocol \"icmp\""),
            ("tcp://203.0.113.10", "is not an address with a port"),
            ("tcp://203.0.113.10:", "is not an address with a port"),
            ("tcp://2001:db8::10:80", "an IPv6 address in brackets"),
            ("tcp://203.0.113.10:65536", "expected a port such as 80"),
            ("tcp://203.0.113.10:+80", "expected a port such as 80"),
            ("tcp://203.0.113.10:90-80", "holds no ports"),
            ("tcp://203.0.113.10:0-80", "begins with port 0"),
            ("tcp://203.0.113.10:80-", "a range such as 8000-8099"),
            ("tcp://224.0.0.1:80", "cannot be a virtual service's address"),
            ("fwmark://0", "a number from 1 to 4294967295"),
            ("fwmark://4294967296", "a number from 1 to 4294967295"),
            ("fwmark://+7", "is not a firewall mark"),
        ] {
            let error = text.parse::<Listen>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn ranges_conflict_where_they_meet_and_all_ports_only_with_all_ports() {
        let range = listen("tcp://203.0.113.10:8000-8099");
        for (other, conflicts) in [
            ("tcp://203.0.113.10:8000", true),
            ("tcp://203.0.113.10:8099-9000", true),
            ("tcp://203.0.113.10:8100", false),
            ("udp://203.0.113.10:8000", false),
            ("tcp://203.0.113.11:8000", false),
            ("tcp://203.0.113.10:0", false),
            ("fwmark://7", false),
        ] {
            assert_eq!(range.conflicts(&listen(other)), conflicts, "{other}");
            assert_eq!(listen(other).conflicts(&range), conflicts, "{other}");
        }
        let all = listen("tcp://203.0.113.10:0");
        assert!(all.conflicts(&all));
        assert!(!listen("fwmark://7").conflicts(&listen("fwmark6://7")));
        assert!(listen("fwmark://7").conflicts(&listen("fwmark://7")));
    }

    proptest! {
        #[test]
        fn every_listen_round_trips(
            is_mark: bool,
            ipv6: bool,
            number in 1..=u32::MAX,
            octets: [u8; 16],
            ends: (u16, u16),
        ) {
            let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
            let [o0, o1, o2, ..] = octets;
            let ip: IpAddr = if ipv6 {
                [&[0x20], &octets[..15]].concat().try_into().map(<[u8; 16]>::into).unwrap()
            } else {
                [10, o0, o1, o2].into()
            };
            let ports = PortRange::new(ends.0.min(ends.1), ends.0.max(ends.1)).unwrap_or(PortRange::ALL);
            let protocol = protocols[usize::from(o2) % 3];
            let listen = if is_mark {
                Listen::Mark { mark: number.try_into().unwrap(), ipv6 }
            } else {
                Listen::Vip { protocol, ip, ports }
            };
            prop_assert_eq!(listen.to_string().parse(), Ok(listen));
        }
    }
}
