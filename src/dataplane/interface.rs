//! The director's interfaces and own addresses, as a worker sees them.

use std::net::IpAddr;

use ipnet::IpNet;

use super::classify::Station;
use super::family::Family;
use super::frame::Frame;
use crate::ids::{InterfaceId, PortId, VlanId};
use crate::service::{MssClamp, ServiceTable};
use crate::wire::address::{Address, V4, V6};
use crate::wire::ethernet::Mac;
use crate::wire::ipv6;
use crate::wire::prefix::{AddressFilter, Prefix};

/// The sides of the director that an interface leads to, or a packet came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Sides(pub(super) u8);

impl Sides {
    /// Towards the clients.
    pub const OUTSIDE: Self = Self(1);
    /// Towards the real servers.
    pub const INSIDE: Self = Self(2);
    /// Both on one NIC.
    pub const BOTH: Self = Self(3);

    /// Whether they have one in common.
    #[inline]
    pub const fn meet(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// One interface.
#[derive(Clone, Debug)]
pub struct Interface {
    /// Its number.
    pub id: InterfaceId,
    /// The DPDK port behind it; another interface may have it too, with another VLAN.
    pub port: PortId,
    /// The VLAN whose frames it has on that port.
    pub vlan: VlanId,
    /// Its Ethernet address: that of the port.
    pub mac: Mac,
    /// Largest IP packet, octets.
    pub mtu: u16,
    /// Where it leads. VIPs that are in no connected network are answered for on the outside.
    pub sides: Sides,
    /// What SYN packets that cross it may announce; `None`: anything.
    pub mss_clamp: Option<MssClamp>,
    /// Own addresses with their networks.
    pub addresses: Vec<IpNet>,
    /// Addresses that the active director of a pair has.
    pub floating: Vec<IpAddr>,
    /// The Ethernet addresses of the pair's virtual router on this link, of IPv4 and IPv6: what
    /// moves has them. `None`: it has the port's.
    pub virtual_macs: Option<[Mac; 2]>,
}

impl Interface {
    /// The Ethernet address that links are told for an address of ours.
    pub(super) fn mac_of(&self, address: IpAddr) -> Mac {
        match self.virtual_macs {
            Some([v4, v6]) if !self.keeps(address) => {
                if address.is_ipv4() {
                    v4
                } else {
                    v6
                }
            }
            Some(_) | None => self.mac,
        }
    }

    /// Whether an Ethernet address is that of the pair's virtual router.
    pub(super) fn is_virtual(&self, mac: Mac) -> bool {
        self.virtual_macs.is_some_and(|virtual_macs| virtual_macs.contains(&mac))
    }

    /// What frames for the interface are sent to.
    fn station(&self) -> Station {
        let own = Station::of(&self.mac);
        self.virtual_macs.map_or(own, |virtual_macs| own.with_virtual(virtual_macs))
    }

    /// The network of this interface that an address is in.
    fn network_of(&self, address: IpAddr) -> Option<&IpNet> {
        self.addresses.iter().find(|network| network.contains(&address))
    }

    /// The largest TCP segment that may be announced, octets, without headers.
    pub(super) fn largest_segment(&self, is_v6: bool) -> Option<u16> {
        let headers = if is_v6 { 60 } else { 40 };
        self.mss_clamp.map(|clamp| match clamp {
            MssClamp::Mtu => self.mtu.saturating_sub(headers),
            MssClamp::Octets(octets) => octets,
        })
    }

    /// The link-local IPv6 address that the interface gives itself.
    pub fn link_local(&self) -> IpAddr {
        ipv6::link_local(&self.mac).to_ip()
    }

    /// Whether an address is this interface's own.
    pub fn owns(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|network| network.addr() == address)
            || self.link_local() == address
    }

    /// Whether an address is this interface's own and does not float.
    pub fn keeps(&self, address: IpAddr) -> bool {
        self.owns(address) && !self.floating.contains(&address)
    }

    /// The own address to ask or answer a neighbour from: in its network, or else of its family.
    pub fn source_for(&self, neighbor: IpAddr) -> Option<IpAddr> {
        // One that stays, if there is one.
        let first = |fits: &dyn Fn(&&IpNet) -> bool| {
            let addresses = || self.addresses.iter().filter(fits).map(IpNet::addr);
            addresses().find(|own| !self.floating.contains(own)).or_else(|| addresses().next())
        };
        let of_family = || {
            first(&|own| own.addr().is_ipv4() == neighbor.is_ipv4())
                .or_else(|| neighbor.is_ipv6().then(|| self.link_local()))
        };
        if matches!(neighbor, IpAddr::V6(v6) if v6.is_unicast_link_local()) {
            return Some(self.link_local());
        }
        first(&|network| network.contains(&neighbor)).or_else(of_family)
    }

    /// As whom to ask for a neighbour, and with which Ethernet address. `None`: as nobody, for the
    /// address to ask from floats and the other director has it: whoever is asked would learn
    /// otherwise.
    pub(super) fn asks_as(&self, neighbor: IpAddr, is_active: bool) -> (Option<IpAddr>, Mac) {
        match self.source_for(neighbor) {
            Some(source) if is_active || !self.floating.contains(&source) => {
                (Some(source), self.mac_of(source))
            }
            Some(_) | None => (None, self.mac),
        }
    }
}

/// The interfaces of one port.
#[derive(Clone, Debug, Default)]
pub(super) struct PortInterfaces {
    /// What frames without a tag are sent to.
    pub(super) station: Station,
    /// Whether there are interfaces with VLANs; if not there is one without.
    pub(super) has_vlans: bool,
    /// Where the interface of frames without a tag leads.
    pub(super) sides: Sides,
    /// The interface of frames without a tag.
    untagged: Option<InterfaceId>,
    /// Sorted by VLAN.
    tagged: Vec<Tagged>,
}

/// An interface with a VLAN.
#[derive(Clone, Copy, Debug)]
struct Tagged {
    vlan: VlanId,
    id: InterfaceId,
    sides: Sides,
    station: Station,
}

impl PortInterfaces {
    /// The interface of a VLAN.
    #[inline]
    pub(super) fn of_vlan(&self, vlan: VlanId) -> Option<InterfaceId> {
        if vlan == VlanId::UNTAGGED {
            return self.untagged;
        }
        self.tagged(vlan).map(|tagged| tagged.id)
    }

    /// Where the interface of a VLAN leads.
    #[inline]
    pub(super) fn sides_of(&self, vlan: VlanId) -> Sides {
        if vlan == VlanId::UNTAGGED {
            return self.sides;
        }
        self.tagged(vlan).map_or(Sides::default(), |tagged| tagged.sides)
    }

    /// What frames for the interface of a VLAN are sent to.
    #[inline]
    pub(super) fn station_of(&self, vlan: VlanId) -> &Station {
        self.tagged(vlan).map_or(&self.station, |tagged| &tagged.station)
    }

    #[inline]
    fn tagged(&self, vlan: VlanId) -> Option<&Tagged> {
        let place = self.tagged.binary_search_by_key(&vlan, |tagged| tagged.vlan).ok()?;
        self.tagged.get(place)
    }

    fn add(&mut self, interface: &Interface) {
        let station = interface.station();
        let Interface { vlan, id, sides, .. } = *interface;
        if vlan == VlanId::UNTAGGED {
            self.untagged = Some(id);
            self.sides = sides;
            self.station = station;
        } else {
            self.has_vlans = true;
            self.tagged.push(Tagged { vlan, id, sides, station });
            self.tagged.sort_unstable_by_key(|tagged| tagged.vlan);
        }
    }
}

/// All interfaces.
#[derive(Clone, Debug)]
pub struct Interfaces {
    list: Vec<Interface>,
    /// By port number.
    by_port: Vec<PortInterfaces>,
    /// Every interface's own addresses, link-local and floating ones included.
    own: Vec<IpAddr>,
    /// Of these.
    own_filter: AddressFilter,
    /// The networks of all interfaces.
    v4: Vec<Network<V4>>,
    v6: Vec<Network<V6>>,
}

/// A network that an interface is in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Network<A: Address> {
    prefix: Prefix<A>,
    /// An address of the interface in it. A floating one comes before those that stay: what is
    /// known by it can move.
    own: A,
}

impl<A: Address> Network<A> {
    /// Those of an interface, but for one that is everything.
    fn all_of(interface: &Interface) -> impl Iterator<Item = Self> + '_ {
        let networks = interface.addresses.iter().filter(|network| network.prefix_len() > 0);
        networks.flat_map(|network| {
            let within = |address: &IpAddr| network.contains(address);
            let own = interface.floating.iter().copied().filter(within).chain([network.addr()]);
            own.filter_map(|own| {
                let (prefix, own) = (Prefix::of(*network)?, A::from_ip(own)?);
                Some(Self { prefix, own })
            })
        })
    }
}

impl Interfaces {
    /// The interfaces in the order of their numbers.
    pub fn new(list: Vec<Interface>) -> Self {
        let ports = list.iter().map(|interface| interface.port.index() + 1).max().unwrap_or(0);
        let mut by_port = vec![PortInterfaces::default(); ports];
        for interface in &list {
            if let Some(entry) = by_port.get_mut(interface.port.index()) {
                entry.add(interface);
            }
        }
        let own: Vec<_> = list
            .iter()
            .flat_map(|interface| {
                let configured = interface.addresses.iter().map(IpNet::addr);
                let floating = interface.floating.iter().copied();
                configured.chain(floating).chain([interface.link_local()])
            })
            .collect();
        let mut own_filter = AddressFilter::default();
        own_filter.extend(own.iter().copied().filter_map(V4::from_ip));
        own_filter.extend(own.iter().copied().filter_map(V6::from_ip));
        let v4 = list.iter().flat_map(Network::all_of).collect();
        let v6 = list.iter().flat_map(Network::all_of).collect();
        Self { list, by_port, own, own_filter, v4, v6 }
    }

    /// An interface by its number.
    #[inline]
    pub fn get(&self, id: InterfaceId) -> Option<&Interface> {
        self.list.get(id.index())
    }

    /// How many ports have interfaces, and those of lower numbers.
    pub(super) fn ports(&self) -> usize {
        self.by_port.len()
    }

    /// What is known of a port.
    #[inline]
    pub(super) fn port(&self, port: PortId) -> Option<&PortInterfaces> {
        self.by_port.get(port.index())
    }

    /// The interface that a frame came in by, after its tag was taken off.
    #[inline]
    pub fn of_frame<F: Frame>(&self, frame: &F) -> Option<&Interface> {
        let port = self.port(frame.input())?;
        let vlan = if port.has_vlans { frame.vlan() } else { VlanId::UNTAGGED };
        self.get(port.of_vlan(vlan)?)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Interface> {
        self.list.iter()
    }

    /// An own address in a network that both hosts are in, which outside parties do not speak
    /// to.
    #[inline]
    pub(super) fn address_between<A: Family>(
        &self,
        [one, other]: [A; 2],
        services: &ServiceTable,
    ) -> Option<A> {
        let mut common = A::networks(self).iter().filter(|network| {
            network.prefix.contains(one)
                && network.prefix.contains(other)
                && !A::services(services).was_external(&network.own)
        });
        common.next().map(|network| network.own)
    }

    /// The networks of IPv4.
    #[inline]
    pub(super) fn v4(&self) -> &[Network<V4>] {
        &self.v4
    }

    /// The networks of IPv6.
    #[inline]
    pub(super) fn v6(&self) -> &[Network<V6>] {
        &self.v6
    }

    /// Whether an address is one of the director's own (VIPs aside).
    #[inline]
    pub(super) fn own<A: Address>(&self, address: A) -> bool {
        self.own_filter.may_contain(address) && self.own.contains(&address.to_ip())
    }

    /// Whether ARP and ND on `interface` are answered for an address: its own ones, and, by the
    /// active director, floating ones and VIPs in its network; VIPs that are in no connected
    /// network on every outside interface.
    pub fn answers(
        &self,
        interface: &Interface,
        address: IpAddr,
        services: &ServiceTable,
        is_active: bool,
    ) -> bool {
        if interface.floating.contains(&address) {
            return is_active;
        }
        if interface.owns(address) {
            return true;
        }
        is_active
            && services.is_external(address)
            && match self.list.iter().find(|other| other.network_of(address).is_some()) {
                Some(_) => interface.network_of(address).is_some(),
                None => interface.sides.meet(Sides::OUTSIDE),
            }
    }
}
