//! Which worker owns a flow: a function of the outside party's address and port, which both
//! directions of a NAT connection share. Source on the way in, destination on the way back.

use crate::ids::WorkerId;
use crate::wire::address::Address;
use crate::wire::flow_key::{FlowKey, HashSecret, endpoint_hash};

/// Entries of the indirection table.
const ENTRIES: usize = 512;

/// The rule, the same for all workers.
#[derive(Clone, Debug)]
pub struct Steering {
    secret: HashSecret,
    workers: u16,
    indirection: [u16; ENTRIES],
}

impl Steering {
    /// Flows spread evenly over `workers` workers (at least one).
    pub fn new(workers: u16, secret: HashSecret) -> Self {
        let mut indirection = [0; ENTRIES];
        for (entry, worker) in indirection.iter_mut().zip((0..workers.max(1)).cycle()) {
            *entry = worker;
        }
        Self { secret, workers: workers.max(1), indirection }
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
        let hash = if to_us {
            endpoint_hash(&key.source, key.source_port, &self.secret)
        } else {
            endpoint_hash(&key.destination, key.destination_port, &self.secret)
        };
        self.worker_of(hash)
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
    use crate::wire::U16;

    const SECRET: HashSecret = [
        0x243f_6a88_85a3_08d3,
        0x1319_8a2e_0370_7344,
        0xa409_3822_299f_31d0,
        0x082e_fa98_ec4e_6c89,
    ];

    #[test]
    fn both_directions_of_a_connection_have_one_owner_and_workers_share_evenly() {
        let steering = Steering::new(4, SECRET);
        let mut load = [0; 4];
        for i in 0..4000_u16 {
            let [high, low] = i.to_be_bytes();
            let client = [198, 18, high, low];
            let port = U16::new(20_000 + i);
            let request = FlowKey {
                source: client,
                source_port: port,
                destination: [192, 0, 2, 100],
                destination_port: U16::new(80),
                protocol: 6,
            };
            let reply = FlowKey {
                source: [10, 0, 0, 11],
                source_port: U16::new(8080),
                destination: client,
                destination_port: port,
                protocol: 6,
            };
            let owner = steering.owner(&request, true);
            assert_eq!(owner, steering.owner(&reply, false));
            load[owner.index()] += 1;
        }
        assert!(load.iter().all(|flows| (900..1100).contains(flows)), "{load:?}");
    }
}
