//! What the director hands to the control thread: everything it looks after.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::config::{Config, ConfigSource, MacAddress};
use super::{FailoverPlant, HandoverPlant, Listeners};
use crate::dataplane::mailbox::ControlMailbox;
use crate::dataplane::stats::WorkerStats;
use crate::ids::{CpuId, InterfaceId, WorkerId};
use crate::service::{ServerLoads, ServiceTable, SlotRegistry};
use crate::wire::ethernet::Mac;

/// Everything that the control thread looks after.
#[derive(Debug)]
pub struct Plant {
    /// The configuration in force.
    pub config: Config,
    /// The file that it comes from.
    pub source: ConfigSource,
    /// What the failover thread needs; `None`: the director is alone.
    pub failover: Option<FailoverPlant>,
    /// What handing connections over takes.
    pub handover: HandoverPlant,
    /// The workers, worker 0 first.
    pub workers: Vec<WorkerHandle>,
    /// Connections per real server, which the workers count.
    pub loads: Arc<ServerLoads>,
    /// The slots that `table` was compiled with.
    pub slots: SlotRegistry,
    /// The table that the workers have now.
    pub table: Arc<ServiceTable>,
    /// The Ethernet addresses of the interfaces.
    pub macs: Vec<Mac>,
    /// Ports and packet buffers.
    pub devices: Box<dyn DeviceSource + Send>,
    /// Bound before anything else was started.
    pub listeners: Listeners,
    /// Becomes true when the director must stop; the workers watch it.
    pub stop: Arc<AtomicBool>,
    /// Cycles of the time stamp counter in a second.
    pub tsc_hz: u64,
    /// What was built.
    pub build: BuildInfo,
}

/// The control thread's view of a worker.
#[derive(Debug)]
pub struct WorkerHandle {
    /// The worker.
    pub id: WorkerId,
    /// The CPU it runs on.
    pub cpu: CpuId,
    /// The way to it and back.
    pub mailbox: ControlMailbox,
    /// What it counts.
    pub stats: Arc<WorkerStats>,
}

/// What was built, for status and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildInfo {
    /// The version of pointsman.
    pub version: String,
    /// The commit it was built from.
    pub commit: String,
    /// The version of DPDK.
    pub dpdk: String,
}

/// Tells about ports and packet buffers; the director asks DPDK.
///
/// Called on the control thread, about once a second and for every scrape: it must not block (no
/// waiting for a link to settle).
pub trait DeviceSource: std::fmt::Debug {
    /// Every port, in the order of [`Config::ports`](super::config::Config::ports).
    fn ports(&self) -> Vec<PortReport>;
    /// Every pool of packet buffers.
    fn pools(&self) -> Vec<PoolReport>;
}

/// A port as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortReport {
    /// The configured names of its interfaces: VLANs of one NIC share its port.
    pub interfaces: Vec<String>,
    /// The DPDK driver.
    pub driver: String,
    /// Its Ethernet address.
    pub mac: MacAddress,
    /// Whether the link is up.
    pub link_up: bool,
    /// Mbit/s; `None`: unknown or no link.
    pub speed_mbps: Option<u32>,
    /// Receive queues in use.
    pub rx_queues: u16,
    /// Transmit queues in use.
    pub tx_queues: u16,
    /// How its packets reach their workers.
    pub steering: SteeringMode,
    /// Whether its NIC hashes as that takes for granted.
    pub hash_check: HashCheck,
    /// What the port counts.
    pub counters: PortCounters,
}

impl PortReport {
    /// The port's name, in the label `interface` of metrics and elsewhere: that of its interface,
    /// or those of all that share it, joined by `+` (which no name contains).
    pub fn name(&self) -> String {
        self.interfaces.join("+")
    }
}

/// How the packets of a port reach the workers that own their flows; the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SteeringMode {
    /// There is one worker: nothing to steer.
    OneWorker,
    /// Flow rules have the NIC hash the outside party alone.
    FlowRules,
    /// Receive side scaling of the port hashes the outside party alone.
    HashedEnd,
    /// Receive side scaling spreads whole flows; workers hand over what is another's.
    WholeFlow,
    /// The NIC does not spread by flow; workers hand over what is another's.
    Software,
}

impl SteeringMode {
    /// The word in status, metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::OneWorker => "one-worker",
            Self::FlowRules => "flow-rules",
            Self::HashedEnd => "rss-one-end",
            Self::WholeFlow => "rss",
            Self::Software => "software",
        }
    }

    /// Whether the NIC brings packets to the owners of their flows.
    pub const fn is_hardware(self) -> bool {
        matches!(self, Self::FlowRules | Self::HashedEnd)
    }
}

/// What the first packets' hashes say about a NIC that steers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HashCheck {
    /// The NIC does not steer, or hands out no hashes.
    #[default]
    None,
    /// No packet has been seen yet.
    Waiting,
    /// It hashes as it was told.
    Confirmed,
    /// It hashes otherwise, so that packets are handed over.
    Mismatch,
}

impl HashCheck {
    /// The word in status, metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Waiting => "waiting",
            Self::Confirmed => "confirmed",
            Self::Mismatch => "mismatch",
        }
    }
}

/// What a port counts (`rte_eth_stats`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortCounters {
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Octets received.
    pub rx_octets: u64,
    /// Octets sent.
    pub tx_octets: u64,
    /// Packets lost because a receive queue was full.
    pub imissed: u64,
    /// Broken packets received.
    pub rx_errors: u64,
    /// Packets that could not be sent.
    pub tx_errors: u64,
    /// Failures to find a buffer for a received packet.
    pub rx_nombuf: u64,
}

/// A pool of packet buffers as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolReport {
    /// Its name.
    pub name: String,
    /// Buffers in all.
    pub capacity: u64,
    /// Buffers that are not free.
    pub in_use: u64,
}

/// A neighbour: an address on the link of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Neighbor {
    /// The interface.
    pub interface: InterfaceId,
    /// The address.
    pub address: IpAddr,
}
