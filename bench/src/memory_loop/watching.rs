//! What the pipeline's stop watch costs, which looks at a round now and then.

use anyhow::Result;
use pointsman::wire::flow_key::Direction;
use pointsman_bench::flows::{Family, Traffic, Transport};
use pointsman_bench::template::Template;
use pointsman_bench::world::Plan;

use crate::forwarding::Forwarding;
use crate::lab::Lab;
use crate::measure::{Run, Runs};
use crate::quiet::{Patience, is_quiet};
use crate::results::{Report, Row};
use crate::scale::scale;
use crate::source::Flows;

const COMMAND: &str = "pointsman-bench loop --only watch";
const TITLE: &str = "One worker in memory, established flows in random order, with its stop watch \
                     and without: TSC cycles per packet, median over turns of 63 bursts";
const TRAFFIC: Traffic = Traffic { family: Family::V4, transport: Transport::Udp };
/// Numbers of flows: where a packet costs least the watch weighs most.
const FLOWS: [u32; 2] = [1000, 65_536];

pub(super) fn run(lab: &Lab, report: &mut Report) -> Result<()> {
    let mut rows = Vec::new();
    for flows in FLOWS {
        rows.extend(measure(lab, flows)?);
    }
    report.add(TITLE, rows)
}

fn measure(lab: &Lab, flows: u32) -> Result<[Row; 3]> {
    let (pool, args) = (lab.pool().clone(), lab.args.clone());
    lab.run(move || {
        let mut forwarding = Forwarding::new(&pool, args.milliseconds);
        let plan = Plan::new(TRAFFIC, flows.max(1024));
        let (mut world, _) = forwarding.world(&plan, &Flows::sequential(flows))?;
        let packet = Template::new(TRAFFIC, Direction::Inbound, 0);
        let mut order = Flows::random(flows);
        let [mut with, mut without] = [Runs::new(), Runs::new()];
        let mut patience = Patience::new(args.patience, || Ok(is_quiet()));
        for _ in 0..args.runs {
            let work = || forwarding.watched_and_unwatched(&mut world, &packet, &mut order);
            let ([watched, unwatched], is_quiet) = patience.watch(work)?;
            with.push(Run { value: watched, is_quiet });
            without.push(Run { value: unwatched, is_quiet });
        }
        world.lost_nothing()?;
        let ratio = with.with(&without, |watched, unwatched| watched / unwatched);
        let row = |what, unit, runs: &Runs| {
            let name = format!("loop/{TRAFFIC}/{}_flows/{what}", scale(flows));
            Row::new(name, unit, runs, COMMAND)
        };
        Ok([
            row("watched", "cycles/packet", &with),
            row("unwatched", "cycles/packet", &without),
            row("watched_to_unwatched", "ratio", &ratio),
        ])
    })
}
