//! What the Linux kernel's IPVS did (tests/oracle, recorded), and what pointsman does.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::excessive_nesting,
    clippy::format_push_string,
    clippy::cast_possible_truncation,
    clippy::needless_for_each,
    reason = "a test fails by panicking"
)]

mod support;

use serde_json::Value;
use support::director::{IN, OUT, Sent, Setup, TOPOLOGY, TestDirector};
use support::packet::{ACK, FIN, PacketBuilder, RST, SYN, hex, internet_checksum, unhex};

const SERVICES: &str = r#"
[[service]]
name = "web"
listen = "tcp://192.0.2.100:80"
scheduler = "rr"
servers = [{ address = "10.0.0.11:8080" }]

[[service]]
name = "dns"
listen = "udp://192.0.2.100:53"
scheduler = "rr"
servers = [{ address = "10.0.0.12:5353" }]

[[service]]
name = "web6"
listen = "tcp://[2001:db8:1::100]:80"
scheduler = "rr"
servers = [{ address = "[fd00::11]:8080" }]

[[service]]
name = "dns6"
listen = "udp://[2001:db8:1::100]:53"
scheduler = "rr"
servers = [{ address = "[fd00::12]:5353" }]
"#;

const QUOTED_CHECKSUM: &str = "the kernel leaves the quoted TCP or UDP checksum as it was; \
                               pointsman makes it right for the translated quote";
const FRAGMENTS_PASS: &str = "the kernel puts the datagram together and fragments it again; \
                              pointsman passes each fragment on as soon as the first has come";
const SILENCE: &str = "a segment of no connection is dropped and counted, not answered";
const NO_ROUTER: &str = "the director is no router; masquerade of servers comes later";
const ZERO_CHECKSUM: &str = "the kernel computes a checksum for a datagram that came without; \
                             pointsman keeps the sender's choice";
const SYN_ACK: &str = "the kernel schedules a SYN+ACK for the sake of active FTP; pointsman opens \
                       a connection on a SYN alone";

/// The cases in which pointsman does not do what the kernel did, each with the reason.
const KNOWN_DIFFERENCES: &[(&str, &str)] = &[
    ("udp4_zero_checksum_is_kept", ZERO_CHECKSUM),
    ("tcp4_ack_without_connection", SILENCE),
    ("tcp4_synack_without_connection", SYN_ACK),
    ("icmp4_frag_needed_from_outside_whole", QUOTED_CHECKSUM),
    ("icmp4_time_exceeded_from_outside_whole", QUOTED_CHECKSUM),
    ("icmp4_host_unreachable_from_outside_whole", QUOTED_CHECKSUM),
    ("icmp4_port_unreachable_from_outside_whole", QUOTED_CHECKSUM),
    ("icmp4_frag_needed_from_server_side_whole", QUOTED_CHECKSUM),
    ("icmp4_port_unreachable_from_server_whole", QUOTED_CHECKSUM),
    ("icmp4_time_exceeded_from_server_side_whole", QUOTED_CHECKSUM),
    ("icmp6_packet_too_big_from_outside", QUOTED_CHECKSUM),
    ("icmp6_port_unreachable_from_server", QUOTED_CHECKSUM),
    ("udp4_fragments_in_order", FRAGMENTS_PASS),
    ("udp4_fragments_reversed", FRAGMENTS_PASS),
    ("udp4_fragments_duplicate_middle", FRAGMENTS_PASS),
    ("server_packet_without_connection", NO_ROUTER),
    ("server_opens_to_outside_without_masquerade", NO_ROUTER),
];

fn recorded(file: &str) -> Vec<Value> {
    let path = format!("{}/tests/oracle/{file}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn array<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    value[key].as_array().unwrap()
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap()
}

/// A frame as it is compared. The kernel counts the identification of packets that it makes
/// itself; what pointsman writes there is its own affair.
fn comparable(at: &str, octets: &[u8]) -> (String, String) {
    let mut octets = octets.to_vec();
    let from_vip = octets[26..30] == [192, 0, 2, 100];
    if octets[12..14] == [8, 0] && octets[23] == 1 && (from_vip || octets[15] == 0xc0) {
        octets[18..20].fill(0);
        octets[24..26].fill(0);
    }
    if octets[12..14] == [0x86, 0xdd] && octets[20] == 58 && octets[21] == 64 {
        // The kernel gives its own packets a flow label.
        octets[15..18].fill(0);
    }
    (at.into(), hex(&octets))
}

fn brief(frames: &[(String, String)]) -> String {
    let one = |(at, frame): &(String, String)| format!("{at} {frame:.160}");
    frames.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Runs a case; what came out otherwise than recorded.
fn differences(director: &mut TestDirector, case: &Value) -> Option<String> {
    let mut found = Vec::new();
    for (number, step) in array(case, "steps").iter().enumerate() {
        let interface = if text(&step["in"], "at") == "outside" { OUT } else { IN };
        director.receive(interface, &unhex(text(&step["in"], "frame")));
        let side = |sent: &Sent| if sent.interface == OUT { "outside" } else { "inside" };
        let sent: Vec<_> =
            director.take_sent().iter().map(|sent| comparable(side(sent), &sent.octets)).collect();
        let expected: Vec<_> = array(step, "out")
            .iter()
            .map(|out| comparable(text(out, "at"), &unhex(text(out, "frame"))))
            .collect();
        if sent != expected {
            let (sent, expected) = (brief(&sent), brief(&expected));
            found.push(format!("  step {number}\n    sent     {sent}\n    recorded {expected}"));
        }
    }
    (!found.is_empty()).then(|| found.join("\n"))
}

fn run_nat_cases(workers: u16) {
    let services = format!("{TOPOLOGY}{SERVICES}");
    let mut director = Setup::new(&services).workers(workers).start();
    let mut failures = Vec::new();
    for case in recorded("nat_cases.json") {
        let name = text(&case, "case");
        if name == "quiesced_only_server_new_connection" {
            director.install(&services.replace(":8080\" }", ":8080\", weight = 0 }"));
        }
        let reason = KNOWN_DIFFERENCES.iter().find(|(known, _)| *known == name);
        let mut narrow = (name == "non_df_packet_larger_than_inside_mtu")
            .then(|| Setup::new(&services.replace("# inside mtu", "mtu = 1280")).start());
        match (differences(narrow.as_mut().unwrap_or(&mut director), &case), reason) {
            (Some(how), None) => failures.push(format!("{name}:\n{how}")),
            (None, Some((_, reason))) => {
                failures.push(format!("{name} passes, but is listed as different: {reason}"));
            }
            (None, None) | (Some(_), Some(_)) => {}
        }
    }
    assert!(failures.is_empty(), "{} cases:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn packets_leave_as_the_kernel_sent_them() {
    run_nat_cases(1);
}

#[test]
fn packets_leave_as_the_kernel_sent_them_with_four_workers() {
    run_nat_cases(4);
}

#[test]
fn every_known_difference_names_a_recorded_case() {
    let cases = recorded("nat_cases.json");
    for (name, _) in KNOWN_DIFFERENCES {
        assert!(cases.iter().any(|case| text(case, "case") == *name), "{name}");
    }
}

fn control_bits(flags: &str) -> u8 {
    let bit = |flag| match flag {
        'S' => SYN,
        'A' => ACK,
        'F' => FIN,
        'R' => RST,
        other => panic!("flag {other}"),
    };
    flags.chars().map(bit).fold(0, |all, bit| all | bit)
}

/// Every recorded path of a TCP connection: after each packet, the state that `ipvsadm -lnc`
/// showed, the seconds to its expiry, and whether the packet was forwarded.
#[test]
fn tcp_states_and_timeouts_are_those_of_the_kernel() {
    let paths = recorded("tcp_states.json");
    assert!(paths.len() > 90);
    for (number, path) in paths.iter().enumerate() {
        let mut director = Setup::with_services(
            "[[service]]\nname = \"web\"\nlisten = \"tcp://192.0.2.100:80\"\n\
             servers = [{ address = \"10.0.0.11:80\" }]\n",
        )
        .connections(16, 0)
        .start();
        let mut story = String::new();
        for step in array(path, "steps") {
            let packet = &step["packet"];
            let (from, flags) = (text(packet, "from"), text(packet, "flags"));
            story.push_str(&format!("{from} {flags}, "));
            let control = control_bits(flags);
            if from == "client" {
                let frame = PacketBuilder::tcp("198.18.7.7:20000", "192.0.2.100:80");
                director.receive(OUT, &frame.flags(control).build());
            } else {
                let frame = PacketBuilder::tcp("10.0.0.11:80", "198.18.7.7:20000").from_server();
                director.receive(IN, &frame.flags(control).build());
            }
            let what = format!("path {number}: {story}");
            let forwarded = step["forwarded"].as_u64().unwrap();
            assert_eq!(director.take_sent().len() as u64, forwarded, "{what}");
            let [row] = director.list()[..] else { panic!("{what}: one connection") };
            assert_eq!(row.state.name(), text(step, "state"), "{what}");
            // Recorded a moment after the packet, and cut to whole seconds.
            let expires = u64::from(row.expires_ms).div_ceil(1000) - 1;
            assert_eq!(expires, step["expires_s"].as_u64().unwrap(), "{what}");
            director.advance(10);
        }
        expires_when_said(&mut director);
    }
}

/// The connection is there until its timeout and gone a quarter of a second after.
fn expires_when_said(director: &mut TestDirector) {
    let left = director.list()[0].expires_ms;
    director.advance(left - 1);
    assert_eq!(director.connections(), 1, "not before its time");
    director.advance(257);
    assert_eq!(director.connections(), 0, "256 ms after its time");
}

/// The kernel waits for all fragments and sends them together; pointsman sends each as soon as it
/// can. What leaves in the end is the same.
#[test]
fn fragments_leave_as_the_kernel_sent_them_though_earlier() {
    for workers in [1, 3] {
        let mut director = Setup::new(&format!("{TOPOLOGY}{SERVICES}")).workers(workers).start();
        let mut compared = 0;
        for case in recorded("nat_cases.json") {
            if !text(&case, "case").starts_with("udp4_fragments") {
                continue;
            }
            let (mut sent, mut expected) = (Vec::new(), Vec::new());
            for step in array(&case, "steps") {
                director.receive(OUT, &unhex(text(&step["in"], "frame")));
                sent.extend(director.take_sent().into_iter().map(|sent| hex(&sent.octets)));
                let out = array(step, "out").iter();
                expected.extend(out.map(|out| text(out, "frame").to_owned()));
            }
            sent.sort();
            expected.sort();
            assert_eq!(sent, expected, "{}", text(&case, "case"));
            compared += expected.len();
        }
        assert!(compared >= 9, "{compared}");
    }
}

/// What the listing after a case of ftp.json shows otherwise: the persistence template of the
/// kernel, which asks for persistence on FTP services, and the state of a connection that the
/// server opened, which pointsman follows from the server's SYN on.
const FTP_DIFFERENCES: [&str; 2] = ["ASSURED", "LISTEN"];

fn listing_row(line: &str) -> Option<[String; 4]> {
    let fields: Vec<_> = line.split_whitespace().collect();
    let [_, _, state, client, service, server] = fields[..] else { return None };
    let row = [state, client, service, server].map(str::to_owned);
    (state != "state").then_some(row)
}

/// Where the kernel changed a text it left the checksum to the NIC: it is completed here.
fn with_checksums(case: &Value) -> Value {
    let mut case = case.clone();
    for step in case["steps"].as_array_mut().unwrap() {
        for out in step["out"].as_array_mut().unwrap() {
            let mut frame = unhex(text(out, "frame"));
            let end = 14 + usize::from(u16::from_be_bytes([frame[16], frame[17]]));
            frame[50..52].fill(0);
            let mut summed = frame[26..34].to_vec();
            summed.extend([0, 6]);
            summed.extend(((end - 34) as u16).to_be_bytes());
            summed.extend(&frame[34..end]);
            frame[50..52].copy_from_slice(&internet_checksum(&summed).to_be_bytes());
            out["frame"] = hex(&frame).into();
        }
    }
    case
}

/// Control and data connections through the kernel's helper, each case on a director of its own.
#[test]
fn ftp_passes_as_through_the_kernel() {
    const SERVICE: &str = "[[service]]\nname = \"ftp\"\nlisten = \"tcp://192.0.2.100:21\"\n\
                           servers = [{ address = \"10.0.0.11:21\" }]\n";
    for (case, workers) in recorded("ftp.json").iter().flat_map(|case| [(case, 1), (case, 4)]) {
        let name = text(case, "case");
        let mut director = Setup::with_services(SERVICE).workers(workers).start();
        let case = &with_checksums(case);
        assert_eq!(differences(&mut director, case), None, "{name}");
        let rows: Vec<_> = director
            .list()
            .iter()
            .map(|row| {
                let ends = [row.client, row.service, row.server].map(|end| end.to_string());
                let [client, service, server] = ends;
                [row.state.name().to_owned(), client, service, server]
            })
            .collect();
        // The listing goes on with the connections of the cases before.
        let clients: Vec<_> = rows.iter().map(|[_, client, ..]| client.clone()).collect();
        let listing = text(case, "listing").lines().filter_map(listing_row);
        let recorded: Vec<_> = listing.filter(|[_, client, ..]| clients.contains(client)).collect();
        assert_eq!((rows.len(), recorded.len()), (2, 2), "{name}");
        for mut expected in recorded {
            if FTP_DIFFERENCES.contains(&expected[0].as_str()) {
                expected[0] = "SYN_RECV".into();
            }
            assert!(rows.contains(&expected), "{name}: {expected:?} in {rows:?}");
        }
    }
}
