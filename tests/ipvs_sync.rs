//! The synchronisation messages of IPVS: those that a Linux kernel sent
//! (`tests/oracle/sync_v1.json`), those that this writes, and octets that are none.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use pointsman::dataplane::conn::tcp_state::ConnectionState;
use pointsman::wire::ipv4::protocol;
use pointsman::wire::ipvs_sync::{
    ENGINE_DATA, ENGINE_NAME, ENTRIES, ENTRY_V4, ENTRY_V6, Entry, Extension, GROUP, HEADER,
    LONGEST_ENTRY, Message, PORT, SctpState, Shift, TEMPLATE_NONE, TcpState, UDP_NORMAL, Unfit,
    Writer, Wrong, flag,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::Value;

/// Octets of Ethernet, IPv4 and UDP header.
const BEFORE: usize = 14 + 20 + 8;
const SYNC_ID: u8 = 7;
/// The longest message of the recording's daemon.
const LONGEST: usize = 1472;

fn recording() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/oracle/sync_v1.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn frames() -> Vec<Vec<u8>> {
    let octet = |digits: &[u8]| u8::from_str_radix(str::from_utf8(digits).unwrap(), 16).unwrap();
    let of_digits = |digits: &str| digits.as_bytes().chunks(2).map(octet).collect();
    let recording = recording();
    let frames = recording["sync_frames"].as_array().unwrap();
    frames.iter().map(|frame| of_digits(frame.as_str().unwrap())).collect()
}

fn messages() -> Vec<Vec<u8>> {
    frames().iter().map(|frame| frame[BEFORE..].to_vec()).collect()
}

fn entries(message: &[u8]) -> Vec<Entry<'_>> {
    Message::parse(message).unwrap().entries().collect::<Result<_, _>>().unwrap()
}

fn written(sync_id: u8, entries: &[Entry<'_>], buffer: &mut [u8]) -> Vec<u8> {
    let mut writer = Writer::new(sync_id, buffer);
    for entry in entries {
        writer.push(entry).unwrap();
    }
    writer.finish().to_vec()
}

/// An entry of the recording's kind.
fn entry(client: &str, vip: &str, server: &str) -> Entry<'static> {
    Entry {
        protocol: protocol::TCP,
        flags: 0,
        state: TcpState::Established.number(),
        client: client.parse().unwrap(),
        vip: vip.parse().unwrap(),
        server: server.parse().unwrap(),
        fwmark: 0,
        timeout: 900,
        idle: 0,
        sequences: None,
        engine_data: &[],
        engine_name: &[],
        extension: None,
    }
}

fn v4() -> Entry<'static> {
    entry("198.18.0.1:1025", "192.0.2.100:80", "10.0.0.11:8080")
}

fn v6() -> Entry<'static> {
    entry("[2001:db8::1]:1025", "[2001:db8:1::100]:80", "[fd00::11]:8080")
}

/// A line of `ipvsadm -lnc`: protocol, client, virtual service, server; state.
type Line = ([String; 4], String);

/// What `ipvsadm -lnc` shows of an entry.
fn line(entry: &Entry<'_>) -> Line {
    let [name, state] = match (entry.protocol, entry.is_template()) {
        (protocol::TCP, false) => ["TCP", name(TcpState::from_number(entry.state).unwrap())],
        (protocol::UDP, false) => {
            assert_eq!(entry.state, UDP_NORMAL);
            ["UDP", "UDP"]
        }
        (protocol::UDP, true) => {
            assert_eq!(entry.state, TEMPLATE_NONE);
            ["UDP", "NONE"]
        }
        other => panic!("{other:?}"),
    };
    let [client, vip, server] = [entry.client, entry.vip, entry.server].map(|end| end.to_string());
    ([name.into(), client, vip, server], state.into())
}

fn name(state: TcpState) -> &'static str {
    ConnectionState::from_number(state.number().try_into().unwrap()).name()
}

#[test]
fn every_recorded_frame_is_a_message() {
    let frames = frames();
    assert_eq!(frames.len(), 2);
    for (frame, count) in frames.iter().zip([3, 14]) {
        assert_eq!(frame[30..34], GROUP);
        assert_eq!(frame[36..38], PORT.to_be_bytes());
        let message = Message::parse(&frame[BEFORE..]).unwrap();
        assert_eq!((message.sync_id, message.count), (SYNC_ID, count));
        let entries = entries(&frame[BEFORE..]);
        assert_eq!(entries.len(), usize::from(count));
        for entry in entries {
            let times = match TcpState::from_number(entry.state) {
                _ if entry.protocol == protocol::UDP => 300,
                Some(TcpState::Established) => 900,
                Some(TcpState::CloseWait) => 60,
                other => panic!("{other:?}"),
            };
            assert_eq!((entry.timeout, entry.fwmark, entry.sequences), (times, 0, None));
            assert!(entry.engine_data.is_empty() && entry.engine_name.is_empty());
            assert!(entry.is_masqueraded());
        }
    }
}

#[test]
fn recorded_flags_are_inactive_and_template_alone() {
    for entry in messages().iter().flat_map(|message| entries(message)) {
        let is_active = entry.state == TcpState::Established.number();
        let is_tcp = entry.protocol == protocol::TCP;
        let template = if entry.client.port() == 0 { flag::TEMPLATE } else { 0 };
        let inactive = if is_tcp && is_active { 0 } else { flag::INACTIVE };
        assert_eq!(entry.flags, template | inactive, "{entry:?}");
        assert_eq!(entry.flags & !flag::BACKUP, 0);
    }
}

#[test]
fn the_last_that_is_told_of_each_connection_is_what_the_listing_shows() {
    let recording = recording();
    let listing = recording["listing"].as_str().unwrap().lines().skip(2);
    let listed: BTreeMap<_, _> = listing
        .map(|line| {
            let words: Vec<_> = line.split_whitespace().map(String::from).collect();
            let [name, _expire, state, client, vip, server] = words.try_into().unwrap();
            ([name, client, vip, server], state)
        })
        .collect();
    let messages = messages();
    let mut told: BTreeMap<_, _> =
        messages.iter().flat_map(|message| entries(message)).map(|entry| line(&entry)).collect();
    // A master tells of what clients send; here the server sent a RST in the end.
    let reset = ["TCP", "198.18.35.42:20003", "192.0.2.100:80", "10.0.0.11:8080"];
    let before = told.insert(reset.map(String::from), "CLOSE".into());
    assert_eq!(before.as_deref(), Some("CLOSE_WAIT"));
    assert_eq!(told, listed);
    assert_eq!(told.len(), 8);
}

#[test]
fn recorded_messages_are_written_again_octet_for_octet() {
    for message in messages() {
        let mut buffer = [0xff; LONGEST];
        assert_eq!(written(SYNC_ID, &entries(&message), &mut buffer), message);
    }
}

#[test]
fn states_have_the_numbers_of_the_dataplane_as_far_as_those_are_the_kernels() {
    for (number, state) in (0u8..).zip(TcpState::ALL) {
        assert_eq!(state.number(), u16::from(number));
        assert_eq!(TcpState::from_number(number.into()), Some(state));
        assert_eq!(ConnectionState::from_number(number) as u8, number);
    }
    let named = |state: &ConnectionState| format!("{state:?}");
    let tcp: Vec<_> = TcpState::ALL.iter().map(|state| format!("{state:?}")).collect();
    assert_eq!(tcp, ConnectionState::ALL[..11].iter().map(named).collect::<Vec<_>>());
    assert_eq!(TcpState::from_number(11), None);
    for (number, state) in (0..).zip(SctpState::ALL) {
        assert_eq!(state.number(), number);
        assert_eq!(SctpState::from_number(number), Some(state));
    }
    let sctp: Vec<_> = SctpState::ALL[1..].iter().map(|state| format!("Sctp{state:?}")).collect();
    assert_eq!(sctp, ConnectionState::ALL[13..].iter().map(named).collect::<Vec<_>>());
    assert_eq!(SctpState::from_number(14), None);
}

#[test]
fn an_entry_with_every_option_by_hand() {
    let shifts = [
        Shift { after: 0x0102_0304, delta: 0x0506_0708, before: 0x090a_0b0c },
        Shift { after: 1, delta: 2, before: 3 },
    ];
    let all = Entry {
        flags: flag::SEQUENCES,
        fwmark: 0x1122_3344,
        sequences: Some(shifts),
        engine_data: b"call",
        engine_name: b"sip",
        ..v4()
    };
    let message = written(0xab, &[all, v6()], &mut [0xff; 256]);
    let mut expected = vec![0, 0xab, 0, 8 + 76 + 72, 2, 1, 0, 0];
    expected.extend([0, 6, 0, 36 + 26 + 6 + 5, 0, 0, 0x06, 0, 0, 1, 4, 1, 0, 80, 0x1f, 0x90]);
    expected.extend([0x11, 0x22, 0x33, 0x44, 0, 0, 3, 0x84]);
    expected.extend([198, 18, 0, 1, 192, 0, 2, 100, 10, 0, 0, 11]);
    expected.extend([1, 24, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    expected.extend([0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3]);
    expected.extend(b"\x02\x04call\x03\x03sip");
    // The next begins at a multiple of four; what pads is not of its size.
    expected.extend([0, 0, 0]);
    expected.extend([1, 6, 0, 72, 0, 0, 0, 0, 0, 1, 4, 1, 0, 80, 0x1f, 0x90]);
    expected.extend([0, 0, 0, 0, 0, 0, 3, 0x84]);
    for end in [v6().client, v6().vip, v6().server] {
        let IpAddr::V6(address) = end.ip() else { panic!("{end}") };
        expected.extend(address.octets());
    }
    assert_eq!(message, expected);
    assert_eq!(entries(&message), [all, v6()]);
}

/// A message of one entry, `v4()`, and of what is behind it as part of the entry.
fn with_options(options: &[u8]) -> Vec<u8> {
    let mut message = written(1, &[v4()], &mut [0; 64]);
    message.extend(options);
    set_entry_size(&mut message, ENTRY_V4 + options.len());
    set_size(&mut message);
    message
}

fn set_size(message: &mut [u8]) {
    let size = u16::try_from(message.len()).unwrap();
    message[2..4].copy_from_slice(&size.to_be_bytes());
}

fn set_entry_size(message: &mut [u8], size: usize) {
    message[10..12].copy_from_slice(&u16::try_from(size).unwrap().to_be_bytes());
}

fn only(message: &[u8]) -> Result<Entry<'_>, Wrong> {
    let mut entries = Message::parse(message).unwrap().entries();
    let only = entries.next().unwrap();
    assert!(entries.next().is_none() && entries.next().is_none());
    only
}

#[test]
fn what_is_no_message_is_refused_by_name() {
    let right = written(1, &[v4()], &mut [0; 64]);
    let changed = |place: usize, to: u8| {
        let mut message = right.clone();
        message[place] = to;
        Message::parse(&message).map(|message| message.count)
    };
    assert_eq!(changed(1, 9), Ok(1));
    // The number of entries of version 0.
    assert_eq!(changed(0, 2), Err(Wrong::OldVersion { sync_id: 1 }));
    assert_eq!(changed(5, 2), Err(Wrong::Version(2)));
    assert_eq!(changed(7, 2), Err(Wrong::Reserved(2)));
    assert_eq!(changed(3, 43), Err(Wrong::Size { says: 43, is: 44 }));
    assert_eq!(changed(3, 45), Err(Wrong::Size { says: 45, is: 44 }));
    let parsed = |octets: &[u8]| Message::parse(octets).map(|_| ());
    assert_eq!(parsed(&[]), Err(Wrong::Truncated));
    assert_eq!(parsed(&[0, 7, 0]), Err(Wrong::Truncated));
    assert_eq!(parsed(&[0, 7, 0, 4]), Err(Wrong::Truncated));
    assert_eq!(parsed(&[0, 7, 0, 7, 0, 1, 0]), Err(Wrong::Truncated));
    assert_eq!(parsed(&[0, 7, 0, 8, 0, 1, 0, 0]), Ok(()));
    // Version 0 with one entry of 24 octets.
    let mut old = [0; 28];
    old[..4].copy_from_slice(&[1, SYNC_ID, 0, 28]);
    assert_eq!(parsed(&old), Err(Wrong::OldVersion { sync_id: SYNC_ID }));
    assert_eq!(parsed(&old[..27]), Err(Wrong::Size { says: 28, is: 27 }));
}

#[test]
fn what_is_no_entry_is_refused_by_name() {
    let changed = |place: usize, to: u8| {
        let mut message = written(1, &[v4()], &mut [0; 64]);
        message[place] = to;
        only(&message).map(|entry| entry.client)
    };
    assert_eq!(changed(10, 0x10), Err(Wrong::EntryVersion(1)));
    assert_eq!(changed(8, 2), Err(Wrong::EntryKind(2)));
    assert_eq!(changed(8, 1), Err(Wrong::EntrySize(36)));
    for size in 0..36 {
        assert_eq!(changed(11, size), Err(Wrong::EntrySize(size.into())));
    }
    assert_eq!(changed(11, 37), Err(Wrong::EntryCutOff));
    assert_eq!(changed(10, 0x0f), Err(Wrong::EntryCutOff));
    let mut two = written(1, &[v4()], &mut [0; 64]);
    two[4] = 2;
    let both: Vec<_> = Message::parse(&two).unwrap().entries().collect();
    assert_eq!(both, [Ok(v4()), Err(Wrong::EntryCutOff)]);
}

#[test]
fn what_is_no_option_is_refused_by_name() {
    let read = |options: &[u8]| only(&with_options(options)).map(|entry| entry.client);
    let fine = Ok(v4().client);
    let sequences = [&[1, 24][..], &[0; 24]].concat();
    assert_eq!(read(&[]), fine);
    assert_eq!(read(&sequences), fine);
    // What may be passed over, known or not.
    assert_eq!(read(&[0x40 | 9, 1, 0xff, 0x40 | 2, 1, 0]), fine);
    let marked = [&[0x41, 24][..], &[0; 24]].concat();
    assert!(only(&with_options(&marked)).unwrap().sequences.is_some());
    assert_eq!(read(&[9, 1, 0xff]), Err(Wrong::Option(9)));
    assert_eq!(read(&[2]), Err(Wrong::OptionSize(2)));
    assert_eq!(read(&[2, 0]), Err(Wrong::OptionSize(2)));
    assert_eq!(read(&[2, 0, 2, 1, 0]), Err(Wrong::OptionSize(2)));
    assert_eq!(read(&[2, 2, 0]), Err(Wrong::OptionSize(2)));
    assert_eq!(read(&[0x40 | 9, 255]), Err(Wrong::OptionSize(0x49)));
    assert_eq!(read(&[&[1, 23][..], &[0; 23]].concat()), Err(Wrong::OptionSize(1)));
    assert_eq!(read(&[&[1, 25][..], &[0; 25]].concat()), Err(Wrong::OptionSize(1)));
    assert_eq!(read(&[&[3, 17][..], &[0; 17]].concat()), Err(Wrong::OptionSize(3)));
    assert_eq!(read(&[&[3, 16][..], &[0; 16]].concat()), fine);
    assert_eq!(read(&[&[2, 255][..], &[0; 255]].concat()), fine);
    assert_eq!(read(&[2, 1, 0, 2, 1, 0]), Err(Wrong::OptionTwice(2)));
    assert_eq!(read(&[3, 1, 0, 0x43, 1, 0]), Err(Wrong::OptionTwice(0x43)));
    assert_eq!(read(&sequences.repeat(2)), Err(Wrong::OptionTwice(1)));
}

#[test]
fn an_option_that_is_not_known_concerns_its_entry_alone() {
    let mut buffer = [0; 256];
    let odd = Entry { engine_data: b"any", ..v4() };
    let mut message = written(1, &[v4(), odd, v6()], &mut buffer);
    let option = HEADER + ENTRY_V4 * 2;
    assert_eq!(message[option], 2);
    message[option] = 5;
    let read: Vec<_> = Message::parse(&message).unwrap().entries().collect();
    assert_eq!(read, [Ok(v4()), Err(Wrong::Option(5)), Ok(v6())]);
    // After another mistake there is nothing more.
    message[option + 1] = 0;
    let read: Vec<_> = Message::parse(&message).unwrap().entries().collect();
    assert_eq!(read, [Ok(v4()), Err(Wrong::OptionSize(5))]);
}

#[test]
fn octets_behind_the_last_entry_are_passed_over() {
    let mut message = written(1, &[v4()], &mut [0; 64]);
    message.extend([0xff; 5]);
    set_size(&mut message);
    assert_eq!(entries(&message), [v4()]);
}

#[test]
fn what_does_not_fit_changes_nothing() {
    let mut buffer = [0xff; HEADER + ENTRY_V4 + ENTRY_V6 - 1];
    let mut writer = Writer::new(1, &mut buffer);
    assert!(writer.is_empty());
    writer.push(&v4()).unwrap();
    assert_eq!(writer.push(&v6()), Err(Unfit::Full));
    assert_eq!(writer.push(&Entry { vip: v6().vip, ..v4() }), Err(Unfit::Families));
    assert_eq!(writer.push(&Entry { client: v4().client, ..v6() }), Err(Unfit::Families));
    let too_long = [0; ENGINE_DATA + 1];
    assert_eq!(writer.push(&Entry { engine_data: &too_long, ..v4() }), Err(Unfit::Engine));
    let too_long = [0; ENGINE_NAME + 1];
    assert_eq!(writer.push(&Entry { engine_name: &too_long, ..v4() }), Err(Unfit::Engine));
    assert_eq!(writer.count(), 1);
    // There is still room for a shorter one.
    writer.push(&v4()).unwrap();
    assert_eq!(entries(writer.finish()), [v4(), v4()]);
    assert!(buffer[HEADER + ENTRY_V4 * 2..].iter().all(|octet| *octet == 0xff));
}

#[test]
fn a_message_has_an_end() {
    let mut buffer = vec![0; 100_000];
    let mut writer = Writer::new(1, &mut buffer);
    for _ in 0..ENTRIES {
        writer.push(&v6()).unwrap();
    }
    assert_eq!(writer.push(&v6()), Err(Unfit::Full));
    assert_eq!(entries(writer.finish()), vec![v6(); ENTRIES]);

    let longest = Entry {
        sequences: Some([Shift::default(); 2]),
        engine_data: &[1; ENGINE_DATA],
        engine_name: &[2; ENGINE_NAME],
        extension: Some(Extension::default()),
        idle: 1,
        ..v6()
    };
    let mut writer = Writer::new(1, &mut buffer);
    let mut count = 0;
    while writer.push(&longest).is_ok() {
        count += 1;
    }
    let padded = LONGEST_ENTRY.next_multiple_of(4);
    let room = usize::from(u16::MAX) - HEADER;
    assert_eq!(count, (room / padded + usize::from(room % padded >= LONGEST_ENTRY)));
    assert_eq!(entries(writer.finish()), vec![longest; count]);
}

#[test]
fn a_buffer_without_room_for_a_header_stays_as_it_is() {
    for length in 0..HEADER {
        let mut buffer = [0xff; HEADER];
        let mut writer = Writer::new(1, &mut buffer[..length]);
        assert_eq!(writer.push(&v4()), Err(Unfit::Full));
        assert!(writer.finish().is_empty());
        assert_eq!(buffer, [0xff; HEADER]);
    }
    assert_eq!(Writer::new(7, &mut [0xff; HEADER]).finish(), [0, 7, 0, 8, 0, 1, 0, 0]);
}

#[test]
fn a_recorded_message_that_is_cut_is_refused_or_has_fewer_entries() {
    for message in messages() {
        let all = entries(&message);
        for length in 0..message.len() {
            let mut cut = message[..length].to_vec();
            assert!(Message::parse(&cut).is_err());
            if length < HEADER {
                continue;
            }
            // Even if it says that it is whole.
            set_size(&mut cut);
            let read: Vec<_> = Message::parse(&cut).unwrap().entries().collect();
            let (last, first) = read.split_last().unwrap();
            assert_eq!(last, &Err(Wrong::EntryCutOff));
            assert!(first.iter().copied().eq(all[..first.len()].iter().copied().map(Ok)));
        }
    }
}

/// What is read of any octets: no more entries than the header says, all of them at different
/// places, and after a mistake nothing.
fn read(octets: &[u8]) -> Vec<Result<Entry<'_>, Wrong>> {
    let Ok(message) = Message::parse(octets) else { return Vec::new() };
    let entries: Vec<_> = message.entries().collect();
    assert_eq!(message.count, octets[4]);
    assert!(entries.len() <= usize::from(message.count));
    assert!(entries.iter().flatten().count() <= octets.len() / ENTRY_V4);
    let spoils = |entry: &Result<_, _>| !matches!(entry, Ok(_) | Err(Wrong::Option(_)));
    if let Some((last, before)) = entries.split_last() {
        assert!(!before.iter().any(spoils));
        assert!(spoils(last) || entries.len() == usize::from(message.count));
    }
    entries
}

/// Owned, for the octets of an entry are borrowed.
#[derive(Clone, Debug)]
struct Owned {
    entry: Entry<'static>,
    engine_data: Vec<u8>,
    engine_name: Vec<u8>,
}

impl Owned {
    fn entry(&self) -> Entry<'_> {
        Entry { engine_data: &self.engine_data, engine_name: &self.engine_name, ..self.entry }
    }
}

fn ends() -> impl Strategy<Value = [SocketAddr; 3]> {
    fn of<A: Into<IpAddr>>(ends: [(A, u16); 3]) -> [SocketAddr; 3] {
        ends.map(|(address, port)| SocketAddr::new(address.into(), port))
    }
    prop_oneof![
        any::<[([u8; 4], u16); 3]>().prop_map(of),
        any::<[([u8; 16], u16); 3]>().prop_map(of),
    ]
}

fn shifts() -> impl Strategy<Value = Option<[Shift; 2]>> {
    any::<Option<[[u32; 3]; 2]>>().prop_map(|shifts| {
        Some(shifts?.map(|[after, delta, before]| Shift { after, delta, before }))
    })
}

prop_compose! {
    fn any_entry()(
        [client, vip, server] in ends(),
        (protocol, flags, state) in any::<(u8, u32, u16)>(),
        (fwmark, timeout, idle) in any::<(u32, u32, u32)>(),
        sequences in shifts(),
        engine_data in prop_oneof![Just(Vec::new()), vec(any::<u8>(), 0..=ENGINE_DATA)],
        engine_name in vec(any::<u8>(), 0..=ENGINE_NAME),
    ) -> Owned {
        let entry = Entry {
            protocol, flags, state, client, vip, server, fwmark, timeout, idle, sequences, ..v4()
        };
        Owned { entry, engine_data, engine_name }
    }
}

/// So many cases; what fails is made a test of its own, not a file.
fn quiet(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(quiet(1000))]

    #[test]
    fn what_is_written_is_read_again(
        sync_id: u8,
        owned in vec(any_entry(), 0..12),
        length in HEADER..4096,
    ) {
        let mut buffer = vec![0xff; length];
        let mut writer = Writer::new(sync_id, &mut buffer);
        let mut kept = Vec::new();
        for owned in &owned {
            match writer.push(&owned.entry()) {
                Ok(()) => kept.push(owned.entry()),
                Err(unfit) => prop_assert_eq!(unfit, Unfit::Full),
            }
        }
        let octets = writer.finish();
        let message = Message::parse(octets).unwrap();
        prop_assert_eq!(message.sync_id, sync_id);
        prop_assert_eq!(usize::from(message.count), kept.len());
        prop_assert_eq!(entries(octets), kept.clone());
        prop_assert_eq!(written(sync_id, &kept, &mut vec![0; length]), octets);
    }

    #[test]
    fn any_octets_are_read_without_harm(octets in vec(any::<u8>(), 0..600)) {
        read(&octets);
    }

    #[test]
    fn any_octets_behind_a_right_header_are_read_without_harm(
        count: u8,
        body in vec(prop_oneof![any::<u8>(), 0u8..=3, Just(36u8), Just(72u8)], 0..600),
    ) {
        let mut octets = vec![0, SYNC_ID, 0, 0, count, 1, 0, 0];
        octets.extend(body);
        set_size(&mut octets);
        read(&octets);
    }

    #[test]
    fn any_options_are_read_without_harm(
        options in vec(prop_oneof![any::<u8>(), 0u8..=3, 0x40u8..=0x43, Just(24u8)], 0..600),
    ) {
        read(&with_options(&options));
    }

    #[test]
    fn a_recorded_message_may_be_spoiled_anywhere(
        which: Index,
        places in vec((any::<Index>(), any::<u8>()), 1..8),
        length: Option<Index>,
        says_right: bool,
    ) {
        let messages = messages();
        let message = which.get(&messages);
        let mut spoiled = message.clone();
        for (place, to) in &places {
            *place.get_mut(&mut spoiled) = *to;
        }
        if let Some(length) = length {
            spoiled.truncate(length.index(spoiled.len()).max(HEADER));
        }
        if says_right {
            spoiled[0] = 0;
            spoiled[5..HEADER].copy_from_slice(&[1, 0, 0]);
            set_size(&mut spoiled);
        }
        let read = read(&spoiled);
        // Entries before the first octet that was changed are what they were.
        let first = places.iter().map(|(place, _)| place.index(message.len())).min().unwrap();
        let intact = first.min(spoiled.len()).saturating_sub(HEADER) / ENTRY_V6;
        let original = entries(message);
        for (read, original) in read.iter().zip(&original[..intact.min(original.len())]) {
            prop_assert_eq!(read, &Ok(*original));
        }
    }

    #[test]
    fn sizes_of_entries_decide_where_the_next_begins(
        sizes in vec(prop_oneof![9 => (0u16..40).prop_map(|count| 36 + 3 * count), 1 => 0u16..120], 1..20),
    ) {
        // Entries that say anything of their length, one behind the other.
        let mut octets = vec![0, 1, 0, 0, u8::try_from(sizes.len()).unwrap(), 1, 0, 0];
        for size in &sizes {
            let length = usize::from(*size).max(ENTRY_V4).next_multiple_of(4);
            let start = octets.len();
            octets.resize(start + length, 0x40);
            octets[start] = 0;
            octets[start + 2..start + 4].copy_from_slice(&size.to_be_bytes());
            // Options of one octet that may be passed over.
            for place in octets[start + ENTRY_V4..].iter_mut().skip(1).step_by(3) {
                *place = 1;
            }
        }
        set_size(&mut octets);
        let is_right = |size: &&u16| usize::from(**size) >= ENTRY_V4 && (**size - 36).is_multiple_of(3);
        let right = sizes.iter().take_while(is_right).count();
        let read = read(&octets);
        prop_assert!(read.iter().take(right).all(Result::is_ok));
        prop_assert_eq!(read.len(), sizes.len().min(right + 1));
    }
}

#[test]
fn the_names_of_what_is_wrong_are_for_people() {
    let all = [
        Wrong::Truncated,
        Wrong::Size { says: 44, is: 40 },
        Wrong::OldVersion { sync_id: 7 },
        Wrong::Version(2),
        Wrong::Reserved(2),
        Wrong::EntryCutOff,
        Wrong::EntryVersion(1),
        Wrong::EntryKind(2),
        Wrong::EntrySize(35),
        Wrong::OptionSize(1),
        Wrong::OptionTwice(1),
        Wrong::Option(9),
    ];
    let texts: BTreeSet<_> = all.iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), all.len());
    assert_eq!(Wrong::Size { says: 44, is: 40 }.to_string(), "it has 40 octets and says 44");
}
