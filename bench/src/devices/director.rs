//! `pointsman run` on the bed: its own metrics, read at both ends of a window.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use pointsman::dataplane::stats::Stage;

use super::process::Program;
use super::{Bed, MBUF_OCTETS, Rate, WARM_UP};
use pointsman_bench::flows::{self, Family};

/// How long a director may take to start.
const START: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);
/// DPDK's headroom: testpmd counts it to an mbuf's octets, pointsman does not.
const HEADROOM: u32 = 128;
/// Of the captures.
const FAMILY: Family = Family::V4;

/// One run.
pub(super) fn measure(bed: &Bed<'_>) -> Result<Rate> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let metrics = listener.local_addr()?;
    drop(listener);
    let file = bed.folder.join("pointsman.toml");
    fs::write(&file, configuration(bed, metrics))?;
    let args = ["run".as_ref(), "--config".as_ref(), file.as_os_str()];
    let mut program = Program::start(&bed.args.pointsman, args, bed.folder)?;
    let begun = Instant::now();
    while Reading::take(metrics).is_err() {
        program.check()?;
        ensure!(begun.elapsed() < START, "no metrics at {metrics} after {START:?}");
        std::thread::sleep(POLL);
    }
    std::thread::sleep(WARM_UP);
    let first = Reading::take(metrics)?;
    std::thread::sleep(bed.window());
    let last = Reading::take(metrics)?;
    program.check()?;
    program.terminate()?;
    program.end()?;
    let dropped = last.dropped - first.dropped;
    ensure!(dropped <= 0.0, "the director dropped {dropped} packets");
    let connections = f64::from(bed.flows);
    ensure!(last.connections >= connections, "{} connections", last.connections);
    let packets = last.transmitted - first.transmitted;
    ensure!(packets > 0.0, "the director forwarded nothing");
    let seconds = last.at.duration_since(first.at).as_secs_f64();
    let cycles = (last.cycles - first.cycles) / (last.received - first.received);
    let looked_at = (last.watched_packets - first.watched_packets).max(1.0);
    let stages = std::array::from_fn(|place| {
        let of = |reading: &Reading| reading.stages.get(place).copied().unwrap_or(0.0);
        (of(&last) - of(&first)) / looked_at
    });
    Ok(Rate { mpps: packets / seconds / 1e6, cycles, stages: Some(stages) })
}

/// The director's counters at one instant.
#[derive(Debug)]
struct Reading {
    at: Instant,
    transmitted: f64,
    received: f64,
    dropped: f64,
    connections: f64,
    cycles: f64,
    /// Of the rounds that the stop watch looked at.
    stages: [f64; Stage::ALL.len()],
    watched_packets: f64,
}

impl Reading {
    fn take(address: SocketAddr) -> Result<Self> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let at = Instant::now();
        let sum = |metric, labels: &str| sum(&text, metric, labels);
        let mut stages = [0.0; Stage::ALL.len()];
        for (cycles, stage) in stages.iter_mut().zip(Stage::ALL) {
            let label = format!("stage=\"{}\"", stage.name());
            *cycles = sum("worker_stage_cycles_total", &label)?;
        }
        Ok(Self {
            at,
            stages,
            watched_packets: sum("worker_stage_packets_total", "")?,
            transmitted: sum("packets_transmitted_total", "")?,
            received: sum("packets_received_total", "")?,
            dropped: sum("packets_dropped_total", "")?,
            connections: sum("connection_table_used", "")?,
            cycles: sum("worker_cycles_total", "kind=\"busy\"")?,
        })
    }
}

/// The sum over all series of a metric whose labels contain `labels`.
fn sum(text: &str, metric: &str, labels: &str) -> Result<f64> {
    let name = format!("pointsman_{metric}{{");
    let mut values = text
        .lines()
        .filter(|line| line.starts_with(&name) && line.contains(labels))
        .map(|line| line.rsplit(' ').next().unwrap_or_default().parse::<f64>())
        .peekable();
    ensure!(values.peek().is_some(), "no metric {name}");
    values.try_fold(0.0, |sum, value| Ok(sum + value?))
}

fn configuration(bed: &Bed<'_>, metrics: SocketAddr) -> String {
    let (neighbors, services) = (neighbors(), services());
    let gateway = flows::gateway(FAMILY);
    format!(
        r#"# Made by pointsman-bench.
[director]
workers = [{worker}]
control_cpu = {control}
connections = {connections}
metrics = "{metrics}"
socket = "{folder}/pointsman.sock"
log = "warn"

[dpdk]
memory = "{memory}MiB"
mbufs = {mbufs}
mbuf_octets = {octets}

[interface.outside]
role = "outside"
device = "{source}"
mac = "{outside}"
mtu = 600
addresses = ["192.0.2.1/24"]
gateways = ["{gateway}"]
[interface.outside.neighbors]
"{gateway}" = "{gateway_mac}"

[interface.inside]
role = "inside"
device = "{sink}"
mac = "{inside}"
mtu = 600
addresses = ["10.0.0.1/24"]
[interface.inside.neighbors]
{neighbors}
{services}"#,
        worker = bed.args.forwarding_cpu,
        control = bed.args.control_cpu,
        connections = bed.flows.max(1024),
        folder = bed.folder.display(),
        memory = bed.memory_mib,
        mbufs = bed.mbufs,
        octets = MBUF_OCTETS - HEADROOM,
        source = bed.source(),
        sink = Bed::sink(),
        outside = mac(flows::OUTSIDE_MAC),
        inside = mac(flows::INSIDE_MAC),
        gateway_mac = mac(flows::GATEWAY_MAC),
    )
}

fn neighbors() -> String {
    let one = |number| {
        let address = flows::server(FAMILY, number).ip();
        format!("\"{address}\" = \"{}\"\n", mac(flows::server_mac(number)))
    };
    (0..flows::SERVICES).map(one).collect::<Vec<_>>().concat()
}

fn services() -> String {
    let one = |number| {
        let (listen, server) = (flows::service(FAMILY, number), flows::server(FAMILY, number));
        format!(
            "[[service]]\nname = \"s{number}\"\nlisten = \"udp://{listen}\"\n\
             servers = [{{ address = \"{server}\" }}]\n"
        )
    };
    (0..flows::SERVICES).map(one).collect::<Vec<_>>().concat()
}

fn mac(octets: [u8; 6]) -> String {
    octets.map(|octet| format!("{octet:02x}")).join(":")
}
