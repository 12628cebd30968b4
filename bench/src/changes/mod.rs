//! Forwarding while something else happens: connections expire, connections begin, the services
//! are replaced. Rates are packets per second of the worker's CPU time, so that a neighbour on the
//! machine takes nothing away, and what happens between bursts counts.

mod churn;
mod reload;

use anyhow::Result;
use pointsman_bench::flows::{Family, Traffic, Transport};

use crate::lab::Lab;
use crate::measure::Runs;
use crate::results::{Report, Row};
use crate::scale::scale;

const TRAFFIC: Traffic = Traffic { family: Family::V4, transport: Transport::Udp };
const COMMAND: &str = "pointsman-bench changes";
const TITLE: &str = "One worker in memory, established flows in random order, undisturbed and \
                     while something changes: packets per second of its CPU time";

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ChangesArgs {
    /// Established flows that packets belong to.
    #[arg(long, default_value_t = 65_536)]
    busy_flows: u32,
    /// Connections that expire, and that begin.
    #[arg(long, default_value_t = 1_048_576)]
    churn: u32,
    /// One connection expires, or begins, with so many packets: at 20 Mpps, 200 are 100,000
    /// connections a second.
    #[arg(long, default_value_t = 200)]
    packets_per_connection: u32,
    /// Parts that the churn is measured in; undisturbed forwarding is measured in between.
    #[arg(long, default_value_t = 10)]
    parts: u32,
}

/// Measures everything.
pub(crate) fn run(args: &ChangesArgs, lab: &Lab, report: &mut Report) -> Result<()> {
    let mut rows = Vec::new();
    for (change, what) in [(churn::Change::Expire, "expire"), (churn::Change::Begin, "begin")] {
        let rates = churn::measure(args, lab, change)?;
        rows.extend(rates.rows(args, &format!("{}_{what}", scale(args.churn))));
    }
    rows.extend(reload::measure(args, lab)?.rows(args, "10_tables_a_second"));
    report.add(TITLE, rows)
}

/// Million packets per second of CPU time.
#[derive(Debug, Default)]
struct Rates {
    undisturbed: Runs,
    disturbed: Runs,
}

impl Rates {
    fn rows(&self, args: &ChangesArgs, what: &str) -> [Row; 3] {
        let ratio = self.disturbed.with(&self.undisturbed, |with, without| with / without);
        let row = |measure, unit, runs: &Runs| {
            let flows = scale(args.busy_flows);
            Row::new(
                format!("changes/{TRAFFIC}/{flows}_flows/{what}/{measure}"),
                unit,
                runs,
                COMMAND,
            )
        };
        [
            row("undisturbed", "Mpps", &self.undisturbed),
            row("disturbed", "Mpps", &self.disturbed),
            row("ratio", "ratio", &ratio),
        ]
    }
}
