//! What a worker counts. One writer each: the worker; the control thread reads.
//!
//! The conservation law, for the sum over all workers and for each of them:
//! `received + handed_in + originated = transmitted + handed_out + consumed + dropped + held`.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crossbeam::utils::CachePadded;

use super::conn::tcp_state::ConnectionState;
use crate::ids::ServerSlot;

/// A number with a single writer. Adding compiles to one plain instruction, no lock prefix.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one. For the owner only.
    #[inline]
    pub fn increment(&self) {
        self.add(1);
    }

    /// Adds `n`. For the owner only.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Takes one away, of a gauge. For the owner only.
    #[inline]
    pub fn decrement(&self) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(1), Relaxed);
    }

    /// Sets a gauge. For the owner only.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// The present value.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $label:literal,)+) => {
        /// Why a packet was dropped: the values of label `reason` of
        /// `pointsman_packets_dropped_total`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $name,)+
        }

        impl DropReason {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The label's value.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $label,)+
                }
            }

            /// One sentence for the operator.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$name => concat!($($doc),+),)+
                }
            }
        }
    };
}

drop_reasons! {
    /// The frame ends before a header that it announces.
    Truncated = "truncated",
    /// The Ethernet address is another station's, or a group that the director does not listen to.
    NotForUs = "not_for_us",
    /// Another director of the pair is the active one; or the lease of this one has just ended; or another process forwards, during an upgrade.
    Standby = "standby",
    /// A VLAN tag that no interface of the port has, two tags, or no tag on a port on which every interface has one.
    UnknownVlan = "unknown_vlan",
    /// No room in front of a packet for a VLAN tag.
    NoHeadroom = "no_headroom",
    /// Neither IPv4, IPv6 nor ARP.
    UnknownEtherType = "unknown_ether_type",
    /// A header contradicts itself (version, header length, total length, data offset), or a fragment cannot be part of a datagram.
    Malformed = "malformed",
    /// The checksum of an IPv4 header, of an ICMP error or of the header that it quotes is wrong.
    BadChecksum = "bad_checksum",
    /// A source or destination address that cannot be on the wire: multicast or unspecified source, loopback, an address of our own as the source.
    Martian = "martian",
    /// An ARP, Neighbor Discovery or Multicast Listener Discovery packet that breaks its RFC.
    BadNeighborMessage = "bad_neighbor_message",
    /// A fragment that overlaps what has come of its datagram, and all that follow of it.
    FragmentOverlap = "fragment_overlap",
    /// A fragment that has come before.
    FragmentDuplicate = "fragment_duplicate",
    /// The oldest of too many datagrams that are coming in fragments: what waited for its first one.
    FragmentTableFull = "fragment_table_full",
    /// Too many fragments wait for their first one (the oldest are dropped), or a datagram comes in too many pieces.
    FragmentQueueFull = "fragment_queue_full",
    /// The first fragment did not come in time.
    FragmentTimeout = "fragment_timeout",
    /// A fragment of an SCTP packet whose port must change: its CRC32c cannot be updated without the rest.
    SctpFragment = "sctp_fragment",
    /// No packet buffer was free for the pieces of a packet that must be fragmented.
    NoBuffer = "no_buffer",
    /// More IPv6 extension headers than are walked.
    ExtensionHeader = "extension_header",
    /// An IP protocol that is not translated.
    UnknownProtocol = "unknown_protocol",
    /// An ICMP message that is neither an echo request to an address of the director nor an error.
    IcmpUnsupported = "icmp_unsupported",
    /// An ICMP error about a packet of no connection, or to another than the packet's sender.
    IcmpUnrelated = "icmp_unrelated",
    /// To an address of the director, but no service listens there.
    NoService = "no_service",
    /// To an address that moves with the group, for no service, and `accept = false`.
    NotAccepted = "not_accepted",
    /// To an address that the director neither owns nor has a connection for.
    NotOwned = "not_owned",
    /// A TCP segment or SCTP packet that belongs to no connection and may not open one.
    NoConnection = "no_connection",
    /// A packet of a connection whose server was removed, to be reset to the client.
    ServerRemoved = "server_removed",
    /// No real server of the service takes new connections (weights of 0, thresholds), or none that its scheduler may choose for the client.
    NoServer = "no_server",
    /// The service has as many connections as its `connection_limit` lets it have.
    ConnectionLimit = "connection_limit",
    /// From outside with a source that lies inside, from inside with a source that does not, or a packet of a connection from the other side.
    WrongSide = "wrong_side",
    /// No external address has a port left for a connection of an inside host to this destination.
    PortsExhausted = "ports_exhausted",
    /// The connection table is full.
    TableFull = "table_full",
    /// The real server already has a connection with this client address and port, of another service.
    ReplyTupleTaken = "reply_tuple_taken",
    /// A segment of a connection that a helper reads came before those before it; it will come again.
    HelperOutOfOrder = "helper_out_of_order",
    /// Too many changed texts of a control connection are not acknowledged yet; the segment will come again.
    HelperBusy = "helper_busy",
    /// A fragment of a connection that a helper reads, or a segment that it has no room to change.
    HelperUnreadable = "helper_unreadable",
    /// As many data connections as fit are expected.
    ExpectationTableFull = "expectation_table_full",
    /// No network, route or gateway leads to the destination.
    NoRoute = "no_route",
    /// The neighbour table is full.
    NeighborTableFull = "neighbor_table_full",
    /// Too many packets wait for a neighbour's Ethernet address.
    NeighborQueueFull = "neighbor_queue_full",
    /// A neighbour did not answer ARP or Neighbor Discovery.
    NeighborUnreachable = "neighbor_unreachable",
    /// The TTL or hop limit would fall to 0.
    TtlExpired = "ttl_expired",
    /// Larger than the MTU of the interface it leaves by.
    MtuExceeded = "mtu_exceeded",
    /// The transmit queue did not take the packet.
    TransmitFull = "transmit_full",
    /// The ring to the owning worker was full.
    HandOverFull = "hand_over_full",
    /// Still waiting or in a ring when the director stopped.
    Shutdown = "shutdown",
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Drops by reason.
#[derive(Debug)]
pub struct DropCounters([Counter; DropReason::ALL.len()]);

impl Default for DropCounters {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl DropCounters {
    /// Counts one packet.
    #[inline]
    pub fn count(&self, reason: DropReason) {
        if let Some(counter) = self.0.get(reason as usize) {
            counter.increment();
        }
    }

    /// Packets dropped for `reason`.
    pub fn get(&self, reason: DropReason) -> u64 {
        self.0.get(reason as usize).map_or(0, Counter::get)
    }

    /// All drops.
    pub fn total(&self) -> u64 {
        self.0.iter().map(Counter::get).sum()
    }
}

/// Live connections by state.
#[derive(Debug)]
pub struct StateGauges([Counter; ConnectionState::COUNT]);

impl Default for StateGauges {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl StateGauges {
    /// The gauge of one state.
    #[inline]
    pub fn of(&self, state: ConnectionState) -> &Counter {
        let [first, ..] = &self.0;
        self.0.get(state as usize).unwrap_or(first)
    }
}

/// Traffic of one real server of one service, as one worker saw it.
#[derive(Debug, Default)]
pub struct ServerCounters {
    /// Connections scheduled, and datagrams of one-packet services (as IPVS counts).
    pub connections: Counter,
    /// Packets from clients.
    pub in_packets: Counter,
    /// Packets to clients.
    pub out_packets: Counter,
    /// Octets from clients, from the IP header on (as IPVS counts).
    pub in_octets: Counter,
    /// Octets to clients, from the IP header on.
    pub out_octets: Counter,
}

impl ServerCounters {
    /// All of them, in their order.
    pub const fn all(&self) -> [&Counter; 5] {
        let Self { connections, in_packets, out_packets, in_octets, out_octets } = self;
        [connections, in_packets, out_packets, in_octets, out_octets]
    }

    /// Goes on from what another director has counted, in the order of [`ServerCounters::all`].
    pub(super) fn carry(&self, counts: [u64; 5]) {
        for (counter, count) in self.all().into_iter().zip(counts) {
            counter.add(count);
        }
    }
}

/// The stages of a worker's round: the values of label `stage` of
/// `pointsman_worker_stage_cycles_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// Packets are taken from receive queues and from other workers' rings.
    Receive,
    /// Packets are classified, their connections fetched.
    LookUp,
    /// Packets are translated, connections opened.
    Forward,
    /// Packets are given to transmit queues and to other workers.
    Transmit,
    /// Connections end, commands are carried out.
    Housekeep,
}

impl Stage {
    /// All of them, in their order.
    pub const ALL: &'static [Self] =
        &[Self::Receive, Self::LookUp, Self::Forward, Self::Transmit, Self::Housekeep];

    /// The label's value.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Receive => "receive",
            Self::LookUp => "look_up",
            Self::Forward => "forward",
            Self::Transmit => "transmit",
            Self::Housekeep => "housekeep",
        }
    }
}

/// TSC cycles by stage, of the rounds that were watched.
#[derive(Debug, Default)]
pub struct StageStats {
    cycles: [Counter; Stage::ALL.len()],
    /// Packets of those rounds.
    pub packets: Counter,
}

impl StageStats {
    /// The cycles of one stage.
    pub fn of(&self, stage: Stage) -> &Counter {
        let [first, ..] = &self.cycles;
        self.cycles.get(stage as usize).unwrap_or(first)
    }
}

/// Occupancy of one connection table.
#[derive(Debug, Default)]
pub struct TableGauges {
    /// Live connections by state.
    pub states: StateGauges,
    /// Live connections.
    pub used: Counter,
    /// Connections that fit.
    pub capacity: Counter,
    /// Connections forgotten after their timeout.
    pub expired: Counter,
}

/// Everything that one worker counts.
#[derive(Debug, Default)]
pub struct WorkerStats {
    /// Packets taken from receive queues.
    pub received: Counter,
    /// Octets of those frames, without FCS.
    pub received_octets: Counter,
    /// Packets that the worker made itself (ARP, ND, echo replies).
    pub originated: Counter,
    /// Packets that a transmit queue took.
    pub transmitted: Counter,
    /// Octets of those frames, without FCS.
    pub transmitted_octets: Counter,
    /// Packets that ended here because they were answered or understood (ARP, ND, echo).
    pub consumed: Counter,
    /// Packets given to another worker (its flow, or its transmit queue).
    pub handed_out: Counter,
    /// Packets taken over from another worker.
    pub handed_in: Counter,
    /// Gauge: packets that wait for a neighbour's Ethernet address.
    pub held: Counter,
    /// Drops by reason.
    pub dropped: DropCounters,
    /// ICMP errors and TCP resets of our own.
    pub errors_sent: Counter,
    /// Those that the rate limit held back.
    pub errors_suppressed: Counter,
    /// Segments that ask clients of removed servers for their sequence numbers.
    pub removal_probes: Counter,
    /// TCP resets to clients of removed servers.
    pub removal_resets: Counter,
    /// Own packets that could not be made because no buffer was free.
    pub no_buffer: Counter,
    /// Events lost because the control thread did not empty its queue.
    pub events_lost: Counter,
    /// Connections that were taken over from another director's messages.
    pub adopted: Counter,
    /// Connections and templates of another director that were left out: their service, their
    /// server or their way back is not known here.
    pub not_adopted: Counter,
    /// The IPv4 connection table.
    pub table_v4: TableGauges,
    /// The IPv6 connection table.
    pub table_v6: TableGauges,
    /// Gauge: control connections that a helper reads.
    pub helped: Counter,
    /// Control connections that pass unread, because as many as fit are read.
    pub unhelped: Counter,
    /// Gauge: data connections that helpers expect, of all workers; told by the first one.
    pub expected: Counter,
    /// Gauge: connection templates, of all workers; told by the first one.
    pub templates: Counter,
    /// Connections of services with persistence that no template remembers, because as many as fit
    /// are remembered.
    pub templates_lost: Counter,
    /// Gauge: known and wanted neighbours.
    pub neighbors: Counter,
    /// Rounds of the worker's loop.
    pub polls: Counter,
    /// Rounds that found packets.
    pub busy_polls: Counter,
    /// Bursts of packets that were processed.
    pub bursts: Counter,
    /// TSC cycles of rounds that found packets.
    pub busy_cycles: Counter,
    /// TSC cycles of all rounds, pauses included.
    pub cycles: Counter,
    /// Where the cycles go.
    pub stages: StageStats,
    /// Gauge: packets in the receive queues when they were last asked; 0 of drivers that cannot
    /// tell.
    pub receive_depth: Counter,
    /// Gauge: packets in the rings from other workers when they were last asked.
    pub hand_over_depth: Counter,
    /// Traffic of connections that inside hosts opened.
    pub masquerade: ServerCounters,
    /// Gauge: live connections that inside hosts opened.
    pub masqueraded: Counter,
    /// Gauge: halves of connections that another worker has the client's packets of.
    pub halves: Counter,
    /// By [`ServerSlot`].
    servers: Box<[CachePadded<ServerCounters>]>,
}

impl WorkerStats {
    /// Counters for `servers` real servers.
    pub fn new(servers: usize) -> Self {
        Self { servers: (0..servers).map(|_| CachePadded::default()).collect(), ..Self::default() }
    }

    /// The counters of a real server; `None` beyond the configured capacity.
    #[inline]
    pub fn server(&self, slot: ServerSlot) -> Option<&ServerCounters> {
        self.servers.get(slot.index()).map(|counters| &**counters)
    }

    /// What the conservation law misses: 0 unless a packet vanished or was counted twice.
    /// Exact when the worker is at rest.
    pub fn imbalance(&self) -> i128 {
        let come = self.received.get() + self.handed_in.get() + self.originated.get();
        let gone = self.transmitted.get()
            + self.handed_out.get()
            + self.consumed.get()
            + self.dropped.total()
            + self.held.get();
        i128::from(come) - i128::from(gone)
    }
}
