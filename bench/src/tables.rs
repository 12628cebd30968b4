//! The connection table beside hashbrown with ahash and DPDK's `rte_hash`: the same connections,
//! the same inserts, the same lookups.

use std::sync::Arc;

use anyhow::{Result, ensure};
use hashbrown::HashMap;
use pointsman::clock::Tick;
use pointsman::dataplane::conn::{Connection, ConnectionTable, Endpoints};
use pointsman::dataplane::frame::BURST;
use pointsman::dpdk::eal::Eal;
use pointsman::dpdk::hash::{HashTable, Key};
use pointsman::dpdk::memory::HugePages;
use pointsman::dpdk::tsc;
use pointsman::wire::U16;
use pointsman::wire::address::V4;
use pointsman::wire::flow_key::{Direction, FlowKey};
use pointsman_bench::flows::{Random, client_v4};

use crate::lab::{Lab, LabArgs};
use crate::measure::{Cycles, Runs};
use crate::quiet::{Patience, is_quiet};
use crate::results::{Report, Row, say};
use crate::scale::scale;

const COMMAND: &str = "pointsman-bench tables";
/// Bursts of one run of lookups.
const BURSTS: usize = 1 << 12;
/// As random as a table's secret is.
const SECRET: [u64; 4] =
    [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344, 0xa409_3822_299f_31d0, 0x082e_fa98_ec4e_6c89];

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct TablesArgs {
    /// Numbers of connections.
    #[arg(long, value_delimiter = ',', default_values_t = [65_536, 1_048_576, 10_485_760])]
    connections: Vec<u32>,
}

/// Measures every number of connections.
pub(crate) fn run(args: &TablesArgs, lab: &Lab, report: &mut Report) -> Result<()> {
    let mut rows = Vec::new();
    for connections in args.connections.clone() {
        let (eal, args) = (Arc::clone(lab.eal()), lab.args.clone());
        rows.extend(lab.run(move || compare(&eal, connections, &args))?);
    }
    let title = "Tables of IPv4 connections, both directions under their own keys, records read: \
                 TSC cycles per insert, and per lookup of random replies in bursts of 64";
    report.add(title, rows)
}

/// A table of connections.
trait Table {
    /// As it stands in the names of rows.
    const NAME: &'static str;

    /// Adds a connection under both its keys.
    fn insert(&mut self, record: Connection<V4>) -> Result<()>;

    /// Finds a burst and reads the records: how many there are.
    fn find(&self, keys: &[FlowKey<V4>; BURST]) -> usize;
}

/// Ours.
struct Own(ConnectionTable<V4>);

impl Table for Own {
    const NAME: &'static str = "pointsman";

    fn insert(&mut self, record: Connection<V4>) -> Result<()> {
        ensure!(self.0.insert(&record).is_ok(), "the connection table takes no more");
        Ok(())
    }

    /// As the pipeline does: hash and prefetch all, then find all.
    fn find(&self, keys: &[FlowKey<V4>; BURST]) -> usize {
        let hashes = keys.map(|key| {
            let hash = self.0.hash(&key);
            self.0.prefetch_index(hash);
            hash
        });
        for hash in hashes {
            self.0.prefetch_record(hash);
        }
        let found = keys.iter().zip(hashes).filter(|(key, hash)| {
            let record = self.0.find(*hash, key).and_then(|found| self.0.get(found.id));
            record.is_some_and(is_fresh)
        });
        found.count()
    }
}

/// An entry for each direction, and the records in a vector.
struct Hashbrown {
    index: HashMap<FlowKey<V4>, u32, ahash::RandomState>,
    records: Vec<Connection<V4>>,
}

impl Table for Hashbrown {
    const NAME: &'static str = "hashbrown_ahash";

    fn insert(&mut self, record: Connection<V4>) -> Result<()> {
        let number = u32::try_from(self.records.len())?;
        for direction in [Direction::Inbound, Direction::Reply] {
            self.index.insert(record.key(direction), number);
        }
        self.records.push(record);
        Ok(())
    }

    fn find(&self, keys: &[FlowKey<V4>; BURST]) -> usize {
        let found = keys.iter().filter(|key| {
            let record = self.index.get(*key).and_then(|at| self.records.get(*at as usize));
            record.is_some_and(is_fresh)
        });
        found.count()
    }
}

/// Likewise.
struct RteHash {
    index: HashTable,
    records: Vec<Connection<V4>>,
}

impl Table for RteHash {
    const NAME: &'static str = "rte_hash_bulk";

    fn insert(&mut self, record: Connection<V4>) -> Result<()> {
        let number = u32::try_from(self.records.len())?;
        for direction in [Direction::Inbound, Direction::Reply] {
            self.index.insert(&octets(&record.key(direction)), number)?;
        }
        self.records.push(record);
        Ok(())
    }

    fn find(&self, keys: &[FlowKey<V4>; BURST]) -> usize {
        let keys = keys.each_ref().map(octets);
        let mut numbers = [0; BURST];
        let hits = self.index.find_burst(&keys, &mut numbers);
        let found = (0..).zip(numbers).filter(|(place, number)| {
            let record = self.records.get(*number as usize);
            hits >> place & 1 == 1 && record.is_some_and(is_fresh)
        });
        found.count()
    }
}

/// A 5-tuple as `rte_hash` takes it.
#[inline]
fn octets(key: &FlowKey<V4>) -> Key {
    let mut octets = Key::default();
    let (addresses, rest) = octets.split_at_mut(8);
    addresses[..4].copy_from_slice(&key.source);
    addresses[4..].copy_from_slice(&key.destination);
    rest[..2].copy_from_slice(&key.source_port.to_bytes());
    rest[2..4].copy_from_slice(&key.destination_port.to_bytes());
    rest[4] = key.protocol;
    octets
}

/// Reads a record.
#[inline]
fn is_fresh(record: &Connection<V4>) -> bool {
    record.timeout_ms == 0
}

fn connection(number: u32) -> Connection<V4> {
    let (address, port) = client_v4(number);
    let client = (address, U16::new(port));
    Connection::new(Endpoints {
        client,
        local: client,
        service: ([192, 0, 2, 100], U16::new(80)),
        server: ([10, 0, 0, 11], U16::new(8080)),
        protocol: 6,
    })
}

/// A table and what was measured of it.
struct Subject<T> {
    table: T,
    insert: f64,
    find: Runs,
    /// Goes on from run to run, or each would look for what the one before left in the caches.
    random: Random,
}

impl<T: Table> Subject<T> {
    /// Fills a table.
    fn new(mut table: T, connections: u32) -> Result<Self> {
        let mut cycles = Cycles::new(connections as usize / BURST + 1);
        let mut before = tsc::now();
        for number in 0..connections {
            table.insert(connection(number))?;
            if (number as usize + 1).is_multiple_of(BURST) {
                let after = tsc::now();
                cycles.push(after.wrapping_sub(before));
                before = after;
            }
        }
        let random = Random::new(u64::from(connections));
        Ok(Self { table, insert: cycles.median_per(BURST), find: Runs::default(), random })
    }

    fn run(
        &mut self,
        connections: u32,
        patience: &mut Patience<impl FnMut() -> Result<bool>>,
    ) -> Result<()> {
        self.find
            .push(patience.run(|| Self::find_all(&self.table, &mut self.random, connections))?);
        Ok(())
    }

    /// Cycles per lookup of the median burst.
    fn find_all(table: &T, random: &mut Random, connections: u32) -> Result<f64> {
        let mut cycles = Cycles::new(BURSTS);
        let mut keys = [FlowKey::default(); BURST];
        for _ in 0..BURSTS {
            for key in &mut keys {
                *key = connection(random.below(connections)).key(Direction::Reply);
            }
            let before = tsc::now();
            let found = table.find(&keys);
            cycles.push(tsc::now().wrapping_sub(before));
            ensure!(found == BURST, "{}: {found} of {BURST} connections found", T::NAME);
        }
        Ok(cycles.median_per(BURST))
    }

    fn rows(&self, connections: u32) -> [Row; 2] {
        let name = format!("table/ipv4/{}_connections", scale(connections));
        let mut insert = Runs::default();
        insert.push(self.insert);
        [
            Row::new(format!("{name}/find/{}", T::NAME), "cycles/lookup", &self.find, COMMAND),
            Row::new(format!("{name}/insert/{}", T::NAME), "cycles/insert", &insert, COMMAND),
        ]
    }
}

/// All tables take turns.
fn compare(eal: &Arc<Eal>, connections: u32, args: &LabArgs) -> Result<Vec<Row>> {
    let entries = connections as usize * 2;
    let records = || Vec::with_capacity(connections as usize);
    let own = ConnectionTable::new(connections, SECRET, HugePages::Try, Tick(0))?;
    let mut own = Subject::new(Own(own), connections)?;
    let index = HashMap::with_capacity_and_hasher(entries, ahash::RandomState::default());
    let mut hashbrown = Subject::new(Hashbrown { index, records: records() }, connections)?;
    // With some room, for it cannot be filled to the last entry.
    let room = u32::try_from(entries + entries / 8)?;
    let mut rte_hash = match HashTable::create(eal, "connections", room) {
        Ok(index) => Some(Subject::new(RteHash { index, records: records() }, connections)?),
        Err(error) => {
            say(&format!("tables: rte_hash is left out: {error}"));
            None
        }
    };
    let mut patience = Patience::new(args.patience, || Ok(is_quiet()));
    for _ in 0..args.runs {
        own.run(connections, &mut patience)?;
        hashbrown.run(connections, &mut patience)?;
        if let Some(rte_hash) = &mut rte_hash {
            rte_hash.run(connections, &mut patience)?;
        }
    }
    let rivals = rte_hash.iter().flat_map(|subject| subject.rows(connections));
    let both = own.rows(connections).into_iter().chain(hashbrown.rows(connections));
    Ok(both.chain(rivals).collect())
}
