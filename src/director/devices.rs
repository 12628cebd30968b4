//! What the control thread may know of ports and pools.

use super::steering::PortCheck;
use crate::control::config::{Config, InterfaceConfig, MacAddress, PortConfig};
use crate::control::{DeviceSource, HashCheck, PoolReport, PortCounters, PortReport, SteeringMode};
use crate::dpdk::mempool::Mempool;
use crate::dpdk::port::{Port, PortStatsReader};
use crate::wire::ethernet::Mac;

/// One port's fixed facts and its counters.
#[derive(Debug)]
struct PortFacts {
    interfaces: Vec<String>,
    driver: String,
    mac: MacAddress,
    rx_queues: u16,
    tx_queues: u16,
    steering: SteeringMode,
    hash_check: Option<PortCheck>,
    reader: PortStatsReader,
}

/// All ports and the pool.
#[derive(Debug)]
pub(super) struct Devices {
    ports: Vec<PortFacts>,
    pool: Mempool,
}

impl Devices {
    pub(super) fn new(
        config: &Config,
        ports: &[Port],
        steered: Vec<(SteeringMode, Option<PortCheck>)>,
        pool: &Mempool,
    ) -> Self {
        type Parts<'p> = ((PortConfig<'p>, &'p Port), (SteeringMode, Option<PortCheck>));
        let device = |((wanted, port), (steering, hash_check)): Parts<'_>| {
            let granted = port.granted();
            PortFacts {
                interfaces: wanted
                    .interfaces
                    .iter()
                    .map(|(_, on_port)| on_port.name.clone())
                    .collect(),
                driver: port.capabilities().driver.clone(),
                mac: wanted.mac().unwrap_or(MacAddress(port.mac())),
                rx_queues: granted.map_or(0, |granted| granted.rx_queues),
                tx_queues: granted.map_or(0, |granted| granted.tx_queues),
                steering,
                hash_check,
                reader: port.stats_reader(),
            }
        };
        Self {
            ports: config.ports().into_iter().zip(ports).zip(steered).map(device).collect(),
            pool: pool.clone(),
        }
    }
}

/// The Ethernet address of every interface.
pub(super) fn macs(config: &Config, ports: &[Port]) -> Vec<Mac> {
    let of = |(interface, port): (&InterfaceConfig, Option<&Port>)| {
        interface.mac.map(|mac| mac.0).or(port.map(Port::mac)).unwrap_or_default()
    };
    with_ports(config, ports).into_iter().map(of).collect()
}

/// Every interface with its port.
fn with_ports<'c>(
    config: &'c Config,
    ports: &'c [Port],
) -> Vec<(&'c InterfaceConfig, Option<&'c Port>)> {
    let configured = config.ports();
    let of = |interface: &'c InterfaceConfig| {
        let place = configured.iter().position(|port| *port.device == interface.device);
        (interface, place.and_then(|place| ports.get(place)))
    };
    config.interfaces.iter().map(of).collect()
}

/// The MTU in force on an interface of this configuration: no more than its port has granted.
pub(super) fn mtu(config: &InterfaceConfig, port: &Port) -> u16 {
    port.granted().map_or(config.mtu, |granted| granted.mtu.min(config.mtu))
}

/// The MTU in force on every interface.
pub(super) fn mtus(config: &Config, ports: &[Port]) -> Vec<u16> {
    let of = |(interface, port): (&InterfaceConfig, Option<&Port>)| {
        port.map_or(interface.mtu, |port| mtu(interface, port))
    };
    with_ports(config, ports).into_iter().map(of).collect()
}

impl DeviceSource for Devices {
    fn ports(&self) -> Vec<PortReport> {
        let report = |device: &PortFacts| {
            let stats = device.reader.read().unwrap_or_default();
            let link = device.reader.link().unwrap_or_default();
            PortReport {
                interfaces: device.interfaces.clone(),
                driver: device.driver.clone(),
                mac: device.mac,
                link_up: link.up,
                speed_mbps: link.speed_mbps,
                rx_queues: device.rx_queues,
                tx_queues: device.tx_queues,
                steering: device.steering,
                hash_check: device.hash_check.as_ref().map_or(HashCheck::None, PortCheck::verdict),
                counters: PortCounters {
                    rx_packets: stats.ipackets,
                    tx_packets: stats.opackets,
                    rx_octets: stats.ibytes,
                    tx_octets: stats.obytes,
                    imissed: stats.imissed,
                    rx_errors: stats.ierrors,
                    tx_errors: stats.oerrors,
                    rx_nombuf: stats.rx_nombuf,
                },
            }
        };
        self.ports.iter().map(report).collect()
    }

    fn pools(&self) -> Vec<PoolReport> {
        vec![PoolReport {
            name: self.pool.name().to_owned(),
            capacity: u64::from(self.pool.capacity()),
            in_use: u64::from(self.pool.in_use()),
        }]
    }
}
