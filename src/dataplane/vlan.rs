//! 802.1Q tags: taken off when a frame comes, put on when it leaves. In between there are none,
//! so nothing else needs to know of them.
//!
//! The priority of a tag (PCP, DEI) ends here: packets leave with priority 0.

use super::frame::Frame;
use super::interface::PortInterfaces;
use super::stats::DropReason;
use crate::ids::VlanId;
use crate::wire::ethernet::{self, ether_type};

/// Octets of a tag: its Ethernet type, and priority and VLAN.
const TAG: usize = 4;
/// Octets before a tag: two Ethernet addresses.
const ADDRESSES: usize = 12;
/// The VLAN within the last two octets of a tag.
const VLAN: u16 = 0x0fff;

/// Takes the tag off a frame that has one, and notes which VLAN it came by. A tag of VLAN 0 only
/// states a priority (IEEE 802.1Q section 6.9). What is behind the tag may be another one.
pub(super) fn take_off<F: Frame>(frame: &mut F, port: &PortInterfaces) -> Result<(), DropReason> {
    let octets = frame.octets_mut();
    let Some(front) = octets.first_chunk_mut::<{ ADDRESSES + TAG }>() else {
        return Err(DropReason::Truncated);
    };
    let [.., type_high, type_low, high, low] = *front;
    let is_tagged = u16::from_be_bytes([type_high, type_low]) == ether_type::VLAN;
    let vlan =
        if is_tagged { VlanId(u16::from_be_bytes([high, low]) & VLAN) } else { VlanId::UNTAGGED };
    if port.of_vlan(vlan).is_none() {
        return Err(DropReason::UnknownVlan);
    }
    if is_tagged {
        front.copy_within(..ADDRESSES, TAG);
        if !frame.pop_front(TAG) {
            return Err(DropReason::Truncated);
        }
    }
    frame.set_vlan(vlan);
    Ok(())
}

/// Puts a tag on a complete frame; `false` if there is no room in front of it.
pub(super) fn put_on<F: Frame>(frame: &mut F, vlan: VlanId) -> bool {
    if !frame.push_front(TAG) {
        return false;
    }
    let Some(front) = frame.octets_mut().first_chunk_mut::<{ ADDRESSES + TAG }>() else {
        return false;
    };
    front.copy_within(TAG.., 0);
    let [.., type_high, type_low, high, low] = front;
    [*type_high, *type_low] = ether_type::VLAN.to_be_bytes();
    [*high, *low] = vlan.0.to_be_bytes();
    true
}

const _: () = assert!(ADDRESSES + size_of::<crate::wire::U16>() == ethernet::HEADER);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::frame::BufferFrame;
    use crate::dataplane::interface::{Interface, Interfaces};
    use crate::ids::{InterfaceId, PortId};

    fn interface(id: u8, vlan: u16) -> Interface {
        Interface {
            id: InterfaceId(id),
            port: PortId(0),
            vlan: VlanId(vlan),
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            sides: crate::dataplane::interface::Sides::BOTH,
            mss_clamp: None,
            addresses: Vec::new(),
            floating: Vec::new(),
            virtual_macs: None,
        }
    }

    fn frame(after_addresses: &[u8]) -> BufferFrame {
        let mut octets: Vec<u8> = (1..=12).collect();
        octets.extend(after_addresses);
        BufferFrame { octets, vlan: VlanId(77), ..BufferFrame::default() }
    }

    /// What is left of a frame on a port with these VLANs, and its interface.
    fn receive(vlans: &[u16], after_addresses: &[u8]) -> Result<(Vec<u8>, u8), DropReason> {
        let list = (0..).zip(vlans).map(|(id, vlan)| interface(id, *vlan)).collect();
        let interfaces = Interfaces::new(list);
        let mut frame = frame(after_addresses);
        take_off(&mut frame, interfaces.port(PortId(0)).unwrap())?;
        assert_eq!(frame.octets[..12], *(1..=12).collect::<Vec<u8>>());
        let id = interfaces.of_frame(&frame).unwrap().id;
        Ok((frame.octets[12..].to_vec(), id.0))
    }

    #[test]
    fn a_tag_leads_to_the_interface_of_its_vlan() {
        let vlans = [20, 0, 4094, 10];
        assert_eq!(receive(&vlans, &[0x81, 0, 0, 10, 8, 0, 1]), Ok((vec![8, 0, 1], 3)));
        assert_eq!(receive(&vlans, &[0x81, 0, 0xff, 0xfe, 8, 6]), Ok((vec![8, 6], 2)));
        assert_eq!(receive(&vlans, &[0x81, 0, 0xe0, 0, 8, 0, 1]), Ok((vec![8, 0, 1], 1)));
        assert_eq!(receive(&vlans, &[8, 0, 0x81, 0]), Ok((vec![8, 0, 0x81, 0], 1)));
        assert_eq!(receive(&[0], &[0x81, 0, 0x20, 0, 8, 0]), Ok((vec![8, 0], 0)));
    }

    #[test]
    fn what_no_interface_has_is_dropped() {
        let unknown = Err(DropReason::UnknownVlan);
        for tag in [[0x81, 0, 0, 11], [0x81, 0, 0xff, 0xff], [0x81, 0, 0, 0], [8, 0, 0x45, 0]] {
            assert_eq!(receive(&[10, 20], &tag), unknown, "{tag:?}");
        }
        assert_eq!(receive(&[0], &[0x81, 0, 0, 10]), unknown);
        assert_eq!(receive(&[10], &[0x88, 0xa8, 0, 10]), unknown);
        assert_eq!(receive(&[10], &[0x81, 0, 0]), Err(DropReason::Truncated));
    }

    #[test]
    fn a_tag_that_was_put_on_comes_off_again() {
        let mut tagged = frame(&[8, 0, 1, 2, 3]);
        assert!(put_on(&mut tagged, VlanId(0x123)));
        assert_eq!(tagged.octets[12..], [0x81, 0, 1, 0x23, 8, 0, 1, 2, 3]);
        assert_eq!(tagged.octets[..12], *(1..=12).collect::<Vec<u8>>());
        assert_eq!(receive(&[0x123], &tagged.octets[12..]), Ok((vec![8, 0, 1, 2, 3], 0)));
    }
}
