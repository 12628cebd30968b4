//! The packets of a burst that belong to no connection: first all of them are decided on, and the
//! index lines that their connections will take are fetched; then one after the other begins. What
//! is not plainly a connection through a service is decided in the second round, by `admit`.

use arrayvec::ArrayVec;

use super::admit::{Prepared, prepare};
use super::conn::ConnectionTable;
use super::family::Family;
use super::flow::{Flow, NO_FLOW};
use super::frame::{BURST, Frame, Outlet};
use super::pipeline::{Arrival, Looked, Origin};
use super::shared::Shared;
use crate::clock::Tick;
use crate::wire::address::Address;

/// Those of a burst, of one address family.
#[derive(Debug)]
pub(super) struct Newcomers<A: Address, F> {
    /// With their places in the burst.
    frames: ArrayVec<(u8, F), BURST>,
    prepared: ArrayVec<Option<Prepared<A>>, BURST>,
}

impl<A: Family, F: Frame> Newcomers<A, F> {
    pub(super) fn new() -> Self {
        Self { frames: ArrayVec::new(), prepared: ArrayVec::new() }
    }

    /// Adds a packet whose 5-tuple the index knows nothing of, and its place in the burst at hand;
    /// gives it back if there is no room, which there is.
    pub(super) fn add(&mut self, place: u8, frame: F) -> Option<F> {
        self.frames.try_push((place, frame)).err().map(|full| full.element().1)
    }

    /// Whether there is none.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// What becomes of each; in the order of the burst, whose packets `looked` are.
    #[cold]
    pub(super) fn admit(
        &mut self,
        shared: &mut Shared<F>,
        table: &mut ConnectionTable<A>,
        looked: &[Looked; BURST],
        (origin, now): (Origin, Tick),
        outlet: &mut impl Outlet<F>,
    ) {
        let flow_of =
            |place| Flow::of(looked.get(usize::from(place))?, Arrival { place, origin, now });
        for (place, _) in &self.frames {
            let flow =
                flow_of(*place).filter(|flow| shared.other_owner(flow.key, origin).is_none());
            self.prepared.push(flow.and_then(|flow| prepare(table, shared, &flow)));
        }
        for ((place, frame), prepared) in self.frames.drain(..).zip(&self.prepared) {
            let Some(flow) = flow_of(place) else {
                shared.drop(frame, NO_FLOW, outlet);
                continue;
            };
            let mut known = table.find(flow.hash, flow.key);
            if let Some(prepared) = prepared {
                known = shared.begin(table, flow.hash, known, prepared);
            }
            shared.flow(table, &flow, known, frame, outlet);
        }
        self.prepared.clear();
    }
}
