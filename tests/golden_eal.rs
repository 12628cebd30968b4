//! The golden cases through the real thing: the built director on `net_pcap` ports.
//!
//! A pcap port replays its file as fast as it can, so only cases in which one port receives and
//! no time passes are run; one file with both directions is what the one-NIC cases are for.
#![cfg(feature = "dpdk")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::excessive_nesting,
    clippy::format_push_string,
    clippy::cast_possible_truncation,
    clippy::needless_for_each,
    reason = "a test fails by panicking, and waits for another process"
)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use pointsman::control::config::PortConfig;
use pointsman::ids::VlanId;
use support::director::{configuration, with_devices};
use support::golden::{Case, cases};
use support::packet::{ends, hex};
use support::pcap::{self, Stamped};

/// One director may take so long to start, replay and stop.
const LONGEST: Duration = Duration::from_secs(30);

/// A director in a directory of its own.
struct Director {
    child: Child,
    metrics: SocketAddr,
}

impl Drop for Director {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The frames of one interface.
type Side = Vec<Vec<u8>>;

/// What is said of a case in which something is wrong.
type Complaint = String;

fn ports(case: &Case) -> Vec<String> {
    configuration(&case.director()).ports().iter().map(PortConfig::name).collect()
}

/// A port that nobody has, and that the kernel gives nobody of itself: from below the range of
/// its own choices (`net.ipv4.ip_local_port_range`), another one each time.
fn free_port() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let mut ports = std::iter::repeat_with(|| {
        let number =
            NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(std::process::id().wrapping_mul(631));
        SocketAddr::from((Ipv4Addr::LOCALHOST, 20_000 + (number % 12_000) as u16))
    });
    ports.find(|port| TcpListener::bind(port).is_ok()).unwrap()
}

fn start(case: &Case, workers: usize, directory: &Path) -> Director {
    let cpu = core_affinity::get_core_ids().unwrap().first().unwrap().id;
    let metrics = free_port();
    let mut devices = Vec::new();
    for name in ports(case) {
        let (rx, tx) = (format!("{name}.in.pcap"), format!("{name}.out.pcap"));
        pcap::write(&directory.join(&rx), &case.frames(&name, "in"));
        devices.push(format!("net_pcap,rx_pcap={rx},tx_pcap={tx}"));
    }
    let mut text = with_devices(&case.director(), &devices);
    if !text.contains("[dpdk]\n") {
        text.insert_str(0, "[dpdk]\n");
    }
    text.insert_str(
        text.find("[dpdk]\n").unwrap() + "[dpdk]\n".len(),
        "hugepages = false\nmemory = \"128MiB\"\nmbufs = 4095\n\
         rx_descriptors = 256\ntx_descriptors = 256\n",
    );
    let director = format!(
        "[director]\nworkers = {:?}\ncontrol_cpu = {cpu}\nidle = \"adaptive\"\n\
         connections = 4096\nmetrics = \"{metrics}\"\nsocket = \"pointsman.sock\"\n\n",
        vec![cpu; workers]
    );
    let text = director + &text;
    std::fs::write(directory.join("pointsman.toml"), text).unwrap();
    let log = std::fs::File::create(directory.join("log")).unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_pointsman"))
        .args(["run", "--config", "pointsman.toml"])
        .current_dir(directory)
        .env("XDG_RUNTIME_DIR", directory)
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    Director { child, metrics }
}

impl Director {
    /// The metrics, as the director serves them.
    fn scrape(&self) -> Option<String> {
        let mut stream = TcpStream::connect(self.metrics).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text)
    }

    /// The sums over all workers of the counters, by name and labels other than the worker.
    fn counters(&self) -> Option<BTreeMap<String, u64>> {
        let text = self.scrape()?;
        let mut sums = BTreeMap::new();
        for line in text.lines().filter(|line| line.starts_with("pointsman_packets_")) {
            let (name, value) = line.rsplit_once(' ')?;
            let labels = name.split(['{', '}', ',']).filter(|label| !label.starts_with("worker="));
            let key = labels.filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ");
            let value: u64 = value.parse().ok()?;
            *sums.entry(key).or_insert(0) += value;
        }
        Some(sums)
    }

    /// Waits until so many packets were received and nothing is under way; the counters then.
    fn wait_for(&mut self, packets: u64) -> Result<BTreeMap<String, u64>, Complaint> {
        let deadline = Instant::now() + LONGEST;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Err(format!("ended by itself: {status}"));
            }
            let counters = self.counters().unwrap_or_default();
            let of = |name: &str| counters.get(name).copied().unwrap_or(0);
            let come =
                of("pointsman_packets_received_total") + of("pointsman_packets_originated_total");
            let dropped: u64 = drops(&counters).values().sum();
            let gone = of("pointsman_packets_transmitted_total")
                + of("pointsman_packets_consumed_total")
                + dropped;
            if of("pointsman_packets_received_total") == packets && come == gone {
                return Ok(counters);
            }
            if Instant::now() > deadline {
                return Err(format!("not done: {counters:?}"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// SIGTERM; it must end in order.
    fn stop(&mut self) -> Result<(), Complaint> {
        let id = self.child.id().to_string();
        Command::new("kill").args(["-TERM", &id]).status().unwrap();
        let deadline = Instant::now() + LONGEST;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                return if status.success() { Ok(()) } else { Err(format!("ended: {status}")) };
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Err("does not stop".into())
    }
}

fn drops(counters: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let reason = |key: &str| {
        let label = key.strip_prefix("pointsman_packets_dropped_total reason=")?;
        Some(label.trim_matches('"').to_owned())
    };
    let counted = counters.iter().filter_map(|(key, count)| Some((reason(key)?, *count)));
    counted.filter(|(_, count)| *count > 0).collect()
}

/// A client, and whether the packet comes from it. Clients are in `198.18.0.0/15` and
/// `2001:db8:ffff::/48`.
///
/// What has the same key keeps its order. Otherwise packets may change places: those of several
/// clients with several workers, and the two directions at the start, when the first packets wait
/// until the control thread has told the workers of the static neighbours.
fn key_of(frame: &[u8]) -> Option<(SocketAddr, bool)> {
    let frame = &*without_tag(frame);
    let is_flow = match &frame[12..14] {
        [8, 0] => frame[23] != 1,
        [0x86, 0xdd] => frame[20] != 58,
        _ => false,
    };
    let is_client = |end: &SocketAddr| match end.ip() {
        IpAddr::V4(v4) => v4.octets()[0] == 198,
        IpAddr::V6(v6) => v6.segments()[2] == 0xffff,
    };
    let (source, destination) = is_flow.then(|| ends(frame))?;
    Some(if is_client(&source) { (source, true) } else { (destination, false) })
}

fn without_tag(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    if frame[12..14] == [0x81, 0] {
        frame.drain(12..16);
    }
    frame
}

/// Whether a frame is one that the control thread has sent by itself: the announcements of a
/// director that begins, its reports of listeners and its questions. They come at any time, so they are not compared.
fn is_unasked(frame: &[u8]) -> bool {
    let frame = &*without_tag(frame);
    match &frame[12..14] {
        [8, 6] => frame[20..22] == [0, 1],
        [0x86, 0xdd] if frame[0] != 0x33 => false,
        // Behind a header of options.
        [0x86, 0xdd] if frame[20] == 0 => matches!(frame[62], 131 | 132 | 143),
        [0x86, 0xdd] => frame[20] == 58,
        _ => false,
    }
}

/// The tag of a frame, if it has one; each VLAN keeps its order.
fn tag_of(frame: &[u8]) -> Option<Vec<u8>> {
    (frame[12..14] == [0x81, 0]).then(|| frame[12..16].to_vec())
}

/// What has to keep its order among itself.
type Key = (Option<(SocketAddr, bool)>, Option<Vec<u8>>);

/// The VLANs in which a director announces its addresses, if there is time.
fn announced_vlans(case: &Case) -> BTreeSet<Option<Vec<u8>>> {
    let tag = |vlan: VlanId| {
        (vlan != VlanId::UNTAGGED).then(|| [&[0x81, 0], &vlan.0.to_be_bytes()[..]].concat())
    };
    configuration(&case.director()).interfaces.iter().map(|on_port| tag(on_port.vlan)).collect()
}

fn by_client(frames: Vec<Stamped>) -> BTreeMap<Key, Side> {
    let mut all: BTreeMap<_, Side> = BTreeMap::new();
    for frame in frames.into_iter().filter(|frame| !is_unasked(&frame.octets)) {
        let key = (key_of(&frame.octets), tag_of(&frame.octets));
        all.entry(key).or_default().push(frame.octets);
    }
    all
}

fn run(case: &Case, workers: usize) -> Result<(), Complaint> {
    let directory = tempfile::tempdir().unwrap();
    let result = replay(case, workers, directory.path());
    result.map_err(|complaint| {
        let log = std::fs::read_to_string(directory.path().join("log")).unwrap_or_default();
        format!("{}, {workers} workers: {complaint}\n{log}", case.directory.display())
    })
}

fn replay(case: &Case, workers: usize, directory: &Path) -> Result<(), Complaint> {
    let names = ports(case);
    let packets: usize = names.iter().map(|name| case.frames(name, "in").len()).sum();
    let mut director = start(case, workers, directory);
    let counters = director.wait_for(packets as u64)?;
    let metrics = director.scrape().unwrap_or_default();
    for name in &names {
        // Ports that several interfaces share are there once, by all their names.
        let received = case.frames(name, "in").len();
        let (label, value) = (format!("interface=\"{name}\""), format!(" {received}"));
        let is_sample = |line: &str| line.starts_with("pointsman_port_rx_packets_total{");
        let mut samples = metrics.lines().filter(|line| is_sample(line));
        if !samples.any(|line| line.contains(&label) && line.ends_with(&value)) {
            return Err(format!("port {name} did not receive {received}:\n{metrics}"));
        }
    }
    director.stop()?;
    if drops(&counters) != case.dropped {
        return Err(format!("dropped {:?}, expected {:?}", drops(&counters), case.dropped));
    }
    let consumed = counters.get("pointsman_packets_consumed_total").copied();
    if consumed != Some(case.consumed) {
        return Err(format!("consumed {consumed:?}, expected {}", case.consumed));
    }
    let announced = announced_vlans(case);
    for name in names {
        let found = pcap::read(&directory.join(format!("{name}.out.pcap")));
        let unasked = found.iter().filter(|frame| is_unasked(&frame.octets));
        let vlans: BTreeSet<_> = unasked.map(|frame| tag_of(&frame.octets)).collect();
        if !vlans.is_subset(&announced) {
            return Err(format!("announced in {vlans:?}, not in {announced:?}"));
        }
        let found = by_client(found);
        let expected = by_client(case.frames(&name, "out"));
        if found != expected {
            let mut text = format!("{name} sent otherwise than expected\n");
            for (label, side) in [("sent", &found), ("expected", &expected)] {
                for frame in side.values().flatten() {
                    let _ = writeln!(text, "  {label:8} {}", hex(frame));
                }
            }
            return Err(text);
        }
    }
    Ok(())
}

/// Two at a time: this is a machine with two CPUs.
fn run_all(cases: &[Case], workers: usize) {
    assert!(cases.len() > 5);
    let next = std::sync::atomic::AtomicUsize::new(0);
    let work = || {
        let mut complaints = Vec::new();
        loop {
            let place = next.fetch_add(1, Ordering::Relaxed);
            let Some(case) = cases.get(place) else { return complaints };
            complaints.extend(run(case, workers).err());
        }
    };
    let complaints = std::thread::scope(|scope| {
        let hands = [scope.spawn(work), scope.spawn(work)];
        hands.map(|hand| hand.join().unwrap()).concat()
    });
    assert!(complaints.is_empty(), "{} cases\n{}", complaints.len(), complaints.join("\n"));
}

#[test]
fn every_case_through_the_running_director() {
    let cases: Vec<_> = cases().into_iter().filter(|case| case.eal).collect();
    run_all(&cases, 1);
}

/// One receive queue: the first worker hands the others theirs, and sends for them.
#[test]
fn whole_connections_through_a_running_director_with_two_workers() {
    let one_port = |name: &str| name.ends_with("one-nic") || name == "vlans";
    let flows = |case: &Case| case.eal && case.any_order && one_port(&case.director);
    let cases: Vec<_> = cases().into_iter().filter(flows).collect();
    run_all(&cases, 2);
}
