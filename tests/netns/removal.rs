//! Servers that are removed while clients of theirs wait.

use std::time::Duration;

use toml::Table;

use crate::director::{BINARY, Director};
use crate::lab::{Lab, VIP4, eventually, schedule, service};

/// A client that has sent half a request and waits for the answer; it prints what came of that,
/// and when.
const BLOCKED: &str = r#"
import socket, sys, time
server = socket.create_connection((sys.argv[1], 80), 5)
server.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
server.settimeout(30)
open(sys.argv[2], "w").close()
try:
    answer = "data" if server.recv(1) else "closed"
except ConnectionResetError:
    answer = "reset"
except TimeoutError:
    answer = "nothing"
print(answer, time.time(), flush=True)
"#;

/// The first server has all connections of the services.
fn config(lab: &Lab) -> (Table, [String; 2]) {
    let mut config = lab.config("0, 1");
    let servers = ["web", "web6"].map(|name| {
        schedule(&mut config, name, "rr", [1, 0, 0]);
        let servers = &service(&mut config, name)["servers"];
        servers[0]["address"].as_str().unwrap().to_owned()
    });
    (config, servers)
}

/// Removes a server; when that was, in seconds.
fn remove(lab: &Lab, (service, server): (&str, &str), connections: &str) -> f64 {
    let socket = lab.state().join("pointsman.sock");
    let remove = format!(
        "date +%s.%N; exec {BINARY} server remove {service} '{server}' \
         --connections {connections} --socket {} >&2",
        socket.display()
    );
    lab.run("director", &remove).trim().parse().unwrap()
}

/// Starts a client that waits, and waits until it does.
fn block(lab: &Lab, name: &str, vip: &str) {
    let ready = lab.state().join(format!("{name}.ready"));
    lab.begin(
        "client",
        name,
        &format!("/usr/bin/python3 -c '{BLOCKED}' {vip} {}", ready.display()),
    );
    eventually(Duration::from_secs(10), "the client waits", || ready.exists().then_some(()));
}

fn connections(director: &Director<'_>) -> u64 {
    director.metrics().sum("connection_table_used", &[])
}

#[test]
fn with_reset_a_client_that_waits_is_told_within_a_second() {
    let lab = Lab::two_nic("removal-reset");
    let (config, [server, server6]) = config(&lab);
    let director = lab.direct(&config);
    for (name, server, vip) in [("web", server, VIP4), ("web6", server6, "2001:db8:1::100")] {
        block(&lab, name, vip);
        let removed = remove(&lab, (name, &server), "reset");
        assert_eq!(lab.exit_code(name, Duration::from_secs(5)), 0);
        let log = lab.log(name);
        let (answer, when) = log.trim().split_once(' ').unwrap();
        assert_eq!(answer, "reset", "{vip}");
        let took = when.parse::<f64>().unwrap() - removed;
        assert!((0.0..1.0).contains(&took), "{vip}: after {took} s");
    }
    let metrics = director.balanced_metrics();
    assert_eq!(metrics.sum("removal_probes_total", &[]), 2);
    assert!(metrics.sum("removal_resets_total", &[]) >= 2);
    director.stop();
}

#[test]
fn with_finish_a_transfer_goes_on_and_with_forget_nothing_is_sent() {
    let lab = Lab::two_nic("removal-others");
    let (config, [server, server6]) = config(&lab);
    let director = lab.direct(&config);

    let transfer =
        format!("curl -sSf --max-time 30 --limit-rate 256k -o /dev/null http://{VIP4}/big");
    lab.begin("client", "transfer", &transfer);
    eventually(Duration::from_secs(10), "the transfer is under way", || {
        (connections(&director) > 0).then_some(())
    });
    remove(&lab, ("web", &server), "finish");
    assert_eq!(lab.exit_code("transfer", Duration::from_secs(30)), 0);

    block(&lab, "waits", "2001:db8:1::100");
    let before = connections(&director);
    remove(&lab, ("web6", &server6), "forget");
    eventually(Duration::from_secs(2), "the connection is forgotten", || {
        (connections(&director) < before).then_some(())
    });
    std::thread::sleep(Duration::from_secs(1));
    assert!(!lab.state().join("waits.exit").exists(), "the client still waits");
    let metrics = director.balanced_metrics();
    assert_eq!(metrics.sum("removal_probes_total", &[]), 0);
    assert_eq!(metrics.sum("removal_resets_total", &[]), 0);
    lab.end("waits");
    director.stop();
}
