//! The parts of a packet's way, each on its own: `cargo bench -p pointsman-bench`. Names say what
//! one element is, how many there are, and of what size.
#![allow(missing_docs, reason = "criterion's macros make functions without any")]
#![allow(clippy::expect_used, reason = "a benchmark that cannot be set up is to end")]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use pointsman::clock::Tick;
use pointsman::dataplane::classify::{Class, Packet, Station, classify};
use pointsman::dataplane::conn::{Connection, ConnectionTable, Endpoints, Expiry};
use pointsman::dataplane::endpoint_hash::EndpointHash;
use pointsman::dataplane::frame::{BURST, BufferFrame};
use pointsman::dataplane::interface::Sides;
use pointsman::dataplane::stats::DropReason;
use pointsman::dpdk::memory::HugePages;
use pointsman::ids::TableVersion;
use pointsman::service::{
    Asking, Listen, NonSyn, Protocol, RealServer, Removal, Rules, SchedulerFlags, SchedulerKind,
    ServerLoads, ServiceTable, SlotRegistry, VirtualService,
};
use pointsman::wire::U16;
use pointsman::wire::address::{Address, V4, V6};
use pointsman::wire::checksum::{self, Delta};
use pointsman::wire::flow_key::{Direction, FlowKey};
use pointsman::wire::toeplitz::{End, RssInput};
use pointsman_bench::flows::{OUTSIDE_MAC, Random, Traffic, client_v4};
use pointsman_bench::template::Template;

/// Any will do.
const SECRET: [u64; 4] =
    [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344, 0xa409_3822_299f_31d0, 0x082e_fa98_ec4e_6c89];
/// Numbers of connections, with their names.
const SCALES: [(u32, &str); 2] = [(65_536, "64k"), (1_048_576, "1M")];
/// Idle time of a connection.
const TIMEOUT_MS: u32 = 60_000;

fn connection(number: u32, last_seen: u32) -> Connection<V4> {
    let (address, port) = client_v4(number);
    let client = (address, U16::new(port));
    let mut connection = Connection::new(Endpoints {
        client,
        local: client,
        service: ([192, 0, 2, 100], U16::new(80)),
        server: ([10, 0, 0, 11], U16::new(8080)),
        protocol: 17,
    });
    (connection.last_seen, connection.timeout_ms) = (last_seen, TIMEOUT_MS);
    connection
}

fn table(connections: u32, filled: u32) -> ConnectionTable<V4> {
    let mut table = ConnectionTable::new(connections, SECRET, HugePages::Try, Tick(0))
        .expect("memory for the table");
    for number in 0..filled {
        table.insert(&connection(number, 0)).expect("room in the table");
    }
    table
}

/// Lookups of a burst as the pipeline does them, of random connections.
fn lookup(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("connection_table");
    group.throughput(Throughput::Elements(BURST as u64));
    for (connections, name) in SCALES {
        let table = table(connections, connections);
        let mut random = Random::new(1);
        let mut keys = || -> [FlowKey<V4>; BURST] {
            std::array::from_fn(|_| reply(random.below(connections)))
        };
        group.bench_function(format!("find/64_replies/{name}_ipv4_connections"), |bencher| {
            bencher.iter_batched_ref(&mut keys, |keys| find(&table, keys), BatchSize::SmallInput);
        });
    }
    group.finish();
}

fn reply(number: u32) -> FlowKey<V4> {
    connection(number, 0).key(Direction::Reply)
}

fn find(table: &ConnectionTable<V4>, keys: &[FlowKey<V4>; BURST]) -> usize {
    let hashes = keys.map(|key| {
        let hash = table.hash(&key);
        table.prefetch_index(hash);
        hash
    });
    for hash in hashes {
        table.prefetch_record(hash);
    }
    keys.iter().zip(hashes).filter(|(key, hash)| table.find(*hash, key).is_some()).count()
}

/// A connection is inserted, and the oldest one removed, in a table that is full but for it.
fn insert(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("connection_table");
    group.throughput(Throughput::Elements(1));
    for (connections, name) in SCALES {
        let mut table = table(connections, 0);
        let mut ids = std::collections::VecDeque::with_capacity(connections as usize);
        for number in 0..connections - 1 {
            ids.push_back(table.insert(&connection(number, 0)).expect("room in the table"));
        }
        let mut next = connections;
        group.bench_function(format!("insert_and_remove/{name}_ipv4_connections"), |bencher| {
            bencher.iter(|| {
                ids.push_back(table.insert(&connection(next, 0)).expect("room in the table"));
                next = next.wrapping_add(1);
                ids.pop_front().and_then(|id| table.remove(id))
            });
        });
    }
    group.finish();
}

/// The timer wheel, through the table: connections begin in every millisecond, and as many end.
fn timer_wheel(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("timer_wheel");
    group.throughput(Throughput::Elements(1));
    for (connections, name) in SCALES {
        let mut table = table(connections * 2, 0);
        let mut number = 0;
        group.bench_function(format!("insert_and_expire/{name}_ipv4_connections"), |bencher| {
            bencher.iter(|| {
                number += 1;
                turn(&mut table, number, connections)
            });
        });
        let id = table.insert(&connection(u32::MAX, 0)).expect("room in the table");
        group.bench_function(format!("rearm/{name}_ipv4_connections"), |bencher| {
            bencher.iter(|| table.rearm(black_box(id)));
        });
    }
    group.finish();
}

/// One connection begins; those whose time is over end, two at most: how many did.
fn turn(table: &mut ConnectionTable<V4>, number: u32, connections: u32) -> u32 {
    let now = u64::from(number) * u64::from(TIMEOUT_MS) / u64::from(connections);
    let now = Tick(u32::try_from(now).unwrap_or(u32::MAX));
    table.insert(&connection(number, now.0)).expect("room in the table");
    let mut ended = Ended(0);
    table.expire(now, 2, &mut ended);
    ended.0
}

/// How many connections ended.
struct Ended(u32);

impl Expiry<V4> for Ended {
    fn grace_ms(&self, _: &Connection<V4>) -> Option<u32> {
        None
    }

    fn lives(&self, _: &Connection<V4>, _: Tick) {}

    fn ended(&mut self, _: &Connection<V4>) {
        self.0 += 1;
    }
}

fn key<A: Address>() -> FlowKey<A> {
    FlowKey {
        source_port: U16::new(1024),
        destination_port: U16::new(80),
        protocol: 17,
        ..FlowKey::default()
    }
}

fn hash(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("flow_key");
    group.throughput(Throughput::Elements(1));
    let (v4, v6) = (key::<V4>(), key::<V6>());
    group.bench_function("hash/ipv4_5_tuple", |bencher| {
        bencher.iter(|| black_box(&v4).hash(&SECRET));
    });
    group.bench_function("hash/ipv6_5_tuple", |bencher| {
        bencher.iter(|| black_box(&v6).hash(&SECRET));
    });
    group.finish();
}

fn checksums(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("checksum");
    let delta = Delta::between(&[192, 0, 2, 100], &[10, 0, 0, 11]);
    group.throughput(Throughput::Elements(1));
    group.bench_function("delta/apply", |bencher| {
        bencher.iter(|| black_box(delta).apply(black_box([0x12, 0x34])));
    });
    group.bench_function("delta/between_ipv4_addresses", |bencher| {
        bencher.iter(|| Delta::between(&black_box([192, 0, 2, 100]), &black_box([10, 0, 0, 11])));
    });
    for octets in [20, 1460] {
        let data = vec![0x5a_u8; octets];
        group.throughput(Throughput::Bytes(octets as u64));
        group.bench_function(format!("sum/{octets}_octets"), |bencher| {
            bencher.iter(|| checksum::sum(black_box(&data)));
        });
    }
    group.finish();
}

fn classification(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("classify");
    group.throughput(Throughput::Elements(BURST as u64));
    for traffic in Traffic::ALL {
        let template = Template::new(traffic, Direction::Inbound, 0x10);
        let frame = |flow| BufferFrame { octets: template.frame(flow), ..BufferFrame::default() };
        let mut frames: Vec<_> = (0..).map(frame).take(BURST).collect();
        let octets = template.octets();
        group.bench_function(format!("64x{octets}B/{traffic}"), |bencher| {
            bencher.iter(|| classify_all(&mut frames));
        });
    }
    group.finish();
}

fn classify_all(frames: &mut [BufferFrame]) {
    let mut packet = Packet::of(Class::Drop(DropReason::Truncated));
    let station = Station::of(&OUTSIDE_MAC);
    for frame in frames {
        classify(frame, &station, Sides::OUTSIDE, &SECRET, &mut packet, &mut |hash| {
            black_box(hash);
        });
        black_box(&packet);
    }
}

/// The hash of NICs that steer, which workers compute for what they have no connection for.
fn steering(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("toeplitz");
    group.throughput(Throughput::Elements(1));
    let key = std::array::from_fn(|place| SECRET.map(u64::to_le_bytes).as_flattened()[place % 32]);
    let (input, end) = (RssInput::Zeroed, End::Source);
    let ways = [
        ("quickest", EndpointHash::new(&key, input, end)),
        ("tables", EndpointHash::by_tables(&key, input, end)),
    ];
    for (name, hash) in &ways {
        let (v4, v6, port) = ([198, 18, 0, 7], [0x20; 16], U16::new(20_000));
        group.bench_function(format!("endpoint/ipv4/{name}"), |bencher| {
            bencher.iter(|| hash.of(black_box(&v4), black_box(port)));
        });
        group.bench_function(format!("endpoint/ipv6/{name}"), |bencher| {
            bencher.iter(|| hash.of(black_box(&v6), black_box(port)));
        });
    }
    group.finish();
}

fn schedulers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("scheduler");
    group.throughput(Throughput::Elements(1));
    let key = key::<V4>();
    for kind in SchedulerKind::ALL {
        for servers in [2_u16, 10, 100] {
            let name = format!("pick/{}/{servers}_servers", kind.name());
            let table = one_service(kind, servers);
            let loads = ServerLoads::new(usize::from(servers));
            let services = table.v4();
            let service = services.find([192, 0, 2, 100], U16::new(80), 17).expect("the service");
            group.bench_function(name, |bencher| {
                let asking = Asking { key: &key, now: Tick(0) };
                bencher.iter(|| service.schedule(black_box(&asking), black_box(&loads)));
            });
        }
    }
    for kind in [SchedulerKind::MaglevHashing, SchedulerKind::Maglev] {
        for servers in [10_u16, 1000] {
            let name = format!("compile/{}/{servers}_servers", kind.name());
            group.sample_size(10);
            group.bench_function(name, |bencher| bencher.iter(|| one_service(kind, servers)));
        }
    }
    group.finish();
}

fn one_service(kind: SchedulerKind, servers: u16) -> ServiceTable {
    let server = |number: u16| {
        let [high, low] = number.to_be_bytes();
        RealServer::new(([10, 0, high, low], 8080).into(), 1 + u32::from(number) % 7)
    };
    let services = [VirtualService {
        name: "service".to_owned(),
        listen: Listen::at(Protocol::Udp, ([192, 0, 2, 100], 80).into()),
        scheduler: kind,
        scheduler_flags: SchedulerFlags::default(),
        removal: Removal::default(),
        servers: (1..=servers).map(server).collect(),
        non_syn: NonSyn::Drop,
        one_packet: false,
        helper: None,
        timeouts: None,
        persistence: None,
        connection_limit: None,
        is_synchronised: true,
    }];
    let mut slots = SlotRegistry::new(usize::from(servers));
    ServiceTable::compile(TableVersion(1), Rules::of(&services), &mut slots).expect("a table")
}

criterion_group!(
    micro,
    lookup,
    insert,
    timer_wheel,
    hash,
    checksums,
    classification,
    steering,
    schedulers
);
criterion_main!(micro);
