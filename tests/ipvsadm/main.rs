//! ipvsadm's language, compared to the octet with recordings of ipvsadm 1.31.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod differences;
mod fake;
mod live;
#[path = "../support/plant.rs"]
mod plant;
mod recorder;
mod traffic;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use pointsman::cli::ipvsadm::{Director, Names, Refusal, Session};
use pointsman::service::Protocol;
use serde_json::Value;

use crate::differences::DIFFERENCES;
use crate::fake::Fake;
use crate::recorder::{Log, Recorder};

/// What a command does.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Outcome {
    exit: u8,
    stdout: String,
    stderr: String,
}

impl Outcome {
    fn refused(message: &str) -> Self {
        Self { exit: 255, stdout: String::new(), stderr: message.into() }
    }

    fn recorded(entry: &Value) -> Self {
        Self {
            exit: u8::try_from(entry["exit"].as_u64().unwrap()).unwrap(),
            stdout: text(entry, "stdout"),
            stderr: text(entry, "stderr"),
        }
    }
}

/// The names of the machine of the recordings that they use.
struct FewNames;

impl Names for FewNames {
    fn host(&self, name: &str) -> Option<Ipv4Addr> {
        (name == "localhost").then_some(Ipv4Addr::LOCALHOST)
    }

    fn port(&self, name: &str, protocol: Protocol) -> Option<u16> {
        let ports = [
            ("http", Protocol::Tcp, 80),
            ("http-alt", Protocol::Tcp, 8080),
            ("domain", Protocol::Tcp, 53),
            ("domain", Protocol::Udp, 53),
        ];
        let known = ports.iter().find(|known| known.0 == name && known.1 == protocol);
        known.map(|known| known.2)
    }

    fn host_name(&self, _: IpAddr) -> Option<String> {
        None
    }

    fn port_name(&self, _: u16, _: Protocol) -> Option<String> {
        None
    }
}

fn recording(file: &str) -> Value {
    let path = format!("{}/tests/oracle/{file}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn text(entry: &Value, key: &str) -> String {
    entry.get(key).map(|text| text.as_str().unwrap().to_owned()).unwrap_or_default()
}

/// Calls a program of ipvsadm.
fn call(director: &mut dyn Director, program: &str, words: &[String], stdin: &str) -> Outcome {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let mut session = Session {
        program,
        director,
        names: &FewNames,
        input: &mut stdin.as_bytes(),
        output: &mut stdout,
        errors: &mut stderr,
    };
    let exit = match program {
        "ipvsadm" => session.ipvsadm(words),
        "ipvsadm-save" => session.ipvsadm_save(words),
        "ipvsadm-restore" => session.ipvsadm_restore(),
        _ => panic!("{program}"),
    };
    let text = |octets| String::from_utf8(octets).unwrap();
    Outcome { exit, stdout: text(stdout), stderr: text(stderr) }
}

/// Runs a line of a shell without quotes.
fn run(director: &mut dyn Director, line: &str, stdin: &str) -> Outcome {
    let mut words = line.split_whitespace().map(str::to_owned);
    let program = words.next().unwrap();
    call(director, &program, &words.collect::<Vec<_>>(), stdin)
}

fn help() -> String {
    run(&mut Fake::new(), "ipvsadm -h", "").stdout
}

#[test]
fn commands_do_what_they_did_in_the_recording() {
    let recording = recording("ipvsadm.json");
    let mut director = Fake::new();
    let mut differing = BTreeSet::new();
    for (number, entry) in recording["configuration"].as_array().unwrap().iter().enumerate() {
        let command = text(entry, "command");
        let recorded = Outcome::recorded(entry);
        let outcome = run(&mut director, &command, "");
        let difference = DIFFERENCES.iter().find(|difference| difference.command == command);
        let expected = difference.map_or(recorded.clone(), |d| (d.instead)(&recorded));
        assert_eq!(outcome, expected, "command {number}: {command}");
        if outcome != recorded {
            differing.insert(command);
        }
    }
    let listed: BTreeSet<_> = DIFFERENCES.iter().map(|d| d.command.to_owned()).collect();
    assert_eq!(differing, listed, "differences that are none any more");
}

#[test]
fn listings_with_traffic_are_those_of_the_recording() {
    let recording = recording("ipvsadm.json");
    let entries = recording["with_traffic"].as_array().unwrap();
    let listing = |command: &str| {
        let entry = entries.iter().find(|entry| entry["command"] == command);
        text(entry.unwrap(), "stdout")
    };
    let mut director = traffic::director(
        &listing("ipvsadm -ln"),
        &listing("ipvsadm -ln --stats --exact"),
        &listing("ipvsadm -ln --rate"),
        &listing("ipvsadm -ln --persistent-conn"),
    );
    assert_eq!(director.services.iter().map(|service| service.servers.len()).sum::<usize>(), 5);
    for entry in entries {
        let command = text(entry, "command");
        let recorded = Outcome::recorded(entry);
        if command.contains("-lnc") {
            director.connections = traffic::connections(&recorded.stdout);
            assert_eq!(director.connections.len(), 20);
        }
        assert_eq!(run(&mut director, &command, ""), recorded, "{command}");
    }
}

/// Whether pointsman refuses what ipvsadm has understood: other methods of forwarding, daemons.
/// Then its complaint is its own.
fn is_refused(recorded: &str) -> bool {
    let forwarding =
        [" gatewaying weight", " tunneling weight"].iter().any(|method| recorded.contains(method));
    let daemon = recorded.contains("-daemon]");
    // Refused by the kernel, which was not there.
    let threshold = recorded.rsplit_once(" lower ").is_some_and(|(before, lower)| {
        let upper = before.rsplit_once(" upper ").unwrap().1;
        lower.split(']').next().unwrap().parse::<u32>().unwrap() > upper.parse::<u32>().unwrap()
    });
    forwarding || daemon || threshold
}

#[test]
fn command_lines_are_understood_as_by_ipvsadm() {
    let recording = recording("ipvsadm_arguments.json");
    let (mut compared, mut refused, mut different) = (0, 0, Vec::new());
    for entry in recording.as_array().unwrap() {
        let args: Vec<String> = serde_json::from_value(entry["args"].clone()).unwrap();
        let answer = match text(entry, "answer").as_str() {
            "" => None,
            "EEXIST" => Some(Refusal::Exists),
            "ESRCH" => Some(Refusal::NoService),
            "ERANGE" => Some(Refusal::OutOfRange),
            "ENOENT" if args[0] == "-A" || args[0] == "-E" => Some(Refusal::NoScheduler),
            "ENOENT" => Some(Refusal::NoServer),
            other => panic!("{other}"),
        };
        let (log, mut stdout) = (Log::default(), Vec::new());
        let exit = Session {
            program: "ipvsadm",
            director: &mut Recorder { log: log.clone(), answer },
            names: &FewNames,
            input: &mut text(entry, "stdin").as_bytes(),
            output: &mut stdout,
            errors: &mut log.clone(),
        }
        .ipvsadm(&args);
        let stdout = String::from_utf8(stdout).unwrap();
        let stdout = if stdout.contains("Usage:") { "(help)".into() } else { stdout };
        let outcome = Outcome { exit, stdout, stderr: log.text() };
        let stderr = text(entry, "stderr");
        if entry["exit"].is_null() || is_refused(&stderr) {
            // Understood, and then refused, or beyond what the stand-in could be asked for.
            refused += 1;
            assert!(matches!(exit, 0 | 255), "{args:?}: {outcome:?}");
            let lines = outcome.stderr.lines().count();
            assert!(exit == 0 || lines >= 1, "{args:?}: {outcome:?}");
            assert!(!outcome.stderr.contains("Try `"), "{args:?}: {outcome:?}");
        } else {
            compared += 1;
            let recorded = Outcome::recorded(entry);
            if outcome != recorded {
                let stdin = text(entry, "stdin");
                different.push(format!("{args:?} {stdin:?}\n  {outcome:?}\n  {recorded:?}"));
            }
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
    assert!(compared > 1100 && refused < 150, "{compared} compared, {refused} refused");
}

#[test]
fn the_help_names_every_option_of_the_recorded_one() {
    let options = |help: &str| -> BTreeSet<String> {
        let words = help.split([' ', '\n', '|', ',', '[', ']']);
        words.filter(|word| word.starts_with('-')).map(str::to_owned).collect()
    };
    let recording = recording("ipvsadm.json");
    let entries = recording["configuration"].as_array().unwrap();
    let recorded = entries.iter().find(|entry| entry["command"] == "ipvsadm -h").unwrap();
    let (recorded, help) = (text(recorded, "stdout"), help());
    assert_eq!(recorded.lines().next(), help.lines().next());
    let missing: Vec<_> = options(&recorded).difference(&options(&help)).cloned().collect();
    assert!(missing.is_empty(), "{missing:?}");
}

const RULES: &str = "\
-A -t 192.0.2.100:80 -s wlc -p 360 -M 255.255.255.0
-a -t 192.0.2.100:80 -r 10.0.0.11:80 -m -w 1
-a -t 192.0.2.100:80 -r 10.0.0.12:8080 -m -w 100
-A -u 192.0.2.100:53 -s rr -o
-A --sctp-service 192.0.2.100:36412 -s sh -b sh-fallback,sh-port
-A -t [2001:db8:1::100]:443 -s mh -p 50 -M 64 -b mh-port
-a -t [2001:db8:1::100]:443 -r [fd00::11]:8443 -m -w 0
-A -f 7 -s rr
-a -f 7 -r 10.0.0.11:0 -m -w 1
-A -f 7 -6 -s rr
";

#[test]
fn what_is_saved_can_be_restored() {
    let mut director = Fake::new();
    assert_eq!(run(&mut director, "ipvsadm -R", RULES).stderr, "");
    for save in ["ipvsadm -S -n", "ipvsadm-save -n", "ipvsadm --save --numeric"] {
        let saved = run(&mut director, save, "").stdout;
        assert_eq!(saved, RULES);
        director = Fake::new();
        assert_eq!(run(&mut director, "ipvsadm -R", &saved).exit, 0);
    }
}

#[test]
fn ipvsadm_restore_replaces_everything_and_passes_over_comments() {
    let mut director = Fake::new();
    run(&mut director, "ipvsadm -A -t 192.0.2.1:22", "");
    let rules = format!("# rules\n{RULES}# end\n");
    let outcome = run(&mut director, "ipvsadm-restore", &rules);
    assert_eq!((outcome.exit, outcome.stderr.as_str()), (0, ""));
    assert_eq!(run(&mut director, "ipvsadm -Sn", "").stdout, RULES);
    let outcome = run(&mut director, "ipvsadm -R", "# rules\n");
    assert_eq!(outcome.exit, 255, "{outcome:?}");
}

#[test]
fn ipvsadm_save_takes_no_option_but_n() {
    let outcome = run(&mut Fake::new(), "ipvsadm-save -x", "");
    assert_eq!((outcome.exit, outcome.stdout.as_str()), (1, ""));
    assert!(outcome.stderr.starts_with("ipvsadm-save: "), "{outcome:?}");
}

#[test]
fn a_line_that_is_wrong_ends_a_restore_and_what_was_done_stays() {
    let mut director = Fake::new();
    let rules = "-A -t 192.0.2.1:80\n-A -t 192.0.2.1:80\n-A -t 192.0.2.2:99999\n-C\n";
    let outcome = run(&mut director, "ipvsadm -R", rules);
    assert_eq!(outcome.exit, 2);
    assert_eq!(
        outcome.stderr,
        "Service already exists\nillegal virtual server address[:port] specified\n"
    );
    assert_eq!(director.services.len(), 1);
}

#[test]
fn zero_sets_the_counters_of_a_service_or_of_all_back() {
    let mut director = Fake::new();
    run(&mut director, "ipvsadm -R", RULES);
    let count = |director: &mut Fake| {
        for service in &mut director.services {
            service.totals.connections = 1;
            service.servers.iter_mut().for_each(|server| server.totals.in_packets = 1);
        }
    };
    let counted = |director: &Fake| {
        let services = director.services.iter();
        services.filter(|service| service.totals.connections == 1).count()
    };
    count(&mut director);
    assert_eq!(run(&mut director, "ipvsadm -Z -t 192.0.2.100:80", "").exit, 0);
    assert_eq!(counted(&director), director.services.len() - 1);
    let outcome = run(&mut director, "ipvsadm -Z -t 192.0.2.100:81", "");
    assert_eq!(outcome, Outcome::refused("No such service\n"));
    assert_eq!(run(&mut director, "ipvsadm -Z", "").exit, 0);
    assert_eq!(counted(&director), 0);
}

#[test]
fn a_threshold_above_the_other_is_refused_as_by_the_kernel() {
    let mut director = Fake::new();
    run(&mut director, "ipvsadm -A -t 192.0.2.100:80", "");
    let add = "ipvsadm -a -t 192.0.2.100:80 -r 10.0.0.11:80 -m -x 10 -y 20";
    let refused = Outcome::refused("Numerical result out of range\n");
    assert_eq!(run(&mut director, add, ""), refused);
}

#[test]
fn what_a_pair_would_need_is_refused_with_the_reason() {
    for command in ["ipvsadm --start-daemon master --syncid 3", "ipvsadm --stop-daemon backup"] {
        let outcome = run(&mut Fake::new(), command, "");
        assert_eq!((outcome.exit, outcome.stdout.as_str()), (255, ""));
        assert!(outcome.stderr.contains("configuration file"), "{outcome:?}");
    }
    let sip = run(&mut Fake::new(), "ipvsadm -A -u 192.0.2.100:5060 -p --pe sip", "");
    assert_eq!(sip, Outcome::refused("Scheduler or persistence engine not found\n"));
}
