//! A laboratory for one test. It goes when the test ends, also by a panic.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use toml::{Table, Value};

use crate::director::Director;

pub(crate) const VIP4: &str = "192.0.2.100";
pub(crate) const VIP6: &str = "[2001:db8:1::100]";
/// Both families, as an URL writes them.
pub(crate) const VIPS: [&str; 2] = [VIP4, VIP6];

/// Under plain `cargo test` the tests of a program are threads: one at a time, as under nextest.
static TURN: Mutex<()> = Mutex::new(());

/// What a test runs, and the Debian package that has it.
const TOOLS: [(&str, &str); 20] = [
    ("ip", "iproute2"),
    ("ethtool", "ethtool"),
    ("ping", "iputils-ping"),
    ("traceroute", "traceroute"),
    ("tracepath", "iputils-tracepath"),
    ("dig", "bind9-dnsutils"),
    ("dnsmasq", "dnsmasq-base"),
    ("socat", "socat"),
    ("curl", "curl"),
    ("wrk", "wrk"),
    ("iperf3", "iperf3"),
    ("nginx", "nginx-light"),
    ("python3", "python3"),
    ("sha256sum", "coreutils"),
    ("vsftpd", "vsftpd"),
    ("lftp", "lftp"),
    ("openssl", "openssl"),
    ("keepalived", "keepalived"),
    ("tcpdump", "tcpdump"),
    ("tshark", "tshark"),
];

pub(crate) struct Lab {
    pub(crate) name: String,
    _turn: MutexGuard<'static, ()>,
}

impl Lab {
    /// The client, the director and the servers on two networks.
    pub(crate) fn two_nic(test: &str) -> Self {
        Self::up(test, "two-nic")
    }

    /// All on one network.
    pub(crate) fn one_nic(test: &str) -> Self {
        Self::up(test, "one-nic")
    }

    /// As [`Lab::two_nic`], with a router between the client and the director.
    pub(crate) fn routed(test: &str) -> Self {
        Self::up(test, "routed")
    }

    /// Two directors between a switch for the client and one for the servers.
    pub(crate) fn pair(test: &str) -> Self {
        Self::up(test, "pair")
    }

    /// As [`Lab::pair`], with a third director.
    pub(crate) fn trio(test: &str) -> Self {
        Self::up(test, "trio")
    }

    fn up(test: &str, topology: &str) -> Self {
        require_root_and_tools();
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let lab = Self { name: format!("pmt{}-{test}", std::process::id()), _turn: turn };
        lab.lab(&["up", "--topology", topology]);
        lab
    }

    fn command(&self) -> Command {
        let mut command = Command::new(script("lab/lab"));
        command.env("LAB", &self.name);
        command
    }

    /// Runs the laboratory's own command; fails the test when it fails.
    pub(crate) fn lab(&self, arguments: &[&str]) -> String {
        let output = self.command().args(arguments).output().unwrap();
        text_of(&format!("lab {}", arguments.join(" ")), &output)
    }

    /// A command line, run by a shell in a namespace: what came out of it, whatever it was.
    pub(crate) fn attempt(&self, role: &str, line: &str) -> Output {
        self.command().args(["exec", role, "sh", "-c", line]).output().unwrap()
    }

    /// A command line, run by a shell in a namespace: its output. Fails the test when it fails.
    pub(crate) fn run(&self, role: &str, line: &str) -> String {
        text_of(&format!("on {role}: {line}"), &self.attempt(role, line))
    }

    pub(crate) fn client(&self, line: &str) -> String {
        self.run("client", line)
    }

    /// What `traceroute` shows, one probe a hop and one after the other. Its TCP mode misses answers
    /// now and then that its own kernel has got and reset (the director's counters show both), so a
    /// run with a hop that seems silent is repeated, twice.
    pub(crate) fn trace(&self, role: &str, what: &str) -> String {
        let line = format!("traceroute -n -q 1 -N 1 -w 3 {what}");
        let mut text = self.run(role, &line);
        for _ in 0..2 {
            if text.contains('*') {
                text = self.run(role, &line);
            }
        }
        text
    }

    /// A command line that runs in a namespace until `end` or the end of the laboratory.
    pub(crate) fn begin(&self, role: &str, name: &str, line: &str) {
        self.lab(&["start", role, name, "sh", "-c", &format!("exec {line}")]);
    }

    /// Ends what `begin` began; its exit code.
    pub(crate) fn end(&self, name: &str) -> i32 {
        self.command().args(["stop", name]).output().unwrap().status.code().unwrap()
    }

    /// The exit code of what `begin` began, once it has ended by itself.
    pub(crate) fn exit_code(&self, name: &str, longest: Duration) -> i32 {
        let file = self.state().join(format!("{name}.exit"));
        eventually(longest, &format!("{name} has ended"), || {
            fs::read_to_string(&file).ok()?.trim().parse().ok()
        })
    }

    /// What `begin` began: its process.
    pub(crate) fn pid(&self, name: &str) -> u32 {
        let record = fs::read_to_string(self.state().join("pids").join(name)).unwrap();
        record.split(' ').next().unwrap().parse().unwrap()
    }

    pub(crate) fn log(&self, name: &str) -> String {
        fs::read_to_string(self.state().join(format!("{name}.log"))).unwrap_or_default()
    }

    pub(crate) fn state(&self) -> PathBuf {
        PathBuf::from("/run/pointsman-lab").join(&self.name)
    }

    /// The laboratory's configuration with these workers, to be changed and started.
    pub(crate) fn config(&self, workers: &str) -> Table {
        self.lab(&["config", "--workers", workers]).parse().unwrap()
    }

    /// Starts a director and waits until it is ready.
    pub(crate) fn direct(&self, config: &Table) -> Director<'_> {
        Director::start(self, config)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for name in ["pointsman", "director", "backup", "third", "keepalived"] {
                let log = self.log(name);
                let lines: Vec<_> = log.lines().collect();
                let last = &lines[lines.len().saturating_sub(40)..];
                eprintln!("the log of {name}, its last lines:\n{}", last.join("\n"));
            }
        }
        let output = self.command().arg("down").output();
        if !std::thread::panicking() {
            assert!(output.unwrap().status.success(), "{} cannot be removed", self.name);
        }
    }
}

fn require_root_and_tools() {
    let id = Command::new("id").arg("-u").output().unwrap().stdout;
    assert!(id == b"0\n", "this test needs root, for network namespaces: run `make test` as root");
    for (tool, package) in TOOLS {
        let found = Command::new("sh").args(["-c", &format!("command -v {tool}")]).output();
        assert!(
            found.unwrap().status.success(),
            "this test needs {tool}: apt-get install {package}, or scripts/install-deps test"
        );
    }
}

pub(crate) fn script(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scripts").join(name)
}

fn text_of(what: &str, output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {}\n{text}\n{error}", output.status);
    text
}

/// Asks again and again until there is an answer; fails the test after `longest`.
pub(crate) fn eventually<T>(
    longest: Duration,
    what: &str,
    mut ask: impl FnMut() -> Option<T>,
) -> T {
    let deadline = Instant::now() + longest;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within {longest:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Connections that are silent for three seconds are forgotten, those that are over, UDP flows and
/// masqueraded echo requests after one.
pub(crate) fn forget_soon(config: &mut Table) {
    let timeouts = section(config, &["timeouts"]);
    for state in ["established", "syn_sent", "syn_recv", "fin_wait", "close_wait", "last_ack"] {
        timeouts.insert(state.into(), "3s".into());
    }
    for state in ["time_wait", "close", "udp", "icmp"] {
        timeouts.insert(state.into(), "1s".into());
    }
}

/// Another service of a configuration, with these servers.
pub(crate) fn add_service(config: &mut Table, name: &str, listen: &str, servers: &[&str]) {
    let servers = servers
        .iter()
        .map(|server| Value::Table(Table::from_iter([("address".to_owned(), (*server).into())])));
    let service = Table::from_iter([
        ("name".to_owned(), name.into()),
        ("listen".to_owned(), listen.into()),
        ("scheduler".to_owned(), "rr".into()),
        ("servers".to_owned(), Value::Array(servers.collect())),
    ]);
    config["service"].as_array_mut().unwrap().push(Value::Table(service));
}

/// A section of a configuration.
pub(crate) fn section<'c>(config: &'c mut Table, path: &[&str]) -> &'c mut Table {
    path.iter().fold(config, |table, key| {
        let entry = table.entry(*key).or_insert_with(|| Value::Table(Table::new()));
        entry.as_table_mut().unwrap()
    })
}

/// A service of a configuration.
pub(crate) fn service<'c>(config: &'c mut Table, name: &str) -> &'c mut Table {
    let services = config["service"].as_array_mut().unwrap();
    let mut services = services.iter_mut().map(|service| service.as_table_mut().unwrap());
    services.find(|service| service["name"].as_str() == Some(name)).unwrap()
}

/// Gives a service a scheduler, and its servers weights.
pub(crate) fn schedule(config: &mut Table, name: &str, scheduler: &str, weights: [i64; 3]) {
    let service = service(config, name);
    service.insert("scheduler".into(), scheduler.into());
    let servers = service["servers"].as_array_mut().unwrap();
    for (server, weight) in servers.iter_mut().zip(weights) {
        server.as_table_mut().unwrap().insert("weight".into(), weight.into());
    }
}
