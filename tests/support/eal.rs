//! Tests that need a real EAL: DPDK allows one for each process, so every test runs its body in a
//! child process of its own. The same under `cargo test` and cargo-nextest, as root or not.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::print_stdout,
    unreachable_pub,
    reason = "shared by several test programs; not every one uses all of it"
)]

use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pointsman::dpdk::burst::Burst;
use pointsman::dpdk::eal::{Eal, EalArgs};
use pointsman::dpdk::mempool::Mempool;
use pointsman::dpdk::port::{Granted, Port, PortSettings};
use pointsman::dpdk::queue::{RxQueue, TxQueue};

const CHILD: &str = "POINTSMAN_EAL_CHILD";
const FINISHED: &str = "the body has run to its end";
const LONGEST: Duration = Duration::from_secs(120);

/// Runs `body` in a child process: this same test, told so by the environment.
pub fn in_child(test: &str, body: impl FnOnce()) {
    if std::env::var(CHILD).as_deref() == Ok(test) {
        body();
        println!("{FINISHED}");
        return;
    }
    let runtime = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(CHILD, test)
        .env("XDG_RUNTIME_DIR", runtime.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = read_all(child.stdout.take().unwrap());
    let stderr = read_all(child.stderr.take().unwrap());
    let deadline = Instant::now() + LONGEST;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("{test} hangs: {}", stderr.join().unwrap());
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let (stdout, stderr) = (stdout.join().unwrap(), stderr.join().unwrap());
    assert!(status.success(), "{test}: {status}\n{stdout}\n{stderr}");
    assert!(stdout.contains(FINISHED), "{test} did not run:\n{stdout}\n{stderr}");
}

fn read_all(mut from: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = Vec::new();
        from.read_to_end(&mut text).unwrap();
        String::from_utf8_lossy(&text).into_owned()
    })
}

/// Arguments of an EAL that needs no huge pages, no NIC and no privileges. Lcore 0 is the main one,
/// 1 and 2 are workers; all share the first CPU that this process may use.
pub fn plain_args<'a>(more: impl IntoIterator<Item = &'a str>) -> EalArgs {
    let cpu = core_affinity::get_core_ids().unwrap().first().unwrap().id;
    let lcores = format!("--lcores=0@{cpu},1@{cpu},2@{cpu}");
    let plain = ["--no-huge", "--no-pci", "--no-shconf", "--no-telemetry", "-m", "128"];
    let args = plain.into_iter().map(str::to_owned).chain([lcores]);
    EalArgs::new("pointsman-test", args.chain(more.into_iter().map(str::to_owned)))
}

pub fn start<'a>(more: impl IntoIterator<Item = &'a str>) -> Arc<Eal> {
    Eal::init(&plain_args(more)).unwrap()
}

/// A pool of 2047 buffers without lcore caches, so that every count is exact.
pub fn pool(eal: &Arc<Eal>, name: &str) -> Mempool {
    Mempool::create(eal, name, 2047, 2048, 0, None).unwrap()
}

/// A port that runs, and its queues.
pub struct Running {
    pub port: Port,
    pub granted: Granted,
    pub rx: Vec<RxQueue>,
    pub tx: Vec<TxQueue>,
}

pub fn run_port(eal: &Arc<Eal>, name: &str, queues: u16, pool: &Mempool) -> Running {
    let mut port = Port::open(eal, name).unwrap();
    let settings = PortSettings {
        rx_queues: queues,
        tx_queues: queues,
        rx_descriptors: 256,
        tx_descriptors: 256,
        promiscuous: true,
        ..PortSettings::default()
    };
    let granted = port.configure(&settings, std::slice::from_ref(pool)).unwrap();
    port.start().unwrap();
    let (rx, tx) = port.take_queues();
    assert_eq!((rx.len(), tx.len()), (granted.rx_queues.into(), granted.tx_queues.into()));
    Running { port, granted, rx, tx }
}

/// `count` packets, each with its number in the first four octets, 60 octets long.
pub fn numbered(pool: &Mempool, numbers: std::ops::Range<u32>) -> Burst {
    let mut burst = Burst::new();
    for number in numbers {
        let mut packet = pool.alloc().expect("the pool has enough");
        packet.append(60).unwrap()[..4].copy_from_slice(&number.to_be_bytes());
        burst.push(packet);
    }
    burst
}

/// The numbers of the packets.
pub fn numbers(burst: &Burst) -> Vec<u32> {
    let number = |octets: &[u8]| u32::from_be_bytes(octets[..4].try_into().unwrap());
    burst.iter().map(|packet| number(packet.octets())).collect()
}
