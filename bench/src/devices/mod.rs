//! `pointsman run` beside dpdk-testpmd, in turns, on the very same virtual devices: `net_pcap` that
//! gives a capture over and over, to `net_null`.

mod director;
mod process;
mod testpmd;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use pointsman::dataplane::stats::Stage;

use crate::captures;
use crate::measure::Runs;
use crate::results::{Report, Row, free_huge_pages, say};
use crate::scale::scale;
use pointsman_bench::flows::{Family, Traffic, Transport};

/// Mbufs beside those that `net_pcap` keeps: queues, bursts, caches.
const SPARE_MBUFS: u32 = 32_768;
/// Data room of an mbuf, with its headroom.
const MBUF_OCTETS: u32 = 1024;
/// Octets of an mbuf, its pool's header and padding included.
const MBUF_MEMORY: u64 = MBUF_OCTETS as u64 + 128 + 128;
/// What helps where huge pages are missing.
const HINT: &str = "reserve more (make bench does, as root), or measure fewer --device-flows";
/// Time for a pool that is filled to be made and for every flow to be seen once.
const WARM_UP: Duration = Duration::from_secs(2);

/// What to compare, and how long.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct DevicesArgs {
    /// The director's binary.
    #[arg(long, default_value = "target/release/pointsman")]
    pointsman: PathBuf,
    /// dpdk-testpmd.
    #[arg(long, default_value = "dpdk-testpmd")]
    testpmd: PathBuf,
    /// Numbers of established flows.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 65_536, 1_048_576])]
    device_flows: Vec<u32>,
    /// Forwarding modes of dpdk-testpmd to compare with.
    #[arg(long, value_delimiter = ',', default_values = ["io", "macswap", "csum"])]
    modes: Vec<String>,
    /// Runs of each; their median counts.
    #[arg(long, default_value_t = 5)]
    device_runs: usize,
    /// Seconds of one run, warm-up not counted.
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    /// The CPU that forwards.
    #[arg(long, default_value_t = 1)]
    forwarding_cpu: u16,
    /// The CPU for everything else.
    #[arg(long, default_value_t = 0)]
    control_cpu: u16,
}

/// What one run gave.
#[derive(Clone, Copy, Debug)]
struct Rate {
    /// Million packets forwarded in a second.
    mpps: f64,
    /// TSC cycles per packet, of polls that found packets.
    cycles: f64,
    /// Of these, by stage, of the rounds that the director's stop watch looked at; testpmd has
    /// none.
    stages: Option<[f64; Stage::ALL.len()]>,
}

/// The devices of a comparison, the same for all.
#[derive(Debug)]
struct Bed<'a> {
    args: &'a DevicesArgs,
    flows: u32,
    capture: PathBuf,
    mbufs: u32,
    memory_mib: u64,
    /// For sockets and configuration files.
    folder: &'a Path,
}

impl Bed<'_> {
    /// Port 0: the capture, over and over.
    fn source(&self) -> String {
        format!("net_pcap0,rx_pcap={},infinite_rx=1", self.capture.display())
    }

    /// Port 1: takes everything, gives nothing.
    fn sink() -> &'static str {
        "net_null0,no-rx=1"
    }

    fn window(&self) -> Duration {
        Duration::from_secs(self.args.seconds)
    }
}

/// Who forwards.
#[derive(Clone, Debug)]
enum Subject {
    Director,
    Testpmd(String),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Director => f.write_str("director"),
            Self::Testpmd(mode) => write!(f, "testpmd_{mode}"),
        }
    }
}

/// Compares at every number of flows.
pub(crate) fn run(args: &DevicesArgs, report: &mut Report) -> Result<()> {
    let traffic = Traffic { family: Family::V4, transport: Transport::Udp };
    let folder = tempfile::tempdir()?;
    for flows in &args.device_flows {
        let capture = folder.path().join(format!("{flows}.pcap"));
        captures::write(traffic, *flows, &capture)?;
        let mbufs = flows.saturating_add(SPARE_MBUFS);
        let memory_mib = (u64::from(mbufs) * MBUF_MEMORY).div_ceil(1 << 20) + 128;
        let free_mib = free_huge_pages() * 2;
        if free_mib < memory_mib {
            say(&format!(
                "devices: {} flows are left out: they take {memory_mib} MiB of huge pages, \
                 {free_mib} MiB are free; {HINT}",
                scale(*flows)
            ));
            continue;
        }
        let bed = Bed { args, flows: *flows, capture, mbufs, memory_mib, folder: folder.path() };
        let rows = compare(&bed, traffic)?;
        let title = format!(
            "One worker, {} flows of 64-byte packets in random order, net_pcap infinite_rx to net_null",
            scale(*flows)
        );
        report.add(&title, rows)?;
    }
    Ok(())
}

/// Runs all subjects in turns.
fn compare(bed: &Bed<'_>, traffic: Traffic) -> Result<Vec<Row>> {
    let testpmd = bed.args.modes.iter().cloned().map(Subject::Testpmd);
    let subjects: Vec<_> = testpmd.chain([Subject::Director]).collect();
    let mut rates = vec![(Runs::default(), Runs::default()); subjects.len()];
    let mut stages = [const { Runs::new() }; Stage::ALL.len()];
    for run in 1..=bed.args.device_runs {
        for (subject, (mpps, cycles)) in subjects.iter().zip(&mut rates) {
            let rate = match subject {
                Subject::Director => director::measure(bed),
                Subject::Testpmd(mode) => testpmd::measure(bed, mode),
            };
            let rate = rate.with_context(|| format!("{subject}, {} flows", bed.flows))?;
            say(&format!(
                "{} flows, run {run}: {subject} {:.2} Mpps, {:.1} cycles/packet",
                scale(bed.flows),
                rate.mpps,
                rate.cycles
            ));
            mpps.push(rate.mpps);
            cycles.push(rate.cycles);
            for (runs, cycles) in stages.iter_mut().zip(rate.stages.into_iter().flatten()) {
                runs.push(cycles);
            }
        }
    }
    let name = format!("devices/{traffic}/{}_flows", scale(bed.flows));
    let row = |what: String, unit, runs: &Runs| {
        Row::new(format!("{name}/{what}"), unit, runs, "pointsman-bench devices")
    };
    let mut rows = Vec::new();
    for (subject, (mpps, cycles)) in subjects.iter().zip(&rates) {
        rows.push(row(format!("{subject}/rate"), "Mpps", mpps));
        rows.push(row(format!("{subject}/cycles"), "cycles/packet", cycles));
    }
    for (stage, runs) in Stage::ALL.iter().zip(&stages) {
        rows.push(row(format!("director/stages/{}", stage.name()), "cycles/packet", runs));
    }
    let (others, own) = rates.split_at(subjects.len() - 1);
    for (subject, (theirs, _)) in subjects.iter().zip(others) {
        for (ours, _) in own {
            let ratio = ours.with(theirs, |ours, theirs| ours / theirs);
            rows.push(row(format!("director_to_{subject}"), "ratio", &ratio));
        }
    }
    Ok(rows)
}
