//! Real servers as clients: of the outside, and of their own VIP.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;

use toml::{Table, Value};

use crate::corners::knows_mtu;
use crate::devices::pass_fragments;
use crate::director::{Director, with_one_and_three_workers};
use crate::lab::{Lab, VIPS, eventually, script, section};
use crate::traffic::{iperf3, nothing_was_lost};

/// The client's address, the director's inside, and what servers appear with.
const FAMILIES: [(&str, &str, &str); 2] =
    [("192.0.2.10", "10.0.0.1", "192.0.2.100"), ("2001:db8:1::10", "fd00:a::1", "2001:db8:1::100")];

/// Lets the servers out.
pub(crate) fn masquerade(config: &mut Table) {
    let rule = "sources = [\"10.0.0.0/24\", \"fd00:a::/64\"]
addresses = [\"192.0.2.100\", \"2001:db8:1::100\"]";
    let rule: Table = rule.parse().unwrap();
    config.insert("masquerade".into(), Value::Array(vec![Value::Table(rule)]));
}

/// nginx on 8080, an echo on UDP 7008 and iperf3 on 5202, outside.
pub(crate) fn outside_serves(lab: &Lab) {
    let config = fs::read_to_string(lab.state().join("rs1/nginx.conf")).unwrap();
    fs::create_dir(lab.state().join("outside")).unwrap();
    let file = lab.state().join("outside/nginx.conf");
    fs::write(&file, config.replace("rs1", "outside")).unwrap();
    let log = lab.state().join("outside/error.log");
    let nginx = format!("nginx -c {} -e {}", file.display(), log.display());
    lab.begin("client", "outside-nginx", &nginx);
    let echo = script("lab/udp_echo.py");
    let echo = format!("/usr/bin/python3 {} serve outside 7008", echo.display());
    lab.begin("client", "outside-echo", &echo);
    lab.begin("client", "outside-iperf3", "iperf3 --server --port 5202");
    eventually(std::time::Duration::from_secs(10), "the outside serves", || {
        let sockets = lab.client("ss -Hlntu");
        [":8080 ", ":7008 ", ":5202 "].iter().all(|port| sockets.contains(port)).then_some(())
    });
}

pub(crate) fn url(address: &str, path: &str) -> String {
    let host = if address.contains(':') { format!("[{address}]") } else { address.into() };
    format!("http://{host}:8080{path}")
}

/// Each server fetches pages, pings and asks; the outside sees the external address alone.
fn servers_reach(lab: &Lab, (outside, _, external): (&str, &str, &str)) {
    let big = lab.state().join("content/big");
    let want = lab.client(&format!("sha256sum <{}", big.display()));
    let echo = script("lab/udp_echo.py");
    for server in ["rs1", "rs2", "rs3"] {
        let curl = "curl -sSf --max-time 10 -H 'Connection: close'";
        let seen = lab.run(server, &format!("{curl} '{}?[1-20]'", url(outside, "/client")));
        assert!(seen.lines().all(|line| line == external), "{server}: {seen}");
        assert_eq!(seen.lines().count(), 20);
        let sum = lab.run(server, &format!("{curl} {} | sha256sum", url(outside, "/big")));
        assert_eq!(sum, want, "{server}");
        lab.run(server, &format!("ping -c 2 -i 0.1 -W 2 {outside}"));
        let ask = format!("/usr/bin/python3 {} ask {outside} 7008 30", echo.display());
        assert_eq!(lab.run(server, &ask), "outside 30\n", "{server}");
    }
    // At once, from one port.
    let ping = format!("ping -c 3 -i 0.1 -W 2 -e 77 {outside}");
    for server in ["rs1", "rs2", "rs3"] {
        lab.begin(server, &format!("{server}-ping"), &ping);
    }
    for server in ["rs1", "rs2", "rs3"] {
        let name = format!("{server}-ping");
        assert_eq!(
            lab.exit_code(&name, std::time::Duration::from_secs(10)),
            0,
            "{}",
            lab.log(&name)
        );
        lab.end(&name);
    }
}

/// The director is the first hop, the outside the second.
fn routes_are_traced(lab: &Lab, (outside, inside, _): (&str, &str, &str)) {
    let family = if outside.contains(':') { "-6" } else { "-4" };
    for how in ["-U -p 9999", "-I", "-T -p 8080"] {
        let text = lab.trace("rs1", &format!("{family} -m 4 {how} {outside}"));
        let hops: Vec<_> = text.lines().skip(1).collect();
        assert_eq!(hops.len(), 2, "{how}: {text}");
        assert!(hops[0].contains(&format!(" {inside} ")), "{how}: {text}");
        assert!(hops[1].contains(&format!(" {outside} ")), "{how}: {text}");
    }
    let text = lab.run("rs2", &format!("tracepath {family} -n -m 4 {outside}"));
    assert!(text.contains(inside) && text.contains("reached"), "{text}");
}

/// A second of bulk data each way, first to the outside: what the server learns of the path's MTU
/// there, its SYN of the way back says.
fn bulk_flows(lab: &Lab, (outside, ..): (&str, &str, &str)) {
    for reverse in ["", "--reverse"] {
        let report = iperf3(lab, ("rs2", "client"), outside, 5202, reverse);
        let received = &report["end"]["sum_received"]["bytes"];
        assert!(received.as_u64().unwrap() > 5 << 20, "{outside} {reverse}: {received} octets");
    }
}

/// Nothing else than traceroute caused was dropped.
fn only_expired_hops_were_dropped(director: &Director<'_>) {
    let drops = director.balanced_metrics().drops();
    assert!(drops.iter().all(|(reason, _)| reason == "ttl_expired"), "{drops:?}");
}

#[test]
fn servers_reach_the_outside() {
    let lab = Lab::two_nic("masq");
    outside_serves(&lab);
    with_one_and_three_workers(&lab, masquerade, |director| {
        for family in FAMILIES {
            servers_reach(&lab, family);
            if director.metrics().workers().len() > 1 {
                routes_are_traced(&lab, family);
            }
        }
        only_expired_hops_were_dropped(director);
        let metrics = director.balanced_metrics();
        assert!(metrics.sum("masquerade_connections_total", &[]) > 300);
        assert!(metrics.sum("masquerade_in_packets_total", &[]) > 300);
    });
}

/// The servers learn the MTU of the path, and bulk data flows.
#[test]
fn servers_send_bulk_data_over_a_narrow_link_outside() {
    let lab = Lab::two_nic("masqmtu");
    outside_serves(&lab);
    // Narrower each time: what was learnt stays.
    let mtu = Cell::new(1400);
    let change = |config: &mut Table| {
        masquerade(config);
        mtu.set(mtu.get() - 50);
        section(config, &["interface", "outside"]).insert("mtu".into(), mtu.get().into());
    };
    with_one_and_three_workers(&lab, change, |_| {
        for family in FAMILIES {
            bulk_flows(&lab, family);
            knows_mtu(&lab, "rs2", family.0, mtu.get());
        }
    });
}

#[test]
fn servers_exchange_fragments_with_the_outside_over_net_af_xdp() {
    let lab = Lab::two_nic("masqfrag");
    outside_serves(&lab);
    let change = |config: &mut Table| {
        masquerade(config);
        pass_fragments(config);
    };
    with_one_and_three_workers(&lab, change, |_| {
        for (outside, ..) in FAMILIES {
            for server in ["rs1", "rs2"] {
                lab.run(server, &format!("ping -c 2 -i 0.2 -W 3 -s 6000 -e 77 {outside}"));
            }
            let family = if outside.contains(':') { "6" } else { "" };
            let ask = format!(
                "import random, socket
s = socket.socket(socket.AF_INET{family}, socket.SOCK_DGRAM)
s.settimeout(5); s.connect(('{outside}', 7008))
for size in (1472, 2000, 9000, 60000):
    data = random.Random(size).randbytes(size)
    s.send(data)
    answer = s.recv(65535)
    assert data in answer, (size, len(answer))
print('ok')"
            );
            assert_eq!(lab.run("rs3", &format!("/usr/bin/python3 -c \"{ask}\"")), "ok\n");
        }
    });
}

/// A server is a client of its own service: of its neighbours and of itself.
///
/// A server may still hold in `TIME_WAIT` the director's address and port that an earlier connection
/// had: the tests' director forgets them sooner than servers do, and all when it restarts. Such a
/// server resets the new connection, whose SYN comes again after a second and is scheduled anew.
/// So turns are counted where they are given, and answers by their number.
fn servers_are_clients(lab: &Lab, director: &Director<'_>, own: [&str; 2]) {
    let echo = script("lab/udp_echo.py");
    let big = lab.state().join("content/big");
    let want = lab.client(&format!("sha256sum <{}", big.display()));
    for ((vip, own), service) in VIPS.into_iter().zip(own).zip(["web", "web6"]) {
        let curl = "curl -sSf --max-time 10 -H 'Connection: close'";
        for server in ["rs1", "rs2"] {
            let text = lab.run(server, &format!("{curl} 'http://{vip}/?[1-30]'"));
            assert_eq!(text.lines().count(), 30, "{text}");
            let names: BTreeSet<_> = text.lines().collect();
            assert_eq!(names, BTreeSet::from(["rs1", "rs2", "rs3"]), "{text}");
            let turns = director.metrics().connections(service);
            let (fewest, most) = (turns.iter().min().unwrap(), turns.iter().max().unwrap());
            assert!(*fewest >= 10 && most - fewest <= 1, "{turns:?}");
            let seen = lab.run(server, &format!("{curl} 'http://{vip}/client?[1-3]'"));
            assert!(seen.lines().all(|line| line == own), "{server}: {seen}");
            let sums = lab.run(
                server,
                &format!("for i in 1 2 3; do {curl} http://{vip}/big | sha256sum; done"),
            );
            assert!(sums.lines().all(|sum| sum == want.trim_end()), "{sums}");
            let address = vip.trim_matches(['[', ']']);
            let ask = format!("/usr/bin/python3 {} ask {address} 7 30", echo.display());
            let answers = lab.run(server, &ask);
            assert_eq!(answers, "rs1 10\nrs2 10\nrs3 10\n", "{server}");
            lab.run(server, &format!("ping -c 2 -i 0.1 -W 2 {address}"));
        }
    }
}

#[test]
fn servers_are_clients_of_their_own_vip() {
    let lab = Lab::two_nic("hairpin");
    with_one_and_three_workers(
        &lab,
        |_| {},
        |director| {
            servers_are_clients(&lab, director, ["10.0.0.1", "fd00:a::1"]);
            nothing_was_lost(&director.balanced_metrics().drops());
        },
    );
}

#[test]
fn servers_are_clients_of_their_own_vip_on_one_network() {
    let lab = Lab::one_nic("hairpin1");
    with_one_and_three_workers(
        &lab,
        |_| {},
        |director| {
            servers_are_clients(&lab, director, ["10.0.0.1", "fd00:a::1"]);
        },
    );
}
