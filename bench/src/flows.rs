//! The traffic: numbered flows from clients to four virtual services.
//!
//! Flow n comes from address n modulo 2^17 of the benchmarking network (198.18.0.0/15 of
//! RFC 2544, `2001:2::/48` of RFC 5180), by a port that counts up when the addresses are used up,
//! and goes to service n modulo 4. So the same number always gives the same packet, and the reply
//! to it can be made without looking at what the director did.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use pointsman::service::Timeouts;
use pointsman::wire::ethernet::Mac;
use pointsman::wire::flow_key::Direction;
use pointsman::wire::tcp::flags;

use crate::template::Template;

/// The director on the clients' side.
pub const OUTSIDE_MAC: Mac = [2, 0, 0, 0, 1, 1];
/// The router between director and clients.
pub const GATEWAY_MAC: Mac = [2, 0, 0, 0, 1, 0xfe];
/// The director on the servers' side.
pub const INSIDE_MAC: Mac = [2, 0, 0, 0, 2, 1];
/// Services that packets go to.
pub const SERVICES: u32 = 4;
/// Bits of a flow's number that make the client's address.
const ADDRESS_BITS: u32 = 17;

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// UDP or TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Transport {
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
}

/// What all packets of a measurement have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// IPv4 or IPv6.
    pub family: Family,
    /// UDP or TCP.
    pub transport: Transport,
}

impl Traffic {
    /// All kinds.
    pub const ALL: [Self; 4] = [
        Self { family: Family::V4, transport: Transport::Udp },
        Self { family: Family::V4, transport: Transport::Tcp },
        Self { family: Family::V6, transport: Transport::Udp },
        Self { family: Family::V6, transport: Transport::Tcp },
    ];

    /// As it stands in the names of rows.
    pub const fn name(self) -> &'static str {
        match (self.family, self.transport) {
            (Family::V4, Transport::Udp) => "ipv4_udp",
            (Family::V4, Transport::Tcp) => "ipv4_tcp",
            (Family::V6, Transport::Udp) => "ipv6_udp",
            (Family::V6, Transport::Tcp) => "ipv6_tcp",
        }
    }

    /// Every packet of a connection, in order.
    pub fn life(self) -> Vec<Template> {
        use Direction::{Inbound, Reply};
        use flags::{ACK, FIN, SYN};
        let packets: &[(Direction, u8)] = match self.transport {
            Transport::Udp => &[(Inbound, 0)],
            Transport::Tcp => &[
                (Inbound, SYN),
                (Reply, SYN | ACK),
                (Inbound, ACK),
                (Inbound, FIN | ACK),
                (Reply, FIN | ACK),
                (Inbound, ACK),
            ],
        };
        packets
            .iter()
            .map(|(direction, control)| Template::new(self, *direction, *control))
            .collect()
    }

    /// Idle time of the state that a whole life ends in, milliseconds.
    pub fn last_timeout_ms(self) -> u64 {
        let timeouts = Timeouts::default();
        let timeout = match self.transport {
            Transport::Udp => timeouts.udp,
            Transport::Tcp => timeouts.time_wait,
        };
        u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)
    }
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Traffic {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.map(Self::name).join(", ");
        let found = Self::ALL.into_iter().find(|traffic| traffic.name() == text);
        found.ok_or_else(|| format!("{text}: not one of {known}"))
    }
}

/// The gateway's address on the outside.
pub fn gateway(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(192, 0, 2, 254).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0xfe).into(),
    }
}

/// Where a service listens.
pub fn service(family: Family, number: u32) -> SocketAddr {
    let vip = match family {
        Family::V4 => IpAddr::from([192, 0, 2, 100]),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x100).into(),
    };
    SocketAddr::new(vip, 8000 + low(number))
}

/// The first real server of a service.
pub fn server(family: Family, number: u32) -> SocketAddr {
    let address = match family {
        Family::V4 => {
            IpAddr::from(u32::from(Ipv4Addr::new(10, 0, 0, 11)).wrapping_add(number).to_be_bytes())
        }
        Family::V6 => Ipv6Addr::new(0xfd00, 0xa, 0, 0, 0, 0, 0, 0x11 + low(number)).into(),
    };
    SocketAddr::new(address, 9000)
}

/// A real server's Ethernet address.
pub fn server_mac(number: u32) -> Mac {
    let [.., last] = number.to_be_bytes();
    [2, 0, 0, 0, 2, 0x11 + last]
}

/// The low half.
fn low(number: u32) -> u16 {
    let [.., high, low] = number.to_be_bytes();
    u16::from_be_bytes([high, low])
}

/// The last four octets of a flow's client address, and its port.
#[inline]
pub(crate) fn client(family: Family, flow: u32) -> ([u8; 4], [u8; 2]) {
    let host = flow & ((1 << ADDRESS_BITS) - 1);
    let base = match family {
        Family::V4 => 198 << 24 | 18 << 16,
        Family::V6 => 0,
    };
    ((base | host).to_be_bytes(), (1024 + low(flow >> ADDRESS_BITS)).to_be_bytes())
}

/// A flow's client over IPv4: address and port.
pub fn client_v4(flow: u32) -> ([u8; 4], u16) {
    let (address, port) = client(Family::V4, flow);
    (address, u16::from_be_bytes(port))
}

/// Numbers that look random and are the same in every run (`SplitMix64`).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// From a seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `bound`.
    #[inline]
    pub fn below(&mut self, bound: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        high(u64::from(high(mixed ^ (mixed >> 31))) * u64::from(bound))
    }

    /// The numbers below `count`, shuffled.
    pub fn shuffled(&mut self, count: u32) -> Vec<u32> {
        let mut numbers: Vec<u32> = (0..count).collect();
        for place in (1..count).rev() {
            numbers.swap(place as usize, self.below(place + 1) as usize);
        }
        numbers
    }
}

/// The high half.
#[inline]
fn high(number: u64) -> u32 {
    let [a, b, c, d, ..] = number.to_be_bytes();
    u32::from_be_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shuffle_keeps_every_number() {
        let mut numbers = Random::new(1).shuffled(1000);
        assert_ne!(numbers, (0..1000).collect::<Vec<_>>());
        numbers.sort_unstable();
        assert_eq!(numbers, (0..1000).collect::<Vec<_>>());
    }
}
