//! Reads single values: numbers within a range, durations, sizes, addresses, words.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use ipnet::IpNet;
use toml::de::DeValue;

use super::model::MacAddress;
use super::reader::{Wrong, likeliest};
use crate::service::{Listen, PortRange};
use crate::wire::toeplitz::{KEY_OCTETS, is_periodic};

type Read<T> = Result<T, Wrong>;

fn unexpected(value: &DeValue<'_>, expected: &str) -> Wrong {
    Wrong::new(format!("expected {expected}, found {}", kind(value)))
}

/// What a value is, with its article.
pub(super) fn kind(value: &DeValue<'_>) -> String {
    let kind = value.type_str();
    let article = if kind.starts_with(['a', 'i']) { "an" } else { "a" };
    format!("{article} {kind}")
}

/// As [`unexpected`], for what is right but for its quotes.
fn unquoted<T: FromStr>(value: &DeValue<'_>, expected: &str) -> Wrong {
    let wrong = unexpected(value, expected);
    match value.as_str() {
        Some(text) if text.parse::<T>().is_ok() => wrong.help("write it without quotes"),
        Some(_) | None => wrong,
    }
}

pub(super) fn boolean(value: &DeValue<'_>) -> Read<bool> {
    value.as_bool().ok_or_else(|| unquoted::<bool>(value, "true or false"))
}

pub(super) fn string(value: &DeValue<'_>) -> Read<String> {
    text(value, "a string in quotes").map(Into::into)
}

fn text<'a>(value: &'a DeValue<'_>, expected: &str) -> Read<&'a str> {
    value.as_str().ok_or_else(|| unexpected(value, expected))
}

pub(super) fn integer<T: TryFrom<i64>>(
    range: RangeInclusive<i64>,
) -> impl Fn(&DeValue<'_>) -> Read<T> {
    move |value| {
        let expected = format!("an integer from {} to {}", range.start(), range.end());
        let Some(integer) = value.as_integer() else {
            return Err(unquoted::<i64>(value, &expected));
        };
        let number = i64::from_str_radix(integer.as_str(), integer.radix()).ok();
        number
            .filter(|number| range.contains(number))
            .and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| Wrong::new(format!("{integer} is out of range: expected {expected}")))
    }
}

/// One of several words.
pub(super) fn word<T: Copy>(words: &[(&str, T)]) -> impl Fn(&DeValue<'_>) -> Read<T> {
    move |value| {
        let names: Vec<_> = words.iter().map(|(name, _)| *name).collect();
        let expected = format!("one of \"{}\"", names.join("\", \""));
        let found = text(value, &expected)?;
        let known = words.iter().find(|(name, _)| *name == found);
        known.map(|(_, meaning)| *meaning).ok_or_else(|| {
            let wrong = Wrong::new(format!("{found:?} is unknown: expected {expected}"));
            match likeliest(found, &names) {
                Some(name) => wrong.help(format!("did you mean \"{name}\"?")),
                None => wrong,
            }
        })
    }
}

/// Anything that knows how to read itself and to say what is wrong.
pub(super) fn parsed<T: FromStr<Err = String>>(
    expected: &'static str,
) -> impl Fn(&DeValue<'_>) -> Read<T> {
    move |value| text(value, expected)?.parse().map_err(Wrong::new)
}

pub(super) fn duration(range: RangeInclusive<Duration>) -> impl Fn(&DeValue<'_>) -> Read<Duration> {
    move |value| {
        let expected = "a duration with its unit, such as \"90s\", \"15m\" or \"2h\"";
        let found = text(value, expected).map_err(|wrong| match value.as_integer() {
            Some(number) => wrong.help(format!("if seconds are meant, write \"{number}s\"")),
            None => wrong,
        })?;
        let duration = humantime::parse_duration(found)
            .map_err(|_| Wrong::new(format!("{found:?} is not {expected}")))?;
        if range.contains(&duration) {
            return Ok(duration);
        }
        let [least, most] =
            [range.start(), range.end()].map(|end| humantime::format_duration(*end));
        Err(Wrong::new(format!("{found:?} is out of range: expected {least} to {most}")))
    }
}

/// Octets, rounded up to MiB.
pub(super) fn mebibytes(range: RangeInclusive<u64>) -> impl Fn(&DeValue<'_>) -> Read<u32> {
    move |value| {
        let expected = "a size with its unit, such as \"512MiB\" or \"2GiB\"";
        let found = text(value, expected).map_err(|wrong| match value.as_integer() {
            Some(number) => wrong.help(format!("if MiB are meant, write \"{number}MiB\"")),
            None => wrong,
        })?;
        if found.trim().parse::<u64>().is_ok() {
            let wrong = Wrong::new(format!("{found:?} has no unit: expected {expected}"));
            return Err(wrong.help(format!("if MiB are meant, write \"{}MiB\"", found.trim())));
        }
        let size: ByteSize =
            found.parse().map_err(|_| Wrong::new(format!("{found:?} is not {expected}")))?;
        let mebibytes = size.0.div_ceil(1 << 20);
        u32::try_from(mebibytes).ok().filter(|_| range.contains(&mebibytes)).ok_or_else(|| {
            let (least, most) = (range.start(), range.end());
            Wrong::new(format!("{found:?} is out of range: expected {least}MiB to {most}MiB"))
        })
    }
}

/// A name that can be a label of metrics.
pub(super) fn check_name(name: &str) -> Read<String> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if name.is_empty() {
        return Err(Wrong::new("a name must not be empty"));
    }
    if name.chars().count() > 64 {
        return Err(Wrong::new("a name has at most 64 characters"));
    }
    if let Some(bad) = name.chars().find(|&c| !good(c)) {
        return Err(Wrong::new(format!("{bad:?} must not be in a name"))
            .help("a name is a label of metrics: letters, digits and `_`, `.`, `-`"));
    }
    Ok(name.into())
}

pub(super) fn name(value: &DeValue<'_>) -> Read<String> {
    check_name(text(value, "a name in quotes")?)
}

/// An address that one host can have.
fn host_address(ip: IpAddr) -> Read<IpAddr> {
    let what = if ip.is_unspecified() {
        "the unspecified address"
    } else if ip.is_multicast() {
        "a multicast address"
    } else if ip.is_loopback() {
        "a loopback address"
    } else if matches!(ip, IpAddr::V4(v4) if v4.is_broadcast()) {
        "the broadcast address"
    } else if let IpAddr::V6(v6) = ip
        && let Some(v4) = v6.to_ipv4_mapped()
    {
        return Err(
            Wrong::new(format!("{ip} is an IPv4 address in IPv6 form")).help(format!("write {v4}"))
        );
    } else {
        return Ok(ip);
    };
    Err(Wrong::new(format!("{ip} is {what}, not a host's")))
}

/// A host's address that is valid beyond one link.
fn routed_address(ip: IpAddr) -> Read<IpAddr> {
    match host_address(ip)? {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            Err(Wrong::new(format!("{ip} is a link-local address, valid on one link only")))
        }
        IpAddr::V4(_) | IpAddr::V6(_) => Ok(ip),
    }
}

pub(super) fn parse_ip(text: &str) -> Read<IpAddr> {
    let ip = text.parse().map_err(|_| Wrong::new(format!("{text:?} is not an IP address")))?;
    host_address(ip)
}

pub(super) fn ip(value: &DeValue<'_>) -> Read<IpAddr> {
    parse_ip(text(value, "an IP address in quotes")?)
}

/// An address of the director's own, with its network.
pub(super) fn own_address(value: &DeValue<'_>) -> Read<IpNet> {
    let text = text(value, "an address with prefix length such as \"10.0.0.1/24\"")?;
    let net = network_text(text)?;
    host_address(net.addr())?;
    let (widest, ends) = match net {
        IpNet::V4(_) => (32, "the network or broadcast address"),
        IpNet::V6(_) => (128, "the network's own address, the routers' anycast address,"),
    };
    if net.prefix_len() == 0 {
        return Err(Wrong::new(format!("{net} has no network: the prefix length is 0")));
    }
    let edge =
        net.addr() == net.network() || matches!(net, IpNet::V4(v4) if v4.addr() == v4.broadcast());
    if net.prefix_len() < widest - 1 && edge {
        return Err(Wrong::new(format!("{} is {ends} of {}", net.addr(), net.trunc()))
            .help(format!("use an address between, such as {}", first_host(net))));
    }
    Ok(net)
}

fn first_host(net: IpNet) -> String {
    let host = net.hosts().find(|host| *host != net.network());
    host.map_or_else(String::new, |host| format!("{host}/{}", net.prefix_len()))
}

/// A network: no host bits.
pub(super) fn network(value: &DeValue<'_>) -> Read<IpNet> {
    let net = network_text(text(value, "a network such as \"10.1.0.0/16\"")?)?;
    if net.prefix_len() == 0 {
        return Err(Wrong::new(format!("{net} is the default route")).help("use `gateways`"));
    }
    if net.addr() == net.network() {
        return Ok(net);
    }
    Err(Wrong::new(format!("{net} is a host in a network, not a network"))
        .help(format!("write \"{}\"", net.trunc())))
}

fn network_text(text: &str) -> Read<IpNet> {
    text.parse().map_err(|_| match text.parse::<IpAddr>() {
        Ok(ip) => Wrong::new(format!("{ip} has no prefix length"))
            .help(format!("write for example \"{ip}/{}\"", if ip.is_ipv4() { 24 } else { 64 })),
        Err(_) => Wrong::new(format!("{text:?} is not an address with prefix length"))
            .help("write for example \"10.0.0.1/24\" or \"2001:db8::1/64\""),
    })
}

/// A real server's address and port; port 0: none is stated. An IPv6 address is in brackets with
/// and without a port, or else its end might be meant as one.
pub(super) fn server_address(value: &DeValue<'_>) -> Read<SocketAddr> {
    let text = text(value, "an address such as \"10.0.0.11\" or \"10.0.0.11:80\"")?;
    let alone = match text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inner) => inner.parse().ok().map(IpAddr::V6),
        None => text.parse().ok().map(IpAddr::V4),
    };
    if let Some(ip) = alone {
        return routed_address(ip).map(|ip| SocketAddr::new(ip, 0));
    }
    let address: SocketAddr = text.parse().map_err(|_| match text.parse::<IpAddr>() {
        Ok(ip) => Wrong::new(format!("{text:?}: an IPv6 address is written in brackets here"))
            .help(format!("write \"[{ip}]\", or with a port \"[{ip}]:80\"")),
        Err(_) => Wrong::new(format!("{text:?} is not an address, with a port or without"))
            .help("write for example \"10.0.0.11:80\", \"10.0.0.11\" or \"[2001:db8::11]:80\""),
    })?;
    if address.port() == 0 {
        let wrong = Wrong::new("a real server needs a port from 1 to 65535");
        return Err(wrong.help("leave the port out where clients' own is to be kept"));
    }
    routed_address(address.ip()).map(|_| address)
}

pub(super) fn socket_address(text: &str) -> Read<SocketAddr> {
    text.parse().map_err(|_| {
        let wrong = Wrong::new(format!("{text:?} is not an address with port"));
        match text.parse::<IpAddr>() {
            Ok(ip) => wrong.help(format!("write for example \"{}\"", SocketAddr::new(ip, 80))),
            Err(_) => wrong.help("write for example \"10.0.0.11:80\" or \"[2001:db8::11]:80\""),
        }
    })
}

/// An address that outside parties can speak to.
pub(super) fn external_address(value: &DeValue<'_>) -> Read<IpAddr> {
    let text = text(value, "an IP address in quotes")?;
    let ip = text.parse().map_err(|_| Wrong::new(format!("{text:?} is not an IP address")))?;
    routed_address(ip)
}

/// A range of ports.
pub(super) fn ports(value: &DeValue<'_>) -> Read<RangeInclusive<u16>> {
    let expected = "a range of ports such as \"1024-65535\"";
    let found = text(value, expected)?;
    let ends = found.split_once('-').and_then(|(first, last)| {
        Some((first.trim().parse::<u16>().ok()?, last.trim().parse::<u16>().ok()?))
    });
    let Some((first, last)) = ends else {
        return Err(Wrong::new(format!("{found:?} is not {expected}")));
    };
    if first == 0 {
        return Err(Wrong::new(format!("{found:?} has port 0: expected {expected}")));
    }
    if first > last {
        return Err(Wrong::new(format!("{found:?} holds no ports: expected {expected}")));
    }
    Ok(first..=last)
}

/// Where a service listens.
pub(super) fn listen(value: &DeValue<'_>) -> Read<Listen> {
    let listen: Listen = parsed("a string such as \"tcp://203.0.113.10:80\"")(value)?;
    listen.ip().map_or(Ok(listen), |ip| routed_address(ip).map(|_| listen))
}

/// The destinations of a firewall mark: an address, or a network of addresses.
pub(super) fn marked_network(value: &DeValue<'_>) -> Read<IpNet> {
    let expected = "an address such as \"203.0.113.10\" or a network such as \"203.0.113.0/28\"";
    let found = text(value, expected)?;
    let net = found.parse::<IpNet>().or_else(|_| found.parse::<IpAddr>().map(IpNet::from));
    let net = net.map_err(|_| Wrong::new(format!("{found:?} is not {expected}")))?;
    if net.prefix_len() == 0 {
        return Err(Wrong::new(format!("{net} is every address, the real servers' too"))
            .help("list the addresses or networks that clients send to"));
    }
    if net.addr() != net.network() {
        return Err(Wrong::new(format!("{net} is a host in a network, not a network"))
            .help(format!("write \"{}\" or \"{}\"", net.addr(), net.trunc())));
    }
    routed_address(net.addr()).map(|_| net)
}

/// A port, or a range of them.
pub(super) fn port_or_range(value: &DeValue<'_>) -> Read<PortRange> {
    if value.is_str() {
        return match parsed::<PortRange>("a port or a range such as \"8000-8099\"")(value)? {
            all if all.is_all() => {
                Err(Wrong::new("port 0 is every port").help("leave `ports` out for every port"))
            }
            range => Ok(range),
        };
    }
    if value.as_integer().is_none() {
        return Err(unexpected(value, "a port such as 443 or a range such as \"8000-8099\""));
    }
    integer::<u16>(1..=i64::from(u16::MAX))(value).map(PortRange::one)
}

/// A unicast Ethernet address.
/// The key of a NIC's hash, in hexadecimal; colons or blanks between octets are passed over.
pub(super) fn rss_key(value: &DeValue<'_>) -> Read<Vec<u8>> {
    let expected = "40 or 52 octets in hexadecimal";
    let digits: String =
        text(value, expected)?.chars().filter(|c| !matches!(c, ':' | ' ')).collect();
    let octet = |place: usize| u8::from_str_radix(digits.get(place..place + 2)?, 16).ok();
    let key: Option<Vec<u8>> = (0..digits.len()).step_by(2).map(octet).collect();
    let key = key
        .filter(|key| {
            matches!(key.len(), 40 | KEY_OCTETS) && digits.chars().all(|c| c.is_ascii_hexdigit())
        })
        .ok_or_else(|| Wrong::new(format!("this is not {expected}")))?;
    if is_periodic(&key) {
        let wrong = Wrong::new("the key repeats itself, which leaves workers without packets");
        return Err(wrong.help("take random octets, or leave the key out"));
    }
    Ok(key)
}

pub(super) fn mac(value: &DeValue<'_>) -> Read<MacAddress> {
    let mac: MacAddress = parsed("an Ethernet address such as \"02:00:00:00:00:01\"")(value)?;
    if mac.0[0] & 1 == 1 {
        return Err(Wrong::new(format!("{mac} is a multicast address, not a station's")));
    }
    if mac.0 == [0; 6] {
        return Err(Wrong::new(format!("{mac} is not a station's address")));
    }
    Ok(mac)
}
