//! What workers let through to the failover thread. Whatever is of no use there is refused before it
//! takes a place in a queue: who floods a link must not keep the other director from being heard.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use zerocopy::FromBytes;

use super::classify::Packet;
use super::failover::HeardMessage;
use crate::ids::InterfaceId;
use crate::wire::ethernet::{self, EthernetHeader, ether_type};
use crate::wire::ipv4::{Ipv4Header, protocol};
use crate::wire::ipv6::Ipv6Header;
use crate::wire::ipvs_sync;
use crate::wire::udp::UdpHeader;
use crate::wire::vrrp::{Advertisement, Ends, HOP_LIMIT, Version};

/// What the director listens to, and how it stands to what moves.
#[derive(Clone, Debug)]
pub struct Hearing {
    /// The virtual router (VRID), on every link.
    pub router_id: u8,
    /// The protocol.
    pub version: Version,
    /// Where advertisements come in.
    pub links: Vec<HeardLink>,
    /// Where synchronisation comes in; `None`: nowhere.
    pub sync: Option<HeardSync>,
    /// Whether the active director is a host for what moves.
    pub accepts: bool,
}

/// Where synchronisation comes in.
#[derive(Clone, Debug)]
pub struct HeardSync {
    /// The interface.
    pub interface: InterfaceId,
    /// The director's addresses there.
    pub own: Vec<IpAddr>,
    /// The other directors; empty: whoever speaks to the multicast group.
    pub peers: Vec<IpAddr>,
}

/// A link that advertisements of one address family come in by.
#[derive(Clone, Debug)]
pub struct HeardLink {
    /// The interface.
    pub interface: InterfaceId,
    /// The director's address there.
    pub own: IpAddr,
    /// The other directors; empty: whoever speaks to the multicast group.
    pub peers: Vec<IpAddr>,
}

/// Why an advertisement does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unheard {
    /// It was forwarded.
    HopLimit,
    /// It is none, or was changed.
    Malformed,
    /// It is of another virtual router.
    RouterId,
    /// It is of the other version.
    Version,
    /// Version 2: its sender sends more or less often.
    Interval,
    /// Version 2: another password.
    Password,
    /// It is from none of the peers, or not to us.
    Sender,
}

impl Unheard {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::HopLimit,
        Self::Malformed,
        Self::RouterId,
        Self::Version,
        Self::Interval,
        Self::Password,
        Self::Sender,
    ];

    /// The word in status and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::HopLimit => "hop_limit",
            Self::Malformed => "malformed",
            Self::RouterId => "router_id",
            Self::Version => "version",
            Self::Interval => "interval",
            Self::Password => "password",
            Self::Sender => "sender",
        }
    }
}

/// Messages that were refused, by all workers.
#[derive(Debug, Default)]
pub(super) struct Refused {
    advertisements: [AtomicU64; Unheard::ALL.len()],
    synchronisation: AtomicU64,
}

impl Refused {
    pub(super) fn count(&self, why: Unheard) {
        if let Some(count) = self.advertisements.get(why as usize) {
            count.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn count_synchronisation(&self) {
        self.synchronisation.fetch_add(1, Relaxed);
    }

    pub(super) fn advertisements(&self, why: Unheard) -> u64 {
        self.advertisements.get(why as usize).map_or(0, |count| count.load(Relaxed))
    }

    pub(super) fn synchronisation(&self) -> u64 {
        self.synchronisation.load(Relaxed)
    }
}

/// What is done with a message about connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ruling {
    /// It goes to the thread.
    Heard,
    /// It is of another group.
    Refused,
    /// It is our own, which somebody has sent back.
    Own,
    /// Nobody listens.
    Unwanted,
}

impl Hearing {
    /// Of a virtual router that has no links yet.
    pub const fn on_no_link(router_id: u8, version: Version) -> Self {
        Self { router_id, version, links: Vec::new(), sync: None, accepts: true }
    }

    /// Whether an advertisement goes to the failover thread: the checks of RFC 9568 section 7.1 that
    /// every worker can do. That thread looks at the password and the interval of version 2.
    pub(super) fn of_advertisement(&self, overheard: &Overheard<'_>) -> Result<(), Unheard> {
        let Overheard { interface, ends, hop_limit, payload, .. } = *overheard;
        let mut links = self.links.iter();
        let is_there = |link: &&HeardLink| {
            link.interface == interface && link.own.is_ipv4() == ends.source.is_ipv4()
        };
        let link = links.find(is_there).ok_or(Unheard::Sender)?;
        if hop_limit != HOP_LIMIT {
            return Err(Unheard::HopLimit);
        }
        let head = Advertisement::parse(payload, ends).map_err(|_| Unheard::Malformed)?;
        if head.router_id != self.router_id {
            return Err(Unheard::RouterId);
        }
        if !link.is_for_us(ends) {
            return Err(Unheard::Sender);
        }
        if head.version != self.version {
            return Err(Unheard::Version);
        }
        Ok(())
    }

    /// What is done with a message about connections, by where it came in and its port.
    pub(super) fn of_synchronisation(&self, overheard: &Overheard<'_>) -> Ruling {
        let Some(sync) = &self.sync else { return Ruling::Unwanted };
        let udp = UdpHeader::ref_from_prefix(overheard.payload);
        let is_to_port = udp.is_ok_and(|(udp, _)| udp.destination_port.get() == ipvs_sync::PORT);
        let Ends { source, destination } = overheard.ends;
        // What comes from beyond the link is to no group, and has another hop limit.
        let is_peer = if sync.peers.is_empty() {
            destination.is_multicast()
        } else {
            let is_near = destination.is_multicast() || overheard.hop_limit == HOP_LIMIT;
            sync.peers.contains(&source) && is_near
        };
        if overheard.interface != sync.interface || !is_to_port {
            Ruling::Refused
        } else if sync.own.contains(&source) {
            Ruling::Own
        } else if !is_peer {
            Ruling::Refused
        } else {
            Ruling::Heard
        }
    }
}

impl HeardLink {
    fn is_for_us(&self, Ends { source, destination }: Ends) -> bool {
        let is_to_us = if self.peers.is_empty() {
            destination.is_multicast()
        } else {
            destination == self.own && self.peers.contains(&source)
        };
        is_to_us && source != self.own
    }
}

/// A message of another director, as it lies in its frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Overheard<'f> {
    interface: InterfaceId,
    ends: Ends,
    hop_limit: u8,
    /// What IP carries.
    payload: &'f [u8],
    /// Whether it is synchronisation, which is over UDP, and no advertisement.
    pub(super) is_synchronisation: bool,
}

impl<'f> Overheard<'f> {
    /// `None`: the frame is cut off.
    pub(super) fn read(interface: InterfaceId, packet: &Packet, octets: &'f [u8]) -> Option<Self> {
        let (link, rest) = EthernetHeader::ref_from_prefix(octets).ok()?;
        let (ends, hop_limit, is_synchronisation);
        if link.ether_type.get() == ether_type::IPV4 {
            let (ip, _) = Ipv4Header::ref_from_prefix(rest).ok()?;
            ends = Ends { source: ip.source.into(), destination: ip.destination.into() };
            (hop_limit, is_synchronisation) = (ip.ttl, ip.protocol == protocol::UDP);
        } else {
            let (ip, _) = Ipv6Header::ref_from_prefix(rest).ok()?;
            ends = Ends { source: ip.source.into(), destination: ip.destination.into() };
            (hop_limit, is_synchronisation) = (ip.hop_limit, ip.next_header == protocol::UDP);
        }
        let end = ethernet::HEADER + usize::from(packet.ip_octets);
        let payload = octets.get(usize::from(packet.transport)..end)?;
        Some(Self { interface, ends, hop_limit, payload, is_synchronisation })
    }

    /// For the failover thread. `None`: it is longer than any message is.
    pub(super) fn to_message(self) -> Option<HeardMessage> {
        let Self { interface, ends: Ends { source, destination }, hop_limit, .. } = self;
        let payload = self.payload.try_into().ok()?;
        Some(HeardMessage { interface, source, destination, hop_limit, payload })
    }
}
