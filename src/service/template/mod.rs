//! Connection templates (persistence): which server a client's connections go to. Shared by all
//! workers, since the connections of one client spread over them.
//!
//! A table of fixed size. A template is one word that is changed by compare-exchange (`word`), and
//! beside it the client, and until when it lives. Nobody ever waits: a worker that finds another
//! one's unfinished work finishes or undoes it. Workers that schedule one client at the same time
//! agree on one server (`agree`).
//!
//! A template's time is over a given time after the last connection of its client began; it lives
//! on while one of them lives: whenever the timer of such a connection is looked at, [`Templates::hold`]
//! is told until when it will be looked at again. (IPVS counts the connections of a template, and
//! looks once a minute whether there are any.) Touched only where connections begin, and where
//! timers of connections with persistence come due.

mod agree;
mod bind;
mod word;

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, SeqCst},
    fence,
};

use super::ServerLoads;
use crate::clock::Tick;
use crate::ids::{ServerSlot, ServiceId};
use crate::wire::address::{Address, fold_multiply};
use crate::wire::flow_key::HashSecret;
pub use bind::{Bound, Persistent};
use word::Word;

/// Places that a template may be in.
const WINDOW: usize = 16;
/// How long a template is kept after its time, so that no worker whose clock is a little behind
/// still goes by it.
const GRACE_MS: u32 = 1000;
/// What is left of a template's time, as far as can be told, where it lives on for the sake of its
/// connections: IPVS looks at it once a minute.
const HELD_MS: u32 = 60_000;

/// A client of a service with persistence, or the network that counts as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TemplateKey {
    service: ServiceId,
    /// IPv4 in IPv6 form.
    client: [u64; 2],
}

impl TemplateKey {
    /// A client, of whose address the mask's bits count.
    #[inline]
    pub fn new<A: Address>(service: ServiceId, client: A, mask: A::Bits) -> Self {
        Self { service, client: halves(A::of_bits(client.bits() & mask).to_ip()) }
    }

    fn hash(&self, secret: &HashSecret) -> u64 {
        let ([high, low], [s0, s1, s2, s3]) = (self.client, *secret);
        let mixed = fold_multiply(high ^ s0, low ^ s1);
        fold_multiply(mixed ^ s2 ^ u64::from(self.service.0), s3 | 1)
    }
}

fn halves(address: IpAddr) -> [u64; 2] {
    let bits = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    #[allow(clippy::cast_possible_truncation, reason = "the two halves are what is wanted")]
    let halves = [(bits >> 64) as u64, bits as u64];
    halves
}

fn whole([high, low]: [u64; 2]) -> IpAddr {
    Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low)).to_canonical()
}

/// A template, for listings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TemplateRow {
    /// The service.
    pub service: ServiceId,
    /// The client, or the first address of its network.
    pub client: IpAddr,
    /// The server.
    pub server: ServerSlot,
    /// When it ends unless another connection begins; a minute at most where it lives on for its
    /// connections.
    pub expires_ms: u32,
}

/// A template's word and what lies beside it. All zero: free.
#[derive(Default)]
struct Place {
    word: AtomicU64,
    client: [AtomicU64; 2],
    /// When its time is over.
    expires: AtomicU32,
    /// Until when a connection needs it.
    held: AtomicU32,
}

/// Moves a time on, never back.
fn raise(time: &AtomicU32, until: Tick) {
    let _ = time.fetch_update(Relaxed, Relaxed, |old| {
        (old != until.0 && until.reached(Tick(old))).then_some(until.0)
    });
}

impl Place {
    fn word(&self) -> Word {
        Word(self.word.load(SeqCst))
    }

    fn change(&self, from: Word, to: Word) -> bool {
        self.word.compare_exchange(from.0, to.0, SeqCst, SeqCst).is_ok()
    }

    /// The client of a settled template. `None`: it changed meanwhile.
    fn client(&self, word: Word) -> Option<[u64; 2]> {
        let [high, low] = &self.client;
        let client = [high.load(Relaxed), low.load(Relaxed)];
        fence(Acquire);
        (self.word() == word).then_some(client)
    }

    /// Whether a template that is in force lives. While it is being written, it begins.
    fn lives(&self, word: Word, now: Tick) -> bool {
        let is_before = |time: &AtomicU32| !now.reached(Tick(time.load(Relaxed)));
        !word.is_settled() || is_before(&self.expires) || is_before(&self.held)
    }

    /// What is there, for listings. `None`: nothing that lives, or it changes.
    fn row(&self, now: Tick) -> Option<TemplateRow> {
        let word = self.word();
        if !word.is_settled() || !self.lives(word, now) {
            return None;
        }
        let [expires, held] = [&self.expires, &self.held].map(|time| Tick(time.load(Relaxed)));
        let expires_ms =
            if now.reached(expires) { held.since(now).min(HELD_MS) } else { expires.since(now) };
        let client = whole(self.client(word)?);
        Some(TemplateRow { service: word.service(), client, server: word.slot(), expires_ms })
    }

    /// Whether its time has been over for long enough that the place can be had.
    fn is_over(&self, word: Word, now: Tick) -> bool {
        let was_before = |time: &AtomicU32| now.reached(Tick(time.load(Relaxed)).after(GRACE_MS));
        word.is_settled() && was_before(&self.expires) && was_before(&self.held)
    }
}

/// What a new connection asks its client's template.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// Whose it is.
    pub key: TemplateKey,
    /// Now.
    pub now: Tick,
    /// How long it lives after this connection began.
    pub timeout_ms: u32,
    /// When the connection's timer will be looked at.
    pub hold_ms: u32,
}

/// All templates.
pub struct Templates {
    places: Box<[Place]>,
    /// Places that hold something.
    used: AtomicU32,
    /// What the first worker's clock showed when it last looked: for readers without a clock.
    clock: AtomicU32,
    secret: HashSecret,
}

impl fmt::Debug for Templates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shape = (self.len(), self.places.len());
        f.debug_struct("Templates").field("shape", &shape).finish_non_exhaustive()
    }
}

impl Templates {
    /// Templates where the configuration does not say how many.
    pub const DEFAULT_CAPACITY: u32 = 262_144;

    /// Room for `capacity` templates, rounded up to a power of two. The secret keeps others from
    /// aiming at places.
    pub fn new(capacity: usize, secret: HashSecret) -> Self {
        let capacity = capacity.next_power_of_two().max(WINDOW);
        let places = (0..capacity).map(|_| Place::default()).collect();
        Self { places, used: AtomicU32::new(0), clock: AtomicU32::new(0), secret }
    }

    /// How many there is room for.
    pub fn capacity(&self) -> usize {
        self.places.len()
    }

    /// How many there are, also those whose time is over and that were not cleared yet.
    pub fn len(&self) -> u32 {
        self.used.load(Relaxed)
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The places of a window, with their numbers.
    fn window(&self, start: usize) -> impl Iterator<Item = (usize, &Place)> {
        let mask = self.places.len().wrapping_sub(1);
        (0..WINDOW).filter_map(move |step| {
            let number = start.wrapping_add(step) & mask;
            Some((number, self.places.get(number)?))
        })
    }

    /// Where the window of a key begins, and what its words have in common.
    fn of(&self, key: &TemplateKey) -> (usize, Word) {
        let hash = key.hash(&self.secret);
        #[allow(clippy::cast_possible_truncation, reason = "reduced to the table's size")]
        let start = hash as usize;
        (start, Word::owner(key.service, hash))
    }

    /// Whether a template in force is this key's. `None`: it changed meanwhile. While a template
    /// is written, one that looks like it is taken for it: of two clients in a million.
    fn is_of(place: &Place, word: Word, owner: Word, key: &TemplateKey) -> Option<bool> {
        if !word.may_be_of(owner) {
            return Some(false);
        }
        if !word.is_settled() {
            return Some(true);
        }
        place.client(word).map(|client| client == key.client)
    }

    /// The first template of a key that lives and whose server is good.
    fn find(&self, ask: &Ask, accepts: impl Fn(ServerSlot) -> bool) -> Option<(&Place, Word)> {
        let (start, owner) = self.of(&ask.key);
        let places = self.window(start).map(|(_, place)| (place, place.word()));
        let mut own = places.filter(|(place, word)| {
            word.is_in_force() && Self::is_of(place, *word, owner, &ask.key) == Some(true)
        });
        own.find(|(place, word)| place.lives(*word, ask.now) && accepts(word.slot()))
    }

    /// The server of a client's new connection: that of its template; if it has none that is good,
    /// the one that `schedule` gives, or that another worker has given it meanwhile. The second
    /// value: whether there is a template now; if not, there is no room for one.
    pub(super) fn server(
        &self,
        loads: &ServerLoads,
        ask: &Ask,
        accepts: impl Fn(ServerSlot) -> bool,
        schedule: impl FnOnce() -> Option<ServerSlot>,
    ) -> Option<(ServerSlot, bool)> {
        if let Some((place, word)) = self.find(ask, &accepts)
            && Self::extend(place, word, ask)
        {
            return Some((word.slot(), true));
        }
        let scheduled = schedule()?;
        let agreed = self.agree(loads, ask, accepts, scheduled);
        Some(agreed.map_or((scheduled, false), |slot| (slot, true)))
    }

    /// A template as another director has it. Whether there is one now; if not, there is no room.
    pub fn adopt(&self, loads: &ServerLoads, ask: &Ask, server: ServerSlot) -> bool {
        let bound = self.server(loads, ask, |slot| slot == server, || Some(server));
        bound.is_some_and(|(slot, is_there)| is_there && slot == server)
    }

    /// As [`Templates::adopt`], but the client keeps a template that it has already.
    pub fn adopt_late(&self, loads: &ServerLoads, ask: &Ask, server: ServerSlot) -> bool {
        let bound = self.server(loads, ask, |_| true, || Some(server));
        bound.is_some_and(|(_, is_there)| is_there)
    }

    /// Puts a word in the place of another, which ends a template in force.
    fn replace(&self, loads: &ServerLoads, number: usize, before: Word, after: Word) -> bool {
        let Some(place) = self.places.get(number) else { return false };
        if !place.change(before, after) {
            return false;
        }
        if before.is_in_force()
            && let Some(load) = loads.of(before.slot())
        {
            load.remove_template();
        }
        match (before.is_free(), after.is_free()) {
            (true, false) => self.used.fetch_add(1, Relaxed),
            (false, true) => self.used.fetch_sub(1, Relaxed),
            _ => 0,
        };
        true
    }

    /// Starts the time of a template anew. Whether it is still there: where its time is almost
    /// over, its word changes, so that nobody ends it who saw it earlier.
    fn extend(place: &Place, word: Word, ask: &Ask) -> bool {
        let is_close =
            word.is_settled() && ask.now.after(GRACE_MS).reached(Tick(place.expires.load(Relaxed)));
        raise(&place.expires, ask.now.after(ask.timeout_ms));
        raise(&place.held, ask.now.after(ask.hold_ms));
        if is_close { place.change(word, word.settled()) } else { place.word() == word }
    }

    /// The template that a client has in another director whose place this one takes: its server,
    /// and what is left of its time. Whether there is room for it.
    pub fn restore(
        &self,
        loads: &ServerLoads,
        (service, client): (ServiceId, IpAddr),
        server: ServerSlot,
        (now, expires_ms): (Tick, u32),
    ) -> bool {
        let key = TemplateKey { service, client: halves(client) };
        let ask = Ask { key, now, timeout_ms: expires_ms, hold_ms: 0 };
        self.adopt(loads, &ask, server)
    }

    /// A connection of the template lives, and its timer will be looked at again then.
    pub fn hold(&self, key: &TemplateKey, server: ServerSlot, until: Tick) {
        let (start, owner) = self.of(key);
        for (_, place) in self.window(start) {
            let word = place.word();
            if word.is_in_force()
                && word.slot() == server
                && Self::is_of(place, word, owner, key) == Some(true)
            {
                return raise(&place.held, until);
            }
        }
    }

    /// Clears a few places from `cursor` on of templates whose time is over, or that are wanted no
    /// more; where to go on.
    pub fn sweep(
        &self,
        loads: &ServerLoads,
        (cursor, now): (usize, Tick),
        is_wanted: impl Fn(ServiceId, ServerSlot) -> bool,
    ) -> usize {
        if self.is_empty() {
            return cursor;
        }
        for (number, place) in self.window(cursor) {
            let word = place.word();
            let is_unwanted = word.is_settled() && !is_wanted(word.service(), word.slot());
            if is_unwanted || place.is_over(word, now) {
                self.replace(loads, number, word, word.freed());
            }
        }
        cursor.wrapping_add(WINDOW)
    }

    /// Forgets templates of some services and servers. Before a number of a service or a slot of a
    /// server is given to another, when no worker has the old table any more.
    pub fn forget(&self, loads: &ServerLoads, is_meant: impl Fn(ServiceId, ServerSlot) -> bool) {
        for (number, place) in self.places.iter().enumerate() {
            let mut word = place.word();
            while !word.is_free()
                && is_meant(word.service(), word.slot())
                && !self.replace(loads, number, word, word.freed())
            {
                word = place.word();
            }
        }
    }

    /// What the workers' clock showed when it was last looked at.
    pub fn clock(&self) -> Tick {
        Tick(self.clock.load(Relaxed))
    }

    /// Tells readers the time.
    pub fn set_clock(&self, now: Tick) {
        self.clock.store(now.0, Relaxed);
    }

    /// All of them by the workers' clock, for the control thread's listings.
    pub fn listing(&self) -> impl Iterator<Item = TemplateRow> {
        self.rows(Tick(self.clock.load(Relaxed)))
    }

    /// All of them, for listings. Those that change meanwhile may be left out.
    pub fn rows(&self, now: Tick) -> impl Iterator<Item = TemplateRow> {
        self.places.iter().filter_map(move |place| place.row(now))
    }

    /// How many places there are, as a number to count through.
    pub fn places(&self) -> u32 {
        u32::try_from(self.places.len()).unwrap_or(u32::MAX)
    }

    /// Those in so many places, and where to go on; `None`: these were the last ones.
    pub fn page(
        &self,
        start: u32,
        count: u32,
        now: Tick,
    ) -> (impl Iterator<Item = TemplateRow>, Option<u32>) {
        let end = start.saturating_add(count).min(self.places());
        let page = self.places.get(start as usize..end as usize).unwrap_or_default();
        let rows = page.iter().filter_map(move |place| place.row(now));
        (rows, Some(end).filter(|end| *end < self.places()))
    }
}

#[cfg(test)]
mod tests;
