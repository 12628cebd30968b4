//! What clients and servers see.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::director::BINARY;
use crate::lab::{Lab, VIP4, VIPS, eventually, forget_soon, schedule, script};

/// Who answers `count` requests to a VIP, each over a connection of its own.
pub(crate) fn answers(lab: &Lab, vip: &str, count: usize) -> BTreeMap<String, usize> {
    let curl = "curl -sS --max-time 10 -H 'Connection: close'";
    let text = lab.client(&format!("{curl} 'http://{vip}/?[1-{count}]'"));
    tally(text.lines())
}

/// Who answers `count` datagrams, each from a port of its own; their payload is checked.
pub(crate) fn echoes(lab: &Lab, vip: &str, count: usize) -> BTreeMap<String, usize> {
    let (address, script) = (vip.trim_matches(['[', ']']), script("lab/udp_echo.py"));
    let text =
        lab.client(&format!("/usr/bin/python3 {} ask {address} 7 {count}", script.display()));
    let line = |line: &str| {
        let (name, count) = line.split_once(' ').unwrap();
        (name.to_owned(), count.parse().unwrap())
    };
    text.lines().map(line).collect()
}

/// Fetches 1 MiB `count` times, many at once, and compares the checksums.
pub(crate) fn bodies_arrive_intact(lab: &Lab, vip: &str, count: usize) {
    let content = lab.state().join("content/big");
    let want = lab.client(&format!("sha256sum <{}", content.display()));
    let sums = lab.client(&format!(
        "set -e; d=$(mktemp -d); trap 'rm -rf $d' EXIT; cd $d; \
         curl -sSf --max-time 60 --parallel --parallel-immediate --parallel-max 16 \
             -o '#1' 'http://{vip}/big?[1-{count}]'; \
         for f in *; do sha256sum <$f; done"
    ));
    assert_eq!(tally(sums.lines()), BTreeMap::from([(want.trim().to_owned(), count)]), "{vip}");
}

fn tally<'t>(lines: impl Iterator<Item = &'t str>) -> BTreeMap<String, usize> {
    lines.fold(BTreeMap::new(), |mut counts, line| {
        *counts.entry(line.to_owned()).or_default() += 1;
        counts
    })
}

pub(crate) fn shares(of: [usize; 3]) -> BTreeMap<String, usize> {
    let names = ["rs1", "rs2", "rs3"].into_iter().map(str::to_owned);
    names.zip(of).filter(|(_, share)| *share > 0).collect()
}

pub(crate) fn nothing_was_lost(drops: &[(String, u64)]) {
    assert!(drops.is_empty(), "packets were dropped: {drops:?}");
}

#[test]
fn http_reaches_every_server_in_proportion_to_the_weights() {
    let lab = Lab::two_nic("http");
    let mut config = lab.config("0");
    schedule(&mut config, "web6", "wrr", [3, 2, 1]);
    schedule(&mut config, "echo", "wrr", [1, 0, 2]);
    let director = lab.direct(&config);

    assert_eq!(answers(&lab, VIPS[0], 60), shares([20, 20, 20]));
    assert_eq!(answers(&lab, VIPS[1], 60), shares([30, 20, 10]));
    assert_eq!(echoes(&lab, VIPS[0], 60), shares([20, 0, 40]));
    assert_eq!(echoes(&lab, VIPS[1], 60), shares([20, 20, 20]));

    let metrics = director.balanced_metrics();
    assert_eq!(metrics.connections("web6"), [30, 20, 10]);
    assert_eq!(metrics.connections("echo"), [20, 0, 40]);
    assert_eq!(lab.client("curl -sS --max-time 5 'http://192.0.2.100/client'"), "192.0.2.10\n");
    let seen = lab.client("curl -sS --max-time 5 'http://[2001:db8:1::100]/client'");
    assert_eq!(seen, "2001:db8:1::10\n");
    nothing_was_lost(&metrics.drops());
    director.stop();
}

#[test]
fn status_shows_where_the_cycles_of_each_worker_go() {
    let lab = Lab::two_nic("stages");
    let director = lab.direct(&lab.config("0, 1"));
    lab.client(
        "for i in $(seq 30); do curl -sS --max-time 5 -o /dev/null http://192.0.2.100/big; done",
    );
    let metrics = director.metrics();
    assert!(metrics.sum("worker_bursts_total", &[]) > 0);
    assert!(metrics.sum("worker_stage_packets_total", &[]) > 0);
    for stage in ["receive", "look_up", "forward", "transmit", "housekeep"] {
        let cycles = metrics.sum("worker_stage_cycles_total", &[("stage", stage)]);
        assert!(cycles > 0, "{stage}");
    }
    let socket = lab.state().join("pointsman.sock");
    let text =
        lab.run("director", &format!("{BINARY} status --workers --socket {}", socket.display()));
    assert!(text.contains("PKTS/BURST") && text.contains("LOOK UP"), "{text}");
    director.stop();
}

/// What iperf3 says of one second, or as `how` says, between a host and one that serves it. After each
/// test the server closes its port for a moment.
pub(crate) fn iperf3(
    lab: &Lab,
    (host, server): (&str, &str),
    address: &str,
    port: u16,
    how: &str,
) -> serde_json::Value {
    eventually(Duration::from_secs(10), "iperf3 serves again", || {
        let ends =
            lab.run(server, &format!("ss -Htan state listening state established sport = {port}"));
        (ends.lines().count() == 1 && ends.contains("LISTEN")).then_some(())
    });
    let line = format!("timeout 30 iperf3 --time 1 --json --port {port} --client {address} {how}");
    serde_json::from_str(&lab.run(host, &line)).unwrap()
}

#[test]
fn bulk_data_flows_in_both_directions() {
    let lab = Lab::two_nic("bulk");
    let director = lab.direct(&lab.config("0"));
    for vip in ["192.0.2.100", "2001:db8:1::100"] {
        for reverse in ["", "--reverse", "--bidir"] {
            let report = iperf3(&lab, ("client", "rs1"), vip, 5201, reverse);
            let received = &report["end"]["sum_received"]["bytes"];
            assert!(received.as_u64().unwrap() > 10 << 20, "{vip} {reverse}: {received} octets");
        }
    }
    director.balanced_metrics();
    director.stop();
}

#[test]
fn bodies_of_a_mebibyte_arrive_intact() {
    let lab = Lab::two_nic("bodies");
    let director = lab.direct(&lab.config("0"));
    for vip in VIPS {
        bodies_arrive_intact(&lab, vip, 48);
        uploads_arrive_intact(&lab, vip);
    }
    director.balanced_metrics();
    director.stop();
}

/// Sends 8 MiB through the VIP of iperf3, in whose place something listens that answers with the
/// checksum of what it got.
pub(crate) fn uploads_arrive_intact(lab: &Lab, vip: &str) {
    lab.end("rs1-iperf3");
    let server = "import hashlib, socket
listener = socket.create_server(('::', 5201), family=socket.AF_INET6, dualstack_ipv6=True)
while True:
    connection, _ = listener.accept()
    sum = hashlib.sha256()
    while data := connection.recv(65536): sum.update(data)
    connection.sendall(sum.hexdigest().encode())
    connection.close()";
    let client = "import hashlib, random, socket, sys
data = random.Random(1).randbytes(8 << 20)
connection = socket.create_connection((sys.argv[1], 5201), 10)
connection.sendall(data)
connection.shutdown(socket.SHUT_WR)
answer = b''
while part := connection.recv(100): answer += part
assert answer.decode() == hashlib.sha256(data).hexdigest(), answer";
    lab.lab(&["start", "rs1", "rs1-iperf3", "/usr/bin/python3", "-c", server]);
    eventually(Duration::from_secs(5), "the checksum server listens", || {
        lab.run("rs1", "ss -Hltn sport = 5201").contains("LISTEN").then_some(())
    });
    let vip = vip.trim_matches(['[', ']']);
    lab.lab(&["exec", "client", "/usr/bin/python3", "-c", client, vip]);
}

#[test]
fn a_load_leaves_no_connection_and_no_packet_behind() {
    let lab = Lab::two_nic("load");
    let mut config = lab.config("0");
    forget_soon(&mut config);
    let director = lab.direct(&config);
    for vip in VIPS {
        // Kept connections, then one connection for each request.
        wrk(&lab, vip, "");
        wrk(&lab, vip, "-H 'Connection: close'");
        echoes(&lab, vip, 100);
    }
    let metrics = director.balanced_metrics();
    assert!(metrics.connections("web").iter().all(|connections| *connections > 100));
    director.is_empty_again();
    director.stop();
}

/// A load of two seconds that must not fail.
pub(crate) fn wrk(lab: &Lab, vip: &str, more: &str) {
    let report = lab.client(&format!("wrk -t1 -c32 -d2s {more} http://{vip}/"));
    let errors = report.contains("Socket errors") || report.contains("Non-2xx");
    assert!(!errors && report.contains("Requests/sec"), "{report}");
}

#[test]
fn a_server_of_weight_0_gets_nothing_new() {
    let lab = Lab::two_nic("weight0");
    let mut config = lab.config("0");
    for (name, scheduler) in [("web", "rr"), ("web6", "wrr"), ("echo", "lc"), ("echo6", "wlc")] {
        schedule(&mut config, name, scheduler, [1, 0, 1]);
    }
    let director = lab.direct(&config);
    for vip in VIPS {
        assert_eq!(answers(&lab, vip, 20), shares([10, 0, 10]), "{vip}");
        assert_eq!(echoes(&lab, vip, 20), shares([10, 0, 10]), "{vip}");
        wrk(&lab, vip, "");
    }
    let metrics = director.balanced_metrics();
    for service in ["web", "web6", "echo", "echo6"] {
        assert_eq!(metrics.connections(service)[1], 0, "{service}");
    }
    director.stop();
}

#[test]
fn a_service_without_weights_answers_nobody() {
    let lab = Lab::two_nic("noweight");
    let mut config = lab.config("0");
    schedule(&mut config, "web", "rr", [0, 0, 0]);
    let director = lab.direct(&config);
    let refused = lab.attempt("client", &format!("curl -sS --max-time 2 http://{VIP4}/"));
    assert!(!refused.status.success(), "{refused:?}");
    let drops = director.balanced_metrics().drops();
    assert_eq!(drops.first().map(|(reason, _)| &**reason), Some("no_server"), "{drops:?}");
    director.stop();
}

#[test]
fn one_nic_is_enough() {
    let lab = Lab::one_nic("onenic");
    let director = lab.direct(&lab.config("0"));
    for vip in VIPS {
        assert_eq!(answers(&lab, vip, 30), shares([10, 10, 10]), "{vip}");
        assert_eq!(echoes(&lab, vip, 30), shares([10, 10, 10]), "{vip}");
        bodies_arrive_intact(&lab, vip, 8);
        wrk(&lab, vip, "");
    }
    director.balanced_metrics();
    director.stop();
}
