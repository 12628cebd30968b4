//! What people run through a director: web servers, bulk transfers, name servers, relays.

use std::cell::Cell;
use std::time::Duration;

use toml::Table;

use crate::corners::bare;
use crate::devices::pass_fragments;
use crate::director::with_one_and_three_workers;
use crate::lab::{Lab, VIPS, add_service, eventually};
use crate::traffic::{answers, bodies_arrive_intact, echoes, iperf3, shares};

#[test]
fn nginx_curl_and_ping_find_every_server() {
    let lab = Lab::two_nic("web");
    with_one_and_three_workers(&lab, pass_fragments, |director| {
        for vip in VIPS {
            assert_eq!(answers(&lab, vip, 30), shares([10, 10, 10]), "{vip}");
            assert_eq!(echoes(&lab, vip, 30), shares([10, 10, 10]), "{vip}");
            bodies_arrive_intact(&lab, vip, 6);
            for size in [0, 56, 1472, 6000] {
                lab.client(&format!("ping -c 2 -i 0.1 -W 3 -s {size} {}", bare(vip)));
            }
            // Many requests over one connection.
            let text = lab.client(&format!("curl -sSv --max-time 10 'http://{vip}/?[1-30]' 2>&1"));
            assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 30, "{text}");
            assert_eq!(text.matches("Re-using existing connection").count(), 29, "{text}");
        }
        assert!(director.metrics().sum("service_connections_total", &[]) >= 2 * 67);
    });
}

#[test]
fn iperf3_measures_one_stream_four_and_datagrams() {
    let lab = Lab::two_nic("iperf");
    let change = |config: &mut Table| {
        add_service(config, "datagrams", "udp://192.0.2.100:5201", &["10.0.0.11:5201"]);
        add_service(config, "datagrams6", "udp://[2001:db8:1::100]:5201", &["[fd00:a::11]:5201"]);
    };
    with_one_and_three_workers(&lab, change, |_| {
        for vip in VIPS {
            for how in ["", "--parallel 4", "--udp --bitrate 20M --length 1200"] {
                let report = iperf3(&lab, ("client", "rs1"), bare(vip), 5201, how);
                let end = &report["end"];
                if how.starts_with("--udp") {
                    let sum = &end["sum"];
                    assert!(sum["packets"].as_u64().unwrap() > 1000, "{vip}: {sum}");
                    assert!(sum["lost_percent"].as_f64().unwrap() < 5.0, "{vip}: {sum}");
                } else {
                    let octets = end["sum_received"]["bytes"].as_u64().unwrap();
                    assert!(octets > 10 << 20, "{vip} {how}: {octets} octets");
                }
            }
        }
    });
}

/// Twelve strings: an answer of about 3 kB, in three fragments over UDP.
pub(crate) fn name_servers(lab: &Lab) {
    let strings: Vec<_> = (0..12).map(|number| format!("{number:02}").repeat(120)).collect();
    for server in ["rs1", "rs2", "rs3"] {
        lab.begin(
            server,
            &format!("dns-{server}"),
            &format!(
                "dnsmasq --keep-in-foreground --port=5353 --no-resolv --no-hosts --pid-file= \
                 --conf-file=/dev/null --user=root --edns-packet-max=4096 --log-facility=- \
                 --txt-record=big.test,{} --host-record=name.test,192.0.2.7,2001:db8::7",
                strings.join(",")
            ),
        );
    }
}

#[test]
fn dig_gets_large_answers_in_fragments_and_over_tcp() {
    let lab = Lab::two_nic("dns");
    name_servers(&lab);
    let change = |config: &mut Table| {
        pass_fragments(config);
        for protocol in ["udp", "tcp"] {
            for (vip, servers) in [
                (VIPS[0], ["10.0.0.11:5353", "10.0.0.12:5353", "10.0.0.13:5353"]),
                (VIPS[1], ["[fd00:a::11]:5353", "[fd00:a::12]:5353", "[fd00:a::13]:5353"]),
            ] {
                let name = format!("{protocol}-{}", bare(vip).replace(['.', ':'], "-"));
                add_service(config, &name, &format!("{protocol}://{vip}:53"), &servers);
            }
        }
    };
    with_one_and_three_workers(&lab, change, |director| {
        for vip in VIPS {
            let dig =
                |more: &str| lab.client(&format!("dig +tries=2 +timeout=3 @{} {more}", bare(vip)));
            for _ in 0..3 {
                let small = dig("name.test A +short; true");
                assert_eq!(small, "192.0.2.7\n");
                // As one datagram, which the server sends in pieces.
                let large = dig("big.test TXT +bufsize=4096 +ignore");
                assert!(large.contains("status: NOERROR") && !large.contains(" tc "), "{large}");
                assert!(large.contains("(UDP)") && large.matches("1111").count() > 0, "{large}");
                let size = large.lines().find_map(|line| line.strip_prefix(";; MSG SIZE  rcvd: "));
                assert!(size.unwrap().parse::<u32>().unwrap() > 2900, "{large}");
                // Too large for the datagram that was asked for: once more over TCP.
                let again = dig("big.test TXT +bufsize=512");
                assert!(again.contains("(TCP)") && again.contains("status: NOERROR"), "{again}");
            }
        }
        let drops = director.balanced_metrics().drops();
        assert!(drops.is_empty(), "{drops:?}");
    });
}

/// Starts a server on rs1 and waits until it listens.
fn serve(lab: &Lab, name: &str, port: u16, command: &[&str]) {
    lab.lab(&[&["start", "rs1", name], command].concat());
    eventually(Duration::from_secs(5), "the server listens", || {
        let listening = lab.run("rs1", &format!("ss -Hltn sport = {port}"));
        listening.contains("LISTEN").then_some(())
    });
}

/// The services on these ports of the VIPs, each served by rs1 on the port of the same number.
fn served_by_rs1(config: &mut Table, ports: &[u16]) {
    for port in ports {
        for (vip, server) in VIPS.into_iter().zip(["10.0.0.11", "[fd00:a::11]"]) {
            let name = format!("{}-{port}", if vip == VIPS[0] { "v4" } else { "v6" });
            let listen = format!("tcp://{vip}:{port}");
            add_service(config, &name, &listen, &[&format!("{server}:{port}")]);
        }
    }
}

/// Four seconds in one direction while the other has long been closed; everything else that is
/// idle for three is forgotten.
#[test]
fn half_closed_connections_carry_data_for_as_long_as_they_like() {
    let lab = Lab::two_nic("half");
    let big = lab.state().join("content/big");
    let slowly = format!("for turn in 1 2 3 4; do cat {}; sleep 1; done", big.display());
    let file = lab.state().join("slowly.sh");
    std::fs::write(&file, format!("cat >/dev/null\n{slowly}\n")).unwrap();
    let four = format!("(for turn in 1 2 3 4; do cat {}; done) | sha256sum", big.display());
    let want = lab.client(&four);

    // One server hears that the client has nothing to say, and says much.
    let talker = format!("SYSTEM:sh {}", file.display());
    let listen = "TCP6-LISTEN:5301,ipv6only=0,fork,reuseaddr";
    serve(&lab, "talker", 5301, &["socat", "-t", "30", listen, &talker]);
    // The other says that it has nothing to say, and listens.
    let listener = "import hashlib, socket, threading
def listen(connection):
    connection.shutdown(socket.SHUT_WR)
    sum = hashlib.sha256()
    while data := connection.recv(65536): sum.update(data)
    print(sum.hexdigest(), flush=True)
server = socket.create_server(('::', 5302), family=socket.AF_INET6, dualstack_ipv6=True)
while True: threading.Thread(target=listen, args=(server.accept()[0],)).start()";
    serve(&lab, "listener", 5302, &["/usr/bin/python3", "-c", listener]);

    let times = Cell::new(0);
    with_one_and_three_workers(
        &lab,
        |config| served_by_rs1(config, &[5301, 5302]),
        |_| {
            let all = VIPS.map(|vip| {
                format!(
                    "socat -t 30 - TCP:{vip}:5301 </dev/null | sha256sum & \
                 ({slowly}) | socat -u - TCP:{vip}:5302 & "
                )
            });
            assert_eq!(lab.client(&format!("{} wait", all.concat())), want.repeat(2));
            times.set(times.get() + 2);
            let sum = format!("{}\n", want.split(' ').next().unwrap());
            eventually(Duration::from_secs(5), "all has arrived", || {
                (lab.log("listener") == sum.repeat(times.get())).then_some(())
            });
        },
    );
}

/// With keep-alives (RFC 9293 section 3.8.4) a silent connection outlives its idle time of three
/// seconds; without them its next segment belongs to nothing.
#[test]
fn keep_alives_keep_a_silent_connection() {
    let lab = Lab::two_nic("idle");
    let listen = "TCP6-LISTEN:5301,ipv6only=0,fork,reuseaddr";
    serve(&lab, "echo", 5301, &["socat", listen, "PIPE"]);
    with_one_and_three_workers(
        &lab,
        |config| served_by_rs1(config, &[5301]),
        |director| {
            let talk = |vip: &str, options: &str| {
                format!(
                    "(echo one {options}; sleep 5; echo two {options}) |
                 timeout 7 socat -t 1 - TCP:{vip}:5301{options} & "
                )
            };
            let all =
                VIPS.map(|vip| talk(vip, ",keepalive,keepidle=1,keepintvl=1") + &talk(vip, ""));
            let said = lab.client(&format!("{} wait", all.concat()));
            let count = |what: &str| said.lines().filter(|line| line.starts_with(what)).count();
            assert_eq!((count("one"), count("two ,keepalive"), count("two")), (4, 2, 2), "{said}");
            let metrics = director.balanced_metrics();
            assert_eq!(metrics.sum("service_connections_total", &[]), 4, "the same connections");
            let lost = metrics.sum("packets_dropped_total", &[("reason", "no_connection")]);
            assert!(lost >= 2, "{lost}");
        },
    );
}

#[test]
fn socat_sends_datagrams_to_and_fro() {
    let lab = Lab::two_nic("datagrams");
    with_one_and_three_workers(&lab, pass_fragments, |_| {
        for vip in VIPS {
            let said = lab.client(&format!(
                "for port in 20001 20002 20003; do \
                     echo hello | socat -t 1 - UDP:{vip}:7,sourceport=$port,shut-none; done"
            ));
            let mut names: Vec<_> = said.lines().collect();
            names.sort_unstable();
            assert_eq!(names, ["rs1 hello", "rs2 hello", "rs3 hello"], "{vip}");
        }
    });
}
