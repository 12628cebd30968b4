//! Neighbor Discovery (RFC 4861): answers for the director's addresses and VIPs, and learns from
//! advertisements. And where the other ICMPv6 messages for the director go.

use std::net::IpAddr;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Outcome, echo, multicast_listener};
use crate::dataplane::classify::Packet;
use crate::dataplane::frame::Frame;
use crate::dataplane::interface::Interface;
use crate::dataplane::shared::Shared;
use crate::dataplane::stats::DropReason;
use crate::wire::U16;
use crate::wire::address::{Address, V6};
use crate::wire::checksum;
use crate::wire::ethernet::{self, EthernetHeader, Mac, ether_type};
use crate::wire::icmpv4::IcmpHeader;
use crate::wire::icmpv6::{self, LinkLayerOption, NeighborMessage};
use crate::wire::ipv4::protocol;
use crate::wire::ipv6::{self, Ipv6Header};
use crate::wire::mld;

/// What is kept of a received message.
struct Received {
    /// The station that sent the frame.
    station: Mac,
    message: NeighborMessage,
    source: V6,
    destination: V6,
    source_mac: Option<Mac>,
    target_mac: Option<Mac>,
}

/// An ICMPv6 packet: Neighbor Discovery, or echo.
pub(super) fn receive<F: Frame>(
    shared: &mut Shared<F>,
    interface: &Interface,
    packet: &Packet,
    frame: &mut F,
) -> Outcome {
    let truncated = Outcome::Dropped(DropReason::Truncated);
    let transport = usize::from(packet.transport);
    let icmp = frame.octets().get(transport..).unwrap_or_default();
    let Ok((header, _)) = IcmpHeader::ref_from_prefix(icmp) else { return truncated };
    match header.kind {
        icmpv6::ECHO_REQUEST => echo::receive::<V6, F>(shared, interface, packet, frame),
        icmpv6::NEIGHBOR_SOLICITATION | icmpv6::NEIGHBOR_ADVERTISEMENT => {
            let Some(received) = parse(packet, frame) else {
                return Outcome::Dropped(DropReason::BadNeighborMessage);
            };
            if received.message.kind == icmpv6::NEIGHBOR_SOLICITATION {
                solicited(shared, interface, &received, frame)
            } else {
                advertised(shared, interface, &received)
            }
        }
        mld::QUERY => multicast_listener::queried(shared, interface, packet, frame),
        // Listener and router messages of other stations (RFC 2710, 3810, 4861).
        131..=134 | mld::REPORT => Outcome::Dropped(DropReason::NotForUs),
        _ => Outcome::Dropped(DropReason::IcmpUnsupported),
    }
}

/// The checks of RFC 4861 sections 7.1.1 and 7.1.2. `None`: to be discarded.
fn parse<F: Frame>(packet: &Packet, frame: &F) -> Option<Received> {
    let transport = usize::from(packet.transport);
    let (link, rest) = EthernetHeader::ref_from_prefix(frame.octets()).ok()?;
    let (ip, _) = Ipv6Header::ref_from_prefix(rest).ok()?;
    let end = ethernet::HEADER + usize::from(packet.ip_octets);
    let icmp = frame.octets().get(transport..end)?;
    let (message, options) = NeighborMessage::read_from_prefix(icmp).ok()?;
    let length = u32::try_from(icmp.len()).ok()?;
    let pseudo = checksum::pseudo_header(&ip.source, &ip.destination, protocol::ICMPV6, length);
    let [target, ..] = message.target;
    let from_nobody = ip.source == V6::default();
    let source_mac = icmpv6::link_layer_option(options, icmpv6::SOURCE_LINK_LAYER);
    let target_mac = icmpv6::link_layer_option(options, icmpv6::TARGET_LINK_LAYER);
    // Who has no address yet may only ask, and only the group of the address that it wants.
    let is_probe = message.kind == icmpv6::NEIGHBOR_SOLICITATION
        && source_mac.is_none()
        && ip.destination == ipv6::solicited_node(&message.target);
    let valid = ip.hop_limit == icmpv6::HOP_LIMIT
        && message.code == 0
        && target != 0xff
        && message.target != V6::default()
        && checksum::finish(icmp, pseudo) == [0, 0]
        && icmpv6::options_are_valid(options)
        && (!from_nobody || is_probe)
        // A group can be nobody's address.
        && ![Some(link.source), source_mac, target_mac].iter().flatten().any(ethernet::is_group);
    valid.then_some(Received {
        station: link.source,
        message,
        source: ip.source,
        destination: ip.destination,
        source_mac,
        target_mac,
    })
}

fn solicited<F: Frame>(
    shared: &mut Shared<F>,
    interface: &Interface,
    received: &Received,
    frame: &mut F,
) -> Outcome {
    let target = received.message.target;
    let for_us = shared.answers(interface, target.to_ip());
    let of_other = |mac: &Mac| !shared.is_ours(received.source) && !interface.is_virtual(*mac);
    if let Some(mac) = received.source_mac.filter(of_other) {
        shared.neighbor_seen(interface.id, received.source.to_ip(), mac, for_us);
    }
    if !for_us {
        return Outcome::Dropped(DropReason::NotForUs);
    }
    // Who asks without an address of its own checks whether it may use this one: the answer goes
    // to all nodes (RFC 4861 section 7.2.4).
    let from_nobody = received.source == V6::default();
    let (to, mac, flags) = if from_nobody {
        (ipv6::ALL_NODES, ethernet::ipv6_group(&ipv6::ALL_NODES), 0)
    } else {
        let mac = received.source_mac.unwrap_or(received.station);
        (received.source, mac, icmpv6::SOLICITED)
    };
    let flags = flags | icmpv6::ROUTER | icmpv6::OVERRIDE;
    let own = interface.mac_of(target.to_ip());
    let answer = Message { mac: own, kind: icmpv6::NEIGHBOR_ADVERTISEMENT, flags, target };
    match answer.write(frame, target, to, mac) {
        Some(()) => Outcome::Answered,
        None => Outcome::Dropped(DropReason::Truncated),
    }
}

fn advertised<F: Frame>(
    shared: &mut Shared<F>,
    interface: &Interface,
    received: &Received,
) -> Outcome {
    let target = received.message.target;
    let is_solicited = received.message.flags & icmpv6::SOLICITED != 0;
    let [destination, ..] = received.destination;
    if !shared.is_active && shared.is_ours(target) && !interface.keeps(target.to_ip()) {
        // The active director.
        return Outcome::Consumed;
    }
    if shared.is_ours(target) || is_solicited && destination == 0xff {
        return Outcome::Dropped(DropReason::BadNeighborMessage);
    }
    // The answer to a unicast solicitation may leave its link-layer address out (RFC 4861
    // section 7.2.4), and Linux does.
    let confirmed = is_solicited.then_some(received.station);
    let mac = received.target_mac.or(confirmed);
    if let Some(mac) = mac.filter(|mac| !interface.is_virtual(*mac)) {
        shared.neighbor_seen(interface.id, target.to_ip(), mac, is_solicited);
    }
    Outcome::Consumed
}

/// A Neighbor Solicitation or Advertisement with our link-layer address.
struct Message {
    mac: Mac,
    kind: u8,
    flags: u8,
    target: V6,
}

/// The whole frame of such a message.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Layout {
    link: EthernetHeader,
    ip: Ipv6Header,
    message: NeighborMessage,
    option: LinkLayerOption,
}

/// Octets of its ICMPv6 part.
const ICMP_OCTETS: u16 = 32;
const _: () = assert!(ICMP_OCTETS as usize == icmpv6::MESSAGE + icmpv6::LINK_LAYER_OPTION);

impl Message {
    fn write<F: Frame>(&self, frame: &mut F, from: V6, to: V6, mac: Mac) -> Option<()> {
        let is_advertisement = self.kind == icmpv6::NEIGHBOR_ADVERTISEMENT;
        let mut layout = Layout {
            link: EthernetHeader {
                destination: mac,
                source: self.mac,
                ether_type: U16::new(ether_type::IPV6),
            },
            ip: Ipv6Header {
                version_class_flow: [0x60, 0, 0, 0],
                payload_length: U16::new(ICMP_OCTETS),
                next_header: protocol::ICMPV6,
                hop_limit: icmpv6::HOP_LIMIT,
                source: from,
                destination: to,
            },
            message: NeighborMessage {
                kind: self.kind,
                code: 0,
                checksum: [0; 2],
                flags: self.flags,
                reserved: [0; 3],
                target: self.target,
            },
            option: LinkLayerOption {
                kind: if is_advertisement {
                    icmpv6::TARGET_LINK_LAYER
                } else {
                    icmpv6::SOURCE_LINK_LAYER
                },
                length: 1,
                mac: self.mac,
            },
        };
        let pseudo = checksum::pseudo_header(&from, &to, protocol::ICMPV6, u32::from(ICMP_OCTETS));
        let option = checksum::sum(layout.option.as_bytes());
        let parts = checksum::fold(u64::from(pseudo) + u64::from(option));
        layout.message.checksum = checksum::finish(layout.message.as_bytes(), parts);
        if !frame.set_len(size_of::<Layout>()) {
            return None;
        }
        layout.write_to_prefix(frame.octets_mut()).ok()
    }
}

/// Who has `neighbor`? To one station, or to its solicited-node group.
pub(super) fn solicitation<F: Frame>(
    (link, is_active): (&Interface, bool),
    neighbor: V6,
    station: Option<Mac>,
    frame: &mut F,
) -> Option<()> {
    let (source, mac) = link.asks_as(IpAddr::from(neighbor), is_active);
    let source = V6::from_ip(source.unwrap_or_else(|| link.link_local()))?;
    let message = Message { mac, kind: icmpv6::NEIGHBOR_SOLICITATION, flags: 0, target: neighbor };
    if let Some(mac) = station {
        return message.write(frame, source, neighbor, mac);
    }
    let group = ipv6::solicited_node(&neighbor);
    message.write(frame, source, group, ethernet::ipv6_group(&group))
}

/// An unsolicited advertisement to all nodes (RFC 4861 section 7.2.6).
pub(super) fn announcement<F: Frame>(link: &Interface, address: V6, frame: &mut F) -> Option<()> {
    let message = Message {
        mac: link.mac_of(address.to_ip()),
        kind: icmpv6::NEIGHBOR_ADVERTISEMENT,
        flags: icmpv6::ROUTER | icmpv6::OVERRIDE,
        target: address,
    };
    message.write(frame, address, ipv6::ALL_NODES, ethernet::ipv6_group(&ipv6::ALL_NODES))
}
