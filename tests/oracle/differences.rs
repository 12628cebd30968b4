//! The cases in which pointsman deliberately does not do what the kernel did, and exactly what it
//! does instead.

use serde_json::{Value, json};

use crate::support::packet::{hex, internet_checksum, unhex};
use crate::{array, text};

pub(crate) struct Difference {
    pub(crate) case: &'static str,
    /// What the recording would be if the kernel did as pointsman.
    pub(crate) instead: fn(&Value) -> Value,
    /// What is dropped in the case, by reason.
    pub(crate) drops: &'static [(&'static str, u64)],
    /// The beginning of a configuration with which pointsman does what the kernel did.
    pub(crate) as_kernel: Option<&'static str>,
}

const fn passes(case: &'static str, instead: fn(&Value) -> Value) -> Difference {
    Difference { case, instead, drops: &[], as_kernel: None }
}

const fn drops(
    case: &'static str,
    drops: &'static [(&'static str, u64)],
    as_kernel: &'static str,
) -> Difference {
    Difference { case, instead: nothing, drops, as_kernel: Some(as_kernel) }
}

const RESET: &str = "[director]\nnon_syn = \"reset\"\n";
const SCHEDULE: &str = "[director]\nnon_syn = \"schedule\"\n";
const ROUTING: &str = "[director]\nrouting = true\n";

pub(crate) const DIFFERENCES: &[Difference] = &[
    passes("udp4_zero_checksum_is_kept", without_checksum),
    // A segment of no connection is dropped and counted; the kernel answers it.
    drops("tcp4_ack_without_connection", &[("no_connection", 1)], RESET),
    // The kernel schedules a SYN+ACK for the sake of active FTP; pointsman opens a connection on
    // a SYN alone.
    drops("tcp4_synack_without_connection", &[("no_connection", 1)], SCHEDULE),
    passes("icmp4_frag_needed_from_outside_whole", right_quoted_checksum),
    passes("icmp4_time_exceeded_from_outside_whole", right_quoted_checksum),
    passes("icmp4_host_unreachable_from_outside_whole", right_quoted_checksum),
    passes("icmp4_port_unreachable_from_outside_whole", right_quoted_checksum),
    passes("icmp4_frag_needed_from_server_side_whole", right_quoted_checksum),
    passes("icmp4_port_unreachable_from_server_whole", right_quoted_checksum),
    passes("icmp4_time_exceeded_from_server_side_whole", right_quoted_checksum),
    passes("icmp6_packet_too_big_from_outside", right_quoted_checksum),
    passes("icmp6_port_unreachable_from_server", right_quoted_checksum),
    passes("udp4_fragments_in_order", fragments_at_once),
    passes("udp4_fragments_reversed", fragments_at_once),
    Difference {
        drops: &[("fragment_duplicate", 1)],
        ..passes("udp4_fragments_duplicate_middle", fragments_at_once)
    },
    // IPVS sits in a router; pointsman is one where `routing` says so.
    drops("server_packet_without_connection", &[("not_owned", 1)], ROUTING),
    drops("server_opens_to_outside_without_masquerade", &[("not_owned", 1)], ROUTING),
];

/// Nothing leaves.
fn nothing(case: &Value) -> Value {
    let mut case = case.clone();
    for step in case["steps"].as_array_mut().unwrap() {
        step["out"] = json!([]);
    }
    case
}

/// The case with other frames of what leaves.
fn with_frames(case: &Value, change: impl Fn(&mut Vec<u8>)) -> Value {
    let mut case = case.clone();
    for step in case["steps"].as_array_mut().unwrap() {
        for out in step["out"].as_array_mut().unwrap() {
            let mut frame = unhex(text(out, "frame"));
            change(&mut frame);
            out["frame"] = hex(&frame).into();
        }
    }
    case
}

/// The kernel computes a checksum for a UDP datagram that came without; pointsman keeps the
/// sender's choice.
fn without_checksum(case: &Value) -> Value {
    with_frames(case, |frame| frame[40..42].fill(0))
}

/// The kernel leaves the quoted TCP checksum as it was; pointsman makes it right for the
/// translated quote. The segments are quoted whole.
fn right_quoted_checksum(case: &Value) -> Value {
    with_frames(case, |frame| {
        if frame[12..14] == [8, 0] && frame[23] == 1 {
            set_checksum(&mut frame[42..], 20, 16, |quote| quote[12..20].to_vec());
            frame[36..38].fill(0);
            let checksum = internet_checksum(&frame[34..]);
            frame[36..38].copy_from_slice(&checksum.to_be_bytes());
        } else if frame[12..14] == [0x86, 0xdd] && frame[20] == 58 {
            set_checksum(&mut frame[62..], 40, 16, |quote| quote[8..40].to_vec());
            set_checksum(&mut frame[14..], 40, 2, |packet| packet[8..40].to_vec());
        }
    })
}

/// Computes the checksum of what an IP header carries anew; `addresses` are those of the header.
fn set_checksum(packet: &mut [u8], header: usize, place: usize, addresses: fn(&[u8]) -> Vec<u8>) {
    let protocol = if header == 20 { packet[9] } else { packet[6] };
    let at = header + place;
    packet[at..at + 2].fill(0);
    let mut summed = addresses(packet);
    summed.extend(u16::try_from(packet.len() - header).unwrap().to_be_bytes());
    summed.extend([0, protocol]);
    summed.extend(&packet[header..]);
    packet[at..at + 2].copy_from_slice(&internet_checksum(&summed).to_be_bytes());
}

/// The kernel puts the datagram together and fragments it again, the same way; pointsman passes
/// each fragment on as soon as the first has come, then those that wait in the order in which
/// they came, and none twice.
fn fragments_at_once(case: &Value) -> Value {
    let offset = |frame: &Value| {
        let frame = unhex(text(frame, "frame"));
        u16::from_be_bytes([frame[20] & 0x1f, frame[21]])
    };
    let steps = array(case, "steps");
    let all: Vec<_> = steps.iter().flat_map(|step| array(step, "out")).collect();
    let mut case = case.clone();
    let (mut has_first, mut came) = (false, Vec::new());
    for step in case["steps"].as_array_mut().unwrap() {
        let this = offset(&step["in"]);
        let mut leaves = Vec::new();
        if this == 0 {
            has_first = true;
            leaves = std::iter::once(0).chain(came.iter().copied()).collect();
        } else if has_first && !came.contains(&this) {
            leaves.push(this);
        }
        came.push(this);
        let recorded = |at: &u16| (*all.iter().find(|out| offset(out) == *at).unwrap()).clone();
        step["out"] = leaves.iter().map(recorded).collect();
    }
    case
}
