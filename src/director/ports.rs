//! Packet buffers and ports: from the configuration to queues.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::DirectorError;
use super::steering::{Design, Steered};
use crate::control::SteeringMode;
use crate::control::config::{Config, Device, PortConfig};
use crate::dpdk::eal::Eal;
use crate::dpdk::error::DpdkError;
use crate::dpdk::mempool::Mempool;
use crate::dpdk::port::Port;
use crate::dpdk::port::PortSettings;
use crate::ids::InterfaceId;
use crate::wire::ethernet::Mac;
use crate::wire::flow_key::HashSecret;

/// Buffers that a worker keeps for itself.
const POOL_CACHE: u32 = 256;
/// How long a device whose peer is missing (memif) is waited for.
const PEER_WAIT: Duration = Duration::from_secs(60);
const PEER_RETRY: Duration = Duration::from_millis(250);

/// The pool of packet buffers.
pub(super) fn packet_pool(eal: &Arc<Eal>, config: &Config) -> Result<Mempool, DirectorError> {
    let need = config.memory_need();
    let mbufs = u32::try_from(need.mbufs).unwrap_or(u32::MAX);
    let octets = config.dpdk.mbuf_octets;
    Mempool::create(eal, "packets", mbufs, octets, POOL_CACHE, None).map_err(|cause| {
        let mib = need.packet_octets.div_ceil(1 << 20);
        DirectorError::Pool { mbufs, octets, mib, cause }
    })
}

/// Opens, configures and starts every port, in the order of [`Config::ports`], each in the best mode
/// of steering that it takes. Asks `interrupted` while it waits for the other side of a device.
pub(super) fn start(
    eal: &Arc<Eal>,
    config: &Config,
    pool: &Mempool,
    secret: HashSecret,
    interrupted: &mut impl FnMut() -> bool,
) -> Result<(Vec<Port>, Steered), DirectorError> {
    let wanted = config.ports();
    let mut ports = wanted
        .iter()
        .map(|wanted| open(eal, wanted).map_err(|cause| cannot(wanted, cause)))
        .collect::<Result<Vec<_>, _>>()?;
    let design = Design::of(config, &ports, secret)?;
    let mut modes = Vec::with_capacity(ports.len());
    for (place, (wanted, port)) in wanted.iter().zip(&mut ports).enumerate() {
        let start = Start { config, pool, design: &design, wanted, place };
        let mode = start.in_best_mode(port, interrupted).map_err(|cause| cannot(wanted, cause))?;
        modes.push(mode);
    }
    let steered = design.conclude(config, &mut ports, modes);
    Ok((ports, steered))
}

fn cannot(wanted: &PortConfig<'_>, cause: DpdkError) -> DirectorError {
    if matches!(cause, DpdkError::NoSuchPort { .. }) {
        return DirectorError::no_port(&wanted.name(), wanted.device);
    }
    DirectorError::Interface { interface: wanted.name(), cause }
}

fn open(eal: &Arc<Eal>, wanted: &PortConfig<'_>) -> Result<Port, DpdkError> {
    let name = match wanted.device {
        Device::Pci(address) => address,
        Device::Vdev { name, .. } => name,
    };
    if wanted.device.driver() == Some("net_af_packet") {
        tracing::warn!(
            interface = wanted.name(),
            "the kernel puts fragments together before net_af_packet sees them; use net_af_xdp \
             or a NIC where fragments matter"
        );
    }
    Port::open(eal, name)
}

/// What one port is started with.
struct Start<'a> {
    config: &'a Config,
    pool: &'a Mempool,
    design: &'a Design,
    wanted: &'a PortConfig<'a>,
    /// Which of the ports it is.
    place: usize,
}

impl Start<'_> {
    /// Tries the modes one after the other. An error that remains has little to do with steering.
    fn in_best_mode(
        &self,
        port: &mut Port,
        interrupted: &mut impl FnMut() -> bool,
    ) -> Result<SteeringMode, DpdkError> {
        let mut refusal = None;
        let mut before = None;
        for mode in self.design.modes(self.place) {
            if let Some(reason) = refusal.take() {
                self.tell(&reason);
            }
            match self.in_mode(*mode, &mut before, port, interrupted) {
                // A missing other side was waited for, and is missing in every mode.
                Err(reason) if !reason.is_temporary() && !interrupted() => refusal = Some(reason),
                outcome => return outcome,
            }
        }
        Err(refusal.unwrap_or_else(|| port.refuses("any way of steering")))
    }

    fn tell(&self, reason: &DpdkError) {
        tracing::info!(
            interface = self.wanted.name(),
            %reason,
            "the device refuses a way of steering; the next one is tried"
        );
    }

    /// Sets the port up for a mode, unless it runs with these settings, and has it steer.
    fn in_mode(
        &self,
        mode: SteeringMode,
        before: &mut Option<PortSettings>,
        port: &mut Port,
        interrupted: &mut impl FnMut() -> bool,
    ) -> Result<SteeringMode, DpdkError> {
        let settings = self.settings(mode);
        // Flow rules and the spreading of whole flows ask the port for the same.
        if before.as_ref() != Some(&settings) {
            *before = None;
            port.stop()?;
            port.configure(&settings, std::slice::from_ref(self.pool))?;
            start_when_ready(port, &self.wanted.name(), interrupted)?;
            *before = Some(settings);
        }
        self.design.apply(self.wanted, self.place, mode, port)
    }

    fn settings(&self, mode: SteeringMode) -> PortSettings {
        let (config, wanted) = (self.config, self.wanted);
        let workers = u16::try_from(config.director.workers.len()).unwrap_or(u16::MAX);
        let queues = wanted.queues().unwrap_or(workers).min(workers);
        PortSettings {
            rx_queues: queues,
            tx_queues: queues,
            rx_descriptors: config.dpdk.rx_descriptors,
            tx_descriptors: config.dpdk.tx_descriptors,
            mtu: wanted.mtu(),
            promiscuous: wanted.promiscuous(),
            mac: wanted.mac().map(|mac| mac.0),
            more_macs: virtual_macs(config, wanted),
            rss: self.design.rss(self.place, mode),
        }
    }
}

/// The Ethernet addresses of the pair's virtual router on a port's links.
fn virtual_macs(config: &Config, wanted: &PortConfig<'_>) -> Vec<Mac> {
    let mut ids = wanted.interfaces.iter().filter_map(|(number, _)| u8::try_from(*number).ok());
    let of = |id| config.failover.as_ref().and_then(|group| group.virtual_macs(InterfaceId(id)));
    // The same on all links.
    ids.find_map(of).map(Vec::from).unwrap_or_default()
}

/// Starts a port; waits a while for one whose other side is not there yet.
fn start_when_ready(
    port: &mut Port,
    interface: &str,
    interrupted: &mut impl FnMut() -> bool,
) -> Result<(), DpdkError> {
    let begun = Instant::now();
    let mut told = false;
    loop {
        match port.start() {
            Err(error) if error.is_temporary() && begun.elapsed() < PEER_WAIT && !interrupted() => {
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
