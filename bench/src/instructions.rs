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
    let rows = counted.instructions_per_packet.iter().map(|(traffic, count)| {
        let mut runs = Runs::default();
        runs.push(*count);
        let name = format!("instructions/{traffic}/1k_flows");
        let row = Row::new(name, "instructions/packet", &runs, "make instructions");
        match accepted.instructions_per_packet.get(traffic) {
            Some(accepted) => row.with_goal(Goal::AtMost(tolerated(*accepted))),
            None => row,
        }
    });
    let title = "Instructions per packet on the hit path, by callgrind; the goal is what is in \
                 bench/instructions.json and 3 % more";
    report.add(title, rows.collect())
}
