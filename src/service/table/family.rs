//! The services of one address family, found by a packet's destination or firewall mark.

use std::collections::BTreeSet;
use std::num::NonZeroU32;

use hashbrown::{HashMap, HashSet};

use super::service::{Server, Service};
use super::{CompileError, set};
use crate::ids::{InterfaceId, ServiceId};
use crate::service::marks::Marks;
use crate::service::registry::SlotRegistry;
use crate::service::wide::WideServices;
use crate::service::{Listen, MarkRule, Masquerade, MasqueradeRule, Persistent, TemplateKey};
use crate::wire::U16;
use crate::wire::address::Address;
use crate::wire::flow_key::FlowKey;
use crate::wire::ipv4::protocol;
use crate::wire::prefix::{AddressFilter, AddressSet, Prefix};

type Map<K, V> = HashMap<K, V, ahash::RandomState>;
type Set<K> = HashSet<K, ahash::RandomState>;

/// The services of one address family.
#[derive(Debug)]
pub struct FamilyServices<A: Address> {
    services: Vec<Service<A>>,
    by_id: Vec<Option<u32>>,
    /// Of one port each.
    index: Map<FlowKey<A>, u32>,
    /// Of many ports.
    wide: WideServices<A>,
    /// By firewall mark.
    by_mark: Map<NonZeroU32, u32>,
    marks: Marks<A>,
    vips: Set<A>,
    masquerades: Vec<MasqueradeRule<A>>,
    /// VIPs, single destinations of firewall marks, and the addresses of masquerades.
    external: Set<A>,
    /// Of these.
    filter: AddressFilter,
    /// These, and those of earlier tables that connections may have.
    ever_external: AddressSet<A>,
    /// Networks that are destinations of firewall marks, by this table or an earlier one.
    ever_networks: Vec<Prefix<A>>,
    /// The services of real servers that answer one-packet services, by the server's endpoint.
    one_packet: Map<FlowKey<A>, u32>,
}

/// Whether an address is in one of these networks.
#[inline]
fn is_within<A: Address>(networks: &[Prefix<A>], address: A) -> bool {
    networks.iter().any(|network| network.contains(address))
}

/// An endpoint as a key that is hashed and compared in few words.
#[inline]
fn endpoint<A: Address>(address: A, port: U16, protocol: u8) -> FlowKey<A> {
    FlowKey { source: address, source_port: port, protocol, ..FlowKey::default() }
}

impl<A: Address> FamilyServices<A> {
    pub(super) fn new() -> Self {
        Self {
            services: Vec::new(),
            by_id: Vec::new(),
            index: Map::default(),
            wide: WideServices::default(),
            by_mark: Map::default(),
            marks: Marks::default(),
            vips: Set::default(),
            masquerades: Vec::new(),
            external: Set::default(),
            ever_external: AddressSet::from_iter([]),
            filter: AddressFilter::default(),
            ever_networks: Vec::new(),
            one_packet: Map::default(),
        }
    }

    /// The service that a packet is for: that of its firewall mark, or else of its destination:
    /// the service of that port, of a range of ports with it, of all ports. The order of IPVS.
    /// Where there are firewall marks, `interface` is where the packet came in.
    #[inline]
    pub fn service_of(
        &self,
        key: &FlowKey<A>,
        interface: Option<InterfaceId>,
    ) -> Option<&Service<A>> {
        if self.has_marks()
            && let Some(place) = self.marks.find(key, interface)
        {
            return self.services.get(place as usize);
        }
        self.find(key.destination, key.destination_port, key.protocol)
    }

    /// The service that listens at this address, port and IP protocol.
    #[inline]
    pub fn find(&self, vip: A, port: U16, protocol: u8) -> Option<&Service<A>> {
        let place = match self.index.get(&endpoint(vip, port, protocol)) {
            Some(place) => *place,
            None if self.wide.is_empty() => return None,
            None => self.wide.find(vip, port, protocol)?,
        };
        self.services.get(place as usize)
    }

    /// The service with a number.
    pub fn get(&self, service: ServiceId) -> Option<&Service<A>> {
        let place = self.by_id.get(service.index()).copied().flatten()?;
        self.services.get(place as usize)
    }

    /// The service of a firewall mark.
    pub fn of_mark(&self, mark: u32) -> Option<&Service<A>> {
        let place = self.by_mark.get(&NonZeroU32::new(mark)?)?;
        self.services.get(*place as usize)
    }

    /// The persistence of a service.
    pub fn persistence(&self, service: ServiceId) -> Option<&Persistent<A>> {
        self.get(service)?.persistence.as_ref()
    }

    pub(super) fn template_key(&self, service: ServiceId, client: A) -> Option<TemplateKey> {
        self.persistence(service).map(|known| TemplateKey::new(service, client, known.mask()))
    }

    /// Whether there are firewall marks.
    #[inline]
    pub fn has_marks(&self) -> bool {
        !self.marks.is_empty()
    }

    /// Whether a service listens at this port and does not just take what no other one does: such
    /// ports are no masquerade's.
    pub fn names(&self, vip: A, port: U16, protocol: u8) -> bool {
        self.index.contains_key(&endpoint(vip, port, protocol))
            || self.wide.range(vip, port, protocol).is_some()
    }

    /// Whether an address is a VIP.
    #[inline]
    pub fn is_vip(&self, address: &A) -> bool {
        self.vips.contains(address)
    }

    /// Whether the director has this address for outside parties: VIPs, single destinations of
    /// firewall marks, and what masquerades appear with.
    #[inline]
    pub fn is_external(&self, address: &A) -> bool {
        self.filter.may_contain(*address) && self.external.contains(address)
    }

    /// Whether outside parties send to this address, or did by an earlier table: connections
    /// outlive their service, and stay with their worker. Networks of firewall marks count, whose
    /// addresses are not the director's.
    #[inline]
    pub fn was_external(&self, address: &A) -> bool {
        self.ever_external.contains(*address) || is_within(&self.ever_networks, *address)
    }

    /// The rule by which an inside host may open connections to the outside.
    pub fn masquerade(&self, source: &A) -> Option<&MasqueradeRule<A>> {
        self.masquerades.iter().find(|rule| rule.covers(source))
    }

    /// The one-packet service that a real server answers for, and that server.
    pub fn one_packet_service(
        &self,
        server: A,
        port: U16,
        protocol: u8,
    ) -> Option<(&Service<A>, &Server<A>)> {
        if self.one_packet.is_empty() {
            return None;
        }
        let of = |port| self.one_packet.get(&endpoint(server, port, protocol));
        let place = of(port).or_else(|| of(U16::new(0)))?;
        let service = self.services.get(*place as usize)?;
        let keeps_port =
            |known: &Server<A>| known.port.get() == 0 && service.ports.contains(port.get());
        let mut servers = service.servers().iter();
        let server = servers
            .find(|known| known.address == server && (known.port == port || keeps_port(known)))?;
        Some((service, server))
    }

    /// All VIPs.
    pub fn vips(&self) -> impl Iterator<Item = &A> {
        self.vips.iter()
    }

    pub(super) fn add(
        &mut self,
        service: Service<A>,
        listen: &Listen,
    ) -> Result<ServiceId, CompileError> {
        let id = service.id;
        let place =
            u32::try_from(self.services.len()).map_err(|_| CompileError::TooManyServices)?;
        let (vip, ports) = (service.vip, service.ports);
        let taken = match (listen, ports.single()) {
            (Listen::Mark { mark, .. }, _) => self.by_mark.insert(*mark, place),
            (Listen::Vip { protocol, .. }, Some(port)) => {
                let key = endpoint(vip, U16::new(port), *protocol as u8);
                let in_range = self.wide.range(vip, U16::new(port), *protocol as u8);
                self.index.insert(key, place).or(in_range)
            }
            (Listen::Vip { protocol, .. }, None) => {
                let key = (vip, *protocol as u8);
                let is_in = |known: &FlowKey<A>| {
                    (known.source, known.protocol) == key && ports.contains(known.source_port.get())
                };
                let single = self.index.iter().find(|(known, _)| !ports.is_all() && is_in(known));
                let single = single.map(|(_, place)| *place);
                self.wide.add(key, ports, place).or(single)
            }
        };
        if taken.is_some() {
            return Err(CompileError::Twice(*listen));
        }
        if listen.ip().is_some() {
            self.vips.insert(vip);
            self.external.insert(vip);
        }
        set(&mut self.by_id, id.index(), Some(place));
        self.services.push(service);
        Ok(id)
    }

    /// Takes down what real servers answer from for one-packet services. The VIP of a mark's is
    /// known where it is one.
    pub(super) fn expect_replies(&mut self, rules: &[MarkRule]) {
        for (mark, place) in &self.by_mark {
            let Some(service) = self.services.get_mut(*place as usize) else { continue };
            let rules = rules.iter().filter(|rule| rule.mark == *mark);
            let all: BTreeSet<_> = rules.flat_map(|rule| &rule.addresses).collect();
            let mut own = all.into_iter().filter(|net| net.addr().is_ipv6() == A::IS_V6);
            let only = own.next().filter(|net| net.prefix_len() == net.max_prefix_len());
            match only.and_then(|net| A::from_ip(net.addr())).filter(|_| own.next().is_none()) {
                Some(vip) => service.vip = vip,
                None => service.one_packet_replies = false,
            }
        }
        for (place, service) in (0..).zip(&self.services) {
            let answering = service.servers().iter().filter(|server| service.knows_replies(server));
            for server in answering.filter(|_| service.one_packet) {
                self.one_packet.insert(endpoint(server.address, server.port, protocol::UDP), place);
            }
        }
    }

    /// Takes what is of this family of a rule.
    pub(super) fn mark_by(&mut self, rule: &MarkRule) {
        self.marks.add(rule, self.by_mark.get(&rule.mark).copied());
        self.external.extend(rule.single_addresses().filter_map(A::from_ip));
    }

    /// Takes what is of this family of a rule.
    pub(super) fn masquerade_by(&mut self, rule: &Masquerade) {
        if let Some(rule) = MasqueradeRule::compile(rule) {
            self.external.extend(rule.addresses());
            self.masquerades.push(rule);
        }
    }

    /// Takes over the external addresses that connections may have.
    pub(super) fn remember_externals(&mut self, slots: &SlotRegistry) {
        self.ever_networks = slots.external_networks().filter_map(Prefix::of).collect();
        self.ever_external = slots.externals().filter_map(A::from_ip).collect();
        self.filter.extend(self.external.iter().copied());
    }
}
