//! Two directors with one set of floating addresses, and keepalived as the other half.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value as Json;
use toml::{Table, Value};

use crate::director::BINARY;
use crate::lab::{Lab, VIP4, VIPS, eventually, section};
use crate::traffic::answers;

pub(crate) const MAC_OF: [(&str, &str, &str); 3] = [
    ("director", "02:00:00:00:01:01", "02:00:00:00:02:01"),
    ("backup", "02:00:00:00:01:02", "02:00:00:00:02:02"),
    ("third", "02:00:00:00:01:03", "02:00:00:00:02:03"),
];
const LONG: Duration = Duration::from_secs(20);

/// One director of a pair; it runs until the laboratory goes.
pub(crate) struct Side<'l> {
    lab: &'l Lab,
    role: &'static str,
}

impl<'l> Side<'l> {
    pub(crate) fn config(lab: &Lab, role: &str, workers: &str) -> Table {
        lab.lab(&["config", "--workers", workers, "--for", role]).parse().unwrap()
    }

    pub(crate) fn start(lab: &'l Lab, role: &'static str, config: &Table) -> Self {
        let file = lab.state().join(format!("{role}.toml"));
        fs::write(&file, toml::to_string(config).unwrap()).unwrap();
        // What a killed one has left.
        fs::remove_file(socket(lab, role)).ok();
        lab.lab(&["start", role, role, BINARY, "run", "--config", file.to_str().unwrap()]);
        let side = Self { lab, role };
        eventually(LONG, &format!("{role} answers"), || {
            let ended = lab.state().join(format!("{role}.exit")).exists();
            assert!(!ended, "{role} ended at once:\n{}", lab.log(role));
            side.ask().map(drop)
        });
        side
    }

    /// Both, the one with more priority first and the master.
    pub(crate) fn both(lab: &'l Lab, workers: [&str; 2], change: impl Fn(&mut Table)) -> [Self; 2] {
        let start = |role, workers| {
            let mut config = Self::config(lab, role, workers);
            change(&mut config);
            Self::start(lab, role, &config)
        };
        let director = start("director", workers[0]);
        director.becomes("master");
        let backup = start("backup", workers[1]);
        backup.becomes("backup");
        [director, backup]
    }

    pub(crate) fn tell(&self, words: &str) -> Option<String> {
        let socket = socket(self.lab, self.role);
        let line = format!("POINTSMAN_SOCKET={} {BINARY} {words}", socket.display());
        let output = self.lab.attempt(self.role, &line);
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }

    pub(crate) fn ask(&self) -> Option<Json> {
        Some(serde_json::from_str(&self.tell("ha --json")?).unwrap())
    }

    pub(crate) fn role(&self) -> String {
        self.ask().unwrap()["role"].as_str().unwrap().to_owned()
    }

    pub(crate) fn becomes(&self, role: &str) {
        eventually(LONG, &format!("{} is {role}", self.role), || {
            (self.ask()?["role"] == role).then_some(())
        });
    }

    pub(crate) fn reason(&self) -> String {
        self.ask().unwrap()["reason"].as_str().unwrap().to_owned()
    }

    pub(crate) fn signal(&self, signal: &str) {
        self.lab.run(self.role, &format!("kill -{signal} {}", self.lab.pid(self.role)));
    }

    /// Live connections of an address family, as its metrics have them.
    pub(crate) fn connections(&self, family: &str) -> u64 {
        let line = "curl -sSf --max-time 5 http://127.0.0.1:9464/metrics";
        let text = self.lab.run(self.role, line);
        let family = format!("family=\"{family}\"");
        let is_one = |line: &&str| {
            line.starts_with("pointsman_connection_table_used{") && line.contains(&family)
        };
        let number = |line: &str| line.rsplit(' ').next()?.parse::<u64>().ok();
        let counts: Vec<_> =
            text.lines().filter(is_one).map(|line| number(line).unwrap()).collect();
        assert!(!counts.is_empty(), "no metric of {family}");
        counts.iter().sum()
    }

    /// Established connections to an address, which is written as in an URL.
    pub(crate) fn established(&self, vip: &str) -> usize {
        let text = self.tell("connections --limit 100000").unwrap();
        let service = format!(" {vip}:");
        let lines = text.lines().filter(|line| line.contains("ESTABLISHED"));
        lines.filter(|line| line.contains(&service)).count()
    }

    /// Killed, as by a failure of its power.
    pub(crate) fn dies(self) {
        self.signal("KILL");
        self.lab.end(self.role);
    }

    pub(crate) fn stop(self) {
        let (lab, role) = (self.lab, self.role);
        assert_eq!(lab.end(role), 0, "{}", lab.log(role));
        let log = lab.log(role);
        assert!(log.contains("imbalance") && !log.contains("panicked"), "{log}");
    }
}

fn socket(lab: &Lab, role: &str) -> std::path::PathBuf {
    let prefix = if role == "director" { String::new() } else { format!("{role}-") };
    lab.state().join(format!("{prefix}pointsman.sock"))
}

/// The Ethernet address that a host's kernel has for a neighbour.
pub(crate) fn neighbor(lab: &Lab, host: &str, address: &str) -> String {
    let line = format!("ip neighbour show {address} dev eth0");
    let text = lab.run(host, &line);
    let mut words = text.split_whitespace().skip_while(|word| *word != "lladdr");
    words.nth(1).unwrap_or_else(|| panic!("{host} does not know {address}: {text}")).to_owned()
}

/// The kernels of the client and of a real server send both floating addresses to this director.
pub(crate) fn all_send_to(lab: &Lab, role: &str) {
    let (_, outside, inside) = MAC_OF.into_iter().find(|known| known.0 == role).unwrap();
    for (host, address, mac) in [
        ("client", VIP4, outside),
        ("client", "2001:db8:1::100", outside),
        ("rs1", "10.0.0.1", inside),
        ("rs1", "fd00:a::1", inside),
    ] {
        let what = format!("{host} sends {address} to {role}");
        eventually(Duration::from_secs(3), &what, || {
            (neighbor(lab, host, address) == mac).then_some(())
        });
    }
}

/// Everybody has asked for the floating addresses.
pub(crate) fn all_have_asked(lab: &Lab) {
    for vip in VIPS {
        assert_eq!(answers(lab, vip, 6).values().sum::<usize>(), 6, "{vip}");
    }
    lab.run("rs1", "ping -c 1 -W 2 10.0.0.1 && ping -c 1 -W 2 fd00:a::1");
}

/// Asks for an address of each family for some seconds, as a host does that was given it (RFC 5227
/// section 2.1.1, RFC 4862 section 5.4.2), and tells who has answered.
const WHO_ANSWERS: &str = "
import sys, time
from scapy.all import *
v4, v6, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
broadcast, mac = 'ff:ff:ff:ff:ff:ff', get_if_hwaddr('eth0')
arp = Ether(src=mac, dst=broadcast) / ARP(hwsrc=mac, psrc='0.0.0.0', pdst=v4)
node = inet_ntop(socket.AF_INET6, in6_getnsma(inet_pton(socket.AF_INET6, v6)))
ask = Ether(src=mac, dst=in6_getnsmac(inet_pton(socket.AF_INET6, node)))
solicitation = ask / IPv6(src='::', dst=node, hlim=255) / ICMPv6ND_NS(tgt=v6)
found = set()
def hear(frame):
    if ARP in frame and frame[ARP].op == 2 and frame[ARP].psrc == v4:
        found.add(('ipv4', frame[ARP].hwsrc))
    if ICMPv6ND_NA in frame and frame[ICMPv6ND_NA].tgt == v6:
        found.add(('ipv6', frame[ICMPv6NDOptDstLLAddr].lladdr))
sniffer = AsyncSniffer(iface='eth0', store=False, prn=hear, filter='arp or icmp6')
sniffer.start()
time.sleep(0.3)
print('asking', file=sys.stderr, flush=True)
wire = conf.L2socket(iface='eth0')
end = time.monotonic() + seconds
while time.monotonic() < end:
    wire.send(arp)
    wire.send(solicitation)
    time.sleep(0.1)
time.sleep(0.3)
sniffer.stop()
for family, mac in sorted(found): print(family, mac)
";

/// Hosts on both sides that ask who has what moves, while something happens.
pub(crate) struct Askers<'l>(&'l Lab);

impl<'l> Askers<'l> {
    const HOSTS: [(&'static str, &'static str, &'static str); 2] =
        [("client", VIP4, "2001:db8:1::100"), ("rs1", "10.0.0.1", "fd00:a::1")];

    /// They ask for so many seconds.
    pub(crate) fn begin(lab: &'l Lab, seconds: u32) -> Self {
        let script = lab.state().join("asker.py");
        fs::write(&script, WHO_ANSWERS).unwrap();
        for (host, v4, v6) in Self::HOSTS {
            let line = format!("/usr/bin/python3 {} {v4} {v6} {seconds}", script.display());
            lab.begin(host, &format!("{host}-asks"), &line);
        }
        for (host, ..) in Self::HOSTS {
            eventually(LONG, &format!("{host} asks"), || {
                lab.log(&format!("{host}-asks")).contains("asking").then_some(())
            });
        }
        Self(lab)
    }

    /// This director has answered, and no other one.
    pub(crate) fn have_heard_only(self, role: &str) {
        let Self(lab) = self;
        let (_, outside, inside) = MAC_OF.into_iter().find(|known| known.0 == role).unwrap();
        for ((host, ..), mac) in Self::HOSTS.into_iter().zip([outside, inside]) {
            let name = format!("{host}-asks");
            let code = lab.exit_code(&name, LONG);
            let log = lab.log(&name);
            let answers: Vec<_> = log.lines().filter(|line| line.starts_with("ipv")).collect();
            let expected = [format!("ipv4 {mac}"), format!("ipv6 {mac}")];
            assert_eq!(
                (code, answers),
                (0, expected.iter().map(|line| &**line).collect()),
                "{log}"
            );
        }
    }
}

/// Nobody else answers for what moves.
pub(crate) fn answers_alone(lab: &Lab, role: &str) {
    Askers::begin(lab, 1).have_heard_only(role);
}

#[test]
fn both_sides_move_together_when_the_master_dies_and_stay_when_it_returns() {
    let lab = Lab::pair("dies");
    let [director, backup] = Side::both(&lab, ["0", "1"], |_| ());
    all_have_asked(&lab);
    all_send_to(&lab, "director");
    director.dies();
    backup.becomes("master");
    assert_eq!(backup.reason(), "no other director was heard in time");
    all_send_to(&lab, "backup");
    all_have_asked(&lab);
    // It has more priority, but does not preempt.
    let director = Side::start(&lab, "director", &Side::config(&lab, "director", "0"));
    director.becomes("backup");
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!((&*director.role(), &*backup.role()), ("backup", "master"));
    all_have_asked(&lab);
    answers_alone(&lab, "backup");
    all_send_to(&lab, "backup");
    // The standby is a host like others: it answers for its own addresses and for no other.
    lab.client("ping -c 1 -W 2 192.0.2.1");
    director.stop();
    backup.stop();
}

/// A web client with one connection that is busy for some seconds, of each family.
pub(crate) fn begin_downloads(lab: &Lab) {
    for (name, vip) in [("v4", VIPS[0]), ("v6", VIPS[1])] {
        let url = format!("'http://{vip}/big?[1-30]'");
        let curl = format!("curl -sS -v --max-time 60 --limit-rate 4M {url}");
        let file = lab.state().join(name);
        let line = format!("sh -c \"{curl} 2>{0}.log | sha256sum >{0}.sum\"", file.display());
        lab.begin("client", name, &line);
    }
}

/// They end as they should: every octet has come, over one connection.
pub(crate) fn downloads_end_well(lab: &Lab) {
    let content = lab.state().join("content/big").display().to_string();
    let whole = "for i in $(seq 30); do cat FILE; done | sha256sum".replace("FILE", &content);
    let whole = lab.run("client", &whole);
    for name in ["v4", "v6"] {
        let code = lab.exit_code(name, Duration::from_secs(60));
        let file = lab.state().join(name);
        let read = |end: &str| fs::read_to_string(file.with_extension(end)).unwrap();
        assert_eq!((code, read("sum")), (0, whole.clone()), "{name}: {}", read("log"));
        assert_eq!(read("log").matches("Connected to ").count(), 1, "{name}: one connection");
    }
}

#[test]
fn connections_survive_the_death_of_their_director_and_its_return() {
    let lab = Lab::pair("survive");
    // Other numbers of workers on both sides: each finds the worker that a connection is of.
    let [director, backup] = Side::both(&lab, ["0, 1", "1"], |_| ());
    begin_downloads(&lab);
    std::thread::sleep(Duration::from_secs(2));
    director.dies();
    backup.becomes("master");
    std::thread::sleep(Duration::from_secs(1));
    // It learns of them, though they began before it did.
    let director = Side::start(&lab, "director", &Side::config(&lab, "director", "0, 1"));
    director.becomes("backup");
    eventually(LONG, "the old master was told everything", || {
        (director.ask()?["connections_known"] == "learnt").then_some(())
    });
    lab.run("switch", "ip link set to-backup down");
    director.becomes("master");
    downloads_end_well(&lab);
    lab.run("switch", "ip link set to-backup up");
    director.stop();
    backup.stop();
}

#[test]
fn a_link_that_is_down_on_one_side_moves_both() {
    let lab = Lab::pair("link");
    let [director, backup] = Side::both(&lab, ["0", "1"], |_| ());
    all_have_asked(&lab);
    for (switch, interface) in [("switch", "inside"), ("street", "outside")] {
        lab.run(switch, "ip link set to-director down");
        director.becomes("fault");
        assert_eq!(director.reason(), format!("interface {interface} has no link"));
        backup.becomes("master");
        all_send_to(&lab, "backup");
        all_have_asked(&lab);
        lab.run(switch, "ip link set to-director up");
        director.becomes("backup");
        assert!(director.tell("ha takeover").is_some());
        director.becomes("master");
        backup.becomes("backup");
        all_send_to(&lab, "director");
        all_have_asked(&lab);
    }
    director.stop();
    backup.stop();
}

/// Nothing floats on the outside by name, but the VIPs are there.
#[test]
fn a_link_of_vips_alone_is_given_up_only_to_a_director_that_works() {
    let lab = Lab::pair("vips");
    let change = |config: &mut Table| {
        let floating = group(config)["floating"].as_array_mut().unwrap();
        floating.retain(|entry| entry["interface"].as_str() == Some("inside"));
    };
    let [director, backup] = Side::both(&lab, ["0", "1"], change);
    let cut = "interface outside has no link";
    let unreached = |side: &Side<'_>, what: Json| {
        eventually(LONG, &format!("{} does not reach {what}", side.role), || {
            (side.ask()?.get("unreached").cloned().unwrap_or_default() == what).then_some(())
        });
    };
    eventually(LONG, "the backup stands by", || director.ask()?.get("standby").map(drop));
    lab.run("street", "ip link set to-director down");
    director.becomes("fault");
    assert_eq!(director.reason(), cut);
    backup.becomes("master");
    all_have_asked(&lab);
    // There is nobody to leave it to: the inside has its gateway still.
    lab.run("street", "ip link set to-backup down");
    unreached(&backup, cut.into());
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!((&*director.role(), &*backup.role()), ("fault", "master"));
    let gateway = "ping -c 1 -W 2 10.0.0.1 && ping -c 1 -W 2 fd00:a::1";
    lab.run("rs1", gateway);
    backup.dies();
    director.becomes("master");
    unreached(&director, cut.into());
    lab.run("rs1", gateway);
    // Without the services no address needs the outside, and with them some do.
    let file = lab.state().join("director.toml");
    let whole = fs::read_to_string(&file).unwrap();
    let mut less: Table = whole.parse().unwrap();
    less.remove("service");
    for (text, what) in [(less.to_string(), Json::Null), (whole, cut.into())] {
        fs::write(&file, text).unwrap();
        assert!(director.tell("reload").is_some(), "{}", lab.log("director"));
        unreached(&director, what);
    }
    lab.run("street", "ip link set to-director up");
    unreached(&director, Json::Null);
    all_have_asked(&lab);
    director.stop();
}

#[test]
fn what_is_tracked_and_the_program_that_is_told_have_their_say() {
    let lab = Lab::pair("tracked");
    let [weight, told, script] = ["weight", "told", "notify"].map(|name| lab.state().join(name));
    fs::write(&script, format!("#!/bin/sh\necho \"$*\" >>{}\n", told.display())).unwrap();
    lab.run("director", &format!("chmod +x {}", script.display()));
    let [director, backup] = Side::both(&lab, ["0", "1"], |config| {
        let group = group(config);
        if group["priority"].as_integer() == Some(150) {
            let file = weight.to_str().unwrap().to_owned();
            let track = Table::from_iter([("file".to_owned(), Value::from(file))]);
            group.insert("track".into(), Value::Array(vec![track.into()]));
            group.insert("notify".into(), script.to_str().unwrap().into());
        }
        group.insert("preempt".into(), true.into());
    });
    // Less than the backup's: that one preempts.
    fs::write(&weight, "-100\n").unwrap();
    backup.becomes("master");
    director.becomes("backup");
    fs::write(&weight, "-254\n").unwrap();
    director.becomes("fault");
    fs::remove_file(&weight).unwrap();
    director.becomes("master");
    // The group, the role, the role before, and the reason.
    let expected = [
        "pair backup stopped the director has started",
        "pair master backup no other director was heard in time",
        "pair backup master ",
        &format!("pair fault backup {} says -254", weight.display()),
        "pair backup fault what was broken works again",
        "pair master backup it is better than ",
    ];
    eventually(LONG, "the program was told", || {
        let lines = fs::read_to_string(&told).unwrap_or_default();
        let is_told = |wanted: &&str| lines.lines().any(|line| line.starts_with(*wanted));
        expected.iter().all(is_told).then_some(())
    });
    director.stop();
    let lines = fs::read_to_string(&told).unwrap();
    let last = lines.lines().last().unwrap();
    assert!(last.starts_with("pair stopped master "), "{last}");
    backup.stop();
}

#[test]
fn a_director_that_was_frozen_says_nothing_when_it_returns() {
    let lab = Lab::pair("frozen");
    let [director, backup] = Side::both(&lab, ["0, 1", "1"], |_| ());
    all_have_asked(&lab);
    // Packets wait for it while it is frozen; they must not leave later.
    director.signal("STOP");
    // Announcements of addresses of its own do no harm.
    let moving = "ip proto 112 or ip6 proto 112 or tcp or arp[14:4] == 0xc0000264";
    let capture = format!("tcpdump -n -i to-director -Q in -c 1 '{moving}' 2>&1");
    backup.becomes("master");
    all_have_asked(&lab);
    all_send_to(&lab, "backup");
    lab.begin("street", "capture", &format!("timeout 5 {capture}"));
    std::thread::sleep(Duration::from_millis(500));
    director.signal("CONT");
    director.becomes("backup");
    assert!(director.reason().starts_with("it stood still for "), "{}", director.reason());
    let code = lab.exit_code("capture", LONG);
    assert_eq!(code, 124, "it spoke: {}", lab.log("capture"));
    assert_eq!(backup.role(), "master");
    answers_alone(&lab, "backup");
    director.stop();
    backup.stop();
}

#[test]
fn a_clean_stop_and_the_operator_hand_over_at_once() {
    let lab = Lab::pair("order");
    let [director, backup] = Side::both(&lab, ["0", "1"], |_| ());
    on_failure(&director, "10.0.0.3 stands by, knows all connections, and takes over 300 ms");
    director.tell("ha release").unwrap();
    backup.becomes("master");
    director.becomes("backup");
    assert!(backup.reason().ends_with(" has given up"), "{}", backup.reason());
    director.tell("ha takeover").unwrap();
    backup.becomes("backup");
    assert!(backup.reason().ends_with(" with priority 254"), "{}", backup.reason());
    all_send_to_after(&lab, "director");
    director.stop();
    backup.becomes("master");
    all_send_to_after(&lab, "backup");
    on_failure(&backup, "10.0.0.2 stood by ");
    backup.stop();
}

/// What a director says of that.
fn on_failure(director: &Side<'_>, begins: &str) {
    eventually(LONG, begins, || {
        let said = director.ask()?["on_failure"].as_str()?.to_owned();
        said.starts_with(begins).then_some(())
    });
}

fn all_send_to_after(lab: &Lab, role: &str) {
    all_have_asked(lab);
    all_send_to(lab, role);
}

/// Settings of the group of a configuration.
pub(crate) fn group(config: &mut Table) -> &mut Table {
    config["failover"].as_array_mut().unwrap()[0].as_table_mut().unwrap()
}

/// Sets them, written as in a file.
pub(crate) fn set(config: &mut Table, text: &str) {
    group(config).extend(text.parse::<Table>().unwrap());
}

/// Addresses of one family alone float.
pub(crate) fn float_only(group: &mut Table, family: &str) {
    let floating = group["floating"].as_array_mut().unwrap();
    floating.retain(|entry| entry["address"].as_str().unwrap().contains(':') == (family == "ipv6"));
}

/// The laboratory's configuration with other settings of failover.
pub(crate) fn with(lab: &Lab, change: impl Fn(&mut Table)) -> Table {
    let mut config = Side::config(lab, "director", "0");
    change(group(&mut config));
    config
}

/// Fields of the packets of a capture that pass a filter, as tshark reads them.
pub(crate) fn by_tshark(lab: &Lab, file: &Path, filter: &str, fields: &[&str]) -> Vec<Vec<String>> {
    let fields: Vec<_> = fields.iter().map(|field| format!("-e {field}")).collect();
    let (file, fields) = (file.display(), fields.join(" "));
    let line = format!("tshark -r {file} -Y '{filter}' -T fields {fields} 2>/dev/null");
    let text = lab.run("street", &line);
    text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect()
}

#[test]
fn tshark_reads_advertisements_and_announcements() {
    let lab = Lab::pair("tshark");
    let file = lab.state().join("street.pcap");
    let filter = "ip proto 112 or ip6 proto 112 or arp or icmp6";
    let capture = format!("tcpdump --immediate-mode -U -i to-client -w {}", file.display());
    lab.begin("street", "capture", &format!("timeout 20 {capture} '{filter}'"));
    std::thread::sleep(Duration::from_millis(500));
    let config = with(&lab, |group| {
        section(group, &["announcements"]).insert("every".into(), "200ms".into());
    });
    let director = Side::start(&lab, "director", &config);
    director.becomes("master");
    std::thread::sleep(Duration::from_secs(2));
    director.stop();
    std::thread::sleep(Duration::from_millis(500));
    lab.end("capture");
    let read = |filter: &str, fields: &[&str]| by_tshark(&lab, &file, filter, fields);
    // Version, router, priority, interval in hundredths, TTL, Ethernet destination.
    let fields = [
        "vrrp.version",
        "vrrp.virt_rtr_id",
        "vrrp.prio",
        "vrrp.short_adver_int",
        "ip.ttl",
        "vrrp.ip_addr",
        "eth.dst",
    ];
    let v4 = read("vrrp && ip", &fields);
    let expected = ["3", "51", "150", "10", "255", VIP4, "01:00:5e:00:00:12"];
    assert!(v4.len() > 10 && v4[0] == expected, "{v4:?}");
    assert_eq!(v4.last().unwrap()[2], "0", "it gives up");
    let fields = [
        "vrrp.prio",
        "ipv6.hlim",
        "vrrp.ipv6_addr",
        "ipv6.dst",
        "vrrp.checksum.status",
        "ipv6.src",
    ];
    let v6 = read("vrrp && ipv6", &fields);
    assert_eq!(v6[0], ["150", "255", "2001:db8:1::100", "ff02::12", "1", "fe80::ff:fe00:101"]);
    let arp =
        read("arp.isgratuitous == 1 && arp.src.proto_ipv4 == 192.0.2.100", &["arp.src.hw_mac"]);
    assert_eq!(arp, vec![vec![MAC_OF[0].1.to_owned()]; 5]);
    let fields = ["icmpv6.nd.na.flag.o", "icmpv6.nd.na.flag.s", "icmpv6.opt.linkaddr", "ipv6.dst"];
    let na = read("icmpv6.type == 136 && icmpv6.nd.na.target_address == 2001:db8:1::100", &fields);
    assert_eq!(na.len(), 5, "{na:?}");
    let is_true = |text: &str| text == "1" || text == "True";
    assert!(is_true(&na[0][0]) && !is_true(&na[0][1]) && na[0][2] == MAC_OF[0].1, "{na:?}");
    assert_eq!(na[0][3], "ff02::1");
}
