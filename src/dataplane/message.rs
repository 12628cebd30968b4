//! Messages over IP from one director to another: advertisements, and connections.

use std::net::IpAddr;

use arrayvec::ArrayVec;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::frame::{Frame, Outlet};
use super::next_hop::{AdjacencyId, Reachability};
use super::shared::Shared;
use super::stats::DropReason;
use super::vlan;
use crate::ids::{InterfaceId, VlanId};
use crate::wire::ethernet::{self, EthernetHeader, Mac, ether_type};
use crate::wire::ipv4::{self, Ipv4Header};
use crate::wire::ipv6::{self, Ipv6Header};
use crate::wire::{U16, checksum};

/// Octets of the longest message: what fits a link, without the IP header.
pub const MESSAGE: usize = 1460;

/// Octets of the longest message that is heard: an IPVS fills a packet of 1500.
pub const LONGEST_HEARD: usize = 1480;

/// A message over IP that the failover thread has sent.
#[derive(Clone, Debug)]
pub struct Message {
    /// Where it leaves.
    pub interface: InterfaceId,
    /// The Ethernet address that it comes from; `None`: the interface's own.
    pub source_mac: Option<Mac>,
    /// An address of the director.
    pub source: IpAddr,
    /// A group, or another director on the link.
    pub destination: IpAddr,
    /// The IP protocol.
    pub protocol: u8,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// What IP carries.
    pub payload: ArrayVec<u8, MESSAGE>,
}

/// Why a message was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unsent {
    /// There is no room just now, in the queue or in the pool.
    NoRoom,
    /// It never will be.
    Unfit,
}

impl<F: Frame> Shared<F> {
    /// Sends a message, if it can be sent now.
    pub(super) fn send_message(
        &mut self,
        message: &Message,
        outlet: &mut impl Outlet<F>,
    ) -> Result<(), Unsent> {
        let Some(mut frame) = outlet.allocate() else {
            self.stats.no_buffer.increment();
            return Err(Unsent::NoRoom);
        };
        let Some((own, vlan)) =
            self.interfaces.get(message.interface).map(|link| (link.mac, link.vlan))
        else {
            outlet.discard(frame);
            return Err(Unsent::Unfit);
        };
        let source = message.source_mac.unwrap_or(own);
        if write(message, source, &mut frame).is_none() {
            self.stats.no_buffer.increment();
            outlet.discard(frame);
            return Err(Unsent::Unfit);
        }
        self.stats.originated.increment();
        let is_urgent = message.protocol == ipv4::protocol::VRRP;
        if message.destination.is_multicast() {
            return self.send_now((message.interface, vlan), frame, is_urgent, outlet);
        }
        let hop =
            self.next_hops.find_or_add(&self.interfaces, message.interface, message.destination);
        let Some(hop) = hop else {
            self.drop(frame, DropReason::NoRoute, outlet);
            return Err(Unsent::Unfit);
        };
        self.send_to_peer((hop, source), frame, is_urgent, outlet)
    }

    /// Sends a frame to another director. One whose Ethernet address nobody knows is not there to
    /// hear it, or has no link: what is said to it is said. Advertisements go on to where it was last:
    /// when its link is back, it has to hear them before it thinks that there is no master.
    fn send_to_peer(
        &mut self,
        (hop, source): (AdjacencyId, Mac),
        mut frame: F,
        is_urgent: bool,
        outlet: &mut impl Outlet<F>,
    ) -> Result<(), Unsent> {
        let known = self.next_hops.get(hop).copied();
        let is_reachable = known.is_some_and(|it| it.reachability == Reachability::Reachable);
        if is_urgent && !is_reachable {
            self.resolve(hop);
        }
        let known = known.filter(|entry| is_reachable || is_urgent && entry.link[0] != [0; 6]);
        let Some(entry) = known else {
            if is_urgent {
                // It would be out of date when the address is known.
                self.drop(frame, DropReason::NeighborUnreachable, outlet);
            } else {
                self.send(hop, 0, frame, outlet);
            }
            return Ok(());
        };
        if let Ok((link, _)) = EthernetHeader::mut_from_prefix(frame.octets_mut()) {
            [link.destination, _] = entry.link;
            link.source = source;
        }
        self.send_now((entry.interface, entry.vlan), frame, is_urgent, outlet)
    }

    fn send_now(
        &self,
        (interface, vlan): (InterfaceId, VlanId),
        mut frame: F,
        is_urgent: bool,
        outlet: &mut impl Outlet<F>,
    ) -> Result<(), Unsent> {
        if vlan != VlanId::UNTAGGED && !vlan::put_on(&mut frame, vlan) {
            self.drop(frame, DropReason::NoHeadroom, outlet);
            return Err(Unsent::Unfit);
        }
        if outlet.transmit_now(interface, frame, is_urgent) { Ok(()) } else { Err(Unsent::NoRoom) }
    }
}

/// Writes a message with its headers; the destination of one to a group is that group's.
fn write<F: Frame>(message: &Message, source_mac: Mac, frame: &mut F) -> Option<()> {
    let payload = &message.payload[..];
    let (ether_type, head) = match message.destination {
        IpAddr::V4(_) => (ether_type::IPV4, ipv4::HEADER),
        IpAddr::V6(_) => (ether_type::IPV6, ipv6::HEADER),
    };
    if !frame.set_len(ethernet::HEADER + head + payload.len()) {
        return None;
    }
    let length = u16::try_from(payload.len()).ok()?;
    let (link, rest) = frame.octets_mut().split_at_mut_checked(ethernet::HEADER)?;
    let destination = match message.destination {
        IpAddr::V4(v4) => ethernet::ipv4_group(&v4.octets()),
        IpAddr::V6(v6) => ethernet::ipv6_group(&v6.octets()),
    };
    EthernetHeader { destination, source: source_mac, ether_type: U16::new(ether_type) }
        .write_to(link)
        .ok()?;
    let (ip, rest) = rest.split_at_mut_checked(head)?;
    match (message.source, message.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut header = Ipv4Header {
                version_ihl: 0x45,
                // Network control (RFC 2474 section 4.2.2.2).
                tos: 0xc0,
                total_length: U16::new(length + 20),
                ttl: message.hop_limit,
                protocol: message.protocol,
                source: source.octets(),
                destination: destination.octets(),
                ..Ipv4Header::new_zeroed()
            };
            header.checksum = checksum::finish(header.as_bytes(), 0);
            header.write_to(ip).ok()?;
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => Ipv6Header {
            version_class_flow: [0x6c, 0, 0, 0],
            payload_length: U16::new(length),
            next_header: message.protocol,
            hop_limit: message.hop_limit,
            source: source.octets(),
            destination: destination.octets(),
        }
        .write_to(ip)
        .ok()?,
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
    }
    rest.copy_from_slice(payload);
    Some(())
}
