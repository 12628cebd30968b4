//! Echo (RFC 792, RFC 4443 section 4): answers to pings of the director's addresses and VIPs.

use zerocopy::FromBytes;

use super::{Outcome, return_to_sender};
use crate::dataplane::classify::Packet;
use crate::dataplane::family::OWN_TTL;
use crate::dataplane::frame::Frame;
use crate::dataplane::interface::Interface;
use crate::dataplane::pipeline::Shared;
use crate::dataplane::stats::DropReason;
use crate::wire::address::V6;
use crate::wire::checksum::{self, Delta};
use crate::wire::ethernet::{self, EthernetHeader};
use crate::wire::icmpv4::{self, IcmpHeader};
use crate::wire::icmpv6;
use crate::wire::ipv4::Ipv4Header;
use crate::wire::ipv6::Ipv6Header;

/// Makes an echo request, whose header `frame` holds at `transport`, its reply.
fn turn<F: Frame>(frame: &mut F, transport: usize, reply: u8) -> Option<()> {
    let (icmp, _) = IcmpHeader::mut_from_prefix(frame.octets_mut().get_mut(transport..)?).ok()?;
    let delta = Delta::between(&[icmp.kind, icmp.code], &[reply, icmp.code]);
    icmp.kind = reply;
    icmp.checksum = delta.apply(icmp.checksum);
    Some(())
}

/// The Ethernet header and what follows.
fn split<F: Frame>(frame: &mut F) -> Option<(&mut EthernetHeader, &mut [u8])> {
    EthernetHeader::mut_from_prefix(frame.octets_mut()).ok()
}

pub(super) fn receive_v4<F: Frame>(
    shared: &Shared<F>,
    interface: &Interface,
    packet: &Packet,
    frame: &mut F,
) -> Outcome {
    answer_v4(shared, interface, packet, frame).unwrap_or(Outcome::Dropped(DropReason::Truncated))
}

fn answer_v4<F: Frame>(
    shared: &Shared<F>,
    interface: &Interface,
    packet: &Packet,
    frame: &mut F,
) -> Option<Outcome> {
    let transport = usize::from(packet.transport);
    let (icmp, _) = IcmpHeader::ref_from_prefix(frame.octets().get(transport..)?).ok()?;
    let is_request = icmp.kind == icmpv4::ECHO_REQUEST && icmp.code == 0;
    let header_octets = transport.checked_sub(ethernet::HEADER)?;
    let (link, rest) = split(frame)?;
    let (ip, _) = Ipv4Header::mut_from_prefix(rest).ok()?;
    if !shared.is_ours(ip.destination) {
        return Some(Outcome::Dropped(DropReason::NotOwned));
    }
    if !is_request {
        return Some(Outcome::Dropped(DropReason::IcmpUnsupported));
    }
    std::mem::swap(&mut ip.source, &mut ip.destination);
    ip.ttl = OWN_TTL;
    ip.checksum = [0; 2];
    return_to_sender(link, interface);
    let sum = checksum::finish(rest.get(..header_octets)?, 0);
    let (ip, _) = Ipv4Header::mut_from_prefix(rest).ok()?;
    ip.checksum = sum;
    turn(frame, transport, icmpv4::ECHO_REPLY)?;
    Some(Outcome::Answered)
}

/// An ICMPv6 echo request. The caller has checked its type.
pub(super) fn answer_v6<F: Frame>(
    shared: &Shared<F>,
    interface: &Interface,
    packet: &Packet,
    frame: &mut F,
) -> Option<Outcome> {
    let (link, rest) = split(frame)?;
    let (ip, _) = Ipv6Header::mut_from_prefix(rest).ok()?;
    if !shared.is_ours(ip.destination) {
        return Some(Outcome::Dropped(DropReason::NotOwned));
    }
    if ip.source == V6::default() {
        // Nobody to answer to; only Neighbor Discovery may come from nowhere.
        return Some(Outcome::Dropped(DropReason::Martian));
    }
    std::mem::swap(&mut ip.source, &mut ip.destination);
    ip.hop_limit = OWN_TTL;
    return_to_sender(link, interface);
    turn(frame, usize::from(packet.transport), icmpv6::ECHO_REPLY)?;
    Some(Outcome::Answered)
}
