//! Connection synchronisation of IPVS, version 1: the messages in which a Linux director tells
//! others of its connections.
//!
//! A message is the payload of a UDP datagram: a header, then entries, each at a multiple of four
//! octets. An entry says how long it is; behind its fixed part it may have options. What an entry
//! means (whether its protocol, state or flags make sense) is for its reader to judge.

mod entry;
mod extension;
mod state;

use std::iter;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub use entry::{
    ENGINE_DATA, ENGINE_NAME, ENTRY_V4, ENTRY_V6, Entries, Entry, LONGEST_ENTRY, Shift,
};
pub use extension::{Extension, Note, NoteKind};
pub use state::{SctpState, TEMPLATE_ASSURED, TEMPLATE_NONE, TcpState, UDP_NORMAL, flag};

use super::U16;
use super::address::V4;
use extension::NoteBlock;

/// Where the messages go.
pub const GROUP: V4 = [224, 0, 0, 81];
/// To which UDP port.
pub const PORT: u16 = 8848;
/// Octets of a message before its entries.
pub const HEADER: usize = size_of::<Header>();
/// How many entries a message may have.
pub const ENTRIES: usize = u8::MAX as usize;

const VERSION: u8 = 1;
/// Of messages that IPVS passes over ([`Extension`]).
const OWN_VERSION: u8 = 0x50;
/// Octets of a message with a [`Note`].
pub const NOTE: usize = 24;
const NOTE_SIZE: U16 = U16::new(24);
const _: () = assert!(NOTE == HEADER + size_of::<NoteBlock>());
/// Octets of a header of version 0: entries, synchronisation id, size.
const OLD_HEADER: usize = 4;
/// Entries begin at multiples of it.
const ALIGNMENT: usize = 4;

const _: () = assert!(HEADER == 8);

/// What every message begins with.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    /// 0; where version 0 has the number of its entries.
    reserved: u8,
    sync_id: u8,
    size: U16,
    count: u8,
    version: u8,
    /// 0; in messages of pointsman's own the kind of a [`Note`].
    spare: U16,
}

/// Why octets are no message, or no entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// The header is not whole.
    #[error("it is cut off")]
    Truncated,
    /// It is longer or shorter than it says.
    #[error("it has {is} octets and says {says}")]
    Size {
        /// What its header says.
        says: u16,
        /// What was received.
        is: usize,
    },
    /// It is of version 0, which has neither IPv6 nor times.
    #[error("it is of version 0 (sync_version of its sender)")]
    OldVersion {
        /// Of the sender.
        sync_id: u8,
    },
    /// Another version.
    #[error("version {0} is not known")]
    Version(u8),
    /// What has to be zero is not.
    #[error("its reserved field is {0:#06x}")]
    Reserved(u16),
    /// An entry goes on behind the end of the message.
    #[error("an entry is cut off")]
    EntryCutOff,
    /// An entry of another version.
    #[error("version {0} of an entry is not known")]
    EntryVersion(u8),
    /// An entry of another type than IPv4 or IPv6.
    #[error("type {0:#04x} of an entry is not known")]
    EntryKind(u8),
    /// An entry is shorter than one of its type.
    #[error("an entry says that it has {0} octets")]
    EntrySize(u16),
    /// An option goes on behind the end of its entry, or its length is not one of its type.
    #[error("the length of an option of type {0:#04x} is wrong")]
    OptionSize(u8),
    /// An option that an entry has already.
    #[error("an option of type {0:#04x} is there twice")]
    OptionTwice(u8),
    /// An option that must be understood, and is not. The only one after which
    /// [`Message::entries`] goes on.
    #[error("option type {0:#04x} is not known")]
    Option(u8),
}

/// A message that is whole.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Which directors belong together.
    pub sync_id: u8,
    /// How many entries it says to have.
    pub count: u8,
    /// What follows the header.
    body: &'a [u8],
    /// It says something else than entries.
    pub note: Option<Note>,
}

impl<'a> Message<'a> {
    /// Reads the payload of a UDP datagram.
    ///
    /// # Errors
    /// It is no message of version 1.
    pub fn parse(octets: &'a [u8]) -> Result<Self, Wrong> {
        let Some(&[first, sync_id, high, low]) = octets.first_chunk::<OLD_HEADER>() else {
            return Err(Wrong::Truncated);
        };
        let says = u16::from_be_bytes([high, low]);
        if usize::from(says) != octets.len() {
            return Err(Wrong::Size { says, is: octets.len() });
        }
        if first != 0 {
            return Err(Wrong::OldVersion { sync_id });
        }
        let Ok((header, body)) = Header::ref_from_prefix(octets) else {
            return Err(Wrong::Truncated);
        };
        match (header.version, header.spare.get()) {
            (VERSION | OWN_VERSION, 0) => {
                Ok(Self { sync_id, count: header.count, body, note: None })
            }
            (OWN_VERSION, number) => {
                let kind = NoteKind::from_number(number).ok_or(Wrong::Reserved(number))?;
                let (block, _) = NoteBlock::ref_from_prefix(body).map_err(|_| Wrong::Truncated)?;
                Ok(Self { sync_id, count: 0, body: &[], note: Some(block.note(kind)) })
            }
            (VERSION, spare) => Err(Wrong::Reserved(spare)),
            (version, _) => Err(Wrong::Version(version)),
        }
    }

    /// Its entries: as many as its header says, and none behind a [`Wrong`] one (but for
    /// [`Wrong::Option`], which concerns one entry alone). What follows the last one is passed
    /// over.
    pub fn entries(&self) -> Entries<'a> {
        Entries::new(self.body, self.count)
    }
}

/// Why an entry was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// There is no room left; it belongs into the next message.
    #[error("the message is full")]
    Full,
    /// Its addresses are not of one family, which no message can say.
    #[error("client, virtual service and server are not of one address family")]
    Families,
    /// Data or name of its persistence engine are longer than [`ENGINE_DATA`], [`ENGINE_NAME`].
    #[error("data or name of the persistence engine are too long")]
    Engine,
}

/// Writes a message into a buffer.
#[derive(Debug)]
pub struct Writer<'a> {
    buffer: &'a mut [u8],
    sync_id: u8,
    version: u8,
    count: u8,
    /// Where the last entry ends.
    end: usize,
}

impl<'a> Writer<'a> {
    /// A message without entries. It will be no longer than `buffer` (or 65,535 octets).
    pub fn new(sync_id: u8, buffer: &'a mut [u8]) -> Self {
        let length = buffer.len().min(usize::from(u16::MAX));
        let buffer = buffer.get_mut(..length).unwrap_or_default();
        Self { buffer, sync_id, version: VERSION, count: 0, end: HEADER }
    }

    /// As [`Writer::new`], of a message that IPVS passes over.
    pub fn of_own(sync_id: u8, buffer: &'a mut [u8]) -> Self {
        Self { version: OWN_VERSION, ..Self::new(sync_id, buffer) }
    }

    /// How many entries it has.
    pub const fn count(&self) -> u8 {
        self.count
    }

    /// Whether it has none.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Writes one more entry.
    ///
    /// # Errors
    /// It does not fit into this message, or into any; the message is as before.
    pub fn push(&mut self, entry: &Entry<'_>) -> Result<(), Unfit> {
        let octets = entry.write()?;
        let start = self.end.next_multiple_of(ALIGNMENT);
        let end = start + octets.len();
        let count = self.count.checked_add(1).ok_or(Unfit::Full)?;
        let room = self.buffer.get_mut(self.end..end).ok_or(Unfit::Full)?;
        let padding = iter::repeat_n(&0, start - self.end);
        for (place, octet) in room.iter_mut().zip(padding.chain(&octets)) {
            *place = *octet;
        }
        (self.end, self.count) = (end, count);
        Ok(())
    }

    /// The message; empty if the buffer has no room for a header.
    pub fn finish(self) -> &'a [u8] {
        let message = self.buffer.get_mut(..self.end).unwrap_or_default();
        let header = Header {
            reserved: 0,
            sync_id: self.sync_id,
            size: u16::try_from(message.len()).unwrap_or(u16::MAX).into(),
            count: self.count,
            version: self.version,
            spare: U16::ZERO,
        };
        // No room: then the message is empty.
        let _ = header.write_to_prefix(message);
        message
    }
}

/// A message with a note.
pub fn write_note(sync_id: u8, note: &Note) -> [u8; NOTE] {
    let mut message = [0; NOTE];
    let header = Header {
        reserved: 0,
        sync_id,
        size: NOTE_SIZE,
        count: 0,
        version: OWN_VERSION,
        spare: U16::new(note.kind as u16),
    };
    let (first, body) = message.split_at_mut(HEADER);
    // Both fit.
    let _ = header.write_to(first);
    let _ = NoteBlock::of(note).write_to(body);
    message
}
