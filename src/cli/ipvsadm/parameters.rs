//! Values of options, with ipvsadm's complaints about them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::arguments::{Parsed, wrong};
use super::command::{Granularity, SchedulerFlags, Timeouts};
use super::options::Item;
use super::value::number;

/// Timeouts of persistence and of `--set` are at most 31 days.
const TIMEOUT_MAX: u32 = 31 * 24 * 3600;

/// Every client for itself.
pub(super) fn whole(ipv6: bool) -> Granularity {
    if ipv6 { Granularity::Prefix(128) } else { Granularity::Mask([255; 4].into()) }
}

/// Seconds.
pub(super) fn timeout(value: &str, least: u32) -> Parsed<u32> {
    match number(value, least..=TIMEOUT_MAX) {
        Some(seconds) => Ok(seconds),
        None => wrong(format!("invalid timeout value `{value}' specified")),
    }
}

/// The three values of `--set`.
pub(super) fn timeouts(
    tcp: Option<&str>,
    tcp_fin: Option<&str>,
    udp: Option<&str>,
) -> Parsed<Timeouts> {
    let (Some(tcp), Some(tcp_fin), Some(udp)) = (tcp, tcp_fin, udp) else {
        return wrong("--set option requires 3 timeout values");
    };
    Ok(Timeouts { tcp: timeout(tcp, 0)?, tcp_fin: timeout(tcp_fin, 0)?, udp: timeout(udp, 0)? })
}

/// The flags in a list, which may be of one scheduler only.
pub(super) fn scheduler_flags(list: &str, scheduler: &str) -> Parsed<SchedulerFlags> {
    let mut flags = SchedulerFlags::NONE;
    for flag in list.split(',').filter(|flag| !flag.is_empty()) {
        let (set, only) = match flag {
            "flag-1" => (&mut flags.fallback, None),
            "flag-2" => (&mut flags.port, None),
            "flag-3" => (&mut flags.third, None),
            "sh-fallback" => (&mut flags.fallback, Some("sh")),
            "sh-port" => (&mut flags.port, Some("sh")),
            "mh-fallback" => (&mut flags.fallback, Some("mh")),
            "mh-port" => (&mut flags.port, Some("mh")),
            _ => return wrong(format!("invalid scheduler flag `{flag}'")),
        };
        if only.is_some_and(|only| only != scheduler) {
            return wrong(format!("incompatible scheduler flag `{flag}'"));
        }
        *set = true;
    }
    Ok(flags)
}

/// Values that are of no further use: of tunnels and of the sync daemon.
#[allow(clippy::wildcard_enum_match_arm, reason = "the others have no value, or any")]
pub(super) fn check_value(item: Item, value: &str) -> Parsed<()> {
    let (range, message) = match item {
        Item::SyncId => (0..=255, "illegal syncid specified"),
        Item::SyncMaxLen => (1..=65507, "illegal sync-maxlen specified"),
        Item::McastPort => (1..=65535, "illegal mcast-port specified"),
        Item::McastTtl => (1..=255, "illegal mcast-ttl specified"),
        Item::TunnelPort => (1..=65535, "illegal tunnel port specified"),
        Item::McastGroup => return check_group(value),
        _ => return Ok(()),
    };
    number(value, range).map_or_else(|| wrong(message), |_| Ok(()))
}

fn check_group(value: &str) -> Parsed<()> {
    let (group, family) = match value.parse::<Ipv6Addr>() {
        Ok(group) => (Some(IpAddr::V6(group)), "IPv6"),
        Err(_) => (value.parse::<Ipv4Addr>().ok().map(IpAddr::V4), "IPv4"),
    };
    if group.is_some_and(|group| group.is_multicast()) {
        Ok(())
    } else {
        wrong(format!("invalid {family} mcast-group `{value}'"))
    }
}
