//! Echo requests of inside hosts to the outside, and the replies: flows with an identifier for a
//! port (RFC 5508 section 3). What is for the director itself is answered by `local`.

use zerocopy::FromBytes;

use super::classify::Packet;
use super::conn::ConnectionTable;
use super::family::Family;
use super::flow::Flow;
use super::frame::{Frame, Outlet};
use super::local;
use super::pipeline::Origin;
use super::shared::Shared;
use crate::clock::Tick;
use crate::wire::U16;
use crate::wire::ethernet::{self, EthernetHeader};
use crate::wire::flow_key::FlowKey;
use crate::wire::icmpv4::IcmpHeader;

/// What stands for the source and destination port of an echo request or reply: the identifier
/// at the end that asks, 0 at the end that answers. `None`: the message is neither, or a reply
/// with identifier 0: those are never asked for outside, and would look like requests.
pub(super) fn ports<A: Family>(message: &[u8]) -> Option<(U16, U16)> {
    let (icmp, _) = IcmpHeader::ref_from_prefix(message).ok()?;
    let [high, low, ..] = icmp.rest;
    let identifier = U16::from_bytes([high, low]);
    let (request, reply) = A::ECHO;
    if icmp.kind == request {
        Some((identifier, U16::new(0)))
    } else {
        (icmp.kind == reply && identifier != U16::new(0)).then_some((U16::new(0), identifier))
    }
}

/// An ICMP message that is no error: of a flow through the director, or for the director itself.
pub(super) fn receive<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    table: &mut ConnectionTable<A>,
    (packet, origin, now): (&Packet, Origin, Tick),
    frame: F,
    outlet: &mut impl Outlet<F>,
) {
    match flow_key::<A, F>(shared, packet, &frame) {
        Some(key) => {
            let hash = table.hash(&key);
            let flow = Flow { packet, key: &key, hash, now, turn: None, interface: None };
            let known = table.find(flow.hash, flow.key);
            if known.is_none()
                && let Some(owner) = shared.other_owner(&key, origin)
            {
                return outlet.hand_over(owner, frame);
            }
            shared.flow(table, &flow, known, frame, outlet);
        }
        None => local::receive(shared, packet, frame, outlet),
    }
}

/// The 5-tuple of a message that belongs to a flow: requests to others, and replies.
fn flow_key<A: Family, F: Frame>(
    shared: &Shared<F>,
    packet: &Packet,
    frame: &F,
) -> Option<FlowKey<A>> {
    if !shared.services.has_masqueraded() && !shared.services.policy().routing {
        return None;
    }
    let octets = frame.octets();
    let (source, destination) = A::addresses(octets)?;
    let is_group = destination.to_ip().is_multicast();
    let (source_port, destination_port) = ports::<A>(octets.get(usize::from(packet.transport)..)?)?;
    let is_request = destination_port == U16::new(0);
    let is_group_frame = EthernetHeader::ref_from_prefix(octets)
        .is_ok_and(|(link, _)| ethernet::is_group(&link.destination));
    if is_group
        || is_group_frame
        || source == A::default()
        || is_request && shared.is_ours(destination)
    {
        return None;
    }
    Some(FlowKey { source, destination, source_port, destination_port, protocol: A::ICMP })
}
