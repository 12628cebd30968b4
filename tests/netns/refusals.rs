//! What a director that cannot start says, and that it leaves nothing behind.

use std::cell::RefCell;
use std::path::Path;
use std::time::Duration;

use toml::Table;

use crate::director::BINARY;
use crate::lab::{Lab, VIP4, section};
use crate::traffic::{answers, shares};

struct Refusal {
    lab: Lab,
    wrong: RefCell<Vec<String>>,
}

impl Refusal {
    /// Starts a director, which must fail, say these words, and leave nothing behind.
    fn of(&self, case: &str, config: &str, words: &[&str]) {
        let file = self.lab.state().join("bad.toml");
        std::fs::write(&file, config).unwrap();
        let before = self.things();
        let output = self
            .lab
            .attempt("director", &format!("timeout 60 {BINARY} run --config {}", file.display()));
        let said = String::from_utf8_lossy(&output.stderr);
        eprintln!("---- {case}\n{said}");
        let mut wrong = Vec::new();
        if !matches!(output.status.code(), Some(1 | 2)) {
            wrong.push(format!("{:?}", output.status));
        }
        if said.contains("panicked") {
            wrong.push("a panic".to_owned());
        }
        let missing = words.iter().filter(|word| !said.contains(**word));
        wrong.extend(missing.map(|word| format!("{word:?} is missing")));
        let after = self.things();
        if after != before {
            wrong.push(format!("left behind:\n{after}\nwhere there was\n{before}"));
        }
        if !wrong.is_empty() {
            self.wrong.borrow_mut().push(format!("{case}: {}", wrong.join("; ")));
        }
    }

    fn of_table(&self, case: &str, config: &Table, words: &[&str]) {
        self.of(case, &toml::to_string(config).unwrap(), words);
    }

    /// Interfaces and processes of the director's namespace, files beside its configuration,
    /// DPDK's runtime files.
    fn things(&self) -> String {
        let state = self.lab.state();
        self.lab.run(
            "director",
            &format!(
                "ip -o link | cut -d: -f2; pgrep -f '{0}/[b]ad.toml'; ls -A {0} /run/dpdk \
                 /run/dpdk/rte /run/pointsman 2>&1; true",
                state.display()
            ),
        )
    }
}

fn device(config: &mut Table, outside: &str) {
    section(config, &["interface", "outside"]).insert("device".into(), outside.into());
}

fn free_huge_mib() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap();
    let of = |key: &str| -> u64 {
        let line = text.lines().find(|line| line.starts_with(key)).unwrap_or("x 0");
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    of("HugePages_Free:") * of("Hugepagesize:") / 1024
}

#[test]
fn bad_input_is_refused_with_its_cause_and_remedy() {
    let refusal = Refusal { lab: Lab::two_nic("refusals"), wrong: RefCell::default() };
    let good = refusal.lab.config("0");
    files(&refusal, &good);
    memory(&refusal, &good);
    interfaces(&refusal, &good);
    addresses(&refusal, &good);
    a_second_instance(&refusal, &good);
    let wrong = refusal.wrong.borrow();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn files(refusal: &Refusal, good: &Table) {
    refusal.of("no TOML", "[director\nworkers = 0\n", &["bad.toml:1:10", "error"]);
    let mut config = good.clone();
    config.insert("directer".into(), Table::new().into());
    refusal.of_table("an unknown section", &config, &["directer", "did you mean `director`"]);
    let mut config = good.clone();
    section(&mut config, &["interface", "inside"])
        .insert("addresses".into(), vec!["10.9.0.1/24"].into());
    refusal.of_table("unreachable servers", &config, &["10.0.0.11", "no "]);
}

fn memory(refusal: &Refusal, good: &Table) {
    let mut config = good.clone();
    let dpdk = section(&mut config, &["dpdk"]);
    dpdk.insert("hugepages".into(), true.into());
    dpdk.insert("memory".into(), format!("{}MiB", free_huge_mib() + 64).into());
    refusal.of_table(
        "too few huge pages",
        &config,
        &["huge pages", "nr_hugepages", "hugepages = false"],
    );

    let mut config = good.clone();
    section(&mut config, &["dpdk"]).insert("memory".into(), "64MiB".into());
    section(&mut config, &["dpdk"]).insert("mbufs".into(), 200_000.into());
    refusal.of_table("too little memory for packets", &config, &["packet buffers", "memory"]);
    let mut config = good.clone();
    section(&mut config, &["director"]).insert("connections".into(), 1_000_000_000.into());
    refusal.of_table("more connections than fit", &config, &["memory", "connections"]);
}

fn interfaces(refusal: &Refusal, good: &Table) {
    let mut config = good.clone();
    device(&mut config, "net_af_packet0,iface=nosuch0");
    refusal.of_table("no such network interface", &config, &["nosuch0", "ip link"]);
    let mut config = good.clone();
    device(&mut config, "net_af_packet0,iface=outside0,speed=9");
    refusal.of_table("an unknown device argument", &config, &["outside", "speed"]);
    let mut config = good.clone();
    device(&mut config, "0000:99:1f.7");
    refusal.of_table("no such PCI device", &config, &["0000:99:1f.7", "dpdk-devbind"]);
    let mut config = good.clone();
    device(&mut config, "net_afpacket0,iface=outside0");
    refusal.of_table("an unknown driver", &config, &["net_afpacket", "net_af_packet"]);
}

fn addresses(refusal: &Refusal, good: &Table) {
    let mut config = good.clone();
    section(&mut config, &["director"]).insert("metrics".into(), "198.51.100.9:9464".into());
    refusal.of_table(
        "a metrics address of another machine",
        &config,
        &["198.51.100.9:9464", "metrics"],
    );
    let mut config = good.clone();
    section(&mut config, &["director"]).insert("socket".into(), "/proc/pointsman.sock".into());
    refusal.of_table("a socket where none can be", &config, &["/proc/pointsman.sock", "socket"]);
    let mut config = good.clone();
    section(&mut config, &["director"]).insert("socket".into(), "/etc/hostname".into());
    refusal.of_table("a file in the socket's place", &config, &["/etc/hostname", "not a socket"]);
    assert!(Path::new("/etc/hostname").exists());
}

fn a_second_instance(refusal: &Refusal, good: &Table) {
    let director = refusal.lab.direct(good);
    let mut config = good.clone();
    section(&mut config, &["director"]).insert("metrics".into(), "off".into());
    refusal.of_table(
        "a second instance",
        &config,
        &["another director", "pointsman.sock", "stop it"],
    );
    let mut config = good.clone();
    let other = refusal.lab.state().join("other.sock");
    section(&mut config, &["director"]).insert("socket".into(), other.to_str().unwrap().into());
    refusal.of_table(
        "an occupied metrics address",
        &config,
        &["127.0.0.1:9464", "in use", "metrics"],
    );
    // The first one has not noticed.
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(answers(&refusal.lab, VIP4, 9), shares([3, 3, 3]));
    director.stop();
}
