//! An entry: its layout, its options, how it is read and written.

use std::iter::FusedIterator;
use std::mem;
use std::net::{IpAddr, SocketAddr};

use arrayvec::ArrayVec;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::extension::{Extension, ExtensionBlock};
use super::{ALIGNMENT, Unfit, Wrong, flag};
use crate::wire::address::{Address, V4, V6};
use crate::wire::{U16, U32};

/// Octets of an entry of IPv4 without options.
pub const ENTRY_V4: usize = size_of::<Head>() + size_of::<[V4; 3]>();
/// Octets of an entry of IPv6 without options.
pub const ENTRY_V6: usize = size_of::<Head>() + size_of::<[V6; 3]>();
/// How long the name of a persistence engine may be.
pub const ENGINE_NAME: usize = 16;
/// How much data of a persistence engine an entry may have.
pub const ENGINE_DATA: usize = u8::MAX as usize;
/// The longest entry that [`Writer::push`](super::Writer::push) may write.
pub const LONGEST_ENTRY: usize = ENTRY_V6
    + OPTION_HEADER
    + size_of::<[Block; 2]>()
    + OPTION_HEADER
    + ENGINE_DATA
    + OPTION_HEADER
    + ENGINE_NAME
    + OPTION_HEADER
    + size_of::<ExtensionBlock>()
    + OPTION_HEADER
    + size_of::<U32>();

/// The part of [`Head::version_and_size`] that is the size.
const SIZE: u16 = 0x0fff;
/// What [`Head::kind`] is.
const KIND_V4: u8 = 0;
const KIND_V6: u8 = 1;
/// Type and length of an option.
const OPTION_HEADER: usize = 2;

const _: () = assert!(ENTRY_V4 == 36 && ENTRY_V6 == 72);
const _: () = assert!(LONGEST_ENTRY <= SIZE as usize);

/// Types of options.
mod option {
    /// How sequence numbers are shifted: in, out.
    pub(super) const SEQUENCES: u8 = 1;
    /// What a persistence engine found out.
    pub(super) const ENGINE_DATA: u8 = 2;
    /// Which persistence engine it was.
    pub(super) const ENGINE_NAME: u8 = 3;
    /// What pointsman adds.
    pub(super) const EXTENSION: u8 = 0x20;
    /// How long no packet has come, which pointsman adds.
    pub(super) const IDLE: u8 = 0x21;
    /// Set in the type of an option that whoever does not know it may pass over.
    pub(super) const MAY_BE_UNKNOWN: u8 = 0x40;
}

/// What every entry begins with; its three addresses follow.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Head {
    kind: u8,
    protocol: u8,
    version_and_size: U16,
    flags: U32,
    state: U16,
    client_port: U16,
    vip_port: U16,
    server_port: U16,
    fwmark: U32,
    timeout: U32,
}

impl Head {
    fn version_and_size(&self) -> (u8, u16) {
        let [first, _] = self.version_and_size.to_bytes();
        (first >> 4, self.version_and_size.get() & SIZE)
    }
}

/// A [`Shift`] as it is sent.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Block {
    after: U32,
    delta: U32,
    before: U32,
}

/// How the sequence numbers of one direction are shifted, for a helper changed what was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shift {
    /// The sequence number from which on `delta` holds.
    pub after: u32,
    /// What is added, modulo 2^32.
    pub delta: u32,
    /// What is added up to there.
    pub before: u32,
}

impl From<Block> for Shift {
    fn from(block: Block) -> Self {
        Self { after: block.after.get(), delta: block.delta.get(), before: block.before.get() }
    }
}

impl From<Shift> for Block {
    fn from(Shift { after, delta, before }: Shift) -> Self {
        Self { after: after.into(), delta: delta.into(), before: before.into() }
    }
}

/// A connection, or a template of persistence, as it is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// IP protocol number.
    pub protocol: u8,
    /// [`flag`].
    pub flags: u32,
    /// [`TcpState`](super::TcpState), [`SctpState`](super::SctpState),
    /// [`UDP_NORMAL`](super::UDP_NORMAL); of a template: [`TEMPLATE_NONE`](super::TEMPLATE_NONE),
    /// [`TEMPLATE_ASSURED`](super::TEMPLATE_ASSURED).
    pub state: u16,
    /// The client; the port is 0 in a template.
    pub client: SocketAddr,
    /// What it speaks to; the port is 0 in a template of a service of all ports.
    pub vip: SocketAddr,
    /// The real server.
    pub server: SocketAddr,
    /// The mark of the service, if that is defined by one; else 0.
    pub fwmark: u32,
    /// Its whole idle time, not what is left of it: seconds; 0: that of its state.
    pub timeout: u32,
    /// How long no packet has come, milliseconds. IPVS neither says it nor looks at it.
    pub idle: u32,
    /// Shifts of the client's and of the server's sequence numbers.
    pub sequences: Option<[Shift; 2]>,
    /// What a persistence engine found out, such as a Call-ID of SIP; empty: nothing. A template
    /// that has it is not one of the client's address alone.
    pub engine_data: &'a [u8],
    /// The persistence engine; empty: none.
    pub engine_name: &'a [u8],
    /// What IPVS has no words for; [`Writer::of_own`](super::Writer::of_own) is for such.
    pub extension: Option<Extension>,
}

/// [`Message::entries`](super::Message::entries).
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    rest: &'a [u8],
    left: u8,
}

impl<'a> Entries<'a> {
    pub(super) const fn new(rest: &'a [u8], left: u8) -> Self {
        Self { rest, left }
    }

    fn take(&mut self) -> Result<Entry<'a>, Wrong> {
        let (head, _) = Head::ref_from_prefix(self.rest).map_err(|_| Wrong::EntryCutOff)?;
        let (version, size) = head.version_and_size();
        let octets = self.rest.get(..usize::from(size)).ok_or(Wrong::EntryCutOff)?;
        // Nothing pads the last one.
        let next = octets.len().next_multiple_of(ALIGNMENT);
        self.rest = self.rest.get(next..).unwrap_or_default();
        if version == 0 { Entry::parse(octets, size) } else { Err(Wrong::EntryVersion(version)) }
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, Wrong>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let entry = self.take();
        if !matches!(entry, Ok(_) | Err(Wrong::Option(_))) {
            self.left = 0;
        }
        Some(entry)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::from(self.left > 0), Some(usize::from(self.left)))
    }
}

impl FusedIterator for Entries<'_> {}

impl<'a> Entry<'a> {
    /// Whether it is a template of persistence.
    pub const fn is_template(&self) -> bool {
        self.flags & flag::TEMPLATE != 0
    }

    /// Whether it is forwarded by address translation.
    pub const fn is_masqueraded(&self) -> bool {
        self.flags & flag::FORWARDING == flag::MASQUERADE
    }

    /// Reads `octets`, `size` of them.
    fn parse(octets: &'a [u8], size: u16) -> Result<Self, Wrong> {
        let (head, rest) = Head::ref_from_prefix(octets).map_err(|_| Wrong::EntrySize(size))?;
        let (addresses, mut options) = match head.kind {
            KIND_V4 => addresses::<V4>(rest),
            KIND_V6 => addresses::<V6>(rest),
            other => return Err(Wrong::EntryKind(other)),
        }
        .ok_or(Wrong::EntrySize(size))?;
        let [client, vip, server] = addresses;
        let mut entry = Self {
            protocol: head.protocol,
            flags: head.flags.get(),
            state: head.state.get(),
            client: SocketAddr::new(client, head.client_port.get()),
            vip: SocketAddr::new(vip, head.vip_port.get()),
            server: SocketAddr::new(server, head.server_port.get()),
            fwmark: head.fwmark.get(),
            timeout: head.timeout.get(),
            idle: 0,
            sequences: None,
            engine_data: &[],
            engine_name: &[],
            extension: None,
        };
        while let [kind, behind @ ..] = options {
            let value;
            (value, options) = value_of(behind).ok_or(Wrong::OptionSize(*kind))?;
            entry.take_option(*kind, value)?;
        }
        Ok(entry)
    }

    fn take_option(&mut self, kind: u8, value: &'a [u8]) -> Result<(), Wrong> {
        let was_there = match kind & !option::MAY_BE_UNKNOWN {
            option::SEQUENCES => {
                let shifts = <[Block; 2]>::read_from_bytes(value)
                    .map_err(|_| Wrong::OptionSize(kind))?
                    .map(Shift::from);
                self.sequences.replace(shifts).is_some()
            }
            option::ENGINE_DATA => !mem::replace(&mut self.engine_data, value).is_empty(),
            option::ENGINE_NAME if value.len() > ENGINE_NAME => {
                return Err(Wrong::OptionSize(kind));
            }
            option::ENGINE_NAME => !mem::replace(&mut self.engine_name, value).is_empty(),
            option::EXTENSION if kind & option::MAY_BE_UNKNOWN != 0 => {
                let block =
                    ExtensionBlock::read_from_bytes(value).map_err(|_| Wrong::OptionSize(kind))?;
                self.extension.replace(block.into()).is_some()
            }
            option::IDLE if kind & option::MAY_BE_UNKNOWN != 0 => {
                let idle = U32::read_from_bytes(value).map_err(|_| Wrong::OptionSize(kind))?;
                mem::replace(&mut self.idle, idle.get()) != 0
            }
            _ if kind & option::MAY_BE_UNKNOWN != 0 => false,
            _ => return Err(Wrong::Option(kind)),
        };
        if was_there { Err(Wrong::OptionTwice(kind)) } else { Ok(()) }
    }

    /// Its octets.
    pub(super) fn write(&self) -> Result<ArrayVec<u8, LONGEST_ENTRY>, Unfit> {
        let (kind, addresses) = self.addresses().ok_or(Unfit::Families)?;
        let blocks = self.sequences.map(|shifts| shifts.map(Block::from));
        let sequences = blocks.as_ref().map(IntoBytes::as_bytes).unwrap_or_default();
        let extension = self.extension.map(ExtensionBlock::from);
        let extension = extension.as_ref().map(IntoBytes::as_bytes).unwrap_or_default();
        let idle = (self.idle != 0).then_some(U32::new(self.idle));
        let idle = idle.as_ref().map(IntoBytes::as_bytes).unwrap_or_default();
        let mut octets = ArrayVec::new();
        let has_room = octets.try_extend_from_slice(&[0; size_of::<Head>()]).is_ok()
            && octets.try_extend_from_slice(&addresses).is_ok()
            && put_option(&mut octets, option::SEQUENCES, sequences)
            && put_option(&mut octets, option::ENGINE_DATA, self.engine_data)
            && self.engine_name.len() <= ENGINE_NAME
            && put_option(&mut octets, option::ENGINE_NAME, self.engine_name)
            && put_option(&mut octets, option::EXTENSION | option::MAY_BE_UNKNOWN, extension)
            && put_option(&mut octets, option::IDLE | option::MAY_BE_UNKNOWN, idle);
        let head = Head {
            kind,
            protocol: self.protocol,
            version_and_size: u16::try_from(octets.len()).unwrap_or(SIZE).into(),
            flags: self.flags.into(),
            state: self.state.into(),
            client_port: self.client.port().into(),
            vip_port: self.vip.port().into(),
            server_port: self.server.port().into(),
            fwmark: self.fwmark.into(),
            timeout: self.timeout.into(),
        };
        let is_whole = has_room && head.write_to_prefix(&mut octets).is_ok();
        if is_whole { Ok(octets) } else { Err(Unfit::Engine) }
    }

    /// Its addresses as they are sent, and the type of an entry that has such; `None`: they are
    /// not of one family.
    fn addresses(&self) -> Option<(u8, ArrayVec<u8, { size_of::<[V6; 3]>() }>)> {
        match (self.client.ip(), self.vip.ip(), self.server.ip()) {
            (IpAddr::V4(client), IpAddr::V4(vip), IpAddr::V4(server)) => {
                let addresses = [client, vip, server].map(|address| address.octets());
                Some((KIND_V4, ArrayVec::try_from(addresses.as_flattened()).ok()?))
            }
            (IpAddr::V6(client), IpAddr::V6(vip), IpAddr::V6(server)) => {
                let addresses = [client, vip, server].map(|address| address.octets());
                Some((KIND_V6, ArrayVec::try_from(addresses.as_flattened()).ok()?))
            }
            _ => None,
        }
    }
}

/// The three addresses of an entry, and what follows them.
fn addresses<A: Address>(octets: &[u8]) -> Option<([IpAddr; 3], &[u8])> {
    let (addresses, rest) = <[A; 3]>::read_from_prefix(octets).ok()?;
    Some((addresses.map(A::to_ip), rest))
}

/// An option's value, and what follows it; `octets` begins with its length.
fn value_of(octets: &[u8]) -> Option<(&[u8], &[u8])> {
    match octets {
        [] | [0, ..] => None,
        [length, behind @ ..] => behind.split_at_checked(usize::from(*length)),
    }
}

/// Writes an option that has a value; `false`: there is no room.
fn put_option<const N: usize>(octets: &mut ArrayVec<u8, N>, kind: u8, value: &[u8]) -> bool {
    let Ok(length) = u8::try_from(value.len()) else { return false };
    length == 0
        || octets.try_extend_from_slice(&[kind, length]).is_ok()
            && octets.try_extend_from_slice(value).is_ok()
}
