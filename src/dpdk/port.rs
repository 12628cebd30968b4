//! A port: one NIC, physical or virtual, as DPDK drives it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::burst::{self, BURST, Burst};
use super::capabilities::Capabilities;
use super::configure;
use super::eal::Eal;
use super::error::{Attempt, DpdkError};
use super::flow_rule::ActiveRule;
use super::hash_sample::{HashSamples, Sampler, hash_samples};
use super::interrupts;
use super::mempool::Mempool;
use super::queue::{RxQueue, TxQueue};
use crate::ids::{PortId, QueueId};

pub use super::configure::{Granted, PortSettings};
pub use super::port_stats::{LinkState, PortStats, PortStatsReader};

/// Bursts that are taken out of a software ring when its port closes, at most.
const DRAINED_BURSTS: usize = 4096;

/// A MAC address.
pub type Mac = [u8; 6];

/// The device behind a port and its queues; stopped and closed with the last of them.
#[derive(Debug)]
pub(super) struct Device {
    id: PortId,
    name: String,
    driver: String,
    /// Queues that are with workers.
    lent: AtomicUsize,
    /// Held during each call that DPDK wants from one thread at a time.
    control: Mutex<Control>,
    eal: Arc<Eal>,
}

#[derive(Debug, Default)]
pub(super) struct Control {
    running: bool,
    rx_queues: u16,
    /// What the device follows while it runs.
    pub(super) rules: Vec<ActiveRule>,
    /// What the receive queues are filled from; they must outlive the queues.
    pools: Vec<Mempool>,
}

impl Control {
    /// Takes the rules back that were made after the first `kept`.
    pub(super) fn destroy_rules(&mut self, kept: usize, port: PortId) {
        for rule in self.rules.drain(kept..) {
            rule.destroy(port);
        }
    }
}

impl Device {
    pub(super) fn id(&self) -> PortId {
        self.id
    }

    pub(super) fn lend_queue(&self) {
        self.lent.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn return_queue(&self) {
        self.lent.fetch_sub(1, Ordering::Release);
    }

    /// Whether any queue is with a worker. Queues are only lent through `&mut Port`.
    fn is_lent(&self) -> bool {
        self.lent.load(Ordering::Acquire) > 0
    }

    pub(super) fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn stats(&self) -> PortStats {
        let _one_at_a_time = self.control();
        let mut raw = dpdk_sys::rte_eth_stats::default();
        // SAFETY: DPDK checks the port and fills the structure.
        let code = unsafe { dpdk_sys::rte_eth_stats_get(self.id.0, &raw mut raw) };
        if code != 0 {
            return PortStats::default();
        }
        PortStats {
            ipackets: raw.ipackets,
            opackets: raw.opackets,
            ibytes: raw.ibytes,
            obytes: raw.obytes,
            imissed: raw.imissed,
            ierrors: raw.ierrors,
            oerrors: raw.oerrors,
            rx_nombuf: raw.rx_nombuf,
        }
    }

    pub(super) fn link(&self) -> LinkState {
        let _one_at_a_time = self.control();
        let mut raw = dpdk_sys::shim_link::default();
        // SAFETY: DPDK checks the port; the shim fills the structure or leaves it.
        let code = unsafe { dpdk_sys::shim_link(self.id.0, &raw mut raw) };
        if code != 0 {
            return LinkState::default();
        }
        LinkState {
            up: raw.up != 0,
            speed_mbps: (raw.speed_mbps != u32::MAX && raw.speed_mbps != 0)
                .then_some(raw.speed_mbps),
            full_duplex: raw.full_duplex != 0,
        }
    }

    /// Drops what waits in the receive queues, at most so many bursts of each. Nobody has them.
    fn drain(&self, rx_queues: u16, bursts: usize) {
        let mut burst = Burst::new();
        for queue in 0..rx_queues {
            let mut polls = 0..bursts;
            // SAFETY: the port runs, all its queues are gone, so this is their only user.
            while polls.next().is_some() && unsafe { receive(self.id, queue, &mut burst) } > 0 {
                burst::free_all(&mut burst);
            }
        }
    }

    fn stop(&self, control: &mut Control) -> Result<(), DpdkError> {
        control.destroy_rules(0, self.id);
        if !control.running {
            return Ok(());
        }
        if self.driver == "net_ring" {
            // Its driver would forget what waits in the ring.
            self.drain(control.rx_queues, DRAINED_BURSTS);
        }
        let attempt = Attempt::new("rte_eth_dev_stop");
        // SAFETY: no queue of the port is in use, so no burst runs.
        let code = unsafe { dpdk_sys::rte_eth_dev_stop(self.id.0) };
        attempt.check(&self.name, code)?;
        control.running = false;
        Ok(())
    }
}

impl Device {
    /// The kernel's network interface under `net_af_packet` or `net_af_xdp` would stay in it for
    /// ever.
    fn leave_promiscuous_mode(&self) {
        // SAFETY: reads a flag that DPDK keeps; the device is still open.
        if unsafe { dpdk_sys::rte_eth_promiscuous_get(self.id.0) } == 1 {
            // SAFETY: DPDK checks the port.
            let code = unsafe { dpdk_sys::rte_eth_promiscuous_disable(self.id.0) };
            // A driver without the call has nothing to leave.
            if code < 0 && code != -libc::ENOTSUP {
                tracing::warn!(port = self.name, code, "the port stays in promiscuous mode");
            }
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let mut control = std::mem::take(&mut *self.control());
        if let Err(error) = self.stop(&mut control) {
            tracing::warn!(port = self.name, %error, "the port does not stop");
        }
        self.leave_promiscuous_mode();
        // SAFETY: the port and all its queues are gone, so nothing uses the device.
        let code = unsafe { dpdk_sys::rte_eth_dev_close(self.id.0) };
        if code < 0 {
            tracing::warn!(port = self.name, code, "the port does not close");
        }
        if !interrupts::settle() {
            tracing::warn!(port = self.name, "DPDK's interrupt thread is stuck");
        }
        self.eal.release_port(self.id);
        // The pools go with `control`, after the queues that were filled from them.
    }
}

/// Adds what has arrived to `burst`, as far as there is room. How many packets came.
///
/// # Safety
/// The port runs and has this queue, and no one else polls it now.
#[inline]
pub(super) unsafe fn receive(port: PortId, queue: u16, burst: &mut Burst) -> usize {
    let (next, room) = burst::spare(burst);
    let room = u16::try_from(room).unwrap_or(0);
    // SAFETY: the caller vouches for the queue, and there is room for `room` pointers.
    let came = unsafe { dpdk_sys::shim_rx_burst(port.0, queue, next, room) };
    let came = usize::from(came);
    // SAFETY: DPDK wrote `came` packets there and handed them to us alone.
    unsafe { burst::grow(burst, came) };
    came
}

/// A port, from opening to closing. Open, configure, start, take its queues.
#[derive(Debug)]
pub struct Port {
    device: Arc<Device>,
    capabilities: Capabilities,
    granted: Option<Granted>,
    /// Where the queues put the first hashes of the NIC, if anybody wants them.
    samples: Option<HashSamples>,
}

impl Port {
    /// Opens the port of a PCI address or a vdev's name; each port has one owner.
    pub fn open(eal: &Arc<Eal>, name: &str) -> Result<Self, DpdkError> {
        let id = eal.port_by_name(name).ok_or_else(|| DpdkError::NoSuchPort {
            name: name.to_owned(),
            known: eal.ports().into_iter().map(|(_, name)| name).collect(),
        })?;
        let name = eal.port_name(id).unwrap_or_else(|| name.to_owned());
        let capabilities = Capabilities::probe(id, &name)?;
        if !eal.claim_port(id) {
            return Err(DpdkError::PortInUse(name));
        }
        let device = Arc::new(Device {
            id,
            name,
            driver: capabilities.driver.clone(),
            lent: AtomicUsize::new(0),
            control: Mutex::default(),
            eal: Arc::clone(eal),
        });
        Ok(Self { device, capabilities, granted: None, samples: None })
    }

    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    /// The port's number.
    pub fn id(&self) -> PortId {
        self.device.id
    }

    /// The port's name as DPDK has it.
    pub fn name(&self) -> &str {
        &self.device.name
    }

    /// What the device can do.
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// What the last [`configure`](Self::configure) got.
    pub fn granted(&self) -> Option<&Granted> {
        self.granted.as_ref()
    }

    /// Sets the port up: queue `i` receives into pool `i` modulo their number. What was asked and
    /// what was granted is logged once.
    ///
    /// Less than asked is granted where the device has less: fewer queues, other numbers of
    /// descriptors, a smaller MTU, promiscuous mode in place of a MAC address.
    pub fn configure(
        &mut self,
        settings: &PortSettings,
        pools: &[Mempool],
    ) -> Result<Granted, DpdkError> {
        let mut control = self.idle()?;
        if control.running {
            return Err(DpdkError::Running(self.device.name.clone()));
        }
        let id = self.device.id;
        let granted =
            configure::configure(id, &self.device.name, &self.capabilities, settings, pools)?;
        control.rx_queues = granted.rx_queues;
        control.pools = pools.to_vec();
        drop(control);
        self.granted = Some(granted.clone());
        Ok(granted)
    }

    /// Starts the port. [`DpdkError::NotReady`] says that the peer is not there yet.
    pub fn start(&mut self) -> Result<(), DpdkError> {
        let mut control = self.device.control();
        let name = &self.device.name;
        if self.granted.is_none() {
            return Err(DpdkError::NotConfigured(name.clone()));
        }
        if control.running {
            return Ok(());
        }
        let attempt = Attempt::new("rte_eth_dev_start");
        // SAFETY: DPDK checks the port and that it is configured.
        let code = unsafe { dpdk_sys::rte_eth_dev_start(self.device.id.0) };
        if code < 0 && self.device.driver == "net_memif" {
            return Err(DpdkError::NotReady { port: name.clone(), said: attempt.said() });
        }
        attempt.check(name, code)?;
        control.running = true;
        Ok(())
    }

    /// The queues that are taken next put the first hashes of the NIC here. What the running port
    /// has received so far, under other rules perhaps, is dropped.
    pub fn sample_hashes(&mut self) -> HashSamples {
        let control = self.device.control();
        if let Some(granted) = self.granted.as_ref().filter(|_| control.running)
            && !self.device.is_lent()
        {
            let bursts = usize::from(granted.rx_descriptors).div_ceil(BURST);
            self.device.drain(granted.rx_queues, bursts);
        }
        drop(control);
        Arc::clone(self.samples.get_or_insert_with(hash_samples))
    }

    /// All queues of the running port; each of them exists once, so a second call gives none until
    /// the port was stopped and started. None at all if the port does not run.
    pub fn take_queues(&mut self) -> (Vec<RxQueue>, Vec<TxQueue>) {
        let running = self.device.control().running;
        let Some(granted) = self.granted.as_ref().filter(|_| running && !self.device.is_lent())
        else {
            return (Vec::new(), Vec::new());
        };
        let sampler = || self.samples.clone().map(Sampler::new);
        let rx = (0..granted.rx_queues)
            .map(|queue| RxQueue::new(&self.device, QueueId(queue), sampler()));
        let tx = (0..granted.tx_queues).map(|queue| TxQueue::new(&self.device, QueueId(queue)));
        (rx.collect(), tx.collect())
    }

    /// The port's MAC address.
    pub fn mac(&self) -> Mac {
        let _one_at_a_time = self.device.control();
        configure::mac(self.device.id)
    }

    /// Takes in frames to one more MAC address, such as that of a virtual router.
    pub fn add_mac(&mut self, mac: Mac) -> Result<(), DpdkError> {
        let _one_at_a_time = self.device.control();
        let attempt = Attempt::new("rte_eth_dev_mac_addr_add");
        let mut address = dpdk_sys::rte_ether_addr { addr_bytes: mac };
        // SAFETY: DPDK checks the port and copies the address.
        let code =
            unsafe { dpdk_sys::rte_eth_dev_mac_addr_add(self.device.id.0, &raw mut address, 0) };
        attempt.check(&self.device.name, code)
    }

    /// Stops taking in frames to an address that was added.
    pub fn remove_mac(&mut self, mac: Mac) -> Result<(), DpdkError> {
        let _one_at_a_time = self.device.control();
        let attempt = Attempt::new("rte_eth_dev_mac_addr_remove");
        let mut address = dpdk_sys::rte_ether_addr { addr_bytes: mac };
        // SAFETY: DPDK checks the port and reads the address.
        let code =
            unsafe { dpdk_sys::rte_eth_dev_mac_addr_remove(self.device.id.0, &raw mut address) };
        attempt.check(&self.device.name, code)
    }

    /// Buffers that the driver may keep for ever when the port closes: `net_af_xdp` forgets what
    /// its fill and completion rings (of this length, whatever was asked) hold.
    pub fn buffers_forgotten(&self) -> u32 {
        const AF_XDP_RING: u32 = 2048;
        let queues = self.granted.as_ref().map_or(0, |granted| u32::from(granted.rx_queues));
        if self.device.driver == "net_af_xdp" { queues * 2 * AF_XDP_RING } else { 0 }
    }

    /// The port's counters.
    pub fn stats(&self) -> PortStats {
        self.device.stats()
    }

    /// A handle that reads the counters from any thread and does not keep the port open.
    pub fn stats_reader(&self) -> PortStatsReader {
        PortStatsReader::new(&self.device)
    }

    /// Whether the cable is plugged in, and how fast it is.
    pub fn link(&self) -> LinkState {
        self.device.link()
    }

    /// Stops the port. All its queues must have been dropped; [`start`](Self::start) starts it again.
    pub fn stop(&mut self) -> Result<(), DpdkError> {
        let mut control = self.idle()?;
        self.device.stop(&mut control)
    }

    /// The control lock of a port whose queues are all back.
    fn idle(&self) -> Result<MutexGuard<'_, Control>, DpdkError> {
        if self.device.is_lent() {
            return Err(DpdkError::QueuesInUse(self.device.name.clone()));
        }
        Ok(self.device.control())
    }
}
