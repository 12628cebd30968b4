//! The metrics through their real listener, read by an independent parser.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "support/plant.rs"]
mod plant;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use plant::{FakeDirector, Wishes, config, wait_until};
use pointsman::control::metrics::registry::{Metric, document};
use pointsman::control::{Listeners, StartError};
use pointsman::dataplane::stats::{DropReason, Stage};
use prometheus_parse::{Scrape, Value};

/// Status and body of `GET path`.
fn get(address: SocketAddr, path: &str) -> (u16, String) {
    request(address, &format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n"))
}

fn request(address: SocketAddr, text: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

fn scrape(address: SocketAddr) -> (String, Scrape) {
    let (status, body) = get(address, "/metrics");
    assert_eq!(status, 200);
    let parsed = Scrape::parse(body.lines().map(|line| Ok(line.to_owned()))).unwrap();
    (body, parsed)
}

/// The value of the sample with these labels.
fn value(scrape: &Scrape, name: &str, labels: &[(&str, &str)]) -> f64 {
    let mut samples = scrape.samples.iter().filter(|sample| {
        sample.metric == name
            && labels.iter().all(|(label, value)| sample.labels.get(label) == Some(value))
    });
    let sample = samples.next().unwrap_or_else(|| panic!("no {name} {labels:?}"));
    assert!(samples.next().is_none(), "more than one {name} {labels:?}");
    match sample.value {
        Value::Counter(value) | Value::Gauge(value) | Value::Untyped(value) => value,
        Value::Histogram(_) | Value::Summary(_) => panic!("{name} is neither counter nor gauge"),
    }
}

#[test]
fn every_declared_metric_is_set_and_every_sample_declared() {
    let directory = tempfile::tempdir().unwrap();
    let wishes = Wishes { paired: true, ..Wishes::default() };
    let director = FakeDirector::start_with(directory.path(), &wishes);
    for heard in ["peer", "standby"].map(|who| format!("pointsman_failover_{who}_heard_seconds{{"))
    {
        wait_until("the other director", || get(director.metrics, "/metrics").1.contains(&heard));
    }
    let (text, scrape) = scrape(director.metrics);
    let present: BTreeSet<_> = scrape.samples.iter().map(|sample| &*sample.metric).collect();
    let declared: BTreeSet<_> = Metric::ALL.iter().map(|metric| metric.info().name).collect();
    assert_eq!(present, declared);
    for metric in Metric::ALL {
        let info = metric.info();
        let kind = format!("# TYPE {} {}", info.name, info.kind.name());
        assert!(text.contains(&kind), "no {kind:?}");
        assert!(text.contains(&format!("# HELP {} ", info.name)));
        let labels: BTreeSet<_> = info.labels.iter().copied().collect();
        for sample in scrape.samples.iter().filter(|sample| sample.metric == info.name) {
            let given: BTreeSet<_> = sample.labels.keys().map(|label| &**label).collect();
            assert_eq!(given, labels, "labels of {}", info.name);
        }
        assert_eq!(
            info.name.ends_with("_total"),
            info.kind == pointsman::control::metrics::registry::Kind::Counter,
            "{}: counters, and only they, end in _total",
            info.name
        );
    }
    director.stop();
}

#[test]
fn no_sample_comes_twice() {
    let directory = tempfile::tempdir().unwrap();
    let director = FakeDirector::start(directory.path());
    let (text, _) = scrape(director.metrics);
    let mut seen = BTreeSet::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let series = line.rsplit_once(' ').unwrap().0;
        assert!(seen.insert(series), "{series} comes twice");
    }
    director.stop();
}

#[test]
fn figures_are_those_of_the_counters() {
    let directory = tempfile::tempdir().unwrap();
    let director = FakeDirector::start(directory.path());
    let [first, ..] = &*director.stats else { panic!("no worker") };
    first.bursts.add(7);
    first.stages.packets.add(64);
    first.stages.of(Stage::Forward).add(6400);
    first.hand_over_depth.set(3);
    wait_until("the workers' figures", || {
        director.stats.iter().all(|stats| stats.table_v4.used.get() == 3)
    });
    let (_, scrape) = scrape(director.metrics);
    let of = |name: &str, labels: &[(&str, &str)]| value(&scrape, name, labels);
    for reason in DropReason::ALL {
        let expected = if *reason == DropReason::NoService { 55.0 } else { 0.0 };
        let labels = [("worker", "1"), ("reason", reason.name())];
        assert!((of("pointsman_packets_dropped_total", &labels) - expected).abs() < 0.5);
    }
    let worker = [("worker", "0")];
    let handed = |direction| {
        of("pointsman_packets_handed_over_total", &[("worker", "0"), ("direction", direction)])
    };
    let come = of("pointsman_packets_received_total", &worker)
        + handed("in")
        + of("pointsman_packets_originated_total", &worker);
    let gone = of("pointsman_packets_transmitted_total", &worker)
        + handed("out")
        + of("pointsman_packets_consumed_total", &worker)
        + of("pointsman_packets_held", &worker)
        + 55.0;
    assert!((come - gone).abs() < 0.5, "{come} came, {gone} gone");
    let of_worker = |name: &str, label, value| of(name, &[("worker", "0"), (label, value)]);
    assert!((of("pointsman_worker_bursts_total", &worker) - 7.0).abs() < 0.5);
    assert!((of("pointsman_worker_stage_packets_total", &worker) - 64.0).abs() < 0.5);
    for (stage, cycles) in [("forward", 6400.0), ("look_up", 0.0)] {
        let have = of_worker("pointsman_worker_stage_cycles_total", "stage", stage);
        assert!((have - cycles).abs() < 0.5, "{stage}: {have}");
    }
    for (queue, packets) in [("hand_over", 3.0), ("receive", 0.0)] {
        let have = of_worker("pointsman_worker_waiting_packets", "queue", queue);
        assert!((have - packets).abs() < 0.5, "{queue}: {have}");
    }
    let port = [("interface", "inside"), ("driver", "net_null")];
    assert!((of("pointsman_port_missed_total", &port) - 205.0).abs() < 0.5);
    assert!((of("pointsman_mempool_in_use", &[("pool", "packets")]) - 17.0).abs() < 0.5);
    let service = [("service", "web"), ("listen", "tcp://203.0.113.10:80")];
    assert!((of("pointsman_service_in_packets_total", &service) - 140.0).abs() < 0.5);
    director.stop();
}

#[test]
fn health_and_readiness_answer_when_all_is_well() {
    let directory = tempfile::tempdir().unwrap();
    let director = FakeDirector::start(directory.path());
    assert_eq!(get(director.metrics, "/healthz"), (200, "healthy\n".to_owned()));
    wait_until("readiness", || get(director.metrics, "/readyz").0 == 200);
    director.stop();
}

#[test]
fn a_link_that_is_down_and_unasked_neighbours_keep_it_from_being_ready() {
    let directory = tempfile::tempdir().unwrap();
    let wishes = Wishes { link_up: false, answering: false, ..Wishes::default() };
    let director = FakeDirector::start_with(directory.path(), &wishes);
    let (status, body) = get(director.metrics, "/readyz");
    assert_eq!(status, 503);
    assert!(body.contains("outside is down") && body.contains("203.0.113.1 on outside"), "{body}");
    wait_until("the neighbours to be given up", || {
        !get(director.metrics, "/readyz").1.contains("neighbour")
    });
    director.stop();
}

#[test]
fn a_stuck_worker_is_unhealthy() {
    let directory = tempfile::tempdir().unwrap();
    let mut director = FakeDirector::start(directory.path());
    director.end_workers_now();
    // Workers are found out one by one, each a moment after it has ended.
    wait_until("ill health of both workers", || {
        let (status, body) = get(director.metrics, "/healthz");
        status == 503 && body.contains("worker 0 on CPU 0") && body.contains("worker 1 on CPU 1")
    });
    director.stop();
}

#[test]
fn other_paths_and_methods_are_refused_kindly() {
    let directory = tempfile::tempdir().unwrap();
    let director = FakeDirector::start(directory.path());
    let (status, body) = get(director.metrics, "/");
    assert_eq!(status, 404);
    assert!(body.contains("/metrics"), "{body}");
    let post = "POST /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(request(director.metrics, post).0, 405);
    director.stop();
}

/// Names, units, help and format, by Prometheus' own lint.
#[test]
fn promtool_finds_nothing_to_complain_about() {
    let directory = tempfile::tempdir().unwrap();
    let director = FakeDirector::start(directory.path());
    let (status, text) = get(director.metrics, "/metrics");
    assert_eq!(status, 200);
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect(
            "this test needs promtool: apt-get install prometheus, or scripts/install-deps test",
        );
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
    director.stop();
}

#[test]
fn slow_and_hostile_clients_block_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let director = FakeDirector::start(directory.path());
    let hostile: Vec<_> = (0..100)
        .map(|number| {
            let mut stream = TcpStream::connect(director.metrics).unwrap();
            let half: &[u8] =
                if number % 2 == 0 { b"GET /metr" } else { b"\x16\x03\x01\x00\xff\x01" };
            stream.write_all(half).unwrap();
            stream
        })
        .collect();
    let started = Instant::now();
    assert_eq!(get(director.metrics, "/healthz").0, 200);
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    drop(hostile);
    let oversized = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(20_000));
    let mut stream = TcpStream::connect(director.metrics).unwrap();
    // The server may close before it has read all.
    stream.write_all(oversized.as_bytes()).ok();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok();
    assert_eq!(get(director.metrics, "/healthz").0, 200);
    director.stop();
}

#[test]
fn an_occupied_metrics_address_is_an_error_that_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let occupant = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = config(directory.path());
    config.director.metrics = Some(occupant.local_addr().unwrap());
    let refused = Listeners::bind(&config).unwrap_err();
    assert!(matches!(refused, StartError::MetricsInUse { .. }), "{refused}");
    let port = occupant.local_addr().unwrap().port().to_string();
    assert!(refused.to_string().contains(&port), "{refused}");
    assert!(!config.director.socket.exists(), "nothing is left behind");
}

#[test]
fn the_documentation_is_what_the_registry_generates() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
    if std::env::var_os("POINTSMAN_WRITE_DOCS").is_some() {
        std::fs::write(path, document()).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        committed == document(),
        "docs/metrics.md is out of date: POINTSMAN_WRITE_DOCS=1 cargo test --no-default-features \
         --test metrics writes it"
    );
}
