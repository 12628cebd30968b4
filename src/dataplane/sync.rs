//! The workers' part of connection synchronisation: the active director's connections leave by
//! bounded queues, and a standby's workers take over what arrives.
//!
//! A connection leaves when it begins, whenever its state changes, and again and again in a walk
//! through the whole table, so that a director that joins later learns of those that hardly speak.
//! A queue that is full loses the newest: the walk brings it later, and no packet waits.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::admit::Adopted;
use super::conn::tcp_state::ConnectionState;
use super::conn::{Connection, ConnectionTable, Flags};
use super::failover::{HeardMessage, Message};
use super::family::Family;
use super::frame::{Frame, Outlet};
use super::pipeline::Pipeline;
use super::ring::Ring;
use super::shared::Shared;
use crate::clock::Tick;
use crate::ids::WorkerId;
use crate::wire::U16;
use crate::wire::address::Address;
use crate::wire::flow_key::{Direction, FlowKey};
use crate::wire::ipv4::protocol;

/// Connections that fit a worker's queue, one way.
const CONNECTIONS: usize = 8192;
/// Messages that fit the queues.
const MESSAGES: usize = 512;
/// Connections that a worker takes over in one go.
const TAKEN_IN_ONE_GO: usize = 64;
/// Messages that leave in one go.
const SENT_IN_ONE_GO: usize = 16;
/// Time in which the whole table is walked through, of a table of up to some four million records.
const WALK_MS: u32 = 15_000;
/// Records that the walk looks at in one go, at most.
const WALK_BUDGET: u32 = 256;

/// A connection on its way from one director to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncConnection {
    /// IP protocol.
    pub protocol: u8,
    /// Its state.
    pub state: ConnectionState,
    /// How long it may idle from now on, milliseconds.
    pub timeout_ms: u32,
    /// The client.
    pub client: (IpAddr, u16),
    /// What the client speaks to.
    pub vip: (IpAddr, u16),
    /// The real server.
    pub server: (IpAddr, u16),
}

/// What the workers and the synchronisation share.
#[derive(Debug)]
pub struct SyncChannel {
    /// By worker: what leaves.
    leaving: Vec<Ring<SyncConnection>>,
    /// By worker: what has come.
    coming: Vec<Ring<SyncConnection>>,
    messages: Ring<Message>,
    /// By worker: what it has heard.
    heard: Vec<Ring<HeardMessage>>,
    lost: AtomicU64,
}

impl SyncChannel {
    /// For so many workers.
    pub fn new(workers: usize) -> Self {
        let queues = || (0..workers).map(|_| Ring::new(CONNECTIONS)).collect();
        Self {
            leaving: queues(),
            coming: queues(),
            messages: Ring::new(MESSAGES),
            heard: (0..workers).map(|_| Ring::new(MESSAGES)).collect(),
            lost: AtomicU64::new(0),
        }
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

    /// Has a message sent; gives it back when too many wait.
    #[allow(clippy::result_large_err, reason = "the caller keeps what was not taken")]
    pub fn send(&self, message: Message) -> Result<(), Message> {
        self.messages.push(message)
    }

    /// The next message that was heard.
    pub fn heard(&self) -> Option<HeardMessage> {
        self.heard.iter().find_map(Ring::pop)
    }

    /// Connections that found a queue full, and messages.
    pub fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    pub(super) fn hear(&self, worker: WorkerId, message: HeardMessage) {
        let is_taken = self.heard.get(worker.index()).is_some_and(|q| q.push(message).is_ok());
        if !is_taken {
            self.lost.fetch_add(1, Relaxed);
        }
    }

    fn let_go(&self, worker: WorkerId, connection: SyncConnection) {
        let is_taken = self.leaving.get(worker.index()).is_some_and(|q| q.push(connection).is_ok());
        if !is_taken {
            self.lost.fetch_add(1, Relaxed);
        }
    }
}

/// Where the walk through a worker's connections is, by address family: the next record, and when
/// it was last gone on with.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SyncWalk {
    v4: (u32, Tick),
    v6: (u32, Tick),
}

impl<F: Frame> Shared<F> {
    /// A connection has begun or is in another state: the other director is to know.
    #[inline]
    pub(super) fn synchronise<A: Address>(&self, connection: &Connection<A>) {
        if self.failover.is_some() && self.is_active {
            self.let_go(connection, Tick(connection.last_seen));
        }
    }

    #[cold]
    #[inline(never)]
    fn let_go<A: Address>(&self, connection: &Connection<A>, now: Tick) {
        let Some(channel) = &self.failover else { return };
        let is_through_service = connection.service().0 != Connection::<A>::NO_SERVICE;
        let unusual = connection.flags.has(Flags::FULL_NAT)
            || connection.flags.has(Flags::HELPED)
            || connection.flags.is_retired();
        let is_kept = matches!(connection.protocol, protocol::TCP | protocol::UDP | protocol::SCTP);
        // What needs a port of this director's own, or texts and sequence numbers, cannot move; and
        // what only begins is not worth it: it may be a flood, and comes again.
        let begins = matches!(
            connection.state(),
            ConnectionState::None
                | ConnectionState::SynSent
                | ConnectionState::SynRecv
                | ConnectionState::SctpInit1
                | ConnectionState::SctpInit
        );
        if !is_through_service || unusual || !is_kept || begins || connection.helper != 0 {
            return;
        }
        let end = |(address, port): (A, U16)| (address.to_ip(), port.get());
        let idle = now.since(Tick(connection.last_seen));
        let connection = SyncConnection {
            protocol: connection.protocol,
            state: connection.state(),
            timeout_ms: connection.timeout_ms.saturating_sub(idle),
            client: end(connection.client()),
            vip: end(connection.vip()),
            server: end(connection.server()),
        };
        channel.sync.let_go(self.worker, connection);
    }
}

impl<F: Frame> Pipeline<F> {
    /// Brings connections on their way, or takes over those that have come.
    pub(super) fn synchronise(&mut self, now: Tick, outlet: &mut impl Outlet<F>) {
        let Some(channel) = self.shared.failover.clone() else { return };
        let coming = channel.sync.coming.get(self.shared.worker.index());
        if self.shared.is_active {
            // What came too late must not be taken over some day.
            while coming.is_some_and(|coming| coming.pop().is_some()) {}
            self.walk_on(now);
            self.send_messages(&channel.sync, outlet);
            return;
        }
        let Some(coming) = coming else { return };
        for _ in 0..TAKEN_IN_ONE_GO {
            let Some(connection) = coming.pop() else { return };
            if connection.client.0.is_ipv4() {
                self.shared.take_over(&mut self.v4, &connection, now);
            } else {
                self.shared.take_over(&mut self.v6, &connection, now);
            }
        }
    }

    /// Lets go of some connections of the walk.
    fn walk_on(&mut self, now: Tick) {
        let Self { shared, v4, v6, .. } = self;
        shared.sync_walk.v4 = walk(shared, v4, shared.sync_walk.v4, now);
        shared.sync_walk.v6 = walk(shared, v6, shared.sync_walk.v6, now);
    }
}

/// Lets go of the connections in as many records as the time since the last ones asks for; where
/// the walk is then.
fn walk<A: Family, F: Frame>(
    shared: &Shared<F>,
    table: &ConnectionTable<A>,
    (start, at): (u32, Tick),
    now: Tick,
) -> (u32, Tick) {
    let passed = now.since(at).min(WALK_MS);
    let records = u64::from(table.range(0, u32::MAX).0.end);
    let due = records * u64::from(passed) / u64::from(WALK_MS);
    let share = u32::try_from(due).unwrap_or(u32::MAX).min(WALK_BUDGET);
    if share == 0 {
        // Of few records one is not due every time.
        return (start, at);
    }
    // Of the time that has passed as much is used up as these records are worth.
    let worth = u64::from(share) * u64::from(WALK_MS) / records;
    let left = passed.saturating_sub(u32::try_from(worth).unwrap_or(u32::MAX));
    let (live, next) = table.walk(start, share);
    for (_, connection) in live {
        shared.let_go(connection, now);
    }
    (next.unwrap_or(0), Tick(now.0.wrapping_sub(left)))
}

impl<F: Frame> Shared<F> {
    /// Takes over a connection, or what is new of it.
    fn take_over<A: Family>(
        &mut self,
        table: &mut ConnectionTable<A>,
        come: &SyncConnection,
        now: Tick,
    ) {
        let Some(adopted) = Adopted::<A>::of(come) else { return };
        let key = adopted.key();
        let hash = table.hash(&key);
        let Some(found) = table.find(hash, &key) else {
            return self.adopt(table, &adopted, now);
        };
        let Some(known) = table.get_mut(found.id) else { return };
        if found.direction != Direction::Inbound || known.server() != adopted.server {
            return;
        }
        known.last_seen = now.0;
        let old = known.state();
        if old != come.state {
            self.change_state(table, found, old, come.state);
        }
        if let Some(known) = table.get_mut(found.id) {
            known.timeout_ms = come.timeout_ms;
        }
        table.rearm(found.id);
    }
}

/// The key that decides which worker a connection is of.
pub fn owner_key<A: Address>(connection: &SyncConnection) -> Option<FlowKey<A>> {
    Some(FlowKey {
        source: A::from_ip(connection.client.0)?,
        destination: A::from_ip(connection.vip.0)?,
        source_port: U16::new(connection.client.1),
        destination_port: U16::new(connection.vip.1),
        protocol: connection.protocol,
    })
}

impl<F: Frame> Pipeline<F> {
    /// Sends some of the messages that wait, on one worker.
    fn send_messages(&mut self, channel: &SyncChannel, outlet: &mut impl Outlet<F>) {
        if self.shared.worker.index() != 0 {
            return;
        }
        for _ in 0..SENT_IN_ONE_GO {
            let Some(message) = channel.messages.pop() else { return };
            self.shared.send_message(&message, outlet);
        }
    }
}
