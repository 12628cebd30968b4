//! What listings look like beyond what tests/ipvsadm compares with recordings of the kernel: names
//! and large numbers, recorded from ipvsadm 1.31 with a stand-in for the kernel.

use std::net::{IpAddr, Ipv4Addr};

use super::command::{Persistence, SchedulerFlags, ServiceKey, View};
use super::names::Names;
use super::rows::{ConnectionRow, Counters, ServerRow, ServiceRow};
use super::text::Style;
use super::{Granularity, connections, listing, save};
use crate::service::Protocol;

/// A world with few names.
pub(super) struct Lab;

impl Names for Lab {
    fn host(&self, name: &str) -> Option<Ipv4Addr> {
        (name == "web1.lan").then_some([10, 0, 0, 11].into())
    }

    fn port(&self, name: &str, protocol: Protocol) -> Option<u16> {
        (protocol == Protocol::Tcp && matches!(name, "http" | "www")).then_some(80)
    }

    fn host_name(&self, address: IpAddr) -> Option<String> {
        let name = match address.to_string().as_str() {
            "10.0.0.11" => "web1.lan",
            "10.0.0.12" => "a-quite-long-host-name.with.domain.example.com",
            "fd00::11" => "web1-over-ipv6.with.domain.example.com",
            _ => return None,
        };
        Some(name.into())
    }

    fn port_name(&self, port: u16, protocol: Protocol) -> Option<String> {
        (port == 80 && protocol == Protocol::Tcp).then(|| "http".into())
    }
}

const NAMED: Style<'_> = Style { names: Some(&Lab), exact: false };
const NUMERIC: Style<'_> = Style { names: None, exact: false };
const EXACT: Style<'_> = Style { names: None, exact: true };

fn endpoint(protocol: Protocol, address: &str) -> ServiceKey {
    ServiceKey::Endpoint { protocol, address: address.parse().unwrap() }
}

fn service(key: ServiceKey, servers: &[&str]) -> ServiceRow {
    let server = |address: &&str| ServerRow {
        address: address.parse().unwrap(),
        weight: 1,
        weight_in_force: 1,
        upper: 0,
        lower: 0,
        active: 1,
        inactive: 2,
        persistent: 3,
        totals: Counters::default(),
        rates: Counters::default(),
    };
    ServiceRow {
        key,
        is_range: false,
        scheduler: "rr".into(),
        flags: SchedulerFlags::NONE,
        persistence: None,
        one_packet: false,
        totals: Counters::default(),
        rates: Counters::default(),
        servers: servers.iter().map(server).collect(),
    }
}

fn counters(numbers: [u64; 5]) -> Counters {
    let [connections, in_packets, out_packets, in_octets, out_octets] = numbers;
    Counters { connections, in_packets, out_packets, in_octets, out_octets }
}

fn listed(service: &ServiceRow, view: View, style: Style<'_>) -> String {
    let mut out = Vec::new();
    listing::write_service(&mut out, service, view, style).unwrap();
    String::from_utf8(out).unwrap()
}

fn saved(service: &ServiceRow, style: Style<'_>) -> String {
    let mut out = Vec::new();
    save::write_service(&mut out, service, style).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn large_numbers_are_shortened_unless_exact_ones_are_asked_for() {
    let mut web = service(endpoint(Protocol::Tcp, "10.0.0.2:80"), &["10.1.0.2:8080"]);
    web.totals = counters([99_999_999, 100_000_000, 999_999_999, 1_000_000_000, 99_999_999_999]);
    web.servers[0].totals =
        counters([4_294_967_295, 2, 3, 10_u64.pow(14), 9_999_999_999_999_999_999]);
    assert_eq!(
        listed(&web, View::Stats, NUMERIC),
        "TCP  10.0.0.2:80                  99999999  100000K  999999K    1000M   99999M\n  \
         -> 10.1.0.2:8080                   4294M        2        3     100T 9999999T\n"
    );
    assert_eq!(
        listed(&web, View::Stats, EXACT),
        "TCP  10.0.0.2:80                  99999999 100000000 999999999 1000000000 99999999999\n  \
         -> 10.1.0.2:8080                4294967295        2        3 100000000000000 \
         9999999999999999999\n"
    );
    web.totals = counters([1, 2, 3, 10_u64.pow(11), 10_u64.pow(14) - 1]);
    let listing = listed(&web, View::Stats, NUMERIC);
    assert!(listing.contains("        3     100G   99999G\n"), "{listing}");
}

#[test]
fn of_rates_only_octets_are_shortened() {
    let mut web = service(endpoint(Protocol::Tcp, "10.0.0.2:80"), &["10.1.0.2:8080"]);
    web.rates = counters([0, 1, 99_999_999, 100_000_000, 4_294_967_295]);
    web.servers[0].rates = counters([99_999_999, 999_999_999, 4_294_967_295, 4_294_967_295, 5]);
    assert_eq!(
        listed(&web, View::Rate, NUMERIC),
        "TCP  10.0.0.2:80                         0        1 99999999  100000K    4294M\n  \
         -> 10.1.0.2:8080                99999999 999999999 4294967295    4294M        5\n"
    );
    assert_eq!(
        listed(&web, View::Rate, EXACT),
        "TCP  10.0.0.2:80                         0        1 99999999 100000000 4294967295\n  \
         -> 10.1.0.2:8080                99999999 999999999 4294967295 4294967295        5\n"
    );
}

#[test]
fn without_n_addresses_and_ports_have_names() {
    let web = service(
        endpoint(Protocol::Tcp, "192.0.2.1:80"),
        &["10.0.0.11:80", "10.0.0.12:8080", "10.0.0.13:8080"],
    );
    assert_eq!(
        listed(&web, View::Plain, NAMED),
        "TCP  192.0.2.1:http rr\n  \
         -> web1.lan:http                Masq    1      1          2         \n  \
         -> a-quite-long-host-name.with. Masq    1      1          2         \n  \
         -> 10.0.0.13:8080               Masq    1      1          2         \n"
    );
    assert_eq!(
        saved(&web, NAMED),
        "-A -t 192.0.2.1:http -s rr\n-a -t 192.0.2.1:http -r web1.lan:http -m -w 1\n-a -t \
         192.0.2.1:http -r a-quite-long-host-name.with.domain.example.com:8080 -m -w 1\n-a -t \
         192.0.2.1:http -r 10.0.0.13:8080 -m -w 1\n"
    );
}

#[test]
fn names_of_ipv6_are_in_brackets_and_not_cut_off() {
    let web = service(endpoint(Protocol::Tcp, "[2001:db8::1]:80"), &["[fd00::11]:80"]);
    assert_eq!(
        listed(&web, View::Plain, NAMED),
        "TCP  [2001:db8::1]:http rr\n  -> [web1-over-ipv6.with.domain.example.com]:http Masq    1 \
         \x20    1          2         \n"
    );
}

#[test]
fn a_service_is_listed_and_saved_with_all_its_properties() {
    let mut dns = service(endpoint(Protocol::Udp, "10.0.0.2:53"), &[]);
    dns.one_packet = true;
    let mask = Granularity::Mask([255, 255, 0, 0].into());
    dns.persistence = Some(Persistence { timeout: 60, granularity: mask });
    dns.flags = SchedulerFlags { fallback: true, port: true, third: true };
    let properties =
        "UDP  10.0.0.2:53 rr (flag-1,flag-2,flag-3) persistent 60 mask 255.255.0.0 ops\n";
    assert_eq!(listed(&dns, View::Plain, NUMERIC), properties);
    let options = "-A -u 10.0.0.2:53 -s rr -p 60 -M 255.255.0.0 -o -b flag-1,flag-2,flag-3\n";
    assert_eq!(saved(&dns, NUMERIC), options);

    let mut v6 = service(ServiceKey::Mark { mark: 8, ipv6: true }, &["[fd00::11]:0"]);
    v6.persistence = Some(Persistence { timeout: 60, granularity: Granularity::Prefix(64) });
    v6.scheduler = "sh".into();
    v6.flags = SchedulerFlags { fallback: true, ..SchedulerFlags::NONE };
    assert_eq!(
        listed(&v6, View::TunnelInfo, NUMERIC),
        "FWM  8 IPv6 sh (sh-fallback) persistent 60 mask 64\n  -> [fd00::11]:0                 \
         Masq    n/a           1      1          2         \n"
    );
    assert_eq!(
        saved(&v6, NUMERIC),
        "-A -f 8 -6 -s sh -p 60 -M 64 -b sh-fallback\n-a -f 8 -6 -r [fd00::11]:0 -m -w 1\n"
    );

    let sctp = service(endpoint(Protocol::Sctp, "10.0.0.2:53"), &[]);
    assert_eq!(listed(&sctp, View::Plain, NUMERIC), "SCTP 10.0.0.2:53 rr\n");
    assert_eq!(saved(&sctp, NUMERIC), "-A --sctp-service 10.0.0.2:53 -s rr\n");
}

#[test]
fn connections_of_long_times_and_names_overflow_their_columns() {
    let mut out = Vec::new();
    let connection = |protocol: &str, expires, client: &str| ConnectionRow {
        protocol: protocol.into(),
        expires,
        state: "ESTABLISHED".into(),
        client: client.parse().unwrap(),
        service: "192.0.2.100:80".parse().unwrap(),
        server: "10.0.0.11:80".parse().unwrap(),
    };
    for (protocol, expires) in [("TCP", 6000), ("SCTP", 86_400), ("IP", 0)] {
        let row = connection(protocol, expires, "255.255.255.255:65535");
        connections::write_connection(&mut out, &row, NUMERIC).unwrap();
    }
    let row = connection("TCP", 59, "10.0.0.12:20000");
    connections::write_connection(&mut out, &row, NAMED).unwrap();
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "TCP 100:00 ESTABLISHED 255.255.255.255:65535 192.0.2.100:80     10.0.0.11:80\n\
         SCTP 1440:00 ESTABLISHED 255.255.255.255:65535 192.0.2.100:80     10.0.0.11:80\n\
         IP  00:00  ESTABLISHED 255.255.255.255:65535 192.0.2.100:80     10.0.0.11:80\n\
         TCP 00:59  ESTABLISHED a-quite-long-host-name.with.domain.example.com:20000 \
         192.0.2.100:http   web1.lan:http\n"
    );
}

#[test]
fn services_without_a_name_get_one_that_is_allowed() {
    for (key, name) in [
        (endpoint(Protocol::Tcp, "192.0.2.100:80"), "tcp-192.0.2.100-80"),
        (endpoint(Protocol::Udp, "[2001:db8::1]:53"), "udp-2001-db8--1-53"),
        (ServiceKey::Mark { mark: 7, ipv6: false }, "fwm-7"),
        (ServiceKey::Mark { mark: 8, ipv6: true }, "fwm6-8"),
    ] {
        assert_eq!(key.service_name(), name);
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        assert!(name.len() <= 64 && name.chars().all(allowed), "{name}");
    }
}
