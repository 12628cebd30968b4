//! Echo (RFC 792, RFC 4443 section 4): answers to pings of the director's addresses and VIPs.

use zerocopy::FromBytes;

use super::{Outcome, return_to_sender};
use crate::dataplane::classify::Packet;
use crate::dataplane::datagrams::Fragment;
use crate::dataplane::family::Family;
use crate::dataplane::frame::Frame;
use crate::dataplane::interface::Interface;
use crate::dataplane::shared::Shared;
use crate::dataplane::stats::DropReason;
use crate::wire::checksum::Delta;
use crate::wire::ethernet::EthernetHeader;
use crate::wire::icmpv4::IcmpHeader;

/// An ICMP or ICMPv6 packet that is no error.
pub(super) fn receive<A: Family, F: Frame>(
    shared: &Shared<F>,
    interface: &Interface,
    packet: &Packet,
    frame: &mut F,
) -> Outcome {
    match answer::<A, F>(shared, usize::from(packet.transport), frame) {
        Ok(()) => {
            if let Ok((link, _)) = EthernetHeader::mut_from_prefix(frame.octets_mut()) {
                return_to_sender(link, interface.mac);
            }
            Outcome::Answered
        }
        Err(reason) => Outcome::Dropped(reason),
    }
}

/// The first fragment of an ICMP or ICMPv6 packet. Turning an echo request round changes its
/// checksum by a constant, so the datagram need not be complete.
pub(in crate::dataplane) fn echo_fragment<A: Family, F: Frame>(
    shared: &Shared<F>,
    fragment: &Fragment<A>,
    frame: &mut F,
) -> Result<(), DropReason> {
    answer::<A, F>(shared, fragment.payload, frame)
}

/// Makes an echo request to us, whose ICMP header is at `transport`, its reply.
fn answer<A: Family, F: Frame>(
    shared: &Shared<F>,
    transport: usize,
    frame: &mut F,
) -> Result<(), DropReason> {
    let (source, destination) = A::addresses(frame.octets()).ok_or(DropReason::Truncated)?;
    if source == A::default() {
        // Nobody to answer to.
        return Err(DropReason::Martian);
    }
    if !shared.is_ours(destination) {
        return Err(DropReason::NotOwned);
    }
    if !shared.is_active && !shared.interfaces.iter().any(|link| link.keeps(destination.to_ip())) {
        return Err(DropReason::Standby);
    }
    if !shared.accepts(destination.to_ip()) {
        return Err(DropReason::NotAccepted);
    }
    let message = frame.octets_mut().get_mut(transport..).ok_or(DropReason::Truncated)?;
    let (icmp, _) = IcmpHeader::mut_from_prefix(message).map_err(|_| DropReason::Truncated)?;
    let (request, reply) = A::ECHO;
    if icmp.kind != request || icmp.code != 0 {
        return Err(DropReason::IcmpUnsupported);
    }
    // IPv6: source and destination of the pseudo header change places, which its sum ignores.
    let delta = Delta::between(&[icmp.kind, 0], &[reply, 0]);
    icmp.kind = reply;
    icmp.checksum = delta.apply(icmp.checksum);
    A::turn(frame).ok_or(DropReason::Truncated)
}
