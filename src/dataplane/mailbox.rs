//! The only door between the control thread and the workers: small commands one way, small
//! events the other, over bounded lock-free queues. Neither side ever waits for the other.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};

use super::conn::tcp_state::ConnectionState;
use super::handover::Handover;
pub use super::local::{GROUPS, ListenerReport};
use crate::ids::{InterfaceId, TableVersion, WorkerId};
use crate::service::ServiceTable;
use crate::wire::ethernet::Mac;
use crate::wire::mld::Query;

/// Commands that fit a worker's queue.
pub const COMMANDS: usize = 1024;
/// Events that fit a worker's queue.
pub const EVENTS: usize = 4096;

/// From the control thread to one worker.
#[derive(Debug)]
pub enum Command {
    /// Use this table from now on; the old one comes back as [`Event::Installed`].
    InstallServices(Arc<ServiceTable>),
    /// A neighbour's Ethernet address is known: send what waits for it.
    SetNeighbor {
        /// Where the neighbour is.
        interface: InterfaceId,
        /// Its IP address.
        address: IpAddr,
        /// Its Ethernet address.
        mac: Mac,
        /// Whether the entry stays when nothing uses it (configured neighbours).
        permanent: bool,
    },
    /// A neighbour does not answer (any more): drop what waits for it, ask again when needed.
    NeighborUnreachable {
        /// Where the neighbour is.
        interface: InterfaceId,
        /// Its IP address.
        address: IpAddr,
    },
    /// Send an ARP request or Neighbor Solicitation.
    Solicit {
        /// Where to ask.
        interface: InterfaceId,
        /// Who is asked for.
        address: IpAddr,
        /// Ask this station alone (a probe); `None`: ask the link.
        station: Option<Mac>,
        /// Only if a live connection uses the neighbour.
        only_if_used: bool,
    },
    /// Send a gratuitous ARP or unsolicited Neighbor Advertisement for an address of ours.
    Announce {
        /// Where to announce.
        interface: InterfaceId,
        /// The address.
        address: IpAddr,
    },
    /// Tell a link's routers and switches of groups that the director listens to.
    ReportListeners {
        /// Where to tell it.
        interface: InterfaceId,
        /// What.
        report: ListenerReport,
    },
    /// Fill a page with connections; it comes back as [`Event::Connections`].
    ListConnections(ConnectionPage),
    /// Hand connections over by this; the one before comes back as [`Event::HandoverBegun`].
    BeginHandover(Arc<Handover>),
}

/// From one worker to the control thread.
#[derive(Debug)]
pub enum Event {
    /// The worker uses table `version`; `retired` is the one before, for the control thread to
    /// free.
    Installed {
        /// The worker.
        worker: WorkerId,
        /// The version now in use.
        version: TableVersion,
        /// The version before it.
        retired: Arc<ServiceTable>,
    },
    /// A packet waits for this neighbour.
    Resolve {
        /// Where the neighbour must be.
        interface: InterfaceId,
        /// Its IP address.
        address: IpAddr,
    },
    /// ARP or ND told a neighbour's Ethernet address.
    NeighborSeen {
        /// Where it was heard.
        interface: InterfaceId,
        /// Its IP address.
        address: IpAddr,
        /// Its Ethernet address.
        mac: Mac,
        /// Whether it answers a question (ARP reply, solicited advertisement); otherwise it only
        /// refreshes an entry that exists.
        answer: bool,
    },
    /// A router or switch asks which groups the director listens to.
    ListenersQueried {
        /// Where it asks.
        interface: InterfaceId,
        /// What.
        query: Query,
    },
    /// A handover has begun; `retired`: what was used for the one before.
    HandoverBegun {
        /// For the control thread to free.
        retired: Option<Arc<Handover>>,
    },
    /// A page of connections.
    Connections {
        /// The worker.
        worker: WorkerId,
        /// The page, with at most its capacity of rows.
        page: ConnectionPage,
    },
}

/// One connection, as `pointsman connections` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionRow {
    /// IP protocol.
    pub protocol: u8,
    /// State.
    pub state: ConnectionState,
    /// Client.
    pub client: SocketAddr,
    /// Virtual service.
    pub service: SocketAddr,
    /// Real server.
    pub server: SocketAddr,
    /// Milliseconds until it is forgotten unless a packet comes.
    pub expires_ms: u32,
}

/// A buffer for a listing, and where to go on. The control thread allocates and frees it; the
/// worker fills it up to its capacity.
#[derive(Debug)]
pub struct ConnectionPage {
    /// The rows; their capacity is the size of the page.
    pub rows: Vec<ConnectionRow>,
    /// Where to go on: 0 to begin; the worker moves it.
    pub cursor: u64,
    /// Set by the worker: nothing is left after this page.
    pub done: bool,
}

impl ConnectionPage {
    /// An empty page for `rows` connections, at the beginning of the table.
    pub fn new(rows: usize) -> Self {
        Self { rows: Vec::with_capacity(rows), cursor: 0, done: false }
    }
}

/// The worker's ends.
#[derive(Debug)]
pub struct WorkerMailbox {
    commands: Receiver<Command>,
    events: Sender<Event>,
}

/// The control thread's ends, for one worker.
#[derive(Debug)]
pub struct ControlMailbox {
    commands: Sender<Command>,
    events: Receiver<Event>,
}

/// The two ends of a worker's mailbox.
pub fn mailbox() -> (WorkerMailbox, ControlMailbox) {
    let (command_sender, command_receiver) = bounded(COMMANDS);
    let (event_sender, event_receiver) = bounded(EVENTS);
    (
        WorkerMailbox { commands: command_receiver, events: event_sender },
        ControlMailbox { commands: command_sender, events: event_receiver },
    )
}

impl WorkerMailbox {
    /// The next command, if there is one.
    #[inline]
    pub fn command(&self) -> Option<Command> {
        self.commands.try_recv().ok()
    }

    /// Posts an event.
    ///
    /// # Errors
    /// The event, when the queue is full or the control thread is gone.
    #[inline]
    #[allow(clippy::result_large_err, reason = "the caller keeps what was not taken")]
    pub fn post(&self, event: Event) -> Result<(), Event> {
        self.events.try_send(event).map_err(TrySendError::into_inner)
    }
}

impl ControlMailbox {
    /// Sends a command.
    ///
    /// # Errors
    /// The command, when the queue is full (the caller keeps it and tries again) or the worker is
    /// gone.
    #[allow(clippy::result_large_err, reason = "the caller keeps what was not taken")]
    pub fn send(&self, command: Command) -> Result<(), Command> {
        self.commands.try_send(command).map_err(TrySendError::into_inner)
    }

    /// The next event, if there is one.
    pub fn event(&self) -> Option<Event> {
        self.events.try_recv().ok()
    }
}
