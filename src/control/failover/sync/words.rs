//! Connections in the words of the protocol, and back.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::dataplane::conn::tcp_state::ConnectionState;
use crate::dataplane::sync::{End, HelpedText, More, Stretch, SyncConnection, SyncKind};
use crate::service::Helper;
use crate::wire::ipv4::protocol;
use crate::wire::ipvs_sync::{
    Entry, Extension, SctpState, TEMPLATE_NONE, TcpState, UDP_NORMAL, flag,
};

/// The flags that IPVS's entries have of connections through a NAT director.
const MASQUERADED: u32 = flag::MASQUERADE;
/// IPVS waits three minutes where the message says nothing.
const USUAL_SECONDS: u32 = 180;
const LONGEST_SECONDS: u32 = 24 * 24 * 3600;

const fn socket((ip, port): End) -> SocketAddr {
    SocketAddr::new(ip, port)
}

const fn end(socket: SocketAddr) -> End {
    (socket.ip(), socket.port())
}

/// As IPVS says it.
pub(super) fn entry(connection: &SyncConnection) -> Entry<'static> {
    let is_template = connection.kind == SyncKind::Template;
    let inactive = if connection.state.is_active() { 0 } else { flag::INACTIVE };
    let template = if is_template { flag::TEMPLATE } else { 0 };
    let [vip, server] = if is_template {
        [service_of_template(connection), without_port(connection.server, connection)]
    } else {
        [connection.vip, connection.server]
    };
    Entry {
        protocol: connection.protocol,
        flags: MASQUERADED | inactive | template,
        state: if is_template { TEMPLATE_NONE } else { number(connection.state) },
        client: socket(connection.client),
        vip: socket(vip),
        server: socket(server),
        fwmark: connection.mark,
        timeout: connection.timeout_ms.div_ceil(1000),
        idle: connection.idle_ms,
        sequences: None,
        engine_data: &[],
        engine_name: &[],
        extension: connection.more.as_ref().map(extension),
    }
}

/// What IPVS has as the service of a template: a firewall mark in the place of an address; FTP's
/// without a port.
fn service_of_template(connection: &SyncConnection) -> End {
    if connection.mark == 0 {
        return without_port(connection.vip, connection);
    }
    let [a, b, c, d] = connection.mark.to_be_bytes();
    let ip = match connection.client.0 {
        IpAddr::V4(_) => Ipv4Addr::from([a, b, c, d]).into(),
        IpAddr::V6(_) => {
            let mut octets = [0; 16];
            octets[..4].copy_from_slice(&[a, b, c, d]);
            Ipv6Addr::from(octets).into()
        }
    };
    (ip, 0)
}

/// Templates of FTP are of all ports: those of its data connections.
fn without_port((ip, port): End, connection: &SyncConnection) -> End {
    let is_ftp = connection.mark != 0 || connection.vip.1 == Helper::FTP_PORT;
    (ip, if is_ftp { 0 } else { port })
}

fn extension(more: &More) -> Extension {
    let pair = |stretch: Stretch| (stretch.next, stretch.shift);
    Extension {
        local: more.local.map(socket),
        service: more.service.map(socket),
        is_outbound: more.is_outbound,
        is_masqueraded: more.is_masqueraded,
        text: more.text.map(|text| [pair(text.client), pair(text.server)]),
        is_text_over: more.text.is_some_and(|text| text.is_over),
    }
}

fn more(extension: &Extension) -> More {
    let stretch = |(next, shift)| Stretch { next, shift };
    More {
        local: extension.local.map(end),
        service: extension.service.map(end),
        is_outbound: extension.is_outbound,
        is_masqueraded: extension.is_masqueraded,
        text: extension.text.map(|[client, server]| HelpedText {
            client: stretch(client),
            server: stretch(server),
            is_over: extension.is_text_over,
        }),
    }
}

/// What an entry says; `None`: it is of no use here.
pub(super) fn connection(entry: &Entry<'_>) -> Option<SyncConnection> {
    if !entry.is_masqueraded() || entry.sequences.is_some() || !entry.engine_name.is_empty() {
        return None;
    }
    let is_template = entry.is_template();
    let state =
        if is_template { ConnectionState::None } else { state(entry.protocol, entry.state)? };
    let mut vip = end(entry.vip);
    if is_template && entry.fwmark == 0 && vip.1 == 0 && entry.protocol == protocol::TCP {
        // Of FTP, or of every port: those have port 21 both.
        vip.1 = Helper::FTP_PORT;
    }
    let seconds = if entry.timeout == 0 { USUAL_SECONDS } else { entry.timeout };
    Some(SyncConnection {
        kind: if is_template { SyncKind::Template } else { SyncKind::Connection },
        is_news: false,
        protocol: entry.protocol,
        state,
        timeout_ms: seconds.min(LONGEST_SECONDS) * 1000,
        idle_ms: entry.idle,
        client: end(entry.client),
        vip,
        server: end(entry.server),
        mark: entry.fwmark,
        more: entry.extension.as_ref().map(more),
    })
}

/// By how much the numbers of SCTP's states here are more than IPVS's, but for that of none.
const SCTP: u16 = ConnectionState::SctpInit1 as u16 - SctpState::Init1 as u16;

/// The number that IPVS has for a state.
fn number(state: ConnectionState) -> u16 {
    let number = u16::from(state as u8);
    if matches!(state, ConnectionState::Udp | ConnectionState::Icmp) {
        UDP_NORMAL
    } else if number > SCTP {
        number - SCTP
    } else {
        number
    }
}

/// The state that IPVS has this number for.
fn state(protocol: u8, number: u16) -> Option<ConnectionState> {
    let of = |number: u16| u8::try_from(number).ok().map(ConnectionState::from_number);
    match protocol {
        protocol::UDP => Some(ConnectionState::Udp),
        protocol::TCP => of(TcpState::from_number(number)?.number()),
        protocol::SCTP if SctpState::from_number(number)? == SctpState::None => {
            Some(ConnectionState::None)
        }
        protocol::SCTP => of(number + SCTP),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ipvs_sync::{Message, Writer};

    #[test]
    fn states_have_the_numbers_of_ipvs() {
        for state in ConnectionState::ALL {
            let is_sctp = state as u8 >= ConnectionState::SctpInit1 as u8;
            let of = if is_sctp {
                protocol::SCTP
            } else if state == ConnectionState::Udp {
                protocol::UDP
            } else {
                protocol::TCP
            };
            if state == ConnectionState::Icmp {
                continue;
            }
            assert_eq!(super::state(of, number(state)), Some(state), "{state:?}");
        }
        assert_eq!(number(ConnectionState::SctpEstablished), SctpState::Established.number());
        assert_eq!(number(ConnectionState::SctpClosed), SctpState::Closed.number());
        assert_eq!(number(ConnectionState::LastAck), TcpState::LastAck.number());
        assert_eq!(state(protocol::TCP, 11), None);
        assert_eq!(state(1, 0), None);
    }

    fn said() -> SyncConnection {
        let end = |text: &str, port| (text.parse().unwrap(), port);
        SyncConnection {
            kind: SyncKind::Connection,
            is_news: false,
            protocol: protocol::TCP,
            state: ConnectionState::Established,
            timeout_ms: 900_000,
            idle_ms: 0,
            client: end("198.18.0.1", 40_000),
            vip: end("192.0.2.100", 80),
            server: end("10.0.0.11", 8080),
            mark: 0,
            more: None,
        }
    }

    /// What a connection becomes on its way through a message.
    fn told(said: &SyncConnection) -> SyncConnection {
        let mut buffer = [0; 1400];
        let mut writer = Writer::of_own(51, &mut buffer);
        writer.push(&entry(said)).unwrap();
        let message = Message::parse(writer.finish()).unwrap();
        let entry = message.entries().next().unwrap().unwrap();
        connection(&entry).unwrap()
    }

    #[test]
    fn a_connection_is_said_and_understood() {
        let said = said();
        assert_eq!(told(&said), said);
        for said in
            [SyncConnection { mark: 7, ..said }, SyncConnection { idle_ms: 840_001, ..said }]
        {
            assert_eq!(told(&said), said);
        }
        let tunnel = Entry { flags: flag::TUNNEL, ..entry(&said) };
        assert_eq!(connection(&tunnel), None);
    }

    #[test]
    fn what_ipvs_has_no_words_for_is_said_too() {
        let end = |text: &str, port| Some((text.parse().unwrap(), port));
        let text = HelpedText {
            client: Stretch { next: u32::MAX, shift: 0 },
            server: Stretch { next: 1, shift: u32::MAX - 3 },
            is_over: true,
        };
        let all = [
            More { local: end("10.0.0.1", 50_000), ..More::default() },
            More { is_outbound: true, is_masqueraded: true, ..More::default() },
            More { service: end("192.0.2.100", 21), is_outbound: true, ..More::default() },
            More { text: Some(text), ..More::default() },
        ];
        for more in all {
            let said = SyncConnection { more: Some(more), ..said() };
            assert_eq!(told(&said), said);
        }
        let v6 = SyncConnection {
            client: end("2001:db8::9", 40_000).unwrap(),
            vip: end("2001:db8::10", 80).unwrap(),
            server: end("fd00::11", 8080).unwrap(),
            more: Some(More { local: end("fd00::1", 50_000), ..More::default() }),
            ..said()
        };
        assert_eq!(told(&v6), v6);
    }

    /// As in frames of the kernel's (`tests/oracle/sync_v1.json`): flags 0x1100, no client port.
    #[test]
    fn templates_are_those_of_ipvs() {
        let end = |text: &str, port| (text.parse().unwrap(), port);
        let template = SyncConnection {
            kind: SyncKind::Template,
            protocol: protocol::UDP,
            state: ConnectionState::None,
            timeout_ms: 300_000,
            client: end("198.18.35.140", 0),
            vip: end("192.0.2.100", 53),
            server: end("10.0.0.12", 53),
            ..said()
        };
        let entry = entry(&template);
        assert_eq!((entry.flags, entry.state, entry.timeout), (0x1100, 0, 300));
        assert_eq!(told(&template), template);
        let ftp = SyncConnection {
            protocol: protocol::TCP,
            vip: end("192.0.2.100", 21),
            server: end("10.0.0.12", 21),
            ..template
        };
        let entry = super::entry(&ftp);
        assert_eq!((entry.vip.port(), entry.server.port()), (0, 0));
        let marked = SyncConnection { protocol: 0, mark: 0x0102_0304, ..template };
        let entry = super::entry(&marked);
        assert_eq!((entry.vip.to_string(), entry.fwmark), ("1.2.3.4:0".into(), 0x0102_0304));
    }
}
