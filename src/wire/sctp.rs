//! SCTP (RFC 9260): the common header, and as much of the chunks as a connection's state needs.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::tcp::flags;
use super::{U16, U32};

/// Octets of the common header.
pub const HEADER: usize = size_of::<SctpHeader>();
/// Octets of a chunk header.
pub const CHUNK_HEADER: usize = size_of::<ChunkHeader>();

/// The common header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SctpHeader {
    /// Source port.
    pub source_port: U16,
    /// Destination port.
    pub destination_port: U16,
    /// Verification tag; 0 in an INIT.
    pub verification_tag: U32,
    /// CRC32c of the packet with zero here, least significant octet first.
    pub checksum: [u8; 4],
}

/// What every chunk begins with.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ChunkHeader {
    /// [`chunk`].
    pub kind: u8,
    /// By type.
    pub flags: u8,
    /// Octets of header and value, without the padding to a multiple of four.
    pub length: U16,
}

/// Chunk types (RFC 9260 section 3.2).
pub mod chunk {
    /// Opens an association.
    pub const INIT: u8 = 1;
    /// Its answer, with the cookie.
    pub const INIT_ACK: u8 = 2;
    /// Ends the association at once.
    pub const ABORT: u8 = 6;
    /// No more data from the sender.
    pub const SHUTDOWN: u8 = 7;
    /// Nor from the other side.
    pub const SHUTDOWN_ACK: u8 = 8;
    /// Tells of an error.
    pub const ERROR: u8 = 9;
    /// Brings the cookie back.
    pub const COOKIE_ECHO: u8 = 10;
    /// The association is established.
    pub const COOKIE_ACK: u8 = 11;
    /// The association is over.
    pub const SHUTDOWN_COMPLETE: u8 = 14;
}

/// What a packet means for the state of its association.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Signal {
    /// DATA, SACK, HEARTBEAT and whatever else moves no state.
    Data = 0,
    /// INIT ACK.
    InitAck = 1,
    /// INIT. Its number is TCP's SYN: see [`Signal::control`].
    Init = 2,
    /// COOKIE ECHO.
    CookieEcho = 3,
    /// COOKIE ACK.
    CookieAck = 4,
    /// SHUTDOWN.
    Shutdown = 5,
    /// SHUTDOWN ACK.
    ShutdownAck = 6,
    /// SHUTDOWN COMPLETE.
    ShutdownComplete = 7,
    /// ERROR.
    Error = 8,
    /// ABORT.
    Abort = 9,
}

/// Set in [`Signal::control`] of a first fragment: the length of the packet is not known.
pub const FRAGMENT: u8 = 0x80;

impl Signal {
    /// How many there are.
    pub const COUNT: usize = 10;

    /// All of them, by their number.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Data,
        Self::InitAck,
        Self::Init,
        Self::CookieEcho,
        Self::CookieAck,
        Self::Shutdown,
        Self::ShutdownAck,
        Self::ShutdownComplete,
        Self::Error,
        Self::Abort,
    ];

    const fn of_chunk(kind: u8) -> Self {
        match kind {
            chunk::INIT => Self::Init,
            chunk::INIT_ACK => Self::InitAck,
            chunk::ABORT => Self::Abort,
            chunk::SHUTDOWN => Self::Shutdown,
            chunk::SHUTDOWN_ACK => Self::ShutdownAck,
            chunk::ERROR => Self::Error,
            chunk::COOKIE_ECHO => Self::CookieEcho,
            chunk::COOKIE_ACK => Self::CookieAck,
            chunk::SHUTDOWN_COMPLETE => Self::ShutdownComplete,
            _ => Self::Data,
        }
    }

    /// As control bits of a packet: an INIT looks like a SYN, and nothing else does.
    pub const fn control(self) -> u8 {
        if matches!(self, Self::Init) { flags::SYN } else { flags::ACK | self as u8 }
    }

    /// The signal of control bits that [`Signal::control`] made.
    #[inline]
    pub fn of_control(control: u8) -> Self {
        Self::ALL.get(usize::from(control & 0x0f)).copied().unwrap_or(Self::Data)
    }
}

/// Why octets are no SCTP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// The first headers are not in the buffer.
    Truncated,
    /// The packet is too short for them, or the first chunk does not fit in.
    Malformed,
}

/// The common header of a packet of `length` octets, and what its first chunk means; looks at no
/// more of the packet than `octets` has. Of a first fragment the chunk may go on in another one.
///
/// The first chunk decides, as in IPVS; after COOKIE ECHO and COOKIE ACK an ABORT in second place
/// (RFC 9260 section 3.3.7: nothing behind an ABORT counts).
#[inline]
pub fn inspect(
    octets: &[u8],
    length: usize,
    is_fragment: bool,
) -> Result<(&SctpHeader, Signal), Wrong> {
    if length < HEADER + CHUNK_HEADER {
        return Err(Wrong::Malformed);
    }
    let (header, rest) = SctpHeader::ref_from_prefix(octets).map_err(|_| Wrong::Truncated)?;
    let (first, _) = ChunkHeader::ref_from_prefix(rest).map_err(|_| Wrong::Truncated)?;
    let room = length - HEADER;
    let taken = usize::from(first.length.get());
    if taken < CHUNK_HEADER || taken > room && !is_fragment {
        return Err(Wrong::Malformed);
    }
    let signal = Signal::of_chunk(first.kind);
    if matches!(signal, Signal::CookieEcho | Signal::CookieAck) {
        let next = taken.next_multiple_of(4);
        let second = rest.get(next..).filter(|_| next + CHUNK_HEADER <= room);
        let second = second.and_then(|rest| ChunkHeader::ref_from_prefix(rest).ok());
        if second.is_some_and(|(second, _)| second.kind == chunk::ABORT) {
            return Ok((header, Signal::Abort));
        }
    }
    Ok((header, signal))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(chunks: &[u8]) -> Vec<u8> {
        [&[0_u8; HEADER][..], chunks].concat()
    }

    fn signal(chunks: &[u8]) -> Result<Signal, Wrong> {
        let packet = packet(chunks);
        inspect(&packet, packet.len(), false).map(|(_, signal)| signal)
    }

    #[test]
    fn only_an_init_looks_like_a_syn() {
        for signal in Signal::ALL {
            let control = signal.control();
            let is_syn = control & (flags::SYN | flags::ACK | flags::RST) == flags::SYN;
            assert_eq!(is_syn, signal == Signal::Init, "{signal:?}");
            assert_eq!(Signal::of_control(control), signal);
            assert_eq!(Signal::of_control(control | FRAGMENT), signal);
            assert_eq!(control & FRAGMENT, 0);
        }
    }

    #[test]
    fn the_first_chunk_decides() {
        let expected = [
            (0, Signal::Data),
            (1, Signal::Init),
            (2, Signal::InitAck),
            (3, Signal::Data),
            (4, Signal::Data),
            (5, Signal::Data),
            (6, Signal::Abort),
            (7, Signal::Shutdown),
            (8, Signal::ShutdownAck),
            (9, Signal::Error),
            (10, Signal::CookieEcho),
            (11, Signal::CookieAck),
            (12, Signal::Data),
            (13, Signal::Data),
            (14, Signal::ShutdownComplete),
            (15, Signal::Data),
            (64, Signal::Data),
            (192, Signal::Data),
            (255, Signal::Data),
        ];
        for (kind, wanted) in expected {
            assert_eq!(signal(&[kind, 0, 0, 4, 0, 0, 0, 4]), Ok(wanted), "chunk type {kind}");
        }
    }

    #[test]
    fn an_abort_behind_a_cookie_counts_and_behind_data_does_not() {
        for (cookie, bundled) in [(10, Signal::Abort), (11, Signal::Abort), (3, Signal::Data)] {
            // Five octets, padded to eight.
            let chunks = [cookie, 0, 0, 5, 9, 0, 0, 0, 6, 0, 0, 4];
            assert_eq!(signal(&chunks), Ok(bundled));
        }
        assert_eq!(signal(&[10, 0, 0, 4, 6, 0, 0]), Ok(Signal::CookieEcho), "no whole chunk");
        assert_eq!(signal(&[10, 0, 0, 4, 0, 0, 0, 4, 6, 0, 0, 4]), Ok(Signal::CookieEcho), "third");
    }

    #[test]
    fn lengths_are_checked() {
        assert_eq!(signal(&[]), Err(Wrong::Malformed));
        assert_eq!(signal(&[0, 0, 0]), Err(Wrong::Malformed));
        assert_eq!(signal(&[0, 0, 0, 3]), Err(Wrong::Malformed));
        assert_eq!(signal(&[0, 0, 0, 5]), Err(Wrong::Malformed));
        assert_eq!(signal(&[0, 0, 0, 5, 7]), Ok(Signal::Data), "unpadded");
        let fragment = packet(&[0, 0, 9, 9]);
        assert!(inspect(&fragment, fragment.len(), true).is_ok());
        assert_eq!(inspect(&fragment[..15], 16, false).err(), Some(Wrong::Truncated));
    }
}
