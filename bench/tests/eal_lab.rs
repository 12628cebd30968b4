//! The generator against a real director: `pointsman run` behind two memif ports, on one CPU that
//! all of them share. It shows that the measurements measure, not how fast anything is.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const BENCH: &str = env!("CARGO_BIN_EXE_pointsman-bench");
/// Nothing here takes longer.
const LONGEST: Duration = Duration::from_secs(90);

/// The director's program: Cargo tells a test only of its own package's.
fn pointsman() -> PathBuf {
    let path = Path::new(BENCH).with_file_name("pointsman");
    assert!(path.exists(), "{} is missing: cargo build -p pointsman", path.display());
    path
}

/// The first CPU that this process may use.
fn cpu() -> u16 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
    let first = list.trim().split(|c: char| !c.is_ascii_digit()).next().unwrap();
    first.parse().unwrap()
}

/// A program that ends with the test.
struct Program(Child);

impl Program {
    fn wait(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < LONGEST, "a program does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if self.0.try_wait().unwrap().is_none() {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }
}

/// Two services with two real servers each, of both families.
fn director(folder: &Path, connections: u32, metrics: SocketAddr) -> String {
    let folder = folder.display();
    let device =
        |id| format!("net_memif,role=client,id={id},socket={folder}/memif.sock,socket-abstract=no");
    let cpu = cpu();
    format!(
        r#"[director]
workers = [{cpu}]
control_cpu = {cpu}
idle = "adaptive"
connections = {connections}
metrics = "{metrics}"
socket = "{folder}/pointsman.sock"
[dpdk]
hugepages = false
memory = "256MiB"
[timeouts]
udp = "2s"
fin_wait = "1s"
time_wait = "1s"
close_wait = "1s"
last_ack = "1s"
[interface.outside]
role = "outside"
device = "{outside}"
addresses = ["192.0.2.1/24", "2001:db8:1::1/64"]
gateways = ["192.0.2.254", "2001:db8:1::fe"]
[interface.inside]
role = "inside"
device = "{inside}"
addresses = ["10.0.0.1/24", "fd00:a::1/64"]
[[service]]
name = "udp"
listen = "udp://192.0.2.100:9"
scheduler = "rr"
servers = [{{ address = "10.0.0.11:7" }}, {{ address = "10.0.0.12:7" }}]
[[service]]
name = "tcp6"
listen = "tcp://[2001:db8:1::100]:80"
scheduler = "rr"
servers = [{{ address = "[fd00:a::11]:8080" }}, {{ address = "[fd00:a::12]:8080" }}]
"#,
        outside = device(0),
        inside = device(1),
    )
}

/// A port that nobody has, from below those that the kernel gives of itself.
fn free_port() -> SocketAddr {
    let first = std::process::id().wrapping_mul(631);
    let mut ports = (0..12_000_u32).map(|number| {
        let port = 20_000 + (first.wrapping_add(number) % 12_000) as u16;
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    });
    ports.find(|port| TcpListener::bind(port).is_ok()).unwrap()
}

/// Runs a measurement against a director that has room for so many connections; all trials.
fn measure(connections: u32, arguments: &str) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let metrics = free_port();
    let json = folder.path().join("trials.json");
    let device = |id| {
        let folder = folder.path().display();
        format!("net_memif{id},role=server,id={id},socket={folder}/memif.sock,socket-abstract=no")
    };
    let cpu = cpu().to_string();
    let mut bench = Command::new(BENCH)
        .args(arguments.split_whitespace())
        .args(["--outside", &device(0), "--inside", &device(1), "--no-huge", "--shared-cpus"])
        .args(["--main-cpu", &cpu, "--client-cpu", &cpu, "--server-cpu", &cpu])
        .args(["--memory", "128", "--mbufs", "16383", "--catch-up", "200ms", "--drain", "500ms"])
        .args(["--pace", "0.8"])
        .args(["--metrics", &metrics.to_string()])
        .arg("--json")
        .arg(&json)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(bench.stderr.take().unwrap());
    let mut bench = Program(bench);
    let mut words = String::new();
    while !words.contains("waiting for their links") {
        assert!(said.read_line(&mut words).unwrap() > 0, "the generator ended: {words}");
    }
    let file = folder.path().join("director.toml");
    fs::write(&file, director(folder.path(), connections, metrics)).unwrap();
    let log = fs::File::create(folder.path().join("director.log")).unwrap();
    let director = Command::new(pointsman())
        .args(["run".as_ref(), "--config".as_ref(), file.as_os_str()])
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    let mut director = Program(director);
    // Its words are few; the pipe takes them.
    let status = bench.wait();
    said.read_to_string(&mut words).unwrap();
    kill_process(Pid::from_child(&director.0), Signal::TERM).unwrap();
    let ended = director.wait();
    let log = fs::read_to_string(folder.path().join("director.log")).unwrap();
    assert!(status.success(), "{words}\n{log}");
    assert!(ended.success(), "the director ended with {ended}\n{log}");
    serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap()
}

/// The figure whose name ends so.
fn figure(report: &Value, name: &str) -> f64 {
    let rows = report["rows"].as_array().unwrap();
    let row = rows.iter().find(|row| row["name"].as_str().unwrap().ends_with(name));
    row.unwrap_or_else(|| panic!("no {name} in {rows:?}"))["value"].as_f64().unwrap()
}

/// The trials of a step.
fn trials<'a>(report: &'a Value, step: &str) -> Vec<&'a Value> {
    let all = report["trials"].as_array().unwrap();
    all.iter().filter(|trial| trial["step"] == step).collect()
}

#[test]
fn a_known_loss_and_a_known_delay_are_measured() {
    let cpu = cpu().to_string();
    let output = Command::new(BENCH)
        .args(["selftest", "--no-huge", "--shared-cpus", "--rate", "5000", "--delay", "20ms"])
        .args(["--drop-every", "100", "--slack", "20ms"])
        .args(["--client-cpu", &cpu, "--server-cpu", &cpu, "--forwarder-cpu", &cpu])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    // It fails by itself where the counts or the latencies are others; these are its own words.
    assert_eq!(said.matches("50 lost").count(), 2, "one of 100 of 5000, twice: {said}");
}

#[test]
fn throughput_is_a_rate_at_which_nothing_is_lost() {
    let report = measure(
        10_000,
        "rfc2544 throughput --sizes 64,imix --flows 500 --max-rate 8000 --duration 500ms \
         --resolution 0.3 --setup-rate 2000 --attempts 4",
    );
    for sizes in ["64_octets", "imix"] {
        let rate = figure(&report, &format!("{sizes}/throughput"));
        assert!(rate > 0.0, "{report}");
        let loss = figure(&report, &format!("{sizes}/loss_at_throughput"));
        assert!(loss.abs() < f64::EPSILON, "{loss}");
    }
    let passed = trials(&report, "echo").into_iter().filter(|trial| trial["verdict"] == "passed");
    for trial in passed {
        assert_eq!(trial["received"], trial["packets"], "{trial}");
        assert!(trial["to_clients"]["p50"].as_f64().unwrap() > 0.0, "{trial}");
        assert_eq!(trial["director_connections"], 0.0, "no packet was a new connection's");
    }
}

#[test]
fn every_established_connection_is_in_the_directors_metrics() {
    let report = measure(
        100_000,
        "rfc9693 establish --service tcp://[2001:db8:1::100]:80 --servers fd00:a::11,fd00:a::12 \
         --connections 1000 --max-rate 4000 --resolution 0.3 --safe-rate 2000 \
         --attempts 4",
    );
    assert!(figure(&report, "establishment_rate/1000_connections") > 0.0, "{report}");
    for trial in trials(&report, "open") {
        if trial["verdict"] == "passed" {
            assert_eq!(trial["director_connections"], 1000.0, "{trial}");
        }
    }
    let valid = trials(&report, "validate");
    assert!(valid.iter().any(|trial| trial["received"] == 1000), "{report}");
}

#[test]
fn closed_connections_are_forgotten() {
    let report = measure(
        10_000,
        "rfc9693 teardown --service tcp://[2001:db8:1::100]:80 --servers fd00:a::11,fd00:a::12 \
         --connections 500 --max-rate 2000 --resolution 0.3 --safe-rate 2000 \
         --attempts 4 --settle 20s",
    );
    assert!(figure(&report, "close_rate/500_connections") > 0.0, "{report}");
    assert!(figure(&report, "expiry_rate/500_connections") > 0.0, "{report}");
}

#[test]
fn the_capacity_of_the_table_is_found() {
    // Half of them are for IPv6.
    let report = measure(
        4096,
        "rfc9693 capacity --start 1024 --most 4096 --resolution 0.3 --safe-rate 4000 --settle 20s \
         --attempts 2",
    );
    let kept = figure(&report, "table_capacity/all_kept");
    assert!((1400.0..=2048.0).contains(&kept), "{report}");
}
