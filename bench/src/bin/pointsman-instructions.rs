//! Counts the instructions that a packet of an established flow costs, at its worker and by way of
//! another one, and a whole connection, by callgrind: the same on every machine, whatever else it
//! does. `make instructions`; bench/README.md tells how.

use std::collections::BTreeMap;
use std::fs;
use std::hint::black_box;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, Subcommand};
use pointsman::clock::Tick;
use pointsman::dataplane::frame::{BURST, BufferFrame, FrameBurst, Outlet};
use pointsman::dataplane::pipeline::Origin;
use pointsman::dpdk::memory::HugePages;
use pointsman::ids::{InterfaceId, PortId, WorkerId};
use pointsman::wire::flow_key::Direction;
use pointsman::wire::tcp::flags;
use pointsman_bench::counts::Counts;
use pointsman_bench::flows::{Random, Traffic};
use pointsman_bench::template::Template;
use pointsman_bench::world::{Exit, Plan, World, flows_of, input};

/// Established flows.
const FLOWS: u32 = 1024;
/// Bursts that are counted: each flow gets some 64 packets, and every kind of round occurs.
const BURSTS: usize = 1024;
/// What is counted.
const TRAFFIC: [Traffic; 3] = [Traffic::ALL[0], Traffic::ALL[1], Traffic::ALL[2]];
/// Connections that live at any time, while others begin and end.
const LIVE: u32 = 4096;
/// Connections that are counted from their first packet until they are forgotten: eight times
/// those that live, so that every kind of round occurs in proportion.
const CONNECTIONS: u32 = 8 * LIVE;
/// The C library picks its `memcpy` and others by the processor; these exist on all.
const PLAIN_C_LIBRARY: (&str, &str) = (
    "GLIBC_TUNABLES",
    "glibc.cpu.hwcaps=-AVX2,-AVX,-AVX512F,-AVX512VL,-AVX512BW,-ERMS,-FSRM,-SSSE3,-SSE4_2,\
     -Fast_Unaligned_Copy,-AVX_Fast_Unaligned_Load",
);

/// Counts the instructions per packet on the hit path, by valgrind's callgrind.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Counts, and prints JSON.
    Count,
    /// Counts, and fails where a count is more than 3 % above that of a file.
    Check {
        /// The file.
        file: PathBuf,
    },
    /// Counts, and writes a file.
    Bless {
        /// The file.
        file: PathBuf,
    },
    /// Forwards packets of established flows: what runs under callgrind.
    #[command(hide = true)]
    Forward {
        /// Family and protocol.
        traffic: Traffic,
    },
    /// Begins and ends connections: what runs under callgrind.
    #[command(hide = true)]
    Connect {
        /// Family and protocol.
        traffic: Traffic,
    },
    /// Forwards packets that arrive at another worker than their flow's: what runs under callgrind.
    #[command(hide = true)]
    HandOver {
        /// Protocol, over IPv4.
        traffic: Traffic,
    },
}

fn main() -> Result<()> {
    match Cli::parse().action {
        Action::Count => print(&count()?.to_json()?),
        Action::Check { file } => check(&file),
        Action::Bless { file } => {
            let counts = count()?.to_json()?;
            fs::write(&file, &counts)
                .with_context(|| format!("cannot write {}", file.display()))?;
            print(&format!("written to {}:\n{counts}", file.display()))
        }
        Action::Forward { traffic } => forward(traffic),
        Action::Connect { traffic } => connect(traffic),
        Action::HandOver { traffic } => hand_over(traffic),
    }
}

fn print(text: &str) -> Result<()> {
    std::io::stdout().lock().write_all(text.as_bytes())?;
    Ok(())
}

fn check(file: &Path) -> Result<()> {
    let (accepted, counted) = (Counts::read(file)?, count()?);
    let growth = accepted.growth(&counted);
    if growth.is_empty() {
        return print(&counted.to_json()?);
    }
    let compiler = if accepted.rustc == counted.rustc {
        String::new()
    } else {
        format!("\n(by {}; those before were by {})", counted.rustc, accepted.rustc)
    };
    bail!(
        "the hit path takes more instructions:\n{}{compiler}\nIf that is meant to be, accept it \
         with `make instructions BLESS=1`, and say in the commit what it buys.",
        growth.join("\n")
    )
}

fn count() -> Result<Counts> {
    let rustc = Command::new("rustc").arg("--version").output().context("rustc")?;
    let rustc = String::from_utf8_lossy(&rustc.stdout).trim().to_owned();
    let each = |action, all: &[Traffic], things| {
        let count = |traffic: &Traffic| {
            Ok((traffic.name().to_owned(), under_callgrind(action, *traffic, things)?))
        };
        all.iter().map(count).collect::<Result<BTreeMap<_, _>>>()
    };
    let packets = u32::try_from(BURSTS * BURST)?;
    Ok(Counts {
        rustc,
        instructions_per_packet: each("forward", &TRAFFIC, packets)?,
        instructions_per_packet_handed_over: each("hand-over", &TRAFFIC[..2], packets)?,
        instructions_per_connection: each("connect", &TRAFFIC, CONNECTIONS)?,
    })
}

/// Instructions for each of so many things.
fn under_callgrind(action: &str, traffic: Traffic, things: u32) -> Result<f64> {
    let (name, value) = PLAIN_C_LIBRARY;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--demangle=no"])
        .arg("--toggle-collect=*round_that_counts*")
        .arg(std::env::current_exe()?)
        .args([action, traffic.name()])
        .env(name, value)
        .output()
        .context("cannot run valgrind; scripts/install-deps check installs it")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{traffic} under valgrind: {}\n{said}", output.status);
    let collected = said.lines().find_map(|line| line.split_once("Collected :"));
    let collected = collected.with_context(|| format!("callgrind counted nothing:\n{said}"))?;
    let instructions: u32 = collected.1.trim().parse()?;
    ensure!(instructions > 0, "callgrind counted nothing:\n{said}");
    Ok((f64::from(instructions) / f64::from(things) * 10.0).round() / 10.0)
}

/// Takes frames back, and lets them be used again.
#[derive(Debug, Default)]
struct Tray {
    frames: Vec<BufferFrame>,
    sent: usize,
    /// For the other worker.
    handed_over: FrameBurst<BufferFrame>,
}

impl Outlet<BufferFrame> for Tray {
    fn allocate(&mut self) -> Option<BufferFrame> {
        None
    }

    #[inline(always)]
    #[expect(clippy::inline_always, reason = "as the workers' own")]
    fn transmit(&mut self, _interface: InterfaceId, frame: BufferFrame) {
        self.frames.push(frame);
        self.sent += 1;
    }

    #[inline]
    fn hand_over(&mut self, _worker: WorkerId, frame: BufferFrame) {
        self.handed_over.push(frame);
    }

    fn discard(&mut self, frame: BufferFrame) {
        self.frames.push(frame);
    }
}

impl Exit<BufferFrame> for Tray {
    fn flush(&mut self) {}
}

/// What callgrind collects: it begins and ends with this function, which it knows by its name.
#[inline(never)]
fn round_that_counts(
    world: &mut World<BufferFrame>,
    burst: &mut FrameBurst<BufferFrame>,
    now: Tick,
    tray: &mut Tray,
) {
    world.round(burst, Origin::Port, now, tray);
}

/// As [`round_that_counts`], of packets that the first worker receives and the second one has the
/// flows of.
#[inline(never)]
fn both_round_that_counts(
    [receiver, owner]: [&mut World<BufferFrame>; 2],
    burst: &mut FrameBurst<BufferFrame>,
    now: Tick,
    tray: &mut Tray,
) {
    receiver.round(burst, Origin::Port, now, tray);
    std::mem::swap(burst, &mut tray.handed_over);
    owner.round(burst, Origin::Worker, now, tray);
}

/// Buffers for a burst.
fn tray() -> Tray {
    let mut tray = Tray::default();
    tray.frames.resize(BURST, BufferFrame::default());
    tray
}

/// A worker, one of so many, and its flows, which are established.
fn established(
    traffic: Traffic,
    worker: (u16, u16),
    flows: &[u32],
    tray: &mut Tray,
) -> Result<World<BufferFrame>> {
    let plan = Plan { huge_pages: HugePages::Never, worker, ..Plan::new(traffic, FLOWS) };
    let (mut world, _) = World::new(&plan, tray)?;
    let mut burst = FrameBurst::new();
    let opening: Vec<_> = traffic.life().into_iter().take(3).collect();
    for flows in flows.chunks(BURST) {
        for template in &opening {
            fill(&mut burst, tray, template, flows.iter().copied())?;
            world.round(&mut burst, Origin::Port, Tick(0), tray);
        }
    }
    tray.sent = 0;
    Ok(world)
}

/// Forwards packets of flows in random order, burst by burst by `round`.
fn in_bursts(
    traffic: Traffic,
    flows: &[u32],
    mut tray: Tray,
    mut round: impl FnMut(&mut FrameBurst<BufferFrame>, Tick, &mut Tray),
) -> Result<()> {
    let packet = Template::new(traffic, Direction::Inbound, flags::ACK);
    let mut burst = FrameBurst::new();
    let mut random = Random::new(1);
    for number in 0..BURSTS {
        let places = std::iter::repeat_with(|| random.below(FLOWS) as usize);
        let flows = places.filter_map(|place| flows.get(place).copied());
        fill(&mut burst, &mut tray, &packet, flows)?;
        // 20 million packets a second.
        let now = Tick(u32::try_from(number * BURST / 20_000)?);
        round(&mut burst, now, &mut tray);
    }
    ensure!(tray.sent == BURSTS * BURST, "{} packets came through", tray.sent);
    Ok(())
}

/// Establishes flows, then forwards their packets.
fn forward(traffic: Traffic) -> Result<()> {
    let mut tray = tray();
    let flows: Vec<_> = (0..FLOWS).collect();
    let mut world = established(traffic, (0, 1), &flows, &mut tray)?;
    in_bursts(traffic, &flows, tray, |burst, now, tray| {
        round_that_counts(black_box(&mut world), burst, now, tray);
    })?;
    world.lost_nothing()
}

/// Establishes flows at one worker, then forwards their packets, which another one receives.
fn hand_over(traffic: Traffic) -> Result<()> {
    let mut tray = tray();
    let flows = flows_of(1, 2, FLOWS);
    let mut owner = established(traffic, (1, 2), &flows, &mut tray)?;
    let mut receiver = established(traffic, (0, 2), &[], &mut tray)?;
    in_bursts(traffic, &flows, tray, |burst, now, tray| {
        both_round_that_counts(black_box([&mut receiver, &mut owner]), burst, now, tray);
    })?;
    receiver.lost_nothing()?;
    owner.lost_nothing()
}

/// Begins connections and ends them, 64 at a time, while time goes so fast that as many are
/// forgotten as begin.
fn connect(traffic: Traffic) -> Result<()> {
    let mut tray = tray();
    // What has timed out waits for its slot of the timer wheel to come up.
    let plan = Plan { huge_pages: HugePages::Never, ..Plan::new(traffic, LIVE * 5 / 4) };
    let (mut world, _) = World::new(&plan, &mut tray)?;
    let mut burst = FrameBurst::new();
    let life = traffic.life();
    let timeout_ms = traffic.last_timeout_ms();
    let mut ended = 0;
    for first in (0..2 * LIVE + CONNECTIONS).step_by(BURST) {
        let now = Tick(u32::try_from(u64::from(first) * timeout_ms / u64::from(LIVE))?);
        let is_full = first >= 2 * LIVE;
        if first == 2 * LIVE {
            ended = world.expired();
        }
        for template in &life {
            fill(&mut burst, &mut tray, template, first..)?;
            if is_full {
                round_that_counts(black_box(&mut world), &mut burst, now, &mut tray);
            } else {
                world.round(&mut burst, Origin::Port, now, &mut tray);
            }
        }
    }
    ended = world.expired() - ended;
    ensure!(ended.abs_diff(CONNECTIONS.into()) < u64::from(LIVE) / 16, "{ended} connections ended");
    world.lost_nothing()
}

/// Makes a burst of one packet of each flow.
fn fill(
    burst: &mut FrameBurst<BufferFrame>,
    tray: &mut Tray,
    template: &Template,
    flows: impl IntoIterator<Item = u32>,
) -> Result<()> {
    for flow in flows.into_iter().take(BURST) {
        let mut frame = tray.frames.pop().context("frames were lost")?;
        frame.octets.resize(template.octets(), 0);
        template.write(flow, &mut frame.octets);
        frame.input = PortId(u16::from(input(template.direction())));
        burst.push(frame);
    }
    Ok(())
}
