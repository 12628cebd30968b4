//! Fragmentation of IPv4 packets that do not fit the link that they leave by and may be
//! fragmented (RFC 791 section 3.2).

use zerocopy::FromBytes;

use super::frame::{Frame, Outlet};
use super::shared::Shared;
use super::stats::DropReason;
use crate::ids::{InterfaceId, VlanId};
use crate::wire::checksum;
use crate::wire::ethernet;
use crate::wire::ipv4::{self, Ipv4Header};

/// More fragments follow.
const MORE: u16 = 0x2000;
/// An option that every fragment repeats.
const COPIED: u8 = 0x80;
const END_OF_OPTIONS: u8 = 0;
const NO_OPERATION: u8 = 1;

/// Sends a packet, complete with its Ethernet header, in pieces of at most `mtu` octets.
///
/// # Errors
/// The packet cannot be split, or no buffer was free for one of the pieces.
pub(super) fn send<F: Frame>(
    shared: &Shared<F>,
    frame: &F,
    (interface, vlan): (InterfaceId, VlanId),
    mtu: u16,
    outlet: &mut impl Outlet<F>,
) -> Result<(), DropReason> {
    let whole = Whole::of(frame).ok_or(DropReason::MtuExceeded)?;
    let room = usize::from(mtu).saturating_sub(whole.header.len()) / 8 * 8;
    if room == 0 {
        return Err(DropReason::MtuExceeded);
    }
    for offset in (0..whole.payload).step_by(room) {
        let mut piece = outlet.allocate().ok_or(DropReason::NoBuffer)?;
        let length = room.min(whole.payload - offset);
        if whole.write(&mut piece, offset, length).is_none() {
            outlet.discard(piece);
            return Err(DropReason::NoBuffer);
        }
        shared.stats.originated.increment();
        shared.transmit(interface, vlan, piece, outlet);
    }
    Ok(())
}

/// A packet to be split; its payload may lie in several buffers.
struct Whole<'f, F> {
    frame: &'f F,
    link: &'f [u8],
    header: &'f [u8],
    /// Octets behind the header.
    payload: usize,
    /// Flags and offset of the packet itself: it may be a fragment already.
    fragment: u16,
}

impl<'f, F: Frame> Whole<'f, F> {
    fn of(frame: &'f F) -> Option<Self> {
        let (link, packet) = frame.octets().split_at_checked(ethernet::HEADER)?;
        let (ip, _) = Ipv4Header::ref_from_prefix(packet).ok()?;
        if ip.version_ihl >> 4 != 4 || ip.dont_fragment() {
            return None;
        }
        let header = packet.get(..ip.header_length())?;
        let payload = usize::from(ip.total_length.get()).checked_sub(header.len())?;
        Some(Self { frame, link, header, payload, fragment: ip.fragment.get() })
    }

    /// Writes the piece of `octets` octets of payload from `offset` on.
    fn write(&self, piece: &mut F, offset: usize, octets: usize) -> Option<()> {
        let length = self.header.len() + octets;
        if !piece.set_len(ethernet::HEADER + length) {
            return None;
        }
        let (link, packet) = piece.octets_mut().split_at_mut_checked(ethernet::HEADER)?;
        link.copy_from_slice(self.link);
        let (header, rest) = packet.split_at_mut_checked(self.header.len())?;
        header.copy_from_slice(self.header);
        let from = self.link.len() + self.header.len() + offset;
        if !self.frame.copy_octets(from, rest.get_mut(..octets)?) {
            return None;
        }
        if offset > 0 {
            blank_options(header.get_mut(ipv4::HEADER..)?);
        }
        let is_last = offset + octets == self.payload;
        let units = u16::try_from(offset / 8).ok()?;
        let (ip, _) = Ipv4Header::mut_from_prefix(header).ok()?;
        let more = if is_last { 0 } else { MORE };
        ip.fragment = (self.fragment.checked_add(units)? | more).into();
        ip.total_length = u16::try_from(length).ok()?.into();
        ip.checksum = [0; 2];
        let sum = checksum::finish(header, 0);
        let (ip, _) = Ipv4Header::mut_from_prefix(header).ok()?;
        ip.checksum = sum;
        Some(())
    }
}

/// Overwrites options that only the first fragment carries.
fn blank_options(mut options: &mut [u8]) {
    while let [kind, ..] = *options {
        let length = match (kind, options.get(1)) {
            (END_OF_OPTIONS, _) => return,
            (NO_OPERATION, _) => 1,
            (_, Some(length)) => usize::from(*length).max(2),
            (_, None) => return,
        };
        let Some((option, rest)) = options.split_at_mut_checked(length) else { return };
        if kind & COPIED == 0 {
            option.fill(NO_OPERATION);
        }
        options = rest;
    }
}
