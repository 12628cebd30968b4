//! Connections that begin, live and end, while so many of them are there at any time.

use anyhow::{Context, Result, ensure};
use pointsman::clock::Tick;
use pointsman::dataplane::frame::{BURST, FrameBurst};
use pointsman::dataplane::pipeline::Origin;
use pointsman::dpdk::mbuf::Mbuf;
use pointsman::dpdk::tsc;
use pointsman_bench::flows::{Family, Traffic, Transport};
use pointsman_bench::template::Template;
use pointsman_bench::world::{Plan, World};

use super::LoopArgs;
use crate::forwarding::{Forwarding, milliseconds};
use crate::lab::Lab;
use crate::measure::Runs;
use crate::quiet::{Patience, is_quiet};
use crate::results::{Report, Row, warn_of_ordinary_memory};
use crate::scale::scale;
use crate::source::Flows;

const UNIT: &str = "cycles/connection";
const COMMAND: &str = "pointsman-bench loop --only connections";
const TITLE: &str = "One worker in memory: TSC cycles of a whole connection, all its packets, \
                     insert, states and expiry";
/// What most live connections are compared with.
const COMPARED: u32 = 1 << 20;
/// Connections end when their slot of the timer wheel comes up, every 128 ms: a sample covers
/// eight slots, or what ends would be in some samples and not in others.
const SLOTS_MS: u64 = 8 * 128;

pub(super) fn run(args: &LoopArgs, lab: &Lab, report: &mut Report) -> Result<()> {
    let mut rows = Vec::new();
    for traffic in &args.traffic {
        for live in &args.live {
            rows.extend(measure(lab, *traffic, &[*live])?);
        }
    }
    let tcp = Traffic { family: Family::V4, transport: Transport::Tcp };
    // Together, so that they take turns; 1M has its own row already.
    let most = measure(lab, tcp, &[COMPARED, args.most_live])?;
    rows.extend(most.into_iter().skip(1));
    report.add(TITLE, rows)
}

/// Several numbers of live connections, in turns: a row for each, then the ratio of the second to
/// the first.
fn measure(lab: &Lab, traffic: Traffic, live: &[u32]) -> Result<Vec<Row>> {
    let (pool, args, live) = (lab.pool().clone(), lab.args.clone(), live.to_owned());
    lab.run(move || {
        let mut forwarding = Forwarding::new(&pool, args.milliseconds);
        let crowds = live.iter().map(|live| Crowd::new(&mut forwarding, traffic, *live));
        let mut crowds = crowds.collect::<Result<Vec<_>>>()?;
        let mut patience = Patience::new(args.patience, || Ok(is_quiet()));
        for _ in 0..args.runs {
            for crowd in &mut crowds {
                let run = patience.run(|| crowd.run(&mut forwarding))?;
                crowd.runs.push(run);
            }
        }
        for crowd in &crowds {
            crowd.check().with_context(|| format!("{traffic}, {} live", crowd.live))?;
        }
        let name = |live| format!("loop/{traffic}/{}_live", scale(live));
        let row = |crowd: &Crowd| {
            Row::new(format!("{}/connection", name(crowd.live)), UNIT, &crowd.runs, COMMAND)
        };
        let mut rows: Vec<_> = crowds.iter().map(row).collect();
        if let [few, many] = crowds.as_slice() {
            let ratio = many.runs.with(&few.runs, |many, few| many / few);
            let name = format!("{}/to_{}_live", name(many.live), scale(few.live));
            rows.push(Row::new(name, "ratio", &ratio, COMMAND));
        }
        Ok(rows)
    })
}

/// So many live connections: 64 begin with every turn and, once the first have timed out, as many
/// are forgotten.
struct Crowd {
    live: u32,
    world: World<Mbuf>,
    life: Vec<Template>,
    flows: Flows,
    /// Idle time of the state that a whole life ends in.
    timeout_ms: u64,
    /// Turns of a sample.
    each: u64,
    turns: u64,
    /// Turns, and connections ended, when measuring began.
    begun: u64,
    ended: u64,
    runs: Runs,
}

impl Crowd {
    fn new(forwarding: &mut Forwarding, traffic: Traffic, live: u32) -> Result<Self> {
        // What has timed out waits for its slot to come up.
        let capacity = live + live / 4;
        warn_of_ordinary_memory(traffic, capacity);
        let (world, _) = World::new(&Plan::new(traffic, capacity), &mut forwarding.sink)?;
        let timeout_ms = traffic.last_timeout_ms();
        let mut crowd = Self {
            live,
            world,
            life: traffic.life(),
            flows: Flows::sequential(u32::MAX),
            timeout_ms,
            each: (SLOTS_MS * u64::from(live) / (BURST as u64 * timeout_ms)).max(1),
            turns: 0,
            begun: 0,
            ended: 0,
            runs: Runs::default(),
        };
        let fill = u64::from(live) / BURST as u64 * 3 / 2;
        while crowd.turns < fill {
            crowd.sample(forwarding)?;
        }
        (crowd.begun, crowd.ended) = (crowd.turns, crowd.world.expired());
        Ok(crowd)
    }

    /// Cycles of a connection.
    fn run(&mut self, forwarding: &mut Forwarding) -> Result<f64> {
        let end = forwarding.begin();
        while tsc::now() < end {
            self.sample(forwarding)?;
        }
        let connections = usize::try_from(self.each)? * BURST;
        Ok(forwarding.cycles.median_per(connections))
    }

    /// So many turns that every kind of work is in it.
    fn sample(&mut self, forwarding: &mut Forwarding) -> Result<()> {
        let before = tsc::now();
        for _ in 0..self.each {
            let now = self.now();
            self.turn(forwarding, now)?;
            self.turns += 1;
        }
        forwarding.cycles.push(tsc::now().wrapping_sub(before));
        Ok(())
    }

    /// Time goes so fast that the last state's timeout passes while `live` others begin.
    fn now(&self) -> Tick {
        milliseconds(self.turns * BURST as u64 * self.timeout_ms / u64::from(self.live))
    }

    /// 64 connections from their first packet to their last.
    fn turn(&mut self, forwarding: &mut Forwarding, now: Tick) -> Result<()> {
        let mut burst = FrameBurst::new();
        let start = self.flows.clone();
        for template in &self.life {
            self.flows = start.clone();
            forwarding.source.receive(&mut burst, template, &mut self.flows)?;
            self.world.round(&mut burst, Origin::Port, now, &mut forwarding.sink);
        }
        Ok(())
    }

    /// As many ended as began, and nothing was lost.
    fn check(&self) -> Result<()> {
        self.world.lost_nothing()?;
        let begun = (self.turns - self.begun) * BURST as u64;
        let ended = self.world.expired() - self.ended;
        // What ends, ends slot by slot.
        let slot = u64::from(self.live) / 50;
        ensure!(begun.abs_diff(ended) <= begun / 10 + slot, "{begun} began, {ended} ended");
        let have = self.world.connections();
        ensure!(have.abs_diff(self.live) <= self.live / 10, "{have} live connections");
        Ok(())
    }
}
