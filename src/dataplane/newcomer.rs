//! Packets of no connection that follow each other in a burst: first all of them are decided on, and
//! the index lines that their connections will take are fetched; then one after the other begins. What
//! is not plainly a connection through a service is decided in the second round, by `admit`.

use arrayvec::ArrayVec;

use super::admit::{Prepared, Turn, prepare};
use super::conn::ConnectionTable;
use super::family::Family;
use super::flow::{Flow, NO_FLOW};
use super::frame::{BURST, Frame, Outlet};
use super::pipeline::Looked;
use super::shared::Shared;
use crate::clock::Tick;
use crate::wire::address::Address;

/// What the first round says of a packet.
#[derive(Debug)]
enum Decision<A: Address> {
    /// It begins this connection.
    Begin(Prepared<A>),
    /// The second round decides; this server's turn has been taken.
    Open(Option<Turn>),
}

/// The flows whose connections are decided on, by their hashes.
#[derive(Default)]
struct Decided {
    /// A bit for each, so that hardly any is compared.
    filter: [u64; 8],
    hashes: ArrayVec<u64, BURST>,
}

impl Decided {
    /// The word and the bit of a hash.
    #[inline]
    fn place(hash: u64) -> (usize, u64) {
        #[allow(clippy::cast_possible_truncation, reason = "three bits")]
        let word = (hash >> 38 & 7) as usize;
        (word, 1 << (hash >> 32 & 63))
    }

    #[inline]
    fn contains(&self, hash: u64) -> bool {
        let (word, bit) = Self::place(hash);
        self.filter.get(word).is_some_and(|word| word & bit != 0) && self.hashes.contains(&hash)
    }

    #[inline]
    fn add(&mut self, hash: u64) {
        let (word, bit) = Self::place(hash);
        if let Some(word) = self.filter.get_mut(word) {
            *word |= bit;
        }
        self.hashes.push(hash);
    }
}

/// Those of a burst, of one address family.
#[derive(Debug)]
pub(super) struct Newcomers<A: Address, F> {
    /// With their places in the burst.
    frames: ArrayVec<(u8, F), BURST>,
    decisions: ArrayVec<Decision<A>, BURST>,
    /// How many connections had begun when the index was asked for the burst.
    begun: u32,
}

impl<A: Family, F: Frame> Newcomers<A, F> {
    pub(super) fn new() -> Self {
        Self { frames: ArrayVec::new(), decisions: ArrayVec::new(), begun: 0 }
    }

    /// The index is being asked for a burst.
    #[inline]
    pub(super) const fn look_up(&mut self, table: &ConnectionTable<A>) {
        self.begun = table.begun();
    }

    /// Adds a packet of no connection, and its place in the burst at hand; gives it back if there
    /// is no room, which there is.
    pub(super) fn add(&mut self, place: u8, frame: F) -> Option<F> {
        self.frames.try_push((place, frame)).err().map(|full| full.element().1)
    }

    /// How many wait.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.frames.len()
    }

    /// What becomes of those that wait, if there are any.
    #[inline]
    pub(super) fn admit(
        &mut self,
        (shared, table): (&mut Shared<F>, &mut ConnectionTable<A>),
        looked: &[Looked; BURST],
        now: Tick,
        outlet: &mut impl Outlet<F>,
    ) {
        if !self.frames.is_empty() {
            self.admit_all(shared, table, looked, now, outlet);
        }
    }

    /// What becomes of each; in the order of the burst, whose packets `looked` are.
    #[cold]
    #[inline(never)]
    fn admit_all(
        &mut self,
        shared: &mut Shared<F>,
        table: &mut ConnectionTable<A>,
        looked: &[Looked; BURST],
        now: Tick,
        outlet: &mut impl Outlet<F>,
    ) {
        let flow_of = |place| {
            let looked = looked.get(usize::from(place))?;
            Some(Flow::of(looked, A::key_of(&looked.packet.class)?, now))
        };
        let room = table.room().left() as usize;
        let mut decided = Decided::default();
        for (place, frame) in &self.frames {
            let interface = shared.input::<A>(frame);
            let flow = flow_of(*place).map(|flow| Flow { interface, ..flow });
            // Others of the burst may have begun it since the index was asked.
            let is_known = |flow: &Flow<'_, A>| {
                table.begun() != self.begun && table.find(flow.hash, flow.key).is_some()
            };
            let flow = flow.filter(|flow| !is_known(flow));
            let decision = flow.map(|flow| decide(shared, table, &flow, (room, &mut decided)));
            self.decisions.push(decision.unwrap_or(Decision::Open(None)));
        }
        // Of the flows that are decided on no two are the same, and only the unusual ones begin others.
        let mut is_plain = !A::services(&shared.services).has_marks();
        for ((place, frame), decision) in self.frames.drain(..).zip(&self.decisions) {
            let Some(mut flow) = flow_of(place) else {
                shared.drop(frame, NO_FLOW, outlet);
                continue;
            };
            is_plain &= matches!(decision, Decision::Begin(_));
            // One that began earlier in the burst may be its own.
            let known = if is_plain { None } else { table.find(flow.hash, flow.key) };
            let begun = match decision {
                Decision::Begin(prepared) => {
                    flow.turn = Some(prepared.turn());
                    shared.begin(table, flow.hash, known, prepared)
                }
                Decision::Open(turn) => {
                    flow.turn = *turn;
                    None
                }
            };
            is_plain &= begun.is_some();
            let frame = match begun {
                Some(found) => shared.forward_first(table, found, &flow, frame, outlet),
                None => Some(frame),
            };
            if let Some(frame) = frame {
                shared.flow(table, &flow, known.or(begun), frame, outlet);
            }
        }
        self.decisions.clear();
    }
}

/// The first round. A flow takes one turn of its scheduler, however many packets it begins with,
/// and whether or not there is room for it.
#[inline]
fn decide<A: Family, F: Frame>(
    shared: &mut Shared<F>,
    table: &ConnectionTable<A>,
    flow: &Flow<'_, A>,
    (room, decided): (usize, &mut Decided),
) -> Decision<A> {
    if decided.hashes.len() >= room || decided.contains(flow.hash) {
        return Decision::Open(None);
    }
    match prepare(table, shared, flow) {
        Ok(prepared) => {
            decided.add(flow.hash);
            Decision::Begin(prepared)
        }
        Err(turn) => Decision::Open(turn),
    }
}
