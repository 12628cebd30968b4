//! Multicast Listener Discovery: queries are passed on to the control thread, which has them
//! answered, and changes told, by reports.

use arrayvec::ArrayVec;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Outcome;
use crate::dataplane::classify::Packet;
use crate::dataplane::frame::Frame;
use crate::dataplane::interface::Interface;
use crate::dataplane::mailbox::Event;
use crate::dataplane::shared::Shared;
use crate::dataplane::stats::DropReason;
use crate::wire::address::V6;
use crate::wire::ethernet::{self, EthernetHeader, ether_type};
use crate::wire::ipv4::protocol;
use crate::wire::ipv6::{self, Ipv6Header};
use crate::wire::mld::{self, ListenerMessage, Listening, Query, Record, ReportHeader};
use crate::wire::{U16, checksum};

/// Groups that one report tells of at most; one of version 1 tells of one.
pub const GROUPS: usize = 8;

/// What the routers and switches of a link are told of groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerReport {
    /// What there is to say of them.
    pub listening: Listening,
    /// Whether to say it in version 1.
    pub is_version_1: bool,
    /// The groups.
    pub groups: ArrayVec<V6, GROUPS>,
}

/// A query.
pub(super) fn queried<F: Frame>(
    shared: &Shared<F>,
    interface: &Interface,
    packet: &Packet,
    frame: &F,
) -> Outcome {
    let Some(query) = parse(packet, frame) else {
        return Outcome::Dropped(DropReason::BadNeighborMessage);
    };
    if shared.mailbox.post(Event::ListenersQueried { interface: interface.id, query }).is_err() {
        shared.stats.events_lost.increment();
    }
    Outcome::Consumed
}

/// The checks of RFC 3810 sections 5.1.14 and 6.2. `None`: to be discarded.
fn parse<F: Frame>(packet: &Packet, frame: &F) -> Option<Query> {
    let (_, rest) = EthernetHeader::ref_from_prefix(frame.octets()).ok()?;
    let (ip, options) = Ipv6Header::ref_from_prefix(rest).ok()?;
    let transport = usize::from(packet.transport);
    let end = ethernet::HEADER + usize::from(packet.ip_octets);
    let icmp = frame.octets().get(transport..end)?;
    let length = u32::try_from(icmp.len()).ok()?;
    let pseudo = checksum::pseudo_header(&ip.source, &ip.destination, protocol::ICMPV6, length);
    let [_, octets, ..] = *options else { return None };
    let options = options.get(2..8 + usize::from(octets) * 8)?;
    let valid = ip.hop_limit == mld::HOP_LIMIT
        && ipv6::is_link_local(&ip.source)
        && ip.next_header == ipv6::extension::HOP_BY_HOP
        && mld::has_alert(options)
        && checksum::finish(icmp, pseudo) == [0, 0];
    Query::read(icmp).filter(|_| valid)
}

/// What every message begins with.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Head {
    link: EthernetHeader,
    ip: Ipv6Header,
    alert: [u8; 8],
}

/// Octets after the fixed header that are no ICMPv6.
const ALERT: usize = mld::ALERT_HEADER.len();

/// Writes the whole frame of a report.
pub(super) fn report<F: Frame>(
    link: &Interface,
    report: &ListenerReport,
    frame: &mut F,
) -> Option<()> {
    let groups = &report.groups[..];
    if report.is_version_1 {
        let group = *groups.first()?;
        let (kind, to) = match report.listening {
            Listening::Is | Listening::Begins => (mld::REPORT_V1, group),
            Listening::Ends => (mld::DONE, mld::ROUTERS),
        };
        let icmp = begin(link, to, size_of::<ListenerMessage>(), frame)?;
        let (message, _) = ListenerMessage::mut_from_prefix(icmp).ok()?;
        *message = ListenerMessage { kind, group, ..ListenerMessage::new_zeroed() };
    } else {
        let octets = size_of::<ReportHeader>() + groups.len() * size_of::<Record>();
        let icmp = begin(link, mld::ROUTERS_V2, octets, frame)?;
        let (header, mut rest) = ReportHeader::mut_from_prefix(icmp).ok()?;
        let records = U16::new(u16::try_from(groups.len()).ok()?);
        *header = ReportHeader { kind: mld::REPORT, records, ..ReportHeader::new_zeroed() };
        for &group in groups {
            let record;
            (record, rest) = Record::mut_from_prefix(rest).ok()?;
            *record = Record { kind: report.listening as u8, group, ..Record::new_zeroed() };
        }
    }
    finish(frame)
}

/// Writes the headers, and lends the place of the ICMPv6 message.
fn begin<'f, F: Frame>(
    link: &Interface,
    to: V6,
    octets: usize,
    frame: &'f mut F,
) -> Option<&'f mut [u8]> {
    let head = Head {
        link: EthernetHeader {
            destination: ethernet::ipv6_group(&to),
            source: link.mac,
            ether_type: U16::new(ether_type::IPV6),
        },
        ip: Ipv6Header {
            version_class_flow: [0x60, 0, 0, 0],
            payload_length: U16::new(u16::try_from(ALERT + octets).ok()?),
            next_header: ipv6::extension::HOP_BY_HOP,
            hop_limit: mld::HOP_LIMIT,
            source: ipv6::link_local(&link.mac),
            destination: to,
        },
        alert: mld::ALERT_HEADER,
    };
    if !frame.set_len(size_of::<Head>() + octets) {
        return None;
    }
    head.write_to_prefix(frame.octets_mut()).ok()?;
    frame.octets_mut().get_mut(size_of::<Head>()..)
}

/// Writes the checksum, which lies at the same place in all messages.
fn finish<F: Frame>(frame: &mut F) -> Option<()> {
    let (head, icmp) = Head::mut_from_prefix(frame.octets_mut()).ok()?;
    let length = u32::try_from(icmp.len()).ok()?;
    let Ipv6Header { source, destination, .. } = head.ip;
    let pseudo = checksum::pseudo_header(&source, &destination, protocol::ICMPV6, length);
    let sum = checksum::finish(icmp, pseudo);
    icmp.get_mut(2..4)?.copy_from_slice(&sum);
    Some(())
}
