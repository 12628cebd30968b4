//! Multicast Listener Discovery on the wire. The frames are what a Linux kernel sends: as a bridge
//! that asks, and as a host with the same Ethernet address that listens to the same groups.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use pointsman::dataplane::mailbox::{Command, Event, ListenerReport};
use pointsman::dataplane::stats::DropReason;
use pointsman::wire::mld::{Listening, Query};
use support::director::{IN, OUT, PAIR, Setup, TestDirector};
use support::packet::INSIDE;

/// A bridge asks for all groups, by version 2 and by version 1, within a second.
const QUERY: &str = "33330000000102000000009986dd6000000000240001\
    fe80000000000000000000fffe000099ff020000000000000000000000000001\
    3a0005020000000082007a2603e8000000000000000000000000000000000000027d0000";
const QUERY_V1: &str = "33330000000102000000009986dd6000000000200001\
    fe80000000000000000000fffe000099ff020000000000000000000000000001\
    3a0005020000000082007ca703e8000000000000000000000000000000000000";
/// A host says that it listens to two groups, listens to them from now on, leaves the first.
const IS: &str = "33330000001602000000000186dd6000000000380001\
    fe80000000000000000000fffe000001ff020000000000000000000000000016\
    3a000502000001008f0072ed00000002\
    02000000ff0200000000000000000001ff00010002000000ff0200000000000000000001ff000001";
const BEGINS: &str = "33330000001602000000000186dd6000000000380001\
    fe80000000000000000000fffe000001ff020000000000000000000000000016\
    3a000502000001008f006eed00000002\
    04000000ff0200000000000000000001ff00010004000000ff0200000000000000000001ff000001";
const ENDS: &str = "33330000001602000000000186dd6000000000240001\
    fe80000000000000000000fffe000001ff020000000000000000000000000016\
    3a000502000001008f0072080000000103000000ff0200000000000000000001ff000100";
/// The same by version 1.
const IS_V1: &str = "3333ff00010002000000000186dd6000000000200001\
    fe80000000000000000000fffe000001ff0200000000000000000001ff000100\
    3a000502000001008300812100000000ff0200000000000000000001ff000100";
const ENDS_V1: &str = "33330000000202000000000186dd6000000000200001\
    fe80000000000000000000fffe000001ff020000000000000000000000000002\
    3a000502000001008400802100000000ff0200000000000000000001ff000100";

/// Of the address that ends with 100, and of the host's own.
const GROUPS: [[u8; 16]; 2] = [
    [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 1, 0],
    [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 1],
];

fn frame(hex: &str) -> Vec<u8> {
    let octet = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(octet).collect()
}

/// One whose outside interface has the Ethernet address of the host that was recorded.
fn director() -> TestDirector {
    started(Setup::with_services(""))
}

fn started(mut setup: Setup) -> TestDirector {
    setup.macs = vec![[2, 0, 0, 0, 0, 1], INSIDE];
    setup.start()
}

fn asked(director: &mut TestDirector) -> Vec<Query> {
    let query = |event: Event| {
        let Event::ListenersQueried { interface: OUT, query } = event else { panic!("{event:?}") };
        query
    };
    director.events.drain(..).map(query).collect()
}

#[test]
fn the_control_side_hears_of_a_query_from_the_active_and_the_standby_director() {
    for is_active in [true, false] {
        let mut director = started(Setup::with_services(PAIR));
        director.stand(is_active);
        for (text, is_version_1) in [(QUERY, false), (QUERY_V1, true)] {
            director.receive(OUT, &frame(text));
            let query = Query { group: None, within: 1000, is_version_1 };
            assert_eq!(asked(&mut director), [query]);
        }
        assert_eq!(director.consumed(), 2);
        assert!(director.take_sent().is_empty(), "the control side has it answered");
        director.check_books();
    }
}

#[test]
fn a_query_that_may_have_come_from_afar_is_dropped() {
    let mut director = director();
    // The hop limit, the source, the option, the checksum.
    for (at, value) in [(21, 2), (22, 0x20), (56, 7), (65, 0)] {
        let mut query = frame(QUERY);
        assert_ne!(query[at], value);
        query[at] = value;
        director.receive(OUT, &query);
    }
    // Without options, and cut off after them.
    let mut bare = frame(QUERY);
    (bare[19], bare[20]) = (28, 58);
    bare.drain(54..62);
    director.receive(OUT, &bare);
    let mut short = frame(QUERY);
    short[19] = 8 + 4;
    short.truncate(54 + 8 + 4);
    director.receive(OUT, &short);
    assert_eq!(director.dropped(DropReason::BadNeighborMessage), 5, "{:?}", director.drops());
    assert_eq!(director.dropped(DropReason::Malformed), 1);
    assert!(director.events.is_empty(), "{:?}", director.events);
    director.check_books();
}

#[test]
fn reports_of_other_listeners_are_none_of_our_business() {
    let mut director = director();
    for text in [IS, IS_V1, ENDS_V1] {
        director.receive(IN, &frame(text));
    }
    assert_eq!(director.dropped(DropReason::NotForUs), 3, "{:?}", director.drops());
    assert!(director.events.is_empty());
}

#[test]
fn a_report_is_that_of_a_linux_host() {
    let mut director = director();
    let [first, _] = GROUPS;
    let cases = [
        (IS, Listening::Is, false, &GROUPS[..]),
        (BEGINS, Listening::Begins, false, &GROUPS),
        (ENDS, Listening::Ends, false, &[first]),
        (IS_V1, Listening::Is, true, &[first]),
        (IS_V1, Listening::Begins, true, &[first]),
        (ENDS_V1, Listening::Ends, true, &[first]),
    ];
    for (expected, listening, is_version_1, groups) in cases {
        let groups = groups.iter().copied().collect();
        let report = ListenerReport { listening, is_version_1, groups };
        let command = || Command::ReportListeners { interface: OUT, report: report.clone() };
        director.command_all(command);
        let sent = director.sent_one();
        assert_eq!((sent.interface, sent.octets), (OUT, frame(expected)), "{report:?}");
    }
    director.outlet(0).has_buffers = false;
    let groups = GROUPS.into_iter().collect();
    let report = ListenerReport { listening: Listening::Is, is_version_1: false, groups };
    director.command_all(|| Command::ReportListeners { interface: OUT, report: report.clone() });
    assert!(director.take_sent().is_empty());
    assert_eq!(director.stats(0).no_buffer.get(), 1);
    director.check_books();
}
