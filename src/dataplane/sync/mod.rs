//! The workers' part of connection synchronisation: the active director's connections leave by
//! bounded queues (`told`), and a standby's workers take over what arrives (`adopt`).
//!
//! A queue that is full loses the newest: the walk brings it later, and no packet waits.

mod adopt;
mod told;

use std::net::IpAddr;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::time::Duration;

use super::conn::tcp_state::ConnectionState;
use super::failover::{HeardMessage, Message};
use super::frame::{Frame, Outlet};
use super::message::Unsent;
use super::pipeline::Pipeline;
use super::ring::{Inbox, Ring};
use crate::clock::Tick;
use crate::ids::WorkerId;
use crate::wire::U16;
use crate::wire::address::Address;
use crate::wire::flow_key::FlowKey;
pub(super) use told::SyncWalk;

/// Connections that fit a worker's queue, one way.
const CONNECTIONS: usize = 8192;
/// Messages that fit the queues.
const MESSAGES: usize = 512;
/// Connections that a worker takes over in one go.
const TAKEN_IN_ONE_GO: usize = 64;
/// Messages that leave in one go.
const SENT_IN_ONE_GO: usize = 16;
/// What waits to be sent before workers hold back what is not urgent.
const CALM: u64 = 32_768;

/// Idle times that are not told of: they are as long as a message may be on its way.
const SHORT_IDLE_MS: u32 = 1000;

/// An address and a port.
pub type End = (IpAddr, u16);

/// A connection on its way from one director to another, or a template of persistence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncConnection {
    /// Which of both.
    pub kind: SyncKind,
    /// It has just begun or changed, and is not told of again only.
    pub is_news: bool,
    /// IP protocol.
    pub protocol: u8,
    /// Its state; of no meaning for a template.
    pub state: ConnectionState,
    /// How long it may idle, milliseconds.
    pub timeout_ms: u32,
    /// How long it has idled, milliseconds; less than a second is none.
    pub idle_ms: u32,
    /// The client. Of a template: without a port, and the first address of its network.
    pub client: End,
    /// What the client speaks to. Of a template: the service's address and port, if it has one.
    pub vip: End,
    /// The real server.
    pub server: End,
    /// The firewall mark of the service; 0: it has none.
    pub mark: u32,
    /// What IPVS has no words for; `None`: nothing.
    pub more: Option<More>,
}

/// What is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncKind {
    /// A connection.
    Connection,
    /// A client's server.
    Template,
}

/// What pointsman knows of a connection and IPVS does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct More {
    /// Whom the server sees, where that is not the client (full NAT).
    pub local: Option<End>,
    /// The inside opened it.
    pub is_outbound: bool,
    /// It is through no service: an inside host's, masqueraded.
    pub is_masqueraded: bool,
    /// The service's address and port, where they are not what the client speaks to: of a data
    /// connection.
    pub service: Option<End>,
    /// What a helper reads, and how far it has come.
    pub text: Option<HelpedText>,
}

/// How far a helper has read a control connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HelpedText {
    /// What the client sends.
    pub client: Stretch,
    /// What the server sends.
    pub server: Stretch,
    /// What follows is encrypted.
    pub is_over: bool,
}

/// One direction of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stretch {
    /// The sequence number of the next octet, as its sender has it.
    pub next: u32,
    /// What is added to it for the receiver.
    pub shift: u32,
}

/// What the workers and the synchronisation share.
#[derive(Debug)]
pub struct SyncChannel {
    /// By worker: what leaves.
    leaving: Vec<Ring<SyncConnection>>,
    /// By worker: what has come.
    coming: Vec<Ring<SyncConnection>>,
    messages: Ring<Message>,
    /// A worker has some that may have been taken from there and not left yet.
    is_sending: AtomicBool,
    heard: Inbox<HeardMessage>,
    lost: AtomicU64,
    /// Time in which all connections are told of again, milliseconds.
    walk_ms: u32,
    /// The last transfer of everything that was asked for.
    transfer: AtomicU32,
    /// By worker: the last one that is done.
    transferred: Vec<AtomicU32>,
    /// What waits behind the queues.
    waiting: AtomicU64,
}

impl SyncChannel {
    /// For so many workers, which tell of everything in this time.
    pub fn new(workers: usize, refresh: Duration) -> Self {
        let queues = || (0..workers).map(|_| Ring::new(CONNECTIONS)).collect();
        Self {
            leaving: queues(),
            coming: queues(),
            messages: Ring::new(MESSAGES),
            is_sending: AtomicBool::new(false),
            heard: Inbox::new(workers, MESSAGES),
            lost: AtomicU64::new(0),
            walk_ms: walk_ms(refresh),
            transfer: AtomicU32::new(0),
            transferred: (0..workers).map(|_| AtomicU32::new(0)).collect(),
            waiting: AtomicU64::new(0),
        }
    }

    /// All connections are told of again in this time.
    pub(super) fn walk_in(&mut self, refresh: Duration) {
        self.walk_ms = walk_ms(refresh);
    }

    /// The next connection that a worker has let go.
    pub fn leaving(&self, worker: usize) -> Option<SyncConnection> {
        self.leaving.get(worker)?.pop()
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.leaving.len()
    }

    /// Gives a worker a connection to take over; `false`: too many wait.
    pub fn bring(&self, worker: WorkerId, connection: SyncConnection) -> bool {
        self.coming.get(worker.index()).is_some_and(|queue| queue.push(connection).is_ok())
    }

    /// Whether workers have taken over all that was brought.
    pub fn is_taken(&self) -> bool {
        self.coming.iter().all(Ring::is_empty)
    }

    /// Has a message sent; `false`: too many wait.
    pub fn send(&self, message: Message) -> bool {
        self.messages.push(message).is_ok()
    }

    /// How many more messages fit.
    pub fn room(&self) -> usize {
        MESSAGES - self.messages.len()
    }

    /// Whether all connections that workers have let go of were taken, and all messages have left.
    pub fn has_left(&self) -> bool {
        let are_taken = self.leaving.iter().all(Ring::is_empty) && self.messages.is_empty();
        // Looked at last: it is set before a message is taken.
        are_taken && !self.is_sending.load(Acquire)
    }

    /// The next message that was heard.
    pub fn heard(&self) -> Option<HeardMessage> {
        self.heard.pop()
    }

    /// Has the workers tell of everything as fast as it can be sent.
    pub fn transfer(&self) {
        self.transfer.fetch_add(1, Relaxed);
    }

    /// Whether the workers have told of everything since [`SyncChannel::transfer`].
    pub fn is_transferred(&self) -> bool {
        let wanted = self.transfer.load(Relaxed);
        self.transferred.iter().all(|done| done.load(Relaxed) == wanted)
            && self.leaving.iter().all(Ring::is_empty)
    }

    /// So much waits to be sent behind the queues.
    pub fn set_waiting(&self, waiting: u64) {
        self.waiting.store(waiting, Relaxed);
    }

    /// Connections that found a queue full, and messages.
    pub fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    /// A connection could not be brought in time.
    pub fn lose(&self) {
        self.lost.fetch_add(1, Relaxed);
    }

    /// A worker has heard a message; one for which there is no room is lost.
    pub fn hear(&self, worker: WorkerId, message: HeardMessage) {
        if !self.heard.push(worker, message) {
            self.lose();
        }
    }

    fn let_go(&self, worker: WorkerId, connection: SyncConnection) {
        let is_taken = self.leaving.get(worker.index()).is_some_and(|q| q.push(connection).is_ok());
        if !is_taken {
            self.lose();
        }
    }

    /// Whether there is room for what is not urgent.
    fn is_calm(&self, worker: WorkerId) -> bool {
        let own = self.leaving.get(worker.index()).map_or(CONNECTIONS, Ring::len);
        own < CONNECTIONS / 2 && self.waiting.load(Relaxed) < CALM
    }
}

fn walk_ms(refresh: Duration) -> u32 {
    u32::try_from(refresh.as_millis()).unwrap_or(u32::MAX).max(1)
}

impl<F: Frame> Pipeline<F> {
    /// Brings connections on their way, or takes over those that have come.
    pub(super) fn synchronise(&mut self, now: Tick, outlet: &mut impl Outlet<F>) {
        let Some(channel) = self.shared.failover.clone() else { return };
        let worker = self.shared.worker;
        if worker.index() == 0 {
            self.send_messages(&channel.sync, now, outlet);
        }
        // The active director, too: what it heard last before it took over.
        for _ in 0..TAKEN_IN_ONE_GO {
            let coming = channel.sync.coming.get(worker.index());
            let Some(come) = coming.and_then(Ring::pop) else { break };
            if come.client.0.is_ipv4() {
                self.shared.take_over(&mut self.v4, &come, now);
            } else {
                self.shared.take_over(&mut self.v6, &come, now);
            }
        }
        if self.shared.is_active {
            self.walk_on(&channel.sync, now);
        }
    }

    /// Sends some of the messages that wait. One that there is no room for waits on: what is behind
    /// the queue grows, and newer states take the place of older ones there.
    fn send_messages(&mut self, channel: &SyncChannel, now: Tick, outlet: &mut impl Outlet<F>) {
        if self.shared.put_off.as_ref().is_some_and(|(_, since)| *since == now) {
            return;
        }
        if self.shared.put_off.is_none() && channel.messages.is_empty() {
            return;
        }
        channel.is_sending.store(true, Relaxed);
        for _ in 0..SENT_IN_ONE_GO {
            let put_off = self.shared.put_off.take().map(|(message, _)| message);
            let Some(message) = put_off.or_else(|| channel.messages.pop()) else { break };
            if self.shared.send_message(&message, outlet) == Err(Unsent::NoRoom) {
                self.shared.put_off = Some((message, now));
                break;
            }
        }
        channel.is_sending.store(self.shared.put_off.is_some(), Release);
    }
}

impl SyncConnection {
    /// When its last packet came, if it is told of now.
    fn last_seen(&self, now: Tick) -> u32 {
        now.0.wrapping_sub(self.idle_ms.min(self.timeout_ms))
    }
}

/// The 5-tuples of the client's and of the server's packets, which decide which workers a connection
/// is of; `None`: it is of the other address family.
pub fn keys<A: Address>(connection: &SyncConnection) -> Option<[FlowKey<A>; 2]> {
    let local = connection.more.and_then(|more| more.local).unwrap_or(connection.client);
    let key = |source: End, destination: End| {
        Some(FlowKey {
            source: A::from_ip(source.0)?,
            destination: A::from_ip(destination.0)?,
            source_port: U16::new(source.1),
            destination_port: U16::new(destination.1),
            protocol: connection.protocol,
        })
    };
    Some([key(connection.client, connection.vip)?, key(connection.server, local)?])
}
