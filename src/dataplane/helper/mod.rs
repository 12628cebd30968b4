//! Helpers: protocols that name the endpoints of further connections in their text.
//!
//! Called off the hit path, for connections whose record says so. A helper reads the lines of a
//! control connection (`stream`), writes other endpoints into them where need be, and announces
//! the data connections (`expectation`); `data` opens those when they come. What is special about
//! one protocol is in its own file (`ftp`): another line protocol is another [`Helper`].

mod control;
mod data;
mod emission;
mod expectation;
mod ftp;
mod moved;
mod segment;
mod stream;
#[cfg(test)]
mod tests;

pub(in crate::dataplane) use control::Controls;
pub(in crate::dataplane) use data::open_expected;
pub use expectation::Expectations;
pub use moved::{ControlImage, ExpectedRow};

use super::classify::Packet;
use super::conn::{Connection, ConnectionTable, Flags, Found};
use super::family::Family;
use super::flow::next_hop;
use super::frame::{Frame, Outlet};
use super::next_hop::AdjacencyId;
use super::shared::Shared;
use super::stats::{DropReason, WorkerStats};
use super::sync::HelpedText;
use crate::clock::Tick;
use crate::ids::WorkerId;
use crate::service::{FamilyServices, Helper};
use crate::wire::U16;
use crate::wire::flow_key::Direction;
use crate::wire::tcp::flags;
use control::{Parties, Reader};
use emission::Segment;
use expectation::ControlNumber;
use segment::{Acknowledgement, Numbers, Shape};

/// Control connections that a worker reads.
pub const CONTROL_CONNECTIONS: u32 = 4096;
/// Data connections that are expected at once, over all workers.
pub const EXPECTATIONS: usize = 16_384;
/// How long a control connection whose time is over lives on while it has data connections,
/// milliseconds; then it is asked again. As in IPVS.
pub(super) const GRACE_MS: u32 = 60_000;
/// Octets of the most data that is written anew.
const SCRATCH: usize = 9_216;

/// A worker's part: its control connections, and room for one segment.
pub(super) struct Helpers {
    pub(super) controls: Controls,
    scratch: Vec<u8>,
}

impl std::fmt::Debug for Helpers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Helpers").field("used", &self.controls.used()).finish_non_exhaustive()
    }
}

impl Helpers {
    pub(super) fn new(controls: Controls) -> Self {
        Self { controls, scratch: Vec::with_capacity(SCRATCH) }
    }
}

/// A segment that was looked at.
struct Helped {
    ip_octets: u16,
    /// What the sender can be told in the receiver's place, and the timestamp to echo.
    told: Option<u32>,
    timestamp: Option<[u8; 4]>,
}

impl<F: Frame> Shared<F> {
    /// Sends on a segment, already translated, of a connection that a helper reads.
    #[cold]
    #[inline(never)]
    pub(super) fn help<A: Family>(
        &mut self,
        table: &mut ConnectionTable<A>,
        found: Found,
        (packet, now): (&Packet, Tick),
        mut frame: F,
        outlet: &mut impl Outlet<F>,
    ) {
        let Some(connection) = table.get(found.id).copied() else {
            return self.drop(frame, DropReason::NoConnection, outlet);
        };
        let hop = next_hop(&connection, found.direction);
        let shape = match Shape::of(&frame, packet) {
            Ok(shape) => shape,
            Err(reason) => return self.drop(frame, reason, outlet),
        };
        // What is believed must not be what the receiver will discard: numbers as little as text.
        if !shape.is_intact::<A, F>(&frame) {
            return self.drop(frame, DropReason::BadChecksum, outlet);
        }
        let Some(slot) = self.control_slot(table, found, &shape) else {
            return self.send(hop, packet.ip_octets, frame, outlet);
        };
        let work = Work { connection: &connection, direction: found.direction, shape, slot, hop };
        let before = self.helpers.controls.text(slot);
        match self.read_segment(&work, now, &mut frame) {
            Ok(helped) => {
                self.send(hop, helped.ip_octets, frame, outlet);
                if self.helpers.controls.text(slot) != before {
                    self.synchronise(&connection);
                }
                if let Some(told) = helped.told {
                    self.acknowledge_held(&work, (told, helped.timestamp), outlet);
                }
            }
            Err(reason) => self.drop(frame, reason, outlet),
        }
    }

    /// The slot of a control connection. It gets one with the first segment that shows that the
    /// handshake is complete: half-open connections, and guessed ones, take none. Without a free
    /// one it is read never: from the middle of a line on there is nothing to go by.
    fn control_slot<A: Family>(
        &mut self,
        table: &mut ConnectionTable<A>,
        found: Found,
        shape: &Shape,
    ) -> Option<u32> {
        let record = table.get_mut(found.id)?;
        if let Some(slot) = slot_of(record) {
            return Some(slot);
        }
        let (sequence, acknowledgement) =
            (shape.header.sequence.get(), shape.header.acknowledgement.get());
        if !shape.has(flags::ACK) || shape.has(flags::RST) {
            return None;
        }
        let (client, server) = match found.direction {
            Direction::Reply if shape.has(flags::SYN) => {
                record.helper = HANDSHAKE | sequence.wrapping_add(1);
                return None;
            }
            Direction::Reply => (acknowledgement, sequence),
            // It knows the server's first sequence number.
            Direction::Inbound if record.helper == HANDSHAKE | acknowledgement => {
                (sequence, acknowledgement)
            }
            Direction::Inbound => return None,
        };
        let Some(slot) = self.helpers.controls.take(client, server) else {
            record.flags = record.flags.without(Flags::HELPED);
            record.helper = 0;
            self.stats.unhelped.increment();
            return None;
        };
        record.helper = slot + 1;
        self.stats.helped.set(u64::from(self.helpers.controls.used()));
        Some(slot)
    }

    /// Reads a segment and writes what the receiver is to get.
    fn read_segment<A: Family>(
        &mut self,
        work: &Work<'_, A>,
        now: Tick,
        frame: &mut F,
    ) -> Result<Helped, DropReason> {
        let Work { shape, direction, .. } = *work;
        let mtu = self.next_hops.get(work.hop).map_or(0, |adjacency| usize::from(adjacency.mtu));
        let parties = parties(work, self.helpers.controls.number(work.slot));
        let services = A::services(&self.services);
        let Helpers { controls, scratch } = &mut self.helpers;
        let (control, expectations) =
            controls.beside_expectations(work.slot).ok_or(DropReason::NoConnection)?;
        let mut segment = shape.segment(frame);
        if shape.has(flags::SYN | flags::RST) {
            // Neither carries lines.
            segment = Segment { data: &[], fin: false, ..segment };
        }
        let mut reader = Reader {
            helper: Helper::Ftp,
            from: direction,
            parties,
            text: &mut control.text,
            expectations,
            is_service: |port| is_service(services, work.connection.vip().0, port),
            now,
        };
        let ways = (&mut control.client, &mut control.server);
        let (way, other) = match direction {
            Direction::Inbound => ways,
            Direction::Reply => (ways.1, ways.0),
        };
        way.take(segment, &mut reader)?;
        let acknowledgement = shape.header.acknowledgement.get();
        let acknowledgement =
            if shape.has(flags::ACK) { other.acknowledge(acknowledgement) } else { 0 };
        let timestamp = shape.timestamp(frame);
        way.note(segment, shape.header.window, timestamp);
        let limit = mtu.saturating_sub(shape.headers()).min(scratch.capacity());
        let emission = way.emit(segment, limit, scratch)?;
        let numbers = Numbers {
            sequence: emission.sequence,
            acknowledgement,
            fin: emission.fin || shape.has(flags::SYN | flags::RST),
            selective: &|block| other.selective(block),
        };
        let data = emission.changed.then_some(scratch.as_slice());
        let ip_octets =
            shape.rewrite::<A, F>(frame, &numbers, data).ok_or(DropReason::HelperUnreadable)?;
        Ok(Helped { ip_octets, told: way.acknowledge_held(), timestamp })
    }

    /// Tells the sender that its held octets came.
    fn acknowledge_held<A: Family>(
        &mut self,
        work: &Work<'_, A>,
        (told, timestamp): (u32, Option<[u8; 4]>),
        outlet: &mut impl Outlet<F>,
    ) {
        let Some(control) = self.helpers.controls.get_mut(work.slot) else { return };
        let (_, other) = control.ways(work.direction);
        let connection = work.connection;
        let (from, to, hop) = match work.direction {
            Direction::Inbound => {
                (connection.vip(), connection.client(), connection.path.to_client)
            }
            Direction::Reply => {
                (connection.local(), connection.server(), connection.path.to_server)
            }
        };
        let acknowledgement = Acknowledgement {
            from,
            to,
            sequence: work.shape.header.acknowledgement.get(),
            next: told,
            window: other.window,
            timestamps: timestamp.map(|echo| (other.timestamp, echo)),
        };
        let Some(mut frame) = outlet.allocate() else { return self.stats.no_buffer.increment() };
        let Some(ip_octets) = acknowledgement.write(&mut frame) else {
            self.stats.no_buffer.increment();
            return outlet.discard(frame);
        };
        self.stats.originated.increment();
        self.send(hop, ip_octets, frame, outlet);
    }

    /// Goes on with a control connection where another director has read until.
    #[cold]
    pub(super) fn resume<A: Family>(&mut self, record: &mut Connection<A>, text: &HelpedText) {
        let known = slot_of(record);
        let slot = known.or_else(|| self.helpers.controls.take(text.client.next, text.server.next));
        let Some(slot) = slot else {
            record.flags = record.flags.without(Flags::HELPED);
            record.helper = 0;
            self.stats.unhelped.increment();
            return;
        };
        record.helper = slot + 1;
        self.helpers.controls.resume(slot, text);
        self.stats.helped.set(u64::from(self.helpers.controls.used()));
    }

    /// Tells the helpers of a connection that ended.
    #[cold]
    pub(super) fn helped_ends<A>(&mut self, connection: &Connection<A>) {
        if !connection.flags.has(Flags::HELPED) {
            let control = ControlNumber(connection.helper.saturating_sub(1));
            self.helpers.controls.expectations.data_ends(control);
        } else if let Some(slot) = slot_of(connection) {
            self.helpers.controls.give_back(slot);
            self.stats.helped.set(u64::from(self.helpers.controls.used()));
        }
    }
}

/// Set in the record of a control connection whose handshake is not complete; the other bits are
/// those of the acknowledgement that completes it.
const HANDSHAKE: u32 = 1 << 31;

/// The slot of a control connection that has one.
pub(in crate::dataplane) fn slot_of<A>(connection: &Connection<A>) -> Option<u32> {
    let is_slot = connection.helper & HANDSHAKE == 0;
    connection.helper.checked_sub(1).filter(|_| is_slot)
}

impl Helpers {
    /// Forgets expectations that have expired, a few at a time.
    pub(super) fn sweep(&mut self, stats: &WorkerStats, worker: WorkerId, now: Tick) {
        self.controls.sweep(now);
        if worker == WorkerId(0) {
            stats.expected.set(self.controls.expectations.len().into());
        }
    }

    /// How far a control connection was read; `None`: it has not begun.
    pub(super) fn text_of<A>(&self, connection: &Connection<A>) -> Option<HelpedText> {
        self.controls.text(slot_of(connection)?)
    }

    fn has_data(&self, slot: u32) -> bool {
        self.controls.expectations.has_data(self.controls.number(slot))
    }

    /// Whether a connection whose time is over must live on: data connections of it are live.
    pub(super) fn needs<A>(&self, connection: &Connection<A>) -> bool {
        connection.flags.has(Flags::HELPED)
            && slot_of(connection).is_some_and(|slot| self.has_data(slot))
    }
}

/// A segment and what it belongs to.
struct Work<'c, A> {
    connection: &'c Connection<A>,
    direction: Direction,
    shape: Shape,
    slot: u32,
    hop: AdjacencyId,
}

fn parties<A: Family>(work: &Work<'_, A>, control: ControlNumber) -> Parties {
    let connection = work.connection;
    let endpoint =
        |(address, port): (A, U16)| std::net::SocketAddr::new(address.to_ip(), port.get());
    Parties {
        client: endpoint(connection.client()),
        vip: endpoint(connection.vip()),
        server: endpoint(connection.server()),
        server_sees_client: !connection.flags.has(Flags::FULL_NAT),
        service: connection.service(),
        slot: connection.slot(),
        control,
    }
}

fn is_service<A: Family>(services: &FamilyServices<A>, vip: A, port: u16) -> bool {
    services.names(vip, U16::new(port), crate::wire::ipv4::protocol::TCP)
}
