//! `pointsman status`.

use std::process::ExitCode;

use clap::Args;
use comfy_table::Table;

use super::{Socket, json, output};
use crate::control::api::message::{self, Interface, Server, Service, TrafficRates, Worker};
use output::short;

const EXAMPLES: &str = "\
Examples:
  sudo pointsman status                    everything
  sudo pointsman status --services         services and their servers only
  sudo watch pointsman status --workers    how busy the workers are
  sudo pointsman status --json | jq .services

Rates are those of the last second. Active connections are those that are being opened or are
established (of SCTP: established); the others (closing, UDP) are inactive. Weight 0 takes no new
connections.";

#[allow(clippy::struct_excessive_bools, reason = "each is an option of its own")]
/// Show services, real servers, workers and interfaces of the running director.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Status {
    #[command(flatten)]
    socket: Socket,
    /// Show the services and their servers (without any choice: everything).
    #[arg(long)]
    services: bool,
    /// Show the workers.
    #[arg(long)]
    workers: bool,
    /// Show the interfaces.
    #[arg(long)]
    interfaces: bool,
    /// Print JSON, as the control socket gives it.
    #[arg(long)]
    json: bool,
}

impl Status {
    pub(super) fn run(self) -> ExitCode {
        let Self { socket, services, workers, interfaces, json: as_json } = self;
        let everything = !(services || workers || interfaces);
        socket.ask(async move |client| {
            let status = client.status().await?;
            if as_json {
                return json(&status);
            }
            let mut sections = Vec::new();
            if everything {
                sections.push(head(&status));
            }
            if everything || services {
                sections.push(services_section(&status.services));
            }
            if everything || workers {
                sections.push(workers_section(&status.workers));
            }
            if everything || interfaces {
                sections.push(text_of(&interfaces_table(&status.interfaces)));
            }
            Ok(sections.join("\n"))
        })
    }
}

fn text_of(table: &Table) -> String {
    table.trim_fmt() + "\n"
}

fn head(status: &message::Status) -> String {
    let build = &status.build;
    // Whole seconds: nobody wants to read nanoseconds.
    let uptime = std::time::Duration::try_from_secs_f64(status.uptime_seconds.floor());
    let uptime = humantime::format_duration(uptime.unwrap_or_default());
    let ready = if status.not_ready.is_empty() {
        "ready for traffic".to_owned()
    } else {
        format!("not ready: {}", status.not_ready.join("; "))
    };
    format!(
        "pointsman {} ({}), {}\nup {uptime}, {ready}\n",
        build.version, build.commit, build.dpdk
    )
}

fn services_section(services: &[Service]) -> String {
    if services.is_empty() {
        return "no virtual services: add a [[service]] to the configuration\n".to_owned();
    }
    let header = [
        "SERVICE / SERVER",
        "FORWARD",
        "WEIGHT",
        "ACTIVE",
        "INACTIVE",
        "CONNS",
        "CONNS/s",
        "PKTS/s IN",
        "PKTS/s OUT",
        "BITS/s IN",
        "BITS/s OUT",
    ];
    let mut table = output::table(&header, 2);
    for service in services {
        table.add_row(service_row(service));
        for server in &service.servers {
            table.add_row(server_row(server));
        }
    }
    text_of(&table)
}

fn service_row(service: &Service) -> Vec<String> {
    let sum = |part: fn(&Server) -> u64| service.servers.iter().map(part).sum::<u64>().to_string();
    let mut rates = TrafficRates::default();
    for server in &service.servers {
        rates.connections += server.rates.connections;
        rates.in_packets += server.rates.in_packets;
        rates.out_packets += server.rates.out_packets;
        rates.in_bits += server.rates.in_bits;
        rates.out_bits += server.rates.out_bits;
    }
    let mut row = vec![
        format!("{} {} {}", service.name, service.listen, service.scheduler),
        String::new(),
        String::new(),
        sum(|server| u64::from(server.active)),
        sum(|server| u64::from(server.inactive)),
        sum(|server| server.totals.connections),
    ];
    row.extend(rate_cells(&rates));
    row
}

fn server_row(server: &Server) -> Vec<String> {
    let mut row = vec![
        format!("  -> {}", server.address),
        server.forwarding.clone(),
        server.weight.to_string(),
        server.active.to_string(),
        server.inactive.to_string(),
        server.totals.connections.to_string(),
    ];
    row.extend(rate_cells(&server.rates));
    row
}

fn rate_cells(rates: &TrafficRates) -> [String; 5] {
    let TrafficRates { connections, in_packets, out_packets, in_bits, out_bits } = *rates;
    [connections, in_packets, out_packets, in_bits, out_bits].map(short)
}

fn workers_section(workers: &[Worker]) -> String {
    let header = [
        "WORKER",
        "CPU",
        "BUSY",
        "CYCLES/PKT",
        "PKTS/s IN",
        "PKTS/s OUT",
        "CONNECTIONS",
        "RECEIVED",
        "TRANSMITTED",
        "CONSUMED",
        "DROPPED",
        "HELD",
    ];
    let mut table = output::table(&header, 0);
    for worker in workers {
        let packets = &worker.packets;
        table.add_row([
            worker.id.to_string(),
            worker.cpu.to_string(),
            format!("{:.0}%", worker.busy_share * 100.0),
            format!("{:.0}", worker.cycles_per_packet),
            short(worker.rates.in_packets),
            short(worker.rates.out_packets),
            format!("{} of {}", worker.connections, worker.capacity),
            packets.received.to_string(),
            packets.transmitted.to_string(),
            packets.consumed.to_string(),
            packets.dropped.to_string(),
            packets.held.to_string(),
        ]);
    }
    let mut text = text_of(&table);
    text.extend(["\n", &text_of(&work_table(workers))]);
    let mut drops = std::collections::BTreeMap::<&str, u64>::new();
    for (reason, count) in workers.iter().flat_map(|worker| &worker.packets.drops) {
        *drops.entry(reason).or_default() += count;
    }
    if !drops.is_empty() {
        let list: Vec<_> =
            drops.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        text.extend(["dropped: ", &list.join(", "), "\n"]);
    }
    text
}

/// Where the workers' cycles go.
fn work_table(workers: &[Worker]) -> Table {
    let header = [
        "WORKER",
        "PKTS/BURST",
        "CYCLES/PKT: RECEIVE",
        "LOOK UP",
        "FORWARD",
        "TRANSMIT",
        "HOUSEKEEP",
        "WAITING RX",
        "WAITING HAND-OVER",
    ];
    let mut table = output::table(&header, 0);
    for worker in workers {
        let mut row = vec![worker.id.to_string(), format!("{:.1}", worker.packets_per_burst)];
        for stage in ["receive", "look_up", "forward", "transmit", "housekeep"] {
            let cycles = worker.stage_cycles.get(stage).copied().unwrap_or_default();
            row.push(format!("{cycles:.0}"));
        }
        row.extend([worker.waiting.receive, worker.waiting.hand_over].map(|n| n.to_string()));
        table.add_row(row);
    }
    table
}

/// The mode, and what the check of the NIC's hash says, if there is one.
fn steering(interface: &Interface) -> String {
    match interface.hash_check.as_str() {
        "none" => interface.steering.clone(),
        check => format!("{} ({check})", interface.steering),
    }
}

fn interfaces_table(interfaces: &[Interface]) -> Table {
    let header = [
        "INTERFACE",
        "ROLE",
        "DRIVER",
        "MAC",
        "LINK",
        "ADDRESSES",
        "QUEUES",
        "STEERING",
        "PKTS/s IN",
        "PKTS/s OUT",
        "BITS/s IN",
        "BITS/s OUT",
        "MISSED",
        "ERRORS",
        "NO BUFFER",
    ];
    let mut table = output::table(&header, 6);
    for interface in interfaces {
        let counters = &interface.counters;
        let link = match (interface.link_up, interface.speed_mbps) {
            (true, Some(mbps)) => format!("up {}bit/s", short(f64::from(mbps) * 1e6)),
            (true, None) => "up".to_owned(),
            (false, _) => "DOWN".to_owned(),
        };
        let addresses: Vec<_> = interface.addresses.iter().map(ToString::to_string).collect();
        table.add_row([
            interface.name.clone(),
            interface.role.clone(),
            interface.driver.clone(),
            interface.mac.clone(),
            link,
            addresses.join(" "),
            format!("{}/{}", interface.rx_queues, interface.tx_queues),
            steering(interface),
            short(interface.rates.in_packets),
            short(interface.rates.out_packets),
            short(interface.rates.in_bits),
            short(interface.rates.out_bits),
            counters.missed.to_string(),
            (counters.rx_errors + counters.tx_errors).to_string(),
            counters.no_buffer.to_string(),
        ]);
    }
    table
}
