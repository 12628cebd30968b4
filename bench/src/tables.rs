//! The connection table beside hashbrown with ahash: the same connections, the same lookups.

use anyhow::{Result, ensure};
use hashbrown::HashMap;
use pointsman::clock::Tick;
use pointsman::dataplane::conn::{Connection, ConnectionTable, Endpoints};
use pointsman::dataplane::frame::BURST;
use pointsman::dpdk::memory::HugePages;
use pointsman::dpdk::tsc;
use pointsman::wire::U16;
use pointsman::wire::address::V4;
use pointsman::wire::flow_key::{Direction, FlowKey};

use crate::measure::{Cycles, Runs};
use crate::results::{Report, Row};
use crate::scale::scale;

/// Bursts of one run.
const BURSTS: u32 = 1 << 15;
/// As random as a table's secret is.
const SECRET: [u64; 4] =
    [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344, 0xa409_3822_299f_31d0, 0x082e_fa98_ec4e_6c89];

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct TablesArgs {
    /// Numbers of connections, powers of two.
    #[arg(long, value_delimiter = ',', default_values_t = [1 << 16, 1 << 20])]
    connections: Vec<u32>,
    /// Runs of each measure, in turn; their median counts.
    #[arg(long = "table-runs", default_value_t = 5)]
    runs: usize,
}

/// The rival: an entry for each direction, and the records in a vector.
struct Rival {
    index: HashMap<FlowKey<V4>, u32, ahash::RandomState>,
    records: Vec<Connection<V4>>,
}

/// Measures every number of connections.
pub(crate) fn run(args: &TablesArgs, report: &mut Report) -> Result<()> {
    let mut rows = Vec::new();
    for connections in &args.connections {
        ensure!(connections.is_power_of_two(), "{connections} connections: not a power of two");
        rows.extend(measure(*connections, args.runs)?);
    }
    let title = "Lookups of random IPv4 connections in bursts of 64, replies, the record read: \
                 TSC cycles per lookup, median over bursts";
    report.add(title, rows)
}

fn connection(number: u32) -> Connection<V4> {
    let [a, b, c, d] = number.to_be_bytes();
    Connection::new(Endpoints {
        client: ([198, 18 + a, b, c], U16::new(1024 + u16::from(d))),
        local: ([198, 18 + a, b, c], U16::new(1024 + u16::from(d))),
        service: ([192, 0, 2, 100], U16::new(80)),
        server: ([10, 0, 0, 11], U16::new(8080)),
        protocol: 6,
    })
}

/// The `at`-th connection of a fixed random order.
fn random(at: u32, connections: u32) -> u32 {
    at.wrapping_mul(0x9e37_79b1).wrapping_add(0x7f4a_7c15).rotate_left(16).wrapping_mul(0x85eb_ca6b)
        % connections
}

fn measure(connections: u32, runs: usize) -> Result<Vec<Row>> {
    let mut table = ConnectionTable::<V4>::new(connections, SECRET, HugePages::Try, Tick(0))?;
    let mut rival = Rival {
        index: HashMap::with_capacity_and_hasher(
            connections as usize * 2,
            ahash::RandomState::default(),
        ),
        records: Vec::with_capacity(connections as usize),
    };
    for number in 0..connections {
        let record = connection(number);
        ensure!(table.insert(record).is_ok(), "connection {number} does not fit the table");
        for direction in [Direction::Inbound, Direction::Reply] {
            rival.index.insert(record.key(direction), number);
        }
        rival.records.push(record);
    }
    let (mut ours, mut theirs) = (Runs::default(), Runs::default());
    for _ in 0..runs {
        ours.push(bursts(connections, |keys| find(&table, keys))?);
        theirs.push(bursts(connections, |keys| get(&rival, keys))?);
    }
    let row = |who: &str, runs: &Runs| {
        let name = format!("table/ipv4/{}_connections/{who}", scale(connections));
        Row::new(name, "cycles/lookup", runs, "pointsman-bench tables")
    };
    Ok(vec![row("pointsman", &ours), row("hashbrown_ahash", &theirs)])
}

/// Cycles per lookup of the median burst.
fn bursts(connections: u32, mut look_up: impl FnMut(&[FlowKey<V4>; BURST]) -> u32) -> Result<f64> {
    let mut cycles = Cycles::new(BURSTS as usize);
    let mut keys = [FlowKey::default(); BURST];
    for burst in 0..BURSTS {
        for (key, place) in keys.iter_mut().zip(0..) {
            let number = random(burst.wrapping_mul(64).wrapping_add(place), connections);
            *key = connection(number).key(Direction::Reply);
        }
        let before = tsc::now();
        let found = look_up(&keys);
        cycles.push(tsc::now().wrapping_sub(before));
        ensure!(found as usize == BURST, "{found} of {BURST} connections found");
    }
    Ok(cycles.median_per(BURST))
}

/// As the pipeline does: hash and prefetch all, then find all. How many were found.
fn find(table: &ConnectionTable<V4>, keys: &[FlowKey<V4>; BURST]) -> u32 {
    let hashes = keys.map(|key| {
        let hash = table.hash(&key);
        table.prefetch_index(hash);
        hash
    });
    for hash in hashes {
        table.prefetch_record(hash);
    }
    let mut count = 0;
    for (key, hash) in keys.iter().zip(hashes) {
        let record = table.find(hash, key).and_then(|found| table.get(found.id));
        count += u32::from(record.is_some_and(|record| record.timeout_ms == 0));
    }
    count
}

fn get(rival: &Rival, keys: &[FlowKey<V4>; BURST]) -> u32 {
    let mut count = 0;
    for key in keys {
        let record = rival.index.get(key).and_then(|place| rival.records.get(*place as usize));
        count += u32::from(record.is_some_and(|record| record.timeout_ms == 0));
    }
    count
}
