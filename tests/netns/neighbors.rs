//! ARP, Neighbor Discovery and ping against real kernels.

use std::time::{Duration, Instant};

use crate::lab::{Lab, VIPS, eventually};
use crate::traffic::{answers, echoes, nothing_was_lost, shares};

fn ping(lab: &Lab, role: &str, address: &str, more: &str) {
    let report = lab.run(role, &format!("ping -c 3 -i 0.2 -W 2 {more} {address}"));
    assert!(report.contains("3 packets transmitted, 3 received"), "{report}");
}

#[test]
fn every_address_of_the_director_answers_ping_from_both_sides() {
    let lab = Lab::two_nic("ping");
    let director = lab.direct(&lab.config("0"));
    lab.client(
        "ip route add 10.0.0.0/24 via 192.0.2.1; ip route add fd00:a::/64 via 2001:db8:1::1",
    );
    let owned =
        ["192.0.2.1", "192.0.2.100", "10.0.0.1", "2001:db8:1::1", "2001:db8:1::100", "fd00:a::1"];
    for role in ["client", "rs1"] {
        for address in owned {
            ping(&lab, role, address, "");
            ping(&lab, role, address, "-s 1400");
        }
    }
    let link_local = lab.client("ip -6 neigh show 2001:db8:1::100");
    assert!(link_local.contains("02:00:00:00:01:01"), "{link_local}");
    nothing_was_lost(&director.balanced_metrics().drops());
    director.stop();
}

#[test]
fn what_is_not_served_is_not_answered() {
    let lab = Lab::two_nic("unserved");
    let director = lab.direct(&lab.config("0"));
    for line in [
        "ping -c 1 -W 1 192.0.2.77",
        "ping -c 1 -W 1 2001:db8:1::77",
        "curl -sS --max-time 1 http://192.0.2.100:81/",
        "curl -sS --max-time 1 http://192.0.2.1/",
    ] {
        assert!(!lab.attempt("client", line).status.success(), "{line}");
    }
    let drops = director.balanced_metrics().drops();
    assert_eq!(drops.iter().map(|(reason, _)| &**reason).collect::<Vec<_>>(), ["no_service"]);
    director.stop();
}

#[test]
fn a_neighbour_that_changes_its_ethernet_address_is_followed() {
    let lab = Lab::two_nic("newmac");
    let director = lab.direct(&lab.config("0"));
    let serve = |what: &str| {
        for vip in VIPS {
            assert_eq!(answers(&lab, vip, 9), shares([3, 3, 3]), "{what}, {vip}");
        }
    };
    serve("at first");
    // A server that announces its new address (gratuitous ARP, unsolicited advertisement).
    lab.run("rs2", "sysctl -qw net.ipv4.conf.eth0.arp_notify=1 net.ipv6.conf.eth0.ndisc_notify=1");
    lab.run("rs2", "ip link set eth0 address 02:00:00:00:02:92");
    std::thread::sleep(Duration::from_millis(300));
    serve("after the announcement");
    // A client that does not: its own questions tell.
    lab.client("ip link set eth0 address 02:00:00:00:01:91");
    serve("after the client's change");
    nothing_was_lost(&director.balanced_metrics().drops());
    director.stop();
}

#[test]
fn a_server_that_was_down_at_the_start_serves_later() {
    let lab = Lab::two_nic("late");
    lab.run("switch", "ip link set to-rs3 down");
    let director = lab.direct(&lab.config("0"));
    let vip = VIPS[0];
    let curl = |vip: &str| {
        format!("curl -s --max-time 1 -H 'Connection: close' 'http://{vip}/?[1-3]' || true")
    };
    let names = lab.client(&curl(vip));
    assert!(!names.contains("rs3"), "{names}");
    lab.run("switch", "ip link set to-rs3 up");
    for vip in VIPS {
        eventually(Duration::from_secs(15), "rs3 serves", || {
            lab.client(&curl(vip)).contains("rs3").then_some(())
        });
        assert_eq!(answers(&lab, vip, 9), shares([3, 3, 3]), "{vip}");
    }
    let lost = director.balanced_metrics().drops();
    assert!(lost.iter().all(|(reason, _)| reason == "neighbor_unreachable"), "{lost:?}");
    director.stop();
}

/// Entries live for 30 s: after that the director asks its neighbours whether they are still there.
#[test]
fn light_traffic_for_40_seconds_loses_no_neighbour() {
    let lab = Lab::two_nic("probe");
    let director = lab.direct(&lab.config("0, 1"));
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(40) {
        for vip in VIPS {
            assert_eq!(answers(&lab, vip, 6).values().sum::<usize>(), 6);
            assert_eq!(echoes(&lab, vip, 6).values().sum::<usize>(), 6);
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    let metrics = director.balanced_metrics();
    nothing_was_lost(&metrics.drops());
    assert_eq!(metrics.sum("packets_held", &[]), 0);

    // A server that changes its address without a word is found again.
    lab.run("rs2", "ip link set eth0 address 02:00:00:00:02:92");
    let line = "curl -s --max-time 1 -H 'Connection: close' 'http://192.0.2.100/?[1-6]' || true";
    eventually(Duration::from_secs(45), "the changed server serves", || {
        lab.client(line).contains("rs2").then_some(())
    });
    director.stop();
}
