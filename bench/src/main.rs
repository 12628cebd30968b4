//! Measures pointsman. `make bench` runs everything; see bench/README.md for units and caveats.

mod captures;
mod changes;
mod charts;
mod devices;
mod forwarding;
mod generator;
mod goals;
mod instructions;
mod lab;
mod measure;
mod memory_loop;
mod quiet;
mod results;
mod scale;
mod sink;
mod source;
mod tables;
mod workers;

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};
use pointsman_bench::flows::Traffic;

use changes::ChangesArgs;
use devices::DevicesArgs;
use generator::rfc2544::{self, Rfc2544};
use generator::rfc9693::{self, Rfc9693};
use generator::selftest::{self, SelftestArgs};
use instructions::InstructionsArgs;
use lab::{Lab, LabArgs};
use memory_loop::LoopArgs;
use results::Report;
use tables::TablesArgs;
use workers::WorkersArgs;

/// Measures pointsman: one worker in memory, and beside dpdk-testpmd on the same devices.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// Write the figures to this folder, as DATE-COMMIT.json.
    #[arg(long, global = true)]
    results: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Writes a capture with one packet of every flow, in random order.
    Captures {
        /// How many flows.
        #[arg(long)]
        flows: u32,
        /// Family and protocol; TCP packets are SYNs.
        #[arg(long, default_value_t = Traffic::ALL[0])]
        traffic: Traffic,
        /// The file.
        #[arg(long)]
        out: PathBuf,
    },
    /// One worker without devices: cycles per packet and per connection, memory.
    Loop {
        #[command(flatten)]
        lab: LabArgs,
        #[command(flatten)]
        args: LoopArgs,
    },
    /// Several workers: what a hand-over costs, and whether they add up.
    Workers {
        #[command(flatten)]
        lab: LabArgs,
        #[command(flatten)]
        args: WorkersArgs,
    },
    /// Forwarding while connections expire or begin, or the services are replaced.
    Changes {
        #[command(flatten)]
        lab: LabArgs,
        #[command(flatten)]
        args: ChangesArgs,
    },
    /// The connection table beside hashbrown and DPDK's `rte_hash`.
    Tables {
        #[command(flatten)]
        lab: LabArgs,
        #[command(flatten)]
        args: TablesArgs,
    },
    /// `pointsman run` beside dpdk-testpmd on the same virtual devices: rates and their ratio.
    Devices(DevicesArgs),
    /// A generator for a director between two ports: throughput, latency, loss (RFC 2544).
    #[command(subcommand)]
    Rfc2544(Rfc2544),
    /// The same for connections: establishment, tear-down, table capacity (RFC 9693).
    #[command(subcommand)]
    Rfc9693(Rfc9693),
    /// That generator against a forwarder of known loss and delay, in memory.
    Selftest(SelftestArgs),
    /// Instructions per packet, counted by callgrind.
    Instructions(InstructionsArgs),
    /// Draws the charts of a results file anew.
    Charts {
        /// The file.
        results: PathBuf,
    },
    /// All measures but those of the generator, one after the other.
    All(Box<AllArgs>),
}

#[derive(Clone, Debug, clap::Args)]
struct AllArgs {
    #[command(flatten)]
    lab: LabArgs,
    #[command(flatten)]
    devices: DevicesArgs,
    #[command(flatten)]
    memory: LoopArgs,
    #[command(flatten)]
    workers: WorkersArgs,
    #[command(flatten)]
    changes: ChangesArgs,
    #[command(flatten)]
    tables: TablesArgs,
    #[command(flatten)]
    instructions: InstructionsArgs,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let mut report = Report::begin();
    measure(cli.command, &mut report)?;
    report.summarise()?;
    let Some(folder) = cli.results.filter(|_| !report.rows().is_empty()) else { return Ok(()) };
    let file = report.write(&folder)?;
    charts::draw(&file)
}

fn measure(command: Command, report: &mut Report) -> Result<()> {
    match command {
        Command::Captures { flows, traffic, out } => captures::write(traffic, flows, &out),
        Command::Loop { lab, args } => memory_loop::run(&args, &Lab::open(&lab)?, report),
        Command::Workers { lab, args } => workers::run(&args, &Lab::open(&lab)?, report),
        Command::Changes { lab, args } => changes::run(&args, &Lab::open(&lab)?, report),
        Command::Tables { lab, args } => tables::run(&args, &Lab::open(&lab)?, report),
        Command::Devices(args) => {
            devices::run(&args, report)?;
            ensure!(!report.rows().is_empty(), "nothing was measured");
            Ok(())
        }
        Command::Rfc2544(command) => rfc2544::run(&command, report),
        Command::Rfc9693(command) => rfc9693::run(&command, report),
        Command::Selftest(args) => selftest::run(&args, report),
        Command::Instructions(args) => instructions::run(&args, report),
        Command::Charts { results } => charts::draw(&results),
        Command::All(args) => all(&args, report),
    }
}

fn all(args: &AllArgs, report: &mut Report) -> Result<()> {
    devices::run(&args.devices, report)?;
    let lab = Lab::open(&args.lab)?;
    memory_loop::run(&args.memory, &lab, report)?;
    workers::run(&args.workers, &lab, report)?;
    changes::run(&args.changes, &lab, report)?;
    tables::run(&args.tables, &lab, report)?;
    instructions::run(&args.instructions, report)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn no_two_arguments_of_a_subcommand_have_one_name() {
        super::Cli::command().debug_assert();
    }
}
