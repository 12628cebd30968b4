//! Closed ports, hops, MTUs and fragments, as the kernel's TCP and real tools see them.

use std::cell::Cell;
use std::time::Instant;

use toml::Table;

use crate::devices::pass_fragments;
use crate::director::with_one_and_three_workers;
use crate::lab::{Lab, VIPS, section};
use crate::traffic::{bodies_arrive_intact, uploads_arrive_intact};

pub(crate) fn bare(vip: &str) -> &str {
    vip.trim_matches(['[', ']'])
}

#[test]
fn a_closed_port_refuses_at_once() {
    let lab = Lab::two_nic("closed");
    with_one_and_three_workers(
        &lab,
        |_| {},
        |director| {
            for vip in VIPS {
                let begun = Instant::now();
                let output =
                    lab.attempt("client", &format!("curl -sS --max-time 10 http://{vip}:81/"));
                assert_eq!(output.status.code(), Some(7), "curl: could not connect");
                assert!(begun.elapsed().as_secs() < 2);
                let connected = format!(
                    "import socket; s = socket.socket(socket.AF_INET{}, socket.SOCK_DGRAM)
s.settimeout(5); s.connect(('{}', 9)); s.send(b'x')
try: s.recv(1)
except ConnectionRefusedError: print('refused')",
                    if vip.starts_with('[') { "6" } else { "" },
                    bare(vip)
                );
                let said = lab.client(&format!("/usr/bin/python3 -c \"{connected}\""));
                assert_eq!(said, "refused\n", "{vip}");
            }
            assert!(director.metrics().sum("errors_sent_total", &[]) >= 4);
        },
    );
}

#[test]
fn traceroute_shows_the_director_and_then_the_service() {
    let lab = Lab::two_nic("trace");
    with_one_and_three_workers(
        &lab,
        |_| {},
        |director| {
            for vip in VIPS {
                let address = bare(vip);
                let family = if vip.starts_with('[') { "-6" } else { "-4" };
                for how in ["-T -p 80", "-U -p 7"] {
                    let text = lab.trace("client", &format!("{family} -m 5 {how} {address}"));
                    // The director answers as the VIP, and so does the server behind it.
                    let hops: Vec<_> = text.lines().skip(1).collect();
                    assert_eq!(hops.len(), 2, "{how}: {text}{:?}", director.metrics().drops());
                    assert!(hops.iter().all(|hop| hop.contains(address)), "{how}: {text}");
                }
                let text = lab.trace("client", &format!("{family} -m 5 -I {address}"));
                assert_eq!(text.lines().count(), 2, "{text}");
            }
        },
    );
}

/// The kernel learns the MTU of the path from what the director says, and bulk data flows.
#[test]
fn a_narrow_link_behind_the_director_is_discovered() {
    for (narrow, role, to) in [
        ("inside", "client", ["192.0.2.100", "2001:db8:1::100"]),
        ("outside", "rs1", ["192.0.2.10", "2001:db8:1::10"]),
    ] {
        let lab = Lab::two_nic("mtu");
        // Narrower each time: what was learnt stays.
        let mtu = Cell::new(1400);
        let change = |config: &mut Table| {
            mtu.set(mtu.get() - 50);
            section(config, &["interface", narrow]).insert("mtu".into(), mtu.get().into());
        };
        with_one_and_three_workers(&lab, change, |director| {
            for vip in VIPS {
                if narrow == "inside" {
                    uploads_arrive_intact(&lab, vip);
                } else {
                    bodies_arrive_intact(&lab, vip, 12);
                }
            }
            for address in to {
                knows_mtu(&lab, role, address, mtu.get());
            }
            assert!(director.metrics().sum("errors_sent_total", &[]) >= 2);
        });
    }
}

/// The kernel of a role has learnt the MTU of the way to an address.
pub(crate) fn knows_mtu(lab: &Lab, role: &str, address: &str, mtu: i64) {
    let route = lab.run(role, &format!("ip route get {address}"));
    assert!(route.contains(&format!("mtu {mtu}")), "{role}: {route}");
}

#[test]
fn fragments_pass_over_net_af_xdp() {
    let lab = Lab::two_nic("fragments");
    with_one_and_three_workers(&lab, pass_fragments, |_| {
        for vip in VIPS {
            let address = bare(vip);
            lab.client(&format!("ping -c 3 -i 0.2 -W 3 -s 6000 {address}"));
            let family = if vip.starts_with('[') { "6" } else { "" };
            let ask = format!(
                "import random, socket
s = socket.socket(socket.AF_INET{family}, socket.SOCK_DGRAM)
s.settimeout(5); s.connect(('{address}', 7))
for size in (1472, 2000, 9000, 60000):
    data = random.Random(size).randbytes(size)
    s.send(data)
    answer = s.recv(65535)
    assert data in answer, (size, len(answer))
print('ok')"
            );
            assert_eq!(lab.client(&format!("/usr/bin/python3 -c \"{ask}\"")), "ok\n", "{vip}");
        }
    });
}
