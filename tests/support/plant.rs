//! A control thread on a plant without DPDK: fake workers that answer their mailboxes.
#![allow(dead_code, unreachable_pub, reason = "each test file includes this and uses a part")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test support")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use pointsman::control::HandoverPlant;
use pointsman::control::config::{self, Config, Loaded, MacAddress, Machine};
use pointsman::control::{
    self, BuildInfo, ControlThread, DeviceSource, FailoverPlant, HashCheck, LinkSource, Listeners,
    Plant, PoolReport, PortCounters, PortReport, SteeringMode, WorkerHandle,
};
use pointsman::dataplane::conn::tcp_state::ConnectionState;
use pointsman::dataplane::failover::{FailoverChannel, HeardMessage, Hearing};
use pointsman::dataplane::handover::Expectations;
use pointsman::dataplane::mailbox::{Command, ConnectionRow, Event, WorkerMailbox, mailbox};
use pointsman::dataplane::stats::{DropReason, WorkerStats};
use pointsman::ids::{CpuId, InterfaceId, ServerSlot, TableVersion, WorkerId};
use pointsman::service::{Rules, ServerLoads, ServiceTable, SlotRegistry};
use pointsman::wire::ipvs_sync::{self, Note, NoteKind};
use pointsman::wire::vrrp::{Advertisement, Ends, Sending, Version};

/// What a test wants to be different.
#[derive(Clone, Debug)]
pub struct Wishes {
    pub workers: u16,
    /// Connections of each worker.
    pub connections: u32,
    /// Worker that answers no command.
    pub silent: Option<u16>,
    /// Whether the gateway and the servers answer ARP.
    pub answering: bool,
    pub link_up: bool,
    /// Whether it is one of a pair, and has heard the other one.
    pub paired: bool,
}

impl Default for Wishes {
    fn default() -> Self {
        Self {
            workers: 2,
            connections: 3,
            silent: None,
            answering: true,
            link_up: true,
            paired: false,
        }
    }
}

/// A running control thread.
pub struct FakeDirector {
    pub socket: PathBuf,
    pub metrics: SocketAddr,
    pub stats: Vec<Arc<WorkerStats>>,
    pub loads: Arc<ServerLoads>,
    /// What the workers were told, with the worker.
    pub told: Arc<Mutex<Vec<(u16, String)>>>,
    control: Option<ControlThread>,
    workers: Vec<JoinHandle<()>>,
    ended: Arc<AtomicBool>,
}

/// A valid configuration whose socket is in `directory`.
pub fn text(directory: &Path) -> String {
    format!(
        r#"# Of a test.
[director]
workers = [0, 0]
control_cpu = 0
connections = 1024
metrics = "127.0.0.1:0"
socket = "{}/pointsman.sock"

[dpdk]
hugepages = false
memory = "64MiB"

[interface.outside]
role = "outside"
device = "net_null0"
addresses = ["203.0.113.2/24"]
gateways = ["203.0.113.1"]

[interface.inside]
role = "inside"
device = "net_null1"
addresses = ["10.0.0.2/24"]

[[service]]
name = "web" # the shop
listen = "tcp://203.0.113.10:80"
servers = [
  {{ address = "10.0.0.11:8080", weight = 2 }}, # the big one
  {{ address = "10.0.0.12:8080", weight = 0 }},
]
"#,
        directory.display()
    )
}

/// What makes it one of a pair.
const PAIR: &str = r#"
[[failover]]
name = "pair"
router_id = 51
floating = [
  { interface = "outside", address = "203.0.113.10" },
  { interface = "inside", address = "10.0.0.1" },
]
"#;

/// The same, written to a file there and read.
pub fn loaded(directory: &Path) -> Loaded {
    let path = directory.join("pointsman.toml");
    std::fs::write(&path, text(directory)).unwrap();
    config::load_for(&path, &Machine::with_cpus(2)).expect("the configuration is valid")
}

/// The same as a director has it.
pub fn config(directory: &Path) -> Config {
    loaded(directory).config
}

#[derive(Debug)]
struct FakeLinks(bool, AtomicU64);

impl LinkSource for FakeLinks {
    fn is_up(&self, _: InterfaceId) -> bool {
        self.0
    }

    fn looks(&self) -> u64 {
        self.1.fetch_add(1, Relaxed)
    }
}

fn handover() -> HandoverPlant {
    HandoverPlant {
        expectations: Arc::new(Expectations::for_workers(1, [1; 4])),
        secret: [2; 4],
        clock: || 0,
        keep_descriptors: || Ok(()),
        taken: None,
    }
}

/// Another director says that it stands by.
fn standby() -> HeardMessage {
    let note = Note { kind: NoteKind::StandsBy, asker: 7, number: 1, messages: 0 };
    let note = ipvs_sync::write_note(51, &note);
    // Without a checksum.
    let head = [8848_u16, 8848, 8 + u16::try_from(note.len()).unwrap(), 0].map(u16::to_be_bytes);
    HeardMessage {
        interface: InterfaceId(1),
        source: [10, 0, 0, 3].into(),
        destination: ipvs_sync::GROUP.into(),
        hop_limit: 1,
        payload: head.into_iter().flatten().chain(note).collect(),
    }
}

/// The channel of a pair by which the other director has been heard.
fn failover() -> FailoverPlant {
    let channel = Arc::new(FailoverChannel::new(2, Hearing::on_no_link(51, Version::V3), || 0));
    let ends = Ends { source: [203, 0, 113, 3].into(), destination: [224, 0, 0, 18].into() };
    let head = Advertisement {
        version: Version::V3,
        router_id: 51,
        priority: 200,
        count: 0,
        interval: 4000,
        password: None,
    };
    let sending = Sending { head, addresses: &[], ends, pseudo_header: false };
    let message = HeardMessage {
        interface: InterfaceId(0),
        source: ends.source,
        destination: ends.destination,
        hop_limit: 255,
        payload: sending.write().unwrap(),
    };
    assert!(channel.hear(WorkerId(0), message));
    channel.sync.hear(WorkerId(0), standby());
    let macs = vec![[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];
    FailoverPlant {
        channel,
        macs,
        mtus: vec![1500; 2],
        links: Box::new(FakeLinks(true, AtomicU64::new(0))),
        owners: Box::new(|_| [WorkerId(0); 2]),
        clock: || 0,
        hz: 1_000_000_000,
    }
}

/// Ports and a pool with fixed figures, all different.
#[derive(Debug)]
struct FakeDevices {
    link_up: bool,
}

impl DeviceSource for FakeDevices {
    fn ports(&self) -> Vec<PortReport> {
        let port = |interface: &str, base: u64| PortReport {
            interfaces: vec![interface.into()],
            driver: "net_null".into(),
            mac: MacAddress([2, 0, 0, 0, 0, 1]),
            link_up: self.link_up,
            speed_mbps: Some(10_000),
            rx_queues: 2,
            steering: SteeringMode::FlowRules,
            hash_check: HashCheck::Confirmed,
            tx_queues: 2,
            counters: PortCounters {
                rx_packets: base + 1,
                tx_packets: base + 2,
                rx_octets: base + 3,
                tx_octets: base + 4,
                imissed: base + 5,
                rx_errors: base + 6,
                tx_errors: base + 7,
                rx_nombuf: base + 8,
            },
        };
        vec![port("outside", 100), port("inside", 200)]
    }

    fn pools(&self) -> Vec<PoolReport> {
        vec![PoolReport { name: "packets".into(), capacity: 4095, in_use: 17 }]
    }
}

impl FakeDirector {
    /// Starts one with the usual plant.
    pub fn start(directory: &Path) -> Self {
        Self::start_with(directory, &Wishes::default())
    }

    /// Starts one.
    pub fn start_with(directory: &Path, wishes: &Wishes) -> Self {
        let path = directory.join("pointsman.toml");
        let more = if wishes.paired { PAIR } else { "" };
        std::fs::write(&path, text(directory) + more).unwrap();
        let loaded = config::load_for(&path, &Machine::with_cpus(2)).expect("it is valid");
        let listeners = Listeners::bind(&loaded.config).expect("the listeners are free");
        Self::launch(loaded, listeners, wishes)
    }

    fn launch(loaded: Loaded, listeners: Listeners, wishes: &Wishes) -> Self {
        let Loaded { config, source, .. } = loaded;
        let mut slots = SlotRegistry::new(64);
        let services = control::at_start(&config);
        let rules = Rules { services: &services, ..config.rules() };
        let table = ServiceTable::compile(TableVersion(1), rules, &mut slots).unwrap();
        let loads = Arc::new(ServerLoads::new(64));
        let (socket, metrics) =
            (config.director.socket.clone(), listeners.metrics_address().unwrap());
        let (ended, told) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let (mut handles, mut workers, mut stats) = (Vec::new(), Vec::new(), Vec::new());
        for id in 0..wishes.workers {
            let (worker_end, control_end) = mailbox();
            let counters = Arc::new(WorkerStats::new(64));
            stats.push(Arc::clone(&counters));
            handles.push(WorkerHandle {
                id: WorkerId(id),
                cpu: CpuId(id),
                mailbox: control_end,
                stats: Arc::clone(&counters),
            });
            let worker = FakeWorker {
                id,
                mailbox: worker_end,
                stats: counters,
                wishes: wishes.clone(),
                told: Arc::clone(&told),
                ended: Arc::clone(&ended),
            };
            worker.count();
            workers.push(thread::spawn(move || worker.run()));
        }
        let reins = control::Reins::take().unwrap();
        let control = control::spawn(
            reins,
            Plant {
                config,
                source,
                workers: handles,
                loads: Arc::clone(&loads),
                slots,
                table: Arc::new(table),
                macs: vec![[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]],
                devices: Box::new(FakeDevices { link_up: wishes.link_up }),
                listeners,
                stop: Arc::default(),
                failover: wishes.paired.then(failover),
                handover: handover(),
                tsc_hz: 1_000_000_000,
                build: BuildInfo {
                    version: "1.2.3".into(),
                    commit: "abc".into(),
                    dpdk: "DPDK 22.11".into(),
                },
            },
        )
        .expect("the control thread starts");
        let control = Some(control);
        Self { socket, metrics, stats, loads, told, control, workers, ended }
    }

    /// Stops the workers, then the control thread.
    pub fn stop(mut self) {
        self.end_workers();
        self.control.take().unwrap().finish().expect("control ends in order");
    }

    /// Ends the workers behind the control thread's back.
    pub fn end_workers_now(&mut self) {
        self.end_workers();
    }

    fn end_workers(&mut self) {
        self.ended.store(true, Relaxed);
        for worker in self.workers.drain(..) {
            worker.join().unwrap();
        }
    }
}

impl Drop for FakeDirector {
    fn drop(&mut self) {
        self.end_workers();
    }
}

/// Waits up to 10 s.
pub fn wait_until(what: &str, done: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < end, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

struct FakeWorker {
    id: u16,
    mailbox: WorkerMailbox,
    stats: Arc<WorkerStats>,
    wishes: Wishes,
    told: Arc<Mutex<Vec<(u16, String)>>>,
    ended: Arc<AtomicBool>,
}

impl FakeWorker {
    fn run(self) {
        while !self.ended.load(Relaxed) {
            let listens = self.wishes.silent != Some(self.id);
            while let Some(command) = self.mailbox.command().filter(|_| listens) {
                self.told.lock().unwrap().push((self.id, format!("{command:?}")));
                self.obey(command);
            }
            self.stats.polls.increment();
            self.stats.cycles.add(1000);
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Figures that are all different and obey the conservation law.
    fn count(&self) {
        let stats = &self.stats;
        stats.received.add(1000);
        stats.received_octets.add(64_000);
        stats.originated.add(10);
        stats.handed_in.add(20);
        stats.handed_out.add(30);
        stats.transmitted.add(900);
        stats.transmitted_octets.add(57_600);
        stats.consumed.add(40);
        stats.held.set(5);
        for _ in 0..55 {
            stats.dropped.count(DropReason::NoService);
        }
        stats.busy_polls.add(3);
        stats.busy_cycles.add(100);
        stats.table_v4.capacity.set(500);
        stats.table_v4.used.set(3);
        stats.table_v4.states.of(ConnectionState::Established).set(3);
        if let Some(server) = stats.server(ServerSlot(0)) {
            server.connections.add(7);
            server.in_packets.add(70);
            server.out_packets.add(60);
            server.in_octets.add(7000);
            server.out_octets.add(6000);
        }
    }

    fn obey(&self, command: Command) {
        match command {
            Command::Solicit { interface, address, .. } if self.wishes.answering => {
                let (mac, answer) = ([2, 0, 0, 0, 1, 1], true);
                self.mailbox.post(Event::NeighborSeen { interface, address, mac, answer }).unwrap();
            }
            Command::ListConnections(mut page) => {
                let start = u32::try_from(page.cursor).unwrap();
                let mut next = start;
                while next < self.wishes.connections && page.rows.len() < page.rows.capacity() {
                    page.rows.push(self.row(next));
                    next += 1;
                }
                page.cursor = u64::from(next);
                page.done = next == self.wishes.connections;
                self.mailbox.post(Event::Connections { worker: WorkerId(self.id), page }).unwrap();
            }
            Command::InstallServices(table) => {
                let (worker, version) = (WorkerId(self.id), table.version());
                self.mailbox.post(Event::Installed { worker, version, retired: table }).unwrap();
            }
            Command::SetNeighbor { .. }
            | Command::NeighborUnreachable { .. }
            | Command::Solicit { .. }
            | Command::Announce { .. }
            | Command::ReportListeners { .. }
            | Command::BeginHandover(_) => {}
        }
    }

    fn row(&self, number: u32) -> ConnectionRow {
        let [_, b, c, d] = number.to_be_bytes();
        let client = [100 + u8::try_from(self.id).unwrap(), b, c, d];
        ConnectionRow {
            protocol: 6,
            state: ConnectionState::Established,
            client: (client, 40_000).into(),
            service: ([203, 0, 113, 10], 80).into(),
            server: ([10, 0, 0, 11], 8080).into(),
            expires_ms: 899_500,
        }
    }
}
