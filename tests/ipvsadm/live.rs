//! ipvsadm's language to a running control thread, through links to the binary, as scripts call it.

use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use pointsman::cli::ipvsadm::PROGRAMS;

use crate::Outcome;
use crate::plant::{FakeDirector, wait_until};

/// Links to the binary, and a director.
struct Machine {
    directory: tempfile::TempDir,
    director: Option<FakeDirector>,
}

impl Machine {
    fn start() -> Self {
        let mut machine = Self::without_director();
        machine.director = Some(FakeDirector::start(machine.directory.path()));
        machine
    }

    fn without_director() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for program in PROGRAMS {
            symlink(env!("CARGO_BIN_EXE_pointsman"), directory.path().join(program)).unwrap();
        }
        Self { directory, director: None }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("pointsman.sock")
    }

    /// Runs a line of a shell that finds the links first.
    fn shell(&self, line: &str, stdin: &str) -> Outcome {
        let path = std::env::var("PATH").unwrap();
        let path = format!("{}:{path}", self.directory.path().display());
        let mut shell = Command::new("sh");
        shell.args(["-c", line]).env("PATH", path).env("POINTSMAN_SOCKET", self.socket());
        shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = shell.spawn().unwrap();
        // A program that reads nothing closes it.
        child.stdin.take().unwrap().write_all(stdin.as_bytes()).ok();
        let output = child.wait_with_output().unwrap();
        let text = |octets| String::from_utf8(octets).unwrap();
        Outcome {
            exit: u8::try_from(output.status.code().unwrap()).unwrap(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    /// What a line that must succeed prints.
    fn told(&self, line: &str) -> String {
        let outcome = self.shell(line, "");
        assert_eq!((outcome.exit, outcome.stderr.as_str()), (0, ""), "{line}");
        outcome.stdout
    }

    fn refused(&self, line: &str, message: &str) {
        assert_eq!(self.shell(line, ""), Outcome::refused(message), "{line}");
    }

    fn stop(mut self) {
        self.director.take().unwrap().stop();
    }
}

const HEADER: &str = "IP Virtual Server version 1.2.1 (size=1000)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
";

/// The listing once the workers have said how many connections fit.
fn listing(machine: &Machine) -> String {
    wait_until("the workers", || machine.told("ipvsadm -ln").contains("(size=1000)"));
    machine.told("ipvsadm -ln")
}

#[test]
fn a_set_up_of_lvs_nat_runs_unchanged() {
    let machine = Machine::start();
    let script = "set -e
ipvsadm -C
ipvsadm -A -t 203.0.113.10:80 -s wrr
ipvsadm -a -t 203.0.113.10:80 -r 10.0.0.11:8000 -m
ipvsadm -a -t 203.0.113.10:80 -r 10.0.0.12 -m -w 2
ipvsadm -A -t 203.0.113.10:21 -s rr -p 540
ipvsadm -a -t 203.0.113.10:21 -r 10.0.0.11:21 -m
ipvsadm -A -u 203.0.113.10:53 -s lc -p 600 -M 255.255.255.0
ipvsadm -A -f 7 -s rr -p
ipvsadm -a -f 7 -r 10.0.0.11:0 -m
ipvsadm -a -f 7 -r 10.0.0.12 -m -w 3
ipvsadm -A -t 203.0.113.11:0 -s rr -p 60
ipvsadm -ln -t 203.0.113.10:80 >/dev/null
";
    machine.told(script);
    let services = "TCP  203.0.113.10:21 rr persistent 540
  -> 10.0.0.11:21                 Masq    1      0          0         
TCP  203.0.113.10:80 wrr
  -> 10.0.0.11:8000               Masq    1      0          0         
  -> 10.0.0.12:80                 Masq    2      0          0         
TCP  203.0.113.11:0 rr persistent 60
UDP  203.0.113.10:53 lc persistent 600 mask 255.255.255.0
FWM  7 rr persistent 360
  -> 10.0.0.11:0                  Masq    1      0          0         
  -> 10.0.0.12:0                  Masq    3      0          0         
";
    assert_eq!(listing(&machine), format!("{HEADER}{services}"));
    let saved = machine.told("ipvsadm-save -n");
    machine.told("ipvsadm -C");
    assert_eq!(listing(&machine), HEADER);
    let restored = machine.shell("ipvsadm-restore", &saved);
    assert_eq!((restored.exit, restored.stderr.as_str()), (0, ""));
    assert_eq!(listing(&machine), format!("{HEADER}{services}"));
    assert_eq!(machine.told("ipvsadm -S -n | ipvsadm -C -- && ipvsadm -Sn"), "");
    machine.stop();
}

#[test]
fn services_and_servers_are_edited_and_removed() {
    let machine = Machine::start();
    // From the configuration file, with a name of its own.
    machine.told("ipvsadm -E -t 203.0.113.10:80 -s rr -p 90 -M 255.255.255.0");
    machine.told("ipvsadm -e -t 203.0.113.10:80 -r 10.0.0.12:8080 -m -w 7");
    machine.told("ipvsadm -d -t 203.0.113.10:80 -r 10.0.0.11:8080");
    let web = "-A -t 203.0.113.10:80 -s rr -p 90 -M 255.255.255.0
-a -t 203.0.113.10:80 -r 10.0.0.12:8080 -m -w 7
";
    assert_eq!(machine.told("ipvsadm -Sn"), web);
    // What is not stated again is not kept.
    machine.told("ipvsadm -E -t 203.0.113.10:80 -p");
    machine.told("ipvsadm -e -t 203.0.113.10:80 -r 10.0.0.12:8080 -m");
    let web = "-A -t 203.0.113.10:80 -s wlc -p 360
-a -t 203.0.113.10:80 -r 10.0.0.12:8080 -m -w 1
";
    assert_eq!(machine.told("ipvsadm -Sn"), web);
    machine.told("ipvsadm -E -t 203.0.113.10:80");
    assert!(machine.told("ipvsadm -Sn").starts_with("-A -t 203.0.113.10:80 -s wlc\n"));
    machine.told("ipvsadm -D -t 203.0.113.10:80");
    assert_eq!(machine.told("ipvsadm -Sn"), "");
    machine.stop();
}

#[test]
fn a_server_that_drains_is_listed_with_weight_0_and_saved_with_its_own() {
    let machine = Machine::start();
    let program = env!("CARGO_BIN_EXE_pointsman");
    machine.told("ipvsadm -e -t 203.0.113.10:80 -r 10.0.0.12:8080 -m -w 3 -x 100 -y 50");
    machine.told(&format!("{program} drain 10.0.0.12:8080 --no-wait >/dev/null"));
    let listing = machine.told("ipvsadm -ln -t 203.0.113.10:80");
    assert!(listing.contains("  -> 10.0.0.12:8080               Masq    0      "), "{listing}");
    let thresholds = machine.told("ipvsadm -ln --thresholds");
    assert!(thresholds.contains("  -> 10.0.0.12:8080               100        50         "));
    assert!(machine.told("ipvsadm -Sn").contains("-r 10.0.0.12:8080 -m -w 3\n"));
    machine.stop();
}

#[test]
fn every_scheduler_is_taken_with_its_flags() {
    let machine = Machine::start();
    let schedulers =
        "rr wrr lc wlc lblc lblcr dh sh sed nq fo ovf mh twos maglev".split_whitespace();
    let flags =
        ["sh -b sh-fallback,sh-port", "mh -b mh-port", "mh -b mh-fallback", "maglev -b flag-2"];
    for scheduler in schedulers.chain(flags) {
        machine.told(&format!("ipvsadm -E -t 203.0.113.10:80 -s {scheduler}"));
        let saved = machine.told("ipvsadm -Sn");
        assert!(saved.starts_with(&format!("-A -t 203.0.113.10:80 -s {scheduler}\n")), "{saved}");
    }
    let outcome = machine.shell("ipvsadm -E -t 203.0.113.10:80 -s rr -b flag-1", "");
    assert_eq!(outcome, Outcome::refused("scheduler rr has no flags flag-1\n"));
    machine.stop();
}

#[test]
fn what_is_there_and_what_is_not_is_refused_as_by_the_kernel() {
    let machine = Machine::start();
    machine.refused("ipvsadm -A -t 203.0.113.10:80", "Service already exists\n");
    let known = "ipvsadm -a -t 203.0.113.10:80 -r 10.0.0.11:8080 -m";
    machine.refused(known, "Destination already exists\n");
    machine.refused("ipvsadm -D -t 203.0.113.10:81", "No such service\n");
    machine.refused("ipvsadm -E -f 9 -s rr", "No such service\n");
    machine.refused("ipvsadm -Z -f 9", "No such service\n");
    machine.refused("ipvsadm -a -f 9 -r 10.0.0.11 -m", "Service not defined\n");
    let unknown = "-t 203.0.113.10:80 -r 10.0.0.99:80";
    machine.refused(&format!("ipvsadm -d {unknown}"), "No such destination\n");
    machine.refused(&format!("ipvsadm -e {unknown} -m"), "No such destination\n");
    let unknown = "Scheduler or persistence engine not found\n";
    machine.refused("ipvsadm -A -t 203.0.113.10:81 -s nosuch", unknown);
    machine.refused("ipvsadm -E -t 203.0.113.10:80 -s nosuch", unknown);
    let listed = machine.shell("ipvsadm -ln -t 203.0.113.10:81", "");
    assert_eq!((listed.exit, listed.stderr.as_str()), (1, "No such service\n"));
    // What the kernel would take, and pointsman does not, is told in its own words.
    let outcome = machine.shell("ipvsadm -a -t 203.0.113.10:80 -r 198.18.0.1:80 -m", "");
    assert_eq!(outcome.exit, 0, "reached through the gateway: {outcome:?}");
    let outcome = machine.shell("ipvsadm -A -t 10.0.0.2:80", "");
    assert_eq!(outcome.exit, 255, "{outcome:?}");
    assert!(outcome.stderr.contains("inside"), "{outcome:?}");
    machine.stop();
}

#[test]
fn counters_are_listed_and_set_back() {
    let machine = Machine::start();
    let service = |numbers: [u32; 5]| {
        let row = |title: &str, numbers: [u32; 5]| {
            let columns = numbers.map(|number| format!(" {number:>8}")).concat();
            format!("{title:<33}{columns}\n")
        };
        format!(
            "Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes\n  \
             -> RemoteAddress:Port\n{}{}{}",
            row("TCP  203.0.113.10:80", numbers),
            row("  -> 10.0.0.11:8080", [0; 5]),
            row("  -> 10.0.0.12:8080", numbers)
        )
    };
    let stats = "ipvsadm -ln --stats -t 203.0.113.10:80";
    // Of two workers, for the server that has the first slot.
    let counted = service([14, 140, 120, 14_000, 12_000]);
    wait_until("the workers", || machine.told(stats).contains("  14  "));
    assert_eq!(machine.told(stats), counted);
    machine.told("ipvsadm -Z -t 203.0.113.10:80");
    let zero = service([0; 5]);
    assert_eq!(machine.told(stats), zero);
    machine.told("ipvsadm -Z");
    assert_eq!(machine.told(stats), zero);
    machine.stop();
}

#[test]
fn connections_and_timeouts_are_listed() {
    let machine = Machine::start();
    assert_eq!(machine.told("ipvsadm -l --timeout"), "Timeout (tcp tcpfin udp): 900 120 300\n");
    machine.told("ipvsadm --set 1000 0 90");
    assert_eq!(machine.told("ipvsadm -l --timeout"), "Timeout (tcp tcpfin udp): 1000 120 90\n");
    assert_eq!(machine.told("ipvsadm -l --daemon"), "");
    let connections = machine.told("ipvsadm -lnc");
    let first = "IPVS connection entries
pro expire state       source             virtual            destination
TCP 14:59  ESTABLISHED 100.0.0.0:40000    203.0.113.10:80    10.0.0.11:8080
";
    assert!(connections.starts_with(first), "{connections}");
    assert_eq!(connections.lines().count(), 2 + 6);
    // A reader that has seen enough.
    assert_eq!(machine.told("ipvsadm -lnc | head -n 1"), "IPVS connection entries\n");
    machine.stop();
}

#[test]
fn changes_at_the_same_time_are_all_made() {
    let machine = Machine::start();
    let line = "for i in $(seq 20 39); do \
                    ipvsadm -a -t 203.0.113.10:80 -r 10.0.0.$i:80 -m & pids=\"$pids $!\"; \
                done; for pid in $pids; do wait $pid || exit 1; done";
    machine.told(line);
    assert_eq!(machine.told("ipvsadm -Sn").lines().count(), 1 + 2 + 20);
    machine.stop();
}

#[test]
fn without_a_director_the_error_is_that_of_a_kernel_without_ipvs() {
    let machine = Machine::without_director();
    for line in ["ipvsadm -ln", "ipvsadm -A -t 203.0.113.10:80", "ipvsadm-save -n"] {
        let outcome = machine.shell(line, "");
        assert_eq!((outcome.exit, outcome.stdout.as_str()), (1, ""), "{line}");
        assert!(outcome.stderr.starts_with("Can't initialize ipvs: no director"), "{outcome:?}");
    }
    assert!(machine.told("ipvsadm -h").starts_with("ipvsadm v1.31"));
    assert_eq!(machine.shell("ipvsadm -A", "").exit, 2);
}

#[test]
fn it_is_a_subcommand_too() {
    let machine = Machine::start();
    let program = env!("CARGO_BIN_EXE_pointsman");
    assert_eq!(machine.told(&format!("{program} ipvsadm -ln")), machine.told("ipvsadm -ln"));
    let help = machine.told(&format!("{program} ipvsadm -h"));
    assert!(help.contains("\n  ipvsadm -A|E virtual-service"), "{help}");
    assert!(machine.told(&format!("{program} ipvsadm --help")).contains("-A|E"));
    let outcome = machine.shell(&format!("{program} ipvsadm -l --set"), "");
    assert_eq!((outcome.exit, outcome.stderr.as_str()), (2, "invalid option `--set'\n"));
    let by_path = machine.directory.path().join("ipvsadm");
    let by_path = by_path.display();
    let outcome = machine.shell(&format!("{by_path} nonsense"), "");
    let hint = format!("Try `{by_path} -h' or '{by_path} --help' for more information.\n");
    assert_eq!(outcome, Outcome::refused(&hint));
    machine.stop();
}

#[test]
fn a_range_of_ports_is_listed_but_not_saved() {
    let machine = Machine::start();
    let program = Path::new(env!("CARGO_BIN_EXE_pointsman")).display();
    machine.told(&format!("{program} service add media udp://203.0.113.10:8000-8099 >/dev/null"));
    assert!(machine.told("ipvsadm -ln").contains("UDP  203.0.113.10:8000 wlc\n"));
    let outcome = machine.shell("ipvsadm -Sn", "");
    assert!(!outcome.stdout.contains("8000") && outcome.exit == 0, "{outcome:?}");
    assert!(outcome.stderr.contains("range of ports at UDP  203.0.113.10:8000"), "{outcome:?}");
    machine.stop();
}
