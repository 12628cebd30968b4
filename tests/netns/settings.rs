//! Settings that change what becomes of packets: routing, segment sizes, one-packet scheduling.

use std::time::Duration;

use toml::Table;

use crate::corners::bare;
use crate::devices::pass_fragments;
use crate::director::with_one_and_three_workers;
use crate::lab::{Lab, VIPS, add_service, eventually, script, section, service};
use crate::masquerade::{outside_serves, url};
use crate::tools::name_servers;
use crate::traffic::{bodies_arrive_intact, nothing_was_lost, uploads_arrive_intact};

/// The client's address, the director's outside, a server's network and its address.
const ROUTES: [(&str, &str, &str, &str); 2] = [
    ("192.0.2.10", "192.0.2.1", "10.0.0.0/24", "10.0.0.11"),
    ("2001:db8:1::10", "2001:db8:1::1", "fd00:a::/64", "fd00:a::11"),
];

/// Whoever opens a connection, both ends see each other's own address.
fn reach_each_other(lab: &Lab, client: &str, server: &str) {
    let big = lab.state().join("content/big");
    let want = lab.client(&format!("sha256sum <{}", big.display()));
    let echo = script("lab/udp_echo.py");
    for (role, own, other, port, name) in
        [("client", client, server, 7007, "rs1"), ("rs1", server, client, 7008, "outside")]
    {
        let curl = "curl -sSf --max-time 10 -H 'Connection: close'";
        assert_eq!(lab.run(role, &format!("{curl} {}", url(other, "/client"))), format!("{own}\n"));
        let sum = lab.run(role, &format!("{curl} {} | sha256sum", url(other, "/big")));
        assert_eq!(sum, want, "{role}");
        let ask = format!("/usr/bin/python3 {} ask {other} {port} 20", echo.display());
        assert_eq!(lab.run(role, &ask), format!("{name} 20\n"));
        lab.run(role, &format!("ping -c 2 -i 0.1 -W 2 {other}"));
    }
}

#[test]
fn with_routing_clients_and_servers_reach_each_others_own_addresses() {
    let lab = Lab::two_nic("routing");
    outside_serves(&lab);
    for (_, director, network, _) in ROUTES {
        lab.client(&format!("ip route add {network} via {director}"));
    }
    let change = |config: &mut Table| {
        section(config, &["director"]).insert("routing".into(), true.into());
    };
    with_one_and_three_workers(&lab, change, |director| {
        for (client, hop, _, server) in ROUTES {
            reach_each_other(&lab, client, server);
            let text = lab.trace("client", &format!("-m 4 -I {server}"));
            let hops: Vec<_> = text.lines().skip(1).collect();
            assert_eq!(hops.len(), 2, "{text}");
            assert!(hops[0].contains(&format!(" {hop} ")), "{text}");
            assert!(hops[1].contains(&format!(" {server} ")), "{text}");
        }
        let metrics = director.balanced_metrics();
        assert_eq!(metrics.sum("service_connections_total", &[]), 0, "nothing is translated");
        let drops = metrics.drops();
        assert!(drops.iter().all(|(reason, _)| reason == "ttl_expired"), "{drops:?}");
    });
}

/// A connection that stays open until `held` is ended.
fn hold(lab: &Lab, vip: &str) {
    let client = "import socket, sys, time
connection = socket.create_connection((sys.argv[1], 5201), 5)
time.sleep(20)";
    lab.lab(&["start", "client", "held", "/usr/bin/python3", "-c", client, bare(vip)]);
}

/// The segment size of the established connection with this port at the other end or here.
fn segment_size(lab: &Lab, role: &str, which: &str) -> u32 {
    eventually(Duration::from_secs(10), "the connection is there", || {
        let text = lab.run(role, &format!("ss -Htin state established '{which} = :5201'"));
        let size = text.split_whitespace().find_map(|word| word.strip_prefix("mss:"))?;
        size.parse().ok()
    })
}

/// The outside link carries 1300 octets, which neither end knows: their SYNs tell each other, and
/// nobody has to be told that a packet was too big.
#[test]
fn with_mss_clamp_both_ends_send_segments_that_fit_the_link() {
    let lab = Lab::two_nic("mss");
    let change = |config: &mut Table| {
        let outside = section(config, &["interface", "outside"]);
        outside.insert("mtu".into(), 1300.into());
        outside.insert("mss_clamp".into(), "mtu".into());
    };
    with_one_and_three_workers(&lab, change, |director| {
        // Less the headers, and 12 octets of timestamps.
        for (vip, fits) in VIPS.into_iter().zip([1300 - 40 - 12, 1300 - 60 - 12]) {
            hold(&lab, vip);
            assert_eq!(segment_size(&lab, "rs1", "sport"), fits, "{vip}: to the client");
            assert_eq!(segment_size(&lab, "client", "dport"), fits, "{vip}: to the server");
            lab.end("held");
            bodies_arrive_intact(&lab, vip, 4);
            uploads_arrive_intact(&lab, vip);
        }
        assert_eq!(director.metrics().sum("errors_sent_total", &[]), 0, "nothing was too big");
    });
}

/// Questions from one port go to one server after the other, also those whose answers come in
/// fragments, and nothing is kept of them.
#[test]
fn with_one_packet_each_question_goes_to_the_next_name_server() {
    let lab = Lab::two_nic("onepacket");
    name_servers(&lab);
    let change = |config: &mut Table| {
        pass_fragments(config);
        for (name, vip, servers) in [
            ("dns", VIPS[0], ["10.0.0.11:5353", "10.0.0.12:5353", "10.0.0.13:5353"]),
            ("dns6", VIPS[1], ["[fd00:a::11]:5353", "[fd00:a::12]:5353", "[fd00:a::13]:5353"]),
        ] {
            add_service(config, name, &format!("udp://{vip}:53"), &servers);
            service(config, name).insert("one_packet".into(), true.into());
        }
    };
    with_one_and_three_workers(&lab, change, |director| {
        for (vip, name, from) in
            [(VIPS[0], "dns", "192.0.2.10"), (VIPS[1], "dns6", "2001:db8:1::10")]
        {
            let dig = format!("dig -b {from}#5555 +tries=1 +timeout=3 @{}", bare(vip));
            for _ in 0..3 {
                assert_eq!(lab.client(&format!("{dig} name.test A +short")), "192.0.2.7\n");
                let large = lab.client(&format!("{dig} big.test TXT +bufsize=4096 +ignore"));
                let size = large.lines().find_map(|line| line.strip_prefix(";; MSG SIZE  rcvd: "));
                assert!(size.unwrap().parse::<u32>().unwrap() > 2900, "{large}");
                // Two questions, one after the other.
                let many = format!("{dig} name.test A +short name.test AAAA +short");
                assert_eq!(lab.client(&many), "192.0.2.7\n2001:db8::7\n");
            }
            assert_eq!(director.metrics().connections(name), [4, 4, 4]);
        }
        let metrics = director.balanced_metrics();
        assert_eq!(metrics.sum("connection_table_used", &[]), 0);
        nothing_was_lost(&metrics.drops());
    });
}
