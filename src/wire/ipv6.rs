//! IPv6 (RFC 8200).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::address::V6;
use super::{U16, U32};

/// Octets of the fixed header.
pub const HEADER: usize = size_of::<Ipv6Header>();

/// The fixed IPv6 header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Ipv6Header {
    /// Version (6), traffic class, flow label.
    pub version_class_flow: [u8; 4],
    /// Octets after this header.
    pub payload_length: U16,
    /// Protocol of what follows.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source.
    pub source: V6,
    /// Destination.
    pub destination: V6,
}

/// The Fragment header (RFC 8200 section 4.5).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct FragmentHeader {
    /// What follows the header in the first fragment.
    pub next_header: u8,
    /// 0.
    pub reserved: u8,
    /// Offset in the upper 13 bits, the lowest bit: more fragments follow.
    pub offset: U16,
    /// Identification, for reassembly.
    pub identification: U32,
}

/// Extension headers (RFC 8200 section 4).
pub mod extension {
    /// Hop-by-Hop Options.
    pub const HOP_BY_HOP: u8 = 0;
    /// Routing.
    pub const ROUTING: u8 = 43;
    /// Fragment.
    pub const FRAGMENT: u8 = 44;
    /// Destination Options.
    pub const DESTINATION_OPTIONS: u8 = 60;
    /// How many are walked before a packet is refused.
    pub const MAX_WALKED: usize = 8;
}

/// The solicited-node multicast address of a unicast address (RFC 4291 section 2.7.1).
pub const fn solicited_node(address: &V6) -> V6 {
    let [.., a, b, c] = *address;
    [0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x01, 0xff, a, b, c]
}

/// All nodes on the link (RFC 4291 section 2.7.1).
pub const ALL_NODES: V6 = [0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// Whether an address is a link-local unicast one (RFC 4291 section 2.5.6).
pub const fn is_link_local(address: &V6) -> bool {
    let [first, second, ..] = *address;
    first == 0xfe && second & 0xc0 == 0x80
}

/// The link-local address that RFC 4291 (appendix A, modified EUI-64) makes of a MAC address.
pub const fn link_local(mac: &[u8; 6]) -> V6 {
    let mut address = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, mac[0] ^ 2, 0, 0, 0xff, 0xfe, 0, 0, 0];
    (address[9], address[10]) = (mac[1], mac[2]);
    (address[13], address[14], address[15]) = (mac[3], mac[4], mac[5]);
    address
}
