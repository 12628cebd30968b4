//! One side's station on its network: answers ARP and Neighbor Solicitations for the addresses that
//! the generator plays, and asks for the director's.

use std::net::IpAddr;

use ipnet::IpNet;
use pointsman::dpdk::mbuf::Mbuf;
use pointsman::wire::U16;
use pointsman::wire::arp::{self, ArpPacket};
use pointsman::wire::checksum;
use pointsman::wire::ethernet::{self, EthernetHeader, Mac, ether_type};
use pointsman::wire::icmpv6::{self, LinkLayerOption, NeighborMessage};
use pointsman::wire::ipv4::protocol;
use pointsman::wire::ipv6::{self, Ipv6Header};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// An Ethernet address and what it answers for.
#[derive(Clone, Debug)]
pub(crate) struct Station {
    /// The port's Ethernet address.
    pub(crate) mac: Mac,
    /// The addresses of all that the generator plays on this side.
    pub(crate) owned: Vec<IpNet>,
}

/// What a frame that is no traffic means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reaction {
    /// The frame is an answer now, to be sent.
    Answer,
    /// A neighbour said who it is.
    Learned(IpAddr, Mac),
    /// Nothing.
    Nothing,
}

impl Station {
    /// Reads a frame, and writes the answer in its place if it asks for one of our addresses.
    pub(crate) fn react(&self, frame: &mut Mbuf) -> Reaction {
        let Ok((link, rest)) = EthernetHeader::read_from_prefix(frame.octets()) else {
            return Reaction::Nothing;
        };
        let (answer, reaction) = match link.ether_type.get() {
            ether_type::ARP => self.arp(rest),
            ether_type::IPV6 => self.neighbor_discovery(rest),
            _ => return Reaction::Nothing,
        };
        if let Some(answer) = answer {
            if !frame.set_len(answer.len()) {
                return Reaction::Nothing;
            }
            frame.octets_mut().copy_from_slice(&answer);
        }
        reaction
    }

    fn owns(&self, address: IpAddr) -> bool {
        self.owned.iter().any(|network| network.contains(&address))
    }

    fn arp(&self, octets: &[u8]) -> (Option<Vec<u8>>, Reaction) {
        let nothing = (None, Reaction::Nothing);
        let Ok((packet, _)) = ArpPacket::read_from_prefix(octets) else { return nothing };
        if !packet.is_ipv4_over_ethernet() {
            return nothing;
        }
        let asks = packet.operation.get() == arp::REQUEST && packet.sender_ip != packet.target_ip;
        if asks && self.owns(packet.target_ip.into()) {
            let reply = ArpPacket::new(
                arp::REPLY,
                (self.mac, packet.target_ip),
                (packet.sender_mac, packet.sender_ip),
            );
            let frame = framed(packet.sender_mac, self.mac, ether_type::ARP, &[reply.as_bytes()]);
            return (Some(frame), Reaction::Answer);
        }
        match packet.operation.get() {
            arp::REPLY => (None, Reaction::Learned(packet.sender_ip.into(), packet.sender_mac)),
            _ => nothing,
        }
    }

    fn neighbor_discovery(&self, octets: &[u8]) -> (Option<Vec<u8>>, Reaction) {
        let nothing = (None, Reaction::Nothing);
        let Ok((ip, rest)) = Ipv6Header::read_from_prefix(octets) else { return nothing };
        let length = usize::from(ip.payload_length.get());
        let Some(message) = rest.get(..length).filter(|_| ip.next_header == protocol::ICMPV6)
        else {
            return nothing;
        };
        let Ok((head, options)) = NeighborMessage::read_from_prefix(message) else {
            return nothing;
        };
        let from_nobody = ip.source == [0; 16];
        match head.kind {
            icmpv6::NEIGHBOR_SOLICITATION if self.owns(head.target.into()) && !from_nobody => {
                let Some(to) = icmpv6::link_layer_option(options, icmpv6::SOURCE_LINK_LAYER) else {
                    return nothing;
                };
                let frame = self.advertisement(head.target, ip.source, to);
                (Some(frame), Reaction::Answer)
            }
            icmpv6::NEIGHBOR_ADVERTISEMENT => {
                icmpv6::link_layer_option(options, icmpv6::TARGET_LINK_LAYER)
                    .map_or(nothing, |mac| (None, Reaction::Learned(head.target.into(), mac)))
            }
            _ => nothing,
        }
    }

    fn advertisement(&self, target: [u8; 16], to: [u8; 16], to_mac: Mac) -> Vec<u8> {
        let flags = icmpv6::SOLICITED | icmpv6::OVERRIDE;
        let kind = icmpv6::NEIGHBOR_ADVERTISEMENT;
        self.message(kind, icmpv6::TARGET_LINK_LAYER, flags, (target, target), (to, to_mac))
    }

    /// The question who has an address, from one of ours.
    pub(crate) fn question(&self, from: IpAddr, target: IpAddr) -> Vec<u8> {
        match (from, target) {
            (IpAddr::V4(from), IpAddr::V4(target)) => {
                let request = ArpPacket::new(
                    arp::REQUEST,
                    (self.mac, from.octets()),
                    ([0; 6], target.octets()),
                );
                framed(ethernet::BROADCAST, self.mac, ether_type::ARP, &[request.as_bytes()])
            }
            (from, target) => {
                let (from, target) = (wide(from), wide(target));
                let group = ipv6::solicited_node(&target);
                let to = (group, ethernet::ipv6_group(&group));
                let kind = icmpv6::NEIGHBOR_SOLICITATION;
                self.message(kind, icmpv6::SOURCE_LINK_LAYER, 0, (from, target), to)
            }
        }
    }

    /// A Neighbor Solicitation or Advertisement with our Ethernet address.
    fn message(
        &self,
        kind: u8,
        option: u8,
        flags: u8,
        (from, target): ([u8; 16], [u8; 16]),
        (to, to_mac): ([u8; 16], Mac),
    ) -> Vec<u8> {
        let mut message = NeighborMessage::new_zeroed();
        message.kind = kind;
        message.flags = flags;
        message.target = target;
        let option = LinkLayerOption { kind: option, length: 1, mac: self.mac };
        let octets = message.as_bytes().len() + option.as_bytes().len();
        let length = u32::try_from(octets).unwrap_or(u32::MAX);
        let pseudo = checksum::pseudo_header(&from, &to, protocol::ICMPV6, length);
        let body = [message.as_bytes(), option.as_bytes()].concat();
        message.checksum = checksum::finish(&body, pseudo);
        let mut ip = Ipv6Header::new_zeroed();
        ip.version_class_flow = [0x60, 0, 0, 0];
        ip.payload_length = U16::new(u16::try_from(octets).unwrap_or(u16::MAX));
        ip.next_header = protocol::ICMPV6;
        ip.hop_limit = icmpv6::HOP_LIMIT;
        ip.source = from;
        ip.destination = to;
        let parts = [ip.as_bytes(), message.as_bytes(), option.as_bytes()];
        framed(to_mac, self.mac, ether_type::IPV6, &parts)
    }
}

fn wide(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// An Ethernet frame, as long as the shortest at least.
fn framed(destination: Mac, source: Mac, kind: u16, parts: &[&[u8]]) -> Vec<u8> {
    let link = EthernetHeader { destination, source, ether_type: U16::new(kind) };
    let mut frame = [link.as_bytes(), &parts.concat()].concat();
    frame.resize(frame.len().max(60), 0);
    frame
}
