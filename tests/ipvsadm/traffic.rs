//! The director of the recording with traffic: what its listings tell, as rows.

use std::net::SocketAddr;

use pointsman::cli::ipvsadm::{
    ConnectionRow, Counters, Granularity, Persistence, SchedulerFlags, ServerRow, ServiceKey,
    ServiceRow,
};
use pointsman::service::Protocol;

use crate::fake::Fake;

/// What a listing tells of one service or server: its address and the columns after it.
struct Line<'a> {
    is_server: bool,
    protocol: &'a str,
    address: SocketAddr,
    columns: Vec<&'a str>,
}

impl Line<'_> {
    fn number(&self, column: usize) -> u32 {
        self.columns[column].parse().unwrap()
    }

    fn counters(&self) -> Counters {
        let numbers: Vec<u64> = self.columns.iter().map(|text| text.parse().unwrap()).collect();
        let [connections, in_packets, out_packets, in_octets, out_octets] = numbers[..] else {
            panic!("{numbers:?}")
        };
        Counters { connections, in_packets, out_packets, in_octets, out_octets }
    }
}

/// Header lines are left out; the rest are services and servers.
fn lines(listing: &str) -> Vec<Line<'_>> {
    listing
        .lines()
        .skip(3)
        .map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            Line {
                is_server: words[0] == "->",
                protocol: words[0],
                address: words[1].parse().unwrap(),
                columns: words[2..].to_vec(),
            }
        })
        .collect()
}

fn protocol(name: &str) -> Protocol {
    match name {
        "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        _ => panic!("{name}"),
    }
}

fn connection(line: &str) -> ConnectionRow {
    let words: Vec<_> = line.split_whitespace().collect();
    let [protocol, expires, state, client, service, server] = words[..] else { panic!("{line}") };
    let (minutes, seconds) = expires.split_once(':').unwrap();
    let seconds: u32 = seconds.parse().unwrap();
    ConnectionRow {
        protocol: protocol.into(),
        expires: minutes.parse::<u32>().unwrap() * 60 + seconds,
        state: state.into(),
        client: client.parse().unwrap(),
        service: service.parse().unwrap(),
        server: server.parse().unwrap(),
    }
}

/// The connections of a listing; they expire while one listing is made after the other.
pub(crate) fn connections(listing: &str) -> Vec<ConnectionRow> {
    listing.lines().skip(2).map(connection).collect()
}

/// The director at the time of the listings.
pub(crate) fn director(plain: &str, stats: &str, rates: &str, persistent: &str) -> Fake {
    let mut fake = Fake::new();
    let all = lines(plain).into_iter().zip(lines(stats)).zip(lines(rates)).zip(lines(persistent));
    for (((plain, stats), rates), persistent) in all {
        let (totals, rates) = (stats.counters(), rates.counters());
        if plain.is_server {
            let server = ServerRow {
                address: plain.address,
                weight: plain.number(1),
                weight_in_force: plain.number(1),
                upper: 0,
                lower: 0,
                active: plain.number(2),
                inactive: plain.number(3),
                persistent: persistent.number(1),
                totals,
                rates,
            };
            // The newest first.
            fake.services.last_mut().unwrap().servers.insert(0, server);
        } else {
            let timeout = plain.columns.iter().position(|word| *word == "persistent");
            let persistence = timeout.map(|place| Persistence {
                timeout: plain.number(place + 1),
                granularity: Granularity::Mask([255; 4].into()),
            });
            fake.services.push(ServiceRow {
                key: ServiceKey::Endpoint {
                    protocol: protocol(plain.protocol),
                    address: plain.address,
                },
                is_range: false,
                scheduler: plain.columns[0].into(),
                flags: SchedulerFlags::NONE,
                persistence,
                one_packet: false,
                totals,
                rates,
                servers: Vec::new(),
            });
        }
    }
    fake
}
