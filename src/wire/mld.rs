//! Multicast Listener Discovery: version 2 (RFC 3810) and version 1 (RFC 2710). By it a switch
//! that snoops learns which ports want the frames of a group.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::U16;
use super::address::V6;
use super::ipv4::protocol;

/// `kind` of a query.
pub const QUERY: u8 = 130;
/// `kind` of a report of version 1.
pub const REPORT_V1: u8 = 131;
/// `kind` of version 1's message that a group is left.
pub const DONE: u8 = 132;
/// `kind` of a report of version 2.
pub const REPORT: u8 = 143;

/// Hop limit of every message (RFC 3810 section 5).
pub const HOP_LIMIT: u8 = 1;
/// Where reports of version 2 go (RFC 3810 section 5.2.14).
pub const ROUTERS_V2: V6 = [0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x16];
/// Where version 1 says that a group is left (RFC 2710 section 5).
pub const ROUTERS: V6 = [0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

/// The option that has routers look at a packet that goes elsewhere (RFC 2711).
const ALERT: u8 = 5;
/// Its value for these messages.
const OF_MLD: [u8; 2] = [0, 0];
/// The Hop-by-Hop Options header of every message: the alert, and an option of nothing.
pub const ALERT_HEADER: [u8; 8] = [protocol::ICMPV6, 0, ALERT, 2, OF_MLD[0], OF_MLD[1], 1, 0];

/// A query up to where version 2 goes on, and the whole of version 1's messages.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ListenerMessage {
    /// [`QUERY`], [`REPORT_V1`] or [`DONE`].
    pub kind: u8,
    /// 0.
    pub code: u8,
    /// Checksum with pseudo header.
    pub checksum: [u8; 2],
    /// Of a query: within what time to answer.
    pub max_response: U16,
    /// 0.
    pub reserved: [u8; 2],
    /// The group; that of a general query is zero.
    pub group: V6,
}

/// Octets of a query of version 1, and the least of version 2.
const QUERY_V1: usize = size_of::<ListenerMessage>();
const QUERY_V2: usize = 28;

/// The begin of a report of version 2; its records follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ReportHeader {
    /// [`REPORT`].
    pub kind: u8,
    /// 0.
    pub reserved: u8,
    /// Checksum with pseudo header.
    pub checksum: [u8; 2],
    /// 0.
    pub reserved_too: [u8; 2],
    /// How many records follow.
    pub records: U16,
}

/// What a report says of one group.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Record {
    /// A [`Listening`].
    pub kind: u8,
    /// Words after the sources: 0.
    pub auxiliary: u8,
    /// How many sources follow: 0.
    pub sources: U16,
    /// The group.
    pub group: V6,
}

/// What a listener to a group, whoever sends to it, has to say (RFC 3810 section 5.2.12).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Listening {
    /// It listens (the answer to a query): `MODE_IS_EXCLUDE`, of no source.
    Is = 2,
    /// It does not any more: `CHANGE_TO_INCLUDE`, of no source.
    Ends = 3,
    /// It does from now on: `CHANGE_TO_EXCLUDE`, of no source.
    Begins = 4,
}

/// A query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query {
    /// The group that is asked for; `None`: all.
    pub group: Option<V6>,
    /// Milliseconds within which to answer.
    pub within: u32,
    /// Whether who asks understands version 1 alone.
    pub is_version_1: bool,
}

impl Query {
    /// Reads an ICMPv6 message. `None`: it is none that can be understood (RFC 3810 section 8.1
    /// has it ignored).
    pub fn read(icmp: &[u8]) -> Option<Self> {
        let (message, _) = ListenerMessage::ref_from_prefix(icmp).ok()?;
        let is_version_1 = icmp.len() == QUERY_V1;
        if message.kind != QUERY || !is_version_1 && icmp.len() < QUERY_V2 {
            return None;
        }
        let group = (message.group != V6::default()).then_some(message.group);
        let code = message.max_response.get();
        let within = if is_version_1 { u32::from(code) } else { milliseconds(code) };
        Some(Self { group, within, is_version_1 })
    }
}

/// The time that a code of version 2 stands for (RFC 3810 section 5.1.3).
fn milliseconds(code: u16) -> u32 {
    let code = u32::from(code);
    if code < 0x8000 {
        return code;
    }
    let (exponent, mantissa) = ((code >> 12) & 7, code & 0x0fff);
    (mantissa | 0x1000) << (exponent + 3)
}

/// Whether the options of a Hop-by-Hop header ask routers to look at such a message.
pub fn has_alert(mut options: &[u8]) -> bool {
    while let [kind, rest @ ..] = options {
        // One octet of nothing.
        if *kind == 0 {
            options = rest;
            continue;
        }
        let [length, rest @ ..] = rest else { return false };
        let Some((value, after)) = rest.split_at_checked(usize::from(*length)) else {
            return false;
        };
        if *kind == ALERT {
            return *value == OF_MLD;
        }
        options = after;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_time_has_an_exponent() {
        let read = |code| milliseconds(code);
        assert_eq!([read(0), read(1000), read(0x7fff)], [0, 1000, 32767]);
        // The least and the most that RFC 3810 section 5.1.3 can say by it.
        assert_eq!([read(0x8000), read(0xffff)], [32768, 8_387_584]);
    }

    #[test]
    fn a_query_of_neither_version_is_none() {
        let mut octets = vec![QUERY, 0, 0, 0, 0x03, 0xe8, 0, 0];
        octets.resize(24, 0);
        let general = Query { group: None, within: 1000, is_version_1: true };
        assert_eq!(Query::read(&octets), Some(general));
        for length in [23, 25, 27] {
            octets.resize(length, 0);
            assert_eq!(Query::read(&octets), None, "{length}");
        }
        octets.resize(28, 0);
        assert_eq!(Query::read(&octets), Some(Query { is_version_1: false, ..general }));
        octets[8..24].copy_from_slice(&ROUTERS);
        assert_eq!(Query::read(&octets).and_then(|query| query.group), Some(ROUTERS));
        octets[0] = REPORT;
        assert_eq!(Query::read(&octets), None);
    }

    #[test]
    fn an_alert_is_found_among_options() {
        assert!(has_alert(&ALERT_HEADER[2..]));
        assert!(has_alert(&[0, 0, 5, 2, 0, 0]));
        assert!(has_alert(&[1, 1, 9, 5, 2, 0, 0, 0]));
        // Of RSVP; cut off; behind an option that is.
        for options in [&[5, 2, 0, 1][..], &[5, 2, 0], &[5], &[1, 4, 0, 0, 0], &[]] {
            assert!(!has_alert(options), "{options:?}");
        }
    }
}
