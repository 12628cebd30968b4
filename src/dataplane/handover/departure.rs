//! What leaves: connections by passes through the tables, and ends of connections as they come.

use std::net::SocketAddr;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::{Ended, Handover, Lane, Moved, MovedControl, Parcel, Phase};
use crate::clock::Tick;
use crate::dataplane::conn::tcp_state::ConnectionState;
use crate::dataplane::conn::{Connection, ConnectionTable, Flags};
use crate::dataplane::family::Family;
use crate::dataplane::frame::Frame;
use crate::dataplane::pipeline::Pipeline;
use crate::dataplane::shared::Shared;
use crate::wire::U16;
use crate::wire::address::Address;

/// Records that are looked at in one go, while packets are forwarded and while nothing is.
const BUDGET: u32 = 128;
const BUDGET_WHEN_HELD: u32 = 4096;
/// Room that the walk leaves to ends of connections.
const KEPT_ROOM: usize = super::PARCELS / 2;

/// How far the passes are.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::dataplane) struct Walk {
    /// The pass at hand, or that was complete last.
    pass: u32,
    is_done: bool,
    is_v6: bool,
    /// The next record.
    at: u32,
    /// When the first pass began.
    since: Tick,
}

/// What a pass leaves out, and when it is.
#[derive(Clone, Copy)]
struct Pass {
    /// Connections without a packet since then are known.
    since: Option<Tick>,
    now: Tick,
}

/// A queue is full.
struct IsFull;

impl<F: Frame> Pipeline<F> {
    /// What the worker is to do.
    #[inline]
    pub const fn phase(&self) -> Phase {
        self.shared.handing.phase
    }

    /// Whether there was something to hand over just now.
    #[inline]
    pub const fn is_handing_over(&self) -> bool {
        self.shared.handing.is_busy
    }

    /// Lets go of what a pass asks for, and takes over what has come.
    pub(in crate::dataplane) fn hand_over(&mut self, now: Tick) {
        let Some(handover) = self.shared.handing.channel.take() else { return };
        if let Some(lane) = handover.lane(self.shared.worker) {
            let phase = self.shared.handing.phase;
            if lane.phase.load(Relaxed) != phase as u8 {
                lane.phase.store(phase as u8, Release);
            }
            let has_told = self.tell(&handover, lane, now);
            let has_taken = self.take_in(&handover, lane, now);
            self.shared.handing.is_busy = has_told || has_taken;
        }
        self.shared.handing.channel = Some(handover);
    }

    /// Whether there was something to tell.
    fn tell(&mut self, handover: &Handover, lane: &Lane, now: Tick) -> bool {
        let wanted = handover.pass.load(Acquire);
        let walk = &mut self.shared.handing.walk;
        if wanted == 0 {
            // Given up.
            *walk = Walk::default();
            return false;
        }
        if wanted > walk.pass {
            let since = if walk.pass == 0 { now } else { walk.since };
            *walk = Walk { pass: wanted, since, ..Walk::default() };
        }
        if walk.is_done {
            return false;
        }
        let mut walk = *walk;
        let since = (walk.pass > 1).then_some(walk.since);
        let (pass, phase) = (Pass { since, now }, self.shared.handing.phase);
        if walk.is_v6 {
            walk.go_on(&self.shared, &self.v6, lane, (pass, phase));
        } else {
            walk.go_on(&self.shared, &self.v4, lane, (pass, phase));
        }
        self.shared.handing.walk = walk;
        if walk.is_done {
            lane.done.store(walk.pass, Release);
        }
        true
    }
}

impl Walk {
    /// Tells of some connections of a table.
    fn go_on<A: Family, F: Frame>(
        &mut self,
        shared: &Shared<F>,
        table: &ConnectionTable<A>,
        lane: &Lane,
        (pass, phase): (Pass, Phase),
    ) {
        let (budget, kept) = match phase {
            Phase::Hold => (BUDGET_WHEN_HELD, 0),
            Phase::Open | Phase::Mute => (BUDGET, KEPT_ROOM),
        };
        let room = super::PARCELS.saturating_sub(lane.leaving.len() + kept);
        let budget = budget.min(u32::try_from(room).unwrap_or(u32::MAX));
        if budget == 0 {
            return;
        }
        let (live, next) = table.walk(self.at, budget);
        for (record, connection) in live {
            if let Err(IsFull) = shared.let_leave(connection, lane, pass) {
                self.at = record;
                return;
            }
        }
        self.at = next.unwrap_or(0);
        if next.is_none() {
            self.is_done = self.is_v6;
            self.is_v6 = true;
        }
    }
}

fn end<A: Address>((address, port): (A, U16)) -> SocketAddr {
    SocketAddr::new(address.to_ip(), port.get())
}

impl<F: Frame> Shared<F> {
    /// Tells of a connection, unless it is known.
    fn let_leave<A: Family>(
        &self,
        connection: &Connection<A>,
        lane: &Lane,
        pass: Pass,
    ) -> Result<(), IsFull> {
        let last_seen = Tick(connection.last_seen);
        let is_known = pass.since.is_some_and(|since| !last_seen.reached(since));
        // Its client is about to be reset, its server gone; or another worker tells of it.
        if is_known || connection.flags.is_retired() || self.is_half(connection) {
            return Ok(());
        }
        let (control, image) = self.helpers.image(connection);
        let moved = Moved { control, ..moved(connection, pass.now) };
        match image {
            Some(image) => {
                let control = MovedControl { connection: moved, image };
                lane.leaving_controls.push(control).map_err(|_| IsFull)
            }
            None => lane.leaving.push(Parcel::Connection(moved)).map_err(|_| IsFull),
        }
    }

    /// A connection is over: who has been told of it must forget it.
    #[inline]
    pub(in crate::dataplane) fn tell_end<A: Address>(&self, connection: &Connection<A>) {
        if self.handing.walk.pass != 0 {
            self.let_end(connection);
        }
    }

    #[cold]
    #[inline(never)]
    fn let_end<A: Address>(&self, connection: &Connection<A>) {
        let Some(handover) = &self.handing.channel else { return };
        let (client, vip) = (end(connection.client()), end(connection.vip()));
        let ended = Ended { protocol: connection.protocol, client, vip };
        let lane = handover.lane(self.worker);
        if lane.is_none_or(|lane| lane.leaving.push(Parcel::Ended(ended)).is_err()) {
            handover.lost.fetch_add(1, Relaxed);
        }
    }
}

fn moved<A: Family>(connection: &Connection<A>, now: Tick) -> Moved {
    let flags = connection.flags;
    let with = |has: bool, of: u8| if has { of } else { 0 };
    let is_through = connection.service().0 != Connection::<A>::NO_SERVICE;
    let through = is_through.then(|| (connection.service().0, connection.slot().0));
    let state: ConnectionState = connection.state();
    // What a helper has put off may lie ahead of now.
    let idle = now.since(Tick(connection.last_seen));
    let idle_ms = if now.reached(Tick(connection.last_seen)) { idle } else { 0 };
    Moved {
        protocol: connection.protocol,
        state: state as u8,
        traits: with(flags.has(Flags::OUTBOUND), Moved::OUTBOUND)
            | with(flags.has(Flags::HELPED), Moved::HELPED)
            | with(flags.is_by_template(), Moved::BY_TEMPLATE),
        idle_ms,
        timeout_ms: connection.timeout_ms,
        client: end(connection.client()),
        vip: end(connection.vip()),
        local: end(connection.local()),
        server: end(connection.server()),
        through,
        control: None,
    }
}
