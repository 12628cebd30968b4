//! The workers' part of a restart: everything they know of connections leaves by bounded queues,
//! and the workers of the director that takes this one's place take it over.
//!
//! The old director walks through its tables while it goes on forwarding; connections that end
//! meanwhile are told of. Then its workers hold still, and a second pass tells of the connections
//! that have seen a packet since the walk began. The new director is mute until it has all of them.

mod arrival;
mod departure;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicU8, AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use crossbeam::queue::ArrayQueue;
use serde::{Deserialize, Serialize};

use crate::clock::Tick;
use crate::ids::{ServerSlot, WorkerId};
use crate::wire::U16;
use crate::wire::address::Address;
use crate::wire::flow_key::FlowKey;

pub use super::helper::{ControlImage, Expectations, ExpectedRow};
pub(super) use departure::Walk;

/// Parcels that fit a worker's queue, one way.
const PARCELS: usize = 8192;
/// Control connections that do.
const CONTROLS: usize = 64;

/// What a director's workers do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// They forward.
    Open = 0,
    /// Another director forwards: whatever comes is dropped, and nothing is sent.
    Mute = 1,
    /// Nobody forwards: nothing is received either, so that what comes waits in the queues of the
    /// ports.
    Hold = 2,
}

/// A connection, with all that a director knows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// IP protocol.
    pub protocol: u8,
    /// The number of its state.
    pub state: u8,
    /// What is special about it: [`Moved::OUTBOUND`] and the others.
    pub traits: u8,
    /// How long no packet has come, milliseconds.
    pub idle_ms: u32,
    /// How long none may come, milliseconds.
    pub timeout_ms: u32,
    /// The client, or the outside endpoint of a connection from the inside.
    pub client: SocketAddr,
    /// What the client speaks to, or what an inside host appears with.
    pub vip: SocketAddr,
    /// Whom the server sees.
    pub local: SocketAddr,
    /// The real server, or the inside host.
    pub server: SocketAddr,
    /// The numbers of the service and the server; `None`: it is through none.
    pub through: Option<(u16, u16)>,
    /// The number of the control connection that it is, or belongs to.
    pub control: Option<u32>,
}

impl Moved {
    /// The inside opened it.
    pub const OUTBOUND: u8 = 1;
    /// A helper reads its text.
    pub const HELPED: u8 = 2;
    /// A template led to its server.
    pub const BY_TEMPLATE: u8 = 4;

    /// Whether it is a data connection of a control connection.
    pub const fn is_data(&self) -> bool {
        self.control.is_some() && self.traits & Self::HELPED == 0
    }

    /// The 5-tuples of the client's and of the server's packets, which decide which workers it is
    /// of; `None`: it is of the other address family.
    pub fn keys<A: Address>(&self) -> Option<[FlowKey<A>; 2]> {
        let key = |source: SocketAddr, destination: SocketAddr| {
            Some(FlowKey {
                source: A::from_ip(source.ip())?,
                destination: A::from_ip(destination.ip())?,
                source_port: U16::new(source.port()),
                destination_port: U16::new(destination.port()),
                protocol: self.protocol,
            })
        };
        Some([key(self.client, self.vip)?, key(self.server, self.local)?])
    }

    pub(super) const fn has(&self, of: u8) -> bool {
        self.traits & of != 0
    }
}

/// A control connection, with what its helper knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovedControl {
    /// The connection.
    pub connection: Moved,
    /// What the helper knows.
    pub image: ControlImage,
}

/// A connection that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// IP protocol.
    pub protocol: u8,
    /// The client.
    pub client: SocketAddr,
    /// What it spoke to.
    pub vip: SocketAddr,
}

/// What the workers have counted of a server, in the order of the counters.
pub type Counts = [u64; 5];

/// What the queues carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parcel {
    /// A connection, or what is new of it.
    Connection(Moved),
    /// A connection is over.
    Ended(Ended),
    /// What a server has counted before.
    Counted(ServerSlot, Counts),
}

/// One worker's queues.
#[derive(Debug)]
struct Lane {
    leaving: ArrayQueue<Parcel>,
    leaving_controls: ArrayQueue<MovedControl>,
    coming: ArrayQueue<Parcel>,
    coming_controls: ArrayQueue<MovedControl>,
    /// The last pass that is complete.
    done: AtomicU32,
    /// The phase that the worker has seen last.
    phase: AtomicU8,
    /// Parcels that have come and were dealt with.
    settled: AtomicU64,
    adopted: AtomicU64,
    refused: AtomicU64,
}

impl Lane {
    fn new() -> Self {
        Self {
            leaving: ArrayQueue::new(PARCELS),
            leaving_controls: ArrayQueue::new(CONTROLS),
            coming: ArrayQueue::new(PARCELS),
            coming_controls: ArrayQueue::new(CONTROLS),
            done: AtomicU32::new(0),
            phase: AtomicU8::new(Phase::Open as u8),
            settled: AtomicU64::new(0),
            adopted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }
}

/// A worker's part of a handover.
#[derive(Debug)]
pub(super) struct Handing {
    /// What is shared with whoever speaks to the other director.
    pub(super) channel: Option<Arc<Handover>>,
    /// What the worker is to do.
    pub(super) phase: Phase,
    /// Whether there was something to hand over just now.
    pub(super) is_busy: bool,
    /// How far what leaves is.
    pub(super) walk: Walk,
}

impl Handing {
    /// By this, or by none.
    pub(super) fn by(channel: Option<Arc<Handover>>) -> Self {
        Self { channel, phase: Phase::Open, is_busy: false, walk: Walk::default() }
    }
}

/// What the workers of one director share with whoever speaks to the other director.
#[derive(Debug)]
pub struct Handover {
    phase: AtomicU8,
    /// From when on they are to hold still whatever the phase is, by the time stamp counter, which
    /// both directors read.
    hold_at: AtomicU64,
    /// The pass that is wanted: 0 none, 1 all connections, 2 what has changed since that one began.
    pass: AtomicU32,
    lanes: Vec<Lane>,
    expectations: Arc<Expectations>,
    /// By the number of a control connection in the other director: its number here plus one.
    controls: Vec<AtomicU32>,
    /// Parcels that found a queue full.
    lost: AtomicU64,
}

impl Handover {
    /// For so many workers, in this phase.
    pub fn new(workers: usize, phase: Phase, expectations: Arc<Expectations>) -> Self {
        let controls = expectations.controls();
        Self {
            phase: AtomicU8::new(phase as u8),
            hold_at: AtomicU64::new(u64::MAX),
            pass: AtomicU32::new(0),
            lanes: (0..workers).map(|_| Lane::new()).collect(),
            controls: (0..controls).map(|_| AtomicU32::new(0)).collect(),
            expectations,
            lost: AtomicU64::new(0),
        }
    }

    /// What the workers are to do. `now`: the time stamp counter.
    #[inline]
    pub fn phase(&self, now: u64) -> Phase {
        match self.phase.load(Relaxed) {
            _ if now >= self.hold_at.load(Relaxed) => Phase::Hold,
            0 => Phase::Open,
            1 => Phase::Mute,
            _ => Phase::Hold,
        }
    }

    /// The workers are to do this from now on.
    pub fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Release);
        self.hold_at.store(u64::MAX, Release);
    }

    /// The workers are to hold still from then on, by the time stamp counter: nobody has to tell
    /// them at that moment.
    pub fn hold_from(&self, at: u64) {
        self.hold_at.store(at, Release);
    }

    /// Whether all workers hold still.
    pub fn is_held(&self) -> bool {
        self.lanes.iter().all(|lane| lane.phase.load(Acquire) == Phase::Hold as u8)
    }

    /// Begins a pass through all connections (1), or through what has changed since (2).
    pub fn begin(&self, pass: u32) {
        self.pass.store(pass, Release);
    }

    /// Whether all workers have told all of a pass.
    pub fn is_told(&self, pass: u32) -> bool {
        self.lanes.iter().all(|lane| lane.done.load(Acquire) >= pass)
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.lanes.len()
    }

    /// The next parcel that a worker has let go.
    pub fn leaving(&self, worker: usize) -> Option<Parcel> {
        self.lanes.get(worker)?.leaving.pop()
    }

    /// The next control connection that a worker has let go.
    pub fn leaving_control(&self, worker: usize) -> Option<MovedControl> {
        self.lanes.get(worker)?.leaving_controls.pop()
    }

    /// Gives a worker a parcel; gives it back when too many wait.
    #[allow(clippy::result_large_err, reason = "the caller keeps what was not taken")]
    pub fn bring(&self, worker: WorkerId, parcel: Parcel) -> Result<(), Parcel> {
        let Some(lane) = self.lanes.get(worker.index()) else { return Ok(()) };
        lane.coming.push(parcel)
    }

    /// As [`Handover::bring`], a control connection.
    #[allow(clippy::result_large_err, reason = "the caller keeps what was not taken")]
    pub fn bring_control(
        &self,
        worker: WorkerId,
        control: MovedControl,
    ) -> Result<(), MovedControl> {
        let Some(lane) = self.lanes.get(worker.index()) else { return Ok(()) };
        lane.coming_controls.push(control)
    }

    /// How many parcels the workers have dealt with.
    pub fn settled(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.settled.load(Acquire)).sum()
    }

    /// Connections that the workers have taken over, and that they could not.
    pub fn taken(&self) -> (u64, u64) {
        let sum = |of: fn(&Lane) -> &AtomicU64| {
            self.lanes.iter().map(|lane| of(lane).load(Relaxed)).sum::<u64>()
        };
        (sum(|lane| &lane.adopted), sum(|lane| &lane.refused))
    }

    /// Ends of connections that could not be told of.
    pub fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    /// What helpers expect now.
    pub fn expected(&self, now: Tick) -> impl Iterator<Item = ExpectedRow> {
        self.expectations.rows(now)
    }

    /// Expects what helpers of the other director did; whether there was room, and its control
    /// connection is known.
    pub fn expect(&self, row: &ExpectedRow, now: Tick) -> bool {
        let Some(control) = self.control(row.control) else { return false };
        self.expectations.expect_again(row, control, now)
    }

    /// The number here of a control connection of the other director.
    fn control(&self, there: u32) -> Option<u32> {
        self.controls.get(there as usize)?.load(Acquire).checked_sub(1)
    }

    fn set_control(&self, there: u32, here: u32) {
        if let Some(place) = self.controls.get(there as usize) {
            place.store(here + 1, Release);
        }
    }

    fn lane(&self, worker: WorkerId) -> Option<&Lane> {
        self.lanes.get(worker.index())
    }
}
