//! The segments of helped connections: numbers, options, data and lengths, in place.

use arrayvec::ArrayVec;
use zerocopy::{FromBytes, IntoBytes};

use super::emission::Segment;
use crate::dataplane::classify::Packet;
use crate::dataplane::family::Family;
use crate::dataplane::frame::Frame;
use crate::dataplane::stats::DropReason;
use crate::wire::checksum::{self, Delta};
use crate::wire::ethernet::{self, EthernetHeader};
use crate::wire::ipv4::protocol;
use crate::wire::tcp::{self, TcpHeader, flags, option};
use crate::wire::{U16, U32};

/// Octets of the largest TCP header.
const LARGEST_HEADER: usize = 60;
/// Octets of a timestamps option with its padding (RFC 7323 appendix A).
const TIMESTAMPS: usize = 12;

/// Where a segment's parts lie in its frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) header: TcpHeader,
    transport: usize,
    data: usize,
    end: usize,
}

impl Shape {
    /// Of a segment that lies in one buffer.
    pub(super) fn of<F: Frame>(frame: &F, packet: &Packet) -> Result<Self, DropReason> {
        let transport = usize::from(packet.transport);
        let end = ethernet::HEADER + usize::from(packet.ip_octets);
        let octets = frame.octets().get(..end).ok_or(DropReason::HelperUnreadable)?;
        let segment = octets.get(transport..).ok_or(DropReason::Truncated)?;
        let (header, _) =
            TcpHeader::read_from_prefix(segment).map_err(|_| DropReason::Truncated)?;
        Ok(Self { header, transport, data: transport + header.header_length(), end })
    }

    pub(super) const fn has(&self, flag: u8) -> bool {
        self.header.flags & flag != 0
    }

    /// What the sender sent.
    pub(super) fn segment<'f, F: Frame>(&self, frame: &'f F) -> Segment<'f> {
        Segment {
            sequence: self.header.sequence.get(),
            data: frame.octets().get(self.data..self.end).unwrap_or_default(),
            fin: self.has(flags::FIN),
        }
    }

    /// Octets of the packet before the data.
    pub(super) const fn headers(&self) -> usize {
        self.data - ethernet::HEADER
    }

    /// Whether the checksum is right.
    pub(super) fn is_intact<A: Family, F: Frame>(&self, frame: &F) -> bool {
        let octets = frame.octets();
        let sum = octets.get(self.transport..self.end).map(checksum::sum);
        let pseudo = pseudo_header::<A>(octets, self.end - self.transport);
        let (Some(sum), Some(pseudo)) = (sum, pseudo) else { return false };
        checksum::fold(u64::from(sum) + u64::from(pseudo)) == 0xffff
    }

    /// The timestamp of the sender (RFC 7323).
    pub(super) fn timestamp<F: Frame>(&self, frame: &F) -> Option<[u8; 4]> {
        let options = frame.octets().get(self.transport + tcp::HEADER..self.data)?;
        let at = find(options, option::TIMESTAMPS)?;
        options.get(at + 2..)?.first_chunk().copied()
    }

    /// Writes other numbers, and other data if there is any; the octets of the IP packet then.
    pub(super) fn rewrite<A: Family, F: Frame>(
        &self,
        frame: &mut F,
        numbers: &Numbers<'_>,
        data: Option<&[u8]>,
    ) -> Option<u16> {
        let before: ArrayVec<u8, LARGEST_HEADER> =
            frame.octets().get(self.transport..self.data)?.iter().copied().take(60).collect();
        numbers.write(frame.octets_mut().get_mut(self.transport..self.data)?)?;
        let end = match data {
            Some(data) => self.replace::<A, F>(frame, data)?,
            None => self.end,
        };
        let pseudo = pseudo_header::<A>(frame.octets(), end - self.transport)?;
        let segment = frame.octets_mut().get_mut(self.transport..end)?;
        let after = segment.get(..self.data - self.transport)?;
        let delta = Delta::between(&before, after);
        let (header, _) = TcpHeader::mut_from_prefix(segment).ok()?;
        header.checksum = delta.apply(header.checksum);
        if data.is_some() {
            header.checksum = [0; 2];
            let sum = checksum::finish(segment, pseudo);
            let (header, _) = TcpHeader::mut_from_prefix(segment).ok()?;
            header.checksum = sum;
        }
        u16::try_from(end - ethernet::HEADER).ok()
    }

    /// Puts other data in the place of the sender's; where it ends.
    fn replace<A: Family, F: Frame>(&self, frame: &mut F, data: &[u8]) -> Option<usize> {
        let end = self.data + data.len();
        if !frame.set_len(end) {
            return None;
        }
        frame.octets_mut().get_mut(self.data..end)?.copy_from_slice(data);
        let octets = u16::try_from(end - ethernet::HEADER).ok()?;
        A::set_length(frame.octets_mut(), octets)?;
        Some(end)
    }
}

/// What a segment says in the receiver's sequence space.
pub(super) struct Numbers<'n> {
    pub(super) sequence: u32,
    pub(super) acknowledgement: u32,
    pub(super) fin: bool,
    /// A SACK block.
    pub(super) selective: &'n dyn Fn((u32, u32)) -> (u32, u32),
}

impl Numbers<'_> {
    fn write(&self, octets: &mut [u8]) -> Option<()> {
        let (header, options) = TcpHeader::mut_from_prefix(octets).ok()?;
        header.sequence = U32::new(self.sequence);
        if header.flags & flags::ACK != 0 {
            header.acknowledgement = U32::new(self.acknowledgement);
        }
        if !self.fin {
            header.flags &= !flags::FIN;
        }
        let Some(at) = find(options, option::SACK) else { return Some(()) };
        let length = usize::from(*options.get(at + 1)?);
        let blocks = options.get_mut(at + 2..at + length)?;
        for block in blocks.as_chunks_mut::<8>().0 {
            let [left, right] = <[U32; 2]>::mut_from_bytes(block).ok()?;
            let edges = (self.selective)((left.get(), right.get()));
            (*left, *right) = (U32::new(edges.0), U32::new(edges.1));
        }
        Some(())
    }
}

fn pseudo_header<A: Family>(frame: &[u8], length: usize) -> Option<u16> {
    let (source, destination) = A::addresses(frame)?;
    let length = u32::try_from(length).ok()?;
    Some(checksum::pseudo_header(source.octets(), destination.octets(), protocol::TCP, length))
}

/// Where an option of this kind begins.
fn find(options: &[u8], wanted: u8) -> Option<usize> {
    let mut at = 0;
    loop {
        match *options.get(at..)? {
            [option::END, ..] => return None,
            [option::NO_OPERATION, ..] => at += 1,
            [kind, length, ..] if length >= 2 => {
                if kind == wanted {
                    return Some(at);
                }
                at += usize::from(length);
            }
            _ => return None,
        }
    }
}

/// An acknowledgement in somebody's place.
pub(super) struct Acknowledgement<A> {
    pub(super) from: (A, U16),
    pub(super) to: (A, U16),
    pub(super) sequence: u32,
    /// What is expected next.
    pub(super) next: u32,
    /// As it stood in the segments of the one in whose place it is.
    pub(super) window: U16,
    /// Theirs and ours to echo (RFC 7323 section 3.2), where both speak of time.
    pub(super) timestamps: Option<([u8; 4], [u8; 4])>,
}

impl<A: Family> Acknowledgement<A> {
    /// Writes the frame, but for its Ethernet addresses; the octets of the IP packet.
    pub(super) fn write<F: Frame>(&self, frame: &mut F) -> Option<u16> {
        let options = if self.timestamps.is_some() { TIMESTAMPS } else { 0 };
        let length = tcp::HEADER + options;
        if !frame.set_len(ethernet::HEADER + A::HEADER + length) {
            return None;
        }
        let link = EthernetHeader {
            destination: [0; 6],
            source: [0; 6],
            ether_type: U16::new(A::ETHER_TYPE),
        };
        link.write_to_prefix(frame.octets_mut()).ok()?;
        let ip = frame.octets_mut().get_mut(ethernet::HEADER..)?;
        A::write_header(ip, self.from.0, self.to.0, protocol::TCP, length)?;
        let segment = ip.get_mut(A::HEADER..)?;
        let header = TcpHeader {
            source_port: self.from.1,
            destination_port: self.to.1,
            sequence: U32::new(self.sequence),
            acknowledgement: U32::new(self.next),
            data_offset: u8::try_from(length << 2).ok()?,
            flags: flags::ACK,
            window: self.window,
            checksum: [0; 2],
            urgent: U16::new(0),
        };
        header.write_to_prefix(segment).ok()?;
        if let Some((value, echo)) = self.timestamps {
            let room = segment.get_mut(tcp::HEADER..)?;
            let kind = [option::NO_OPERATION, option::NO_OPERATION, option::TIMESTAMPS, 10];
            for (part, octets) in room.as_chunks_mut::<4>().0.iter_mut().zip([kind, value, echo]) {
                *part = octets;
            }
        }
        let pseudo = pseudo_header::<A>(frame.octets(), length)?;
        let segment = frame.octets_mut().get_mut(ethernet::HEADER + A::HEADER..)?;
        let sum = checksum::finish(segment, pseudo);
        let (header, _) = TcpHeader::mut_from_prefix(segment).ok()?;
        header.checksum = sum;
        u16::try_from(A::HEADER + length).ok()
    }
}
