//! The generator against a forwarder whose loss and delay are known: what it measures must be that.
//! Everything is in memory, so this also shows what the generator itself can offer here.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pointsman::dpdk::burst::{BURST, Burst};
use pointsman::dpdk::lcore::{self, LcoreId};
use pointsman::dpdk::mbuf::Mbuf;
use pointsman::dpdk::mempool::Mempool;
use pointsman::dpdk::ring::{RingConsumer, RingProducer, ring};
use pointsman::dpdk::tsc;

use super::client_side::PAUSE_US;
use super::link::Link;
use super::numbers::{count, cycles, fraction};
use super::plan::Step;
use super::report::{Figure, conclude};
use super::session::{Session, start_eal};
use super::settings::LabArgs;
use super::trial::Load;
use crate::results::Report;

/// The forwarder's lcore.
const FORWARDER: LcoreId = LcoreId(3);
/// Packets that a ring takes.
const RING: usize = 4096;
/// Packet buffers of the test.
const MBUFS: u32 = 32_767;
/// The client side's, the server side's and the forwarder's Ethernet addresses.
const MACS: [[u8; 6]; 3] = [[2, 0, 0, 0, 9, 1], [2, 0, 0, 0, 9, 2], [2, 0, 0, 0, 9, 3]];

/// What the forwarder does, and how it is asked.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct SelftestArgs {
    /// The forwarder drops one of so many packets from clients; 0: none.
    #[arg(long, default_value_t = 1000)]
    drop_every: u32,
    /// The forwarder keeps every packet from clients for so long.
    #[arg(long, default_value = "2ms", value_parser = humantime::parse_duration)]
    delay: Duration,
    /// Packets a second.
    #[arg(long, default_value_t = 50_000.0)]
    rate: f64,
    /// Seconds of each trial.
    #[arg(long, default_value = "1s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// CPU of the clients' lcore.
    #[arg(long, default_value_t = 1)]
    client_cpu: u16,
    /// CPU of the servers' lcore and of everything else.
    #[arg(long, default_value_t = 0)]
    server_cpu: u16,
    /// CPU of the forwarder.
    #[arg(long, default_value_t = 0)]
    forwarder_cpu: u16,
    /// Sleep when there is nothing to do: where CPUs are shared.
    #[arg(long)]
    shared_cpus: bool,
    /// Ordinary memory in place of huge pages.
    #[arg(long)]
    no_huge: bool,
    /// How much longer than the delay the median may be; more than a pause of the lcores.
    #[arg(long, default_value = "1ms", value_parser = humantime::parse_duration)]
    slack: Duration,
}

/// Measures the forwarder; an error if what was measured is not what it did.
pub(crate) fn run(args: &SelftestArgs, report: &mut Report) -> Result<()> {
    let lab = lab_args(args);
    let eal = start_eal(&lab, &[args.forwarder_cpu], &[])?;
    let pool = Mempool::create(&eal, "lab", MBUFS, 2048, 256, None)?;
    let pair = |name: &str| ring(&eal, name, RING, None);
    let (client_out, from_clients) = pair("from-clients")?;
    let (server_in, at_servers) = pair("to-servers")?;
    let (server_out, from_servers) = pair("from-servers")?;
    let (client_in, at_clients) = pair("to-clients")?;
    let mut forwarder = Forwarder {
        ways: [
            Way::new(from_clients, server_in, args.drop_every, args.delay),
            Way::new(from_servers, client_in, 0, Duration::ZERO),
        ],
        yields: args.shared_cpus,
    };
    let [client_mac, server_mac, _] = MACS;
    let outside = Link::Rings { rx: at_clients, tx: client_out };
    let inside = Link::Rings { rx: at_servers, tx: server_out };
    let links = [(outside, client_mac), (inside, server_mac)];
    let scene = lab.scene()?;
    let mut session = Session::of_links(Arc::clone(&eal), &lab, scene, &pool, links);
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let running = eal.launch(FORWARDER, move || {
        forwarder.run(&stopped);
        forwarder.dropped()
    })?;
    let outcome = measure(args, &mut session, report);
    stop.store(true, Ordering::Release);
    let dropped = running.join()?;
    let lost = outcome?;
    ensure!(lost == dropped, "measured {lost} lost packets, the forwarder dropped {dropped}");
    Ok(())
}

fn lab_args(args: &SelftestArgs) -> LabArgs {
    LabArgs {
        service: "udp://192.0.2.100:9".to_owned(),
        director_mac: Some("02:00:00:00:09:03".to_owned()),
        client_cpu: args.client_cpu,
        server_cpu: args.server_cpu,
        main_cpu: args.server_cpu,
        shared_cpus: args.shared_cpus,
        no_huge: args.no_huge,
        memory: 256,
        mbufs: MBUFS,
        catch_up: Duration::from_millis(10),
        ..LabArgs::in_memory()
    }
}

/// One way trial and one with answers; how many packets they say were lost.
fn measure(args: &SelftestArgs, session: &mut Session, report: &mut Report) -> Result<u64> {
    let packets = count(args.rate * args.duration.as_secs_f64());
    let mut figures = Vec::new();
    let mut lost = 0;
    for (step, name) in [(Step::Forward, "one_way"), (Step::Echo, "round_trip")] {
        let load = Load { flows: 4096, packets, rate: args.rate, tolerance: 1.0, ..Load::of(step) };
        let trial = session.trial(&load)?;
        lost += trial.lost;
        ensure!(trial.sent == packets, "{} of {packets} packets were offered", trial.sent);
        let latency = if step == Step::Forward { trial.to_servers } else { trial.to_clients };
        let latency = latency.context("no packet came")?;
        let delay = args.delay.as_secs_f64() * 1e6;
        let longest = delay + args.slack.as_secs_f64() * 1e6;
        ensure!(
            latency.min >= delay && latency.p50 <= longest,
            "{name}: {latency:?} in microseconds, but the forwarder keeps packets for {delay}"
        );
        let figure =
            |what: &str, value, unit| Figure::new(format!("selftest/{name}/{what}"), value, unit);
        figures.push(figure("rate", trial.rate, "packets/s"));
        figures.push(figure("lost", fraction(trial.lost), "packets"));
        figures.push(figure("latency/min", latency.min, "us"));
        figures.push(figure("latency/p50", latency.p50, "us"));
        figures.push(figure("latency/p99", latency.p99, "us"));
    }
    let title = format!(
        "The generator against a forwarder that drops one of {} packets and keeps them for {:?}",
        args.drop_every, args.delay
    );
    conclude(report, &title, "pointsman-bench selftest", figures, session)?;
    Ok(lost)
}

/// Both ways between the generator's sides.
struct Forwarder {
    ways: [Way; 2],
    yields: bool,
}

impl Forwarder {
    fn run(&mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Acquire) {
            let [there, back] = &mut self.ways;
            let worked = there.poll() | back.poll();
            if !worked && self.yields {
                lcore::delay_us_sleep(PAUSE_US);
            }
        }
    }

    fn dropped(&self) -> u64 {
        self.ways.iter().map(|way| way.dropped).sum()
    }
}

/// One way.
struct Way {
    from: RingConsumer,
    to: RingProducer,
    drop_every: u32,
    /// In cycles.
    delay: u64,
    seen: u32,
    dropped: u64,
    /// Packets that are kept, and when each is due.
    kept: VecDeque<(u64, Mbuf)>,
    out: Burst,
}

impl Way {
    fn new(from: RingConsumer, to: RingProducer, drop_every: u32, delay: Duration) -> Self {
        let delay = cycles(delay, tsc::hz());
        let (kept, out) = (VecDeque::with_capacity(RING), Burst::new());
        Self { from, to, drop_every, delay, seen: 0, dropped: 0, kept, out }
    }

    /// Takes what came, and passes on what is due. Whether there was anything.
    fn poll(&mut self) -> bool {
        let mut burst = Burst::new();
        let came = self.from.pop_burst(&mut burst);
        let now = tsc::now();
        for mbuf in burst {
            self.seen += 1;
            if self.drop_every > 0 && self.seen.is_multiple_of(self.drop_every) {
                self.dropped += 1;
            } else {
                self.kept.push_back((now + self.delay, mbuf));
            }
        }
        while self.out.len() < BURST && self.kept.front().is_some_and(|(due, _)| *due <= now) {
            self.out.extend(self.kept.pop_front().map(|(_, mbuf)| mbuf));
        }
        let left = if self.out.is_empty() { 0 } else { self.to.push_burst(&mut self.out) };
        came + left > 0
    }
}
