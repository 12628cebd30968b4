//! Which worker owns a flow: a function of the outside party's address and port, which both
//! directions of a NAT connection share. Source on the way in, destination on the way back.

use std::sync::Arc;

use super::endpoint_hash::EndpointHash;
use crate::ids::WorkerId;
use crate::wire::U16;
use crate::wire::address::{Address, V4, V6};
use crate::wire::flow_key::{FlowKey, HashSecret, endpoint_hash};

/// Entries of the indirection table.
const ENTRIES: usize = 512;

/// The rule, the same for all workers.
#[derive(Clone, Debug)]
pub struct Steering {
    secret: HashSecret,
    workers: u16,
    indirection: [u16; ENTRIES],
    /// The hash of the NICs that steer; `None`: the keyed one, because none does.
    nic_hash: Option<Arc<EndpointHash>>,
}

impl Steering {
    /// The most entries that the table of a NIC needs.
    pub const MAX_ENTRIES: usize = ENTRIES;

    /// Flows spread evenly over `workers` workers (at least one).
    pub fn new(workers: u16, secret: HashSecret) -> Self {
        let mut indirection = [0; ENTRIES];
        for (entry, worker) in indirection.iter_mut().zip((0..workers.max(1)).cycle()) {
            *entry = worker;
        }
        Self { secret, workers: workers.max(1), indirection, nic_hash: None }
    }

    /// Flows go where NICs send them by this hash and a table of `entries` entries (a power of
    /// two; of tables of several sizes the smallest), which are filled from
    /// [`worker_of_hash`](Self::worker_of_hash).
    #[must_use]
    pub fn as_the_nic(mut self, hash: Arc<EndpointHash>, entries: usize) -> Self {
        let period = entries.clamp(1, ENTRIES);
        for (entry, worker) in self.indirection.iter_mut().enumerate() {
            #[allow(clippy::cast_possible_truncation, reason = "less than `ENTRIES`")]
            let first = (entry % period) as u16;
            *worker = first % self.workers;
        }
        self.nic_hash = Some(hash);
        self
    }

    /// The worker that a hash of a NIC leads to: what its table must say too.
    pub fn worker_of_hash(&self, hash: u32) -> WorkerId {
        self.worker_of(hash.into())
    }

    /// How many workers there are.
    pub(super) const fn workers(&self) -> u16 {
        self.workers
    }

    /// Whether there is anything to steer.
    #[inline]
    pub const fn is_needed(&self) -> bool {
        self.workers > 1
    }

    /// The worker that sees all fragments of a datagram first.
    #[inline]
    pub fn fragment_owner<A: Address>(&self, outside: &A, identification: u32) -> WorkerId {
        let [_, _, c, d] = identification.to_be_bytes();
        self.worker_of(endpoint_hash(outside, u16::from_be_bytes([c, d]).into(), &self.secret))
    }

    /// The owner of the flow of a packet. `to_us`: its destination is a VIP or an own address, so
    /// that the outside party is its source; otherwise it is the destination.
    #[inline]
    pub fn owner<A: Address>(&self, key: &FlowKey<A>, to_us: bool) -> WorkerId {
        let (outside, port) = if to_us {
            (&key.source, key.source_port)
        } else {
            (&key.destination, key.destination_port)
        };
        self.worker_of(self.hash(outside, port))
    }

    /// Whose a connection is: of the worker that the outside party's packets lead to, and of the one
    /// that the server's do. They are two only where the server sees an address and port of the
    /// director's that another director has chosen.
    pub fn owners<A: Address>(&self, request: &FlowKey<A>, reply: &FlowKey<A>) -> [WorkerId; 2] {
        [self.owner(request, true), self.owner(reply, false)]
    }

    /// As [`Steering::owners`], by the 5-tuples of the family that there are any of.
    pub fn owners_of(
        &self,
        v4: Option<[FlowKey<V4>; 2]>,
        v6: impl FnOnce() -> Option<[FlowKey<V6>; 2]>,
    ) -> [WorkerId; 2] {
        let v4 = v4.map(|[request, reply]| self.owners(&request, &reply));
        let v6 = || v6().map(|[request, reply]| self.owners(&request, &reply));
        v4.or_else(v6).unwrap_or_default()
    }

    /// The hash of the outside party.
    #[inline]
    fn hash<A: Address>(&self, address: &A, port: U16) -> u64 {
        match &self.nic_hash {
            Some(hash) => hash.of(address, port).into(),
            None => endpoint_hash(address, port, &self.secret),
        }
    }

    /// One of `count` things for a flow, the same on all workers; 0 where there is none.
    pub(super) fn spread<A: Address>(&self, key: &FlowKey<A>, count: usize) -> usize {
        usize::try_from(key.hash(&self.secret) % count.max(1) as u64).unwrap_or(0)
    }

    #[inline]
    fn worker_of(&self, hash: u64) -> WorkerId {
        #[allow(clippy::cast_possible_truncation, reason = "reduced to the table's size")]
        let entry = hash as usize % ENTRIES;
        WorkerId(self.indirection.get(entry).copied().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::toeplitz::{End, Key, KeyPair, RssInput};

    const SECRET: HashSecret = [
        0x243f_6a88_85a3_08d3,
        0x1319_8a2e_0370_7344,
        0xa409_3822_299f_31d0,
        0x082e_fa98_ec4e_6c89,
    ];

    fn key(salt: u64) -> Key {
        std::array::from_fn(|place| {
            let mixed = (place as u64 + salt).wrapping_mul(SECRET[place % 4] | 1);
            mixed.to_be_bytes()[1] ^ mixed.to_be_bytes()[4]
        })
    }

    fn nic_hash() -> Arc<EndpointHash> {
        let keys = KeyPair::derive(key(11), key(97), RssInput::Zeroed);
        Arc::new(EndpointHash::new(keys.key(End::Source), RssInput::Zeroed, End::Source))
    }

    fn request(flow: u16) -> FlowKey<[u8; 4]> {
        let [high, low] = flow.to_be_bytes();
        FlowKey {
            source: [198, 18, high, low],
            source_port: U16::new(20_000 + flow),
            destination: [192, 0, 2, 100],
            destination_port: U16::new(80),
            protocol: 6,
        }
    }

    fn reply(flow: u16) -> FlowKey<[u8; 4]> {
        let request = request(flow);
        FlowKey {
            source: [10, 0, 0, 11],
            source_port: U16::new(8080),
            destination: request.source,
            destination_port: request.source_port,
            protocol: 6,
        }
    }

    #[test]
    fn both_directions_of_a_connection_have_one_owner_and_workers_share_evenly() {
        let keyed = Steering::new(4, SECRET);
        for steering in [keyed.clone(), keyed.as_the_nic(nic_hash(), 128)] {
            let mut load = [0; 4];
            for flow in 0..4000_u16 {
                let owner = steering.owner(&request(flow), true);
                assert_eq!(owner, steering.owner(&reply(flow), false));
                load[owner.index()] += 1;
            }
            assert!(load.iter().all(|flows| (900..1100).contains(flows)), "{load:?}");
        }
    }

    #[test]
    fn the_owner_is_the_worker_that_the_nics_table_has_at_the_lower_bits_of_the_hash() {
        let hash = nic_hash();
        for (workers, entries) in [(2, 64), (3, 128), (5, 512)] {
            let steering = Steering::new(workers, SECRET).as_the_nic(Arc::clone(&hash), entries);
            let table: Vec<_> =
                (0..u32::try_from(entries).unwrap()).map(|i| steering.worker_of_hash(i)).collect();
            // A larger table of another NIC repeats the smaller one.
            for i in 0..2048_u32 {
                assert_eq!(steering.worker_of_hash(i), table[i as usize % entries]);
            }
            for flow in 0..1000 {
                let request = request(flow);
                let nic = hash.of(&request.source, request.source_port) as usize;
                assert_eq!(steering.owner(&request, true), table[nic % entries]);
            }
        }
    }
}
