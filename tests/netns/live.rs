//! Changes of a running director under real load.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use pointsman::control::api::client::{ChangeCall, Client};
use serde_json::json;

use crate::director::{BINARY, Director};
use crate::lab::{Lab, VIP4, VIPS, add_service, eventually};
use crate::traffic::{answers, nothing_was_lost, shares};

/// A subcommand of pointsman, asked of the director of a laboratory; its output.
pub(crate) fn tell(lab: &Lab, line: &str) -> String {
    let socket = lab.state().join("pointsman.sock");
    lab.run("director", &format!("POINTSMAN_SOCKET={} {BINARY} {line}", socket.display()))
}

/// The connections of a service's servers that are live: active and inactive ones.
fn live(director: &Director<'_>, server: &str) -> u64 {
    let metrics = director.metrics();
    let of = |gauge| metrics.sum(gauge, &[("service", "web"), ("server", server)]);
    of("server_active_connections") + of("server_inactive_connections")
}

/// wrk in the background for some seconds, `with` arguments; `during` happens meanwhile. Its report
/// has no errors.
pub(crate) fn under_load(lab: &Lab, seconds: u32, with: &str, during: impl FnOnce()) {
    let line = format!("wrk -t1 -c16 -d{seconds}s --timeout 5s {with}");
    lab.begin("client", "wrk", &line);
    std::thread::sleep(Duration::from_millis(300));
    during();
    let code = lab.exit_code("wrk", Duration::from_secs(u64::from(seconds) + 20));
    let report = lab.log("wrk");
    let failed = report.contains("Socket errors") || report.contains("Non-2xx");
    assert!(code == 0 && !failed && report.contains("Requests/sec"), "{report}");
}

#[test]
fn servers_come_go_and_change_under_load_without_an_error() {
    let lab = Lab::two_nic("live");
    for more in ["", "-H 'Connection: close' "] {
        let load = format!("{more}http://{VIP4}/");
        let director = lab.direct(&lab.config("0, 1"));
        under_load(&lab, 6, &load, || {
            tell(&lab, "server remove web 10.0.0.13:8080");
            tell(&lab, "set web/10.0.0.11:8080 weight=5");
            tell(&lab, "set web scheduler=wrr");
            tell(&lab, "server add web 10.0.0.13:8080 weight=2 slow_start=1s");
            for scheduler in ["wlc", "sh", "mh", "nq", "lblcr", "maglev", "rr"] {
                tell(&lab, &format!("set web scheduler={scheduler}"));
            }
            tell(&lab, "timeout established=1m");
            tell(&lab, "drain 10.0.0.12:8080 --no-wait");
            tell(&lab, "service add other tcp://192.0.2.100:8080");
            tell(&lab, "server add other 10.0.0.12:8080");
            assert!(tell(&lab, "reload --dry-run").contains("- service other"));
            tell(&lab, "reload");
            // A drain outlasts the director; sh and mh refuse clients of a drained server.
            tell(&lab, "drain 10.0.0.12:8080 --cancel");
        });
        let metrics = director.balanced_metrics();
        nothing_was_lost(&metrics.drops());
        assert!(metrics.sum("changes_total", &[("result", "applied")]) >= 15);
        assert_eq!(metrics.sum("changes_total", &[("result", "refused")]), 0);
        director.stop();
    }
}

#[test]
fn a_drained_server_empties_while_others_serve() {
    let lab = Lab::two_nic("drain");
    let director = lab.direct(&lab.config("0"));
    // A download that takes three seconds and more holds one connection.
    let slow = format!("curl -sS --max-time 30 --limit-rate 300k -o /dev/null http://{VIP4}/big");
    for number in 0..3 {
        lab.begin("client", &format!("slow{number}"), &slow);
    }
    eventually(Duration::from_secs(5), "every server has one", || {
        let of = |host| live(&director, &format!("10.0.0.1{host}:8080"));
        (of(1) > 0 && of(2) > 0 && of(3) > 0).then_some(())
    });
    let began = Instant::now();
    let text = tell(&lab, "set web timeouts.time_wait=1s")
        + &tell(&lab, "timeout time_wait=1s fin_wait=1s close_wait=1s last_ack=1s");
    assert!(text.contains("time_wait"), "{text}");
    let text = tell(&lab, "drain 10.0.0.12:8080 --service web --timeout 30s");
    assert!(text.contains("10.0.0.12:8080 of web: 0 connections left"), "{text}");
    assert!(began.elapsed() > Duration::from_secs(1), "the download went on");
    assert_eq!(answers(&lab, VIPS[0], 20), shares([10, 0, 10]));
    for number in 0..3 {
        let code = lab.exit_code(&format!("slow{number}"), Duration::from_secs(30));
        assert_eq!(code, 0, "{}", lab.log(&format!("slow{number}")));
    }
    tell(&lab, "drain 10.0.0.12:8080 --cancel");
    assert_eq!(answers(&lab, VIPS[0], 30), shares([10, 10, 10]));
    nothing_was_lost(&director.balanced_metrics().drops());
    director.stop();
}

/// Requests, half requests and garbage, 10,000 in all, while clients are served.
#[test]
fn ten_thousand_requests_do_not_disturb_forwarding() {
    let lab = Lab::two_nic("requests");
    let director = lab.direct(&lab.config("0, 1"));
    let socket = lab.state().join("pointsman.sock");
    let words: [&[u8]; 6] = [
        b"GET /v1/status HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /v1/services HTTP/1.1\r\nhost: x\r\n\r\n",
        b"POST /v1/services HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n{\"a\":",
        b"DELETE /v1/services/nobody HTTP/1.1\r\nhost: x\r\n\r\n",
        b"POST /v1/services HTTP/1.1\r\ncontent-length: 900\r\n\r\n{",
        b"\x16\x03\x01\x00\xff\x01 garbage",
    ];
    let ask = &|number: usize| {
        let mut stream = UnixStream::connect(&socket).unwrap();
        // The director may close a connection that it does not like at once.
        stream.write_all(words[number % words.len()]).ok();
        if number % words.len() < 4 {
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).ok();
            assert!(answer.starts_with(b"HTTP/1.1 "), "request {number} has no answer");
        }
    };
    under_load(&lab, 20, &format!("http://{VIP4}/"), || {
        std::thread::scope(|scope| {
            for thread in 0..4 {
                scope.spawn(move || (0..2500).for_each(|number| ask(number * 4 + thread)));
            }
        });
    });
    let metrics = director.balanced_metrics();
    nothing_was_lost(&metrics.drops());
    assert_eq!(metrics.sum("port_missed_total", &[]), 0);
    assert_eq!(metrics.sum("changes_total", &[("result", "applied")]), 0);
    director.stop();
}

/// 10,000 changes while a stream and datagrams of services flow that none of them names.
#[test]
fn ten_thousand_changes_do_not_disturb_what_they_do_not_name() {
    let lab = Lab::two_nic("changes");
    let mut config = lab.config("0, 1");
    add_service(&mut config, "datagrams", "udp://192.0.2.100:5201", &["10.0.0.11:5201"]);
    let director = lab.direct(&config);
    let iperf = "iperf3 --json --time 120 --client 192.0.2.100";
    // The tool has one test at a time: datagrams here, a stream below.
    lab.begin(
        "client",
        "datagrams",
        &format!("timeout 150 {iperf} --udp --bitrate 2M --length 200"),
    );
    let stream = format!("curl -sS --max-time 150 --limit-rate 15k -o /dev/null http://{VIP4}/big");
    lab.begin("client", "stream", &stream);
    std::thread::sleep(Duration::from_secs(1));
    let client = Client::new(lab.state().join("pointsman.sock"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let began = Instant::now();
    let mut worst = 0.0_f64;
    for turn in 0..10_000_u32 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let (host, port) = (11 + random % 3, 9000 + random / 3 % 8);
        let (service, server) = (format!("other{port}"), format!("10.0.0.{host}:80"));
        let schedulers = ["rr", "wrr", "wlc", "sh", "mh", "lblc", "nq", "twos"];
        let scheduler = schedulers[usize::try_from(random / 24 % 8).unwrap()];
        let call = match random / 192 % 6 {
            0 => ChangeCall::add_service(json!({
                "name": service, "listen": format!("tcp://192.0.2.100:{port}"),
                "servers": [{ "address": server }],
            })),
            1 => ChangeCall::remove_service(&service),
            2 => ChangeCall::add_server(&service, json!({ "address": server, "weight": turn % 5 })),
            3 => ChangeCall::remove_server(&service, &server),
            4 => ChangeCall::set_service(&service, json!({ "scheduler": scheduler })),
            _ => ChangeCall::set_server(&service, &server, json!({ "weight": turn % 7 })),
        };
        // Some of them are not possible, and change nothing.
        if let Ok(changed) = runtime.block_on(client.change(call)) {
            assert!(changed.silent_workers.is_empty(), "{changed:?}");
            worst = worst.max(changed.acknowledged_seconds.unwrap_or_default());
        }
    }
    let took = began.elapsed();
    let metrics = director.metrics();
    let applied = metrics.sum("changes_total", &[("result", "applied")]);
    eprintln!("{applied} of 10000 changes applied in {took:?}, the slowest after {worst} s");
    assert!(applied > 2500, "{applied}");
    lab.end("datagrams");
    let metrics = director.balanced_metrics();
    nothing_was_lost(&metrics.drops());
    assert_eq!(metrics.sum("port_missed_total", &[]), 0);
    let of = |name, service| metrics.sum(name, &[("service", service)]);
    let sent = of("service_in_packets_total", "datagrams");
    assert!(sent > 1000, "{sent} datagrams");
    // The stream ends as it should, with one connection.
    let code = lab.exit_code("stream", Duration::from_secs(120));
    assert_eq!(code, 0, "{}", lab.log("stream"));
    assert_eq!(of("service_connections_total", "web"), 1);
    director.stop();
}
