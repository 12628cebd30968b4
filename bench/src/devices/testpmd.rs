//! dpdk-testpmd on the bed: its own counters over a window, its own cycles.

use anyhow::{Context, Result, ensure};

use super::process::Program;
use super::{Bed, MBUF_OCTETS, Rate, WARM_UP};

/// Packets of a burst, as the director's.
const BURST: usize = pointsman::dataplane::frame::BURST;

/// One run in one forwarding mode.
pub(super) fn measure(bed: &Bed<'_>, mode: &str) -> Result<Rate> {
    let mut program = Program::start(&bed.args.testpmd, arguments(bed, mode), bed.folder)?;
    // Commands wait in the pipe until it has started; then packets flow, and the warm-up begins.
    program.say("start")?;
    std::thread::sleep(WARM_UP);
    program.check()?;
    program.say("show port stats 1")?;
    std::thread::sleep(bed.window());
    program.check()?;
    // The rate since the last time that it was shown, by testpmd's own clock.
    program.say("show port stats 1")?;
    program.say("stop")?;
    program.say("quit")?;
    let said = program.end()?;
    let rates: Vec<f64> = values(&said, "Tx-pps:").collect();
    ensure!(rates.len() == 2, "dpdk-testpmd showed {} rates, not 2:\n{said}", rates.len());
    let pps = rates.last().copied().unwrap_or(0.0);
    ensure!(pps > 0.0, "dpdk-testpmd forwarded nothing:\n{said}");
    let cycles = values(&said, "CPU cycles/packet=").next().context("no cycles per packet")?;
    Ok(Rate { mpps: pps / 1e6, cycles, stages: None })
}

fn arguments(bed: &Bed<'_>, mode: &str) -> Vec<String> {
    let args = bed.args;
    let lcores = format!("0@{},1@{}", args.control_cpu, args.forwarding_cpu);
    let burst = BURST.to_string();
    let (mbufs, octets) = (bed.mbufs.to_string(), MBUF_OCTETS.to_string());
    let memory = bed.memory_mib.to_string();
    let (source, sink) = (format!("--vdev={}", bed.source()), format!("--vdev={}", Bed::sink()));
    let eal = ["--in-memory", "--no-pci", "--no-telemetry", "-m", &memory, "--lcores", &lcores];
    let own = [
        "--interactive",
        "--nb-cores=1",
        "--record-core-cycles",
        "--forward-mode",
        mode,
        "--burst",
        &burst,
        "--total-num-mbufs",
        &mbufs,
        "--mbuf-size",
        &octets,
    ];
    let devices = [source.as_str(), sink.as_str(), "--"];
    eal.iter().chain(&devices).chain(&own).map(|arg| (*arg).to_owned()).collect()
}

/// The numbers that follow a word.
fn values<'t>(text: &'t str, word: &'t str) -> impl Iterator<Item = f64> + 't {
    text.match_indices(word).filter_map(move |(at, _)| {
        let rest = text.get(at + word.len()..)?.trim_start();
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        rest.get(..end)?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_behind_their_word() {
        let text = "  Rx-pps:  1\n  Tx-pps:     25712345 Tx-bps: 0\nCPU cycles/packet=35.34 (busy";
        assert_eq!(values(text, "Tx-pps:").collect::<Vec<_>>(), [25_712_345.0]);
        assert_eq!(values(text, "CPU cycles/packet=").collect::<Vec<_>>(), [35.34]);
    }
}
