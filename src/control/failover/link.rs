//! The links of the pair: where advertisements leave and come in, and what they say.

use std::net::IpAddr;
use std::time::Duration;

use arrayvec::ArrayVec;
use ipnet::IpNet;

use super::election::Heard;
use crate::control::config::{Config, FailoverConfig, InterfaceConfig};
use crate::dataplane::failover::{
    HeardLink, HeardMessage, HeardSync, Hearing, MESSAGE, Message, Unheard,
};
use crate::ids::InterfaceId;
use crate::wire::address::V6;
use crate::wire::ethernet::Mac;
use crate::wire::ipv4::protocol;
use crate::wire::ipv6;
use crate::wire::vrrp::{
    AUTHENTICATION, Advertisement, Ends, GROUP_V4, GROUP_V6, HOP_LIMIT, OWNER, Sending, Version,
};

/// One virtual router of the group: an address family on an interface.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) interface: InterfaceId,
    /// The interface's name.
    pub(super) name: String,
    /// The director's address there.
    pub(super) own: IpAddr,
    /// The Ethernet address that the floating addresses have.
    pub(super) mac: Mac,
    /// The floating addresses.
    pub(super) floating: Vec<IpAddr>,
    /// The other directors; empty: the multicast group.
    peers: Vec<IpAddr>,
}

/// What workers let through of what comes in by the links of a group. `macs`: of the interfaces.
pub fn hearing(config: &Config, group: &FailoverConfig, macs: &[Mac]) -> Hearing {
    let of = |link: Link| HeardLink { interface: link.interface, own: link.own, peers: link.peers };
    Hearing {
        router_id: group.router_id,
        version: group.version,
        links: Link::all(config, group, macs).into_iter().map(of).collect(),
        sync: group.sync.as_ref().map(|sync| HeardSync {
            interface: sync.interface,
            own: sync.sources(config),
            peers: sync.peers.clone(),
        }),
        accepts: group.accept || group.priority == OWNER,
    }
}

/// The groups that IPv6 advertisements come to, with their interfaces; those of IPv4 are flooded by
/// every switch (RFC 4541 section 2.1.2). `macs`: of the interfaces.
pub(in crate::control) fn groups(config: &Config, macs: &[Mac]) -> Vec<(InterfaceId, V6)> {
    let group = config.failover.as_ref();
    let links = group.map(|group| Link::all(config, group, macs)).unwrap_or_default();
    let has_group = |link: &Link| link.own.is_ipv6() && link.peers.is_empty();
    links.into_iter().filter(has_group).map(|link| (link.interface, GROUP_V6)).collect()
}

impl Link {
    /// The links of a group. `macs`: of the interfaces.
    pub(super) fn all(config: &Config, group: &FailoverConfig, macs: &[Mac]) -> Vec<Self> {
        let numbered = (0..).map(InterfaceId).zip(&config.interfaces).zip(macs);
        let of = |((id, interface), mac): ((InterfaceId, &InterfaceConfig), &Mac)| {
            [false, true].map(|is_v6| Self::of((id, interface), group, *mac, is_v6))
        };
        numbered.flat_map(of).flatten().collect()
    }

    /// The link of an address family, if the group floats there.
    fn of(
        (id, interface): (InterfaceId, &InterfaceConfig),
        group: &FailoverConfig,
        mac: Mac,
        is_v6: bool,
    ) -> Option<Self> {
        let floating: Vec<_> = group.floating_of(id).filter(|ip| ip.is_ipv6() == is_v6).collect();
        let first = floating.first()?;
        let own_beside = |ip: &IpAddr| {
            let own = || interface.addresses.iter().filter(|net| net.contains(ip)).map(IpNet::addr);
            own().find(|own| !floating.contains(own)).or_else(|| own().next())
        };
        let on_link = |peer: &&IpAddr| peer.is_ipv6() == is_v6 && own_beside(peer).is_some();
        let peers: Vec<_> = group.peers.iter().filter(on_link).copied().collect();
        let own = match (is_v6, peers.first()) {
            // RFC 9568 section 5.1.2.1.
            (true, None) => IpAddr::from(ipv6::link_local(&mac)),
            (_, peer) => own_beside(peer.unwrap_or(first))?,
        };
        let mac = group.virtual_macs(id).map_or(mac, |[v4, v6]| if is_v6 { v6 } else { v4 });
        Some(Self { interface: id, name: interface.name.clone(), own, mac, floating, peers })
    }

    /// The other directors there, if advertisements are not to the multicast group.
    pub(super) fn peers(&self) -> &[IpAddr] {
        &self.peers
    }

    /// IPv4 or IPv6.
    pub(super) const fn family(&self) -> &'static str {
        if self.own.is_ipv4() { "ipv4" } else { "ipv6" }
    }

    /// The advertisements of this priority: one, or one for each peer; of so many octets at most.
    pub(super) fn advertisements(
        &self,
        group: &FailoverConfig,
        priority: u8,
        room: usize,
    ) -> impl Iterator<Item = Message> {
        let multicast: IpAddr = if self.own.is_ipv4() { GROUP_V4.into() } else { GROUP_V6.into() };
        let to = if self.peers.is_empty() { vec![multicast] } else { self.peers.clone() };
        to.into_iter()
            .filter_map(move |destination| self.message(group, (priority, room), destination))
    }

    fn message(
        &self,
        group: &FailoverConfig,
        (priority, room): (u8, usize),
        destination: IpAddr,
    ) -> Option<Message> {
        let head = Advertisement {
            version: group.version,
            router_id: group.router_id,
            priority,
            count: u8::try_from(self.floating.len()).ok()?,
            interval: hundredths(group.interval),
            password: password(group),
        };
        let ends = Ends { source: self.own, destination };
        // What does not fit one packet is left out: who has the first has all.
        let width = if self.own.is_ipv4() { 4 } else { 16 };
        let fit = room.saturating_sub(AUTHENTICATION * 2) / width;
        let addresses = self.floating.get(..fit).unwrap_or(&self.floating);
        let sending = Sending { head, addresses, ends, pseudo_header: group.pseudo_header };
        let payload: ArrayVec<u8, MESSAGE> = sending.write()?;
        Some(Message {
            interface: self.interface,
            source_mac: Some(self.mac),
            source: self.own,
            destination,
            protocol: protocol::VRRP,
            hop_limit: HOP_LIMIT,
            payload,
        })
    }

    /// Whether a message came in by this link.
    pub(super) fn is_of(&self, message: &HeardMessage) -> bool {
        message.interface == self.interface && message.source.is_ipv4() == self.own.is_ipv4()
    }

    /// What an advertisement says that a worker has let through, by the checks of RFC 3768
    /// section 7.1 that it leaves to us.
    pub(super) fn read(group: &FailoverConfig, message: &HeardMessage) -> Result<Heard, Unheard> {
        let ends = Ends { source: message.source, destination: message.destination };
        let head = Advertisement::parse(&message.payload, ends).map_err(|_| Unheard::Malformed)?;
        if head.version == Version::V2 {
            if head.password != password(group) {
                return Err(Unheard::Password);
            }
            if head.interval != hundredths(group.interval) {
                return Err(Unheard::Interval);
            }
        }
        let interval = Duration::from_millis(u64::from(head.interval) * 10);
        // Nobody sends without a pause.
        let interval = interval.max(Duration::from_millis(10));
        Ok(Heard { from: message.source, priority: head.priority, interval })
    }
}

fn hundredths(interval: Duration) -> u16 {
    u16::try_from(interval.as_millis() / 10).unwrap_or(u16::MAX)
}

fn password(group: &FailoverConfig) -> Option<[u8; AUTHENTICATION]> {
    let text = group.password.as_ref()?;
    let mut password = [0; AUTHENTICATION];
    for (to, from) in password.iter_mut().zip(text.bytes()) {
        *to = from;
    }
    Some(password)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::config::{self, Machine};

    /// Floating addresses of IPv6 by the dozen, on a link of 1280 octets.
    #[test]
    fn of_more_addresses_than_fit_the_link_an_advertisement_has_the_first() {
        let address = |it| format!("{{ interface = \"inside\", address = \"fd00:a::1:{it:x}\" }}");
        let floating = (0..120).map(address).collect::<Vec<_>>().join(",\n");
        let text = format!(
            "[director]\nworkers = [0]\n\n[interface.outside]\nrole = \"outside\"\n\
             device = \"0000:3b:00.0\"\naddresses = [\"192.0.2.2/24\"]\n\n[interface.inside]\n\
             role = \"inside\"\ndevice = \"0000:3b:00.1\"\naddresses = [\"fd00:a::2/64\"]\n\n\
             [[failover]]\nname = \"pair\"\nrouter_id = 51\nsync = false\nfloating = [\n{floating}]\n"
        );
        let loaded = config::parse(&text, "pair.toml", &Machine::with_cpus(1)).unwrap();
        let group = loaded.config.failover.as_ref().unwrap();
        let links = Link::all(&loaded.config, group, &[[2; 6]; 2]);
        let [link] = &links[..] else { panic!("{links:?}") };
        for (mtu, fit) in [(1280, 76), (9000, 0)] {
            let room = super::super::room_for_message(&[1500, mtu], link.interface, true);
            let message = link.advertisements(group, 100, room).next().unwrap();
            let payload = &message.payload;
            let ends = Ends { source: message.source, destination: message.destination };
            let said = Advertisement::parse(payload, ends).unwrap();
            let all_that_fit = if fit == 0 { (MESSAGE - AUTHENTICATION * 2) / 16 } else { fit };
            assert_eq!(usize::from(said.count), all_that_fit.min(120), "{mtu}");
            assert!(payload.len() + ipv6::HEADER <= usize::from(mtu), "{mtu}: {}", payload.len());
            let first: IpAddr = "fd00:a::1:0".parse().unwrap();
            let IpAddr::V6(first) = first else { panic!() };
            assert_eq!(payload[8..24], first.octets());
        }
    }
}
