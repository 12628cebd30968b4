//! Small configurations for the tests of this layer.

use std::net::IpAddr;

use super::config::{
    Config, Device, DirectorConfig, DpdkConfig, Idle, InterfaceConfig, LogConfig, LogFormat, Role,
};
use crate::ids::{CpuId, VlanId};
use crate::service::{
    NonSyn, Policy, RealServer, Removal, SchedulerFlags, SchedulerKind, Timeouts, VirtualService,
};
use crate::wire::toeplitz::RssInput;

/// Two interfaces, outside with a gateway and inside; no services.
pub(crate) fn config() -> Config {
    let mut outside = interface("outside", Role::Outside, "203.0.113.2/24");
    outside.gateways = vec![IpAddr::from([203, 0, 113, 1])];
    Config {
        director: DirectorConfig {
            workers: vec![CpuId(0), CpuId(0)],
            control_cpu: CpuId(0),
            idle: Idle::Busy,
            connections: 1000,
            ipv6_share: 0,
            persistence_templates: 1024,
            metrics: None,
            socket: "/nonexistent/pointsman.sock".into(),
            state_file: None,
            log: LogConfig { filter: "info".into(), format: LogFormat::Text },
            non_syn: NonSyn::Drop,
            errors_per_second: 1000,
            fragment_timeout: DirectorConfig::DEFAULT_FRAGMENT_TIMEOUT,
        },
        dpdk: DpdkConfig {
            hugepages: false,
            memory_mib: 64,
            mbufs: None,
            mbuf_octets: 2048,
            rx_descriptors: 64,
            tx_descriptors: 64,
            rss_key: None,
            rss_input: RssInput::default(),
            eal_args: Vec::new(),
        },
        interfaces: vec![outside, interface("inside", Role::Inside, "10.0.0.2/24")],
        services: Vec::new(),
        marks: Vec::new(),
        masquerades: Vec::new(),
        timeouts: Timeouts::default(),
        policy: Policy::default(),
        failover: None,
    }
}

/// An interface with one address.
pub(crate) fn interface(name: &str, role: Role, address: &str) -> InterfaceConfig {
    InterfaceConfig {
        name: name.into(),
        role,
        device: Device::Vdev { name: format!("net_null_{name}"), args: String::new() },
        vlan: VlanId::UNTAGGED,
        addresses: vec![address.parse().unwrap()],
        gateways: Vec::new(),
        routes: Vec::new(),
        mtu: 1500,
        mac: None,
        queues: None,
        promiscuous: false,
        neighbors: Vec::new(),
        mss_clamp: None,
    }
}

/// A service with servers of weight 1.
pub(crate) fn service(name: &str, listen: &str, servers: &[&str]) -> VirtualService {
    let server = |address: &&str| RealServer::new(address.parse().unwrap(), 1);
    VirtualService {
        name: name.into(),
        listen: listen.parse().unwrap(),
        scheduler: SchedulerKind::default(),
        scheduler_flags: SchedulerFlags::default(),
        removal: Removal::default(),
        servers: servers.iter().map(server).collect(),
        non_syn: NonSyn::Drop,
        one_packet: false,
        is_synchronised: true,
        helper: None,
        timeouts: None,
        persistence: None,
        connection_limit: None,
    }
}
