//! ICMPv6 (RFC 4443) echo, and Neighbor Discovery (RFC 4861).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::address::V6;
use super::ethernet::Mac;

/// `kind` of an echo request.
pub const ECHO_REQUEST: u8 = 128;
/// `kind` of an echo reply.
pub const ECHO_REPLY: u8 = 129;
/// `kind` of a Router Solicitation.
pub const ROUTER_SOLICITATION: u8 = 133;
/// `kind` of a Neighbor Solicitation.
pub const NEIGHBOR_SOLICITATION: u8 = 135;
/// `kind` of a Neighbor Advertisement.
pub const NEIGHBOR_ADVERTISEMENT: u8 = 136;

/// Whether a message of this type reports an error (RFC 4443 section 2.1).
pub const fn is_error(kind: u8) -> bool {
    kind < 128
}

/// Option: source link-layer address.
pub const SOURCE_LINK_LAYER: u8 = 1;
/// Option: target link-layer address.
pub const TARGET_LINK_LAYER: u8 = 2;

/// Advertisement flag: the sender is a router.
pub const ROUTER: u8 = 0x80;
/// Advertisement flag: sent in answer to a solicitation.
pub const SOLICITED: u8 = 0x40;
/// Advertisement flag: replaces a cached entry.
pub const OVERRIDE: u8 = 0x20;

/// The hop limit that proves that a packet has not been forwarded (RFC 4861 section 7.1).
pub const HOP_LIMIT: u8 = 255;

/// A Neighbor Solicitation or Advertisement without options.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct NeighborMessage {
    /// [`NEIGHBOR_SOLICITATION`] or [`NEIGHBOR_ADVERTISEMENT`].
    pub kind: u8,
    /// 0.
    pub code: u8,
    /// Checksum with pseudo header.
    pub checksum: [u8; 2],
    /// Advertisement: flags; else 0.
    pub flags: u8,
    /// 0.
    pub reserved: [u8; 3],
    /// The address asked for or advertised.
    pub target: V6,
}

/// Octets of a message without options.
pub const MESSAGE: usize = size_of::<NeighborMessage>();
/// Octets of a link-layer address option.
pub const LINK_LAYER_OPTION: usize = size_of::<LinkLayerOption>();

/// A source or target link-layer address option for Ethernet (RFC 2464 section 6).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct LinkLayerOption {
    /// [`SOURCE_LINK_LAYER`] or [`TARGET_LINK_LAYER`].
    pub kind: u8,
    /// 1: eight octets.
    pub length: u8,
    /// The Ethernet address.
    pub mac: Mac,
}

/// The link-layer address that the options of a message state, `None` when there is none or when
/// an option is malformed (length zero or beyond the packet; RFC 4861 section 7.1 has such a
/// message discarded, which [`options_are_valid`] decides).
pub fn link_layer_option(mut options: &[u8], kind: u8) -> Option<Mac> {
    while let [option, length, ..] = *options {
        let octets = usize::from(length) * 8;
        if octets == 0 || octets > options.len() {
            return None;
        }
        if option == kind {
            let (found, _) = LinkLayerOption::ref_from_prefix(options).ok()?;
            return Some(found.mac);
        }
        options = options.get(octets..)?;
    }
    None
}

/// Whether every option has a length that is not zero and lies within the message.
pub fn options_are_valid(mut options: &[u8]) -> bool {
    while !options.is_empty() {
        let [_, length, ..] = *options else { return false };
        let octets = usize::from(length) * 8;
        if octets == 0 {
            return false;
        }
        let Some(rest) = options.get(octets..) else { return false };
        options = rest;
    }
    true
}
