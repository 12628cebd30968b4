//! dh, sh, mh and maglev: a table of places, each of which is one server's; a hash of the client
//! (of the destination, for dh) leads to a place.

use std::net::SocketAddr;
use std::sync::Arc;

use super::client_hash::{added, mixed, multiplicative, siphash};
use super::rotation::{Built, History};
use super::{Candidates, SchedulerFlags, SchedulerKind, Setup, maglev, maglev_hashing};
use crate::service::table::Server;
use crate::wire::U16;
use crate::wire::address::Address;
use crate::wire::flow_key::FlowKey;

/// Places of dh and sh.
const PLACES: usize = 256;

/// Places that maglev tries before it asks each server.
const TRIES: u64 = 64;

/// A table of places.
#[derive(Clone, Debug)]
pub(in crate::service) struct Hashed {
    flags: SchedulerFlags,
    /// Which server has it, as an index; none has, if all weights are 0.
    places: Arc<[u16]>,
}

impl Hashed {
    /// Builds the table, unless the version before had the same.
    pub(super) fn new<A: Address>(setup: &Setup<'_, A>, history: &mut History) -> Self {
        let kind = setup.kind;
        let servers = setup.servers.iter().zip(setup.last_weights).map(|(server, last)| {
            let weight = if kind == SchedulerKind::MaglevHashing {
                // A server that is quiesced keeps its places.
                *last
            } else if kind == SchedulerKind::DestinationHashing {
                1
            } else {
                server.weight
            };
            (SocketAddr::new(server.address.to_ip(), server.port.get()), weight)
        });
        let servers: Vec<_> = servers.collect();
        let same = |built: &&Built| built.kind == kind && built.servers == servers;
        if let Some(built) = history.built.as_ref().filter(same) {
            return Self { flags: setup.flags, places: Arc::clone(&built.places) };
        }
        let weights: Vec<_> = servers.iter().map(|(_, weight)| *weight).collect();
        let places = if kind == SchedulerKind::MaglevHashing {
            maglev_hashing::places(setup.servers, &weights)
        } else if kind == SchedulerKind::Maglev {
            maglev::places(setup.servers, &weights)
        } else {
            in_turn(&weights)
        };
        let places: Arc<[u16]> = places.into();
        history.built = Some(Built { kind, servers, places: Arc::clone(&places) });
        Self { flags: setup.flags, places }
    }

    fn server<'s, A>(&self, from: &Candidates<'s, '_, A>, place: usize) -> Option<&'s Server<A>> {
        from.servers.get(usize::from(*self.places.get(place)?))
    }

    /// The client's address, and its port if that counts.
    fn client<'k, A: Address>(&self, key: &'k FlowKey<A>) -> (&'k A, U16) {
        (&key.source, if self.flags.port { key.source_port } else { U16::new(0) })
    }

    /// The server of a hash; or, where that does not take connections, with flag `fallback`, that
    /// of the first of further hashes whose server does.
    fn or_fall_back<'s, A>(
        &self,
        from: &Candidates<'s, '_, A>,
        hash: impl Fn(usize) -> usize,
    ) -> Option<&'s Server<A>> {
        let first = hash(0);
        let server = self.server(from, first)?;
        if from.is_open(server) {
            return Some(server);
        }
        if !self.flags.fallback {
            return None;
        }
        let places = self.places.len();
        let mut others = (0..places).map(|step| hash((step + first) % places));
        others.find_map(|place| self.server(from, place).filter(|server| from.is_open(server)))
    }

    /// dh.
    pub(super) fn by_destination<'s, A: Address>(
        &self,
        from: &Candidates<'s, '_, A>,
        key: &FlowKey<A>,
    ) -> Option<&'s Server<A>> {
        let hash = multiplicative(added(&key.destination, U16::new(0)));
        self.server(from, hash).filter(|server| from.is_open(server))
    }

    /// sh.
    pub(super) fn by_source<'s, A: Address>(
        &self,
        from: &Candidates<'s, '_, A>,
        key: &FlowKey<A>,
    ) -> Option<&'s Server<A>> {
        let (address, port) = self.client(key);
        let hash = multiplicative(added(address, port));
        self.or_fall_back(from, |offset| (offset + hash) % PLACES)
    }

    /// mh.
    pub(super) fn by_maglev_hashing<'s, A: Address>(
        &self,
        from: &Candidates<'s, '_, A>,
        key: &FlowKey<A>,
    ) -> Option<&'s Server<A>> {
        let (address, port) = self.client(key);
        let client = added(address, port);
        self.or_fall_back(from, |offset| {
            let offset = u32::try_from(offset).unwrap_or(0);
            siphash(client.wrapping_add(offset), maglev_hashing::KEY) as usize
                % maglev_hashing::PLACES
        })
    }

    /// maglev. Where the client's server takes no connections, the next hash that leads to one
    /// that does.
    pub(super) fn by_maglev<'s, A: Address>(
        &self,
        from: &Candidates<'s, '_, A>,
        key: &FlowKey<A>,
    ) -> Option<&'s Server<A>> {
        let (address, port) = self.client(key);
        let place = |number| maglev::place(mixed(address, port, number));
        let mut tried = (0..TRIES).map_while(|number| self.server(from, place(number)));
        tried.find(|server| from.is_open(server)).or_else(|| from.open().next())
    }
}

/// dh and sh: each server has as many places in a row as its weight (one, if that is 0), over and
/// over.
fn in_turn(weights: &[u32]) -> Vec<u16> {
    let turns = weights.iter().zip(0..).flat_map(|(weight, server)| {
        std::iter::repeat_n(server, usize::try_from(*weight).unwrap_or(PLACES).clamp(1, PLACES))
    });
    turns.clone().cycle().take(PLACES).collect()
}
