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
use crate::ids::WorkerId;
use crate::wire::address::Address;

/// What the first round says of a packet.
#[derive(Debug)]
enum Decision<A: Address> {
    /// It is another worker's.
    HandOver(WorkerId),
    /// It begins this connection.
    Begin(Prepared<A>),
    /// The second round decides.
    Open,
}

/// Those of a burst, of one address family.
#[derive(Debug)]
pub(super) struct Newcomers<A: Address, F> {
    /// With their places in the burst.
    frames: ArrayVec<(u8, F), BURST>,
    decisions: ArrayVec<Decision<A>, BURST>,
}

impl<A: Family, F: Frame> Newcomers<A, F> {
    pub(super) fn new() -> Self {
        Self { frames: ArrayVec::new(), decisions: ArrayVec::new() }
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
            let flow = flow_of(*place);
            let owner = flow.as_ref().and_then(|flow| shared.other_owner(flow.key, origin));
            self.decisions.push(match (owner, flow) {
                (Some(owner), _) => Decision::HandOver(owner),
                (None, Some(flow)) => {
                    prepare(table, shared, &flow).map_or(Decision::Open, Decision::Begin)
                }
                (None, None) => Decision::Open,
            });
        }
        for ((place, frame), decision) in self.frames.drain(..).zip(&self.decisions) {
            if let Decision::HandOver(owner) = decision {
                outlet.hand_over(*owner, frame);
                continue;
            }
            let Some(flow) = flow_of(place) else {
                shared.drop(frame, NO_FLOW, outlet);
                continue;
            };
            // One that began earlier in the burst may be the same.
            let known = table.find(flow.hash, flow.key);
            let begun = match decision {
                Decision::Begin(prepared) => shared.begin(table, flow.hash, known, prepared),
                Decision::HandOver(_) | Decision::Open => None,
            };
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
