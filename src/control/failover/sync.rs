//! Connection synchronisation: a thread that puts what the workers of the active director let go
//! into messages of IPVS's protocol, and on a standby gives what comes to the workers.
//!
//! What cannot be sent yet waits, by connection: a newer state takes the place of an older one, and
//! the workers never wait.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use arrayvec::ArrayVec;
use hashbrown::HashMap;

use crate::control::config::{Config, FailoverConfig};
use crate::dataplane::conn::tcp_state::ConnectionState;
use crate::dataplane::failover::{FailoverChannel, HeardMessage, MESSAGE, Message};
use crate::dataplane::sync::SyncConnection;
use crate::ids::{CpuId, InterfaceId, WorkerId};
use crate::wire::checksum;
use crate::wire::ipv4::protocol;
use crate::wire::ipvs_sync::{self, Entry, SctpState, TcpState, UDP_NORMAL, Unfit, Writer, flag};
use crate::wire::udp::UdpHeader;
use crate::wire::{U16, address::V4};
use zerocopy::{FromBytes, IntoBytes};

/// The pause between two turns.
const PAUSE: Duration = Duration::from_millis(2);
/// Connections that are taken from one worker in one turn.
const IN_ONE_TURN: usize = 4096;
/// Connections that may wait to be sent.
const WAITING: usize = 1 << 20;
/// The flags that IPVS's entries have of connections through a NAT director.
const MASQUERADED: u32 = flag::MASQUERADE;

/// Which worker a connection is of.
pub type OwnerOf = Box<dyn Fn(&SyncConnection) -> WorkerId + Send>;

/// What the synchronisation counts.
#[derive(Debug, Default)]
pub(in crate::control) struct SyncCounts {
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
    pub(super) refused: AtomicU64,
    /// Connections that wait to be sent.
    pub(super) waiting: AtomicU64,
}

/// The thread's parts.
pub(super) struct Synchroniser {
    channel: Arc<FailoverChannel>,
    owner: OwnerOf,
    is_master: Arc<AtomicBool>,
    counts: Arc<SyncCounts>,
    id: u8,
    interface: InterfaceId,
    source: V4,
    cpu: CpuId,
    waiting: HashMap<Flow, SyncConnection>,
    order: VecDeque<Flow>,
}

type Flow = (u8, (IpAddr, u16), (IpAddr, u16));

const fn flow(connection: &SyncConnection) -> Flow {
    (connection.protocol, connection.client, connection.vip)
}

impl Synchroniser {
    /// Of a group; `None`: no interface that it floats on has an IPv4 address of its own.
    pub(super) fn new(
        (config, group): (&Config, &FailoverConfig),
        channel: Arc<FailoverChannel>,
        owner: OwnerOf,
        (is_master, counts): (Arc<AtomicBool>, Arc<SyncCounts>),
    ) -> Option<Self> {
        let (interface, source) = group.sync_from(config)?;
        Some(Self {
            channel,
            owner,
            is_master,
            counts,
            id: group.router_id,
            interface,
            source: source.octets(),
            cpu: config.director.control_cpu,
            waiting: HashMap::new(),
            order: VecDeque::new(),
        })
    }

    /// Until the director ends.
    pub(super) fn run(mut self, end: &AtomicBool) {
        super::super::thread::pin(self.cpu);
        while !end.load(Relaxed) {
            if self.is_master.load(Relaxed) {
                self.collect();
                self.send();
            } else {
                // What was let go of before is of no use any more.
                self.collect();
                self.waiting.clear();
                self.order.clear();
            }
            self.receive();
            self.counts.waiting.store(self.waiting.len() as u64, Relaxed);
            std::thread::sleep(PAUSE);
        }
    }

    /// Takes what the workers let go; newer states take the place of older ones.
    fn collect(&mut self) {
        let channel = Arc::clone(&self.channel);
        for worker in 0..channel.sync.workers() {
            let leaving = std::iter::from_fn(|| channel.sync.leaving(worker));
            leaving.take(IN_ONE_TURN).for_each(|connection| self.keep(connection));
        }
    }

    fn keep(&mut self, connection: SyncConnection) {
        let flow = flow(&connection);
        if self.waiting.len() < WAITING && self.waiting.insert(flow, connection).is_none() {
            self.order.push_back(flow);
        }
    }

    /// Sends as many messages as there is room for.
    fn send(&mut self) {
        while !self.order.is_empty() {
            let mut buffer = [0; MESSAGE - UDP];
            let mut writer = Writer::new(self.id, &mut buffer);
            let connections = self.order.iter().map_while(|flow| self.waiting.get(flow));
            // One that no message can say is passed over.
            let fits = |known: &&SyncConnection| writer.push(&entry(known)) != Err(Unfit::Full);
            let count = connections.take_while(fits).count();
            let message = self.message(writer.finish());
            if message.is_none_or(|message| self.channel.sync.send(message).is_err()) {
                return;
            }
            for flow in self.order.drain(..count) {
                self.waiting.remove(&flow);
            }
            self.counts.sent.fetch_add(count as u64, Relaxed);
        }
    }

    /// A datagram to the group.
    fn message(&self, payload: &[u8]) -> Option<Message> {
        let length = u16::try_from(UDP + payload.len()).ok()?;
        let mut header = UdpHeader {
            source_port: U16::new(ipvs_sync::PORT),
            destination_port: U16::new(ipvs_sync::PORT),
            length: U16::new(length),
            checksum: [0; 2],
        };
        let pseudo =
            checksum::pseudo_header(&self.source, &ipvs_sync::GROUP, protocol::UDP, length.into());
        let parts = checksum::fold(u64::from(pseudo) + u64::from(checksum::sum(header.as_bytes())));
        header.checksum = match checksum::finish(payload, parts) {
            // RFC 768: none at all is another thing.
            [0, 0] => [0xff; 2],
            sum => sum,
        };
        let mut octets = ArrayVec::<u8, MESSAGE>::new();
        octets.try_extend_from_slice(header.as_bytes()).ok()?;
        octets.try_extend_from_slice(payload).ok()?;
        Some(Message {
            interface: self.interface,
            source_mac: None,
            source: self.source.into(),
            destination: ipvs_sync::GROUP.into(),
            protocol: protocol::UDP,
            hop_limit: 1,
            payload: octets,
        })
    }

    /// Gives the workers what other directors have sent.
    fn receive(&self) {
        while let Some(message) = self.channel.sync.heard() {
            if self.is_master.load(Relaxed) || message.source == IpAddr::from(self.source) {
                continue;
            }
            if self.take_over(&message).is_none() {
                self.counts.refused.fetch_add(1, Relaxed);
            }
        }
    }

    /// `None`: it is no message of this group.
    fn take_over(&self, message: &HeardMessage) -> Option<()> {
        let (udp, _) = UdpHeader::ref_from_prefix(&message.payload).ok()?;
        if message.interface != self.interface || udp.destination_port.get() != ipvs_sync::PORT {
            return None;
        }
        let octets = message.payload.get(UDP..usize::from(udp.length.get()))?;
        let pseudo = match (message.source, message.destination) {
            (IpAddr::V4(from), IpAddr::V4(to)) => checksum::pseudo_header(
                &from.octets(),
                &to.octets(),
                protocol::UDP,
                udp.length.get().into(),
            ),
            _ => return None,
        };
        let whole = message.payload.get(..usize::from(udp.length.get()))?;
        let sum = checksum::fold(u64::from(pseudo) + u64::from(checksum::sum(whole)));
        if udp.checksum != [0; 2] && sum != 0xffff {
            return None;
        }
        let message = ipvs_sync::Message::parse(octets).ok()?;
        if message.sync_id != self.id {
            return None;
        }
        for entry in message.entries() {
            let Some(connection) = connection(&entry.ok()?) else { continue };
            self.counts.received.fetch_add(1, Relaxed);
            self.channel.sync.bring((self.owner)(&connection), connection);
        }
        Some(())
    }
}

const UDP: usize = size_of::<UdpHeader>();

/// As IPVS says it.
fn entry(connection: &SyncConnection) -> Entry<'static> {
    let end = |(ip, port): (IpAddr, u16)| SocketAddr::new(ip, port);
    let is_inactive = !connection.state.is_active();
    Entry {
        protocol: connection.protocol,
        flags: MASQUERADED | if is_inactive { flag::INACTIVE } else { 0 },
        state: number(connection.state),
        client: end(connection.client),
        vip: end(connection.vip),
        server: end(connection.server),
        fwmark: 0,
        timeout: connection.timeout_ms.div_ceil(1000),
        sequences: None,
        engine_data: &[],
        engine_name: &[],
    }
}

/// What an entry says; `None`: it is of no use here.
fn connection(entry: &Entry<'_>) -> Option<SyncConnection> {
    if entry.is_template() || !entry.is_masqueraded() || entry.sequences.is_some() {
        return None;
    }
    let end = |address: SocketAddr| (address.ip(), address.port());
    let state = state(entry.protocol, entry.state)?;
    // IPVS waits three minutes where the message says nothing.
    let seconds = if entry.timeout == 0 { 180 } else { entry.timeout };
    Some(SyncConnection {
        protocol: entry.protocol,
        state,
        timeout_ms: seconds.min(24 * 24 * 3600) * 1000,
        client: end(entry.client),
        vip: end(entry.vip),
        server: end(entry.server),
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

    #[test]
    fn a_connection_is_said_and_understood() {
        let end = |text: &str, port| (text.parse().unwrap(), port);
        let said = SyncConnection {
            protocol: protocol::TCP,
            state: ConnectionState::Established,
            timeout_ms: 900_000,
            client: end("198.18.0.1", 40_000),
            vip: end("192.0.2.100", 80),
            server: end("10.0.0.11", 8080),
        };
        assert_eq!(connection(&entry(&said)), Some(said));
        let tunnel = Entry { flags: flag::TUNNEL, ..entry(&said) };
        assert_eq!(connection(&tunnel), None);
        let template = Entry { flags: flag::TEMPLATE, ..entry(&said) };
        assert_eq!(connection(&template), None);
    }
}
