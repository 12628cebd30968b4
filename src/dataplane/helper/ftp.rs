//! The lines of FTP that name the endpoint of a data connection: PORT and PASV (RFC 959 section
//! 4.1.2), EPRT and EPSV (RFC 2428), which IPv6 has alone.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;

use arrayvec::ArrayString;

use crate::wire::flow_key::Direction;

/// The most octets that an endpoint takes in a line: `|2|` and the longest IPv6 address.
const ENDPOINT: usize = 64;

/// An endpoint as it is written in a line.
pub(super) type EndpointText = ArrayString<ENDPOINT>;

/// What a line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// Nothing that concerns us.
    Other,
    /// The client asks the server to listen.
    Ask,
    /// The server listens.
    Passive(Named),
    /// The client listens.
    Active(Named),
    /// From here on the connection is encrypted (RFC 2228, RFC 4217).
    Encrypted,
}

/// The endpoint that a line names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    /// The address; `None`: that of the control connection.
    pub(super) address: Option<IpAddr>,
    pub(super) port: u16,
    /// Where in the line it stands.
    pub(super) at: Range<usize>,
    pub(super) form: Form,
}

/// How an endpoint is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// `h1,h2,h3,h4,p1,p2`
    Numbers,
    /// `|af|address|port|`, with this delimiter.
    Extended(u8),
    /// `|||port|`
    PortOnly(u8),
}

const COMMANDS: [&[u8]; 4] = [b"PORT ", b"EPRT ", b"PASV", b"EPSV"];
const REPLIES: [&[u8]; 4] = [b"227 ", b"229 ", b"234 ", b"235 "];

/// Whether a line that begins so may be one that matters.
pub(super) fn may_matter(from: Direction, beginning: &[u8]) -> bool {
    let words: &[&[u8]] = match from {
        Direction::Inbound => &COMMANDS,
        Direction::Reply => &REPLIES,
    };
    words.iter().any(|word| {
        let length = beginning.len().min(word.len());
        match (beginning.get(..length), word.get(..length)) {
            (Some(octets), Some(word)) => octets.eq_ignore_ascii_case(word),
            _ => false,
        }
    })
}

/// Reads a whole line.
pub(super) fn read(from: Direction, line: &[u8]) -> Message {
    let Some((word, rest)) = line.split_at_checked(5.min(line.len())) else {
        return Message::Other;
    };
    let named = match from {
        Direction::Inbound if word.eq_ignore_ascii_case(b"PORT ") => {
            numbers(rest).map(|named| (named, 5))
        }
        Direction::Inbound if word.eq_ignore_ascii_case(b"EPRT ") => {
            extended(rest).map(|named| (named, 5))
        }
        Direction::Inbound if asks(line) => return Message::Ask,
        Direction::Inbound => None,
        Direction::Reply => {
            let text = line.get(4..).unwrap_or_default();
            match line.get(..4) {
                // Clients look for the first digit (RFC 1123 section 4.1.2.6).
                Some(b"227 ") => (0..text.len()).find_map(|at| Some((numbers_at(text, at)?, 4))),
                Some(b"229 ") => port_only(text).map(|named| (named, 4)),
                Some(b"234 " | b"235 ") => return Message::Encrypted,
                _ => None,
            }
        }
    };
    match named {
        Some((mut named, before)) if named.port != 0 => {
            named.at = named.at.start + before..named.at.end + before;
            if from == Direction::Inbound {
                Message::Active(named)
            } else {
                Message::Passive(named)
            }
        }
        _ => Message::Other,
    }
}

/// Whether a line is answered by 227 or 229. `EPSV ALL` is not (RFC 2428 section 4).
fn asks(line: &[u8]) -> bool {
    let Some((word, rest)) = line.split_first_chunk::<4>() else { return false };
    let argument = rest.trim_ascii();
    rest.first().is_some_and(u8::is_ascii_whitespace)
        && (word.eq_ignore_ascii_case(b"PASV")
            || word.eq_ignore_ascii_case(b"EPSV") && !argument.eq_ignore_ascii_case(b"ALL"))
}

/// A number at the beginning, and what follows it.
fn number<T: TryFrom<u32>>(text: &[u8]) -> Option<(T, &[u8])> {
    let digits = text.iter().take_while(|octet| octet.is_ascii_digit()).count();
    if !(1..=5).contains(&digits) {
        return None;
    }
    let (digits, rest) = text.split_at_checked(digits)?;
    let value = digits.iter().fold(0, |value, digit| value * 10 + u32::from(digit - b'0'));
    Some((T::try_from(value).ok()?, rest))
}

/// `h1,h2,h3,h4,p1,p2` at the beginning.
fn numbers(text: &[u8]) -> Option<Named> {
    let mut rest = text;
    let mut octets = [0; 6];
    for (place, octet) in octets.iter_mut().enumerate() {
        if place > 0 {
            rest = rest.strip_prefix(b",")?;
        }
        (*octet, rest) = number(rest)?;
    }
    let [a, b, c, d, high, low] = octets;
    Some(Named {
        address: Some(Ipv4Addr::new(a, b, c, d).into()),
        port: u16::from_be_bytes([high, low]),
        at: 0..text.len() - rest.len(),
        form: Form::Numbers,
    })
}

/// As [`numbers`], where no number is cut in two.
fn numbers_at(text: &[u8], at: usize) -> Option<Named> {
    let follows_digit = at > 0 && text.get(at - 1).is_some_and(u8::is_ascii_digit);
    if follows_digit {
        return None;
    }
    let mut named = numbers(text.get(at..)?)?;
    named.at = at..named.at.end + at;
    Some(named)
}

/// The next field, which ends with the delimiter.
fn field(text: &[u8], delimiter: u8) -> Option<(&[u8], &[u8])> {
    let end = text.iter().position(|octet| *octet == delimiter)?;
    Some((text.get(..end)?, text.get(end + 1..)?))
}

/// A delimiter of RFC 2428 section 2: any printable character.
fn delimiter(text: &[u8]) -> Option<(u8, &[u8])> {
    let (delimiter, rest) = text.split_first()?;
    (delimiter.is_ascii_graphic() && !delimiter.is_ascii_alphanumeric())
        .then_some((*delimiter, rest))
}

/// `|af|address|port|` at the beginning.
fn extended(text: &[u8]) -> Option<Named> {
    let (delimiter, rest) = delimiter(text)?;
    let (family, rest) = field(rest, delimiter)?;
    let (address, rest) = field(rest, delimiter)?;
    let (port, rest) = number(rest)?;
    let rest = rest.strip_prefix(&[delimiter])?;
    let address = str::from_utf8(address).ok()?;
    let address: IpAddr = match family {
        b"1" => address.parse::<Ipv4Addr>().ok()?.into(),
        b"2" => address.parse::<Ipv6Addr>().ok()?.into(),
        _ => return None,
    };
    let at = 0..text.len() - rest.len();
    Some(Named { address: Some(address), port, at, form: Form::Extended(delimiter) })
}

/// `(|||port|)` somewhere; where the parentheses' contents stand.
fn port_only(text: &[u8]) -> Option<Named> {
    let start = text.iter().position(|octet| *octet == b'(')? + 1;
    let inner = text.get(start..)?;
    let (delimiter, _) = delimiter(inner)?;
    let digits = inner.strip_prefix(&[delimiter; 3])?;
    let (port, rest) = number(digits)?;
    let rest = rest.strip_prefix(&[delimiter])?;
    rest.strip_prefix(b")")?;
    let at = start..text.len() - rest.len();
    Some(Named { address: None, port, at, form: Form::PortOnly(delimiter) })
}

/// Writes an endpoint as a line wants it; `None`: the form has no room for an IPv6 address.
pub(super) fn write(form: Form, endpoint: SocketAddr) -> Option<EndpointText> {
    let mut text = EndpointText::new();
    let (ip, port) = (endpoint.ip(), endpoint.port());
    match (form, ip) {
        (Form::Numbers, IpAddr::V4(v4)) => {
            let [a, b, c, d] = v4.octets();
            let [high, low] = port.to_be_bytes();
            write!(text, "{a},{b},{c},{d},{high},{low}").ok()?;
        }
        (Form::Numbers, IpAddr::V6(_)) => return None,
        (Form::Extended(delimiter), _) => {
            let (d, family) = (char::from(delimiter), if ip.is_ipv4() { 1 } else { 2 });
            write!(text, "{d}{family}{d}{ip}{d}{port}{d}").ok()?;
        }
        (Form::PortOnly(delimiter), _) => {
            let d = char::from(delimiter);
            write!(text, "{d}{d}{d}{port}{d}").ok()?;
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Direction::{Inbound, Reply};

    fn named(from: Direction, line: &str) -> Option<(String, &str)> {
        let (Message::Passive(named) | Message::Active(named)) = read(from, line.as_bytes()) else {
            return None;
        };
        let address = named.address.map_or("-".into(), |address| address.to_string());
        Some((format!("{address} {}", named.port), &line[named.at]))
    }

    #[allow(clippy::unnecessary_wraps, reason = "as `named` returns it")]
    fn some<'t>(endpoint: &str, text: &'t str) -> Option<(String, &'t str)> {
        Some((endpoint.into(), text))
    }

    #[test]
    fn endpoints_are_found_where_they_stand() {
        let passive = "227 Entering Passive Mode (10,0,0,11,200,10).\r\n";
        assert_eq!(named(Reply, passive), some("10.0.0.11 51210", "10,0,0,11,200,10"));
        let bare = "227 Passive 2: 10,0,0,11,0,21\r\n";
        assert_eq!(named(Reply, bare), some("10.0.0.11 21", "10,0,0,11,0,21"));
        let extended = "229 Entering Extended Passive Mode (|||51210|)\r\n";
        assert_eq!(named(Reply, extended), some("- 51210", "|||51210|"));
        let port = "port 198,18,9,9,100,1\r\n";
        assert_eq!(named(Inbound, port), some("198.18.9.9 25601", "198,18,9,9,100,1"));
        let eprt = "EPRT |2|2001:db8::1|6275|\r\n";
        assert_eq!(named(Inbound, eprt), some("2001:db8::1 6275", "|2|2001:db8::1|6275|"));
        let eprt = "eprt !1!132.235.1.2!6275!\n";
        assert_eq!(named(Inbound, eprt), some("132.235.1.2 6275", "!1!132.235.1.2!6275!"));
    }

    #[test]
    fn what_is_no_endpoint_is_left_alone() {
        for line in [
            "227 Entering Passive Mode (10,0,0,256,200,10)\r\n",
            "227 Entering Passive Mode (10,0,0,11,200)\r\n",
            "227 Entering Passive Mode (10,0,0,11,0,0)\r\n",
            "227-Entering Passive Mode (10,0,0,11,200,10)\r\n",
            "229 Entering Extended Passive Mode (|||512100|)\r\n",
            "229 Entering Extended Passive Mode (|||70000|)\r\n",
            "229 Entering Extended Passive Mode (|1|10.0.0.11|51210|)\r\n",
            "229 Entering Extended Passive Mode (|||51210)\r\n",
            "229 (\r\n",
            "227 \n",
            "229 ",
            "227",
            "",
            "PORT 198,18,9,9,100,1\r\n",
        ] {
            assert_eq!(read(Reply, line.as_bytes()), Message::Other, "{line:?}");
        }
        for line in [
            "PORT\r\n",
            "PORT 1,2,3,4,5\r\n",
            "PORT x\r\n",
            "EPRT |3|132.235.1.2|6275|\r\n",
            "EPRT |1|::1|6275|\r\n",
            "EPRT |1|132.235.1.2|6275\r\n",
            "EPRT ||||\r\n",
            "EPSV ALL\r\n",
            "PASVX\r\n",
            "227 Entering Passive Mode (10,0,0,11,200,10)\r\n",
        ] {
            assert_eq!(read(Inbound, line.as_bytes()), Message::Other, "{line:?}");
        }
    }

    #[test]
    fn clients_ask_for_passive_data_connections() {
        for line in ["PASV\r\n", "pasv \r\n", "EPSV\n", "epsv 2\r\n"] {
            assert_eq!(read(Inbound, line.as_bytes()), Message::Ask, "{line:?}");
            assert_eq!(read(Reply, line.as_bytes()), Message::Other, "{line:?}");
        }
    }

    #[test]
    fn a_line_may_matter_while_it_can_still_become_one_that_does() {
        for beginning in ["", "p", "Po", "PORT", "PORT ", "PORT 1", "e", "EPRT |", "pa", "EPSV"] {
            assert!(may_matter(Inbound, beginning.as_bytes()), "{beginning:?}");
        }
        for beginning in ["PASS", "USER", "EPSX", "2", "PORTX", "\r"] {
            assert!(!may_matter(Inbound, beginning.as_bytes()), "{beginning:?}");
        }
        for beginning in ["2", "22", "227", "229 ", "227 En"] {
            assert!(may_matter(Reply, beginning.as_bytes()), "{beginning:?}");
        }
        for beginning in ["220", "227-", "1", "P"] {
            assert!(!may_matter(Reply, beginning.as_bytes()), "{beginning:?}");
        }
    }

    #[test]
    fn endpoints_are_written_as_they_are_read() {
        let write = |form, endpoint: &str| write(form, endpoint.parse().unwrap());
        let text = |form, endpoint| write(form, endpoint).unwrap().to_string();
        assert_eq!(text(Form::Numbers, "192.0.2.100:51210"), "192,0,2,100,200,10");
        assert_eq!(text(Form::Extended(b'|'), "192.0.2.1:6"), "|1|192.0.2.1|6|");
        assert_eq!(text(Form::Extended(b'!'), "[2001:db8::1]:21"), "!2!2001:db8::1!21!");
        assert_eq!(text(Form::PortOnly(b'|'), "[2001:db8::1]:21"), "|||21|");
        assert_eq!(write(Form::Numbers, "[2001:db8::1]:21"), None);
        let longest = "[1111:2222:3333:4444:5555:6666:7777:8888]:65535";
        assert!(text(Form::Extended(b'|'), longest).len() <= super::super::stream::GROWTH);
    }

    proptest::proptest! {
        #[test]
        fn any_octets_can_be_read(line in proptest::collection::vec(0_u8..128, 0..80), start in 0_usize..8) {
            let words = ["", "227 ", "229 (", "229 (|||", "PORT ", "EPRT ", "EPRT |1|", "227 (1,"];
            let mut octets = words[start].as_bytes().to_vec();
            octets.extend(line);
            for from in [Inbound, Reply] {
                if let Message::Passive(named) | Message::Active(named) = read(from, &octets) {
                    let text = write(named.form, SocketAddr::new(named.address.unwrap_or([0; 4].into()), named.port));
                    proptest::prop_assert!(octets.get(named.at).is_some() && text.is_some());
                }
            }
        }
    }
}
