//! Start, stop, kill, and start again.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::director::BINARY;
use crate::lab::{Lab, VIP4, VIPS, eventually};
use crate::traffic::{answers, shares};

/// What a director could leave on the machine: its processes, DPDK's files, network interfaces.
fn traces(lab: &Lab) -> BTreeSet<String> {
    let mut traces = BTreeSet::new();
    for directory in ["/run/dpdk", "/run/dpdk/rte", "/run/pointsman", "/dev/hugepages"] {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            traces.insert(entry.path().display().to_string());
        }
    }
    let mut look = |line: &str| {
        let lines = lab.attempt("director", line).stdout;
        traces.extend(String::from_utf8_lossy(&lines).lines().map(str::to_owned));
    };
    look("ip -o link | cut -d: -f2");
    look("ip -d link | grep -o 'prog/xdp.*\\|promiscuity 1.*'");
    look(&format!("pgrep -f '{}/[p]ointsman.toml'", lab.state().display()));
    traces
}

#[test]
fn sigterm_under_load_leaves_nothing_behind() {
    let lab = Lab::two_nic("sigterm");
    let before = traces(&lab);
    for workers in ["0", "0, 1"] {
        let director = lab.direct(&lab.config(workers));
        lab.begin("client", "load", &format!("wrk -t1 -c64 -d30s http://{VIP4}/"));
        lab.begin("client", "load6", &format!("wrk -t1 -c64 -d30s http://{}/", VIPS[1]));
        eventually(Duration::from_secs(10), "the load has its connections", || {
            let opened = director.metrics().sum("service_connections_total", &[]);
            (opened >= 64).then_some(())
        });
        let begun = Instant::now();
        director.stop();
        assert!(begun.elapsed() < Duration::from_secs(5), "stopping took {:?}", begun.elapsed());
        for load in ["load", "load6"] {
            lab.end(load);
        }
        assert_eq!(traces(&lab), before, "{workers}");
    }
}

#[test]
fn sigint_stops_it_too() {
    let lab = Lab::two_nic("sigint");
    let _director = lab.direct(&lab.config("0"));
    kill(&lab, "INT");
    assert_eq!(lab.exit_code("pointsman", Duration::from_secs(10)), 0);
}

fn kill(lab: &Lab, signal: &str) {
    let pid = lab.pid("pointsman").to_string();
    assert!(Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
}

#[test]
fn a_director_that_was_killed_starts_again() {
    let lab = Lab::two_nic("killed");
    let config = lab.config("0");
    for turn in 0..2 {
        let _director = lab.direct(&config);
        assert_eq!(answers(&lab, VIP4, 9), shares([3, 3, 3]), "turn {turn}");
        kill(&lab, "KILL");
        assert_eq!(lab.exit_code("pointsman", Duration::from_secs(10)), 137);
        assert!(lab.state().join("pointsman.sock").exists(), "nobody could have removed it");
    }
    let director = lab.direct(&config);
    for vip in VIPS {
        assert_eq!(answers(&lab, vip, 9), shares([3, 3, 3]), "{vip}");
    }
    director.stop();
}

#[test]
fn directors_run_beside_one_another() {
    let lab = Lab::two_nic("beside");
    let director = lab.direct(&lab.config("0"));
    // Another one, with a socket and an address of its own, that has no packets at all.
    let other = lab.state().join("other.toml");
    let text = format!(
        "[director]\nworkers = [0]\nidle = \"adaptive\"\nconnections = 10_000\n\
         metrics = \"127.0.0.1:9465\"\nsocket = \"{}/other.sock\"\n\
         [dpdk]\nhugepages = false\nmemory = \"128MiB\"\n\
         [interface.lan]\nrole = \"both\"\ndevice = \"net_null0\"\naddresses = [\"198.51.100.1/24\"]\n",
        lab.state().display()
    );
    std::fs::write(&other, text).unwrap();
    let other = other.to_str().unwrap();
    lab.lab(&["start", "director", "other", BINARY, "run", "--config", other]);
    eventually(Duration::from_secs(20), "the other one is ready", || {
        let line = "curl -sf --max-time 1 http://127.0.0.1:9465/readyz";
        lab.attempt("director", line).status.success().then_some(())
    });
    assert_eq!(answers(&lab, VIP4, 9), shares([3, 3, 3]));
    assert_eq!(lab.end("other"), 0, "{}", lab.log("other"));
    assert!(!Path::new(&format!("{}/other.sock", lab.state().display())).exists());
    assert_eq!(answers(&lab, VIP4, 9), shares([3, 3, 3]));
    director.stop();
}
