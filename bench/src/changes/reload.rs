//! The service table, a large one, is replaced ten times a second by another thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use pointsman::dpdk::mbuf::Mbuf;
use pointsman::dpdk::tsc;
use pointsman::wire::flow_key::Direction;
use pointsman_bench::template::Template;
use pointsman_bench::world::{Compiler, LARGE, Plan, World};

use super::{ChangesArgs, Rates, TRAFFIC};
use crate::forwarding::Forwarding;
use crate::lab::Lab;
use crate::source::Flows;

/// Time between two tables.
const PERIOD: Duration = Duration::from_millis(100);
/// Of a part with new tables, and of one without.
const PART: Duration = Duration::from_secs(1);

/// What both threads see.
#[derive(Debug, Default)]
struct Signals {
    /// Tables are wanted.
    is_on: AtomicBool,
    is_over: AtomicBool,
}

/// Both rates, in turns.
pub(super) fn measure(args: &ChangesArgs, lab: &Lab) -> Result<Rates> {
    let signals = Arc::new(Signals::default());
    let (give, take) = sync_channel(1);
    let reloader = {
        let (signals, cpu) = (Arc::clone(&signals), lab.last_cpu());
        thread::Builder::new()
            .name("reload".to_owned())
            .spawn(move || reload(&take, &signals, cpu))?
    };
    let forwarded = {
        let (args, pool, signals) = (args.clone(), lab.pool().clone(), Arc::clone(&signals));
        lab.run(move || {
            let mut forwarding = Forwarding::new(&pool, 0);
            let plan = Plan { services: LARGE, ..Plan::new(TRAFFIC, args.busy_flows) };
            let flows = Flows::sequential(args.busy_flows);
            let (mut world, compiler) = forwarding.world(&plan, &flows)?;
            give.send(compiler).ok().context("the thread that compiles has ended")?;
            let rates = forward(&mut forwarding, &mut world, &args, &signals)?;
            // It takes tables until the other thread has ended.
            Ok((rates, world))
        })
    };
    signals.is_over.store(true, Ordering::Release);
    let installed = reloader.join().map_err(|_| anyhow!("the thread that compiles died"))?;
    let (rates, _world) = forwarded?;
    let (installed, wanted) = (installed?, args.parts * 9);
    ensure!(installed >= wanted, "{installed} tables were installed, fewer than {wanted}");
    Ok(rates)
}

/// Compiles and installs, as long as that is wanted: how many tables.
fn reload(take: &Receiver<Compiler>, signals: &Signals, cpu: u16) -> Result<u32> {
    core_affinity::set_for_current(core_affinity::CoreId { id: usize::from(cpu) });
    // Without one, the worker has failed and says why.
    let Ok(mut compiler) = take.recv() else { return Ok(0) };
    let (mut installed, mut next) = (0, Instant::now());
    while !signals.is_over.load(Ordering::Acquire) {
        if signals.is_on.load(Ordering::Acquire) {
            compiler.install()?;
            installed += 1;
        }
        compiler.collect();
        next += PERIOD;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(installed)
}

fn forward(
    forwarding: &mut Forwarding,
    world: &mut World<Mbuf>,
    args: &ChangesArgs,
    signals: &Signals,
) -> Result<Rates> {
    let packet = Template::new(TRAFFIC, Direction::Inbound, 0);
    let mut rates = Rates::default();
    let start = tsc::now();
    for _ in 0..args.parts {
        for is_on in [false, true] {
            signals.is_on.store(is_on, Ordering::Release);
            let flows = Flows::random(args.busy_flows);
            let rate = forwarding.rate(world, &packet, flows, (start, PART))?;
            let runs = if is_on { &mut rates.disturbed } else { &mut rates.undisturbed };
            runs.push(rate);
        }
    }
    signals.is_on.store(false, Ordering::Release);
    world.lost_nothing()?;
    let have = world.connections();
    ensure!(have == args.busy_flows, "{have} of {} connections are left", args.busy_flows);
    Ok(rates)
}
