//! The connection table against models.
#![allow(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests fail by panicking, and choose numbers that fit"
)]

mod index;
mod paths;
mod record;
mod table;
mod timers;

use super::tcp_state::ConnectionState;
use super::{Connection, ConnectionTable, Endpoints, Expiry};
use crate::clock::Tick;
use crate::dpdk::memory::HugePages;
use crate::wire::U16;
use crate::wire::address::{Address, V4};

fn table_of<A: Address>(capacity: u32, now: Tick) -> ConnectionTable<A> {
    let secret = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210, 0x0f1e_2d3c_4b5a_6978, 0x1357];
    ConnectionTable::new(capacity, secret, HugePages::Never, now).unwrap()
}

/// Of client number `client`, with one of four servers.
fn endpoints(client: u32) -> Endpoints<V4> {
    let [a, b, c, d] = client.to_be_bytes();
    Endpoints {
        client: ([10, a, b, c], U16::new(1024 + u16::from(d))),
        local: ([10, a, b, c], U16::new(1024 + u16::from(d))),
        service: ([192, 0, 2, 100], U16::new(80)),
        server: ([172, 16, 0, d & 3], U16::new(8080)),
        protocol: 6,
    }
}

/// The connection of client number `client`.
fn connection(client: u32, now: Tick, timeout_ms: u32) -> Connection<V4> {
    between(endpoints(client), now, timeout_ms)
}

fn between<A: Address>(ends: Endpoints<A>, now: Tick, timeout_ms: u32) -> Connection<A> {
    let mut connection = Connection::new(ends);
    connection.set_state(ConnectionState::Established);
    connection.last_seen = now.0;
    connection.timeout_ms = timeout_ms;
    connection
}

/// Those whose time was over; nobody needs them.
#[derive(Default)]
struct Gone(Vec<Connection<V4>>);

impl Expiry<V4> for Gone {
    fn grace_ms(&self, _: &Connection<V4>) -> Option<u32> {
        None
    }

    fn lives(&self, _: &Connection<V4>, _: Tick) {}

    fn ended(&mut self, connection: &Connection<V4>) {
        self.0.push(*connection);
    }
}

/// The connections that expire, and what is left of the budget.
fn expire(table: &mut ConnectionTable<V4>, now: Tick, budget: u32) -> (Vec<Connection<V4>>, u32) {
    let mut gone = Gone::default();
    let left = table.expire(now, budget, &mut gone);
    (gone.0, left)
}
