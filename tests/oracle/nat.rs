//! Packets through services and past them.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::differences::{DIFFERENCES, Difference};
use crate::support::director::{Setup, TOPOLOGY, TestDirector};
use crate::{Leaving, expected, explain, one_test_for_each_case, recorded, run, text};

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

/// A director that has seen all cases before this one: some go on with their connections.
fn director_before(cases: &[Value], setting: &str, workers: u16) -> TestDirector {
    let text = format!("{setting}{TOPOLOGY}{SERVICES}");
    let mut director = Setup::new(&text).workers(workers).start();
    for case in cases {
        run(&mut director, case);
    }
    director
}

/// A case, and what was dropped in it. `setting` is the beginning of the configuration.
fn run_with(
    cases: &[Value],
    case: &Value,
    setting: &str,
    workers: u16,
) -> (Leaving, BTreeMap<String, u64>) {
    let services = format!("{setting}{TOPOLOGY}{SERVICES}");
    let mut director = director_before(cases, setting, workers);
    match text(case, "case") {
        "quiesced_only_server_new_connection" => {
            director.install(&services.replace(":8080\" }", ":8080\", weight = 0 }"));
        }
        "non_df_packet_larger_than_inside_mtu" => {
            let narrow = services.replace("# inside mtu", "mtu = 1280");
            director = Setup::new(&narrow).workers(workers).start();
        }
        _ => {}
    }
    let before = director.drops();
    let sent = run(&mut director, case);
    let mut drops = director.drops();
    for (reason, count) in &mut drops {
        *count -= before.get(reason).copied().unwrap_or(0);
    }
    drops.retain(|_, count| *count > 0);
    (sent, drops)
}

/// As the kernel did it, or, where a difference is listed, exactly as that says; then with the
/// setting, if there is one, that makes it the kernel's.
fn passes_as_recorded(name: &str) {
    let cases = recorded("nat_cases.json");
    let place = cases.iter().position(|case| text(case, "case") == name).unwrap();
    let (before, case) = (&cases[..place], &cases[place]);
    let difference = DIFFERENCES.iter().find(|difference| difference.case == name);
    for workers in [1, 4] {
        let check = |setting: &str, expected: &Leaving, drops: Option<&[(&str, u64)]>| {
            let (sent, dropped) = run_with(before, case, setting, workers);
            let what = format!("{name}, {workers} workers, {setting}");
            assert!(sent == *expected, "{what}\n{}", explain(&sent, expected));
            if let Some(drops) = drops {
                let drops = drops.iter().map(|(reason, count)| ((*reason).to_owned(), *count));
                assert_eq!(dropped, drops.collect(), "{what}");
            }
        };
        let Some(Difference { instead, drops, as_kernel, .. }) = difference else {
            check("", &expected(case), None);
            continue;
        };
        let changed = expected(&instead(case));
        assert_ne!(changed, expected(case), "{name} is listed, but does not differ");
        check("", &changed, Some(drops));
        if let Some(setting) = as_kernel {
            check(setting, &expected(case), None);
        }
    }
}

#[test]
fn every_difference_names_a_recorded_case() {
    let cases = recorded("nat_cases.json");
    for Difference { case, .. } in DIFFERENCES {
        assert!(cases.iter().any(|recorded| text(recorded, "case") == *case), "{case}");
    }
}

one_test_for_each_case!(
    "nat_cases.json",
    passes_as_recorded,
    [
        tcp4_handshake_data_close,
        udp4_request_reply,
        udp4_zero_checksum_is_kept,
        udp6_request_reply,
        tcp4_ack_without_connection,
        tcp4_synack_without_connection,
        tcp4_rst_without_connection,
        tcp4_port_without_service,
        udp4_port_without_service,
        ttl_one_from_client,
        ttl_two_from_client,
        ttl_one_from_server,
        hop_limit_one_from_client6,
        syn_on_established,
        icmp4_frag_needed_from_outside_8_octets,
        icmp4_frag_needed_from_outside_whole,
        icmp4_time_exceeded_from_outside_8_octets,
        icmp4_time_exceeded_from_outside_whole,
        icmp4_host_unreachable_from_outside_8_octets,
        icmp4_host_unreachable_from_outside_whole,
        icmp4_port_unreachable_from_outside_8_octets,
        icmp4_port_unreachable_from_outside_whole,
        icmp4_frag_needed_from_server_side_8_octets,
        icmp4_frag_needed_from_server_side_whole,
        icmp4_port_unreachable_from_server_8_octets,
        icmp4_port_unreachable_from_server_whole,
        icmp4_time_exceeded_from_server_side_8_octets,
        icmp4_time_exceeded_from_server_side_whole,
        icmp4_error_about_unknown_flow,
        icmp4_echo_to_vip,
        icmp6_packet_too_big_from_outside,
        icmp6_port_unreachable_from_server,
        udp4_fragments_in_order,
        udp4_fragments_reversed,
        udp4_fragments_first_missing,
        udp4_fragments_duplicate_middle,
        non_df_packet_larger_than_inside_mtu,
        tcp4_bad_checksum,
        ipv4_bad_header_checksum,
        udp4_bad_checksum,
        server_packet_without_connection,
        server_opens_to_outside_without_masquerade,
        quiesced_only_server_new_connection,
    ]
);
