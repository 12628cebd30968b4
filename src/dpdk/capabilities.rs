//! What a device says about itself.

use std::ffi::CStr;

use crate::ids::PortId;

use super::error::{Attempt, DpdkError};

/// Bounds of the number of descriptors of a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DescriptorLimits {
    /// The fewest.
    pub min: u16,
    /// The most.
    pub max: u16,
    /// The number must be a multiple of this; 1 for any.
    pub align: u16,
}

/// What a device can do. Bit masks are DPDK's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// The driver, for example `net_ixgbe`.
    pub driver: String,
    /// The NUMA node that the device is connected to; `None` for a virtual one.
    pub socket: Option<i32>,
    /// Receive queues at most.
    pub max_rx_queues: u16,
    /// Transmit queues at most.
    pub max_tx_queues: u16,
    /// Limits of a receive queue.
    pub rx_descriptors: DescriptorLimits,
    /// Limits of a transmit queue.
    pub tx_descriptors: DescriptorLimits,
    /// The smallest MTU, in octets.
    pub min_mtu: u16,
    /// The largest MTU, in octets.
    pub max_mtu: u16,
    /// MAC addresses that the device can filter.
    pub max_mac_addresses: u32,
    /// What it can hash to choose a queue (`RTE_ETH_RSS_*`); 0: it cannot.
    pub rss_types: u64,
    /// Entries of the table from hash to queue; 0: no such table.
    pub reta_size: u16,
    /// Octets of the key that it hashes with; 0: it does not say.
    pub hash_key_octets: u8,
    /// Receive offloads (`RTE_ETH_RX_OFFLOAD_*`).
    pub rx_offloads: u64,
    /// Transmit offloads (`RTE_ETH_TX_OFFLOAD_*`).
    pub tx_offloads: u64,
}

impl Capabilities {
    /// Asks the device.
    pub(super) fn probe(port: PortId, name: &str) -> Result<Self, DpdkError> {
        let mut info = dpdk_sys::rte_eth_dev_info::default();
        let attempt = Attempt::new("rte_eth_dev_info_get");
        // SAFETY: DPDK checks the port and fills the structure.
        let code = unsafe { dpdk_sys::rte_eth_dev_info_get(port.0, &raw mut info) };
        attempt.check(name, code)?;
        // SAFETY: DPDK checks the port.
        let socket = unsafe { dpdk_sys::rte_eth_dev_socket_id(port.0) };
        Ok(Self {
            driver: driver_name(&info),
            socket: (socket >= 0).then_some(socket),
            max_rx_queues: info.max_rx_queues,
            max_tx_queues: info.max_tx_queues,
            rx_descriptors: limits(info.rx_desc_lim),
            tx_descriptors: limits(info.tx_desc_lim),
            min_mtu: info.min_mtu,
            max_mtu: info.max_mtu,
            max_mac_addresses: info.max_mac_addrs,
            rss_types: info.flow_type_rss_offloads,
            reta_size: info.reta_size,
            hash_key_octets: info.hash_key_size,
            rx_offloads: info.rx_offload_capa,
            tx_offloads: info.tx_offload_capa,
        })
    }
}

fn driver_name(info: &dpdk_sys::rte_eth_dev_info) -> String {
    if info.driver_name.is_null() {
        return "unknown".to_owned();
    }
    // SAFETY: the driver's name is a C string that lives as long as the driver.
    unsafe { CStr::from_ptr(info.driver_name) }.to_string_lossy().into_owned()
}

fn limits(limits: dpdk_sys::rte_eth_desc_lim) -> DescriptorLimits {
    DescriptorLimits { min: limits.nb_min, max: limits.nb_max, align: limits.nb_align.max(1) }
}
