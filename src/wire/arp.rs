//! ARP for IPv4 over Ethernet (RFC 826).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::U16;
use super::address::V4;
use super::ethernet::Mac;

/// `operation` of a request.
pub const REQUEST: u16 = 1;
/// `operation` of a reply.
pub const REPLY: u16 = 2;

/// Octets of the packet.
pub const PACKET: usize = size_of::<ArpPacket>();

/// An ARP packet for IPv4 over Ethernet.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ArpPacket {
    /// 1: Ethernet.
    pub hardware_type: U16,
    /// 0x0800: IPv4.
    pub protocol_type: U16,
    /// 6.
    pub hardware_length: u8,
    /// 4.
    pub protocol_length: u8,
    /// [`REQUEST`] or [`REPLY`].
    pub operation: U16,
    /// Sender's Ethernet address.
    pub sender_mac: Mac,
    /// Sender's IPv4 address.
    pub sender_ip: V4,
    /// Target's Ethernet address.
    pub target_mac: Mac,
    /// Target's IPv4 address.
    pub target_ip: V4,
}

impl ArpPacket {
    /// A packet of `operation` from one party to another.
    pub fn new(operation: u16, sender: (Mac, V4), target: (Mac, V4)) -> Self {
        Self {
            hardware_type: U16::new(1),
            protocol_type: U16::new(super::ethernet::ether_type::IPV4),
            hardware_length: 6,
            protocol_length: 4,
            operation: U16::new(operation),
            sender_mac: sender.0,
            sender_ip: sender.1,
            target_mac: target.0,
            target_ip: target.1,
        }
    }

    /// Whether the fixed fields say IPv4 over Ethernet.
    pub fn is_ipv4_over_ethernet(&self) -> bool {
        self.hardware_type.get() == 1
            && self.protocol_type.get() == super::ethernet::ether_type::IPV4
            && self.hardware_length == 6
            && self.protocol_length == 4
    }
}
