//! Setting up a port: what is asked, what the device can do, and what comes of it.

use std::ffi::{c_int, c_uint};

use super::capabilities::Capabilities;
use super::error::{Attempt, DpdkError, errno_text, positive};
use super::mempool::Mempool;
use super::port::Mac;
use super::rss::{HashedEnd, RssSettings};
use crate::ids::PortId;

/// Octets of a frame beside its MTU: Ethernet header, two VLAN tags, frame check sequence.
const FRAME_OVERHEAD: u32 = 14 + 8 + 4;

/// What is asked of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSettings {
    /// Receive queues.
    pub rx_queues: u16,
    /// Transmit queues.
    pub tx_queues: u16,
    /// Descriptors of each receive queue.
    pub rx_descriptors: u16,
    /// Descriptors of each transmit queue.
    pub tx_descriptors: u16,
    /// Octets of the largest IP packet.
    pub mtu: u16,
    /// Receive every frame, whatever its destination address.
    pub promiscuous: bool,
    /// The MAC address; `None` keeps the device's own.
    pub mac: Option<Mac>,
    /// More MAC addresses to receive frames to, such as those of a virtual router.
    pub more_macs: Vec<Mac>,
    /// How packets are spread over several receive queues.
    pub rss: RssSettings,
}

impl Default for PortSettings {
    fn default() -> Self {
        Self {
            rx_queues: 1,
            tx_queues: 1,
            rx_descriptors: 1024,
            tx_descriptors: 1024,
            mtu: 1500,
            promiscuous: false,
            mac: None,
            more_macs: Vec::new(),
            rss: RssSettings::default(),
        }
    }
}

/// What a port got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// Receive queues.
    pub rx_queues: u16,
    /// Transmit queues.
    pub tx_queues: u16,
    /// Descriptors of each receive queue.
    pub rx_descriptors: u16,
    /// Descriptors of each transmit queue.
    pub tx_descriptors: u16,
    /// Octets of the largest IP packet.
    pub mtu: u16,
    /// What the NIC hashes to choose a queue (`RTE_ETH_RSS_*`); 0: it does not.
    pub rss_types: u64,
    /// It hashes with the key that was asked for.
    pub rss_key: bool,
    /// Receive offloads in use.
    pub rx_offloads: u64,
    /// Transmit offloads in use.
    pub tx_offloads: u64,
    /// Every frame is received.
    pub promiscuous: bool,
    /// The MAC address.
    pub mac: Mac,
}

impl Granted {
    /// Whether packets come with the NIC's hash.
    pub fn tells_hashes(&self) -> bool {
        self.rx_offloads & dpdk_sys::SHIM_RX_OFFLOAD_RSS_HASH != 0
    }

    /// Whether this end of a flow alone decides about the queue, by the key that was asked for.
    pub fn hashes_only(&self, end: HashedEnd) -> bool {
        self.rss_key && self.rss_types & end.types() == end.types()
    }
}

/// The parts of a set-up that share the port and its name.
struct Setup<'a> {
    port: PortId,
    name: &'a str,
    capabilities: &'a Capabilities,
    settings: &'a PortSettings,
    pools: &'a [Mempool],
}

/// Configures a stopped port that nothing else uses.
pub(super) fn configure(
    port: PortId,
    name: &str,
    capabilities: &Capabilities,
    settings: &PortSettings,
    pools: &[Mempool],
) -> Result<Granted, DpdkError> {
    if pools.is_empty() {
        return Err(DpdkError::NoMempool(name.to_owned()));
    }
    let setup = Setup { port, name, capabilities, settings, pools };
    let mut granted = setup.plan()?;
    let mtu_before = setup.mtu();
    while let Err(error) = setup.configure_device(&granted) {
        if !setup.ask_less(&mut granted) {
            return Err(error);
        }
    }
    setup.adjust_descriptors(&mut granted)?;
    setup.make_queues(&granted)?;
    if mtu_before != granted.mtu {
        setup.set_mtu(&mut granted);
    }
    setup.set_mac(&mut granted);
    setup.receive_all(&mut granted);
    setup.add_macs(&mut granted)?;
    setup.report(&granted);
    Ok(granted)
}

impl Setup<'_> {
    /// What of the wishes the device can fulfil.
    fn plan(&self) -> Result<Granted, DpdkError> {
        let can = self.capabilities;
        let queues = |asked: u16, max: u16, direction| match asked.min(max) {
            0 => Err(DpdkError::NoQueues(self.name.to_owned(), direction)),
            granted => Ok(granted),
        };
        let rx_queues = queues(self.settings.rx_queues.max(1), can.max_rx_queues, "receive")?;
        let tx_queues = queues(self.settings.tx_queues.max(1), can.max_tx_queues, "transmit")?;
        let mtu = match can.max_mtu {
            0 => self.settings.mtu,
            max => self.settings.mtu.clamp(can.min_mtu.min(max), max),
        };
        let spreads = rx_queues > 1 && !self.settings.rss.off;
        let rss_types = if spreads { self.rss_types() } else { 0 };
        let key_octets = self.settings.rss.key.len();
        let mut rx_offloads = 0;
        let mut tx_offloads = 0;
        if rss_types != 0 {
            rx_offloads |= can.rx_offloads & dpdk_sys::SHIM_RX_OFFLOAD_RSS_HASH;
        }
        if u32::from(mtu) + FRAME_OVERHEAD > self.data_room() {
            rx_offloads |= can.rx_offloads & dpdk_sys::SHIM_RX_OFFLOAD_SCATTER;
            tx_offloads |= can.tx_offloads & dpdk_sys::SHIM_TX_OFFLOAD_MULTI_SEGS;
        }
        Ok(Granted {
            rx_queues,
            tx_queues,
            rx_descriptors: self.settings.rx_descriptors,
            tx_descriptors: self.settings.tx_descriptors,
            mtu,
            rss_types,
            rss_key: rss_types != 0
                && key_octets != 0
                && key_octets == usize::from(can.hash_key_octets),
            rx_offloads,
            tx_offloads,
            promiscuous: false,
            mac: mac(self.port),
        })
    }

    /// The kinds of packets that the device can hash, and the end that it is to hash alone.
    fn rss_types(&self) -> u64 {
        let can = self.capabilities.rss_types;
        let kinds = can & (dpdk_sys::SHIM_RSS_IP | dpdk_sys::SHIM_RSS_TCP | dpdk_sys::SHIM_RSS_UDP);
        let only = self.settings.rss.only.map_or(0, HashedEnd::types);
        if kinds != 0 && can & only == only { kinds | only } else { kinds }
    }

    /// Gives up one wish about receive side scaling; `false` when there is none left.
    fn ask_less(&self, granted: &mut Granted) -> bool {
        let ends = HashedEnd::Source.types() | HashedEnd::Destination.types();
        let wish = if granted.rss_types & ends != 0 {
            granted.rss_types &= !ends;
            "hashing of one end of a flow"
        } else if granted.rss_key {
            granted.rss_key = false;
            "a hash key"
        } else if granted.rss_types != 0 {
            granted.rss_types = 0;
            granted.rx_offloads &= !dpdk_sys::SHIM_RX_OFFLOAD_RSS_HASH;
            "receive side scaling"
        } else {
            return false;
        };
        self.note(wish, -libc::ENOTSUP);
        true
    }

    /// Octets that the smallest buffer takes.
    fn data_room(&self) -> u32 {
        self.pools.iter().map(|pool| u32::from(pool.data_room_octets())).min().unwrap_or(0)
    }

    fn configure_device(&self, granted: &Granted) -> Result<(), DpdkError> {
        let mut conf = dpdk_sys::rte_eth_conf::default();
        conf.rxmode.mtu = u32::from(granted.mtu);
        conf.rxmode.offloads = granted.rx_offloads;
        conf.txmode.offloads = granted.tx_offloads;
        if granted.rss_types != 0 {
            conf.rxmode.mq_mode = dpdk_sys::rte_eth_rx_mq_mode::RTE_ETH_MQ_RX_RSS;
            conf.rx_adv_conf.rss_conf.rss_hf = granted.rss_types;
            if granted.rss_key {
                let key = &self.settings.rss.key;
                conf.rx_adv_conf.rss_conf.rss_key = key.as_ptr().cast_mut();
                conf.rx_adv_conf.rss_conf.rss_key_len = self.capabilities.hash_key_octets;
            }
        }
        let attempt = Attempt::new("rte_eth_dev_configure");
        // SAFETY: DPDK checks the port and the numbers, copies the configuration, and reads the
        // key, which has as many octets as the device takes.
        let code = unsafe {
            dpdk_sys::rte_eth_dev_configure(
                self.port.0,
                granted.rx_queues,
                granted.tx_queues,
                &raw const conf,
            )
        };
        attempt.check(self.name, code)
    }

    fn adjust_descriptors(&self, granted: &mut Granted) -> Result<(), DpdkError> {
        let attempt = Attempt::new("rte_eth_dev_adjust_nb_rx_tx_desc");
        // SAFETY: DPDK checks the port and changes the two numbers.
        let code = unsafe {
            dpdk_sys::rte_eth_dev_adjust_nb_rx_tx_desc(
                self.port.0,
                &raw mut granted.rx_descriptors,
                &raw mut granted.tx_descriptors,
            )
        };
        attempt.check(self.name, code)
    }

    fn make_queues(&self, granted: &Granted) -> Result<(), DpdkError> {
        let socket = self.capabilities.socket.map_or(c_uint::MAX, c_int::cast_unsigned);
        for (queue, pool) in (0..granted.rx_queues).zip(self.pools.iter().cycle()) {
            let attempt = Attempt::new("rte_eth_rx_queue_setup");
            // SAFETY: DPDK checks the numbers; the port keeps the pool alive; a null configuration
            // stands for the driver's own.
            let code = unsafe {
                dpdk_sys::rte_eth_rx_queue_setup(
                    self.port.0,
                    queue,
                    granted.rx_descriptors,
                    socket,
                    std::ptr::null(),
                    pool.raw(),
                )
            };
            attempt.check(self.name, code)?;
        }
        for queue in 0..granted.tx_queues {
            let attempt = Attempt::new("rte_eth_tx_queue_setup");
            // SAFETY: DPDK checks the numbers; a null configuration stands for the driver's own.
            let code = unsafe {
                dpdk_sys::rte_eth_tx_queue_setup(
                    self.port.0,
                    queue,
                    granted.tx_descriptors,
                    socket,
                    std::ptr::null(),
                )
            };
            attempt.check(self.name, code)?;
        }
        Ok(())
    }

    fn set_mtu(&self, granted: &mut Granted) {
        // SAFETY: DPDK checks the port.
        let code = unsafe { dpdk_sys::rte_eth_dev_set_mtu(self.port.0, granted.mtu) };
        self.note("MTU", code);
        granted.mtu = self.mtu();
    }

    fn mtu(&self) -> u16 {
        let mut mtu = 0;
        // SAFETY: DPDK checks the port and writes the number.
        unsafe { dpdk_sys::rte_eth_dev_get_mtu(self.port.0, &raw mut mtu) };
        mtu
    }

    fn set_mac(&self, granted: &mut Granted) {
        let Some(wanted) = self.settings.mac else { return };
        let mut address = dpdk_sys::rte_ether_addr { addr_bytes: wanted };
        // SAFETY: DPDK checks the port and copies the address.
        let code =
            unsafe { dpdk_sys::rte_eth_dev_default_mac_addr_set(self.port.0, &raw mut address) };
        if !self.note("MAC address", code) {
            // The director uses the address all the same, so it must see every frame.
            granted.promiscuous = self.promiscuous();
        }
        granted.mac = mac(self.port);
    }

    /// Neighbour discovery and VRRP come by multicast, so the port must let it in.
    fn receive_all(&self, granted: &mut Granted) {
        if self.settings.promiscuous {
            granted.promiscuous = self.promiscuous();
        }
        if !granted.promiscuous {
            // SAFETY: DPDK checks the port.
            let code = unsafe { dpdk_sys::rte_eth_allmulticast_enable(self.port.0) };
            if !self.note("all multicast", code) {
                granted.promiscuous = self.promiscuous();
            }
        }
    }

    /// Receives frames to more addresses: by filters of the device, or else by taking every frame.
    fn add_macs(&self, granted: &mut Granted) -> Result<(), DpdkError> {
        for mac in &self.settings.more_macs {
            let mut address = dpdk_sys::rte_ether_addr { addr_bytes: *mac };
            // SAFETY: DPDK checks the port and copies the address.
            let code =
                unsafe { dpdk_sys::rte_eth_dev_mac_addr_add(self.port.0, &raw mut address, 0) };
            if granted.promiscuous || self.note("another MAC address", code) {
                continue;
            }
            granted.promiscuous = self.promiscuous();
            if !granted.promiscuous {
                return Err(DpdkError::NoMoreMacs(self.name.to_owned()));
            }
        }
        Ok(())
    }

    fn promiscuous(&self) -> bool {
        // SAFETY: DPDK checks the port.
        let code = unsafe { dpdk_sys::rte_eth_promiscuous_enable(self.port.0) };
        self.note("promiscuous mode", code)
    }

    /// Logs a wish that the device refused; whether it was fulfilled.
    fn note(&self, wish: &str, code: c_int) -> bool {
        if code < 0 {
            let reason = errno_text(positive(code));
            tracing::info!(port = self.name, wish, reason, "the device cannot do that");
        }
        code >= 0
    }

    fn report(&self, granted: &Granted) {
        let (asked, can) = (self.settings, self.capabilities);
        tracing::info!(
            port = self.name,
            driver = can.driver,
            socket = can.socket,
            rx_queues = granted.rx_queues,
            rx_queues_asked = asked.rx_queues,
            tx_queues = granted.tx_queues,
            tx_queues_asked = asked.tx_queues,
            rx_descriptors = granted.rx_descriptors,
            rx_descriptors_asked = asked.rx_descriptors,
            tx_descriptors = granted.tx_descriptors,
            tx_descriptors_asked = asked.tx_descriptors,
            mtu = granted.mtu,
            mtu_asked = asked.mtu,
            rss_types = format_args!("{:#x}", granted.rss_types),
            rss_key = granted.rss_key,
            rx_offloads = format_args!("{:#x}", granted.rx_offloads),
            tx_offloads = format_args!("{:#x}", granted.tx_offloads),
            promiscuous = granted.promiscuous,
            "port configured"
        );
        if u32::from(granted.mtu) + FRAME_OVERHEAD > self.data_room() && granted.rx_offloads == 0 {
            tracing::warn!(
                port = self.name,
                mtu = granted.mtu,
                data_room = self.data_room(),
                "a packet of the full MTU does not fit one buffer, and the device cannot scatter"
            );
        }
    }
}

/// The port's MAC address; zeros if it has none.
pub(super) fn mac(port: PortId) -> Mac {
    let mut address = dpdk_sys::rte_ether_addr::default();
    // SAFETY: DPDK checks the port and writes the address.
    unsafe { dpdk_sys::rte_eth_macaddr_get(port.0, &raw mut address) };
    address.addr_bytes
}
