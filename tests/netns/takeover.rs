//! What clients of a pair notice when its directors change places: a long download, a session that
//! a person might type, and a load, over IPv4 and IPv6 at once, through every kind of failure.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value as Json;

use crate::lab::{Lab, VIPS, eventually};
use crate::pair::Side;
use crate::traffic::answers;

const FAMILIES: [(&str, &str); 2] = [("ipv4", VIPS[0]), ("ipv6", VIPS[1])];
/// Octets of a download in a second.
const RATE: usize = 1 << 20;

/// A line every 50 ms until the time is over, each of which must come back, in order: how many, and
/// the longest time between two answers.
const SESSION: &str = "
import select, socket, sys, time
host, seconds = sys.argv[1], float(sys.argv[2])
connection = socket.create_connection((host, 5201), 5)
connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
begin = last = time.monotonic()
sent, answer, worst = [], b'', 0.0
def read(until):
    global answer, last, worst
    while (left := until - time.monotonic()) > 0:
        if not select.select([connection], [], [], left)[0]: return
        part = connection.recv(65536)
        assert part, f'closed after {len(answer)} octets'
        answer, now = answer + part, time.monotonic()
        worst, last = max(worst, now - last), now
while time.monotonic() < begin + seconds:
    sent.append(f'line {len(sent)} to {host}')
    connection.sendall(sent[-1].encode() + b'\\n')
    read(time.monotonic() + 0.05)
end = time.monotonic() + 10
while answer.count(b'\\n') < len(sent) and time.monotonic() < end: read(time.monotonic() + 0.05)
assert answer.decode().splitlines() == sent, answer[-200:]
print(f'{{\"lines\": {len(sent)}, \"silence\": {worst}}}')
";

/// Everything that goes on while directors fail.
struct Load<'l> {
    lab: &'l Lab,
    seconds: u64,
    begun: Instant,
}

impl<'l> Load<'l> {
    /// It lasts for some seconds.
    fn begin(lab: &'l Lab, seconds: u64) -> Self {
        lab.end("rs1-iperf3");
        let echo = "socat TCP6-LISTEN:5201,ipv6only=0,fork,reuseaddr,nodelay EXEC:cat";
        lab.begin("rs1", "rs1-echo", &format!("timeout 58 {echo}"));
        eventually(Duration::from_secs(5), "the echo server listens", || {
            lab.run("rs1", "ss -Hltn sport = 5201").contains("LISTEN").then_some(())
        });
        // The download lasts as long as everything else does.
        let content = lab.state().join("content/big");
        let second = fs::read(&content).unwrap();
        assert_eq!(second.len(), RATE);
        fs::write(&content, second.repeat(usize::try_from(seconds).unwrap())).unwrap();
        let script = lab.state().join("session.py");
        fs::write(&script, SESSION).unwrap();
        for (family, vip) in FAMILIES {
            let host = vip.trim_matches(['[', ']']);
            let file = lab.state().join(family);
            let session = format!("/usr/bin/python3 {} {host} {seconds}", script.display());
            lab.begin("client", &format!("session-{family}"), &session);
            let curl = format!("curl -sS -v --max-time 55 --limit-rate {RATE} http://{vip}/big");
            let line = format!("sh -c \"{curl} 2>{0}.log | sha256sum >{0}.sum\"", file.display());
            lab.begin("client", &format!("download-{family}"), &line);
            // The directors come first, as they would with CPUs of their own.
            let wrk = format!("nice -n 10 wrk -t1 -c8 -d{seconds}s --timeout 10s http://{vip}/");
            lab.begin("client", &format!("load-{family}"), &wrk);
        }
        std::thread::sleep(Duration::from_secs(2));
        Self { lab, seconds, begun: Instant::now() }
    }

    /// All of it has gone on and nothing is missing.
    fn ends_well(self) {
        let longest = Duration::from_secs(self.seconds + 20).saturating_sub(self.begun.elapsed());
        for (family, _) in FAMILIES {
            self.session_is_whole(family, longest);
            self.download_is_whole(family, longest);
            self.load_has_no_errors(family, longest);
        }
        self.lab.end("rs1-echo");
    }

    fn session_is_whole(&self, family: &str, longest: Duration) {
        let name = format!("session-{family}");
        let (code, log) = (self.lab.exit_code(&name, longest), self.lab.log(&name));
        assert_eq!(code, 0, "{name}: {log}");
        let report: Json = serde_json::from_str(&log).unwrap();
        eprintln!("{name}: {report}");
        assert!(report["lines"].as_u64().unwrap() > self.seconds * 10, "{name}: {report}");
        // A takeover with some lost segments, which TCP sends again after some tenths of a second.
        assert!(report["silence"].as_f64().unwrap() < 3.0, "{name}: {report}");
    }

    /// Every octet has come, over one connection.
    fn download_is_whole(&self, family: &str, longest: Duration) {
        let content = self.lab.state().join("content/big");
        let whole = self.lab.run("client", &format!("sha256sum <{}", content.display()));
        let code = self.lab.exit_code(&format!("download-{family}"), longest);
        let file = self.lab.state().join(family);
        let read = |end: &str| fs::read_to_string(file.with_extension(end)).unwrap();
        assert_eq!((code, read("sum")), (0, whole), "download-{family}: {}", read("log"));
        let connections = read("log").matches("Connected to ").count();
        assert_eq!(connections, 1, "download-{family}: one connection");
    }

    /// wrk names errors only where there were some: a connection that was reset or closed counts as
    /// `read` or `write`, a new one that failed as `connect`, an answer after ten seconds as
    /// `timeout`.
    fn load_has_no_errors(&self, family: &str, longest: Duration) {
        let name = format!("load-{family}");
        let (code, report) = (self.lab.exit_code(&name, longest), self.lab.log(&name));
        let failed = report.contains("Socket errors") || report.contains("Non-2xx");
        assert!(code == 0 && !failed && report.contains("Requests/sec"), "{name}: {report}");
    }
}

/// New connections are served.
fn newcomers_are_served(lab: &Lab) {
    for vip in VIPS {
        assert_eq!(answers(lab, vip, 6).values().sum::<usize>(), 6, "{vip}");
    }
}

/// Everything goes on through one failure of the director, and the backup serves.
fn survives<'l>(lab: &'l Lab, fails: impl FnOnce(Side<'l>) -> Option<Side<'l>>) {
    let [director, backup] = Side::both(lab, ["0", "1"], |_| ());
    let load = Load::begin(lab, 12);
    let director = fails(director);
    backup.becomes("master");
    newcomers_are_served(lab);
    load.ends_well();
    backup.becomes("master");
    if let Some(director) = director {
        director.stop();
    }
    backup.stop();
}

#[test]
fn connections_go_on_when_the_active_director_is_killed() {
    let lab = Lab::pair("killed");
    survives(&lab, |director| {
        director.dies();
        None
    });
}

#[test]
fn connections_go_on_when_the_cable_inside_is_pulled() {
    let lab = Lab::pair("inside");
    survives(&lab, |director| {
        lab.run("switch", "ip link set to-director down");
        director.becomes("fault");
        Some(director)
    });
}

#[test]
fn connections_go_on_when_the_cable_outside_is_pulled() {
    let lab = Lab::pair("outside");
    survives(&lab, |director| {
        lab.run("street", "ip link set to-director down");
        director.becomes("fault");
        Some(director)
    });
}

#[test]
fn connections_go_on_when_the_active_director_freezes_and_returns() {
    let lab = Lab::pair("freezes");
    survives(&lab, |director| {
        director.signal("STOP");
        std::thread::sleep(Duration::from_secs(3));
        director.signal("CONT");
        director.becomes("backup");
        Some(director)
    });
}

#[test]
fn connections_go_on_when_the_active_director_is_stopped() {
    let lab = Lab::pair("stopped");
    survives(&lab, |director| {
        director.stop();
        None
    });
}

#[test]
fn connections_go_on_through_two_takeovers_with_a_restart_in_between() {
    let lab = Lab::pair("restart");
    let [director, backup] = Side::both(&lab, ["0", "1"], |_| ());
    let load = Load::begin(&lab, 32);
    director.dies();
    backup.becomes("master");
    newcomers_are_served(&lab);
    // It learns of all that are still there, also of those that began before the first takeover.
    let director = Side::start(&lab, "director", &Side::config(&lab, "director", "0"));
    director.becomes("backup");
    let learnt = Duration::from_secs(20);
    for (family, vip) in FAMILIES {
        // One session, one download and eight of wrk; the newcomers' are over.
        eventually(learnt, &format!("the old master knows all of {family}"), || {
            (director.established(vip) >= 10).then_some(())
        });
    }
    assert!(load.begun.elapsed() < Duration::from_secs(26), "the load is almost over");
    backup.dies();
    director.becomes("master");
    newcomers_are_served(&lab);
    load.ends_well();
    director.stop();
}

/// Connections that say nothing, held until the process ends.
const IDLERS: &str = "
import resource, socket, sys, time
resource.setrlimit(resource.RLIMIT_NOFILE, (8192, 8192))
held = [socket.create_connection((host, 80), 5)
        for host, count in zip(sys.argv[1::2], sys.argv[2::2]) for _ in range(int(count))]
print(len(held), flush=True)
time.sleep(120)
";

#[test]
fn a_standby_that_starts_late_learns_of_all_idle_connections_in_time() {
    let lab = Lab::pair("late");
    let director = Side::start(&lab, "director", &Side::config(&lab, "director", "0"));
    director.becomes("master");
    let script = lab.state().join("idlers.py");
    fs::write(&script, IDLERS).unwrap();
    let hosts = "192.0.2.100 2800 2001:db8:1::100 1";
    lab.begin("client", "idlers", &format!("/usr/bin/python3 {} {hosts}", script.display()));
    eventually(Duration::from_secs(60), "all are connected", || {
        assert!(lab.log("idlers").len() < 10, "{}", lab.log("idlers"));
        (lab.log("idlers") == "2801\n").then_some(())
    });
    assert_eq!((director.connections("ipv4"), director.connections("ipv6")), (2800, 1));
    // What tells of connections that have just begun is over; only the walk tells of them now.
    std::thread::sleep(Duration::from_secs(1));
    let backup = Side::start(&lab, "backup", &Side::config(&lab, "backup", "1"));
    backup.becomes("backup");
    let walk_and_slack = Duration::from_secs(18);
    let started = Instant::now();
    for (family, all) in [("ipv6", 1), ("ipv4", 2800)] {
        let left = walk_and_slack.saturating_sub(started.elapsed());
        eventually(left, &format!("the backup knows all of {family}"), || {
            (backup.connections(family) == all).then_some(())
        });
    }
    director.stop();
    backup.stop();
}
