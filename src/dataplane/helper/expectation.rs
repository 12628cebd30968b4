//! Data connections that helpers announced, shared by all workers: a data connection has another
//! client port than its control connection, and so may have another owner.
//!
//! Touched only where connections begin and end. Entries are guarded by versions: a writer makes
//! the version odd by compare-exchange and gives up when another one holds the entry; a reader
//! believes only what it read under one even version. Nobody ever waits.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
    fence,
};

use crate::clock::Tick;
use crate::ids::{ServerSlot, ServiceId};
use crate::wire::U16;
use crate::wire::address::V6;
use crate::wire::flow_key::{FlowKey, HashSecret};
use crate::wire::ipv4::protocol;

/// How long a data connection is waited for, as in IPVS.
pub(super) const LIFETIME_MS: u32 = 60_000;
/// Entries that a key may lie in.
const WINDOW: usize = 16;
/// 64-bit words of an entry.
const WORDS: usize = 9;

/// A control connection, over all workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlNumber(pub u32);

/// Who opens the data connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opener {
    /// The client, to the VIP (passive).
    Client = 1,
    /// The server, to the client (active).
    Server = 2,
}

/// A data connection that is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Who opens it.
    pub opener: Opener,
    /// The opener's address; from any port.
    pub source: IpAddr,
    /// What the opener connects to: the VIP, or the client.
    pub destination: SocketAddr,
    /// What the other end gets to see: the server that it goes to, or the VIP that it comes from.
    pub other: SocketAddr,
    /// The service of the control connection.
    pub service: ServiceId,
    /// Its real server.
    pub slot: ServerSlot,
    /// The control connection, which lives as long as its data connections.
    pub control: ControlNumber,
}

impl Expected {
    fn is_same_translation(&self, other: &Self) -> bool {
        self.opener == other.opener && self.other == other.other
    }

    fn is_for(&self, source: IpAddr, destination: SocketAddr) -> bool {
        self.source == source && self.destination == destination
    }
}

/// An entry as it was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, zerocopy::FromZeros)]
#[repr(C)]
pub struct Ticket {
    place: u32,
    /// The low half of the version; 0: no entry.
    version: u32,
}

/// Why nothing can be expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The same opener is expected at the same place for somebody else.
    Taken,
    /// No entry is free.
    Full,
}

/// An entry that a worker holds while it opens the connection; see [`Expectations::settle`].
#[derive(Debug)]
#[must_use]
pub struct Claim {
    place: usize,
    version: u64,
    /// What was expected.
    pub expected: Expected,
}

#[derive(Default)]
struct Entry {
    version: AtomicU64,
    words: [AtomicU64; WORDS],
}

impl Entry {
    /// The version, and what it holds, if that is anything. `None`: somebody is writing.
    fn read(&self) -> Option<(u64, Option<Stored>)> {
        let version = self.version.load(Acquire);
        let words =
            std::array::from_fn(|place| self.words.get(place).map_or(0, |word| word.load(Relaxed)));
        fence(Acquire);
        let is_whole = version.is_multiple_of(2) && self.version.load(Relaxed) == version;
        is_whole.then(|| (version, Stored::from_words(words)))
    }

    /// Takes the entry for writing.
    fn claim(&self, version: u64) -> bool {
        let claimed = self.version.compare_exchange(version, version + 1, Acquire, Relaxed).is_ok();
        fence(Release);
        claimed
    }

    /// Gives back a claimed entry with new contents.
    fn release(&self, version: u64, words: [u64; WORDS]) {
        for (place, word) in self.words.iter().zip(words) {
            place.store(word, Relaxed);
        }
        self.version.store(version + 2, Release);
    }
}

/// An expectation with the end of its life.
#[derive(Clone, Copy)]
struct Stored {
    expected: Expected,
    expires: Tick,
}

fn halves(address: IpAddr) -> [u64; 2] {
    let bits = as_v6(address).to_bits();
    #[allow(clippy::cast_possible_truncation, reason = "the two halves are what is wanted")]
    let halves = [(bits >> 64) as u64, bits as u64];
    halves
}

fn as_v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

fn whole(high: u64, low: u64) -> IpAddr {
    Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low)).to_canonical()
}

impl Stored {
    fn to_words(self) -> [u64; WORDS] {
        let Expected { opener, source, destination, other, service, slot, control } = self.expected;
        let [s0, s1] = halves(source);
        let [d0, d1] = halves(destination.ip());
        let [o0, o1] = halves(other.ip());
        let small = [opener as u16, destination.port(), other.port(), service.0];
        let small = small.into_iter().fold(0, |word, part| word << 16 | u64::from(part));
        let control = u64::from(slot.0) << 32 | u64::from(control.0);
        [small, control, u64::from(self.expires.0), s0, s1, d0, d1, o0, o1]
    }

    #[allow(clippy::cast_possible_truncation, reason = "taken apart as it was put together")]
    fn from_words([small, control, expires, s0, s1, d0, d1, o0, o1]: [u64; WORDS]) -> Option<Self> {
        let opener = match small >> 48 {
            1 => Opener::Client,
            2 => Opener::Server,
            _ => return None,
        };
        let expected = Expected {
            opener,
            source: whole(s0, s1),
            destination: SocketAddr::new(whole(d0, d1), (small >> 32) as u16),
            other: SocketAddr::new(whole(o0, o1), (small >> 16) as u16),
            service: ServiceId(small as u16),
            slot: ServerSlot((control >> 32) as u16),
            control: ControlNumber(control as u32),
        };
        Some(Self { expected, expires: Tick(expires as u32) })
    }
}

const NOTHING: [u64; WORDS] = [0; WORDS];

/// What is expected, and how many data connections each control connection has.
pub struct Expectations {
    entries: Box<[Entry]>,
    /// Entries that hold something, also what has expired.
    used: AtomicU32,
    /// Live data connections by [`ControlNumber`].
    data: Box<[AtomicU32]>,
    secret: HashSecret,
}

impl fmt::Debug for Expectations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shape = (self.entries.len(), self.data.len());
        f.debug_struct("Expectations").field("shape", &shape).finish_non_exhaustive()
    }
}

impl Expectations {
    /// Room for `capacity` expectations (rounded up to a power of two) of `controls` control
    /// connections over all workers.
    pub fn new(capacity: usize, controls: usize, secret: HashSecret) -> Self {
        let capacity = capacity.next_power_of_two().max(WINDOW);
        Self {
            entries: (0..capacity).map(|_| Entry::default()).collect(),
            used: AtomicU32::new(0),
            data: (0..controls).map(|_| AtomicU32::new(0)).collect(),
            secret,
        }
    }

    /// For so many workers, as large as [`super::EXPECTATIONS`] and
    /// [`super::CONTROL_CONNECTIONS`] say.
    pub fn for_workers(workers: u16, secret: HashSecret) -> Self {
        let controls = usize::from(workers) * super::CONTROL_CONNECTIONS as usize;
        Self::new(super::EXPECTATIONS, controls, secret)
    }

    /// Whether nothing at all is expected.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Entries that hold something, also what has expired and was not cleared yet.
    pub fn len(&self) -> u32 {
        self.used.load(Relaxed)
    }

    /// Where the window of a key begins.
    fn place(&self, source: IpAddr, destination: SocketAddr) -> usize {
        let key = FlowKey::<V6> {
            source: as_v6(source).octets(),
            destination: as_v6(destination.ip()).octets(),
            source_port: U16::new(0),
            destination_port: U16::new(destination.port()),
            protocol: protocol::TCP,
        };
        #[allow(clippy::cast_possible_truncation, reason = "reduced to the table's size")]
        let hash = key.hash(&self.secret) as usize;
        hash
    }

    /// The entries of a key's window, with their places.
    fn window(&self, start: usize) -> impl Iterator<Item = (usize, &Entry)> {
        let mask = self.entries.len().wrapping_sub(1);
        (0..WINDOW).filter_map(move |step| {
            let place = start.wrapping_add(step) & mask;
            Some((place, self.entries.get(place)?))
        })
    }

    /// Expects a data connection for a minute. The same one is expected once, however often it
    /// is announced.
    ///
    /// # Errors
    /// Nothing has changed then.
    pub fn expect(&self, expected: Expected, now: Tick) -> Result<Ticket, Refused> {
        let start = self.place(expected.source, expected.destination);
        let mut same = None;
        let mut free = None;
        for (place, entry) in self.window(start) {
            let Some((version, stored)) = entry.read() else { continue };
            let is_fresh = stored.is_none();
            let Some(live) = stored.filter(|stored| !now.reached(stored.expires)) else {
                free = free.or(Some((place, entry, version, is_fresh)));
                continue;
            };
            if !live.expected.is_for(expected.source, expected.destination) {
                continue;
            }
            if !live.expected.is_same_translation(&expected) {
                return Err(Refused::Taken);
            }
            same = Some((place, entry, version, false));
        }
        let (place, entry, version, is_fresh) = same.or(free).ok_or(Refused::Full)?;
        if !entry.claim(version) {
            // Another worker was faster. The announcement comes again.
            return Err(Refused::Full);
        }
        entry.release(version, Stored { expected, expires: now.after(LIFETIME_MS) }.to_words());
        if is_fresh {
            self.used.fetch_add(1, Relaxed);
        }
        #[allow(clippy::cast_possible_truncation, reason = "a table has less than 2^32 entries")]
        let ticket = Ticket { place: place as u32, version: (version + 2) as u32 };
        if self.has_twin(&expected, place, now) {
            self.revoke(ticket);
            return Err(Refused::Taken);
        }
        Ok(ticket)
    }

    /// Whether another worker wrote the same key at the same time, for somebody else.
    fn has_twin(&self, expected: &Expected, own: usize, now: Tick) -> bool {
        let start = self.place(expected.source, expected.destination);
        self.window(start).filter(|(place, _)| *place != own).any(|(_, entry)| {
            entry.read().and_then(|(_, stored)| stored).is_some_and(|stored| {
                !now.reached(stored.expires)
                    && stored.expected.is_for(expected.source, expected.destination)
                    && !stored.expected.is_same_translation(expected)
            })
        })
    }

    /// Expects no longer what was announced, unless it came already.
    pub fn revoke(&self, ticket: Ticket) {
        let Some(entry) = self.entries.get(ticket.place as usize) else { return };
        let version = entry.version.load(Acquire);
        #[allow(clippy::cast_possible_truncation, reason = "the low half is compared")]
        let is_same = version as u32 == ticket.version && ticket.version != 0;
        if is_same && version.is_multiple_of(2) && entry.claim(version) {
            entry.release(version, NOTHING);
            self.used.fetch_sub(1, Relaxed);
        }
    }

    /// Takes what a packet that belongs to no connection may open; to be settled.
    pub fn claim(&self, source: IpAddr, destination: SocketAddr, now: Tick) -> Option<Claim> {
        if self.is_empty() {
            return None;
        }
        for (place, entry) in self.window(self.place(source, destination)) {
            let Some((version, Some(stored))) = entry.read() else { continue };
            let is_wanted =
                stored.expected.is_for(source, destination) && !now.reached(stored.expires);
            if is_wanted && entry.claim(version) {
                return Some(Claim { place, version, expected: stored.expected });
            }
        }
        None
    }

    /// Gives a claim back: the connection began, and is expected no more; or it could not.
    #[allow(clippy::needless_pass_by_value, reason = "a claim is settled once")]
    pub fn settle(&self, claim: Claim, began: bool) {
        let Some(entry) = self.entries.get(claim.place) else { return };
        if began {
            entry.release(claim.version, NOTHING);
            self.used.fetch_sub(1, Relaxed);
            self.change(claim.expected.control, 1);
        } else {
            // Nothing was written: the version is as it was.
            entry.version.store(claim.version, Release);
        }
    }

    /// Forgets what has expired among a few entries from `cursor` on; where to go on.
    pub fn sweep(&self, cursor: usize, now: Tick) -> usize {
        if self.is_empty() {
            return cursor;
        }
        for (_, entry) in self.window(cursor) {
            let Some((version, Some(stored))) = entry.read() else { continue };
            if now.reached(stored.expires) && entry.claim(version) {
                entry.release(version, NOTHING);
                self.used.fetch_sub(1, Relaxed);
            }
        }
        cursor.wrapping_add(WINDOW)
    }

    /// How many control connections there may be.
    pub fn controls(&self) -> usize {
        self.data.len()
    }

    /// All that is expected.
    pub(super) fn all(&self, now: Tick) -> impl Iterator<Item = Expected> {
        let stored = self.entries.iter().filter_map(|entry| entry.read()?.1);
        stored.filter(move |stored| !now.reached(stored.expires)).map(|stored| stored.expected)
    }

    /// A data connection of a control connection has begun elsewhere, and goes on here.
    pub(super) fn data_begins(&self, control: ControlNumber) {
        self.change(control, 1);
    }

    fn change(&self, control: ControlNumber, by: u32) {
        if let Some(count) = self.data.get(control.0 as usize) {
            count.fetch_add(by, Relaxed);
        }
    }

    /// A data connection ended.
    pub fn data_ends(&self, control: ControlNumber) {
        self.change(control, u32::MAX);
    }

    /// Whether a control connection has live data connections.
    pub fn has_data(&self, control: ControlNumber) -> bool {
        self.data.get(control.0 as usize).is_some_and(|count| count.load(Relaxed) > 0)
    }
}
