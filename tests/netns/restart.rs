//! A director whose place another process takes: by `pointsman upgrade`, or by a restart with a
//! file. Connections of every kind go on.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value as Json;
use toml::{Table, Value};

use crate::director::{BINARY, Metrics};
use crate::ftp;
use crate::lab::{Lab, VIP4, add_service, eventually, section};
use crate::masquerade::masquerade;
use crate::pair::{begin_downloads, downloads_end_well};

/// A director and its successors; they end with the test.
struct Line<'l> {
    lab: &'l Lab,
    pid: u32,
}

impl<'l> Line<'l> {
    fn start(lab: &'l Lab, config: &Table) -> Self {
        let file = write(lab, "pointsman", config);
        let file = file.to_str().unwrap();
        lab.lab(&["start", "director", "pointsman", BINARY, "run", "--config", file]);
        let line = Self { lab, pid: lab.pid("pointsman") };
        line.serves();
        line
    }

    /// The director answers, and knows its neighbours.
    fn serves(&self) {
        eventually(Duration::from_secs(30), "the director is ready", || {
            let line = "curl -sf --max-time 2 -o /dev/null http://127.0.0.1:9464/readyz";
            self.lab.attempt("director", line).status.success().then_some(())
        });
    }

    fn attempt(&self, words: &str) -> (bool, String) {
        let socket = self.lab.state().join("pointsman.sock");
        let line = format!("POINTSMAN_SOCKET={} {BINARY} {words}", socket.display());
        let output = self.lab.attempt("director", &line);
        let text = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        (output.status.success(), text.concat())
    }

    /// A new process takes over; what it says of that.
    fn upgrade(&mut self, more: &str) -> Json {
        let before = self.pid;
        let (is_well, text) = self.attempt(&format!("upgrade --json {more}"));
        assert!(is_well, "{text}\n{}", self.log());
        let status: Json = serde_json::from_str(&text).unwrap();
        self.pid = u32::try_from(status["pid"].as_u64().unwrap()).unwrap();
        assert_ne!(self.pid, before);
        eventually(Duration::from_secs(10), "the process before has ended", || {
            (!PathBuf::from(format!("/proc/{before}")).exists()).then_some(())
        });
        let taken = status["taken_over"].clone();
        assert_eq!(taken["from"], "director");
        eprintln!("upgrade: {taken}");
        taken
    }

    /// An upgrade does not come about, and this process goes on.
    fn does_not_upgrade(&self, more: &str, why: &str) {
        let (is_well, text) = self.attempt(&format!("upgrade {more}"));
        assert!(!is_well && text.contains(why), "{more}: {text}");
        assert!(PathBuf::from(format!("/proc/{}", self.pid)).exists());
        let (is_well, text) = self.attempt("status");
        assert!(is_well, "{text}");
    }

    fn metrics(&self) -> Metrics {
        let text = self.lab.run("director", "curl -sSf --max-time 5 http://127.0.0.1:9464/metrics");
        Metrics::parse(&text)
    }

    fn log(&self) -> String {
        self.lab.log("pointsman")
    }

    /// SIGTERM: it ends in order, with every packet accounted for.
    fn stop(&self) {
        let before = self.log().matches("stopped received=").count();
        self.lab.run("director", &format!("kill -TERM {}", self.pid));
        eventually(Duration::from_secs(20), "the director has ended", || {
            (!PathBuf::from(format!("/proc/{}", self.pid)).exists()).then_some(())
        });
        let log = self.log();
        let accounts: Vec<_> =
            log.lines().filter(|line| line.contains("stopped received=")).collect();
        assert_eq!(accounts.len(), before + 1, "{log}");
        assert!(!log.contains("panicked"), "{log}");
        let is_balanced = |line: &&str| line.contains("imbalance=0 buffers_in_use=0");
        assert!(accounts.iter().all(is_balanced), "{log}");
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.lab.attempt("director", &format!("kill -KILL {}", self.pid));
        }
    }
}

fn write(lab: &Lab, name: &str, config: &Table) -> PathBuf {
    let file = lab.state().join(format!("{name}.toml"));
    fs::write(&file, toml::to_string(config).unwrap()).unwrap();
    file
}

/// Asks every few milliseconds over one connection until a file is there, and says how long the longest silence was. A
/// connection that breaks, or an answer that is not what was asked, is an error.
const TICKER: &str = r#"
import os, socket, sys, time, threading
kind, host, port, pause, end = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), sys.argv[5]
sys.setswitchinterval(0.0005)
family = socket.AF_INET6 if ":" in host else socket.AF_INET
begun = time.monotonic()
longest, answers, last = 0.0, 0, begun
if kind == "tcp":
    s = socket.create_connection((host, port), timeout=20)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    print(s.getsockname(), flush=True)
    while not os.path.exists(end):
        asked = b"%012d" % answers
        s.sendall(asked)
        got = b""
        while len(got) < 12:
            part = s.recv(12 - len(got))
            assert part, "the connection was closed"
            got += part
        assert got == asked, (got, asked)
        now = time.monotonic()
        longest, last, answers = max(longest, now - last), now, answers + 1
        time.sleep(pause)
    sent = answers
else:
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.connect((host, port))
    sent, over = 0, False
    def send():
        global sent, over
        while not os.path.exists(end):
            s.send(b"%d" % sent)
            sent += 1
            time.sleep(pause)
        over = True
    threading.Thread(target=send).start()
    s.settimeout(0.5)
    while True:
        try:
            s.recv(2048)
        except socket.timeout:
            if over: break
            continue
        now = time.monotonic()
        longest, last, answers = max(longest, now - last), now, answers + 1
print(f"sent={sent} answers={answers} longest_ms={longest * 1000:.1f}")
"#;

/// Lists and fetches over one control connection until a file is there.
const FTP: &str = r#"
import ftplib, io, os, sys, time
host, end = sys.argv[1:]
f = ftplib.FTP()
f.connect(host, 21, timeout=30)
f.login()
count = 0
while not os.path.exists(end):
    got = io.BytesIO()
    f.retrbinary("RETR name", got.write)
    assert got.getvalue().startswith(b"rs"), got.getvalue()
    count += 1
    time.sleep(0.02)
f.quit()
print(f"transfers={count}")
"#;

struct Load<'l> {
    lab: &'l Lab,
    names: Vec<String>,
}

impl<'l> Load<'l> {
    /// Connections of every kind, until [`Load::ends_well`]: through services of both families, full NAT
    /// (a server that uses the VIP of another one), masqueraded, UDP, FTP.
    fn begin(lab: &'l Lab) -> Self {
        let end = lab.state().join("end");
        let end = end.display();
        let ticker = lab.state().join("ticker.py");
        fs::write(&ticker, TICKER).unwrap();
        let script = lab.state().join("transfers.py");
        fs::write(&script, FTP).unwrap();
        for (role, name) in [("rs1", "rs1"), ("rs2", "rs2"), ("client", "client")] {
            let listen = "socat TCP6-LISTEN:7000,fork,reuseaddr,ipv6only=0,nodelay PIPE";
            lab.begin(role, &format!("{name}-ticks"), listen);
            eventually(Duration::from_secs(10), "socat listens", || {
                lab.run(role, "ss -Hltn sport = 7000").contains("LISTEN").then_some(())
            });
        }
        let mut load = Self { lab, names: Vec::new() };
        let ticks = [
            ("client", "service", "tcp", VIP4, "7000", "0.001"),
            ("client", "service6", "tcp", "2001:db8:1::100", "7000", "0.001"),
            ("rs1", "fullnat", "tcp", VIP4, "7000", "0.005"),
            ("rs3", "fullnat6", "tcp", "2001:db8:1::100", "7000", "0.005"),
            ("rs1", "masquerade", "tcp", "192.0.2.10", "7000", "0.005"),
            ("rs2", "masquerade6", "tcp", "2001:db8:1::10", "7000", "0.005"),
            ("client", "datagrams", "udp", VIP4, "7", "0.001"),
        ];
        for (role, name, kind, host, port, pause) in ticks {
            let python = format!("/usr/bin/python3 {}", ticker.display());
            load.start(role, name, &format!("{python} {kind} {host} {port} {pause} {end}"));
        }
        let python = format!("/usr/bin/python3 {}", script.display());
        load.start("client", "transfers", &format!("{python} {VIP4} {end}"));
        load
    }

    fn start(&mut self, role: &str, name: &str, line: &str) {
        self.lab.begin(role, name, line);
        self.names.push(name.to_owned());
    }

    /// They end as they should: nothing was lost. Tells the longest silence of each.
    fn ends_well(self) {
        fs::write(self.lab.state().join("end"), "").unwrap();
        for name in &self.names {
            let code = self.lab.exit_code(name, Duration::from_secs(60));
            let log = self.lab.log(name);
            assert_eq!(code, 0, "{name}: {log}");
            eprintln!("{name}: {}", log.lines().last().unwrap());
        }
    }
}

/// Services for [`Load`].
fn config(lab: &Lab, workers: &str) -> Table {
    let mut config = ftp::config(lab, workers);
    add_service(&mut config, "ticks", "tcp://192.0.2.100:7000", &["10.0.0.12:7000"]);
    add_service(&mut config, "ticks6", "tcp://[2001:db8:1::100]:7000", &["[fd00:a::12]:7000"]);
    masquerade(&mut config);
    config
}

#[test]
fn connections_of_every_kind_survive_two_upgrades() {
    let lab = Lab::two_nic("upgrade");
    ftp::start_servers(&lab, "");
    let mut line = Line::start(&lab, &config(&lab, "0, 1"));
    let load = Load::begin(&lab);
    begin_downloads(&lab);
    let wanted = [
        ("connections", 9),
        ("service_active_connections", 5),
        ("masquerade_connections", 2),
        ("control_connections", 1),
    ];
    eventually(Duration::from_secs(20), "all kinds of connections are there", || {
        let metrics = line.metrics();
        wanted.iter().all(|(gauge, least)| metrics.sum(gauge, &[]) >= *least).then_some(())
    });
    std::thread::sleep(Duration::from_secs(1));
    let mut descriptors = Vec::new();
    for _ in 0..2 {
        let counted = line.metrics().sum("service_connections_total", &[]);
        let taken = line.upgrade("");
        descriptors.push(fs::read_dir(format!("/proc/{}/fd", line.pid)).unwrap().count());
        assert!(taken["connections"].as_u64().unwrap() >= 9, "{taken}");
        assert_eq!(taken["refused"], 0, "{taken}");
        assert!(taken["gap_seconds"].as_f64().unwrap() < 1.0, "{taken}");
        // Counters go on, and servers' loads are those of the connections.
        assert!(line.metrics().sum("service_connections_total", &[]) >= counted);
        assert!(line.metrics().sum("service_active_connections", &[]) >= 5);
        assert!(line.metrics().sum("masquerade_connections", &[]) >= 2);
        assert!(line.metrics().sum("control_connections", &[]) >= 1);
        std::thread::sleep(Duration::from_millis(1500));
    }
    load.ends_well();
    downloads_end_well(&lab);
    // Sockets and memory of a director before are not inherited: one HTTP connection more or less.
    assert!(descriptors[1].abs_diff(descriptors[0]) <= 3, "{descriptors:?}");
    assert!(lab.state().join("pointsman.sock").exists());
    line.stop();
    assert!(!lab.state().join("pointsman.sock").exists(), "the socket is left behind");
}

/// Its port does not start, after everything else was there.
fn fails_to_start(lab: &Lab, mut config: Table) {
    let outside = section(&mut config, &["interface", "outside"]);
    let device = format!("{},speed=9", outside["device"].as_str().unwrap());
    outside.insert("device".into(), device.into());
    let file = write(lab, "bad", &config);
    let line = format!("timeout 60 {BINARY} run --config {}", file.display());
    let output = lab.attempt("director", &line);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(matches!(output.status.code(), Some(1 | 2)) && said.contains("speed"), "{said}");
}

#[test]
fn connections_of_every_kind_survive_a_restart_with_a_state_file() {
    let lab = Lab::two_nic("restart");
    ftp::start_servers(&lab, "");
    let state = lab.state().join("state");
    let mut config = config(&lab, "0, 1");
    section(&mut config, &["director"]).insert("state_file".into(), state.to_str().unwrap().into());
    let line = Line::start(&lab, &config);
    let load = Load::begin(&lab);
    begin_downloads(&lab);
    std::thread::sleep(Duration::from_secs(2));
    for _ in 0..2 {
        let counted = line.metrics().sum("service_connections_total", &[]);
        let begun = Instant::now();
        assert_eq!(lab.end("pointsman"), 0, "{}", line.log());
        let log = line.log();
        assert!(log.contains("imbalance=0 buffers_in_use=0"), "{log}");
        assert_eq!(fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o600);
        let stopped = begun.elapsed();
        fails_to_start(&lab, config.clone());
        assert!(state.exists(), "a start that has failed used the state");
        let line = Line::start(&lab, &config);
        eprintln!("stopped within {stopped:?}, ready after {:?}", begun.elapsed());
        assert!(!state.exists(), "the state is used once");
        let told = line.log();
        let told = told.lines().find(|line| line.contains("connections of the director before"));
        eprintln!("{}", told.expect("it says what it has taken over"));
        assert!(line.metrics().sum("service_connections_total", &[]) >= counted);
        assert!(line.metrics().sum("service_active_connections", &[]) >= 5);
        std::thread::sleep(Duration::from_millis(1500));
    }
    load.ends_well();
    downloads_end_well(&lab);
    // It removes its own connections from a state that is none.
    lab.end("pointsman");
    for broken in ["", "PMSTATE", "no state at all, but long enough to be one", "PMSTATE\u{7f} and"]
    {
        fs::write(&state, broken).unwrap();
        let line = Line::start(&lab, &config);
        assert!(line.log().contains("the state is of no use: connections begin anew"));
        assert!(!state.exists());
        lab.client("curl -sSf --max-time 5 http://192.0.2.100/");
        assert_eq!(lab.end("pointsman"), 0);
    }
    // What was cut is used as far as it goes.
    let whole = fs::read(&state).unwrap();
    fs::write(&state, &whole[..whole.len() - 5]).unwrap();
    let line = Line::start(&lab, &config);
    assert!(line.log().contains("the state is used as far as it can be read"), "{}", line.log());
    line.stop();
}

#[test]
fn a_successor_that_fails_changes_nothing() {
    let lab = Lab::two_nic("fails");
    ftp::start_servers(&lab, "");
    let good = config(&lab, "0");
    let mut line = Line::start(&lab, &good);
    let load = Load::begin(&lab);
    std::thread::sleep(Duration::from_secs(1));
    // A file that is not valid.
    let mut bad = good.clone();
    section(&mut bad, &["director"]).insert("worker".into(), Value::Integer(1));
    let bad = write(&lab, "bad", &bad);
    line.does_not_upgrade(&format!("--config {}", bad.display()), "worker");
    // Ports that two processes cannot hold.
    let mut taps = good.clone();
    section(&mut taps, &["interface", "inside"]).insert("device".into(), "net_tap7".into());
    let taps = write(&lab, "taps", &taps);
    line.does_not_upgrade(&format!("--config {}", taps.display()), "state_file");
    // A file that is valid, but not here.
    let mut taken = good.clone();
    lab.begin("director", "taken", "socat TCP-LISTEN:9500,fork,bind=127.0.0.1 PIPE");
    eventually(Duration::from_secs(10), "socat listens", || {
        lab.run("director", "ss -Hltn sport = 9500").contains("LISTEN").then_some(())
    });
    section(&mut taken, &["director"]).insert("metrics".into(), "127.0.0.1:9500".into());
    let taken = write(&lab, "taken", &taken);
    line.does_not_upgrade(&format!("--config {}", taken.display()), "in use by another process");
    // No program, one that is none, one that is killed while it starts.
    line.does_not_upgrade("--program /nonexistent/pointsman", "cannot start");
    line.does_not_upgrade("--program /bin/false", "has ended");
    let killed = lab.state().join("killed");
    let script = format!("#!/bin/sh\n(sleep 0.1; kill -9 $$) &\nexec {BINARY} \"$@\"\n");
    fs::write(&killed, script).unwrap();
    fs::set_permissions(&killed, fs::Permissions::from_mode(0o755)).unwrap();
    line.does_not_upgrade(&format!("--program {}", killed.display()), "has ended (signal: 9");
    // Changes that are in no file.
    let (is_well, text) = line.attempt("server add web 10.0.0.11:8081");
    assert!(is_well, "{text}");
    line.does_not_upgrade("", "pointsman save");
    let (is_well, text) = line.attempt("server remove web 10.0.0.11:8081");
    assert!(is_well, "{text}");
    let (is_well, text) = line.attempt("save");
    assert!(is_well, "{text}");
    // After all that it can still be done.
    line.upgrade("");
    load.ends_well();
    line.stop();
}

#[test]
fn a_director_of_a_pair_is_not_upgraded_but_says_what_to_do() {
    let lab = Lab::pair("pairup");
    let config = lab.lab(&["config", "--workers", "0", "--for", "director"]);
    let line = Line::start(&lab, &config.parse().unwrap());
    line.does_not_upgrade("", "pointsman ha release");
    line.stop();
}
