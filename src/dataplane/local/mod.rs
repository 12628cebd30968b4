//! Packets that end at the director: ARP, Neighbor Discovery, Multicast Listener Discovery, echo.
//! And the packets of those kinds that it sends by itself.

mod arp;
mod echo;
mod multicast_listener;
mod neighbor_discovery;

pub(super) use echo::echo_fragment;
pub use multicast_listener::{GROUPS, ListenerReport};

use std::net::IpAddr;
use std::sync::Arc;

use super::classify::{Class, Packet};
use super::frame::{Frame, Outlet};
use super::interface::Interface;
use super::shared::Shared;
use super::stats::DropReason;
use crate::ids::InterfaceId;
use crate::wire::address::V4;
use crate::wire::ethernet::{EthernetHeader, Mac};

/// What is done with a packet that ends here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// The frame has become the answer.
    Answered,
    /// Understood; no answer.
    Consumed,
    /// Not for us.
    Dropped(DropReason),
}

/// Deals with an ARP, ICMP or ICMPv6 packet.
pub(super) fn receive<F: Frame>(
    shared: &mut Shared<F>,
    packet: &Packet,
    mut frame: F,
    outlet: &mut impl Outlet<F>,
) {
    let interfaces = Arc::clone(&shared.interfaces);
    let Some(interface) = interfaces.of_frame(&frame) else {
        return shared.drop(frame, DropReason::NotForUs, outlet);
    };
    let outcome = match packet.class {
        Class::Arp => arp::receive(shared, interface, &mut frame),
        Class::Icmp => echo::receive::<V4, F>(shared, interface, packet, &mut frame),
        Class::Icmpv6 => neighbor_discovery::receive(shared, interface, packet, &mut frame),
        // Never come here.
        Class::FlowV4(_)
        | Class::FlowV6(_)
        | Class::ErrorV4
        | Class::ErrorV6
        | Class::FragmentV4
        | Class::FragmentV6
        | Class::Vrrp
        | Class::Elsewhere(_) => Outcome::Dropped(DropReason::NoConnection),
        Class::Drop(reason) => Outcome::Dropped(reason),
    };
    match outcome {
        Outcome::Answered => {
            shared.stats.consumed.increment();
            shared.stats.originated.increment();
            shared.transmit(interface.id, interface.vlan, frame, outlet);
        }
        Outcome::Consumed => {
            shared.stats.consumed.increment();
            outlet.discard(frame);
        }
        Outcome::Dropped(reason) => shared.drop(frame, reason, outlet),
    }
}

/// Asks for a neighbour's Ethernet address; `station`: asks only that one.
pub(super) fn solicit<F: Frame>(
    shared: &Shared<F>,
    interface: InterfaceId,
    neighbor: IpAddr,
    station: Option<Mac>,
    outlet: &mut impl Outlet<F>,
) {
    originate(shared, interface, outlet, |link, frame| {
        let link = (link, shared.is_active);
        match neighbor {
            IpAddr::V4(v4) => arp::request(link, v4.octets(), station, frame),
            IpAddr::V6(v6) => neighbor_discovery::solicitation(link, v6.octets(), station, frame),
        }
    });
}

/// Tells a link that an address is ours, if it is.
pub(super) fn announce<F: Frame>(
    shared: &Shared<F>,
    interface: InterfaceId,
    address: IpAddr,
    outlet: &mut impl Outlet<F>,
) {
    let is_kept = || shared.interfaces.get(interface).is_some_and(|link| link.keeps(address));
    if shared.is_active || is_kept() {
        tell(shared, interface, address, outlet);
    }
}

/// Tells a link that an address is ours, whatever is thought of that here.
pub(super) fn tell<F: Frame>(
    shared: &Shared<F>,
    interface: InterfaceId,
    address: IpAddr,
    outlet: &mut impl Outlet<F>,
) {
    originate(shared, interface, outlet, |link, frame| match address {
        IpAddr::V4(v4) => arp::announcement(link, v4.octets(), frame),
        IpAddr::V6(v6) => neighbor_discovery::announcement(link, v6.octets(), frame),
    });
}

/// Tells a link's routers and switches of groups that the director listens to.
pub(super) fn report<F: Frame>(
    shared: &Shared<F>,
    interface: InterfaceId,
    report: &ListenerReport,
    outlet: &mut impl Outlet<F>,
) {
    originate(shared, interface, outlet, |link, frame| {
        multicast_listener::report(link, report, frame)
    });
}

/// Sends a packet of our own, as `build` writes it.
fn originate<F: Frame>(
    shared: &Shared<F>,
    interface: InterfaceId,
    outlet: &mut impl Outlet<F>,
    build: impl FnOnce(&Interface, &mut F) -> Option<()>,
) {
    let Some(link) = shared.interfaces.get(interface) else { return };
    let Some(mut frame) = outlet.allocate() else { return shared.stats.no_buffer.increment() };
    if build(link, &mut frame).is_some() {
        shared.stats.originated.increment();
        shared.transmit(interface, link.vlan, frame, outlet);
    } else {
        shared.stats.no_buffer.increment();
        outlet.discard(frame);
    }
}

/// Turns a frame round: back to its sender, from one of our Ethernet addresses.
fn return_to_sender(link: &mut EthernetHeader, mac: Mac) {
    link.destination = link.source;
    link.source = mac;
}
