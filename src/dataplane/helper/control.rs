//! What a worker knows of its control connections: one slot each, all allocated at start.

use std::net::SocketAddr;
use std::sync::Arc;

use zerocopy::FromZeros;

use super::expectation::{ControlNumber, Expectations, Expected, Opener, Refused, Ticket};
use super::ftp::{self, Message, Named};
use super::stream::{Line, LineReader, Text, Way};
use crate::clock::Tick;
use crate::dataplane::stats::DropReason;
use crate::dataplane::sync::HelpedText;
use crate::dpdk::memory::{HugeSlice, MemoryError};
use crate::ids::{ServerSlot, ServiceId};
use crate::service::Helper;
use crate::wire::flow_key::Direction;

/// Ports that are tried for a passive data connection.
const PORTS_TRIED: u16 = 32;
/// The first port that a passive data connection may go to: those below are no place for data
/// (RFC 2577 section 3).
const FIRST_PASSIVE: u16 = 1024;
/// Slots of ended connections that are looked at for one without data connections.
const SLOTS_TRIED: u32 = 8;
/// No slot.
const NIL: u32 = u32::MAX;

/// A control connection.
#[derive(FromZeros)]
#[repr(C)]
pub(super) struct Control {
    pub(super) client: Way,
    pub(super) server: Way,
    pub(super) text: TextState,
    /// The next slot of the list of free ones.
    next_free: u32,
}

impl Control {
    /// The way of a direction, and the other one.
    pub(super) const fn ways(&mut self, direction: Direction) -> (&mut Way, &mut Way) {
        match direction {
            Direction::Inbound => (&mut self.client, &mut self.server),
            Direction::Reply => (&mut self.server, &mut self.client),
        }
    }
}

/// What the text said so far.
#[derive(FromZeros)]
#[repr(C)]
pub(super) struct TextState {
    /// What was announced last and before that.
    tickets: [Ticket; 2],
    /// What follows is encrypted.
    is_over: u8,
    /// Commands of the client that a 227 or 229 has not answered.
    asked: u8,
}

impl TextState {
    /// Whether what follows is encrypted.
    pub(super) const fn is_over(&self) -> bool {
        self.is_over != 0
    }

    /// Commands of the client that are not answered.
    pub(super) const fn asked(&self) -> u8 {
        self.asked
    }

    /// Goes on where another director was.
    pub(super) fn restore(&mut self, is_over: bool, asked: u8) {
        *self = Self { is_over: is_over.into(), asked, ..Self::new_zeroed() };
    }

    /// A new announcement takes the place of the one before the last.
    fn remember(&mut self, ticket: Ticket, expectations: &Expectations) {
        let [last, before] = self.tickets;
        if last != ticket {
            expectations.revoke(before);
            self.tickets = [ticket, last];
        }
    }
}

/// A worker's control connections.
pub(in crate::dataplane) struct Controls {
    slots: HugeSlice<Control>,
    /// The list of free slots: taken at its head, given back at its tail.
    head: u32,
    tail: u32,
    /// Slots from here on were never used.
    fresh: u32,
    used: u32,
    /// The number of the first slot over all workers.
    first: u32,
    pub(in crate::dataplane) expectations: Arc<Expectations>,
    /// Where the search for expired expectations goes on.
    cursor: usize,
}

impl Controls {
    pub(in crate::dataplane) fn new(
        capacity: u32,
        first: u32,
        expectations: Arc<Expectations>,
    ) -> Result<Self, MemoryError> {
        Ok(Self {
            slots: HugeSlice::zeroed(capacity as usize)?,
            head: NIL,
            tail: NIL,
            fresh: 0,
            used: 0,
            first,
            expectations,
            cursor: 0,
        })
    }

    pub(super) const fn used(&self) -> u32 {
        self.used
    }

    pub(super) const fn number(&self, slot: u32) -> ControlNumber {
        ControlNumber(self.first + slot)
    }

    pub(super) fn get(&self, slot: u32) -> Option<&Control> {
        self.slots.get(slot as usize)
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut Control> {
        self.slots.get_mut(slot as usize)
    }

    /// As [`Controls::get_mut`], beside the expectations.
    pub(super) fn beside_expectations(
        &mut self,
        slot: u32,
    ) -> Option<(&mut Control, &Expectations)> {
        Some((self.slots.get_mut(slot as usize)?, &self.expectations))
    }

    /// A slot for a connection whose ends have sent everything before these sequence numbers.
    pub(super) fn take(&mut self, client: u32, server: u32) -> Option<u32> {
        let slot = self.free_slot()?;
        let control = self.slots.get_mut(slot as usize)?;
        control.client.begin(client);
        control.server.begin(server);
        control.text = TextState::new_zeroed();
        self.used += 1;
        Some(slot)
    }

    /// How far a control connection was read.
    pub(super) fn text(&self, slot: u32) -> Option<HelpedText> {
        let Control { client, server, text, .. } = self.slots.get(slot as usize)?;
        let (client, server) = (client.stretch(), server.stretch());
        Some(HelpedText { client, server, is_over: text.is_over != 0 })
    }

    /// Goes on where another director has read until.
    pub(super) fn resume(&mut self, slot: u32, text: &HelpedText) {
        let Some(control) = self.slots.get_mut(slot as usize) else { return };
        control.client.resume(text.client);
        control.server.resume(text.server);
        control.text.is_over = text.is_over.into();
    }

    fn free_slot(&mut self) -> Option<u32> {
        if (self.fresh as usize) < self.slots.len() {
            self.fresh += 1;
            return Some(self.fresh - 1);
        }
        for _ in 0..SLOTS_TRIED {
            let slot = self.head;
            self.head = self.slots.get(slot as usize)?.next_free;
            if self.head == NIL {
                self.tail = NIL;
            }
            // The number still counts data connections of the one before.
            if !self.expectations.has_data(self.number(slot)) {
                return Some(slot);
            }
            self.append_free(slot);
        }
        None
    }

    fn append_free(&mut self, slot: u32) {
        if let Some(control) = self.slots.get_mut(slot as usize) {
            control.next_free = NIL;
        }
        match self.slots.get_mut(self.tail as usize) {
            Some(last) => last.next_free = slot,
            None => self.head = slot,
        }
        self.tail = slot;
    }

    /// The control connection ended: nothing is expected any more.
    pub(super) fn give_back(&mut self, slot: u32) {
        let Some(control) = self.slots.get_mut(slot as usize) else { return };
        let [last, before] = control.text.tickets;
        self.expectations.revoke(last);
        self.expectations.revoke(before);
        self.append_free(slot);
        self.used = self.used.saturating_sub(1);
    }

    /// Forgets expectations that have expired, a few at a time.
    pub(in crate::dataplane) fn sweep(&mut self, now: Tick) {
        self.cursor = self.expectations.sweep(self.cursor, now);
    }
}

/// The ends of a control connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parties {
    pub(super) client: SocketAddr,
    pub(super) vip: SocketAddr,
    pub(super) server: SocketAddr,
    /// Whether the server sees the client itself.
    pub(super) server_sees_client: bool,
    pub(super) service: ServiceId,
    pub(super) slot: ServerSlot,
    pub(super) control: ControlNumber,
}

/// Reads the lines of one segment.
pub(super) struct Reader<'r, S> {
    pub(super) helper: Helper,
    pub(super) from: Direction,
    pub(super) parties: Parties,
    pub(super) text: &'r mut TextState,
    pub(super) expectations: &'r Expectations,
    /// Whether a service listens on this port of the VIP.
    pub(super) is_service: S,
    pub(super) now: Tick,
}

impl<S: Fn(u16) -> bool> LineReader for Reader<'_, S> {
    fn is_over(&self) -> bool {
        self.text.is_over != 0
    }

    fn may_matter(&self, beginning: &[u8]) -> bool {
        match self.helper {
            Helper::Ftp => ftp::may_matter(self.from, beginning),
        }
    }

    fn read(&mut self, line: &[u8], text: &mut Text) -> Result<Line, DropReason> {
        let message = match self.helper {
            Helper::Ftp => ftp::read(self.from, line),
        };
        match message {
            Message::Other => Ok(Line::Unchanged),
            Message::Ask => {
                self.text.asked = self.text.asked.saturating_add(1);
                Ok(Line::Unchanged)
            }
            Message::Encrypted => {
                self.text.is_over = 1;
                Ok(Line::Unchanged)
            }
            Message::Active(named) => self.active(&named),
            Message::Passive(named) => self.passive(&named, line, text),
        }
    }
}

impl<S: Fn(u16) -> bool> Reader<'_, S> {
    fn expected(&self, opener: Opener) -> Expected {
        let Parties { client, vip, server, service, slot, control, .. } = self.parties;
        let (source, destination, other) = match opener {
            Opener::Client => (client.ip(), vip, server),
            Opener::Server => (server.ip(), client, vip),
        };
        Expected { opener, source, destination, other, service, slot, control }
    }

    /// The client listens. The text stays: the server sees the client's own address.
    fn active(&mut self, named: &Named) -> Result<Line, DropReason> {
        let Parties { client, vip, .. } = self.parties;
        // Nowhere but to the client itself (RFC 2577 section 3).
        if named.address != Some(client.ip()) || !self.parties.server_sees_client {
            return Ok(Line::Unchanged);
        }
        let mut expected = self.expected(Opener::Server);
        expected.destination.set_port(named.port);
        // The data port lies below the control port (RFC 959 section 8).
        expected.other.set_port(vip.port().saturating_sub(1).max(1));
        let ticket = self
            .expectations
            .expect(expected, self.now)
            .map_err(|_| DropReason::ExpectationTableFull)?;
        self.text.remember(ticket, self.expectations);
        Ok(Line::Unchanged)
    }

    /// The server listens: the client is told of the VIP. Only when it asked: a server may be
    /// brought to say anything, a file's name for example.
    fn passive(&mut self, named: &Named, line: &[u8], text: &mut Text) -> Result<Line, DropReason> {
        let Parties { vip, server, .. } = self.parties;
        let Some(asked) = self.text.asked.checked_sub(1) else { return Ok(Line::Unchanged) };
        let is_servers =
            named.address.is_none_or(|address| address == server.ip() || address == vip.ip());
        if !is_servers || named.port < FIRST_PASSIVE {
            self.text.asked = asked;
            return Ok(Line::Unchanged);
        }
        let port = self.expect_passive(named.port)?;
        self.text.asked = asked;
        let endpoint = SocketAddr::new(vip.ip(), port);
        let parts = [line.get(..named.at.start), line.get(named.at.end..)];
        let ([Some(before), Some(after)], Some(endpoint)) =
            (parts, ftp::write(named.form, endpoint))
        else {
            return Ok(Line::Unchanged);
        };
        for part in [before, endpoint.as_bytes(), after] {
            text.try_extend_from_slice(part).map_err(|_| DropReason::HelperBusy)?;
        }
        Ok(Line::Replaced)
    }

    /// Expects the client at the VIP: on the server's own port where that is free.
    fn expect_passive(&mut self, port: u16) -> Result<u16, DropReason> {
        let mut expected = self.expected(Opener::Client);
        expected.other.set_port(port);
        for step in 0..PORTS_TRIED {
            // Others from the dynamic range (RFC 6335 section 6), anywhere in it.
            let other = port.wrapping_add(step.wrapping_mul(5_077));
            let candidate = if step == 0 { port } else { 49_152 + other % 16_384 };
            if (self.is_service)(candidate) {
                continue;
            }
            expected.destination.set_port(candidate);
            match self.expectations.expect(expected, self.now) {
                Ok(ticket) => {
                    self.text.remember(ticket, self.expectations);
                    return Ok(candidate);
                }
                Err(Refused::Taken) => {}
                Err(Refused::Full) => return Err(DropReason::ExpectationTableFull),
            }
        }
        Err(DropReason::ExpectationTableFull)
    }
}
