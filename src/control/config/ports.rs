//! The DPDK ports of a configuration: interfaces that are VLANs of one device share a port.

use super::model::{Config, Device, InterfaceConfig, MacAddress};

/// A DPDK port and the interfaces on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortConfig<'c> {
    /// The device.
    pub device: &'c Device,
    /// Its interfaces with their numbers, at least one; several differ by their VLANs.
    pub interfaces: Vec<(usize, &'c InterfaceConfig)>,
}

impl Config {
    /// The ports, in the order of their first interfaces.
    pub fn ports(&self) -> Vec<PortConfig<'_>> {
        let mut ports: Vec<PortConfig<'_>> = Vec::new();
        for (number, interface) in self.interfaces.iter().enumerate() {
            match ports.iter_mut().find(|port| *port.device == interface.device) {
                Some(port) => port.interfaces.push((number, interface)),
                None => ports.push(PortConfig {
                    device: &interface.device,
                    interfaces: vec![(number, interface)],
                }),
            }
        }
        ports
    }
}

impl PortConfig<'_> {
    /// The names of its interfaces, joined by `+`, which no name contains.
    pub fn name(&self) -> String {
        let names: Vec<_> = self.configs().map(|interface| interface.name.as_str()).collect();
        names.join("+")
    }

    fn configs(&self) -> impl Iterator<Item = &InterfaceConfig> {
        self.interfaces.iter().map(|(_, interface)| *interface)
    }

    /// The largest MTU of its interfaces.
    pub fn mtu(&self) -> u16 {
        self.configs().map(|interface| interface.mtu).max().unwrap_or_default()
    }

    /// The Ethernet address that it is to have; all its interfaces say the same.
    pub fn mac(&self) -> Option<MacAddress> {
        self.configs().find_map(|interface| interface.mac)
    }

    /// Pairs of queues that are asked for; all its interfaces say the same.
    pub fn queues(&self) -> Option<u16> {
        self.configs().find_map(|interface| interface.queues)
    }

    /// Whether it is to receive every frame.
    pub fn promiscuous(&self) -> bool {
        self.configs().any(|interface| interface.promiscuous)
    }
}
