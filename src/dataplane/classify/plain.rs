//! The bulk of all traffic in few instructions: whole TCP segments and UDP datagrams over IPv4
//! without options or IPv6 without extension headers, found by loads at fixed places. Whatever is
//! otherwise in any way is left to the general inspection, which says what it is; where both look
//! at a packet they say the same (`tests/properties.rs`).

use super::{Class, FlowHash, Packet, cut_padding, is_martian_destination, is_martian_source};
use crate::dataplane::frame::Frame;
use crate::wire::address::{V4, V6};
use crate::wire::checksum;
use crate::wire::ethernet::{self, Mac, ether_type};
use crate::wire::flow_key::{FlowKey, HashSecret};
use crate::wire::ipv4::{self, protocol};
use crate::wire::{ipv6, tcp, udp};

/// Octets up to the end of an IPv4 header, and of the part of the transport header that UDP and
/// TCP have alike.
const V4_END: usize = ethernet::HEADER + ipv4::HEADER;
const V4_HEAD: usize = V4_END + udp::HEADER;
const V4_TRANSPORT: u16 = 34;
const _: () = assert!(V4_TRANSPORT as usize == V4_END);
/// The same over IPv6.
const V6_END: usize = ethernet::HEADER + ipv6::HEADER;
const V6_HEAD: usize = V6_END + udp::HEADER;
const V6_TRANSPORT: u16 = 54;
const _: () = assert!(V6_TRANSPORT as usize == V6_END);

/// The EtherType and what begins the IP header, as read by [`word`].
const V4_KIND: u32 = u32::from_le_bytes([0x08, 0x00, 0x45, 0]);
const V4_KIND_MASK: u32 = 0x00ff_ffff;
const V6_KIND: u32 = u32::from_le_bytes([0x86, 0xdd, 0x60, 0]);
const V6_KIND_MASK: u32 = 0x00f0_ffff;
/// More-fragments bit and offset of the IPv4 header, as read from memory.
const FRAGMENT: u16 = u16::from_ne_bytes([0x3f, 0xff]);

/// What the first eight octets of a frame for a station must be: its address, and a source that
/// is no group.
#[derive(Clone, Copy, Debug)]
pub struct Station {
    own: u64,
    /// Of the pair's virtual router, over IPv4 and over IPv6.
    virtual_v4: u64,
    virtual_v6: u64,
}

/// What no frame begins with, of what [`STATION_MASK`] leaves.
const NO_STATION: u64 = u64::MAX;

impl Default for Station {
    fn default() -> Self {
        Self::of(&[0; 6])
    }
}

/// The destination address and the group bit of the source.
const STATION_MASK: u64 = 0x0001_ffff_ffff_ffff;

impl Station {
    /// The station with this address.
    pub const fn of(mac: &Mac) -> Self {
        Self { own: word(*mac), virtual_v4: NO_STATION, virtual_v6: NO_STATION }
    }

    /// The station that frames to the pair's virtual router are for, too: IPv4 and ARP to the first
    /// address, IPv6 to the second one.
    #[must_use]
    pub const fn with_virtual(self, [v4, v6]: [Mac; 2]) -> Self {
        Self { virtual_v4: word(v4), virtual_v6: word(v6), ..self }
    }

    /// Whether a frame to this address that carries this is for the station. One with a VLAN tag
    /// may be, whichever virtual router it is to.
    pub(super) fn takes(&self, destination: Mac, kind: u16) -> bool {
        let destination = word(destination);
        let is_virtual = match kind {
            ether_type::IPV4 | ether_type::ARP => destination == self.virtual_v4,
            ether_type::IPV6 => destination == self.virtual_v6,
            _ => destination == self.virtual_v4 || destination == self.virtual_v6,
        };
        destination == self.own || is_virtual
    }

    /// The same by what the first eight octets are, and the [`KIND`](V4_KIND) of a plain frame.
    /// The port's own address is asked for first: most pairs have no other.
    #[inline]
    const fn is_meant(&self, link: [u8; 8], kind: u32) -> bool {
        let link = u64::from_le_bytes(link) & STATION_MASK;
        link == self.own
            || link == self.virtual_v4 && kind & V4_KIND_MASK == V4_KIND
            || link == self.virtual_v6 && kind & V6_KIND_MASK == V6_KIND
    }
}

/// The first eight octets of a frame to an address, as far as [`STATION_MASK`] looks.
const fn word(mac: Mac) -> u64 {
    let mut link = [0; 8];
    let (station, _) = link.split_at_mut(mac.len());
    station.copy_from_slice(&mac);
    u64::from_le_bytes(link)
}

/// The octets at a place of a header; the place is a constant, and within.
#[inline(always)]
#[expect(clippy::inline_always, reason = "the hit path: one load")]
fn at<const PLACE: usize, const N: usize, const M: usize>(octets: &[u8; M]) -> [u8; N] {
    octets.get(PLACE..).and_then(<[u8]>::first_chunk).copied().unwrap_or([0; N])
}

/// Writes to `packet` what a frame is, if it is plain, cuts off its padding, and tells `expect` its
/// hash. Otherwise (`false`) changes nothing.
#[inline(always)]
#[expect(clippy::inline_always, reason = "the hit path, called from one place")]
pub(super) fn inspect<F: Frame>(
    frame: &mut F,
    station: &Station,
    secret: &HashSecret,
    packet: &mut Packet,
    expect: &mut impl FnMut(FlowHash),
) -> bool {
    let (octets, total_len) = (frame.octets(), frame.total_len());
    let Some(head) = octets.first_chunk::<V4_HEAD>() else { return false };
    let kind = u32::from_le_bytes(at::<12, 4, _>(head));
    if !station.is_meant(at::<0, 8, _>(head), kind) {
        return false;
    }
    // Each family to its end: a branch for both would have to find out again which it was.
    if kind & V4_KIND_MASK == V4_KIND {
        let Some(hash) = inspect_v4(head, octets, total_len, secret, packet) else { return false };
        expect(FlowHash::V4(hash));
    } else if kind & V6_KIND_MASK == V6_KIND {
        let Some(hash) = inspect_v6(octets, total_len, secret, packet) else { return false };
        expect(FlowHash::V6(hash));
    } else {
        return false;
    }
    cut_padding(frame, packet);
    true
}

/// [`is_martian_source`] and [`is_martian_destination`] of all first octets: two loads instead of
/// four comparisons.
static MARTIAN_SOURCES: [bool; 256] = of_all(true);
static MARTIAN_DESTINATIONS: [bool; 256] = of_all(false);

const fn of_all(are_sources: bool) -> [bool; 256] {
    let mut all = [false; 256];
    let mut rest: &mut [bool] = &mut all;
    let mut first = 0;
    while let [is_martian, others @ ..] = rest {
        *is_martian =
            if are_sources { is_martian_source(first) } else { is_martian_destination(first) };
        rest = others;
        first = first.wrapping_add(1);
    }
    all
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "the hit path: one load")]
fn of_first(table: &[bool; 256], first: u8) -> bool {
    table.get(usize::from(first)).copied().unwrap_or(true)
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "the hit path, called from one place")]
fn inspect_v4(
    head: &[u8; V4_HEAD],
    octets: &[u8],
    total_len: usize,
    secret: &HashSecret,
    packet: &mut Packet,
) -> Option<u64> {
    let ip_octets = u16::from_be_bytes(at::<16, 2, _>(head));
    let ip_end = usize::from(ip_octets) + ethernet::HEADER;
    let ([source_net], [destination_net]) = (at::<26, 1, _>(head), at::<30, 1, _>(head));
    if ip_end > total_len
        || u16::from_ne_bytes(at::<20, 2, _>(head)) & FRAGMENT != 0
        || !checksum::is_right(&at::<14, 20, _>(head))
        || of_first(&MARTIAN_SOURCES, source_net) | of_first(&MARTIAN_DESTINATIONS, destination_net)
    {
        return None;
    }
    let [protocol] = at::<23, 1, _>(head);
    let length = u16::from_be_bytes(at::<{ V4_END + 4 }, 2, _>(head));
    let whole = usize::from(ip_octets);
    let control = control::<{ V4_END + 12 }>(protocol, length, octets, whole, ipv4::HEADER)?;
    let [ttl] = at::<22, 1, _>(head);
    let addresses = u64::from_ne_bytes(at::<26, 8, _>(head));
    let ports = at::<V4_END, 4, _>(head);
    let (key, hash) = FlowKey::with_hash(addresses, ports, protocol, secret);
    packet.class = Class::FlowV4(key);
    packet.transport = V4_TRANSPORT;
    packet.ip_octets = ip_octets;
    packet.ttl = ttl;
    packet.control = control;
    Some(hash)
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "the hit path, called from one place")]
fn inspect_v6(
    octets: &[u8],
    total_len: usize,
    secret: &HashSecret,
    packet: &mut Packet,
) -> Option<u64> {
    let head = octets.first_chunk::<V6_HEAD>()?;
    let payload = u16::from_be_bytes(at::<18, 2, _>(head));
    let ip_octets = payload.checked_add(40)?;
    let ([source_net], [destination_net]) = (at::<22, 1, _>(head), at::<38, 1, _>(head));
    let addresses: [u64; 4] = zerocopy::transmute!(at::<22, 32, _>(head));
    let [source_prefix, _, destination_prefix, _] = addresses;
    if usize::from(ip_octets) + ethernet::HEADER > total_len
        || source_net == 0xff
        || destination_net == 0xff
        // The unspecified and the loopback address, and their neighbours.
        || source_prefix == 0
        || destination_prefix == 0
    {
        return None;
    }
    let [protocol] = at::<20, 1, _>(head);
    let length = u16::from_be_bytes(at::<{ V6_END + 4 }, 2, _>(head));
    let control = control::<{ V6_END + 12 }>(protocol, length, octets, usize::from(payload), 0)?;
    let [hop_limit] = at::<21, 1, _>(head);
    let ports = at::<V6_END, 4, _>(head);
    let (key, hash) = FlowKey::with_hash(addresses, ports, protocol, secret);
    packet.class = Class::FlowV6(key);
    packet.transport = V6_TRANSPORT;
    packet.ip_octets = ip_octets;
    packet.ttl = hop_limit;
    packet.control = control;
    Some(hash)
}

/// Whose a plain packet is, of what is not known to be one.
pub(in crate::dataplane) enum Glance {
    /// Over IPv4.
    V4(FlowKey<V4>),
    /// Over IPv6.
    V6(FlowKey<V6>),
}

/// The 5-tuple of a frame for a station whose packet is plain, if nothing is wrong with it, by as few
/// loads as tell that: enough to find the flow's owner, who inspects all of it. `None`: it may be
/// anything.
#[inline(always)]
#[expect(clippy::inline_always, reason = "before the hit path; the key stays in registers")]
pub(in crate::dataplane) fn glance(octets: &[u8], station: &Station) -> Option<Glance> {
    let head = octets.first_chunk::<V4_HEAD>()?;
    let kind = u32::from_le_bytes(at::<12, 4, _>(head));
    if !station.is_meant(at::<0, 8, _>(head), kind) {
        return None;
    }
    if kind & V4_KIND_MASK == V4_KIND {
        let [protocol] = at::<23, 1, _>(head);
        let is_whole = u16::from_ne_bytes(at::<20, 2, _>(head)) & FRAGMENT == 0;
        let addresses = u64::from_ne_bytes(at::<26, 8, _>(head));
        let key = FlowKey::of_words(addresses, at::<V4_END, 4, _>(head), protocol);
        (is_whole && has_ports(protocol)).then_some(Glance::V4(key))
    } else if kind & V6_KIND_MASK == V6_KIND {
        let head = octets.first_chunk::<V6_HEAD>()?;
        let [protocol] = at::<20, 1, _>(head);
        let addresses: [u64; 4] = zerocopy::transmute!(at::<22, 32, _>(head));
        let key = FlowKey::of_words(addresses, at::<V6_END, 4, _>(head), protocol);
        has_ports(protocol).then_some(Glance::V6(key))
    } else {
        None
    }
}

#[inline]
const fn has_ports(protocol: u8) -> bool {
    matches!(protocol, protocol::TCP | protocol::UDP)
}

/// The control bits of a TCP segment, 0 for UDP; `None`: it is neither, or not whole. `length` is
/// what UDP's header says; `OFFSET` is where TCP's says how long it is. `whole` octets are the
/// transport's and the `before` octets of header that are counted with it.
#[inline(always)]
#[expect(clippy::inline_always, reason = "the hit path, called from one place of each family")]
fn control<const OFFSET: usize>(
    protocol: u8,
    length: u16,
    octets: &[u8],
    whole: usize,
    before: usize,
) -> Option<u8> {
    match protocol {
        protocol::TCP => {
            let rest: &[u8; tcp::HEADER - 12] = octets.get(OFFSET..)?.first_chunk()?;
            let [offset, control, ..] = *rest;
            let header = usize::from(offset >> 4) * 4;
            (header >= tcp::HEADER && before + header <= whole).then_some(control)
        }
        protocol::UDP => {
            let length = usize::from(length);
            (length >= udp::HEADER && before + length <= whole).then_some(0)
        }
        _ => None,
    }
}
