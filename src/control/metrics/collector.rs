//! Reads everything that is counted when Prometheus asks, and keeps nothing.

use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::proto;

use super::registry::{Info, Kind, Metric};
use crate::control::desired::{InventoryServer, InventoryService};
use crate::control::failover::{FailoverStatus, Knowledge, Role};
use crate::control::observed::{ChangeCounts, Observed, Worker};
use crate::control::rates::{Rates, float};
use crate::dataplane::conn::tcp_state::ConnectionState;
use crate::dataplane::stats::{DropReason, Stage, TableGauges};
use crate::service::ServerLoad;

/// The samples of one scrape, by metric.
#[derive(Debug)]
struct Samples(Vec<Vec<proto::Metric>>);

impl Samples {
    fn new() -> Self {
        Self(Metric::ALL.iter().map(|_| Vec::new()).collect())
    }

    fn put(&mut self, metric: Metric, labels: &[&str], value: f64) {
        let info = metric.info();
        debug_assert_eq!(info.labels.len(), labels.len(), "labels of {}", info.name);
        let pair = |(name, value): (&&str, &&str)| {
            let mut pair = proto::LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        };
        let mut sample =
            proto::Metric::from_label(info.labels.iter().zip(labels).map(pair).collect());
        match info.kind {
            Kind::Counter => {
                let mut counter = proto::Counter::default();
                counter.set_value(value);
                sample.set_counter(counter);
            }
            Kind::Gauge => {
                let mut gauge = proto::Gauge::default();
                gauge.set_value(value);
                sample.set_gauge(gauge);
            }
        }
        if let Some(samples) = self.0.get_mut(metric as usize) {
            samples.push(sample);
        }
    }

    fn count(&mut self, metric: Metric, labels: &[&str], value: u64) {
        self.put(metric, labels, float(value));
    }

    fn families(self) -> Vec<proto::MetricFamily> {
        let family = |(metric, samples): (&Metric, Vec<proto::Metric>)| {
            let Info { name, kind, help, .. } = metric.info();
            let mut family = proto::MetricFamily::default();
            family.set_name(name.to_owned());
            family.set_help(help.to_owned());
            family.set_field_type(match kind {
                Kind::Counter => proto::MetricType::COUNTER,
                Kind::Gauge => proto::MetricType::GAUGE,
            });
            family.set_metric(samples);
            family
        };
        Metric::ALL.iter().zip(self.0).map(family).collect()
    }
}

/// The collector of all metrics.
#[derive(Debug)]
pub(super) struct Everything {
    observed: Arc<Observed>,
    descriptions: Vec<Desc>,
}

impl Everything {
    /// A collector of what is observed.
    pub(super) fn new(observed: Arc<Observed>) -> prometheus::Result<Self> {
        let describe = |metric: &Metric| {
            let Info { name, labels, help, .. } = metric.info();
            let labels = labels.iter().map(|label| (*label).to_owned()).collect();
            Desc::new(name.to_owned(), help.to_owned(), labels, std::collections::HashMap::new())
        };
        let descriptions = Metric::ALL.iter().map(describe).collect::<Result<_, _>>()?;
        Ok(Self { observed, descriptions })
    }
}

impl Collector for Everything {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        let observed = &*self.observed;
        let mut samples = Samples::new();
        collect_director(observed, &mut samples);
        let rates = observed.rates();
        for (place, worker) in observed.workers.iter().enumerate() {
            collect_packets(worker, &mut samples);
            collect_work(worker, place, &rates, &mut samples);
            let id = worker.id.to_string();
            collect_masquerade(worker, &id, &mut samples);
            collect_table(&id, "ipv4", &worker.stats.table_v4, &mut samples);
            collect_table(&id, "ipv6", &worker.stats.table_v6, &mut samples);
        }
        for service in &observed.inventory().services {
            collect_service(observed, service, &mut samples);
        }
        collect_devices(observed, &mut samples);
        samples.families()
    }
}

fn collect_director(observed: &Observed, samples: &mut Samples) {
    let build = &observed.build;
    samples.count(Metric::BuildInfo, &[&build.version, &build.commit, &build.dpdk], 1);
    samples.put(Metric::StartTime, &[], observed.clock.started().as_secs_f64());
    samples.count(Metric::ServiceTableVersion, &[], observed.inventory().version.0);
    samples.count(Metric::TscHertz, &[], observed.tsc_hz);
    let ChangeCounts { applied, without_effect, refused, acknowledged, seconds, last } =
        observed.changes();
    samples.count(Metric::Changes, &["applied"], applied);
    samples.count(Metric::Changes, &["none"], without_effect);
    samples.count(Metric::Changes, &["refused"], refused);
    samples.count(Metric::ChangesAcknowledged, &[], acknowledged);
    samples.put(Metric::ChangeSeconds, &[], seconds.as_secs_f64());
    samples.put(Metric::LastChangeSeconds, &[], last.as_secs_f64());
    if let Some(failover) = &observed.failover {
        collect_failover(&failover.status(), samples);
    }
}

fn collect_failover(status: &FailoverStatus, samples: &mut Samples) {
    let group = &*status.name;
    for role in [Role::Master, Role::Backup, Role::Fault] {
        let has = u64::from(role.name() == status.role);
        samples.count(Metric::FailoverRole, &[group, role.name()], has);
    }
    samples.count(Metric::FailoverTransitions, &[group], status.transitions);
    samples.count(Metric::FailoverPriority, &[group], status.priority.into());
    samples.count(Metric::AdvertisementsSent, &[group], status.advertisements_sent);
    samples.count(Metric::AdvertisementsReceived, &[group], status.advertisements_received);
    for refused in &status.advertisements_refused {
        let labels = [group, &*refused.reason];
        samples.count(Metric::AdvertisementsRefused, &labels, refused.count);
    }
    samples.count(Metric::AnnouncementsSent, &[group], status.announcements);
    samples.count(Metric::SyncSent, &[group], status.connections_sent);
    samples.count(Metric::SyncReceived, &[group], status.connections_received);
    samples.count(Metric::SyncRefused, &[group], status.connection_messages_refused);
    samples.count(Metric::SyncWaiting, &[group], status.connections_waiting);
    for state in Knowledge::ALL.map(Knowledge::name) {
        let has = u64::from(state == status.connections_known);
        samples.count(Metric::ConnectionsKnown, &[group, state], has);
    }
    samples.count(Metric::FailoverUnreached, &[group], status.unreached.is_some().into());
    samples.count(Metric::SyncLost, &[group], status.connections_lost);
    if let Some(standby) = &status.standby {
        samples.put(Metric::StandbyHeard, &[group], standby.heard_seconds_ago);
    }
    for link in &status.links {
        let labels = [group, &*link.interface, &*link.family];
        samples.count(Metric::FailoverLinkUp, &labels, link.up.into());
        if let Some(peer) = &link.peer {
            samples.put(Metric::PeerHeard, &labels, peer.heard_seconds_ago);
        }
    }
}

fn collect_packets(worker: &Worker, samples: &mut Samples) {
    let (stats, id) = (&worker.stats, &*worker.id.to_string());
    samples.count(Metric::ConnectionsAdopted, &[id], stats.adopted.get());
    samples.count(Metric::ConnectionHalves, &[id], stats.halves.get());
    samples.count(Metric::ConnectionsNotAdopted, &[id], stats.not_adopted.get());
    samples.count(Metric::PacketsReceived, &[id], stats.received.get());
    samples.count(Metric::OctetsReceived, &[id], stats.received_octets.get());
    samples.count(Metric::PacketsOriginated, &[id], stats.originated.get());
    samples.count(Metric::PacketsTransmitted, &[id], stats.transmitted.get());
    samples.count(Metric::OctetsTransmitted, &[id], stats.transmitted_octets.get());
    samples.count(Metric::PacketsConsumed, &[id], stats.consumed.get());
    samples.count(Metric::PacketsHeld, &[id], stats.held.get());
    samples.count(Metric::PacketsHandedOver, &[id, "in"], stats.handed_in.get());
    samples.count(Metric::PacketsHandedOver, &[id, "out"], stats.handed_out.get());
    samples.count(Metric::ErrorsSent, &[id], stats.errors_sent.get());
    samples.count(Metric::RemovalProbes, &[id], stats.removal_probes.get());
    samples.count(Metric::RemovalResets, &[id], stats.removal_resets.get());
    samples.count(Metric::ErrorsSuppressed, &[id], stats.errors_suppressed.get());
    samples.count(Metric::NoBuffer, &[id], stats.no_buffer.get());
    for reason in DropReason::ALL {
        samples.count(Metric::PacketsDropped, &[id, reason.name()], stats.dropped.get(*reason));
    }
}

fn collect_work(worker: &Worker, place: usize, rates: &Rates, samples: &mut Samples) {
    let (stats, id) = (&worker.stats, &*worker.id.to_string());
    samples.count(Metric::WorkerPolls, &[id, "all"], stats.polls.get());
    samples.count(Metric::WorkerPolls, &[id, "busy"], stats.busy_polls.get());
    samples.count(Metric::WorkerCycles, &[id, "all"], stats.cycles.get());
    samples.count(Metric::WorkerCycles, &[id, "busy"], stats.busy_cycles.get());
    samples.put(Metric::WorkerBusyRatio, &[id], rates.worker(place).busy);
    samples.put(Metric::WorkerCyclesPerPacket, &[id], rates.worker(place).cycles_per_packet);
    samples.count(Metric::WorkerBursts, &[id], stats.bursts.get());
    for stage in Stage::ALL {
        let labels = [id, stage.name()];
        samples.count(Metric::WorkerStageCycles, &labels, stats.stages.of(*stage).get());
    }
    samples.count(Metric::WorkerStagePackets, &[id], stats.stages.packets.get());
    samples.count(Metric::WorkerWaiting, &[id, "receive"], stats.receive_depth.get());
    samples.count(Metric::WorkerWaiting, &[id, "hand_over"], stats.hand_over_depth.get());
    samples.count(Metric::EventsLost, &[id], stats.events_lost.get());
    samples.count(Metric::Neighbors, &[id], stats.neighbors.get());
    samples.count(Metric::ControlConnections, &[id], stats.helped.get());
    samples.count(Metric::UnhelpedConnections, &[id], stats.unhelped.get());
    samples.count(Metric::ExpectedConnections, &[id], stats.expected.get());
    samples.count(Metric::Templates, &[id], stats.templates.get());
    samples.count(Metric::TemplatesLost, &[id], stats.templates_lost.get());
}

fn collect_masquerade(worker: &Worker, id: &str, samples: &mut Samples) {
    let traffic = &worker.stats.masquerade;
    samples.count(Metric::Masqueraded, &[id], worker.stats.masqueraded.get());
    samples.count(Metric::MasqueradeConnections, &[id], traffic.connections.get());
    samples.count(Metric::MasqueradeInPackets, &[id], traffic.in_packets.get());
    samples.count(Metric::MasqueradeOutPackets, &[id], traffic.out_packets.get());
    samples.count(Metric::MasqueradeInOctets, &[id], traffic.in_octets.get());
    samples.count(Metric::MasqueradeOutOctets, &[id], traffic.out_octets.get());
}

fn collect_table(id: &str, family: &str, table: &TableGauges, samples: &mut Samples) {
    for state in ConnectionState::ALL {
        let labels = [id, family, state.label()];
        samples.count(Metric::Connections, &labels, table.states.of(state).get());
    }
    samples.count(Metric::ConnectionTableUsed, &[id, family], table.used.get());
    samples.count(Metric::ConnectionTableCapacity, &[id, family], table.capacity.get());
    samples.count(Metric::ConnectionsExpired, &[id, family], table.expired.get());
}

fn collect_service(observed: &Observed, entry: &InventoryService, samples: &mut Samples) {
    let name = &*entry.service.name;
    let listen = &*entry.service.listen.to_string();
    let (mut all_active, mut all_inactive) = (0, 0);
    for known in &entry.servers {
        let InventoryServer { server, slot, weight, .. } = known;
        let address = &*server.address.to_string();
        let labels = [name, listen, address];
        let traffic = observed.server_traffic(*slot);
        let load = observed.loads.of(*slot).map(ServerLoad::connections);
        let (active, inactive) = load.map_or((0, 0), |(a, i)| (u64::from(a), u64::from(i)));
        samples.count(Metric::ServerConnections, &labels, traffic.connections);
        samples.count(Metric::ServerInPackets, &labels, traffic.in_packets);
        samples.count(Metric::ServerOutPackets, &labels, traffic.out_packets);
        samples.count(Metric::ServerInOctets, &labels, traffic.in_octets);
        samples.count(Metric::ServerOutOctets, &labels, traffic.out_octets);
        samples.count(Metric::ServerActive, &labels, active);
        samples.count(Metric::ServerInactive, &labels, inactive);
        samples.put(
            Metric::ServerState,
            &[name, listen, address, known.state(&observed.loads).0],
            1.0,
        );
        let templates = observed.loads.of(*slot).map_or(0, ServerLoad::templates);
        samples.count(Metric::ServerTemplates, &labels, u64::from(templates));
        samples.count(Metric::ServerWeight, &labels, u64::from(*weight));
        all_active += active;
        all_inactive += inactive;
    }
    let sum = observed.service_traffic(entry);
    let labels = [name, listen];
    samples.count(Metric::ServiceConnections, &labels, sum.connections);
    samples.count(Metric::ServiceInPackets, &labels, sum.in_packets);
    samples.count(Metric::ServiceOutPackets, &labels, sum.out_packets);
    samples.count(Metric::ServiceInOctets, &labels, sum.in_octets);
    samples.count(Metric::ServiceOutOctets, &labels, sum.out_octets);
    samples.count(Metric::ServiceActive, &labels, all_active);
    samples.count(Metric::ServiceInactive, &labels, all_inactive);
}

fn collect_devices(observed: &Observed, samples: &mut Samples) {
    for port in observed.ports() {
        let labels = [&*port.name(), &*port.driver];
        let counters = port.counters;
        samples.count(Metric::PortRxPackets, &labels, counters.rx_packets);
        samples.count(Metric::PortTxPackets, &labels, counters.tx_packets);
        samples.count(Metric::PortRxOctets, &labels, counters.rx_octets);
        samples.count(Metric::PortTxOctets, &labels, counters.tx_octets);
        samples.count(Metric::PortMissed, &labels, counters.imissed);
        samples.count(Metric::PortRxErrors, &labels, counters.rx_errors);
        samples.count(Metric::PortTxErrors, &labels, counters.tx_errors);
        samples.count(Metric::PortNoBuffer, &labels, counters.rx_nombuf);
        samples.count(Metric::PortLinkUp, &labels, u64::from(port.link_up));
        let (mode, check) = (port.steering.name(), port.hash_check.name());
        let [interface, driver] = labels;
        samples.count(Metric::PortSteering, &[interface, driver, mode, check], 1);
    }
    for pool in observed.pools() {
        samples.count(Metric::MempoolCapacity, &[&pool.name], pool.capacity);
        samples.count(Metric::MempoolInUse, &[&pool.name], pool.in_use);
    }
}
