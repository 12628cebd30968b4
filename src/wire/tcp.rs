//! TCP (RFC 9293).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{U16, U32};

/// Octets of a header without options.
pub const HEADER: usize = size_of::<TcpHeader>();

/// Control bits.
pub mod flags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// The acknowledgement field counts.
    pub const ACK: u8 = 0x10;
}

/// A TCP header without options.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct TcpHeader {
    /// Source port.
    pub source_port: U16,
    /// Destination port.
    pub destination_port: U16,
    /// Sequence number.
    pub sequence: U32,
    /// Acknowledgement number.
    pub acknowledgement: U32,
    /// Header length in 32-bit words, upper four bits.
    pub data_offset: u8,
    /// [`flags`].
    pub flags: u8,
    /// Receive window.
    pub window: U16,
    /// Checksum.
    pub checksum: [u8; 2],
    /// Urgent pointer.
    pub urgent: U16,
}

impl TcpHeader {
    /// Octets of the header with its options, as the header states it.
    #[inline]
    pub const fn header_length(&self) -> usize {
        (self.data_offset >> 4) as usize * 4
    }
}

/// Kinds of options (RFC 9293 section 3.2).
pub mod option {
    /// End of the list.
    pub const END: u8 = 0;
    /// Padding.
    pub const NO_OPERATION: u8 = 1;
    /// The largest segment that the sender takes, four octets in all.
    pub const MAXIMUM_SEGMENT_SIZE: u8 = 2;
    /// Blocks that came out of order (RFC 2018).
    pub const SACK: u8 = 5;
    /// Timestamps (RFC 7323), ten octets in all.
    pub const TIMESTAMPS: u8 = 8;
}
