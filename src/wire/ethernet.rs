//! Ethernet II (IEEE 802.3).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::U16;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// All stations.
pub const BROADCAST: Mac = [0xff; 6];

/// EtherType values that the director knows.
pub mod ether_type {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// A VLAN tag (IEEE 802.1Q).
    pub const VLAN: u16 = 0x8100;
    /// A service provider's VLAN tag (IEEE 802.1ad).
    pub const SERVICE_VLAN: u16 = 0x88a8;
}

/// Octets of the header.
pub const HEADER: usize = size_of::<EthernetHeader>();

/// An Ethernet II header, without tags.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct EthernetHeader {
    /// Destination.
    pub destination: Mac,
    /// Source.
    pub source: Mac,
    /// [`ether_type`].
    pub ether_type: U16,
}

/// Whether an address names a group (multicast or broadcast).
#[inline]
pub const fn is_group(mac: &Mac) -> bool {
    mac[0] & 1 == 1
}

/// The group address of an IPv4 multicast address (RFC 1112 section 6.4).
#[inline]
pub const fn ipv4_group(address: &[u8; 4]) -> Mac {
    let [_, b, c, d] = *address;
    [0x01, 0x00, 0x5e, b & 0x7f, c, d]
}

/// The group address of an IPv6 multicast address (RFC 2464 section 7).
#[inline]
pub const fn ipv6_group(address: &[u8; 16]) -> Mac {
    let [.., a, b, c, d] = *address;
    [0x33, 0x33, a, b, c, d]
}
