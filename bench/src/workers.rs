//! Several workers, each on a CPU of its own with the source in its receive path: what a packet
//! costs that arrived at the wrong one, and whether workers add up.

use std::sync::Arc;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, ensure};
use pointsman::clock::Tick;
use pointsman::dataplane::frame::{BURST, FrameBurst};
use pointsman::dataplane::pipeline::Origin;
use pointsman::dpdk::mbuf::Mbuf;
use pointsman::dpdk::mempool::Mempool;
use pointsman::dpdk::ring::{RingConsumer, RingProducer, ring};
use pointsman::dpdk::tsc;
use pointsman::wire::flow_key::Direction;
use pointsman_bench::flows::{Family, Traffic, Transport};
use pointsman_bench::template::Template;
use pointsman_bench::world::{Plan, World, flows_of};

use crate::forwarding::Forwarding;
use crate::lab::{Lab, LabArgs};
use crate::measure::Runs;
use crate::results::{Report, Row, say};
use crate::scale::scale;
use crate::sink::Sink;
use crate::source::Flows;

const TRAFFIC: Traffic = Traffic { family: Family::V4, transport: Transport::Udp };
const COMMAND: &str = "pointsman-bench workers";
/// Packets that the ring between two workers takes, as the director's.
const RING: usize = 1024;

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct WorkersArgs {
    /// Established flows of each worker.
    #[arg(long, default_value_t = 65_536)]
    worker_flows: u32,
}

/// Measures everything that takes more than one worker.
pub(crate) fn run(args: &WorkersArgs, lab: &Lab, report: &mut Report) -> Result<()> {
    let title = "Workers on their own CPUs, the source in each one's receive path, established \
                 flows in random order";
    if lab.lcores() < 2 {
        say("workers: left out, as --cpus names one CPU alone");
        return Ok(());
    }
    let mut rows = hand_over(args, lab)?;
    rows.extend(scaling(args, lab)?);
    report.add(title, rows)
}

fn packet() -> Template {
    Template::new(TRAFFIC, Direction::Inbound, 0)
}

/// One of several workers with its established flows.
struct Member {
    forwarding: Forwarding,
    world: World<Mbuf>,
    /// At random.
    flows: Flows,
}

impl Member {
    fn new(
        worker: (u16, u16),
        flows: &Arc<[u32]>,
        (pool, args): (&Mempool, &LabArgs),
    ) -> Result<Self> {
        let mut forwarding = Forwarding::new(pool, args.milliseconds);
        let count = u32::try_from(flows.len())?;
        let plan = Plan { worker, ..Plan::new(TRAFFIC, count) };
        let (world, _) = forwarding.world(&plan, &Flows::sequential(count).among(flows))?;
        let have = world.connections();
        ensure!(have == count, "{have} connections, not {count}");
        Ok(Self { forwarding, world, flows: Flows::random(count).among(flows) })
    }
}

/// Packets of the second worker's flows: they arrive there, or at the first worker, which hands
/// them over. The cycles of both count.
fn hand_over(args: &WorkersArgs, lab: &Lab) -> Result<Vec<Row>> {
    let flows: Arc<[u32]> = flows_of(1, 2, args.worker_flows).into();
    let (mut right, mut handed, mut receiver, mut owner) =
        (Runs::default(), Runs::default(), Runs::default(), Runs::default());
    for _ in 0..lab.args.runs {
        right.push(arrived_right(lab, &flows)?);
        let (by_receiver, by_owner) = handed_over(lab, &flows)?;
        receiver.push(by_receiver);
        owner.push(by_owner);
        handed.push(by_receiver + by_owner);
    }
    let lost = lab.pool().in_use();
    ensure!(lost == 0, "{lost} mbufs did not come back to the pool");
    let cost = handed.with(&right, |handed, right| handed - right);
    let name = format!("workers/{TRAFFIC}/{}_flows", scale(args.worker_flows));
    let row = |what: &str, runs: &Runs| {
        Row::new(format!("{name}/{what}"), "cycles/packet", runs, COMMAND)
    };
    Ok(vec![
        row("arrived_right", &right),
        row("handed_over", &handed),
        row("handed_over/receiver", &receiver),
        row("handed_over/owner", &owner),
        row("hand_over", &cost),
    ])
}

fn arrived_right(lab: &Lab, flows: &Arc<[u32]>) -> Result<f64> {
    let (flows, pool, args) = (Arc::clone(flows), lab.pool().clone(), lab.args.clone());
    let work = move || {
        let mut member = Member::new((1, 2), &flows, (&pool, &args))?;
        let flows = member.flows.clone();
        member.forwarding.director(&mut member.world, &packet(), flows)
    };
    lab.start(1, work)?.join()?
}

/// How the two ends of a ring tell each other where they are.
#[derive(Debug, Default)]
struct Signals {
    owner_is_ready: AtomicBool,
    receiver_is_done: AtomicBool,
}

/// Cycles per packet of the receiver and of the owner.
fn handed_over(lab: &Lab, flows: &Arc<[u32]>) -> Result<(f64, f64)> {
    let (producer, consumer) = ring(lab.eal(), "hand_over", RING, None)?;
    let signals = Arc::new(Signals::default());
    let owner = {
        let (flows, pool, args) = (Arc::clone(flows), lab.pool().clone(), lab.args.clone());
        let signals = Arc::clone(&signals);
        lab.start(1, move || {
            let member = Member::new((1, 2), &flows, (&pool, &args));
            signals.owner_is_ready.store(true, Ordering::Release);
            own(member?, consumer, &signals)
        })?
    };
    let receiver = {
        let (flows, pool, args) = (Arc::clone(flows), lab.pool().clone(), lab.args.clone());
        lab.start(0, move || {
            while !signals.owner_is_ready.load(Ordering::Acquire) {
                std::thread::yield_now();
            }
            let cycles = receive(producer, &flows, &pool, &args);
            signals.receiver_is_done.store(true, Ordering::Release);
            cycles
        })?
    };
    let (cycles, handed_out) = receiver.join()??;
    let (own_cycles, forwarded) = owner.join()??;
    ensure!(handed_out == forwarded, "{handed_out} were handed over, {forwarded} forwarded");
    Ok((cycles, own_cycles))
}

/// Receives packets of another's flows and hands them over: cycles per packet, and how many.
fn receive(
    producer: RingProducer,
    flows: &Arc<[u32]>,
    pool: &Mempool,
    args: &LabArgs,
) -> Result<(f64, u64)> {
    let mut forwarding = Forwarding::new(pool, args.milliseconds);
    forwarding.sink = Sink::beside(pool, producer);
    let plan = Plan { worker: (0, 2), ..Plan::new(TRAFFIC, 1024) };
    let (mut world, _) = World::new(&plan, &mut forwarding.sink)?;
    let mut order = Flows::random(u32::try_from(flows.len())?).among(flows);
    let (packet, mut burst) = (packet(), FrameBurst::new());
    let end = forwarding.begin();
    loop {
        if !forwarding.sink.has_room() {
            // The owner is slower. Waiting is no work.
            if tsc::now() >= end {
                break;
            }
            std::hint::spin_loop();
            continue;
        }
        let before = tsc::now();
        forwarding.source.receive(&mut burst, &packet, &mut order)?;
        world.round(&mut burst, Origin::Port, Tick(0), &mut forwarding.sink);
        let after = tsc::now();
        forwarding.cycles.push(after.wrapping_sub(before));
        if after >= end {
            break;
        }
    }
    world.lost_nothing()?;
    Ok((forwarding.cycles.median_per(BURST), forwarding.sink.handed_out()))
}

/// Forwards what another worker hands over: cycles per packet of full bursts, and how many packets.
fn own(member: Member, mut ring: RingConsumer, signals: &Signals) -> Result<(f64, u64)> {
    let Member { mut forwarding, mut world, .. } = member;
    let mut burst = FrameBurst::new();
    let forwarded = forwarding.sink.transmitted();
    forwarding.cycles.clear();
    loop {
        let was_done = signals.receiver_is_done.load(Ordering::Acquire);
        let before = tsc::now();
        let taken = ring.pop_burst(&mut burst);
        if taken == 0 && was_done {
            break;
        }
        world.round(&mut burst, Origin::Worker, Tick(0), &mut forwarding.sink);
        if taken == BURST {
            forwarding.cycles.push(tsc::now().wrapping_sub(before));
        }
    }
    world.lost_nothing()?;
    let forwarded = forwarding.sink.transmitted() - forwarded;
    Ok((forwarding.cycles.median_per(BURST), forwarded))
}

/// One worker, two workers, and so on: rates, and how they compare with one.
fn scaling(args: &WorkersArgs, lab: &Lab) -> Result<Vec<Row>> {
    let mut rates = vec![Runs::default(); usize::from(lab.lcores())];
    for _ in 0..lab.args.runs {
        for (workers, runs) in (1..).zip(&mut rates) {
            runs.push(side_by_side(args, lab, workers)?);
        }
    }
    let name = format!("workers/{TRAFFIC}/{}_flows", scale(args.worker_flows));
    let mut rows = Vec::new();
    for (workers, runs) in (1..).zip(&rates) {
        let name = format!("{name}/{workers}_workers");
        rows.push(Row::new(format!("{name}/rate"), "Mpps", runs, COMMAND));
        if let (2.., Some(one)) = (workers, rates.first()) {
            let ratio = runs.with(one, |several, one| several / one);
            rows.push(Row::new(format!("{name}/scaling"), "ratio", &ratio, COMMAND));
        }
    }
    Ok(rows)
}

/// The sum of the rates of so many workers, all at the same time, by their median bursts.
fn side_by_side(args: &WorkersArgs, lab: &Lab, workers: u16) -> Result<f64> {
    let barrier = Arc::new(Barrier::new(usize::from(workers)));
    let start = |worker: u16| {
        let (pool, lab_args, count) = (lab.pool().clone(), lab.args.clone(), args.worker_flows);
        let barrier = Arc::clone(&barrier);
        lab.start(worker, move || {
            let flows = flows_of(worker, workers, count).into();
            let member = Member::new((worker, workers), &flows, (&pool, &lab_args));
            barrier.wait();
            let Member { mut forwarding, mut world, flows } = member?;
            let cycles = forwarding.director(&mut world, &packet(), flows)?;
            world.lost_nothing()?;
            Ok(mpps(cycles))
        })
    };
    let started: Vec<_> = (0..workers).map(start).collect::<Result<_>>()?;
    let rates = started.into_iter().map(|worker| worker.join()?);
    rates.sum()
}

/// Million packets a second at so many cycles each.
#[allow(clippy::cast_precision_loss, reason = "a TSC's rate is far below 2^52")]
fn mpps(cycles: f64) -> f64 {
    tsc::hz() as f64 / cycles / 1e6
}
