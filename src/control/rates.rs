//! Rates, measured by the control loop over windows of about a second.

use std::time::Duration;

use hashbrown::HashMap;

use super::PortCounters;
use super::api::message::{PacketRates, Traffic, TrafficRates};
use super::observed::Observed;
use crate::dataplane::stats::{Stage, WorkerStats};
use crate::ids::ServerSlot;

/// The counters at one moment.
#[derive(Debug)]
pub(super) struct Sample {
    at: Duration,
    workers: Vec<WorkerSample>,
    servers: HashMap<ServerSlot, Traffic>,
    ports: HashMap<String, PortCounters>,
}

#[derive(Clone, Copy, Debug)]
struct WorkerSample {
    received: u64,
    received_octets: u64,
    transmitted: u64,
    transmitted_octets: u64,
    processed: u64,
    busy_cycles: u64,
    cycles: u64,
    bursts: u64,
    watched: u64,
    stages: [u64; Stage::ALL.len()],
}

impl WorkerSample {
    fn take(stats: &WorkerStats) -> Self {
        Self {
            received: stats.received.get(),
            received_octets: stats.received_octets.get(),
            transmitted: stats.transmitted.get(),
            transmitted_octets: stats.transmitted_octets.get(),
            processed: stats.received.get() + stats.handed_in.get(),
            busy_cycles: stats.busy_cycles.get(),
            cycles: stats.cycles.get(),
            bursts: stats.bursts.get(),
            watched: stats.stages.packets.get(),
            stages: std::array::from_fn(|place| {
                Stage::ALL.get(place).map_or(0, |stage| stats.stages.of(*stage).get())
            }),
        }
    }

    /// Cycles of each stage for a packet, since `old`.
    fn stages_since(&self, old: &Self) -> [f64; Stage::ALL.len()] {
        let watched = self.watched.saturating_sub(old.watched);
        let mut stages = [0.0; Stage::ALL.len()];
        for (cycles, (new, old)) in stages.iter_mut().zip(self.stages.iter().zip(&old.stages)) {
            *cycles = share(new.saturating_sub(*old), watched);
        }
        stages
    }
}

impl Sample {
    /// Reads all counters.
    pub(super) fn take(observed: &Observed, at: Duration) -> Self {
        let inventory = observed.inventory();
        let servers = inventory.services.iter().flat_map(|service| &service.servers);
        Self {
            at,
            workers: observed.workers.iter().map(|w| WorkerSample::take(&w.stats)).collect(),
            servers: servers
                .map(|server| (server.slot, observed.server_traffic(server.slot)))
                .collect(),
            ports: observed.ports().into_iter().map(|port| (port.name(), port.counters)).collect(),
        }
    }
}

/// What one worker did lately.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct WorkerRates {
    pub(super) packets: PacketRates,
    /// Share of time with packets, 0 to 1.
    pub(super) busy: f64,
    /// Cycles spent on a packet.
    pub(super) cycles_per_packet: f64,
    /// Packets processed together.
    pub(super) packets_per_burst: f64,
    /// Cycles of each stage for a packet.
    pub(super) stages: [f64; Stage::ALL.len()],
}

/// Rates per second between two samples.
#[derive(Debug, Default)]
pub(super) struct Rates {
    workers: Vec<WorkerRates>,
    servers: HashMap<ServerSlot, TrafficRates>,
    ports: HashMap<String, PacketRates>,
}

/// Counters are far below 2^53, where an `f64` counts exactly.
#[allow(clippy::cast_precision_loss, reason = "a rate needs no more than 53 bits")]
pub(super) fn float(count: u64) -> f64 {
    count as f64
}

/// `part` of `whole`; 0 of nothing.
pub(super) fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { float(part) / float(whole) }
}

impl Rates {
    /// The rates between two samples.
    pub(super) fn between(before: &Sample, after: &Sample) -> Self {
        let seconds = after.at.saturating_sub(before.at).as_secs_f64().max(1e-3);
        // A port's counters may be reset behind our back.
        let per_second = |old: u64, new: u64| float(new.saturating_sub(old)) / seconds;
        let worker = |(old, new): (&WorkerSample, &WorkerSample)| WorkerRates {
            packets: PacketRates {
                in_packets: per_second(old.received, new.received),
                out_packets: per_second(old.transmitted, new.transmitted),
                in_bits: 8.0 * per_second(old.received_octets, new.received_octets),
                out_bits: 8.0 * per_second(old.transmitted_octets, new.transmitted_octets),
            },
            busy: share(
                new.busy_cycles.saturating_sub(old.busy_cycles),
                new.cycles.saturating_sub(old.cycles),
            )
            .min(1.0),
            cycles_per_packet: share(
                new.busy_cycles.saturating_sub(old.busy_cycles),
                new.processed.saturating_sub(old.processed),
            ),
            packets_per_burst: share(
                new.processed.saturating_sub(old.processed),
                new.bursts.saturating_sub(old.bursts),
            ),
            stages: new.stages_since(old),
        };
        let server = |(slot, new): (&ServerSlot, &Traffic)| {
            let old = before.servers.get(slot).copied().unwrap_or_default();
            let rates = TrafficRates {
                connections: per_second(old.connections, new.connections),
                in_packets: per_second(old.in_packets, new.in_packets),
                out_packets: per_second(old.out_packets, new.out_packets),
                in_bits: 8.0 * per_second(old.in_octets, new.in_octets),
                out_bits: 8.0 * per_second(old.out_octets, new.out_octets),
            };
            (*slot, rates)
        };
        let port = |(name, new): (&String, &PortCounters)| {
            let old = before.ports.get(name).copied().unwrap_or_default();
            let rates = PacketRates {
                in_packets: per_second(old.rx_packets, new.rx_packets),
                out_packets: per_second(old.tx_packets, new.tx_packets),
                in_bits: 8.0 * per_second(old.rx_octets, new.rx_octets),
                out_bits: 8.0 * per_second(old.tx_octets, new.tx_octets),
            };
            (name.clone(), rates)
        };
        Self {
            workers: before.workers.iter().zip(&after.workers).map(worker).collect(),
            servers: after.servers.iter().map(server).collect(),
            ports: after.ports.iter().map(port).collect(),
        }
    }

    pub(super) fn worker(&self, place: usize) -> WorkerRates {
        self.workers.get(place).copied().unwrap_or_default()
    }

    pub(super) fn server(&self, slot: ServerSlot) -> TrafficRates {
        self.servers.get(&slot).copied().unwrap_or_default()
    }

    pub(super) fn port(&self, interface: &str) -> PacketRates {
        self.ports.get(interface).copied().unwrap_or_default()
    }
}
