//! Packet buffers and ports: from the configuration to queues.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::DirectorError;
use crate::control::config::{Config, Device, InterfaceConfig};
use crate::dpdk::eal::Eal;
use crate::dpdk::error::DpdkError;
use crate::dpdk::mempool::Mempool;
use crate::dpdk::port::Port;
use crate::dpdk::port::PortSettings;

/// Buffers that a worker keeps for itself.
const POOL_CACHE: u32 = 256;
/// Buffers that a worker can have in its hands beside those: bursts, buffers before queues,
/// packets that wait for a neighbour.
const WORKER_MBUFS: u32 = 2048;
/// Packets that a ring between two workers takes.
pub(super) const RING: usize = RING_EACH as usize;
const RING_EACH: u32 = 1024;
/// Most buffers that are made for rings: they are never all full.
const RING_MBUFS: u32 = 65_536;
/// Octets of an mbuf beside its data room: its header, headroom, pool header.
const MBUF_OVERHEAD: u64 = 128 + 128 + 64;
/// How long a device whose peer is missing (memif) is waited for.
const PEER_WAIT: Duration = Duration::from_secs(60);
const PEER_RETRY: Duration = Duration::from_millis(250);

/// The pool of packet buffers.
pub(super) fn packet_pool(eal: &Arc<Eal>, config: &Config) -> Result<Mempool, DirectorError> {
    let mbufs = config.dpdk.mbufs.unwrap_or_else(|| mbufs_needed(config));
    let octets = config.dpdk.mbuf_octets;
    Mempool::create(eal, "packets", mbufs, octets, POOL_CACHE, None).map_err(|cause| {
        let mib = (u64::from(mbufs) * (u64::from(octets) + MBUF_OVERHEAD)).div_ceil(1 << 20);
        DirectorError::Pool { mbufs, octets, mib, cause }
    })
}

/// As many buffers as queues, rings and workers can hold at once, as 2^n - 1, which a mempool
/// stores best.
fn mbufs_needed(config: &Config) -> u32 {
    let workers = u32::try_from(config.director.workers.len()).unwrap_or(u32::MAX);
    let descriptors = u32::from(config.dpdk.rx_descriptors) + u32::from(config.dpdk.tx_descriptors);
    let queues = u32::try_from(config.interfaces.len()).unwrap_or(u32::MAX).saturating_mul(workers);
    let rings = workers.saturating_mul(workers - 1).saturating_mul(RING_EACH).min(RING_MBUFS);
    let needed = queues
        .saturating_mul(descriptors)
        .saturating_add(rings)
        .saturating_add(workers.saturating_mul(WORKER_MBUFS));
    needed.next_power_of_two().max(8192) - 1
}

/// Opens, configures and starts every interface's port, in their order.
pub(super) fn start(
    eal: &Arc<Eal>,
    config: &Config,
    pool: &Mempool,
) -> Result<Vec<Port>, DirectorError> {
    config
        .interfaces
        .iter()
        .map(|interface| {
            start_one(eal, config, interface, pool).map_err(|cause| match cause {
                DpdkError::NoSuchPort { .. } => {
                    DirectorError::no_port(&interface.name, &interface.device)
                }
                cause => DirectorError::Interface { interface: interface.name.clone(), cause },
            })
        })
        .collect()
}

fn start_one(
    eal: &Arc<Eal>,
    config: &Config,
    interface: &InterfaceConfig,
    pool: &Mempool,
) -> Result<Port, DpdkError> {
    let name = match &interface.device {
        Device::Pci(address) => address,
        Device::Vdev { name, .. } => name,
    };
    let mut port = Port::open(eal, name)?;
    let workers = u16::try_from(config.director.workers.len()).unwrap_or(u16::MAX);
    let queues = interface.queues.unwrap_or(workers).min(workers);
    let settings = PortSettings {
        rx_queues: queues,
        tx_queues: queues,
        rx_descriptors: config.dpdk.rx_descriptors,
        tx_descriptors: config.dpdk.tx_descriptors,
        mtu: interface.mtu,
        promiscuous: interface.promiscuous,
        mac: interface.mac.map(|mac| mac.0),
    };
    port.configure(&settings, std::slice::from_ref(pool))?;
    start_when_ready(&mut port, &interface.name)?;
    Ok(port)
}

/// Starts a port; waits a while for one whose other side is not there yet.
fn start_when_ready(port: &mut Port, interface: &str) -> Result<(), DpdkError> {
    let begun = Instant::now();
    let mut told = false;
    loop {
        match port.start() {
            Err(error) if error.is_temporary() && begun.elapsed() < PEER_WAIT => {
                if !told {
                    tracing::warn!(interface, %error, "waiting for the other side of the device");
                    told = true;
                }
                std::thread::sleep(PEER_RETRY);
            }
            outcome => return outcome,
        }
    }
}

/// Stops the ports.
pub(super) fn stop(ports: Vec<Port>) -> Result<(), DirectorError> {
    for mut port in ports {
        port.stop()?;
    }
    Ok(())
}
