//! `GET /v1/status`: everything at a glance.

use super::message::{
    Build, Interface, InterfaceCounters, PacketTotals, Server, Service, Status, Waiting, Worker,
};
use crate::control::config::InterfaceConfig;
use crate::control::desired::{InventoryServer, InventoryService};
use crate::control::observed::{self, Observed};
use crate::control::rates::Rates;
use crate::control::{PortCounters, PortReport};
use crate::dataplane::stats::{DropReason, Stage, WorkerStats};
use crate::service::ServerLoad;

/// The status now.
pub(super) fn of(observed: &Observed) -> Status {
    let rates = observed.rates();
    let inventory = observed.inventory();
    let build = &observed.build;
    Status {
        build: Build {
            version: build.version.clone(),
            commit: build.commit.clone(),
            dpdk: build.dpdk.clone(),
        },
        uptime_seconds: observed.clock.uptime().as_secs_f64(),
        not_ready: observed.obstacles(),
        table_version: inventory.version.0,
        workers: observed
            .workers
            .iter()
            .enumerate()
            .map(|(place, worker)| of_worker(worker, place, &rates))
            .collect(),
        interfaces: observed
            .ports()
            .into_iter()
            .map(|port| of_port(observed, port, &rates))
            .collect(),
        services: inventory
            .services
            .iter()
            .map(|service| of_service(observed, service, &rates))
            .collect(),
    }
}

fn of_worker(worker: &observed::Worker, place: usize, rates: &Rates) -> Worker {
    let stats = &worker.stats;
    let rates = rates.worker(place);
    Worker {
        id: worker.id.0,
        cpu: worker.cpu.0,
        busy_share: rates.busy,
        cycles_per_packet: rates.cycles_per_packet,
        packets_per_burst: rates.packets_per_burst,
        stage_cycles: Stage::ALL
            .iter()
            .zip(rates.stages)
            .map(|(stage, cycles)| (stage.name().to_owned(), cycles))
            .collect(),
        waiting: Waiting {
            receive: stats.receive_depth.get(),
            hand_over: stats.hand_over_depth.get(),
        },
        connections: stats.table_v4.used.get() + stats.table_v6.used.get(),
        capacity: stats.table_v4.capacity.get() + stats.table_v6.capacity.get(),
        packets: totals(stats),
        rates: rates.packets,
    }
}

fn totals(stats: &WorkerStats) -> PacketTotals {
    let drops = DropReason::ALL.iter().map(|reason| (reason.name(), stats.dropped.get(*reason)));
    PacketTotals {
        received: stats.received.get(),
        handed_in: stats.handed_in.get(),
        originated: stats.originated.get(),
        transmitted: stats.transmitted.get(),
        handed_out: stats.handed_out.get(),
        consumed: stats.consumed.get(),
        dropped: stats.dropped.total(),
        held: stats.held.get(),
        drops: drops
            .filter(|(_, count)| *count > 0)
            .map(|(name, count)| (name.to_owned(), count))
            .collect(),
    }
}

fn of_port(observed: &Observed, port: PortReport, rates: &Rates) -> Interface {
    let on_port = |section: &&InterfaceConfig| port.interfaces.contains(&section.name);
    let sections: Vec<_> = observed.config.interfaces.iter().filter(on_port).collect();
    let roles: Vec<_> = sections.iter().map(|section| section.role.name()).collect();
    let networks = sections.iter().flat_map(|section| &section.addresses);
    let name = port.name();
    Interface {
        role: roles.join("+"),
        addresses: networks.map(ipnet::IpNet::addr).collect(),
        driver: port.driver,
        mac: port.mac.to_string(),
        link_up: port.link_up,
        speed_mbps: port.speed_mbps,
        rx_queues: port.rx_queues,
        tx_queues: port.tx_queues,
        steering: port.steering.name().to_owned(),
        hash_check: port.hash_check.name().to_owned(),
        counters: of_counters(port.counters),
        rates: rates.port(&name),
        name,
    }
}

fn of_counters(counters: PortCounters) -> InterfaceCounters {
    InterfaceCounters {
        rx_packets: counters.rx_packets,
        tx_packets: counters.tx_packets,
        rx_octets: counters.rx_octets,
        tx_octets: counters.tx_octets,
        missed: counters.imissed,
        rx_errors: counters.rx_errors,
        tx_errors: counters.tx_errors,
        no_buffer: counters.rx_nombuf,
    }
}

fn of_service(observed: &Observed, entry: &InventoryService, rates: &Rates) -> Service {
    let service = &entry.service;
    let servers = entry.servers.iter().map(|entry| {
        let InventoryServer { server, slot, weight, .. } = entry;
        let load = observed.loads.of(*slot).map(ServerLoad::connections);
        let (state, reason) = entry.state(&observed.loads);
        let (active, inactive) = load.unwrap_or_default();
        let totals = observed.server_traffic(*slot);
        Server {
            address: server.address,
            forwarding: "Masq".to_owned(),
            weight: *weight,
            state: state.to_owned(),
            reason,
            active,
            inactive,
            totals,
            since_zero: observed.server_since_zero(*slot),
            templates: observed.loads.of(*slot).map_or(0, ServerLoad::templates),
            rates: rates.server(*slot),
        }
    });
    Service {
        name: service.name.clone(),
        listen: service.listen.to_string(),
        scheduler: service.scheduler.to_string(),
        servers: servers.collect(),
        totals: observed.service_traffic(entry),
        since_zero: observed.service_since_zero(entry),
    }
}
