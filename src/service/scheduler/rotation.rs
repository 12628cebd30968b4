//! Where a rotation stands: at a server, not at a place, so that it goes on where it was when
//! servers come and go. (IPVS keeps a pointer into its list, which it moves back when that server
//! is removed.)

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use hashbrown::HashMap;

use super::{SchedulerKind, SchedulerState};
use crate::ids::ServerSlot;
use crate::service::table::Server;

type Map<K, V> = HashMap<K, V, ahash::RandomState>;

/// Where the rotation stands, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stand {
    /// The server that was chosen last; `None`: none yet.
    last: Option<ServerSlot>,
    /// Its place in the list of whoever chose it.
    place: u16,
    /// wrr: the threshold of the round; 0 at the beginning.
    pub(super) threshold: u32,
}

impl Stand {
    /// At the server of a place.
    pub(super) fn at<A>(servers: &[Server<A>], place: usize, threshold: u32) -> Self {
        let last = servers.get(place).map(|server| server.slot);
        Self { last, place: u16::try_from(place).unwrap_or(u16::MAX), threshold }
    }

    pub(super) fn unpack(cursor: u64) -> Self {
        #[allow(clippy::cast_possible_truncation, reason = "the parts are what is wanted")]
        let (threshold, place, last) =
            (cursor as u32, (cursor >> 32) as u16, (cursor >> 48) as u16);
        Self { last: last.checked_sub(1).map(ServerSlot), place, threshold }
    }

    pub(super) fn pack(self) -> u64 {
        let last = self.last.map_or(0, |slot| slot.0.saturating_add(1));
        u64::from(last) << 48 | u64::from(self.place) << 32 | u64::from(self.threshold)
    }
}

/// Where the rotation goes on in one version of the list.
#[derive(Clone, Debug)]
pub(in crate::service) struct Rotation {
    /// By the server that was chosen last: the place after it; of those that are gone, the place
    /// after their neighbour that is left.
    next: Arc<Map<ServerSlot, usize>>,
}

impl Rotation {
    /// The place to begin at.
    #[inline]
    pub(super) fn start<A>(&self, servers: &[Server<A>], stand: Stand) -> usize {
        let Some(last) = stand.last else { return 0 };
        let place = usize::from(stand.place);
        if servers.get(place).is_some_and(|server| server.slot == last) {
            return place + 1;
        }
        // Not known: another worker has a newer list already, with this one before what stands at
        // its place here.
        let next = self.next.get(&last).copied();
        next.unwrap_or(place).min(servers.len())
    }
}

/// What a version of the table takes over from the ones before it.
#[derive(Debug, Default)]
pub(in crate::service) struct History {
    /// The servers in table order, and those that were there before at the places that they had.
    order: Vec<Past>,
    /// The table of hashed places that was built last, and what from.
    pub(super) built: Option<Built>,
}

/// A server of earlier versions.
#[derive(Clone, Copy, Debug)]
struct Past {
    slot: ServerSlot,
    /// Whether the last version had it.
    is_present: bool,
}

/// A table of hashed places, and what it was built from.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Built {
    pub(super) kind: SchedulerKind,
    pub(super) servers: Vec<(SocketAddr, u32)>,
    pub(super) places: Arc<[u16]>,
}

impl History {
    /// The next version has these servers; `cursor` is where the rotation stands.
    pub(super) fn go_on<A>(&mut self, servers: &[Server<A>], cursor: &AtomicU64) -> Rotation {
        let mut next: Map<ServerSlot, usize> =
            servers.iter().enumerate().map(|(place, server)| (server.slot, place + 1)).collect();
        self.let_go(&next, cursor);
        // Those that are gone, by the place that the rotation goes on at after them.
        let mut gone: Vec<Vec<ServerSlot>> = vec![Vec::new(); servers.len() + 1];
        let mut place = 0;
        for Past { slot, is_present } in std::mem::take(&mut self.order) {
            match next.get(&slot) {
                Some(after) if is_present => place = *after,
                // It comes back, to another place.
                Some(_) => (),
                None => gone.get_mut(place).into_iter().for_each(|gone| gone.push(slot)),
            }
        }
        let mut servers = servers.iter();
        for (place, slots) in gone.into_iter().enumerate() {
            next.extend(slots.iter().map(|slot| (*slot, place)));
            self.order.extend(slots.into_iter().map(|slot| Past { slot, is_present: false }));
            let present = servers.next().map(|server| server.slot);
            self.order.extend(present.map(|slot| Past { slot, is_present: true }));
        }
        Rotation { next: Arc::new(next) }
    }

    /// A server that was gone and is to come back has a new place. If the rotation still stands at
    /// its old one, it is moved to the neighbour there.
    fn let_go(&self, coming: &Map<ServerSlot, usize>, cursor: &AtomicU64) {
        let old = cursor.load(Relaxed);
        let stand = Stand::unpack(old);
        let is_at = |past: &Past| Some(past.slot) == stand.last;
        let Some(at) = self.order.iter().position(is_at) else { return };
        let (before, rest) = self.order.split_at(at);
        let returns =
            rest.first().is_some_and(|past| !past.is_present && coming.contains_key(&past.slot));
        if returns {
            let last = before.iter().rev().find(|past| past.is_present).map(|past| past.slot);
            let stand = Stand { last, place: u16::MAX, ..stand };
            // Otherwise a worker has just moved it on.
            let _moved = cursor.compare_exchange(old, stand.pack(), Relaxed, Relaxed);
        }
    }

    /// A slot that is free again names nobody.
    pub(in crate::service) fn forget(&mut self, slot: ServerSlot, state: &SchedulerState) {
        // As if it came back.
        self.let_go(&Map::from_iter([(slot, 0)]), &state.cursor);
        self.order.retain(|past| past.slot != slot);
    }
}
