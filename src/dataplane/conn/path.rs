//! What many connections have in common: those between one real server and the clients behind one
//! next hop. IPv6 records name it by number, so that their packets need one line of the record.

use zerocopy::{FromZeros, Immutable, IntoBytes};

use super::connection::{Connection, Flags};
use crate::dataplane::next_hop::AdjacencyId;
use crate::ids::ServerSlot;
use crate::wire::address::{Address, fold_multiply};
use crate::wire::checksum::Delta;
use crate::wire::flow_key::Direction;

/// The way of a connection's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromZeros, IntoBytes, Immutable)]
#[repr(C)]
pub struct Path {
    /// Next hop to the real server.
    pub to_server: AdjacencyId,
    /// Next hop to the client.
    pub to_client: AdjacencyId,
    /// The real server's slot in loads and counters; [`Path::NO_SLOT`] for hosts that are none.
    pub(super) slot: u16,
    /// What the way in changes in the transport checksum; the reply reverses it.
    pub transport_delta: Delta,
}

impl Path {
    /// The slot of a host that is no real server.
    pub(super) const NO_SLOT: u16 = u16::MAX;

    /// The real server's slot in loads and counters.
    #[inline]
    pub const fn slot(&self) -> ServerSlot {
        ServerSlot(self.slot)
    }

    /// Where packets of this direction go.
    #[inline]
    pub const fn hop(&self, direction: Direction) -> AdjacencyId {
        match direction {
            Direction::Inbound => self.to_server,
            Direction::Reply => self.to_client,
        }
    }

    /// The first place where it may lie.
    fn first_place(self) -> usize {
        let word: u64 = zerocopy::transmute!(self);
        let mixed = fold_multiply(word ^ 0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03);
        #[allow(clippy::cast_possible_truncation, reason = "masked to the places")]
        let low = mixed as usize;
        low & (PLACES - 1)
    }
}

/// The number of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromZeros)]
#[repr(transparent)]
pub(super) struct PathId(u16);

impl PathId {
    /// Of no path: the connection keeps its own.
    pub(super) const NONE: Self = Self(u16::MAX);
}

/// Paths that fit: 32 KiB, of which those in use stay in the cache.
const PLACES: usize = 4096;
/// Places where one path may lie.
const WAYS: usize = 8;

/// The paths of a table's connections, and how many connections take each.
#[derive(Debug)]
pub(super) struct Paths {
    paths: Vec<Path>,
    uses: Vec<u32>,
}

impl Paths {
    /// For the connections of one family. IPv4 records hold all of their path in their one line.
    pub(super) fn of<A: Address>() -> Self {
        let places = if A::IS_V6 { PLACES } else { 0 };
        Self { paths: vec![Path::new_zeroed(); places], uses: vec![0; places] }
    }

    /// A path; `None` for [`PathId::NONE`].
    #[inline]
    pub(super) fn get(&self, id: PathId) -> Option<&Path> {
        self.paths.get(usize::from(id.0))
    }

    /// Gives a new connection the number of its path, if others may well take it. Full NAT and
    /// masquerades choose a port, and with it the checksum, for each of theirs.
    #[inline]
    pub(super) fn share<A: Address>(&mut self, new: &mut Connection<A>) {
        let is_common = new.path.slot != Path::NO_SLOT && !new.flags.has(Flags::FULL_NAT);
        if A::IS_V6 && is_common {
            new.common_path = self.acquire(new.path);
        }
    }

    /// A connection has ended.
    #[inline]
    pub(super) fn leave<A: Address>(&mut self, ended: &mut Connection<A>) {
        if A::IS_V6 {
            self.release(std::mem::replace(&mut ended.common_path, PathId::NONE));
        }
    }

    /// The number of the path that one more connection takes; [`PathId::NONE`] where others fill
    /// its places.
    fn acquire(&mut self, path: Path) -> PathId {
        let first = path.first_place();
        let mut places = (first..first + WAYS).map(|place| place & (PLACES - 1));
        let mut free = None;
        let place = places.find(|place| {
            if self.uses.get(*place) == Some(&0) {
                free = free.or(Some(*place));
            }
            self.paths.get(*place) == Some(&path)
        });
        let Some(place) = place.or(free) else { return PathId::NONE };
        if let Some(uses) = self.uses.get_mut(place)
            && let Some(entry) = self.paths.get_mut(place)
        {
            *entry = path;
            *uses += 1;
        }
        u16::try_from(place).map_or(PathId::NONE, PathId)
    }

    /// A connection that took this path has ended.
    fn release(&mut self, id: PathId) {
        if let Some(uses) = self.uses.get_mut(usize::from(id.0)) {
            *uses = uses.saturating_sub(1);
        }
    }

    /// Connections over all paths.
    #[cfg(test)]
    pub(super) fn uses(&self) -> u32 {
        self.uses.iter().sum()
    }
}
