use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use proptest::prelude::*;

use super::*;

/// The key and the vectors of Microsoft's "Verifying the RSS Hash Calculation".
const MICROSOFT: [u8; 40] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0,
    0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c,
    0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
];

/// Destination, source, hash of the addresses, hash of addresses and ports.
const VECTORS: [(&str, &str, u32, u32); 8] = [
    ("161.142.100.80:1766", "66.9.149.187:2794", 0x323e_8fc2, 0x51cc_c178),
    ("65.69.140.83:4739", "199.92.111.2:14230", 0xd718_262a, 0xc626_b0ea),
    ("12.22.207.184:38024", "24.19.198.95:12898", 0xd2d0_a5de, 0x5c2b_394a),
    ("209.142.163.6:2217", "38.27.205.30:48228", 0x8298_9176, 0xafc7_327f),
    ("202.188.127.2:1303", "153.39.163.191:44251", 0x5d18_09c5, 0x10e8_28a2),
    ("[3ffe:2501:200:3::1]:1766", "[3ffe:2501:200:1fff::7]:2794", 0x2cc1_8cd5, 0x4020_7d3d),
    ("[ff02::1]:4739", "[3ffe:501:8::260:97ff:fe40:efab]:14230", 0x0f0c_461c, 0xdde5_1bbf),
    (
        "[fe80::200:f8ff:fe21:67cf]:38024",
        "[3ffe:1900:4545:3:200:f8ff:fe21:67cf]:44251",
        0x4b61_e985,
        0x02d1_feef,
    ),
];

fn octets(address: SocketAddr) -> Vec<u8> {
    match address {
        SocketAddr::V4(v4) => v4.ip().octets().to_vec(),
        SocketAddr::V6(v6) => v6.ip().octets().to_vec(),
    }
}

fn tuple(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let ports = [source.port().to_be_bytes(), destination.port().to_be_bytes()].concat();
    [octets(source), octets(destination), ports].concat()
}

#[test]
fn the_published_vectors_come_out_with_and_without_ports() {
    for (destination, source, addresses, all) in VECTORS {
        let (destination, source): (SocketAddr, SocketAddr) =
            (destination.parse().unwrap(), source.parse().unwrap());
        let input = tuple(source, destination);
        assert_eq!(hash(&MICROSOFT, &input[..input.len() - 4]), addresses, "{source}");
        assert_eq!(hash(&MICROSOFT, &input), all, "{source}");
    }
}

/// What the NIC hashes when it is told to take one end alone.
fn masked(input: RssInput, end: End, endpoint: SocketAddr) -> Vec<u8> {
    let zero = SocketAddr::new(
        if endpoint.is_ipv4() {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        },
        0,
    );
    match (input, end) {
        (RssInput::Zeroed, End::Source) => tuple(endpoint, zero),
        (RssInput::Zeroed, End::Destination) => tuple(zero, endpoint),
        (RssInput::Packed, _) => {
            [octets(endpoint), endpoint.port().to_be_bytes().to_vec()].concat()
        }
    }
}

fn twin(keys: &KeyPair, end: End, endpoint: SocketAddr) -> u32 {
    let table = Box::new(EndpointTables::new(keys.key(end), keys.input(), end));
    let port = U16::new(endpoint.port());
    match endpoint {
        SocketAddr::V4(v4) => table.of(&v4.ip().octets(), port),
        SocketAddr::V6(v6) => table.of(&v6.ip().octets(), port),
    }
}

fn any_key() -> impl Strategy<Value = Key> {
    (any::<[u8; 32]>(), any::<[u8; 20]>()).prop_map(|(start, end)| {
        let mut key = [0; KEY_OCTETS];
        key[..32].copy_from_slice(&start);
        key[32..].copy_from_slice(&end);
        key
    })
}

fn any_endpoint() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![
        (any::<Ipv4Addr>(), any::<u16>()).prop_map(SocketAddr::from),
        (any::<Ipv6Addr>(), any::<u16>()).prop_map(SocketAddr::from),
    ]
}

fn any_input() -> impl Strategy<Value = RssInput> {
    prop_oneof![Just(RssInput::Zeroed), Just(RssInput::Packed)]
}

proptest! {
    #[test]
    fn both_directions_hash_alike_in_all_32_bits_whatever_the_nic_does_with_the_rest(
        outside in any_key(), rest in any_key(), input in any_input(), endpoint in any_endpoint(),
    ) {
        let keys = KeyPair::derive(outside, rest, input);
        let on_the_way_in = hash(keys.key(End::Source), &masked(input, End::Source, endpoint));
        let on_the_way_back =
            hash(keys.key(End::Destination), &masked(input, End::Destination, endpoint));
        prop_assert_eq!(on_the_way_in, on_the_way_back);
        prop_assert_eq!(twin(&keys, End::Source, endpoint), on_the_way_in);
        prop_assert_eq!(twin(&keys, End::Destination, endpoint), on_the_way_in);
    }

    #[test]
    fn forty_octets_of_the_keys_are_enough(
        outside in any_key(), rest in any_key(), endpoint in any_endpoint(),
    ) {
        let keys = KeyPair::derive(outside, rest, RssInput::Zeroed);
        for end in [End::Source, End::Destination] {
            let input = masked(RssInput::Zeroed, end, endpoint);
            prop_assert_eq!(hash(&keys.key(end)[..40], &input), hash(keys.key(end), &input));
        }
    }
}

/// A key from a small generator: the same ones in every run.
fn numbered_key(number: u64) -> Key {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut key = [0; KEY_OCTETS];
    for octet in &mut key {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *octet = state.to_be_bytes()[3];
    }
    key
}

/// The fullest of `queues` queues against the mean, for pktgen's range mode: source address and
/// port go up together.
fn lockstep_imbalance(key: &Key, queues: u32) -> f64 {
    const FLOWS: u16 = 4000;
    let table = Box::new(EndpointTables::new(key, RssInput::Zeroed, End::Source));
    let mut load = vec![0_u32; queues as usize];
    for flow in 0..FLOWS {
        let [high, low] = flow.to_be_bytes();
        let hash = table.of(&[198, 18, high, low], U16::new(1024 + flow));
        load[(hash % 128 % queues) as usize] += 1;
    }
    f64::from(load.into_iter().max().unwrap() * queues) / f64::from(FLOWS)
}

#[test]
fn addresses_and_ports_that_count_up_together_fill_all_queues() {
    for number in 0..64 {
        let keys = KeyPair::derive(numbered_key(number), numbered_key(!number), RssInput::Zeroed);
        assert!(!is_periodic(keys.key(End::Source)) && !is_periodic(keys.key(End::Destination)));
        for queues in [2, 4, 8, 16] {
            let imbalance = lockstep_imbalance(keys.key(End::Source), queues);
            assert!(imbalance < 1.5, "key {number}, {queues} queues: {imbalance}");
        }
    }
}

#[test]
fn a_key_of_period_16_leaves_queues_empty_and_is_recognised() {
    let mut symmetric = [0; KEY_OCTETS];
    for pair in symmetric.chunks_exact_mut(2) {
        pair.copy_from_slice(&[0x6d, 0x5a]);
    }
    assert!(lockstep_imbalance(&symmetric, 8) > 2.0);
    assert!(is_periodic(&symmetric));
    assert!(is_periodic(&[0; 40]) && is_periodic(&[0x12, 0x34, 0x56, 0x78].repeat(10)));
    assert!(!is_periodic(&MICROSOFT));
}
