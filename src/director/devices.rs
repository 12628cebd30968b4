//! What the control thread may know of ports and pools.

use crate::control::config::{Config, MacAddress, PortConfig};
use crate::control::{DeviceSource, PoolReport, PortCounters, PortReport};
use crate::dpdk::mempool::Mempool;
use crate::dpdk::port::{Port, PortStatsReader};

/// One port's fixed facts and its counters.
#[derive(Debug)]
struct Device {
    interfaces: Vec<String>,
    driver: String,
    mac: MacAddress,
    rx_queues: u16,
    tx_queues: u16,
    reader: PortStatsReader,
}

/// All ports and the pool.
#[derive(Debug)]
pub(super) struct Devices {
    ports: Vec<Device>,
    pool: Mempool,
}

impl Devices {
    pub(super) fn new(config: &Config, ports: &[Port], pool: &Mempool) -> Self {
        let device = |(wanted, port): (PortConfig<'_>, &Port)| {
            let granted = port.granted();
            Device {
                interfaces: wanted
                    .interfaces
                    .iter()
                    .map(|(_, on_port)| on_port.name.clone())
                    .collect(),
                driver: port.capabilities().driver,
                mac: wanted.mac().unwrap_or(MacAddress(port.mac())),
                rx_queues: granted.map_or(0, |granted| granted.rx_queues),
                tx_queues: granted.map_or(0, |granted| granted.tx_queues),
                reader: port.stats_reader(),
            }
        };
        Self {
            ports: config.ports().into_iter().zip(ports).map(device).collect(),
            pool: pool.clone(),
        }
    }
}

impl DeviceSource for Devices {
    fn ports(&self) -> Vec<PortReport> {
        let report = |device: &Device| {
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
