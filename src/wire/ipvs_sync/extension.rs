//! What pointsman adds to the protocol. Messages of a version of their own carry it, which IPVS
//! reads as messages of version 0 without entries: it passes them over.
//!
//! Such a message has entries as those of IPVS with one option more ([`Extension`]), or it is a
//! [`Note`].

use std::net::{IpAddr, SocketAddr};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::wire::{U16, U32};

/// What IPVS has no words for, of one connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extension {
    /// Whom the server sees, where that is not the client (full NAT).
    pub local: Option<SocketAddr>,
    /// The service's address and port, where they are not what the client speaks to.
    pub service: Option<SocketAddr>,
    /// The inside opened it.
    pub is_outbound: bool,
    /// It is through no service.
    pub is_masqueraded: bool,
    /// Of a control connection: the next sequence number of client and server, and what is added
    /// to it.
    pub text: Option<[(u32, u32); 2]>,
    /// What follows of the text is encrypted.
    pub is_text_over: bool,
}

const LOCAL: u8 = 1;
const SERVICE: u8 = 2;
const OUTBOUND: u8 = 4;
const MASQUERADED: u8 = 8;
const TEXT: u8 = 16;
const TEXT_OVER: u8 = 32;

/// An [`Extension`] as it is sent. IPv4 addresses are in IPv6 form.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct ExtensionBlock {
    flags: u8,
    spare: u8,
    local_port: U16,
    service_port: U16,
    reserved: U16,
    local: [u8; 16],
    service: [u8; 16],
    text: [[U32; 2]; 2],
}

const _: () = assert!(size_of::<ExtensionBlock>() == 56);

fn octets(end: Option<SocketAddr>) -> ([u8; 16], U16) {
    let ip = match end.map(|end| end.ip()) {
        Some(IpAddr::V4(v4)) => v4.to_ipv6_mapped().octets(),
        Some(IpAddr::V6(v6)) => v6.octets(),
        None => [0; 16],
    };
    (ip, end.map_or(0, |end| end.port()).into())
}

fn end((ip, port): ([u8; 16], U16)) -> SocketAddr {
    SocketAddr::new(std::net::Ipv6Addr::from(ip).to_canonical(), port.get())
}

impl From<Extension> for ExtensionBlock {
    fn from(extension: Extension) -> Self {
        let Extension { local, service, is_outbound, is_masqueraded, text, is_text_over } =
            extension;
        let flags = [
            (LOCAL, local.is_some()),
            (SERVICE, service.is_some()),
            (OUTBOUND, is_outbound),
            (MASQUERADED, is_masqueraded),
            (TEXT, text.is_some()),
            (TEXT_OVER, is_text_over),
        ];
        let flags = flags.iter().filter(|(_, is_set)| *is_set).map(|(flag, _)| flag).sum();
        let (local, local_port) = octets(local);
        let (service, service_port) = octets(service);
        let text = text.unwrap_or_default().map(|(next, shift)| [next.into(), shift.into()]);
        let reserved = U16::ZERO;
        Self { flags, spare: 0, local_port, service_port, reserved, local, service, text }
    }
}

impl From<ExtensionBlock> for Extension {
    fn from(block: ExtensionBlock) -> Self {
        let has = |flag| block.flags & flag != 0;
        Self {
            local: has(LOCAL).then(|| end((block.local, block.local_port))),
            service: has(SERVICE).then(|| end((block.service, block.service_port))),
            is_outbound: has(OUTBOUND),
            is_masqueraded: has(MASQUERADED),
            text: has(TEXT).then(|| block.text.map(|[next, shift]| (next.get(), shift.get()))),
            is_text_over: has(TEXT_OVER),
        }
    }
}

/// What directors say to each other about a transfer of everything, and of themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Note {
    /// What it is.
    pub kind: NoteKind,
    /// The director that asks, or stands by, by a number that it has drawn when it started.
    pub asker: u64,
    /// The asker's number of the transfer. Of one that stands by: 1, if it was told everything.
    pub number: u32,
    /// Messages with entries that the sender has sent, modulo 2^32; of one that stands by 0.
    pub messages: u32,
}

/// What is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoteKind {
    /// Tell me everything.
    Ask = 1,
    /// It begins.
    Begin = 2,
    /// That was everything.
    End = 3,
    /// I stand by.
    StandsBy = 4,
}

impl NoteKind {
    pub(super) const fn from_number(number: u16) -> Option<Self> {
        match number {
            1 => Some(Self::Ask),
            2 => Some(Self::Begin),
            3 => Some(Self::End),
            4 => Some(Self::StandsBy),
            _ => None,
        }
    }
}

/// A [`Note`] as it is sent, behind the header.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct NoteBlock {
    asker: [U32; 2],
    number: U32,
    messages: U32,
}

impl NoteBlock {
    pub(super) fn of(note: &Note) -> Self {
        #[allow(clippy::cast_possible_truncation, reason = "its two halves")]
        let asker = [(note.asker >> 32) as u32, note.asker as u32].map(U32::new);
        Self { asker, number: note.number.into(), messages: note.messages.into() }
    }

    pub(super) fn note(&self, kind: NoteKind) -> Note {
        let [high, low] = self.asker.map(|half| u64::from(half.get()));
        let (number, messages) = (self.number.get(), self.messages.get());
        Note { kind, asker: high << 32 | low, number, messages }
    }
}
