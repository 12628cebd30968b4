//! Whether workers add up.

use std::sync::{Arc, Barrier};

use anyhow::Result;
use pointsman::dpdk::tsc;
use pointsman_bench::world::flows_of;

use super::{COMMAND, Member, TRAFFIC, WorkersArgs, packet};
use crate::lab::Lab;
use crate::measure::Runs;
use crate::quiet::Patience;
use crate::results::Row;
use crate::scale::scale;

/// One worker, two workers, and so on: rates, and how they compare with one.
pub(super) fn measure(args: &WorkersArgs, lab: &Lab) -> Result<Vec<Row>> {
    let mut rates = vec![Runs::default(); usize::from(lab.lcores())];
    let mut patience = Patience::new(lab.args.patience, || lab.is_quiet());
    for _ in 0..lab.args.runs {
        for (workers, runs) in (1..).zip(&mut rates) {
            runs.push(patience.run(|| side_by_side(args, lab, workers))?);
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
            let Member { mut forwarding, mut world, mut flows } = member?;
            let cycles = forwarding.director(&mut world, &packet(), &mut flows)?;
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
