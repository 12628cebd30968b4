//! A pair whose addresses keep their Ethernet address when they move, and one that is no host for
//! them.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use crate::keepalived::elects_with_keepalived;
use crate::lab::{Lab, VIP4, VIPS, eventually};
use crate::pair::{
    MAC_OF, Side, all_have_asked, begin_downloads, by_tshark, downloads_end_well, neighbor, set,
    with,
};
use crate::traffic::{answers, echoes};

/// Of router 51.
const VIRTUAL: [&str; 2] = ["00:00:5e:00:01:33", "00:00:5e:00:02:33"];
const VIP6: &str = "2001:db8:1::100";
/// Hosts, and what moves that they speak to.
const NEIGHBORS: [(&str, &str, &str); 4] = [
    ("client", VIP4, VIRTUAL[0]),
    ("client", VIP6, VIRTUAL[1]),
    ("rs1", "10.0.0.1", VIRTUAL[0]),
    ("rs1", "fd00:a::1", VIRTUAL[1]),
];

/// The port of a switch that it sends a virtual MAC to.
fn port_of(lab: &Lab, switch: &str, mac: &str) -> String {
    let text = lab.run(switch, "bridge fdb show br lan");
    let mut learnt = text.lines().filter(|line| line.starts_with(mac));
    let words = learnt.next().unwrap_or_else(|| panic!("{switch} knows no {mac}: {text}"));
    words.split_whitespace().skip_while(|word| *word != "dev").nth(1).unwrap().to_owned()
}

fn switches_send_to(lab: &Lab, role: &str) {
    for switch in ["street", "switch"] {
        for mac in VIRTUAL {
            let what = format!("{switch} sends {mac} to {role}");
            eventually(Duration::from_secs(3), &what, || {
                (port_of(lab, switch, mac) == format!("to-{role}")).then_some(())
            });
        }
    }
}

fn neighbors_have_it(lab: &Lab) {
    for (host, address, mac) in NEIGHBORS {
        assert_eq!(neighbor(lab, host, address), mac, "{host} {address}");
    }
}

/// No host has ever heard of another Ethernet address of what moves.
fn nobody_was_told_otherwise(lab: &Lab) {
    for (host, address, mac) in NEIGHBORS {
        let log = lab.log(&format!("{host}-neighbors"));
        let mut lines = log.lines().filter(|line| line.starts_with(&format!("{address} ")));
        let other = lines.find(|line| line.contains("lladdr") && !line.contains(mac));
        assert_eq!(other, None, "{host}");
    }
}

#[test]
fn the_virtual_mac_moves_and_no_host_learns_anything_new() {
    let lab = Lab::pair("vmac");
    let file = lab.state().join("street.pcap");
    let filter = "ip proto 112 or ip6 proto 112 or arp or icmp6";
    let capture = format!("tcpdump --immediate-mode -U -i to-client -w {}", file.display());
    lab.begin("street", "capture", &format!("timeout 60 {capture} '{filter}'"));
    for host in ["client", "rs1"] {
        lab.begin(host, &format!("{host}-neighbors"), "timeout 60 ip monitor neigh");
    }
    let [director, backup] =
        Side::both(&lab, ["0", "1"], |config| set(config, "virtual_mac = true"));
    all_have_asked(&lab);
    lab.client("ping -c 1 -W 2 192.0.2.1");
    assert_eq!(neighbor(&lab, "client", "192.0.2.1"), MAC_OF[0].1, "its own");
    neighbors_have_it(&lab);
    switches_send_to(&lab, "director");
    begin_downloads(&lab);
    std::thread::sleep(Duration::from_secs(2));
    director.dies();
    backup.becomes("master");
    switches_send_to(&lab, "backup");
    neighbors_have_it(&lab);
    all_have_asked(&lab);
    downloads_end_well(&lab);
    // And back.
    let mut config = Side::config(&lab, "director", "0");
    set(&mut config, "virtual_mac = true");
    let director = Side::start(&lab, "director", &config);
    director.becomes("backup");
    std::thread::sleep(Duration::from_secs(1));
    director.tell("ha takeover").unwrap();
    director.becomes("master");
    backup.becomes("backup");
    switches_send_to(&lab, "director");
    all_have_asked(&lab);
    neighbors_have_it(&lab);
    nobody_was_told_otherwise(&lab);
    let links = director.ask().unwrap()["links"].clone();
    let of = |family: &str| {
        let links = links.as_array().unwrap();
        links.iter().find(|link| link["family"] == family).unwrap()["mac"].clone()
    };
    assert_eq!([of("ipv4"), of("ipv6")], VIRTUAL);
    assert!(director.tell("ha").unwrap().contains(VIRTUAL[0]));
    lab.end("capture");
    as_tshark_sees_it(&lab, &file);
    director.stop();
    backup.stop();
}

/// Who speaks with which Ethernet address.
fn as_tshark_sees_it(lab: &Lab, file: &Path) {
    let read = |filter: &str, fields: &[&str]| by_tshark(lab, file, filter, fields);
    for (family, source, own, mac) in [
        ("ip", "ip.src", ["192.0.2.1", "192.0.2.2"], VIRTUAL[0]),
        ("ipv6", "ipv6.src", ["fe80::ff:fe00:101", "fe80::ff:fe00:102"], VIRTUAL[1]),
    ] {
        let sent = read(&format!("vrrp && {family}"), &["eth.src", source]);
        assert!(sent.len() > 20, "{}", sent.len());
        assert!(sent.iter().all(|line| line[0] == mac), "{sent:?}");
        // From the directors' own addresses, those of their ports.
        for own in own {
            assert!(sent.iter().any(|line| line[1] == own), "{own}: {sent:?}");
        }
    }
    for address in ["192.0.2.100", "192.0.2.1", "192.0.2.2"] {
        let fields = ["eth.src", "arp.src.hw_mac", "arp.opcode"];
        let told = read(&format!("arp.src.proto_ipv4 == {address}"), &fields);
        let mac = match address {
            "192.0.2.1" => MAC_OF[0].1,
            "192.0.2.2" => MAC_OF[1].1,
            _ => VIRTUAL[0],
        };
        assert!(told.iter().all(|line| line[..2] == [mac, mac]), "{address}: {told:?}");
        assert!(!told.is_empty() || address != VIP4);
    }
    let fields = ["eth.src", "icmpv6.opt.linkaddr"];
    let target = format!("icmpv6.type == 136 && icmpv6.nd.na.target_address == {VIP6}");
    let told = read(&target, &fields);
    assert!(told.len() >= 2, "{told:?}");
    assert!(told.iter().all(|line| line[..] == [VIRTUAL[1], VIRTUAL[1]]), "{told:?}");
}

#[test]
fn keepalived_with_use_vmac_is_the_other_half() {
    let lab = Lab::pair("keepvmac");
    let file = lab.state().join("street.pcap");
    let capture = format!("tcpdump --immediate-mode -U -i to-client -w {}", file.display());
    lab.begin(
        "street",
        "capture",
        &format!("timeout 60 {capture} 'ip proto 112 or ip6 proto 112'"),
    );
    lab.begin("client", "client-neighbors", "timeout 60 ip monitor neigh");
    for (name, address) in [("ping4", VIP4), ("ping6", VIP6)] {
        lab.begin("client", name, &format!("timeout 60 ping -i 0.2 {address}"));
    }
    let config = with(&lab, |group| {
        group.insert("pseudo_header".into(), true.into());
        group.insert("virtual_mac".into(), true.into());
    });
    // Its kernel would ask for the client from the VIP, at the port's own address.
    lab.run(
        "backup",
        "sysctl -q -w net.ipv4.conf.all.arp_announce=2 net.ipv4.conf.all.arp_ignore=1",
    );
    let settings = "version 3\n priority 100\n advert_int 0.1\n nopreempt\n use_vmac";
    elects_with_keepalived(&lab, settings, &["ipv4", "ipv6"], &config);
    lab.end("capture");
    for (family, mac) in [("ip", VIRTUAL[0]), ("ipv6", VIRTUAL[1])] {
        let fields = ["eth.src", "ip.src", "ipv6.src"];
        let sent = by_tshark(&lab, &file, &format!("vrrp && {family}"), &fields);
        assert!(sent.iter().all(|line| line[0] == mac), "{sent:?}");
        let from: BTreeSet<_> = sent.iter().map(|line| (&line[1], &line[2])).collect();
        assert_eq!(from.len(), 2, "both were the master: {from:?}");
    }
    // Both answered the client, who never learnt another Ethernet address.
    let log = lab.log("client-neighbors");
    for (address, mac) in [(VIP4, VIRTUAL[0]), (VIP6, VIRTUAL[1])] {
        let mut lines = log
            .lines()
            .filter(|line| line.starts_with(&format!("{address} ")) && line.contains("lladdr"));
        assert!(lines.clone().next().is_some(), "{log}");
        assert_eq!(lines.find(|line| !line.contains(mac)), None, "{address}");
    }
}

#[test]
fn a_pair_that_does_not_accept_serves_and_does_not_answer_echo() {
    let lab = Lab::pair("accept");
    let [director, backup] = Side::both(&lab, ["0", "1"], |config| set(config, "accept = false"));
    let echoed = |address: &str| {
        lab.attempt("client", &format!("ping -c 2 -i 0.2 -W 1 {address}")).status.success()
    };
    for (address, answers) in
        [("192.0.2.1", true), ("2001:db8:1::1", true), (VIP4, false), (VIP6, false)]
    {
        assert_eq!(echoed(address), answers, "{address}");
    }
    for vip in VIPS {
        assert_eq!(answers(&lab, vip, 6).values().sum::<usize>(), 6, "{vip}");
        assert_eq!(echoes(&lab, vip, 6).values().sum::<usize>(), 6, "{vip}");
        // Not refused either: nobody answers.
        let line = format!("curl -sS --max-time 1 http://{vip}:81/");
        assert_eq!(lab.attempt("client", &line).status.code(), Some(28), "{vip}");
    }
    // They were asked for all the same.
    for address in [VIP4, VIP6] {
        assert_eq!(neighbor(&lab, "client", address), MAC_OF[0].1);
    }
    let metrics = lab.run("director", "curl -sS http://127.0.0.1:9464/metrics");
    let mut lines = metrics.lines().filter(|line| line.starts_with("pointsman_packets_dropped"));
    let line = lines.find(|line| line.contains("reason=\"not_accepted\"")).unwrap();
    let count: f64 = line.rsplit(' ').next().unwrap().parse().unwrap();
    assert!(count >= 6.0, "{line}");
    director.stop();
    backup.stop();
}

#[test]
fn a_start_right_after_its_links_have_come_up_is_quiet_and_one_without_says_so() {
    let lab = Lab::pair("quiet");
    // The kernel's link watch is a second behind.
    let cable = |state: &str| {
        for switch in ["switch", "street"] {
            lab.run(switch, &format!("ip link set to-director {state}"));
        }
    };
    cable("down");
    cable("up");
    let director = Side::start(&lab, "director", &Side::config(&lab, "director", "0"));
    director.becomes("master");
    let log = lab.log("director");
    assert!(!log.contains("has no link"), "{log}");
    director.stop();
    cable("down");
    let director = Side::start(&lab, "director", &Side::config(&lab, "director", "0"));
    director.becomes("fault");
    let log = lab.log("director");
    assert!(log.contains("interface inside has no link"), "{log}");
    director.stop();
}
