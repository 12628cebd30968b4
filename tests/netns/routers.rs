//! Routers on both sides of the director: kernels that forward, and that say so when they cannot.

use std::cell::Cell;
use std::time::Duration;

use toml::{Table, Value};

use crate::corners::{bare, knows_mtu};
use crate::director::with_one_and_three_workers;
use crate::lab::{Lab, VIPS, add_service, eventually, section, service};
use crate::traffic::{answers, bodies_arrive_intact, shares, uploads_arrive_intact};

/// Where rs1 is behind rs2, which is then a router.
const BEHIND: [&str; 2] = ["10.1.0.11", "fd00:b::11"];
const CLIENT: [&str; 2] = ["198.51.100.10", "2001:db8:51::10"];

/// A laboratory in which rs2 forwards to further addresses of rs1, one hop behind it.
fn with_inner_router(test: &str) -> Lab {
    let lab = Lab::routed(test);
    for (address, length) in BEHIND.iter().zip([32, 128]) {
        lab.run("rs1", &format!("ip address add {address}/{length} dev lo"));
    }
    lab.run(
        "rs2",
        "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 \
         net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.eth0.send_redirects=0",
    );
    forward_inside(&lab, "via 10.0.0.11", "via fd00:a::11");
    tell_at_once(&lab);
    lab
}

/// Kernels send one error a second to each address: too few to count hops by.
fn tell_at_once(lab: &Lab) {
    for role in ["router", "rs1", "rs2", "rs3"] {
        lab.run(role, "sysctl -qw net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0");
    }
}

/// What rs2 does with packets for rs1.
fn forward_inside(lab: &Lab, v4: &str, v6: &str) {
    for (address, how) in BEHIND.iter().zip([v4, v6]) {
        route(lab, "rs2", address, how);
    }
}

fn route(lab: &Lab, role: &str, address: &str, how: &str) {
    let (kind, way) =
        if how.starts_with("via") || how.starts_with("dev") { ("", how) } else { (how, "") };
    lab.run(role, &format!("ip route replace {kind} {address} {way}"));
}

/// The service `bulk` goes through rs2.
fn bulk_is_behind(config: &mut Table) {
    let routes = BEHIND.iter().zip(["10.0.0.12", "fd00:a::12"]).map(|(address, via)| {
        let length = if address.contains(':') { 128 } else { 32 };
        let to = format!("{address}/{length}").into();
        Value::Table(Table::from_iter([("to".to_owned(), to), ("via".to_owned(), via.into())]))
    });
    let routes = Value::Array(routes.collect());
    section(config, &["interface", "inside"]).insert("routes".into(), routes);
    for (name, server) in [("bulk", "10.1.0.11:5201"), ("bulk6", "[fd00:b::11]:5201")] {
        let server = Value::Table(Table::from_iter([("address".to_owned(), server.into())]));
        service(config, name).insert("servers".into(), Value::Array(vec![server]));
    }
}

/// Each side learns the MTU of a link beyond the director from a router's own error, which the
/// director translates: nobody's data would arrive otherwise.
#[test]
fn narrow_links_of_routers_on_both_sides_are_discovered() {
    let lab = with_inner_router("routers");
    // Narrower each time: what was learnt stays.
    let mtu = Cell::new(1400);
    with_one_and_three_workers(&lab, bulk_is_behind, |director| {
        mtu.set(mtu.get() - 50);
        let narrow = mtu.get();
        // Downloads: the router's link to the client.
        for address in CLIENT {
            route(&lab, "router", address, &format!("dev client0 mtu lock {narrow}"));
        }
        for vip in VIPS {
            bodies_arrive_intact(&lab, vip, 6);
        }
        for role in ["rs1", "rs2", "rs3"] {
            for address in CLIENT {
                knows_mtu(&lab, role, address, narrow);
            }
        }
        // Uploads: the other router's link to rs1.
        let narrower = narrow - 10;
        forward_inside(
            &lab,
            &format!("via 10.0.0.11 mtu lock {narrower}"),
            &format!("via fd00:a::11 mtu lock {narrower}"),
        );
        for vip in VIPS {
            uploads_arrive_intact(&lab, vip);
            knows_mtu(&lab, "client", bare(vip), narrower);
        }
        assert_eq!(director.metrics().sum("errors_sent_total", &[]), 0, "none of its own");
    });
}

/// The name of the error that a connection attempt of the client ends with. Now and then it ends,
/// and the kernel has forgotten why when it is asked: then the next one is to say it.
fn connecting_fails_with(lab: &Lab, vip: &str) -> String {
    lab.client(&format!(
        "/usr/bin/python3 -c \"import errno, socket
for _ in range(5):
    try: print('connected to', socket.create_connection(('{}', 5201), 5).getpeername())
    except OSError as error:
        if error.errno == errno.ENOTCONN: continue
        print(errno.errorcode.get(error.errno, error))
    break\"",
        bare(vip)
    ))
}

/// The name of the error that a UDP server on rs1 gets when it answers the client.
fn answering_fails_with(lab: &Lab, vip: &str) -> String {
    let (family, address, level, receive_errors) = if vip.starts_with('[') {
        ("AF_INET6", "fd00:a::11", "IPPROTO_IPV6", 25)
    } else {
        ("AF_INET", "10.0.0.11", "IPPROTO_IP", 11)
    };
    let server = format!(
        "import errno, socket
server = socket.socket(socket.{family}, socket.SOCK_DGRAM)
server.settimeout(10)
server.bind(('{address}', 7009))
server.setsockopt(socket.{level}, {receive_errors}, 1)
question, client = server.recvfrom(100)
server.sendto(question, client)
try: server.recv(100)
except OSError as error: print(errno.errorcode.get(error.errno, error))"
    );
    lab.lab(&["start", "rs1", "answerer", "/usr/bin/python3", "-c", &server]);
    eventually(Duration::from_secs(5), "the UDP server listens", || {
        lab.run("rs1", "ss -Hlun sport = 7009").contains("7009").then_some(())
    });
    lab.client(&format!("echo hello | socat -u - UDP:{vip}:9"));
    assert_eq!(lab.exit_code("answerer", Duration::from_secs(15)), 0, "{}", lab.log("answerer"));
    lab.log("answerer")
}

#[test]
fn unreachable_and_prohibited_are_told_to_clients_and_servers() {
    let lab = with_inner_router("unreachable");
    let change = |config: &mut Table| {
        bulk_is_behind(config);
        add_service(config, "late", "udp://192.0.2.100:9", &["10.0.0.11:7009"]);
        add_service(config, "late6", "udp://[2001:db8:1::100]:9", &["[fd00:a::11]:7009"]);
    };
    with_one_and_three_workers(&lab, change, |director| {
        for (kind, errors) in [
            ("unreachable", ["EHOSTUNREACH\n", "ENETUNREACH\n"]),
            ("prohibit", ["EHOSTUNREACH\n", "EACCES\n"]),
        ] {
            forward_inside(&lab, kind, kind);
            for (vip, error) in VIPS.into_iter().zip(errors) {
                assert_eq!(connecting_fails_with(&lab, vip), error, "client, {kind}");
            }
            forward_inside(&lab, "via 10.0.0.11", "via fd00:a::11");
            for address in CLIENT {
                route(&lab, "router", address, kind);
            }
            for (vip, error) in VIPS.into_iter().zip(errors) {
                assert_eq!(answering_fails_with(&lab, vip), error, "server, {kind}");
            }
            for address in CLIENT {
                lab.run("router", &format!("ip route delete {kind} {address}"));
            }
        }
        for vip in VIPS {
            assert_eq!(answers(&lab, vip, 3), shares([1, 1, 1]));
        }
        assert_eq!(director.metrics().sum("errors_sent_total", &[]), 0, "none of its own");
    });
}

/// The hops that a program found, without its first line and without times.
fn hops(text: &str) -> Vec<String> {
    let hop = |line: &str| line.split_whitespace().nth(1).unwrap_or_default().to_owned();
    text.lines().skip(1).map(hop).collect()
}

/// To the VIP, and through it to the server behind the inner router, whose errors come from the
/// VIP as everything does.
#[test]
fn traceroute_and_tracepath_show_every_hop_and_the_mtu() {
    let lab = with_inner_router("hops");
    let change = |config: &mut Table| {
        bulk_is_behind(config);
        // tracepath counts the port up. Nobody listens there.
        for number in 0..24 {
            let port = 34_000 + number;
            let server = [format!("10.1.0.11:{port}"), format!("[fd00:b::11]:{port}")];
            for (vip, server) in VIPS.into_iter().zip(server) {
                let listen = format!("udp://{vip}:{port}");
                let name = format!("path-{}{number}", if vip.starts_with('[') { "6-" } else { "" });
                add_service(config, &name, &listen, &[&server]);
            }
        }
    };
    let routers = ["198.51.100.254", "2001:db8:51::254"];
    let mtu = Cell::new(1400);
    with_one_and_three_workers(&lab, change, |_| {
        mtu.set(mtu.get() - 50);
        let narrow = mtu.get();
        forward_inside(
            &lab,
            &format!("via 10.0.0.11 mtu lock {narrow}"),
            &format!("via fd00:a::11 mtu lock {narrow}"),
        );
        for (vip, router) in VIPS.into_iter().zip(routers) {
            let address = bare(vip);
            let family = if vip.starts_with('[') { "-6" } else { "-4" };
            for (how, last) in
                [("-T -p 5201", 4), ("-U -p 34000", 4), ("-T -p 80", 3), ("-U -p 7", 3), ("-I", 2)]
            {
                let text = lab.trace("client", &format!("{family} -m 7 {how} {address}"));
                let hops = hops(&text);
                assert_eq!(hops.len(), last, "{how}: {text}");
                assert_eq!(hops[0], router, "{how}: {text}");
                assert!(hops[1..].iter().all(|hop| hop == address), "{how}: {text}");
            }
            // To the director itself: it answers that the port is closed.
            let text = lab.client(&format!("tracepath {family} -n -m 7 {address}"));
            assert!(text.contains("reached") && text.contains("hops 2"), "{text}");
            // To the server.
            let text = lab.client(&format!("tracepath {family} -n -m 7 -p 34000 {address}"));
            assert!(text.contains("reached"), "{text}");
            assert!(text.contains(&format!("Resume: pmtu {narrow} hops 4")), "{text}");
        }
    });
}
