//! ARP (RFC 826): answers for the director's addresses and VIPs, and learns from answers.

use std::net::IpAddr;

use zerocopy::{FromBytes, IntoBytes};

use super::{Outcome, return_to_sender};
use crate::dataplane::frame::Frame;
use crate::dataplane::interface::Interface;
use crate::dataplane::shared::Shared;
use crate::dataplane::stats::DropReason;
use crate::wire::U16;
use crate::wire::address::{Address, V4};
use crate::wire::arp::{self, ArpPacket};
use crate::wire::ethernet::{self, EthernetHeader, Mac, ether_type};

pub(super) fn receive<F: Frame>(
    shared: &mut Shared<F>,
    interface: &Interface,
    frame: &mut F,
) -> Outcome {
    let truncated = Outcome::Dropped(DropReason::Truncated);
    let Some(([link], rest)) =
        frame.octets_mut().split_at_mut_checked(ethernet::HEADER).and_then(|(head, rest)| {
            let link = <[EthernetHeader; 1]>::mut_from_bytes(head).ok()?;
            Some((link, rest))
        })
    else {
        return truncated;
    };
    let Ok((packet, _)) = ArpPacket::mut_from_prefix(rest) else { return truncated };
    if ethernet::is_group(&packet.sender_mac) || packet.sender_mac == interface.mac {
        return Outcome::Dropped(DropReason::BadNeighborMessage);
    }
    let is_known = matches!(packet.operation.get(), arp::REQUEST | arp::REPLY);
    if !is_known || !may_send(packet.sender_ip) {
        return Outcome::Dropped(DropReason::BadNeighborMessage);
    }
    let sender = IpAddr::from(packet.sender_ip);
    let target = IpAddr::from(packet.target_ip);
    let answers_nobody = packet.operation.get() == arp::REPLY
        && packet.target_ip == V4::default()
        && packet.target_mac == interface.mac;
    let for_us = answers_nobody || shared.answers(interface, target);
    if shared.is_ours(packet.sender_ip) {
        if !shared.is_active && !interface.owns(sender) {
            // The active director.
            return Outcome::Consumed;
        }
        // Someone else claims an address of ours: never learnt.
        return Outcome::Dropped(DropReason::BadNeighborMessage);
    }
    // A sender of 0.0.0.0 only probes whether an address is taken (RFC 5227), and who speaks with
    // the virtual router's Ethernet address is not to be reached by that.
    if packet.sender_ip != V4::default() && !interface.is_virtual(packet.sender_mac) {
        shared.neighbor_seen(interface.id, sender, packet.sender_mac, for_us);
    }
    match packet.operation.get() {
        arp::REQUEST if for_us => {
            let mac = interface.mac_of(target);
            let asked = (mac, packet.target_ip);
            *packet = ArpPacket::new(arp::REPLY, asked, (packet.sender_mac, packet.sender_ip));
            return_to_sender(link, mac);
            if frame.set_len(ethernet::HEADER + arp::PACKET) {
                Outcome::Answered
            } else {
                truncated
            }
        }
        arp::REPLY if for_us => Outcome::Consumed,
        _ if packet.sender_ip == packet.target_ip => Outcome::Consumed,
        _ => Outcome::Dropped(DropReason::NotForUs),
    }
}

/// Whether a station can have this address, or none yet (0.0.0.0).
fn may_send(address: V4) -> bool {
    let [first, ..] = address;
    address == V4::default() || first != 0 && first != 127 && first < 224
}

fn write<F: Frame>(frame: &mut F, to: Mac, packet: &ArpPacket) -> Option<()> {
    let header = EthernetHeader {
        destination: to,
        source: packet.sender_mac,
        ether_type: U16::new(ether_type::ARP),
    };
    if !frame.set_len(ethernet::HEADER + arp::PACKET) {
        return None;
    }
    let (head, rest) = frame.octets_mut().split_at_mut_checked(ethernet::HEADER)?;
    header.write_to(head).ok()?;
    packet.write_to_prefix(rest).ok()
}

/// Who has `neighbor`? To one station or to all. Who has no address to ask from asks as a probe does
/// (RFC 5227 section 2.1.1), which nobody learns anything from.
pub(super) fn request<F: Frame>(
    (link, is_active): (&Interface, bool),
    neighbor: V4,
    station: Option<Mac>,
    frame: &mut F,
) -> Option<()> {
    let (source, mac) = link.asks_as(IpAddr::from(neighbor), is_active);
    let source = source.and_then(V4::from_ip).unwrap_or_default();
    let packet = ArpPacket::new(arp::REQUEST, (mac, source), ([0; 6], neighbor));
    write(frame, station.unwrap_or(ethernet::BROADCAST), &packet)
}

/// A gratuitous ARP request (RFC 5227 section 3), which is what most stacks heed.
pub(super) fn announcement<F: Frame>(link: &Interface, address: V4, frame: &mut F) -> Option<()> {
    let mac = link.mac_of(IpAddr::from(address));
    let packet = ArpPacket::new(arp::REQUEST, (mac, address), ([0; 6], address));
    write(frame, ethernet::BROADCAST, &packet)
}
