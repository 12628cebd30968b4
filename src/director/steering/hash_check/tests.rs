use std::sync::Arc;

use super::*;
use crate::dataplane::endpoint_hash::EndpointHash;
use crate::dpdk::hash_sample::hash_samples;
use crate::ids::QueueId;
use crate::wire::toeplitz::Key;

const VIP: &str = "192.0.2.100:80";

fn key(salt: u32) -> Key {
    let octet = |place: usize| (u32::try_from(place).unwrap() + salt).wrapping_mul(0x9e37_79b1);
    std::array::from_fn(|place| octet(place).to_be_bytes()[1])
}

fn check(side: Side) -> PortCheck {
    let keys = KeyPair::derive(key(1), key(1000), RssInput::Zeroed);
    let hash = EndpointHash::new(keys.key(End::Source), RssInput::Zeroed, End::Source);
    PortCheck {
        interface: "outside".into(),
        samples: hash_samples(),
        side,
        externals: vec![VIP.parse::<SocketAddr>().unwrap().ip()],
        keys,
        steering: Steering::new(2, [1, 2, 3, 4]).as_the_nic(Arc::new(hash), 128),
        rx_queues: 2,
        verdict: Cell::new(HashCheck::Waiting),
    }
}

/// A frame with a TCP header's ports.
fn frame(source: &str, destination: &str) -> Vec<u8> {
    let (source, destination): (SocketAddr, SocketAddr) =
        (source.parse().unwrap(), destination.parse().unwrap());
    let mut frame = vec![0; 12];
    if source.is_ipv4() {
        frame.extend([0x81, 0, 0, 7, 8, 0]);
        frame.extend([0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0]);
    } else {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 6, 64]);
    }
    frame.extend(tuple(source, destination));
    frame
}

/// What the check says after one packet whose hash is that of `input` with the key of `end`.
fn after(check: &PortCheck, frame: &[u8], end: End, input: &[u8], wrong_queue: bool) -> HashCheck {
    let hash = hash(check.keys.key(end), input);
    let queue = check.steering.worker_of_hash(hash).0 ^ u16::from(wrong_queue);
    check.samples.push(HashSample::new(QueueId(queue), hash, frame)).unwrap();
    check.verdict()
}

#[test]
fn a_nic_that_hashes_the_outside_party_as_told_is_confirmed() {
    for client in ["198.18.0.1:1025", "[2001:db8::7]:40000"] {
        let server = if client.starts_with('[') { "[fd00::11]:80" } else { "10.0.0.11:80" };
        let client_address = client.parse().unwrap();
        let outside = check(Side::Outside);
        let input = masked(RssInput::Zeroed, End::Source, client_address);
        let frame_in = frame(client, server);
        assert_eq!(after(&outside, &frame_in, End::Source, &input, false), HashCheck::Confirmed);
        let inside = check(Side::Inside);
        let input = masked(RssInput::Zeroed, End::Destination, client_address);
        let frame_back = frame(server, client);
        assert_eq!(
            after(&inside, &frame_back, End::Destination, &input, false),
            HashCheck::Confirmed
        );
    }
}

#[test]
fn on_a_port_of_both_sides_the_destination_tells_which_end_counts() {
    let check = check(Side::Both);
    let client = "198.18.0.1:1025".parse().unwrap();
    let input = masked(RssInput::Zeroed, End::Source, client);
    let request = frame("198.18.0.1:1025", VIP);
    assert_eq!(after(&check, &request, End::Source, &input, false), HashCheck::Confirmed);
    let input = masked(RssInput::Zeroed, End::Destination, client);
    let reply = frame("10.0.0.11:8080", "198.18.0.1:1025");
    assert_eq!(after(&check, &reply, End::Destination, &input, false), HashCheck::Confirmed);
}

#[test]
fn a_nic_that_hashes_otherwise_or_sends_elsewhere_is_a_mismatch_and_stays_one() {
    let (client, vip) = ("198.18.0.1:1025".parse().unwrap(), VIP.parse().unwrap());
    let frame = frame("198.18.0.1:1025", VIP);
    let told = masked(RssInput::Zeroed, End::Source, client);
    let packed = masked(RssInput::Packed, End::Source, client);
    for (input, wrong_queue, finding) in [
        (&told, true, Finding::OtherQueue),
        (&packed, false, Finding::OtherInput),
        (&tuple(client, vip), false, Finding::WholeFlow),
        (&tuple(vip, client), false, Finding::Unknown),
    ] {
        let check = check(Side::Outside);
        let hash = hash(check.keys.key(End::Source), input);
        let queue = check.steering.worker_of_hash(hash).0 ^ u16::from(wrong_queue);
        let sample = HashSample::new(QueueId(queue), hash, &frame);
        assert_eq!(check.judge(&sample), Some(finding));
        assert_eq!(after(&check, &frame, End::Source, input, wrong_queue), HashCheck::Mismatch);
        assert_eq!(after(&check, &frame, End::Source, &told, false), HashCheck::Mismatch);
    }
}

#[test]
fn packets_that_nics_hash_in_other_ways_say_nothing() {
    let check = check(Side::Outside);
    let mut fragment = frame("198.18.0.1:1025", VIP);
    fragment[18 + 6] = 0x20;
    let mut icmp = frame("[2001:db8::7]:1", "[2001:db8::8]:2");
    icmp[14 + 6] = 58;
    let arp = [&[0; 12][..], &[8, 6], &[0; 28]].concat();
    for packet in [&fragment[..], &icmp, &arp, &[]] {
        assert_eq!(after(&check, packet, End::Source, &[], false), HashCheck::Waiting);
    }
}
