//! What differs between IPv4 and IPv6 on a packet's way.

mod v4;
mod v6;

use super::classify::{Class, Packet};
use super::datagrams::Fragment;
use super::echo;
use super::frame::Frame;
use super::icmp_error::{Quoted, ports};
use super::interface::{Interfaces, Network};
use super::next_hop::{NextHops, Route};
use super::stats::DropReason;
use crate::service::{FamilyServices, ServiceTable};
use crate::wire::address::Address;
use crate::wire::checksum::Delta;
use crate::wire::ethernet;
use crate::wire::flow_key::{Direction, FlowKey};
use crate::wire::ipv4::protocol;

/// TTL and hop limit of what the director sends itself.
pub(super) const OWN_TTL: u8 = 64;

/// An address family that the pipeline forwards.
pub(super) trait Family: Address {
    /// Octets of an IP header without options.
    const HEADER: usize;
    /// Where the transport header of a frame begins whose IP header has no options or extensions.
    const PLAIN_TRANSPORT: usize = ethernet::HEADER + Self::HEADER;
    /// EtherType.
    const ETHER_TYPE: u16;
    /// The protocol number of this family's ICMP.
    const ICMP: u8;
    /// The types of echo request and reply.
    const ECHO: (u8, u8);
    /// Octets that an ICMP error may have in all (RFC 1812 section 4.3.2.3, RFC 4443
    /// section 2.4(c)).
    const ERROR_LIMIT: usize;

    /// The 5-tuple of a packet of a flow over this family.
    fn key_of(class: &Class) -> Option<&FlowKey<Self>>;

    /// The services of this family.
    fn services(table: &ServiceTable) -> &FamilyServices<Self>;

    /// The networks of this family that interfaces are in.
    fn networks(interfaces: &Interfaces) -> &[Network<Self>];

    /// The routes of this family, longest prefix first.
    fn routes(next_hops: &NextHops) -> &[Route<Self>];

    /// Source and destination of a frame's IP packet.
    fn addresses(frame: &[u8]) -> Option<(Self, Self)>;

    /// Writes the addresses that a packet leaves with into its IP header, which begins at the front
    /// of `packet`, takes one from its TTL, which is above 1, and updates its checksum. `None`: it is
    /// too short.
    fn forward(packet: &mut [u8], leaving: &FlowKey<Self>, address_delta: Delta) -> Option<()>;

    /// Writes a new destination (on the way in) or source (of a reply) into the IP header of a
    /// frame, takes one from its TTL and updates its checksum. `None`: the frame is too short.
    fn rewrite(
        frame: &mut [u8],
        direction: Direction,
        address: Self,
        address_delta: Delta,
    ) -> Option<()>;

    /// Writes a destination (as on the way in) or source (as of a reply) into the IP header at the
    /// front of `packet`, and nothing else.
    fn write_address(packet: &mut [u8], direction: Direction, address: Self) -> Option<()>;

    /// Takes one from the TTL of a frame's IP packet and updates its checksum.
    fn decrement_ttl(frame: &mut [u8]) -> Option<()>;

    /// What writing `address` changes in the header checksum, whatever stands there now.
    fn outer_delta(frame: &[u8], direction: Direction, address: Self) -> Option<Delta>;

    /// As [`Family::rewrite`] for the packet that an ICMP error quotes, whose TTL stays.
    fn rewrite_quoted(
        packet: &mut [u8],
        direction: Direction,
        address: Self,
        address_delta: Delta,
    ) -> Option<()>;

    /// What goes into an ICMP checksum beside the message: nothing, or the pseudo header.
    fn icmp_pseudo_header(frame: &[u8], length: usize) -> Option<u16>;

    /// What a fragment says of itself.
    fn fragment(frame: &[u8], packet: &Packet) -> Result<Fragment<Self>, DropReason>;

    /// Swaps source and destination of a frame's IP packet and gives it a fresh TTL: the reply
    /// to it.
    fn turn<F: Frame>(frame: &mut F) -> Option<()>;

    /// Whether a router may fragment the packet.
    fn may_be_split(frame: &[u8]) -> bool;

    /// Looks into the packet that an ICMP error quotes, which begins at `at` of the frame.
    fn inspect_quoted(quote: &[u8], at: usize) -> Result<Quoted<Self>, DropReason>;

    /// Writes the octets of the IP packet into its header.
    fn set_length(frame: &mut [u8], octets: u16) -> Option<()>;

    /// Writes the IP header of a packet of our own.
    fn write_header(
        header: &mut [u8],
        from: Self,
        to: Self,
        protocol: u8,
        payload: usize,
    ) -> Option<()>;
}

/// The 5-tuple of a quoted packet: of TCP and UDP, and of an echo request or reply, whose
/// identifier stands for the port of the end that is not outside.
fn quoted_key<A: Family>(
    segment: &[u8],
    protocol: u8,
    (source, destination): (A, A),
) -> Result<FlowKey<A>, DropReason> {
    let (source_port, destination_port) = match protocol {
        protocol::TCP | protocol::UDP | protocol::SCTP => {
            ports(segment).ok_or(DropReason::Truncated)?
        }
        _ if protocol == A::ICMP => echo::ports::<A>(segment).ok_or(DropReason::IcmpUnrelated)?,
        _ => return Err(DropReason::IcmpUnrelated),
    };
    Ok(FlowKey { source, destination, source_port, destination_port, protocol })
}
