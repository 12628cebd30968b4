//! Several workers, each on a CPU of its own with the source in its receive path: what a packet
//! costs that arrived at the wrong one, and whether workers add up.

mod hand_over;
mod scaling;

use std::sync::Arc;

use anyhow::{Result, ensure};
use pointsman::dpdk::mbuf::Mbuf;
use pointsman::dpdk::mempool::Mempool;
use pointsman::wire::flow_key::Direction;
use pointsman_bench::flows::{Family, Traffic, Transport};
use pointsman_bench::template::Template;
use pointsman_bench::world::{Plan, World};

use crate::forwarding::Forwarding;
use crate::lab::{Lab, LabArgs};
use crate::results::{Report, say};
use crate::source::Flows;

const TRAFFIC: Traffic = Traffic { family: Family::V4, transport: Transport::Udp };
const COMMAND: &str = "pointsman-bench workers";

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
    let mut rows = hand_over::measure(args, lab)?;
    rows.extend(scaling::measure(args, lab)?);
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
