//! What a packet costs that arrived at another worker than its flow's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use anyhow::{Result, ensure};
use pointsman::clock::Tick;
use pointsman::dataplane::frame::{BURST, FrameBurst};
use pointsman::dataplane::pipeline::Origin;
use pointsman::dpdk::mempool::Mempool;
use pointsman::dpdk::ring::{RingConsumer, RingProducer, ring};
use pointsman::dpdk::tsc;
use pointsman_bench::world::{Plan, World, flows_of};

use super::{COMMAND, Member, TRAFFIC, WorkersArgs, packet};
use crate::forwarding::{BURSTS, Forwarding};
use crate::lab::{Lab, LabArgs};
use crate::measure::{Cycles, Run, Runs};
use crate::quiet::Patience;
use crate::results::Row;
use crate::scale::scale;
use crate::sink::Sink;
use crate::source::Flows;

/// Packets that the ring between two workers takes, as the director's.
const RING: usize = 1024;
/// The first of two workers, which has no connections of its own.
const RECEIVER: Plan = Plan { worker: (0, 2), ..Plan::new(TRAFFIC, 1024) };

/// Packets of the second worker's flows: they arrive there, or at the first worker, which hands
/// them over. The cycles of both count.
pub(super) fn measure(args: &WorkersArgs, lab: &Lab) -> Result<Vec<Row>> {
    let flows: Arc<[u32]> = flows_of(1, 2, args.worker_flows).into();
    let [mut right, mut right_source] = [const { Runs::new() }; 2];
    let [mut handed, mut receiver, mut source, mut owner] = [const { Runs::new() }; 4];
    let [mut on_one, mut line] = [const { Runs::new() }; 2];
    let mut patience = Patience::new(lab.args.patience, || lab.is_quiet());
    for _ in 0..lab.args.runs {
        line.push(patience.run(|| line_there_and_back(lab))?);
        let (at_owner, is_quiet) = patience.watch(|| arrived_right(lab, &flows))?;
        right.push(Run { value: at_owner.all, is_quiet });
        right_source.push(Run { value: at_owner.source, is_quiet });
        let ((by_receiver, by_owner), is_quiet) = patience.watch(|| handed_over(lab, &flows))?;
        receiver.push(Run { value: by_receiver.all, is_quiet });
        source.push(Run { value: by_receiver.source, is_quiet });
        owner.push(Run { value: by_owner, is_quiet });
        handed.push(Run { value: by_receiver.all + by_owner, is_quiet });
        on_one.push(patience.run(|| on_one_cpu(lab, &flows))?);
    }
    let lost = lab.pool().in_use();
    ensure!(lost == 0, "{lost} mbufs did not come back to the pool");
    let cost = handed.with(&right, |handed, right| handed - right);
    let sources = source.with(&right_source, |handed, right| handed - right);
    let cost_of_work = cost.with(&sources, |cost, sources| cost - sources);
    let cost_on_one = on_one.with(&right, |handed, right| handed - right);
    let name = format!("workers/{TRAFFIC}/{}_flows", scale(args.worker_flows));
    let row = |what: &str, runs: &Runs| {
        Row::new(format!("{name}/{what}"), "cycles/packet", runs, COMMAND)
    };
    Ok(vec![
        row("line_there_and_back", &line),
        row("arrived_right", &right),
        row("arrived_right/source", &right_source),
        row("handed_over", &handed),
        row("handed_over/receiver", &receiver),
        row("handed_over/receiver/source", &source),
        row("handed_over/owner", &owner),
        row("hand_over", &cost),
        row("hand_over_without_source", &cost_of_work),
        row("hand_over_on_one_cpu", &cost_on_one),
    ])
}

/// Cycles per packet of a loop, and those of the source in it.
#[derive(Clone, Copy, Debug)]
struct Spent {
    all: f64,
    source: f64,
}

/// Cycles of a cache line that two CPUs write in turns, from one write to the next by the same CPU:
/// how far apart the two are now. A virtual machine's may be moved.
fn line_there_and_back(lab: &Lab) -> Result<f64> {
    const TURNS: u32 = 20_000;
    let line = Arc::new(AtomicU32::new(0));
    let answering = Arc::clone(&line);
    let answer = lab.start(1, move || {
        take_turns(&answering, (1..2 * TURNS).step_by(2));
        Ok(())
    })?;
    let ask = lab.start(0, move || {
        let before = tsc::now();
        take_turns(&line, (0..2 * TURNS).step_by(2));
        Ok(tsc::now().wrapping_sub(before))
    })?;
    let cycles = ask.join()??;
    answer.join()??;
    Ok(f64::from(u32::try_from(cycles)?) / f64::from(TURNS))
}

/// Writes the next number when it is one of these turns.
fn take_turns(line: &AtomicU32, turns: impl Iterator<Item = u32>) {
    for turn in turns {
        while line.load(Ordering::Acquire) != turn {
            std::hint::spin_loop();
        }
        line.store(turn + 1, Ordering::Release);
    }
}

fn arrived_right(lab: &Lab, flows: &Arc<[u32]>) -> Result<Spent> {
    let (flows, pool, args) = (Arc::clone(flows), lab.pool().clone(), lab.args.clone());
    let work = move || {
        let Member { mut forwarding, mut world, flows: mut order } =
            Member::new((1, 2), &flows, (&pool, &args))?;
        let mut source = Cycles::new(BURSTS);
        let (packet, mut burst) = (packet(), FrameBurst::new());
        let end = forwarding.begin();
        let mut before = tsc::now();
        while before < end {
            forwarding.source.receive(&mut burst, &packet, &mut order)?;
            source.push(tsc::now().wrapping_sub(before));
            world.round(&mut burst, Origin::Port, Tick(0), &mut forwarding.sink);
            let after = tsc::now();
            forwarding.cycles.push(after.wrapping_sub(before));
            before = after;
        }
        let all = forwarding.cycles.median_per(BURST);
        Ok(Spent { all, source: source.median_per(BURST) })
    };
    lab.start(1, work)?.join()?
}

/// Cycles per packet where both workers take turns on one CPU: the work without the move from cache
/// to cache.
fn on_one_cpu(lab: &Lab, flows: &Arc<[u32]>) -> Result<f64> {
    let (producer, mut consumer) = ring(lab.eal(), "hand_over", RING, None)?;
    let (flows, pool, args) = (Arc::clone(flows), lab.pool().clone(), lab.args.clone());
    let work = move || {
        let Member { mut forwarding, world: mut owner, flows: mut order } =
            Member::new((1, 2), &flows, (&pool, &args))?;
        let mut sink = Sink::beside(&pool, producer);
        let (mut receiver, _) = World::new(&RECEIVER, &mut sink)?;
        let (packet, mut burst) = (packet(), FrameBurst::new());
        let end = forwarding.begin();
        let mut before = tsc::now();
        while before < end {
            forwarding.source.receive(&mut burst, &packet, &mut order)?;
            receiver.round(&mut burst, Origin::Port, Tick(0), &mut sink);
            let taken = consumer.pop_burst(&mut burst);
            ensure!(taken == BURST, "{taken} packets were handed over, not {BURST}");
            owner.round(&mut burst, Origin::Worker, Tick(0), &mut forwarding.sink);
            let after = tsc::now();
            forwarding.cycles.push(after.wrapping_sub(before));
            before = after;
        }
        receiver.lost_nothing()?;
        owner.lost_nothing()?;
        Ok(forwarding.cycles.median_per(BURST))
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
fn handed_over(lab: &Lab, flows: &Arc<[u32]>) -> Result<(Spent, f64)> {
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
) -> Result<(Spent, u64)> {
    let mut forwarding = Forwarding::new(pool, args.milliseconds);
    forwarding.sink = Sink::beside(pool, producer);
    let (mut world, _) = World::new(&RECEIVER, &mut forwarding.sink)?;
    let mut order = Flows::random(u32::try_from(flows.len())?).among(flows);
    let (packet, mut burst) = (packet(), FrameBurst::new());
    let mut source = Cycles::new(BURSTS);
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
        source.push(tsc::now().wrapping_sub(before));
        world.round(&mut burst, Origin::Port, Tick(0), &mut forwarding.sink);
        let after = tsc::now();
        forwarding.cycles.push(after.wrapping_sub(before));
        if after >= end {
            break;
        }
    }
    world.lost_nothing()?;
    let spent =
        Spent { all: forwarding.cycles.median_per(BURST), source: source.median_per(BURST) };
    Ok((spent, forwarding.sink.handed_out()))
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
