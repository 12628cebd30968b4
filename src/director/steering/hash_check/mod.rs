//! Whether a NIC hashes as it was told, judged by its hashes of the first packets.
//!
//! Connections may exist when the first hash is seen, and their owners cannot change any more. So
//! nothing is changed: the workers compute owners by themselves in any case, and a NIC that hashes
//! otherwise only makes them hand packets over, as without its help. The operator is told.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};

use zerocopy::FromBytes;

use super::plan::Side;
use crate::control::HashCheck;
use crate::dataplane::steering::Steering;
use crate::dpdk::hash_sample::{HashSample, HashSamples};
use crate::dpdk::rss::HashedEnd;
use crate::wire::U16;
use crate::wire::ethernet::{EthernetHeader, ether_type};
use crate::wire::ipv4::{self, Ipv4Header, protocol};
use crate::wire::ipv6::Ipv6Header;
use crate::wire::toeplitz::{End, KeyPair, RssInput, hash};

/// What the NIC's hash of one packet was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finding {
    AsTold,
    /// Right, but the table leads to another queue.
    OtherQueue,
    /// As a NIC does with the other `rss_input`.
    OtherInput,
    /// Of both ends.
    WholeFlow,
    Unknown,
}

/// The check of one port.
#[derive(Debug)]
pub(in crate::director) struct PortCheck {
    pub(super) interface: String,
    pub(super) samples: HashSamples,
    pub(super) side: Side,
    pub(super) externals: Vec<IpAddr>,
    pub(super) keys: KeyPair,
    pub(super) steering: Steering,
    pub(super) rx_queues: u16,
    pub(super) verdict: Cell<HashCheck>,
}

impl PortCheck {
    /// What is known by now. A mismatch is logged once and stays.
    pub(in crate::director) fn verdict(&self) -> HashCheck {
        while let Some(sample) = self.samples.pop() {
            match self.judge(&sample) {
                Some(Finding::AsTold) => self.confirm(),
                Some(finding) => self.tell(finding),
                None => {}
            }
        }
        self.verdict.get()
    }

    fn confirm(&self) {
        if self.verdict.get() == HashCheck::Waiting {
            self.verdict.set(HashCheck::Confirmed);
            tracing::info!(
                interface = self.interface,
                "the NIC hashes as told: packets come to the workers that own their flows"
            );
        }
    }

    fn tell(&self, finding: Finding) {
        if self.verdict.replace(HashCheck::Mismatch) == HashCheck::Mismatch {
            return;
        }
        let other = self.keys.input().other().name();
        let what = match finding {
            Finding::OtherQueue => {
                "its table from hash to queue is not the one that was set".into()
            }
            Finding::OtherInput => {
                format!("it would be right with rss_input = \"{other}\" in [dpdk]")
            }
            Finding::WholeFlow => "it hashes both ends of a flow".into(),
            Finding::AsTold | Finding::Unknown => "how it hashes is not known".to_owned(),
        };
        tracing::warn!(
            interface = self.interface,
            what,
            "the NIC does not hash as told: workers hand packets over to the owners of their flows \
             (docs/steering.md)"
        );
    }

    /// `None` for packets that NICs are not told to hash by ports.
    fn judge(&self, sample: &HashSample) -> Option<Finding> {
        let (source, destination) = endpoints(sample.octets())?;
        let is_from_outside = match self.side.outside_end() {
            Some(end) => end == HashedEnd::Source,
            None => self.externals.contains(&destination.ip()),
        };
        let end = if is_from_outside { End::Source } else { End::Destination };
        let expected = |input| {
            let outside = match end {
                End::Source => source,
                End::Destination => destination,
            };
            hash(self.keys.key(end), &masked(input, end, outside))
        };
        let whole = hash(self.keys.key(end), &tuple(source, destination));
        let queue = self.steering.worker_of_hash(sample.hash).0 % self.rx_queues.max(1);
        Some(if sample.hash == expected(self.keys.input()) {
            if sample.queue.0 == queue { Finding::AsTold } else { Finding::OtherQueue }
        } else if sample.hash == expected(self.keys.input().other()) {
            Finding::OtherInput
        } else if sample.hash == whole {
            Finding::WholeFlow
        } else {
            Finding::Unknown
        })
    }
}

/// What a NIC hashes of a flow.
fn tuple(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let mut octets = address(source.ip());
    octets.extend(address(destination.ip()));
    octets.extend(source.port().to_be_bytes());
    octets.extend(destination.port().to_be_bytes());
    octets
}

/// What it hashes when it is told to take one end alone.
fn masked(input: RssInput, end: End, outside: SocketAddr) -> Vec<u8> {
    let zero = SocketAddr::new(
        match outside {
            SocketAddr::V4(_) => IpAddr::from([0; 4]),
            SocketAddr::V6(_) => IpAddr::from([0; 16]),
        },
        0,
    );
    match (input, end) {
        (RssInput::Zeroed, End::Source) => tuple(outside, zero),
        (RssInput::Zeroed, End::Destination) => tuple(zero, outside),
        (RssInput::Packed, _) => {
            let mut octets = address(outside.ip());
            octets.extend(outside.port().to_be_bytes());
            octets
        }
    }
}

fn address(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// Source and destination of an unfragmented TCP or UDP packet without IPv6 extension headers.
fn endpoints(frame: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let (ethernet, mut rest) = EthernetHeader::read_from_prefix(frame).ok()?;
    let mut kind = ethernet.ether_type.get();
    if kind == ether_type::VLAN {
        let ([_, inner], after) = <[U16; 2]>::read_from_prefix(rest).ok()?;
        (kind, rest) = (inner.get(), after);
    }
    let has_ports = |number| matches!(number, protocol::TCP | protocol::UDP);
    let (source, destination, ports): (IpAddr, IpAddr, _) = match kind {
        ether_type::IPV4 => {
            let (ip, _) = Ipv4Header::read_from_prefix(rest).ok()?;
            let is_plain = has_ports(ip.protocol) && !ip.is_fragment();
            let length = ip.header_length().max(ipv4::HEADER);
            (ip.source.into(), ip.destination.into(), rest.get(length..).filter(|_| is_plain)?)
        }
        ether_type::IPV6 => {
            let (ip, after) = Ipv6Header::read_from_prefix(rest).ok()?;
            let is_plain = has_ports(ip.next_header);
            (ip.source.into(), ip.destination.into(), Some(after).filter(|_| is_plain)?)
        }
        _ => return None,
    };
    let ([from, to], _) = <[U16; 2]>::read_from_prefix(ports).ok()?;
    Some((SocketAddr::new(source, from.get()), SocketAddr::new(destination, to.get())))
}

#[cfg(test)]
mod tests;
