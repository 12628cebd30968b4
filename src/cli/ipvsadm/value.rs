//! Values of options, as the C library and ipvsadm read them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

use super::names::Names;
use crate::service::Protocol;

/// isspace(3)
const BLANKS: [char; 6] = [' ', '\t', '\n', '\u{b}', '\u{c}', '\r'];

/// A decimal number within a range; `None`: it is none. Blanks before it and a sign are taken,
/// as strtol(3) takes them.
pub(super) fn number(text: &str, range: RangeInclusive<u32>) -> Option<u32> {
    let number: u32 = text.trim_start_matches(BLANKS).parse().ok()?;
    range.contains(&number).then_some(number)
}

/// The number at the start of a text, 0 where there is none, as atoi(3).
pub(super) fn leading_number(text: &str) -> u32 {
    let text = text.trim_start_matches(BLANKS);
    let text = text.strip_prefix('+').unwrap_or(text);
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.get(..end).and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// An IPv4 address in any form of `inet_aton(3)`: one to four numbers, decimal, octal (`0…`) or
/// hexadecimal (`0x…`), the last of which fills what is left.
pub(super) fn ipv4(text: &str) -> Option<Ipv4Addr> {
    // Whatever follows a blank is not looked at.
    let text = text.split(BLANKS).next()?;
    let parts: Vec<u32> = text.split('.').map(any_base).collect::<Option<_>>()?;
    let (last, first) = parts.split_last()?;
    if first.len() > 3 || first.iter().any(|part| *part > 255) {
        return None;
    }
    let bits = 8 * (4 - first.len());
    if bits < 32 && *last >> bits != 0 {
        return None;
    }
    let above = first.iter().enumerate().map(|(place, part)| part << (24 - 8 * place));
    Some(Ipv4Addr::from(above.fold(*last, |all, part| all | part)))
}

fn any_base(text: &str) -> Option<u32> {
    let hexadecimal = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let (digits, radix) = match hexadecimal {
        Some(digits) => (digits, 16),
        None if text.len() > 1 && text.starts_with('0') => (text, 8),
        None => (text, 10),
    };
    // No sign, which from_str_radix would take.
    let plain = digits.chars().all(|c| c.is_ascii_hexdigit());
    if plain { u32::from_str_radix(digits, radix).ok() } else { None }
}

/// An address and perhaps a port: `10.0.0.1`, `10.0.0.1:80`, `host:http`, `::1`, `[::1]:80`.
/// `None`: it is none. Names of ports are those of `protocol`.
pub(super) fn endpoint(
    text: &str,
    protocol: Option<Protocol>,
    names: &dyn Names,
) -> Option<(IpAddr, Option<u16>)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']')?;
            (host, Some(after.strip_prefix(':')?))
        }
        None => (text, None),
    };
    let (address, port) = if let Ok(v6) = host.parse::<Ipv6Addr>() {
        (IpAddr::V6(v6), port)
    } else {
        // The brackets of an IPv4 address take its port away, as with ipvsadm.
        let (host, port) = match host.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (host, None),
        };
        let named = || if host.is_empty() { None } else { names.host(host) };
        (IpAddr::V4(ipv4(host).or_else(named)?), port)
    };
    let port = port.map(|port| self::port(port, protocol, names));
    match port {
        Some(None) => None,
        Some(port) => Some((address, port)),
        None => Some((address, None)),
    }
}

fn port(text: &str, protocol: Option<Protocol>, names: &dyn Names) -> Option<u16> {
    let number = number(text, 0..=u16::MAX.into()).and_then(|number| u16::try_from(number).ok());
    number.or_else(|| names.port(text, protocol?))
}

/// An address with its port; without one it has `default`.
pub(super) fn with_port((address, port): (IpAddr, Option<u16>), default: u16) -> SocketAddr {
    SocketAddr::new(address, port.unwrap_or(default))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::ipvsadm::tests::Lab;

    fn read(text: &str) -> Option<String> {
        let (address, port) = endpoint(text, Some(Protocol::Tcp), &Lab)?;
        Some(format!("{address} {port:?}"))
    }

    #[test]
    fn numbers_are_decimal_and_whole() {
        for (text, expected) in [
            ("5", Some(5)),
            ("+5", Some(5)),
            (" 5", Some(5)),
            ("070", Some(70)),
            ("65535", Some(65535)),
            ("65536", None),
            ("-5", None),
            ("5 ", None),
            ("0x5", None),
            ("1.5", None),
            ("", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(number(text, 0..=65535), expected, "{text:?}");
        }
        assert_eq!(number("0", 1..=9), None);
    }

    #[test]
    fn ipv4_addresses_have_all_forms_of_inet_aton() {
        for (text, expected) in [
            ("10.0.0.1", Some("10.0.0.1")),
            ("1", Some("0.0.0.1")),
            ("1.1", Some("1.0.0.1")),
            ("1.2.3", Some("1.2.0.3")),
            ("0x1.1.1.010", Some("1.1.1.8")),
            ("1.1.1.1 ", Some("1.1.1.1")),
            ("4294967295", Some("255.255.255.255")),
            ("4294967296", None),
            ("1.1.1.256", None),
            ("1.1.1.1.1", None),
            ("1.1.1.1.", None),
            ("1.16777216", None),
            (" 1.1.1.1", None),
            ("+1.1.1.1", None),
            ("08.1.1.1", None),
            ("", None),
        ] {
            assert_eq!(ipv4(text).map(|ip| ip.to_string()).as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn endpoints_are_read_as_ipvsadm_reads_them() {
        for (text, expected) in [
            ("1.1.1.1", Some("1.1.1.1 None")),
            ("1.1.1.1:80", Some("1.1.1.1 Some(80)")),
            ("1.1.1.1: 80", Some("1.1.1.1 Some(80)")),
            ("1.1.1.1:http", Some("1.1.1.1 Some(80)")),
            ("web1.lan:www", Some("10.0.0.11 Some(80)")),
            ("1.1.1.1:domain", None),
            ("1.1.1.1:", None),
            ("1.1.1.1:65536", None),
            ("1.1.1.1:80:90", None),
            (":80", None),
            ("nobody:80", None),
            ("::1", Some("::1 None")),
            ("2001:db8::1:80", Some("2001:db8::1:80 None")),
            ("[::1]:80", Some("::1 Some(80)")),
            ("[::1]:http", Some("::1 Some(80)")),
            ("[::1]", None),
            ("[::1", None),
            ("[::1]x:80", None),
            ("[1.1.1.1]:80", Some("1.1.1.1 None")),
        ] {
            assert_eq!(read(text).as_deref(), expected, "{text:?}");
        }
    }
}
