//! The virtual devices that can replace `net_af_packet`: a short check over each.

use std::time::Duration;

use toml::Table;

use crate::director::{Director, plain};
use crate::lab::{Lab, VIPS, eventually, section};
use crate::traffic::{answers, bodies_arrive_intact, echoes, shares};

/// A configuration in which each interface is the device `of` (its number, its network interface).
fn with_devices(lab: &Lab, of: impl Fn(usize, &str) -> String) -> Table {
    let mut config = lab.config("0");
    change_devices(&mut config, of);
    config
}

/// As [`with_devices`], in a configuration that is there.
pub(crate) fn change_devices(config: &mut Table, of: impl Fn(usize, &str) -> String) {
    for (number, interface) in ["outside", "inside"].into_iter().enumerate() {
        let device = of(number, &format!("{interface}0"));
        section(config, &["interface", interface]).insert("device".into(), device.into());
    }
}

/// `net_af_packet` gives fragments to nobody, this does.
pub(crate) fn pass_fragments(config: &mut Table) {
    change_devices(config, |number, iface| format!("net_af_xdp{number},iface={iface}"));
}

fn serves(lab: &Lab, director: &Director<'_>, driver: &str) {
    for vip in VIPS {
        assert_eq!(answers(lab, vip, 30), shares([10, 10, 10]), "{vip}");
        assert_eq!(echoes(lab, vip, 30), shares([10, 10, 10]), "{vip}");
        bodies_arrive_intact(lab, vip, 4);
    }
    let metrics = director.balanced_metrics();
    assert!(metrics.sum("port_rx_packets_total", &[("driver", driver)]) > 1000);
    assert_eq!(warns_of_fragments(lab), [""; 0], "it delivers fragments");
}

/// What it says at the start of a device that gives fragments to nobody.
fn warns_of_fragments(lab: &Lab) -> Vec<String> {
    let log = lab.log("pointsman");
    let lines = log.lines().map(plain);
    let warns = |line: &String| line.contains("WARN") && line.contains("puts fragments together");
    lines.filter(warns).collect()
}

#[test]
fn net_af_packet_is_warned_of_at_the_start() {
    let lab = Lab::two_nic("warning");
    let director = lab.direct(&lab.config("0"));
    let mut warnings = warns_of_fragments(&lab);
    warnings.sort_by_key(|line| line.contains("inside"));
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    for (warning, interface) in warnings.iter().zip(["outside", "inside"]) {
        assert!(warning.contains(&format!("interface=\"{interface}\"")), "{warning}");
        assert!(warning.contains("net_af_packet") && warning.contains("net_af_xdp"), "{warning}");
    }
    director.stop();
}

#[test]
fn net_pcap_on_network_interfaces_serves() {
    let lab = Lab::two_nic("pcap");
    let config = with_devices(&lab, |number, iface| format!("net_pcap{number},iface={iface}"));
    let director = lab.direct(&config);
    serves(&lab, &director, "net_pcap");
    director.stop();
}

#[test]
fn net_af_xdp_serves() {
    let lab = Lab::two_nic("xdp");
    let config = with_devices(&lab, |number, iface| format!("net_af_xdp{number},iface={iface}"));
    let director = lab.direct(&config);
    serves(&lab, &director, "net_af_xdp");
    director.stop();
}

#[test]
fn net_tap_serves() {
    let lab = Lab::two_nic("tap");
    let config = with_devices(&lab, |number, iface| format!("net_tap{number},iface=tap-{iface}"));
    // A tap is the kernel's end of the port: bridged to the network as soon as it exists. Its
    // Ethernet address is the port's; a bridge would keep what is for that to itself.
    lab.begin(
        "director",
        "bridges",
        "sh -c '
        for side in outside0 inside0; do
            until ip link show tap-$side >/dev/null 2>&1; do sleep 0.05; done
            ip link add to-$side type bridge stp_state 0 forward_delay 0 mcast_snooping 0
            ethtool -K tap-$side tx off >/dev/null 2>&1
            until [ $(cat /sys/class/net/tap-$side/carrier 2>/dev/null || echo 0) = 1 ]; do
                sleep 0.05
            done
            ip link set tap-$side address 02:00:00:00:0f:0f
            ip link set tap-$side master to-$side
            ip link set $side master to-$side
            ip link set to-$side up
        done'",
    );
    let director = lab.direct(&config);
    assert_eq!(lab.exit_code("bridges", Duration::from_secs(5)), 0, "{}", lab.log("bridges"));
    serves(&lab, &director, "net_tap");
    director.stop();
    eventually(Duration::from_secs(2), "the taps are gone", || {
        (!lab.run("director", "ip -o link").contains(": tap-")).then_some(())
    });
}
