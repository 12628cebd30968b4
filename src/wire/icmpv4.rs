//! ICMP (RFC 792): echo.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Octets of the header.
pub const HEADER: usize = size_of::<IcmpHeader>();
/// `kind` of an echo reply.
pub const ECHO_REPLY: u8 = 0;
/// `kind` of an echo request.
pub const ECHO_REQUEST: u8 = 8;

/// Whether a message of this type reports an error and quotes a packet: destination unreachable,
/// source quench, time exceeded, parameter problem (RFC 1122 section 3.2.2; a redirect is for
/// hosts and not passed on).
pub const fn is_error(kind: u8) -> bool {
    matches!(kind, 3 | 4 | 11 | 12)
}

/// An ICMP or ICMPv6 header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IcmpHeader {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// Checksum.
    pub checksum: [u8; 2],
    /// Depends on the type.
    pub rest: [u8; 4],
}
