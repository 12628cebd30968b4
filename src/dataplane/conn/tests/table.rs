//! The table against a hash map.

use hashbrown::HashMap;
use proptest::prelude::*;

use super::{between, connection, endpoints, expire, table_of};
use crate::clock::Tick;
use crate::dataplane::conn::{
    Candidate, Connection, ConnectionId, ConnectionTable, Endpoints, Found, InsertError,
};
use crate::wire::U16;
use crate::wire::address::V4;
use crate::wire::flow_key::{Direction, FlowKey};

/// What may happen to a table.
#[derive(Clone, Debug)]
enum Step {
    Insert {
        client: u32,
        timeout_ms: u32,
    },
    Remove {
        client: u32,
    },
    Touch {
        client: u32,
    },
    /// A new state with another timeout.
    Change {
        client: u32,
        timeout_ms: u32,
    },
    Wait {
        ms: u32,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let client = 0_u32..60;
    let timeout_ms = prop_oneof![1000_u32..20_000, 100_000_u32..2_000_000];
    prop_oneof![
        5 => (client.clone(), timeout_ms.clone())
            .prop_map(|(client, timeout_ms)| Step::Insert { client, timeout_ms }),
        1 => client.clone().prop_map(|client| Step::Remove { client }),
        2 => client.clone().prop_map(|client| Step::Touch { client }),
        2 => (client, timeout_ms)
            .prop_map(|(client, timeout_ms)| Step::Change { client, timeout_ms }),
        2 => prop_oneof![1_u32..3000, 3000_u32..1_500_000].prop_map(|ms| Step::Wait { ms }),
    ]
}

/// A live connection as the model knows it.
#[derive(Clone, Copy, Debug)]
struct Known {
    id: ConnectionId,
    last_seen: Tick,
    timeout_ms: u32,
}

struct Pair {
    table: ConnectionTable<V4>,
    model: HashMap<u32, Known>,
    now: Tick,
}

fn both_keys(client: u32) -> [(Direction, FlowKey<V4>); 2] {
    let plain = connection(client, Tick(0), 0);
    [Direction::Inbound, Direction::Reply].map(|direction| (direction, plain.key(direction)))
}

impl Pair {
    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Insert { client, timeout_ms } => self.insert(client, timeout_ms),
            Step::Remove { client } => {
                if let Some(known) = self.model.remove(&client) {
                    let removed = self.table.remove(known.id).unwrap();
                    assert_eq!(removed.key(Direction::Inbound), both_keys(client)[0].1);
                    assert!(self.table.remove(known.id).is_none(), "removed twice");
                }
            }
            Step::Touch { client } => {
                if let Some(known) = self.model.get_mut(&client) {
                    known.last_seen = self.now;
                    self.table.get_mut(known.id).unwrap().last_seen = self.now.0;
                }
            }
            Step::Change { client, timeout_ms } => self.change(client, timeout_ms),
            Step::Wait { ms } => self.wait(ms),
        }
    }

    fn insert(&mut self, client: u32, timeout_ms: u32) {
        let inserted = self.table.insert(&connection(client, self.now, timeout_ms));
        if self.model.contains_key(&client) {
            assert_eq!(inserted, Err(InsertError::Exists));
        } else if self.model.len() == self.table.room().capacity as usize {
            assert_eq!(inserted, Err(InsertError::Full));
        } else {
            let known = Known { id: inserted.unwrap(), last_seen: self.now, timeout_ms };
            self.model.insert(client, known);
        }
    }

    fn change(&mut self, client: u32, timeout_ms: u32) {
        let Some(known) = self.model.get_mut(&client) else { return };
        known.last_seen = self.now;
        let connection = self.table.get_mut(known.id).unwrap();
        connection.last_seen = self.now.0;
        let is_shorter = timeout_ms < connection.timeout_ms;
        connection.timeout_ms = timeout_ms;
        known.timeout_ms = timeout_ms;
        if is_shorter {
            self.table.rearm(known.id);
        }
    }

    fn wait(&mut self, ms: u32) {
        self.now = self.now.after(ms);
        for expired in expire(&mut self.table, self.now, u32::MAX).0 {
            let client = (0..60).find(|client| is_of(&expired, *client)).unwrap();
            let known = self.model.remove(&client).expect("expired once");
            let deadline = known.last_seen.after(known.timeout_ms);
            assert!(self.now.reached(deadline), "client {client} expired before its time");
        }
        for (client, known) in &self.model {
            let latest = known.last_seen.after(known.timeout_ms + 256);
            assert!(!self.now.reached(latest), "client {client} outlived its time");
        }
    }

    fn check(&self) {
        assert_eq!(self.table.room().used as usize, self.model.len());
        for client in 0..60 {
            for (direction, key) in both_keys(client) {
                let found = self.table.find(self.table.hash(&key), &key);
                let expected = self.model.get(&client).map(|known| (known.id, direction));
                assert_eq!(found.map(|found| (found.id, found.direction)), expected);
            }
        }
        let (live, next) = self.table.walk(0, u32::MAX);
        assert_eq!((live.count(), next), (self.model.len(), None));
    }
}

fn is_of(connection: &Connection<V4>, client: u32) -> bool {
    connection.key(Direction::Inbound) == both_keys(client)[0].1
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_table_does_what_a_hash_map_does(
        capacity in 1_u32..50,
        start in prop_oneof![any::<u32>(), Just(u32::MAX - 5000)],
        steps in prop::collection::vec(step(), 1..150),
    ) {
        let now = Tick(start);
        let mut pair = Pair { table: table_of(capacity, now), model: HashMap::new(), now };
        for step in &steps {
            pair.apply(step);
            pair.check();
        }
    }
}

#[test]
fn a_million_connections_fit_a_table_for_a_million() {
    const COUNT: u32 = 1_000_000;
    let mut table = table_of(COUNT, Tick(0));
    for client in 0..COUNT {
        table.insert(&connection(client, Tick(0), 1000)).unwrap();
    }
    assert_eq!(table.room().used, COUNT);
    for client in 0..COUNT {
        for (direction, key) in both_keys(client) {
            let found = table.find(table.hash(&key), &key).unwrap();
            assert_eq!(found.direction, direction);
            assert!(is_of(table.get(found.id).unwrap(), client));
        }
    }
    assert_eq!(table.insert(&connection(COUNT, Tick(0), 1000)), Err(InsertError::Full));
    for (_, key) in both_keys(COUNT) {
        assert_eq!(table.find(table.hash(&key), &key), None);
    }
}

#[test]
fn a_refused_connection_leaves_nothing_behind() {
    let mut table = table_of(8, Tick(0));
    table.insert(&connection(1, Tick(0), 1000)).unwrap();
    // Another VIP, but the same server, client address and port: the replies would be one.
    let other_vip = ([192, 0, 2, 101], U16::new(80));
    let rival = between(Endpoints { service: other_vip, ..endpoints(1) }, Tick(0), 1000);
    assert_eq!(table.insert(&rival), Err(InsertError::Exists));
    let key = rival.key(Direction::Inbound);
    assert_eq!(table.find(table.hash(&key), &key), None);
    assert_eq!(table.room().used, 1);
}

#[test]
fn a_packet_hits_no_connection_that_has_ended() {
    let mut table = table_of(8, Tick(0));
    let id = table.insert(&connection(1, Tick(0), 1000)).unwrap();
    for (direction, key) in both_keys(1) {
        let candidate = Candidate::of(Found { id, direction });
        assert!(table.hit(candidate, &key).is_some());
    }
    assert!(table.remove(id).is_some());
    for (direction, key) in both_keys(1) {
        let candidate = Candidate::of(Found { id, direction });
        // A free record keeps its ends, and has protocol 0.
        for protocol in [key.protocol, 0] {
            assert!(table.hit(candidate, &FlowKey { protocol, ..key }).is_none(), "{protocol}");
        }
    }
}
