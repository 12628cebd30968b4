//! One worker's processing without a device: packets from memory, a sink that frees, TSC cycles
//! of every burst.
//!
//! What the director adds is its loop less plain forwarding's: MACs swapped, same source, same
//! wrappers, same sink. The two take turns, so that both see the same neighbours on the machine.

mod connections;
mod established;
mod footprint;
mod watching;

use anyhow::Result;
use pointsman_bench::flows::Traffic;

use crate::lab::Lab;
use crate::results::Report;

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct LoopArgs {
    /// Numbers of established flows, of all families and protocols.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 1000, 65_536, 1_048_576])]
    flows: Vec<u32>,
    /// More numbers of flows, of IPv4 and UDP alone: 10M take 1 GiB.
    #[arg(long, value_delimiter = ',', num_args = 0.., default_values_t = [10_485_760])]
    most_flows: Vec<u32>,
    /// Numbers of flows of IPv4 and UDP whose packets come and leave with VLAN tags.
    #[arg(long, value_delimiter = ',', num_args = 0.., default_values_t = [65_536])]
    vlan_flows: Vec<u32>,
    /// Families and protocols.
    #[arg(long, value_delimiter = ',', default_values_t = Traffic::ALL)]
    traffic: Vec<Traffic>,
    /// Numbers of live connections while connections begin and end.
    #[arg(long, value_delimiter = ',', default_values_t = [65_536, 1_048_576])]
    live: Vec<u32>,
    /// Another number of live TCP connections over IPv4, compared with 1M: 8M take 1 GiB.
    #[arg(long, default_value_t = 8_388_608)]
    most_live: u32,
    /// Measure only this.
    #[arg(long, value_enum)]
    only: Option<Part>,
}

/// The kinds of measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Packets of established flows.
    Established,
    /// Connections that begin and end.
    Connections,
    /// The pipeline's stop watch.
    Watch,
    /// Memory of a connection.
    Memory,
}

/// Measures everything that one worker does.
pub(crate) fn run(args: &LoopArgs, lab: &Lab, report: &mut Report) -> Result<()> {
    let is_wanted = |part| args.only.is_none_or(|only| only == part);
    if is_wanted(Part::Established) {
        established::run(args, lab, report)?;
    }
    if is_wanted(Part::Connections) {
        connections::run(args, lab, report)?;
    }
    if is_wanted(Part::Watch) {
        watching::run(lab, report)?;
    }
    if is_wanted(Part::Memory) {
        footprint::run(lab, report)?;
    }
    Ok(())
}
