//! Errors of our own: what the director tells the sender of a packet that it cannot forward.
//!
//! Time Exceeded, Fragmentation Needed and Packet Too Big, Port Unreachable, and TCP resets;
//! all within one rate limit per worker. Never about an ICMP error, a fragment or a group
//! address (RFC 1122 section 3.2.2, RFC 4443 section 2.4(e)): those do not come here.

use zerocopy::{FromBytes, IntoBytes};

use super::classify::Packet;
use super::family::Family;
use super::frame::{Frame, Outlet};
use super::shared::Shared;
use super::stats::DropReason;
use crate::clock::Tick;
use crate::service::ClosedPorts;
use crate::wire::checksum;
use crate::wire::ethernet::{self, EthernetHeader};
use crate::wire::flow_key::FlowKey;
use crate::wire::icmpv4::{self, IcmpHeader};
use crate::wire::ipv4::protocol;
use crate::wire::sctp::Signal;
use crate::wire::tcp::{self, TcpHeader, flags};
use crate::wire::{U16, U32};

/// Why a packet is not forwarded, with what its sender must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The reason to count.
    pub(super) reason: DropReason,
    /// The MTU that the packet exceeds; 0 for other reasons.
    pub(super) mtu: u16,
    /// Whether a TCP reset is the answer.
    pub(super) reset: bool,
}

impl From<DropReason> for Refusal {
    fn from(reason: DropReason) -> Self {
        Self { reason, mtu: 0, reset: false }
    }
}

impl Refusal {
    /// The packet does not fit the link that it would leave by.
    pub(super) const fn too_big(mtu: u16) -> Self {
        Self { reason: DropReason::MtuExceeded, mtu, reset: false }
    }
}

/// A token bucket: so many errors a second, as many at once.
#[derive(Debug)]
pub(super) struct RateLimit {
    per_second: u32,
    /// Thousandths of a token.
    tokens: u64,
    last: Tick,
}

impl RateLimit {
    pub(super) fn new(per_second: u32, now: Tick) -> Self {
        Self { per_second, tokens: u64::from(per_second) * 1000, last: now }
    }

    /// Takes a token, if there is one.
    pub(super) fn allows(&mut self, now: Tick) -> bool {
        let full = u64::from(self.per_second) * 1000;
        let earned = u64::from(now.since(self.last)) * u64::from(self.per_second);
        self.last = now;
        self.tokens = self.tokens.saturating_add(earned).min(full);
        let allowed = self.tokens >= 1000;
        if allowed {
            self.tokens -= 1000;
        }
        allowed
    }
}

/// What is sent back.
enum Answer {
    /// An ICMP error: type, code, and the second word of its header.
    Icmp(u8, u8, [u8; 4]),
    /// A TCP reset.
    Reset,
}

/// What a refusal is answered with; `None`: with silence.
#[allow(clippy::wildcard_enum_match_arm, reason = "silence, unless said otherwise")]
fn answer_to<A: Family>(
    refusal: Refusal,
    (closed, to_us): (ClosedPorts, bool),
    key: &FlowKey<A>,
    packet: &Packet,
) -> Option<Answer> {
    let [high, low] = refusal.mtu.to_be_bytes();
    let is_v6 = A::IS_V6;
    let is_tcp = key.protocol == protocol::TCP;
    let is_reset = is_tcp && packet.control & flags::RST != 0;
    match refusal.reason {
        DropReason::TtlExpired if is_v6 => Some(Answer::Icmp(3, 0, [0; 4])),
        DropReason::TtlExpired => Some(Answer::Icmp(11, 0, [0; 4])),
        DropReason::MtuExceeded if is_v6 => Some(Answer::Icmp(2, 0, [0, 0, high, low])),
        DropReason::MtuExceeded => Some(Answer::Icmp(3, 4, [0, 0, high, low])),
        // RFC 5508 REQ-8; RFC 4443 section 3.1: administratively prohibited.
        DropReason::PortsExhausted if is_v6 => Some(Answer::Icmp(1, 1, [0; 4])),
        DropReason::PortsExhausted => Some(Answer::Icmp(3, 13, [0; 4])),
        DropReason::TableFull if !to_us && is_v6 => Some(Answer::Icmp(1, 1, [0; 4])),
        DropReason::TableFull if !to_us => Some(Answer::Icmp(3, 13, [0; 4])),
        DropReason::NoConnection | DropReason::ServerRemoved if refusal.reset && !is_reset => {
            Some(Answer::Reset)
        }
        DropReason::NoService if closed == ClosedPorts::Drop || is_reset => None,
        DropReason::NoService if is_tcp && closed == ClosedPorts::Reject => Some(Answer::Reset),
        DropReason::NoService if key.protocol == protocol::SCTP && is_last_word(packet) => None,
        DropReason::NoService | DropReason::NoServer if is_v6 => Some(Answer::Icmp(1, 4, [0; 4])),
        DropReason::NoService | DropReason::NoServer => Some(Answer::Icmp(3, 3, [0; 4])),
        _ => None,
    }
}

/// Whether an SCTP packet ends an association, known or not: nobody answers that (RFC 9260
/// section 8.4).
fn is_last_word(packet: &Packet) -> bool {
    matches!(Signal::of_control(packet.control), Signal::Abort | Signal::ShutdownComplete)
}

/// Tells the sender of a packet why it is not forwarded, if that is told at all and the rate
/// limit allows.
#[cold]
pub(super) fn tell<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    refusal: Refusal,
    (key, packet): (&FlowKey<A>, &Packet),
    frame: &F,
    now: Tick,
    outlet: &mut impl Outlet<F>,
) {
    let closed = shared.services.policy().closed_ports;
    let to_us = shared.is_ours(key.destination);
    let Some(answer) = answer_to(refusal, (closed, to_us), key, packet) else { return };
    let limit = if refusal.reason == DropReason::ServerRemoved {
        shared.sweep.answers()
    } else {
        &mut shared.error_limit
    };
    if !limit.allows(now) {
        return shared.stats.errors_suppressed.increment();
    }
    let Some(interface) = shared.interfaces.of_frame(frame) else { return };
    // As the kernel does: from the address that was spoken to, or that of the link.
    let from = if shared.is_ours(key.destination) {
        Some(key.destination)
    } else {
        interface.source_for(key.source.to_ip()).and_then(A::from_ip)
    };
    let Some(from) = from else { return };
    let Some(mut error) = outlet.allocate() else { return shared.stats.no_buffer.increment() };
    let ends = (from, key.source);
    let written = match answer {
        Answer::Icmp(kind, code, rest) => {
            let header = IcmpHeader { kind, code, checksum: [0; 2], rest };
            write_icmp(&mut error, frame, packet, ends, header)
        }
        Answer::Reset => write_reset(&mut error, frame, packet, key),
    };
    let link = written.and_then(|()| {
        let (theirs, _) = EthernetHeader::ref_from_prefix(frame.octets()).ok()?;
        let link = EthernetHeader {
            destination: theirs.source,
            source: interface.mac,
            ether_type: U16::new(A::ETHER_TYPE),
        };
        link.write_to_prefix(error.octets_mut()).ok()
    });
    if link.is_none() {
        shared.stats.no_buffer.increment();
        return outlet.discard(error);
    }
    shared.stats.errors_sent.increment();
    if refusal.reason == DropReason::ServerRemoved {
        shared.stats.removal_resets.increment();
    }
    shared.stats.originated.increment();
    shared.transmit(interface.id, interface.vlan, error, outlet);
}

/// An ICMP error that quotes as much of the packet as may be.
fn write_icmp<A: Family, F: Frame>(
    error: &mut F,
    frame: &F,
    packet: &Packet,
    (from, to): (A, A),
    header: IcmpHeader,
) -> Option<()> {
    let quote = usize::from(packet.ip_octets).min(A::ERROR_LIMIT - A::HEADER - icmpv4::HEADER);
    let length = icmpv4::HEADER + quote;
    if !error.set_len(ethernet::HEADER + A::HEADER + length) {
        return None;
    }
    let ip = error.octets_mut().get_mut(ethernet::HEADER..)?;
    A::write_header(ip, from, to, A::ICMP, length)?;
    let message = ip.get_mut(A::HEADER..)?;
    header.write_to_prefix(message).ok()?;
    // The packet may lie in several buffers.
    if !frame.copy_octets(ethernet::HEADER, message.get_mut(icmpv4::HEADER..length)?) {
        return None;
    }
    let pseudo = A::icmp_pseudo_header(error.octets(), length)?;
    let message = error.octets_mut().get_mut(ethernet::HEADER + A::HEADER..)?;
    let sum = checksum::finish(message, pseudo);
    let (icmp, _) = IcmpHeader::mut_from_prefix(message).ok()?;
    icmp.checksum = sum;
    Some(())
}

/// The reset of RFC 9293 section 3.10.7.1: as if the port were closed.
fn write_reset<A: Family, F: Frame>(
    error: &mut F,
    frame: &F,
    packet: &Packet,
    key: &FlowKey<A>,
) -> Option<()> {
    let transport = usize::from(packet.transport);
    let (theirs, _) = TcpHeader::ref_from_prefix(frame.octets().get(transport..)?).ok()?;
    let (sequence, acknowledgement, control) = if theirs.flags & flags::ACK != 0 {
        (theirs.acknowledgement.get(), 0, flags::RST)
    } else {
        let end = ethernet::HEADER + usize::from(packet.ip_octets);
        let data = end.checked_sub(transport + theirs.header_length())?;
        let control = (theirs.flags & flags::SYN != 0, theirs.flags & flags::FIN != 0);
        let length = u32::try_from(data).ok()? + u32::from(control.0) + u32::from(control.1);
        (0, theirs.sequence.get().wrapping_add(length), flags::RST | flags::ACK)
    };
    let reset = TcpHeader {
        source_port: key.destination_port,
        destination_port: key.source_port,
        sequence: U32::new(sequence),
        acknowledgement: U32::new(acknowledgement),
        data_offset: 0x50,
        flags: control,
        window: U16::new(0),
        checksum: [0; 2],
        urgent: U16::new(0),
    };
    write_segment(error, (key.destination, key.source), reset)
}

/// A segment without data or options, behind room for an Ethernet header.
pub(super) fn write_segment<A: Family, F: Frame>(
    frame: &mut F,
    (from, to): (A, A),
    mut segment: TcpHeader,
) -> Option<()> {
    let pseudo = checksum::pseudo_header(from.octets(), to.octets(), protocol::TCP, 20);
    segment.checksum = checksum::finish(segment.as_bytes(), pseudo);
    if !frame.set_len(ethernet::HEADER + A::HEADER + tcp::HEADER) {
        return None;
    }
    let ip = frame.octets_mut().get_mut(ethernet::HEADER..)?;
    A::write_header(ip, from, to, protocol::TCP, tcp::HEADER)?;
    segment.write_to_prefix(ip.get_mut(A::HEADER..)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_limit_gives_a_burst_and_then_its_rate() {
        let mut limit = RateLimit::new(100, Tick(0));
        let at =
            |limit: &mut RateLimit, ms: u32| (0..1000).filter(|_| limit.allows(Tick(ms))).count();
        assert_eq!(at(&mut limit, 0), 100);
        assert_eq!(at(&mut limit, 5), 0);
        assert_eq!(at(&mut limit, 10), 1);
        assert_eq!(at(&mut limit, 510), 50);
        assert_eq!(at(&mut limit, 10_000), 100);
    }
}
