//! Switches that snoop, as a kernel's bridge does: a frame to an IPv6 group leaves by the ports
//! alone that have told them of a listener.

use std::time::Duration;

use crate::lab::{Lab, eventually};
use crate::pair::{MAC_OF, Side};
use crate::traffic::answers;
use crate::wire::Capture;

const LONG: Duration = Duration::from_secs(20);
const VIP6: &str = "[2001:db8:1::100]";

/// Of advertisements and of what moves, by switch; both directors listen to them.
const COMMON: [(&str, [&str; 2]); 2] =
    [("street", ["ff02::12", "ff02::1:ff00:100"]), ("switch", ["ff02::12", "ff02::1:ff00:1"])];
/// Of the link-local addresses, which are each director's own.
const OWN: [(&str, &str, &str); 4] = [
    ("street", "director", "ff02::1:ff00:101"),
    ("street", "backup", "ff02::1:ff00:102"),
    ("switch", "director", "ff02::1:ff00:201"),
    ("switch", "backup", "ff02::1:ff00:202"),
];

/// Both switches ask, by this version of Multicast Listener Discovery, and go by what they hear.
fn snoop(lab: &Lab, version: u8) {
    for (switch, _) in COMMON {
        let bridge = "ip link set dev lan type bridge";
        lab.run(switch, &format!("{bridge} mcast_snooping 0 mcast_querier 0"));
        // It asks from an address of its own.
        let address = "net.ipv6.conf.lan.accept_dad=0 net.ipv6.conf.lan.disable_ipv6=0";
        lab.run(switch, &format!("sysctl -qw {address}"));
        let times = "mcast_query_response_interval 100 mcast_startup_query_interval 100 \
                     mcast_last_member_interval 10";
        lab.run(switch, &format!("{bridge} mcast_mld_version {version} {times}"));
        lab.run(switch, &format!("{bridge} mcast_snooping 1 mcast_querier 1"));
    }
    // Until listeners have had the time to answer, a second, they send everything to everybody.
    std::thread::sleep(Duration::from_secs(2));
}

/// Whether a switch sends the frames of a group to a director.
fn sends(lab: &Lab, switch: &str, role: &str, group: &str) -> bool {
    let text = lab.run(switch, "bridge mdb show dev lan");
    let words = format!("port to-{role} grp {group} ");
    text.lines().any(|line| line.contains(&words))
}

fn eventually_sends(lab: &Lab, switch: &str, role: &str, group: &str, wanted: bool) {
    let what =
        format!("{switch} {} {group} to {role}", if wanted { "sends" } else { "no longer sends" });
    eventually(LONG, &what, || (sends(lab, switch, role, group) == wanted).then_some(()));
}

fn all_are_sent(lab: &Lab) {
    for role in ["director", "backup"] {
        for (switch, groups) in COMMON {
            for group in groups {
                eventually_sends(lab, switch, role, group, true);
            }
        }
    }
    for (switch, role, group) in OWN {
        eventually_sends(lab, switch, role, group, true);
    }
}

/// Client and servers ask for the director anew.
fn is_reached(lab: &Lab) {
    for host in ["client", "rs1", "rs2", "rs3"] {
        lab.run(host, "ip -6 neighbour flush dev eth0");
    }
    assert_eq!(answers(lab, VIP6, 6).values().sum::<usize>(), 6);
}

#[test]
fn a_pair_behind_switches_that_snoop_is_found_by_neighbor_discovery() {
    let lab = Lab::pair("snoop");
    let [director, backup] = Side::both(&lab, ["0", "1"], |_| ());
    // Whoever has heard version 1 speaks it for a while.
    for (version, report) in [(2, 143), (1, 131)] {
        let capture = Capture::begin(&lab, ("street", "to-director"), "icmp6 or ip6 proto 0");
        snoop(&lab, version);
        all_are_sent(&lab);
        is_reached(&lab);
        let nobody = "2001:db8:1::77";
        lab.attempt("client", &format!("ping -c 1 -W 2 {nobody}"));
        capture.end();
        let count = |filter: &str| capture.read(filter, &["frame.number"]).len();
        let asked = |address| count(&format!("icmpv6.nd.ns.target_address == {address}"));
        assert!(asked("2001:db8:1::100") > 0, "version {version}");
        assert_eq!(asked(nobody), 0, "version {version}: the switch does not snoop");
        let told = format!("icmpv6.type == {report} && eth.src == {}", MAC_OF[0].1);
        assert!(count(&told) > 0, "version {version}");
    }
    assert!(backup.tell("ha takeover").is_some());
    backup.becomes("master");
    director.becomes("backup");
    is_reached(&lab);
}

#[test]
fn a_switch_learns_of_a_virtual_address_that_comes_and_goes_and_of_a_cable_that_is_back() {
    let lab = Lab::pair("snoop2");
    snoop(&lab, 2);
    let [director, backup] = Side::both(&lab, ["0", "1"], |_| ());
    all_are_sent(&lab);
    let (vip, group) = ("2001:db8:1::abcd", "ff02::1:ff00:abcd");
    for (side, role) in [(&director, "director"), (&backup, "backup")] {
        assert!(!sends(&lab, "street", role, group));
        assert!(side.tell(&format!("ipvsadm -A -t '[{vip}]:80' -s rr")).is_some());
        eventually_sends(&lab, "street", role, group, true);
    }
    assert!(!sends(&lab, "switch", "director", group), "it is no address there");
    assert!(director.tell(&format!("ipvsadm -D -t '[{vip}]:80'")).is_some());
    eventually_sends(&lab, "street", "director", group, false);
    assert!(sends(&lab, "street", "backup", group), "the other one still has it");
    // Nobody asks any more.
    lab.run("street", "ip link set dev lan type bridge mcast_querier 0");
    for (state, is_sent) in [("down", false), ("up", true)] {
        lab.run("street", &format!("ip link set to-backup {state}"));
        eventually_sends(&lab, "street", "backup", "ff02::12", is_sent);
        // A director looks at its links once a second.
        std::thread::sleep(Duration::from_secs(3));
    }
    eventually_sends(&lab, "street", "backup", group, true);
}
