//! What differs between IPv4 and IPv6 on a packet's way.

use zerocopy::FromBytes;

use crate::service::{FamilyServices, ServiceTable};
use crate::wire::address::{Address, V4, V6};
use crate::wire::checksum::Delta;
use crate::wire::ethernet;
use crate::wire::flow_key::Direction;
use crate::wire::ipv4::Ipv4Header;
use crate::wire::ipv6::Ipv6Header;

/// An address family that the pipeline forwards.
pub(super) trait Family: Address {
    /// The services of this family.
    fn services(table: &ServiceTable) -> &FamilyServices<Self>;

    /// Writes a new destination (on the way in) or source (of a reply) into the IP header of a
    /// frame, takes one from its TTL and updates its checksum. `None`: the frame is too short.
    fn rewrite(
        frame: &mut [u8],
        direction: Direction,
        address: Self,
        address_delta: Delta,
    ) -> Option<()>;
}

impl Family for V4 {
    #[inline]
    fn services(table: &ServiceTable) -> &FamilyServices<Self> {
        table.v4()
    }

    #[inline]
    fn rewrite(
        frame: &mut [u8],
        direction: Direction,
        address: Self,
        address_delta: Delta,
    ) -> Option<()> {
        let (ip, _) = Ipv4Header::mut_from_prefix(frame.get_mut(ethernet::HEADER..)?).ok()?;
        match direction {
            Direction::Inbound => ip.destination = address,
            Direction::Reply => ip.source = address,
        }
        ip.ttl = ip.ttl.saturating_sub(1);
        ip.checksum = address_delta.and(Delta::TTL_DECREMENT).apply(ip.checksum);
        Some(())
    }
}

impl Family for V6 {
    #[inline]
    fn services(table: &ServiceTable) -> &FamilyServices<Self> {
        table.v6()
    }

    #[inline]
    fn rewrite(
        frame: &mut [u8],
        direction: Direction,
        address: Self,
        _address_delta: Delta,
    ) -> Option<()> {
        let (ip, _) = Ipv6Header::mut_from_prefix(frame.get_mut(ethernet::HEADER..)?).ok()?;
        match direction {
            Direction::Inbound => ip.destination = address,
            Direction::Reply => ip.source = address,
        }
        ip.hop_limit = ip.hop_limit.saturating_sub(1);
        Some(())
    }
}
