//! Why a director does not start, or not end well.

use crate::control::config::Device;
use crate::control::handover::SuccessorError;
use crate::control::{ControlError, StartError};
use crate::dpdk::eal_error::EalError;
use crate::dpdk::error::DpdkError;
use crate::dpdk::memory::MemoryError;
use crate::service::CompileError;

/// Why a director does not start, or not end well.
#[derive(Debug, thiserror::Error)]
pub enum DirectorError {
    /// A listener or the control thread.
    #[error(transparent)]
    Control(#[from] StartError),
    /// The control thread, while it ran.
    #[error(transparent)]
    ControlEnded(#[from] ControlError),
    /// The services.
    #[error(transparent)]
    Services(#[from] CompileError),
    /// EAL.
    #[error(transparent)]
    Eal(#[from] EalError),
    /// A port, pool, ring or lcore.
    #[error(transparent)]
    Dpdk(#[from] DpdkError),
    /// An interface's device.
    #[error("interface {interface}: {cause}")]
    Interface {
        /// Its name.
        interface: String,
        /// What is wrong.
        cause: DpdkError,
    },
    /// DPDK made no port of an interface's device.
    #[error("interface {interface}: DPDK has no port for the device {device}\nhelp: {help}")]
    NoPort {
        /// Its name.
        interface: String,
        /// As configured.
        device: Device,
        /// Where to look.
        help: &'static str,
    },
    /// The packet buffers.
    #[error(
        "cannot make {mbufs} packet buffers of {octets} octets ({mib} MiB): {cause}\n\
         help: raise `memory` in [dpdk], or state fewer `mbufs`"
    )]
    Pool {
        /// How many.
        mbufs: u32,
        /// Their data room.
        octets: u16,
        /// What they take in all, about.
        mib: u64,
        /// What is wrong.
        cause: DpdkError,
    },
    /// A worker's tables.
    #[error("worker {worker}: {cause}; `connections` in [director] decides how much is needed")]
    Tables {
        /// The worker.
        worker: u16,
        /// What is wrong.
        cause: MemoryError,
    },
    /// A worker ended before it had begun.
    #[error("worker {0} did not start")]
    WorkerSilent(u16),
    /// No random numbers.
    #[error("the operating system gives no random numbers: {0}")]
    Random(getrandom::Error),
    /// The director whose place this one was to take does not let it.
    #[error(transparent)]
    Successor(#[from] SuccessorError),
    /// The conservation law does not hold.
    #[error("{0} packets are not accounted for: please report this")]
    Imbalance(i128),
    /// Buffers did not come back.
    #[error("{0} packet buffers did not come back to their pool: please report this")]
    BuffersInUse(u32),
}

impl DirectorError {
    /// That a device is missing: with the remedy for its kind.
    pub(super) fn no_port(interface: &str, device: &Device) -> Self {
        let help = match device {
            Device::Pci(_) => {
                "`dpdk-devbind.py --status` shows whether it exists and which driver it has; \
                 DPDK needs vfio-pci (dpdk-config/bind-nics.sh, docs/operations.md)"
            }
            Device::Vdev { .. } => {
                "check what follows its name: DPDK makes no device with an argument that it does \
                 not know or cannot use, and may have said why in the log above"
            }
        };
        Self::NoPort { interface: interface.to_owned(), device: device.clone(), help }
    }

    /// Whether it may come from the machine not having what the configuration asks of it.
    pub fn concerns_the_machine(&self) -> bool {
        match self {
            Self::Eal(_)
            | Self::Dpdk(_)
            | Self::Interface { .. }
            | Self::NoPort { .. }
            | Self::Pool { .. }
            | Self::Tables { .. }
            | Self::WorkerSilent(_) => true,
            Self::Control(_)
            | Self::ControlEnded(_)
            | Self::Services(_)
            | Self::Random(_)
            | Self::Successor(_)
            | Self::Imbalance(_)
            | Self::BuffersInUse(_) => false,
        }
    }
}
