//! What a pair says on both of its networks, as tcpdump records it and tshark reads it.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::lab::{Lab, VIP4, VIPS, eventually, section};
use crate::pair::{
    Askers, MAC_OF, Side, all_have_asked, all_send_to, answers_alone, by_tshark, group, with,
};

const LONG: Duration = Duration::from_secs(20);

/// A switch, and its port that everything for everybody leaves by.
pub(crate) const SIDES: [(&str, &str); 2] = [("street", "to-client"), ("switch", "to-rs1")];

/// What leaves a switch by one of its ports.
pub(crate) struct Capture<'l> {
    lab: &'l Lab,
    file: PathBuf,
    name: String,
}

impl<'l> Capture<'l> {
    /// From now on, for two minutes at most.
    pub(crate) fn begin(lab: &'l Lab, (switch, port): (&str, &str), filter: &str) -> Self {
        let (file, name) =
            (lab.state().join(format!("{switch}.pcap")), format!("capture-{switch}"));
        let line = format!("tcpdump --immediate-mode -n -U -i {port} -w {}", file.display());
        lab.begin(switch, &name, &format!("timeout 120 {line} '{filter}'"));
        eventually(LONG, &format!("{name} has begun"), || {
            lab.log(&name).contains("listening on").then_some(())
        });
        Self { lab, file, name }
    }

    /// On both sides.
    pub(crate) fn both(lab: &'l Lab, filter: &str) -> [Self; 2] {
        SIDES.map(|side| Self::begin(lab, side, filter))
    }

    pub(crate) fn end(&self) {
        self.lab.end(&self.name);
    }

    /// Fields of the packets that pass a filter.
    pub(crate) fn read(&self, filter: &str, fields: &[&str]) -> Vec<Vec<String>> {
        by_tshark(self.lab, &self.file, filter, fields)
    }

    /// When the packets came that pass a filter, in seconds.
    pub(crate) fn times(&self, filter: &str) -> Vec<f64> {
        let lines = self.read(filter, &["frame.time_epoch"]);
        lines.iter().map(|line| line[0].parse().unwrap()).collect()
    }
}

/// Says once that it is the master, with priority 50, by a family.
const WORSE: &str = "
import sys
from scapy.all import *
source, addresses = sys.argv[1], sys.argv[2:]
family = socket.AF_INET6 if ':' in source else socket.AF_INET
body = bytes([0x31, 51, 50, len(addresses), 0, 100, 0, 0])
body += b''.join(inet_pton(family, address) for address in addresses)
if family == socket.AF_INET6:
    ip, to = IPv6(src=source, dst='ff02::12', hlim=255, nh=112), '33:33:00:00:00:12'
    sum = in6_chksum(112, ip, body)
else:
    ip, to = IP(src=source, dst='224.0.0.18', ttl=255, proto=112), '01:00:5e:00:00:12'
    sum = checksum(body)
body = body[:6] + sum.to_bytes(2, 'big') + body[8:]
sendp(Ether(src=get_if_hwaddr('eth0'), dst=to) / ip / Raw(body), iface='eth0', verbose=0)
";

/// Hosts that claim to be worse directors, by each family, and what floats there.
const CLAIMS: [(&str, [(&str, &str); 2]); 2] = [
    ("client", [("192.0.2.10", VIP4), ("fe80::ff:fe00:110", "2001:db8:1::100")]),
    ("rs1", [("10.0.0.11", "10.0.0.1"), ("fe80::ff:fe00:211", "fd00:a::1")]),
];

/// What announces an address, for tshark.
fn announces(address: &str) -> String {
    if address.contains(':') {
        format!("icmpv6.type == 136 && icmpv6.nd.na.target_address == {address}")
    } else {
        format!("arp.isgratuitous == 1 && arp.src.proto_ipv4 == {address}")
    }
}

/// One director with other settings of announcements, until it has been the master for a while.
fn master_for(lab: &Lab, interval: &str, refresh: &str, meanwhile: impl FnOnce()) {
    let config = with(lab, |group| {
        group.insert("interval".into(), interval.into());
        let settings = section(group, &["announcements"]);
        settings.insert("repeat".into(), 1.into());
        settings.insert("refresh".into(), refresh.into());
    });
    let director = Side::start(lab, "director", &config);
    director.becomes("master");
    meanwhile();
    director.stop();
}

#[test]
fn announcements_are_refreshed_on_both_sides_and_come_again_when_a_worse_one_claims_them() {
    let lab = Lab::pair("announce");
    let filter = "ip proto 112 or ip6 proto 112 or arp or icmp6";
    let captures = Capture::both(&lab, filter);
    master_for(&lab, "100ms", "1s", || std::thread::sleep(Duration::from_millis(4500)));
    captures.iter().for_each(Capture::end);
    for (capture, (_, claims)) in captures.iter().zip(CLAIMS) {
        for (_, address) in claims {
            let times = capture.times(&announces(address));
            let pauses: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
            let is_second = |pause: &f64| (0.8..1.2).contains(pause);
            assert!(pauses.len() >= 4 && pauses.iter().all(is_second), "{address}: {pauses:?}");
        }
    }

    // Everything is announced again after each claim, wherever it was heard, and an advertisement does
    // not wait for its time.
    let captures = Capture::both(&lab, filter);
    let script = lab.state().join("worse.py");
    fs::write(&script, WORSE).unwrap();
    master_for(&lab, "1s", "0s", || {
        for (host, claims) in CLAIMS {
            for (source, address) in claims {
                std::thread::sleep(Duration::from_millis(700));
                lab.run(host, &format!("/usr/bin/python3 {} {source} {address}", script.display()));
            }
        }
        std::thread::sleep(Duration::from_millis(700));
    });
    captures.iter().for_each(Capture::end);
    let claimed = captures.each_ref().map(|capture| capture.times("vrrp.prio == 50"));
    let all_claimed = claimed.concat();
    for ((capture, (_, claims)), claimed) in captures.iter().zip(CLAIMS).zip(claimed) {
        assert_eq!(claimed.len(), 2);
        for (_, address) in claims {
            let told = capture.times(&announces(address));
            assert_eq!(told.len(), 5, "{address}: at the takeover and after each claim: {told:?}");
            for (told, claimed) in told[1..].iter().zip(&all_claimed) {
                assert!((0.0..0.3).contains(&(told - claimed)), "{address}: {told} {claimed}");
            }
        }
        for (family, claimed) in ["ip", "ipv6"].into_iter().zip(&claimed) {
            let said = capture.times(&format!("vrrp.prio == 150 && {family}"));
            let after: Vec<_> = said.iter().map(|at| at - claimed).collect();
            let is_answer = |after: &f64| (0.0..0.3).contains(after);
            assert!(after.iter().any(is_answer), "{family}: {after:?}");
        }
    }
}

#[test]
fn one_director_alone_answers_for_what_moves_when_a_cable_is_back_and_after_a_freeze() {
    let lab = Lab::pair("alone");
    // No round of announcements is under way when the cable is cut: a device without a link keeps them,
    // and they are no answers.
    let [director, backup] = Side::both(&lab, ["0", "1"], |config| {
        section(group(config), &["announcements"]).insert("repeat".into(), 1.into());
    });
    answers_alone(&lab, "director");
    lab.run("street", "ip link set to-director down");
    director.becomes("fault");
    backup.becomes("master");
    let askers = Askers::begin(&lab, 4);
    lab.run("street", "ip link set to-director up");
    director.becomes("backup");
    askers.have_heard_only("backup");
    all_have_asked(&lab);

    backup.signal("STOP");
    director.becomes("master");
    let askers = Askers::begin(&lab, 3);
    backup.signal("CONT");
    backup.becomes("backup");
    askers.have_heard_only("director");
    all_have_asked(&lab);
    director.stop();
    backup.stop();
}

/// Says once more, within a millisecond and as its last words, what a host has said: that it gives up is the
/// last of it.
const LAST_WORDS: &str = "
import socket, sys
from scapy.all import *
file, mac, interface = sys.argv[1:]
said = [frame for frame in rdpcap(file) if frame.src == mac]
def advertised(frame):
    for ip in IP, IPv6:
        if ip in frame and 112 in (frame[ip].fields.get('proto'), frame[ip].fields.get('nh')):
            return bytes(frame[ip].payload)[2]
gives_up = [frame for frame in said if advertised(frame) == 0]
words = [frame for frame in said if advertised(frame) != 0] + gives_up
assert gives_up and any(advertised(frame) for frame in words) and any(ARP in frame for frame in words)
words = [bytes(frame) for frame in words]
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind((interface, 0))
for frame in words: wire.send(frame)
";

/// What `net_af_packet` is given while there is no link leaves when the link is back: here the one
/// advertisement that gives up and, where the device took them before the director knew, announcements.
#[test]
fn what_a_cut_link_has_kept_back_misleads_nobody_for_long() {
    let lab = Lab::pair("kept");
    let [director, backup] = Side::both(&lab, ["0", "1"], |config| {
        let settings = section(group(config), &["announcements"]);
        settings.insert("repeat".into(), 100.into());
        settings.insert("every".into(), "10ms".into());
    });
    all_have_asked(&lab);
    let filter = "arp or icmp6 or ip proto 112 or ip6 proto 112";
    let term = Capture::begin(&lab, SIDES[0], filter);
    assert!(director.tell("ha release").is_some());
    backup.becomes("master");
    assert!(director.tell("ha takeover").is_some());
    director.becomes("master");
    // In the middle of its rounds.
    lab.run("street", "ip link set to-director down");
    director.becomes("fault");
    backup.becomes("master");
    all_send_to(&lab, "backup");
    term.end();
    let (words, script) = (lab.state().join("words.pcap"), lab.state().join("last-words.py"));
    fs::rename(&term.file, &words).unwrap();
    fs::write(&script, LAST_WORDS).unwrap();
    // Until its own rounds are over.
    std::thread::sleep(Duration::from_secs(4));
    let capture = Capture::begin(&lab, SIDES[0], filter);
    lab.run("street", "ip link set to-director up");
    director.becomes("backup");
    let last = |side: usize, what: &str| {
        let from = format!("eth.src == {}", MAC_OF[side].1);
        capture.times(&format!("{what} && {from}")).last().copied()
    };
    // The next frame takes it along.
    let kept = eventually(LONG, "what was kept back has left", || last(0, "vrrp"));
    eventually(LONG, "the master has announced itself since", || {
        (last(1, &announces(VIP4)) > Some(kept)).then_some(())
    });
    all_send_to(&lab, "backup");
    capture.end();
    // The longest burst that a device could have kept: all of its term.
    let line = format!(
        "/usr/bin/python3 {} {} {} outside0",
        script.display(),
        words.display(),
        MAC_OF[0].1
    );
    lab.run("director", &line);
    backup.becomes("master");
    all_send_to(&lab, "backup");
    all_have_asked(&lab);
    assert_eq!((&*director.role(), &*backup.role()), ("backup", "master"));
    director.stop();
    backup.stop();
}

/// Of the load, the reloads and the scrapes the backup notices nothing.
#[test]
fn advertisements_keep_their_pace_under_load_reloads_and_scrapes() {
    let lab = Lab::pair("pace");
    let [director, backup] = Side::both(&lab, ["0", "1"], |_| ());
    let transitions =
        || [&director, &backup].map(|side| side.ask().unwrap()["transitions"].clone());
    let before = transitions();
    let captures = Capture::both(&lab, "ip proto 112");
    for (number, vip) in VIPS.iter().enumerate() {
        let wrk = format!("nice -n 10 wrk -t1 -c16 -d8s --timeout 10s http://{vip}/");
        lab.begin("client", &format!("load-{number}"), &wrk);
    }
    let scrape = "curl -sS --max-time 5 -o /dev/null http://127.0.0.1:9464/metrics";
    let scrapes = format!("timeout 8 sh -c \"while sleep 0.02; do {scrape}; done\"");
    lab.begin("director", "scrapes", &scrapes);
    let until = Instant::now() + Duration::from_secs(6);
    let mut reloads = 0;
    while Instant::now() < until {
        director.tell("reload").unwrap();
        reloads += 1;
    }
    captures.iter().for_each(Capture::end);
    assert!(reloads > 10, "{reloads} reloads");
    assert_eq!(transitions(), before);
    for capture in &captures {
        let times = capture.times("vrrp.prio == 150");
        let longest = times.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max);
        // The lease, after which it would be the master no more.
        assert!(times.len() > 50 && longest < 0.3, "{} in 6 s, {longest} s apart", times.len());
    }
    for number in 0..VIPS.len() {
        let name = format!("load-{number}");
        assert_eq!(lab.exit_code(&name, Duration::from_secs(20)), 0, "{}", lab.log(&name));
    }
    lab.end("scrapes");
    director.stop();
    backup.stop();
}
