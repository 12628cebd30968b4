//! Packets of established flows in random order: plain forwarding, the director, the difference,
//! and how families and protocols compare.

use std::fmt;

use anyhow::{Context, Result, ensure};
use pointsman::dataplane::stats::Stage;
use pointsman::dpdk::mbuf::Mbuf;
use pointsman::wire::flow_key::Direction;
use pointsman::wire::tcp::flags;
use pointsman_bench::flows::{Family, Traffic, Transport};
use pointsman_bench::template::Template;
use pointsman_bench::world::{Plan, World};

use super::LoopArgs;
use crate::forwarding::Forwarding;
use crate::lab::{Lab, LabArgs};
use crate::measure::{Run, Runs};
use crate::quiet::{Patience, is_quiet};
use crate::results::{Report, Row, warn_of_ordinary_memory};
use crate::scale::scale;
use crate::source::Flows;

const UNIT: &str = "cycles/packet";
const COMMAND: &str = "pointsman-bench loop --only established";
const TITLE: &str = "One worker in memory, bursts of 64, established flows in random order: \
                     TSC cycles per packet, median over bursts";
/// IPv4 and UDP, to which others are compared.
const PLAINEST: Traffic = Traffic { family: Family::V4, transport: Transport::Udp };

/// What packets look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kind {
    traffic: Traffic,
    /// They come and leave with a VLAN tag.
    is_tagged: bool,
}

impl From<Traffic> for Kind {
    fn from(traffic: Traffic) -> Self {
        Self { traffic, is_tagged: false }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.traffic, if self.is_tagged { "_vlan" } else { "" })
    }
}

pub(super) fn run(args: &LoopArgs, lab: &Lab, report: &mut Report) -> Result<()> {
    let kinds: Vec<Kind> = args.traffic.iter().copied().map(Kind::from).collect();
    let usual = args.flows.iter().map(|flows| (*flows, kinds.clone()));
    let most = args.most_flows.iter().map(|flows| (*flows, vec![Kind::from(PLAINEST)]));
    let tagged = Kind { traffic: PLAINEST, is_tagged: true };
    let tagged = args.vlan_flows.iter().map(|flows| (*flows, vec![tagged]));
    let mut rows = Vec::new();
    for (flows, kinds) in usual.chain(most).chain(tagged) {
        let (pool, args) = (lab.pool().clone(), lab.args.clone());
        rows.extend(lab.run(move || {
            let mut forwarding = Forwarding::new(&pool, args.milliseconds);
            compare(&mut forwarding, &kinds, flows, &args)
        })?);
    }
    report.add(TITLE, rows)
}

/// One kind of traffic and what was measured of it.
struct Subject {
    kind: Kind,
    world: World<Mbuf>,
    packet: Template,
    /// Goes on from run to run, or each would meet the flows that the one before left in the caches.
    order: Flows,
    plain_order: Flows,
    plain: Runs,
    director: Runs,
    /// Of the director: by stage, from the rounds that its stop watch looked at.
    stages: [Runs; Stage::ALL.len()],
}

impl Subject {
    fn new(forwarding: &mut Forwarding, kind: Kind, flows: u32) -> Result<Self> {
        let Kind { traffic, is_tagged } = kind;
        warn_of_ordinary_memory(traffic, flows);
        let plan = Plan { is_tagged, ..Plan::new(traffic, flows.max(1024)) };
        let (world, _) = forwarding.world(&plan, &Flows::sequential(flows))?;
        let packet = plan.packet(Direction::Inbound, flags::ACK);
        let (plain, director, stages) = Default::default();
        let [order, plain_order] = [Flows::random(flows), Flows::random(flows)];
        Ok(Self { kind, world, packet, order, plain_order, plain, director, stages })
    }

    /// One run of each.
    fn run(
        &mut self,
        forwarding: &mut Forwarding,
        patience: &mut Patience<impl FnMut() -> Result<bool>>,
    ) -> Result<()> {
        let Self { world, packet, plain_order, order, .. } = self;
        // Each once before it counts: while others had their turns their flows took the caches.
        self.plain.push(patience.run(|| {
            forwarding.plain(packet, plain_order)?;
            forwarding.plain(packet, plain_order)
        })?);
        let mut before = watched(world);
        let run = patience.run(|| {
            forwarding.director(world, packet, order)?;
            before = watched(world);
            forwarding.director(world, packet, order)
        })?;
        self.director.push(run);
        let (cycles, packets) = watched(world);
        let looked_at = packets.saturating_sub(before.1).max(1);
        for (runs, (after, before)) in self.stages.iter_mut().zip(cycles.iter().zip(before.0)) {
            let value = float(after.saturating_sub(before)) / float(looked_at);
            runs.push(Run { value, ..run });
        }
        Ok(())
    }

    /// The stages but for receiving, which is the source's here.
    fn stage_rows(&self, scale: &str) -> Vec<Row> {
        let stages = Stage::ALL.iter().zip(&self.stages);
        let own = stages.filter(|(stage, _)| **stage != Stage::Receive);
        own.map(|(stage, runs)| {
            let name = format!("stages/{}/{scale}_flows/{}", self.kind, stage.name());
            Row::new(name, UNIT, runs, COMMAND)
        })
        .collect()
    }

    fn added(&self) -> Runs {
        self.director.with(&self.plain, |director, plain| director - plain)
    }
}

/// The cycles of each stage so far, and of how many packets.
fn watched(world: &World<Mbuf>) -> ([u64; Stage::ALL.len()], u64) {
    let stats = &world.stats().stages;
    let cycles = std::array::from_fn(|place| {
        Stage::ALL.get(place).map_or(0, |stage| stats.of(*stage).get())
    });
    (cycles, stats.packets.get())
}

#[allow(clippy::cast_precision_loss, reason = "measured numbers are far below 2^52")]
fn float(count: u64) -> f64 {
    count as f64
}

/// All kinds of traffic take turns, so that their ratios hold whatever the neighbours do.
fn compare(
    forwarding: &mut Forwarding,
    kinds: &[Kind],
    flows: u32,
    args: &LabArgs,
) -> Result<Vec<Row>> {
    let subjects = kinds.iter().map(|kind| Subject::new(forwarding, *kind, flows));
    let mut subjects = subjects.collect::<Result<Vec<_>>>()?;
    let mut patience = Patience::new(args.patience, || Ok(is_quiet()));
    for _ in 0..args.runs {
        for subject in &mut subjects {
            subject.run(forwarding, &mut patience)?;
        }
    }
    let mut rows = Vec::new();
    for Subject { kind, world, .. } in &subjects {
        world.lost_nothing().with_context(|| kind.to_string())?;
        let have = world.connections();
        ensure!(have == flows, "{kind}: {have} connections, not {flows}");
    }
    let scale = scale(flows);
    for subject in &subjects {
        let name = format!("loop/{}/{scale}_flows", subject.kind);
        let added = subject.added();
        for (what, runs) in
            [("macswap", &subject.plain), ("director", &subject.director), ("added", &added)]
        {
            rows.push(Row::new(format!("{name}/{what}"), UNIT, runs, COMMAND));
        }
        if subject.kind == PLAINEST.into() {
            rows.extend(subject.stage_rows(&scale));
        }
    }
    let pairs = [
        ("loop/ipv4", "tcp_to_udp", Traffic { transport: Transport::Tcp, ..PLAINEST }),
        ("loop/udp", "ipv6_to_ipv4", Traffic { family: Family::V6, ..PLAINEST }),
    ];
    let find =
        |traffic: Traffic| subjects.iter().find(|subject| subject.kind == Kind::from(traffic));
    for (group, what, traffic) in pairs {
        if let (Some(dividend), Some(divisor)) = (find(traffic), find(PLAINEST)) {
            let ratio = dividend.added().with(&divisor.added(), |dividend, divisor| {
                // Of next to nothing, where the median burst is all but free.
                dividend / divisor.max(1.0)
            });
            rows.push(Row::new(format!("{group}/{scale}_flows/{what}"), "ratio", &ratio, COMMAND));
        }
    }
    Ok(rows)
}
