//! Next hops: routes to interfaces and neighbours, and each neighbour's ready Ethernet header.

use std::net::IpAddr;

use hashbrown::HashMap;
use ipnet::IpNet;
use zerocopy::{FromZeros, Immutable, IntoBytes};

use super::family::Family;
use super::interface::{Interfaces, Sides};
use crate::clock::Tick;
use crate::ids::{InterfaceId, VlanId};
use crate::wire::address::{Address, V4, V6};
use crate::wire::ethernet::Mac;
use crate::wire::prefix::Prefix;

/// A neighbour's number in its worker's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromZeros, IntoBytes, Immutable)]
#[repr(transparent)]
pub struct AdjacencyId(u16);

/// Whether a neighbour's Ethernet address is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reachability {
    /// Nobody asked yet, or nobody answered.
    Unresolved,
    /// The control thread was told and asks.
    Resolving,
    /// Known.
    Reachable,
}

/// A neighbour. What every packet needs comes first, in one cache line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Adjacency {
    /// What a frame to it begins with: its Ethernet address, when reachable, and ours on its link.
    pub link: [Mac; 2],
    /// The interface that it is reached by.
    pub interface: InterfaceId,
    /// The VLAN that the interface has on its port.
    pub vlan: VlanId,
    /// Where the interface leads.
    pub(super) sides: Sides,
    /// Whether its Ethernet address is known.
    pub reachability: Reachability,
    /// Largest IP packet on the link, octets.
    pub mtu: u16,
    /// Its IP address.
    pub address: IpAddr,
    /// Packets that wait for it.
    pub waiting: u16,
    /// Connections that go by it.
    uses: u32,
    /// When the last packet of no connection went by it: routed ones, and one-packet services'.
    touched: Option<Tick>,
    /// Configured: never forgotten.
    permanent: bool,
}

const _: () = assert!(size_of::<Adjacency>() == 64, "a neighbour is one line");

/// Where packets to a network go.
#[derive(Clone, Copy, Debug)]
pub struct RouteSpec {
    /// The network; length 0 for a gateway.
    pub to: IpNet,
    /// The interface.
    pub interface: InterfaceId,
    /// The next hop; `None`: the destination itself is on the link.
    pub via: Option<IpAddr>,
}

/// A route of one family.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route<A: Address> {
    to: Prefix<A>,
    interface: InterfaceId,
    via: Option<A>,
}

impl<A: Address> Route<A> {
    fn of(spec: &RouteSpec) -> Option<Self> {
        let via = match spec.via {
            Some(gateway) => Some(A::from_ip(gateway)?),
            None => None,
        };
        Some(Self { to: Prefix::of(spec.to)?, interface: spec.interface, via })
    }
}

/// Where packets to an address go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way<A> {
    /// The interface.
    pub(super) interface: InterfaceId,
    /// The neighbour.
    pub(super) neighbor: A,
}

/// How long a neighbour counts as used after a packet of no connection, milliseconds: as long as
/// the control thread takes a neighbour for reachable.
const TOUCHED_MS: u32 = 30_000;
/// Entries looked at for one that can be replaced, when the table is full.
const EVICTION_SCAN: usize = 64;

/// The routes and neighbours of one worker.
#[derive(Debug)]
pub struct NextHops {
    /// Longest prefix first.
    v4: Vec<Route<V4>>,
    v6: Vec<Route<V6>>,
    entries: Vec<Adjacency>,
    capacity: usize,
    by_address: HashMap<(InterfaceId, IpAddr), AdjacencyId, ahash::RandomState>,
    /// Found lately, by [`Address::spread`]; may mean other neighbours by now.
    recent: [AdjacencyId; 256],
    /// Where the search for a replaceable entry goes on.
    hand: usize,
}

impl NextHops {
    /// A table for `capacity` neighbours, at most 65536.
    pub fn new(mut routes: Vec<RouteSpec>, capacity: usize) -> Self {
        routes.sort_by_key(|route| std::cmp::Reverse(route.to.prefix_len()));
        Self {
            v4: routes.iter().filter_map(Route::of).collect(),
            v6: routes.iter().filter_map(Route::of).collect(),
            recent: [AdjacencyId(0); 256],
            entries: Vec::with_capacity(capacity),
            capacity: capacity.min(1 << 16),
            // Twice the room: removals leave marks, and the map must never grow.
            by_address: HashMap::with_capacity_and_hasher(
                capacity * 2,
                ahash::RandomState::default(),
            ),
            hand: 0,
        }
    }

    /// The interface and the neighbour that packets to `destination` go by.
    #[inline]
    pub(super) fn route<A: Family>(&self, destination: A) -> Option<Way<A>> {
        let route = A::routes(self).iter().find(|route| route.to.contains(destination))?;
        let neighbor = route.via.unwrap_or(destination);
        Some(Way { interface: route.interface, neighbor })
    }

    /// The routes of IPv4.
    #[inline]
    pub(super) fn v4(&self) -> &[Route<V4>] {
        &self.v4
    }

    /// The routes of IPv6.
    #[inline]
    pub(super) fn v6(&self) -> &[Route<V6>] {
        &self.v6
    }

    /// A neighbour.
    #[inline]
    pub fn get(&self, id: AdjacencyId) -> Option<&Adjacency> {
        self.entries.get(usize::from(id.0))
    }

    /// A neighbour that a packet of so many octets can be sent to as it is.
    #[inline]
    pub(super) fn ready(&self, id: AdjacencyId, ip_octets: u16) -> Option<&Adjacency> {
        self.get(id)
            .filter(|entry| entry.reachability == Reachability::Reachable && ip_octets <= entry.mtu)
    }

    pub(super) fn get_mut(&mut self, id: AdjacencyId) -> Option<&mut Adjacency> {
        self.entries.get_mut(usize::from(id.0))
    }

    /// The number of a neighbour that has one.
    pub fn find(&self, interface: InterfaceId, address: IpAddr) -> Option<AdjacencyId> {
        self.by_address.get(&(interface, address)).copied()
    }

    /// Neighbours in the table.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The number of a neighbour, given to it if it has none. `None`: the table is full of
    /// neighbours in use, or there is no such interface.
    pub fn find_or_add(
        &mut self,
        interfaces: &Interfaces,
        interface: InterfaceId,
        address: IpAddr,
    ) -> Option<AdjacencyId> {
        match self.find(interface, address) {
            Some(id) => Some(id),
            None => self.add(interfaces, interface, address),
        }
    }

    /// As [`NextHops::find_or_add`], quickly if it was found lately.
    #[inline]
    pub(super) fn hop<A: Address>(
        &mut self,
        interfaces: &Interfaces,
        way: Way<A>,
    ) -> Option<AdjacencyId> {
        let Way { interface, neighbor } = way;
        let address = neighbor.to_ip();
        #[allow(clippy::cast_possible_truncation, reason = "eight bits")]
        let place = (neighbor.spread() >> 56) as usize;
        if let Some(id) = self.recent.get(place)
            && let Some(entry) = self.get(*id)
            && entry.interface == interface
            && entry.address == address
        {
            return Some(*id);
        }
        let id = self.find_or_add(interfaces, interface, address)?;
        if let Some(recent) = self.recent.get_mut(place) {
            *recent = id;
        }
        Some(id)
    }

    fn add(
        &mut self,
        interfaces: &Interfaces,
        interface: InterfaceId,
        address: IpAddr,
    ) -> Option<AdjacencyId> {
        let link = interfaces.get(interface)?;
        let adjacency = Adjacency {
            link: [[0; 6], link.mac],
            interface,
            vlan: link.vlan,
            sides: link.sides,
            reachability: Reachability::Unresolved,
            mtu: link.mtu,
            address,
            waiting: 0,
            uses: 0,
            touched: None,
            permanent: false,
        };
        let id = if self.entries.len() < self.capacity {
            self.entries.push(adjacency);
            AdjacencyId(u16::try_from(self.entries.len() - 1).ok()?)
        } else {
            let place = self.replaceable()?;
            let entry = self.entries.get_mut(place)?;
            self.by_address.remove(&(entry.interface, entry.address));
            *entry = adjacency;
            AdjacencyId(u16::try_from(place).ok()?)
        };
        self.by_address.insert((interface, address), id);
        Some(id)
    }

    /// An entry that nothing uses.
    fn replaceable(&mut self) -> Option<usize> {
        for _ in 0..EVICTION_SCAN.min(self.entries.len()) {
            let place = self.hand % self.entries.len();
            self.hand = place + 1;
            let entry = self.entries.get(place)?;
            if entry.uses == 0 && entry.waiting == 0 && !entry.permanent {
                return Some(place);
            }
        }
        None
    }

    /// A connection goes by this neighbour from now on.
    #[inline]
    pub fn acquire(&mut self, id: AdjacencyId) {
        if let Some(entry) = self.get_mut(id) {
            entry.uses += 1;
        }
    }

    /// A connection that went by this neighbour has ended.
    #[inline]
    pub fn release(&mut self, id: AdjacencyId) {
        if let Some(entry) = self.get_mut(id) {
            entry.uses = entry.uses.saturating_sub(1);
        }
    }

    /// Whether a connection goes by this neighbour, or packets of none did lately, or it is
    /// configured.
    pub fn is_used(&self, interface: InterfaceId, address: IpAddr, now: Tick) -> bool {
        let entry = self.find(interface, address).and_then(|id| self.get(id));
        entry.is_some_and(|entry| {
            let is_touched = entry.touched.is_some_and(|at| now.since(at) < TOUCHED_MS);
            entry.uses > 0 || entry.permanent || is_touched
        })
    }

    /// A packet of no connection goes by this neighbour.
    pub(super) fn touch(&mut self, id: AdjacencyId, now: Tick) {
        if let Some(entry) = self.get_mut(id) {
            entry.touched = Some(now);
        }
    }

    /// A neighbour's Ethernet address is known.
    pub fn set(&mut self, id: AdjacencyId, mac: Mac, permanent: bool) {
        if let Some(entry) = self.get_mut(id) {
            let [destination, _] = &mut entry.link;
            *destination = mac;
            entry.reachability = Reachability::Reachable;
            entry.permanent |= permanent;
        }
    }

    /// A neighbour does not answer.
    pub fn unset(&mut self, id: AdjacencyId) {
        if let Some(entry) = self.get_mut(id) {
            entry.reachability = Reachability::Unresolved;
        }
    }
}

/// Packets that wait for a neighbour's Ethernet address, oldest first.
#[derive(Debug)]
pub(super) struct Waiting<F> {
    frames: Vec<(AdjacencyId, F)>,
}

/// Packets that may wait, over all neighbours.
const WAITING: usize = 1024;
/// Packets that may wait for one neighbour.
const WAITING_EACH: u16 = 64;

impl<F> Waiting<F> {
    pub(super) fn new() -> Self {
        Self { frames: Vec::with_capacity(WAITING) }
    }

    /// Keeps a frame; gives it back when too many wait already.
    pub(super) fn hold(&mut self, id: AdjacencyId, entry: &mut Adjacency, frame: F) -> Option<F> {
        if self.frames.len() == WAITING || entry.waiting >= WAITING_EACH {
            return Some(frame);
        }
        entry.waiting += 1;
        self.frames.push((id, frame));
        None
    }

    /// The oldest frame that waits for a neighbour.
    pub(super) fn take(&mut self, id: AdjacencyId, entry: &mut Adjacency) -> Option<F> {
        let place = self.frames.iter().position(|(of, _)| *of == id)?;
        entry.waiting = entry.waiting.saturating_sub(1);
        Some(self.frames.remove(place).1)
    }

    /// Any frame, when the worker stops.
    pub(super) fn pop(&mut self) -> Option<F> {
        self.frames.pop().map(|(_, frame)| frame)
    }
}
