//! The way out: the next hop's Ethernet header, in pieces where the packet does not fit, or a
//! wait until the neighbour is known.

use zerocopy::FromBytes;

use super::frame::{Frame, Outlet};
use super::mailbox::Event;
use super::next_hop::{AdjacencyId, Reachability};
use super::shared::Shared;
use super::split;
use super::stats::DropReason;
use super::vlan;
use crate::ids::{InterfaceId, VlanId};
use crate::wire::ethernet::EthernetHeader;

impl<F: Frame> Shared<F> {
    /// Sends a frame by a next hop; lets it wait while the neighbour is not known.
    #[inline]
    pub(super) fn send(
        &mut self,
        hop: AdjacencyId,
        ip_octets: u16,
        mut frame: F,
        outlet: &mut impl Outlet<F>,
    ) {
        let Some(adjacency) = self.next_hops.get(hop) else {
            return self.drop(frame, DropReason::NoRoute, outlet);
        };
        if adjacency.reachability != Reachability::Reachable {
            return self.hold(hop, frame, outlet);
        }
        let (interface, vlan, mtu) = (adjacency.interface, adjacency.vlan, adjacency.mtu);
        if let Ok((link, _)) = EthernetHeader::mut_from_prefix(frame.octets_mut()) {
            [link.destination, link.source] = adjacency.link;
        }
        if ip_octets > mtu {
            return self.send_split((interface, vlan), mtu, frame, outlet);
        }
        self.transmit(interface, vlan, frame, outlet);
    }

    /// Sends a complete frame by an interface, with the tag of its VLAN. All that leaves goes
    /// through here.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "the hit path")]
    pub(super) fn transmit(
        &self,
        interface: InterfaceId,
        vlan: VlanId,
        frame: F,
        outlet: &mut impl Outlet<F>,
    ) {
        if vlan == VlanId::UNTAGGED {
            return outlet.transmit(interface, frame);
        }
        self.transmit_tagged(interface, vlan, frame, outlet);
    }

    #[inline(never)]
    fn transmit_tagged(
        &self,
        interface: InterfaceId,
        vlan: VlanId,
        mut frame: F,
        outlet: &mut impl Outlet<F>,
    ) {
        if vlan::put_on(&mut frame, vlan) {
            outlet.transmit(interface, frame);
        } else {
            self.drop(frame, DropReason::NoHeadroom, outlet);
        }
    }

    /// Sends a packet that does not fit its link in pieces.
    #[cold]
    fn send_split(
        &mut self,
        link: (InterfaceId, VlanId),
        mtu: u16,
        frame: F,
        outlet: &mut impl Outlet<F>,
    ) {
        match split::send(self, &frame, link, mtu, outlet) {
            Ok(()) => {
                self.stats.consumed.increment();
                outlet.discard(frame);
            }
            Err(reason) => self.drop(frame, reason, outlet),
        }
    }

    /// Has a neighbour asked for that is not known yet; `false`: the question was lost.
    #[cold]
    pub(super) fn resolve(&mut self, hop: AdjacencyId) -> bool {
        let Some(entry) = self.next_hops.get_mut(hop) else { return false };
        if entry.reachability == Reachability::Unresolved {
            let wanted = Event::Resolve { interface: entry.interface, address: entry.address };
            if self.mailbox.post(wanted).is_err() {
                self.stats.events_lost.increment();
                return false;
            }
            entry.reachability = Reachability::Resolving;
        }
        true
    }

    #[cold]
    fn hold(&mut self, hop: AdjacencyId, frame: F, outlet: &mut impl Outlet<F>) {
        if !self.resolve(hop) {
            // Nobody would ask: the frame must not wait for an answer.
            return self.drop(frame, DropReason::NeighborQueueFull, outlet);
        }
        let Some(entry) = self.next_hops.get_mut(hop) else {
            return self.drop(frame, DropReason::NoRoute, outlet);
        };
        match self.waiting.hold(hop, entry, frame) {
            None => self.stats.held.increment(),
            Some(frame) => self.drop(frame, DropReason::NeighborQueueFull, outlet),
        }
    }
}
