//! Measures pointsman. `make bench` runs everything; see bench/README.md for units and caveats.

mod captures;
mod devices;
mod flows;
mod lab;
mod measure;
mod memory_loop;
mod results;
mod scale;
mod sink;
mod source;
mod tables;
mod world;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};

use devices::DevicesArgs;
use flows::{Family, Traffic, Transport};
use lab::rfc2544::{self, Rfc2544};
use lab::rfc9693::{self, Rfc9693};
use lab::selftest::{self, SelftestArgs};
use memory_loop::LoopArgs;
use results::Report;
use tables::TablesArgs;

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
        /// Address family.
        #[arg(long, value_enum, default_value = "v4")]
        family: Family,
        /// Transport protocol; TCP packets are SYNs.
        #[arg(long, value_enum, default_value = "udp")]
        transport: Transport,
        /// The file.
        #[arg(long)]
        out: PathBuf,
    },
    /// One worker without devices: cycles per packet and per connection.
    Loop(LoopArgs),
    /// `pointsman run` beside dpdk-testpmd on the same virtual devices: rates and their ratio.
    Devices(DevicesArgs),
    /// The connection table beside hashbrown.
    Tables(TablesArgs),
    /// A generator for a director between two ports: throughput, latency, loss (RFC 2544).
    #[command(subcommand)]
    Rfc2544(Rfc2544),
    /// The same for connections: establishment, tear-down, table capacity (RFC 9693).
    #[command(subcommand)]
    Rfc9693(Rfc9693),
    /// That generator against a forwarder of known loss and delay, in memory.
    Selftest(SelftestArgs),
    /// Loop, devices and tables, one after the other.
    All {
        #[command(flatten)]
        devices: DevicesArgs,
        #[command(flatten)]
        memory: LoopArgs,
        #[command(flatten)]
        tables: TablesArgs,
    },
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let mut report = Report::begin();
    match cli.command {
        Command::Captures { flows, family, transport, out } => {
            return captures::write(Traffic { family, transport }, flows, &out);
        }
        Command::Loop(args) => memory_loop::run(&args, &mut report)?,
        Command::Devices(args) => devices::run(&args, &mut report)?,
        Command::Tables(args) => tables::run(&args, &mut report)?,
        Command::Rfc2544(command) => rfc2544::run(&command, &mut report)?,
        Command::Rfc9693(command) => rfc9693::run(&command, &mut report)?,
        Command::Selftest(args) => selftest::run(&args, &mut report)?,
        Command::All { devices, memory, tables } => {
            devices::run(&devices, &mut report)?;
            memory_loop::run(&memory, &mut report)?;
            tables::run(&tables, &mut report)?;
        }
    }
    match cli.results {
        Some(folder) => report.write(&folder),
        None => Ok(()),
    }
}
