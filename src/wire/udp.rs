//! UDP (RFC 768).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::U16;

/// Octets of the header.
pub const HEADER: usize = size_of::<UdpHeader>();

/// A UDP header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct UdpHeader {
    /// Source port.
    pub source_port: U16,
    /// Destination port.
    pub destination_port: U16,
    /// Octets of header and payload.
    pub length: U16,
    /// Checksum; zero over IPv4: none.
    pub checksum: [u8; 2],
}
