//! One worker's processing without a device: packets from memory, a sink that frees, TSC cycles
//! of every burst.
//!
//! What the director adds is its loop less plain forwarding's: MACs swapped, same source, same
//! wrappers, same sink. The two take turns, so that both see the same neighbours on the machine.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pointsman::clock::Tick;
use pointsman::dataplane::frame::{BURST, FrameBurst, Outlet};
use pointsman::dpdk::eal::{Eal, EalArgs};
use pointsman::dpdk::mbuf::Mbuf;
use pointsman::dpdk::mempool::Mempool;
use pointsman::dpdk::tsc;
use pointsman::ids::InterfaceId;
use pointsman::wire::ethernet::EthernetHeader;
use pointsman::wire::flow_key::Direction;
use pointsman::wire::tcp::flags;
use zerocopy::FromBytes;

use crate::flows::{Family, Template, Traffic, Transport};
use crate::measure::{Cycles, Runs};
use crate::results::{Report, Row, free_huge_pages, say};
use crate::scale::scale;
use crate::sink::Sink;
use crate::source::{Flows, Source};
use crate::world::{INSIDE, World};

/// Bursts of one run at most.
const BURSTS: usize = 1 << 18;
/// Mbufs of the pool, and how many of them the lcore keeps at hand.
const MBUFS: u32 = 8191;
const POOL_CACHE: u32 = 256;
/// DPDK's memory, MiB.
const MEMORY_MIB: u64 = 64;

/// What to measure, and how long.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct LoopArgs {
    /// Numbers of established flows.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 1000, 65_536, 1_048_576])]
    flows: Vec<u32>,
    /// Address families.
    #[arg(long, value_delimiter = ',', default_values = ["v4", "v6"])]
    families: Vec<Family>,
    /// Transport protocols.
    #[arg(long, value_delimiter = ',', default_values = ["udp", "tcp"])]
    transports: Vec<Transport>,
    /// Numbers of live connections while connections begin and end.
    #[arg(long, value_delimiter = ',', default_values_t = [65_536, 1_048_576])]
    live: Vec<u32>,
    /// Measure only this.
    #[arg(long, value_enum)]
    only: Option<Part>,
    /// Runs of each measure; their median counts.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Milliseconds of one run.
    #[arg(long, default_value_t = 100)]
    milliseconds: u64,
    /// The CPU to measure on.
    #[arg(long, default_value_t = 1)]
    cpu: u16,
}

/// Starts EAL and measures everything.
pub(crate) fn run(args: &LoopArgs, report: &mut Report) -> Result<()> {
    let eal = start_eal(args.cpu)?;
    let lcore = *eal.worker_lcores().first().context("EAL gave no lcore")?;
    let pool = Mempool::create(&eal, "packets", MBUFS, 2048, POOL_CACHE, None)?;
    for part in args.only.map_or(vec![Part::Established, Part::Connections], |only| vec![only]) {
        let (args, pool) = (args.clone(), pool.clone());
        let work = move || Bench::new(&pool, &args).measure(part);
        let rows = eal.launch(lcore, work)?.join()??;
        report.add(part.name(), rows)?;
    }
    ensure!(pool.in_use() == 0, "{} mbufs did not come back to the pool", pool.in_use());
    Ok(())
}

/// Huge pages where there are enough, else ordinary memory.
fn start_eal(cpu: u16) -> Result<Arc<Eal>> {
    let huge = free_huge_pages() * 2 >= MEMORY_MIB;
    if !huge {
        say("no free huge pages: ordinary memory, which costs about twice the cycles");
    }
    let memory: &[&str] = if huge { &["--in-memory"] } else { &["--no-huge", "--no-shconf"] };
    let (mib, lcores) = (MEMORY_MIB.to_string(), format!("0@0,1@{cpu}"));
    let fixed = ["--no-pci", "--no-telemetry", "-m", &mib, "--lcores", &lcores];
    let args = memory.iter().chain(&fixed).copied();
    Eal::init(&EalArgs::new("pointsman-bench", args)).context("EAL")
}

/// The two kinds of measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Packets of established flows.
    Established,
    /// Connections that begin and end.
    Connections,
}

impl Part {
    const fn name(self) -> &'static str {
        match self {
            Self::Established => {
                "One worker in memory, bursts of 64, established flows in random order: \
                 TSC cycles per packet, median over bursts"
            }
            Self::Connections => {
                "One worker in memory: TSC cycles of a whole connection, all its packets, \
                 insert, states and expiry"
            }
        }
    }
}

/// Connections end when their slot of the timer wheel comes up, every 128 ms: a sample covers
/// eight slots, or what ends would be in some samples and not in others.
const SLOTS_MS: u64 = 8 * 128;

/// The life of 64 connections, over and over.
struct Turns {
    life: Vec<Template>,
    flows: Flows,
    /// Milliseconds that pass with every turn.
    step: u64,
    /// Turns of a sample.
    each: u64,
    done: u64,
}

/// What one lcore measures with.
struct Bench<'a> {
    args: &'a LoopArgs,
    source: Source,
    sink: Sink,
    cycles: Cycles,
    cycles_per_ms: u64,
}

impl<'a> Bench<'a> {
    fn new(pool: &Mempool, args: &'a LoopArgs) -> Self {
        Self {
            args,
            source: Source::new(pool),
            sink: Sink::new(pool),
            cycles: Cycles::new(BURSTS),
            cycles_per_ms: (tsc::hz() / 1000).max(1),
        }
    }

    fn measure(&mut self, part: Part) -> Result<Vec<Row>> {
        let args = self.args;
        let mut rows = Vec::new();
        let traffics = args
            .families
            .iter()
            .flat_map(|family| args.transports.iter().map(|transport| (*family, *transport)));
        for (family, transport) in traffics {
            let traffic = Traffic { family, transport };
            if part == Part::Connections {
                let measured = args.live.iter().map(|live| self.connections(traffic, *live));
                rows.extend(measured.collect::<Result<Vec<_>>>()?);
                continue;
            }
            for flows in &args.flows {
                rows.extend(self.established(traffic, *flows)?);
            }
        }
        Ok(rows)
    }

    /// Packets of established flows: plain forwarding, the director, the difference.
    fn established(&mut self, traffic: Traffic, flows: u32) -> Result<[Row; 3]> {
        let mut world = World::new(traffic, capacity(flows), &mut self.sink)?;
        self.establish(&mut world, traffic, flows)?;
        let packet = Template::new(traffic, Direction::Inbound, flags::ACK);
        let (mut plain, mut director) = (Runs::default(), Runs::default());
        for _ in 0..self.args.runs {
            plain.push(self.plain(&packet, Flows::random(flows))?);
            director.push(self.director(&mut world, &packet, Flows::random(flows))?);
        }
        let dropped = world.stats().dropped.total();
        ensure!(dropped == 0, "{traffic}: {dropped} packets were dropped");
        ensure!(world.connections() == flows, "{traffic}: {} connections", world.connections());
        let name = format!("loop/{traffic}/{}_flows", scale(flows));
        let added = director.with(&plain, |director, plain| director - plain);
        let row = |what: &str, runs: &Runs| Row::new(format!("{name}/{what}"), UNIT, runs, COMMAND);
        Ok([row("macswap", &plain), row("director", &director), row("added", &added)])
    }

    /// Opens all flows: a datagram, or the three segments of a handshake.
    fn establish(&mut self, world: &mut World, traffic: Traffic, flows: u32) -> Result<()> {
        let before = self.sink.transmitted();
        let opening: Vec<_> = life(traffic).into_iter().take(3).collect();
        let mut burst = FrameBurst::new();
        let mut order = Flows::sequential(flows);
        let bursts = (flows as usize).div_ceil(BURST);
        for _ in 0..bursts {
            // A burst is so many flows; each goes through its opening.
            let start = order.clone();
            for template in &opening {
                order = start.clone();
                self.source.receive(&mut burst, template, &mut order)?;
                world.round(&mut burst, Tick(0), &mut self.sink);
            }
        }
        let sent = self.sink.transmitted() - before;
        let wanted = bursts as u64 * (BURST * opening.len()) as u64;
        ensure!(sent == wanted, "{traffic}: {sent} of {wanted} packets came through");
        Ok(())
    }

    fn plain(&mut self, packet: &Template, mut flows: Flows) -> Result<f64> {
        let mut burst = FrameBurst::new();
        let end = self.begin();
        let mut before = tsc::now();
        loop {
            self.source.receive(&mut burst, packet, &mut flows)?;
            swap_macs(&mut burst, &mut self.sink);
            let after = tsc::now();
            self.cycles.push(after.wrapping_sub(before));
            before = after;
            if after >= end {
                return Ok(self.cycles.median_per(BURST));
            }
        }
    }

    fn director(&mut self, world: &mut World, packet: &Template, mut flows: Flows) -> Result<f64> {
        let mut burst = FrameBurst::new();
        let end = self.begin();
        let start = tsc::now();
        let mut before = start;
        loop {
            let now = self.tick(before.wrapping_sub(start));
            self.source.receive(&mut burst, packet, &mut flows)?;
            world.round(&mut burst, now, &mut self.sink);
            let after = tsc::now();
            self.cycles.push(after.wrapping_sub(before));
            before = after;
            if after >= end {
                return Ok(self.cycles.median_per(BURST));
            }
        }
    }

    /// Connections that begin, live and end, `live` of them at any time: 64 begin with every
    /// turn and, once the first have timed out, as many are forgotten.
    fn connections(&mut self, traffic: Traffic, live: u32) -> Result<Row> {
        let mut world = World::new(traffic, live * 2, &mut self.sink)?;
        // Time goes so fast that the last state's timeout passes while `live` others begin.
        let step = timeout_ms(traffic) * BURST as u64 / u64::from(live);
        let mut turns = Turns {
            life: life(traffic),
            flows: Flows::sequential(u32::MAX),
            step,
            each: (SLOTS_MS / step.max(1)).max(1),
            done: 0,
        };
        let fill = u64::from(live) / BURST as u64 * 3 / 2;
        while turns.done < fill {
            self.turns(&mut world, &mut turns)?;
        }
        let mut runs = Runs::default();
        let (begun, ended) = (turns.done, world.expired());
        while runs.len() < self.args.runs {
            let end = self.begin();
            while tsc::now() < end {
                self.turns(&mut world, &mut turns)?;
            }
            let connections = usize::try_from(turns.each)? * BURST;
            runs.push(self.cycles.median_per(connections));
        }
        let begun = (turns.done - begun) * BURST as u64;
        let ended = world.expired() - ended;
        let wanted = begun / 10 * 9..=begun / 10 * 11;
        ensure!(wanted.contains(&ended), "{traffic}: {begun} connections began, {ended} ended");
        let dropped = world.stats().dropped.total();
        ensure!(dropped == 0, "{traffic}: {dropped} packets were dropped");
        let have = world.connections();
        let wanted = live / 10 * 9..=live / 10 * 11;
        ensure!(wanted.contains(&have), "{traffic}: {have} live connections, not about {live}");
        let name = format!("loop/{traffic}/{}_live/connection", scale(live));
        Ok(Row::new(name, "cycles/connection", &runs, COMMAND))
    }

    /// One sample: so many turns that every kind of work is in it.
    fn turns(&mut self, world: &mut World, turns: &mut Turns) -> Result<()> {
        let before = tsc::now();
        for _ in 0..turns.each {
            let now = milliseconds(turns.done * turns.step);
            self.one_life(world, &turns.life, &mut turns.flows, now)?;
            turns.done += 1;
        }
        self.cycles.push(tsc::now().wrapping_sub(before));
        Ok(())
    }

    /// 64 connections from their first packet to their last.
    fn one_life(
        &mut self,
        world: &mut World,
        life: &[Template],
        flows: &mut Flows,
        now: Tick,
    ) -> Result<()> {
        let mut burst = FrameBurst::new();
        let start = flows.clone();
        for template in life {
            *flows = start.clone();
            self.source.receive(&mut burst, template, flows)?;
            world.round(&mut burst, now, &mut self.sink);
        }
        Ok(())
    }

    /// Forgets the last run; when this one is to end.
    fn begin(&mut self) -> u64 {
        self.cycles.clear();
        tsc::now() + self.args.milliseconds * self.cycles_per_ms
    }

    fn tick(&self, cycles: u64) -> Tick {
        milliseconds(cycles / self.cycles_per_ms)
    }
}

const UNIT: &str = "cycles/packet";
const COMMAND: &str = "pointsman-bench loop";

/// Plain forwarding: what `dpdk-testpmd --forward-mode=macswap` does, through our wrappers.
#[inline]
fn swap_macs(burst: &mut FrameBurst<Mbuf>, sink: &mut Sink) {
    for mut frame in burst.drain(..) {
        if let Ok((link, _)) = EthernetHeader::mut_from_prefix(frame.octets_mut()) {
            std::mem::swap(&mut link.source, &mut link.destination);
        }
        sink.transmit(InterfaceId(INSIDE), frame);
    }
    sink.flush();
}

/// Every packet of a connection, in order.
fn life(traffic: Traffic) -> Vec<Template> {
    use Direction::{Inbound, Reply};
    use flags::{ACK, FIN, SYN};
    let packets: &[(Direction, u8)] = match traffic.transport {
        Transport::Udp => &[(Inbound, 0)],
        Transport::Tcp => &[
            (Inbound, SYN),
            (Reply, SYN | ACK),
            (Inbound, ACK),
            (Inbound, FIN | ACK),
            (Reply, FIN | ACK),
            (Inbound, ACK),
        ],
    };
    packets
        .iter()
        .map(|(direction, control)| Template::new(traffic, *direction, *control))
        .collect()
}

/// Idle time of the state that a whole life ends in.
fn timeout_ms(traffic: Traffic) -> u64 {
    let timeouts = pointsman::service::Timeouts::default();
    let timeout: Duration = match traffic.transport {
        Transport::Udp => timeouts.udp,
        Transport::Tcp => timeouts.time_wait,
    };
    u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)
}

/// A tick wraps, by design.
fn milliseconds(since_start: u64) -> Tick {
    let [.., a, b, c, d] = since_start.to_be_bytes();
    Tick(u32::from_be_bytes([a, b, c, d]))
}

/// Room for a number of flows.
fn capacity(flows: u32) -> u32 {
    flows.max(1024)
}
