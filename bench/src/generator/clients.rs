//! The clients: every flow number is one address and port, no two flows the same.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Result, ensure};
use ipnet::IpNet;

use pointsman_bench::flows::Family;

/// The first port that a client uses.
const FIRST_PORT: u32 = 1024;
/// Ports that a client uses.
const PORTS: u32 = 65_536 - FIRST_PORT;
/// Addresses at most.
const MOST_HOSTS: u32 = 1 << 20;
/// How ports follow each other: coprime to `PORTS`, so that all of them have their turn, and far
/// from 1, so that addresses and ports do not count up together (RFC 4814 asks for pseudorandom
/// ports; in lockstep the hash of some NICs sends everything to few queues).
const PORT_STEP: u64 = 41_203;
/// By how much the first ports of neighbouring addresses differ.
const HOST_STEP: u64 = 24_317;

/// Addresses and ports of all flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Clients {
    base: IpAddr,
    hosts: u32,
}

/// What differs between flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Client {
    /// The last four octets of the address.
    pub(crate) low: [u8; 4],
    /// The port.
    pub(crate) port: u16,
}

impl Clients {
    /// The clients of a network.
    pub(crate) fn of(network: IpNet) -> Result<Self> {
        let bits = u32::from(network.max_prefix_len() - network.prefix_len());
        ensure!(bits >= 1, "{network} has no room for clients");
        let hosts = 1u32.checked_shl(bits).filter(|hosts| *hosts <= MOST_HOSTS);
        Ok(Self { base: network.network(), hosts: hosts.unwrap_or(MOST_HOSTS) })
    }

    /// IPv4 or IPv6.
    pub(crate) fn family(&self) -> Family {
        match self.base {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }

    /// The address of all clients without the last four octets.
    pub(crate) fn base(&self) -> IpAddr {
        match self.base {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 32 << 32).into(),
        }
    }

    /// How many different flows there are.
    pub(crate) fn capacity(&self) -> u32 {
        u32::try_from(u64::from(self.hosts) * u64::from(PORTS)).unwrap_or(u32::MAX)
    }

    /// The client of a flow.
    #[inline]
    pub(crate) fn client(&self, flow: u32) -> Client {
        let (host, turn) = (flow % self.hosts, flow / self.hosts);
        let base = match self.base {
            IpAddr::V4(v4) => v4.octets(),
            IpAddr::V6(v6) => {
                let [.., a, b, c, d] = v6.octets();
                [a, b, c, d]
            }
        };
        let place = u64::from(turn) * PORT_STEP + u64::from(host) * HOST_STEP;
        let port = u64::from(FIRST_PORT) + place % u64::from(PORTS);
        Client {
            low: u32::from_be_bytes(base).wrapping_add(host).to_be_bytes(),
            port: u16::try_from(port).unwrap_or(u16::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_flows_are_the_same() {
        let clients = Clients::of("192.0.2.0/30".parse().unwrap()).unwrap();
        assert_eq!(clients.capacity(), 4 * 64_512);
        let all: BTreeSet<_> = (0..clients.capacity())
            .map(|flow| clients.client(flow))
            .map(|client| (client.low, client.port))
            .collect();
        assert_eq!(all.len(), 4 * 64_512);
        assert!(all.iter().all(|(low, port)| low[..3] == [192, 0, 2] && *port >= 1024));
    }

    #[test]
    fn the_last_four_octets_count_within_the_network() {
        let v6 = Clients::of("2001:2:0:1::8000:0/112".parse().unwrap()).unwrap();
        assert_eq!(v6.client(0xabcd).low, [0x80, 0, 0xab, 0xcd]);
        assert_eq!(v6.base(), "2001:2:0:1::".parse::<IpAddr>().unwrap());
        assert!(Clients::of("192.0.2.1/32".parse().unwrap()).is_err());
    }
}
