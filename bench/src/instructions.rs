//! Instructions per packet as rows: `pointsman-instructions` counts them.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use pointsman_bench::counts::{Counts, tolerated};

use crate::goals::Goal;
use crate::measure::Runs;
use crate::results::{Report, Row, say};

/// What counts.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct InstructionsArgs {
    /// The program that counts, under valgrind, in a build that any x86-64 processor runs alike.
    #[arg(long, default_value = "target/instructions/pointsman-instructions")]
    instructions: PathBuf,
    /// The counts to compare with.
    #[arg(long, default_value = "bench/instructions.json")]
    counts: PathBuf,
}

/// Counts, and compares with the file.
pub(crate) fn run(args: &InstructionsArgs, report: &mut Report) -> Result<()> {
    let program = &args.instructions;
    if !program.exists() {
        say(&format!("instructions: left out, as there is no {}", program.display()));
        return Ok(());
    }
    let accepted = Counts::read(&args.counts)?;
    let output = Command::new(program)
        .arg("count")
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} failed: {words}", program.display());
    let counted = Counts::parse(&String::from_utf8_lossy(&output.stdout))?;
    let kinds = [
        (
            "1k_flows",
            "instructions/packet",
            &counted.instructions_per_packet,
            &accepted.instructions_per_packet,
        ),
        (
            "1k_flows/handed_over",
            "instructions/packet",
            &counted.instructions_per_packet_handed_over,
            &accepted.instructions_per_packet_handed_over,
        ),
        (
            "4k_live",
            "instructions/connection",
            &counted.instructions_per_connection,
            &accepted.instructions_per_connection,
        ),
    ];
    let rows = kinds.into_iter().flat_map(|(scale, unit, counted, accepted)| {
        counted.iter().map(move |(traffic, count)| {
            let mut runs = Runs::default();
            runs.push(*count);
            let name = format!("instructions/{traffic}/{scale}");
            let row = Row::new(name, unit, &runs, "make instructions");
            match accepted.get(traffic) {
                Some(accepted) => row.with_goal(Goal::AtMost(tolerated(*accepted))),
                None => row,
            }
        })
    });
    let title = "Instructions per packet on the hit path, and per connection, by callgrind; the \
                 goal is what is in bench/instructions.json and 3 % more";
    report.add(title, rows.collect())
}
