//! What a port says of itself while it runs.

use std::sync::{Arc, Weak};

use super::port::Device;
use crate::ids::PortId;

/// Counters of a port since it was started, as its driver keeps them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortStats {
    /// Packets received.
    pub ipackets: u64,
    /// Packets transmitted.
    pub opackets: u64,
    /// Octets received.
    pub ibytes: u64,
    /// Octets transmitted.
    pub obytes: u64,
    /// Packets that the NIC dropped because its queue was full.
    pub imissed: u64,
    /// Packets received with errors.
    pub ierrors: u64,
    /// Packets whose transmission failed.
    pub oerrors: u64,
    /// Packets lost because the mempool was empty.
    pub rx_nombuf: u64,
}

/// The state of a port's link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkState {
    /// Whether packets can pass.
    pub up: bool,
    /// Megabits per second, where known.
    pub speed_mbps: Option<u32>,
    /// Both directions at once.
    pub full_duplex: bool,
}

/// Reads a port's counters from any thread; cheap to clone.
#[derive(Clone, Debug)]
pub struct PortStatsReader {
    id: PortId,
    device: Weak<Device>,
}

impl PortStatsReader {
    pub(super) fn new(device: &Arc<Device>) -> Self {
        Self { id: device.id(), device: Arc::downgrade(device) }
    }

    /// The port's number.
    pub fn id(&self) -> PortId {
        self.id
    }

    /// The counters; `None` once the port is closed.
    pub fn read(&self) -> Option<PortStats> {
        self.device.upgrade().map(|device| device.stats())
    }

    /// The link; `None` once the port is closed.
    pub fn link(&self) -> Option<LinkState> {
        self.device.upgrade().map(|device| device.link())
    }
}
