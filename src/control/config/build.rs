//! From a checked draft to the configuration: fills in the defaults.

use std::path::PathBuf;

use toml::Spanned;

use super::device::number_virtual_devices;
use super::draft::{
    DirectorDraft, DpdkDraft, Draft, InterfaceDraft, MarkDraft, MasqueradeDraft, PersistenceDraft,
    ServiceDraft, Value,
};
use super::failover;
use super::machine::Machine;
use super::model::{Config, DirectorConfig, DpdkConfig, Idle, InterfaceConfig, LogConfig, Route};
use super::validate;
use crate::ids::{InterfaceId, VlanId};
use crate::service::{
    Helper, Listen, MarkRule, Masquerade, NonSyn, Persistence, Policy, RealServer, Removal,
    SchedulerFlags, Templates, Timeouts, VirtualService,
};
use crate::wire::toeplitz::RssInput;

/// `None`: a required value is missing, which a check should have found.
pub(super) fn config(draft: Draft, machine: &Machine) -> Option<Config> {
    let interfaces: Option<Vec<_>> = draft.interfaces.into_iter().map(interface).collect();
    let mut interfaces = interfaces?;
    share_ports(&mut interfaces);
    let policy = Policy {
        closed_ports: draft
            .director
            .closed_ports
            .as_ref()
            .map(|v| *v.get_ref())
            .unwrap_or_default(),
        routing: draft.director.routing.as_ref().is_some_and(|routing| *routing.get_ref()),
    };
    let director = director(draft.director, &draft.services, machine);
    let otherwise = (director.non_syn, &draft.timeouts);
    let services: Option<Vec<_>> =
        draft.services.into_iter().map(|draft| service(draft, otherwise)).collect();
    let marks: Option<Vec<_>> =
        draft.marks.into_iter().map(|rule| mark(rule, &interfaces)).collect();
    let failover = match draft.failovers.into_iter().next() {
        Some(group) => Some(failover::build(group, &interfaces)?),
        None => None,
    };
    Some(Config {
        director,
        dpdk: dpdk(draft.dpdk),
        interfaces,
        services: services?,
        marks: marks?,
        masquerades: draft.masquerades.into_iter().map(masquerade).collect(),
        timeouts: draft.timeouts,
        policy,
        failover,
    })
}

fn or<T>(value: Value<T>, default: T) -> T {
    value.map_or(default, Spanned::into_inner)
}

fn director(draft: DirectorDraft, services: &[ServiceDraft], machine: &Machine) -> DirectorConfig {
    let serves = |ipv6: bool| {
        let mut listens = services.iter().filter_map(|service| service.listen.as_ref());
        listens.any(|listen| listen.get_ref().is_ipv6() == ipv6)
    };
    let ipv6_share = match (serves(false), serves(true)) {
        (true, true) => 50,
        (false, true) => 100,
        (_, false) => 0,
    };
    DirectorConfig {
        workers: validate::workers(&draft, machine),
        control_cpu: validate::control_cpu(&draft, machine),
        idle: or(draft.idle, Idle::Busy),
        connections: or(draft.connections, DirectorConfig::DEFAULT_CONNECTIONS),
        ipv6_share: or(draft.ipv6_share, ipv6_share),
        persistence_templates: or(draft.persistence_templates, Templates::DEFAULT_CAPACITY),
        metrics: or(draft.metrics, Some(DirectorConfig::DEFAULT_METRICS)),
        socket: or(draft.socket, PathBuf::from(DirectorConfig::DEFAULT_SOCKET)),
        state_file: draft.state_file.map(Spanned::into_inner),
        log: LogConfig {
            filter: or(draft.log, "info".into()),
            format: or(draft.log_format, super::LogFormat::Text),
        },
        non_syn: draft.non_syn.map(Spanned::into_inner).unwrap_or_default(),
        errors_per_second: or(draft.errors_per_second, DirectorConfig::DEFAULT_ERRORS_PER_SECOND),
        fragment_timeout: or(draft.fragment_timeout, DirectorConfig::DEFAULT_FRAGMENT_TIMEOUT),
    }
}

fn dpdk(draft: DpdkDraft) -> DpdkConfig {
    let hugepages = or(draft.hugepages, true);
    DpdkConfig {
        hugepages,
        memory_mib: or(draft.memory_mib, if hugepages { 1024 } else { 512 }),
        mbufs: draft.mbufs.map(Spanned::into_inner),
        mbuf_octets: or(draft.mbuf_octets, DpdkConfig::DEFAULT_MBUF_OCTETS),
        rx_descriptors: or(draft.rx_descriptors, 1024),
        tx_descriptors: or(draft.tx_descriptors, 1024),
        rss_key: draft.rss_key.map(Spanned::into_inner),
        rss_input: or(draft.rss_input, RssInput::default()),
        eal_args: draft.eal_args.into_iter().map(Spanned::into_inner).collect(),
    }
}

fn interface(draft: InterfaceDraft) -> Option<InterfaceConfig> {
    let route = |route: &super::draft::RouteDraft| {
        Some(Route { to: *route.to.as_ref()?.get_ref(), via: *route.via.as_ref()?.get_ref() })
    };
    let routes: Option<Vec<_>> = draft.routes.iter().map(route).collect();
    Some(InterfaceConfig {
        name: draft.name.into_inner(),
        role: draft.role?.into_inner(),
        device: draft.device?.into_inner(),
        vlan: VlanId(or(draft.vlan, VlanId::UNTAGGED.0)),
        addresses: draft.addresses.items.into_iter().map(Spanned::into_inner).collect(),
        gateways: draft.gateways.items.into_iter().map(Spanned::into_inner).collect(),
        routes: routes?,
        mtu: or(draft.mtu, InterfaceConfig::DEFAULT_MTU),
        mss_clamp: draft.mss_clamp.map(Spanned::into_inner),
        mac: draft.mac.map(Spanned::into_inner),
        queues: draft.queues.map(Spanned::into_inner),
        promiscuous: or(draft.promiscuous, false),
        neighbors: draft.neighbors.into_iter().map(|(ip, mac)| (ip.into_inner(), mac)).collect(),
    })
}

/// Gives each port's device a name of its own, and what one interface says of the port to the
/// others on it.
fn share_ports(interfaces: &mut [InterfaceConfig]) {
    let first_of_port: Vec<usize> = (0..interfaces.len())
        .map(|number| {
            let device = &interfaces[number].device;
            let mut same = interfaces.iter().filter(|other| other.device == *device);
            let is_shared = same.any(|other| other.vlan != VlanId::UNTAGGED);
            let first = interfaces.iter().position(|other| other.device == *device);
            first.filter(|_| is_shared).unwrap_or(number)
        })
        .collect();
    let mut devices: Vec<_> = interfaces
        .iter_mut()
        .zip(&first_of_port)
        .enumerate()
        .filter(|(number, (_, first))| number == *first)
        .map(|(_, (interface, _))| &mut interface.device)
        .collect();
    number_virtual_devices(&mut devices);
    for (number, first) in first_of_port.iter().enumerate() {
        interfaces[number].device = interfaces[*first].device.clone();
    }
    let of_ports: Vec<_> = first_of_port
        .iter()
        .map(|first| {
            let on_port = || {
                let all = interfaces.iter().zip(&first_of_port);
                all.filter(|(_, other)| *other == first).map(|(interface, _)| interface)
            };
            let mac = on_port().find_map(|interface| interface.mac);
            let queues = on_port().find_map(|interface| interface.queues);
            (mac, queues, on_port().any(|interface| interface.promiscuous))
        })
        .collect();
    for (interface, (mac, queues, promiscuous)) in interfaces.iter_mut().zip(of_ports) {
        (interface.mac, interface.queues, interface.promiscuous) = (mac, queues, promiscuous);
    }
}

fn service(
    draft: ServiceDraft,
    (non_syn, timeouts): (NonSyn, &Timeouts),
) -> Option<VirtualService> {
    let servers = draft.servers.items.into_iter().map(|server| {
        let server = server.into_inner();
        Some(RealServer {
            address: server.address?.into_inner(),
            weight: or(server.weight, RealServer::DEFAULT_WEIGHT),
            slow_start: server.slow_start.map(Spanned::into_inner),
            upper_threshold: or(server.upper_threshold, 0),
            lower_threshold: or(server.lower_threshold, 0),
        })
    });
    let listen = draft.listen?.into_inner();
    let flags = draft.scheduler_flags.items.into_iter().map(Spanned::into_inner);
    let scheduler_flags =
        flags.fold(SchedulerFlags::default(), |flags, (_, flag)| flags.with(flag));
    Some(VirtualService {
        name: draft.name?.into_inner(),
        listen,
        scheduler: draft.scheduler.map(Spanned::into_inner).unwrap_or_default(),
        scheduler_flags,
        removal: or(draft.on_removal, Removal::default()),
        servers: servers.collect::<Option<_>>()?,
        non_syn: or(draft.non_syn, non_syn),
        one_packet: or(draft.one_packet, false),
        is_synchronised: or(draft.sync, true),
        helper: or(draft.helper, Helper::default_of(listen)),
        timeouts: draft.timeouts.map(|own| own.over(timeouts)),
        persistence: draft.persistence.map(|draft| persistence(draft, listen)),
        connection_limit: draft.connection_limit.map(Spanned::into_inner),
    })
}

fn persistence(draft: PersistenceDraft, listen: Listen) -> Persistence {
    Persistence {
        timeout: or(draft.timeout, Persistence::DEFAULT_TIMEOUT),
        prefix: or(draft.prefix, Persistence::whole_address(listen.is_ipv6())),
    }
}

fn mark(draft: MarkDraft, interfaces: &[InterfaceConfig]) -> Option<MarkRule> {
    let id = |name: Spanned<String>| {
        let place = interfaces.iter().position(|interface| interface.name == *name.get_ref())?;
        u8::try_from(place).ok().map(InterfaceId)
    };
    let interface = match draft.interface {
        Some(name) => Some(id(name)?),
        None => None,
    };
    Some(MarkRule {
        mark: draft.mark?.into_inner().try_into().ok()?,
        addresses: draft.addresses.items.into_iter().map(Spanned::into_inner).collect(),
        protocol: draft.protocol.map(Spanned::into_inner),
        ports: draft.ports.items.into_iter().map(Spanned::into_inner).collect(),
        sources: draft.sources.items.into_iter().map(Spanned::into_inner).collect(),
        interface,
    })
}

fn masquerade(draft: MasqueradeDraft) -> Masquerade {
    Masquerade {
        sources: draft.sources.items.into_iter().map(Spanned::into_inner).collect(),
        addresses: draft.addresses.items.into_iter().map(Spanned::into_inner).collect(),
        ports: or(draft.ports, Masquerade::DEFAULT_PORTS),
    }
}
