//! RFC 2544 through a stateful director, as RFC 9693 has it: connections are established
//! and validated first, then the classic trials run over them.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::numbers::{count, rounded};
use super::plan::Step;
use super::report::{Figure, conclude};
use super::search::Search;
use super::session::{Session, attempt};
use super::settings::LabArgs;
use super::sizes::Sizes;
use super::tally::Latency;
use super::trial::{Load, Trial};
use crate::results::{Report, say};

/// The most packets of a trial: their numbers have 32 bits.
const MOST_PACKETS: f64 = 4.0e9;

/// The measurements of RFC 2544.
#[derive(Clone, Debug, clap::Subcommand)]
pub(crate) enum Rfc2544 {
    /// The highest rate at which nothing is lost, by binary search (section 26.1).
    Throughput(ClassicArgs),
    /// Latency percentiles at shares of the throughput, 10, 50 and 90 % (section 26.2).
    Latency(LatencyArgs),
    /// Frame loss at falling rates, until two in a row lose nothing (section 26.3).
    Loss(ClassicArgs),
}

/// What the measurements have in common.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ClassicArgs {
    #[command(flatten)]
    lab: LabArgs,
    /// Frame sizes with their FCS, or "imix".
    #[arg(
        long,
        value_delimiter = ',',
        default_values = ["64", "128", "256", "512", "1024", "1280", "1518", "imix"]
    )]
    sizes: Vec<Sizes>,
    /// Established connections that take turns.
    #[arg(long, default_value_t = 65_536)]
    flows: u32,
    /// The highest rate, in packets a second of one direction [default: the line rate].
    #[arg(long)]
    max_rate: Option<f64>,
    /// Seconds of one trial (RFC 2544: 60).
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Share of the packets that may be lost (RFC 2544: 0).
    #[arg(long, default_value_t = 0.0)]
    tolerance: f64,
    /// How exact the search is, as a share of the rate.
    #[arg(long, default_value_t = 0.01)]
    resolution: f64,
    /// Trials of one search at most.
    #[arg(long, default_value_t = 20)]
    most_trials: u32,
    /// Connections a second at which connections are established beforehand.
    #[arg(long, default_value_t = 50_000.0)]
    setup_rate: f64,
    /// From clients to servers only: servers do not send back.
    #[arg(long)]
    one_way: bool,
}

/// What a latency measurement has besides.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct LatencyArgs {
    #[command(flatten)]
    classic: ClassicArgs,
    /// The rate that is 100 %, in packets a second [default: the throughput, found first].
    #[arg(long)]
    rate: Option<f64>,
    /// Loads, in percent of it.
    #[arg(long, value_delimiter = ',', default_values_t = [10, 50, 90])]
    loads: Vec<u8>,
}

/// Runs one of them.
pub(crate) fn run(command: &Rfc2544, report: &mut Report) -> Result<()> {
    match command {
        Rfc2544::Throughput(args) => {
            let mut bed = Bed::connect(args)?;
            let mut figures = Vec::new();
            for sizes in &args.sizes {
                let (rate, best) = bed.throughput(sizes)?;
                figures.extend(bed.throughput_figures(sizes, rate, best.as_ref()));
            }
            bed.conclude(report, "throughput", figures)
        }
        Rfc2544::Latency(args) => latency(args, report),
        Rfc2544::Loss(args) => {
            let mut bed = Bed::connect(args)?;
            let mut figures = Vec::new();
            for sizes in &args.sizes {
                figures.extend(bed.loss(sizes)?);
            }
            bed.conclude(report, "frame loss", figures)
        }
    }
}

fn latency(args: &LatencyArgs, report: &mut Report) -> Result<()> {
    let mut bed = Bed::connect(&args.classic)?;
    let mut figures = Vec::new();
    for sizes in &args.classic.sizes {
        let full = match args.rate {
            Some(rate) => rate,
            None => bed.throughput(sizes)?.0,
        };
        ensure!(full > 0.0, "no rate passed for {sizes}: there is no load to measure latency at");
        for load in &args.loads {
            let trial = bed.stream(sizes, full * f64::from(*load) / 100.0)?;
            let name = bed.name(sizes, &format!("at_{load}_percent"));
            figures.push(Figure::new(format!("{name}/rate"), trial.rate, "packets/s"));
            figures.push(Figure::new(format!("{name}/loss"), trial.loss() * 100.0, "%"));
            figures.extend(percentiles(&format!("{name}/to_servers"), trial.to_servers));
            figures.extend(percentiles(&format!("{name}/round_trip"), trial.to_clients));
        }
    }
    bed.conclude(report, "latency", figures)
}

fn percentiles(name: &str, latency: Option<Latency>) -> Vec<Figure> {
    let Some(Latency { p50, p90, p99, p999, max, .. }) = latency else { return Vec::new() };
    [("p50", p50), ("p90", p90), ("p99", p99), ("p99.9", p999), ("max", max)]
        .map(|(which, value)| Figure::new(format!("{name}/{which}"), value, "us"))
        .into()
}

/// A generator whose connections are established.
struct Bed<'a> {
    session: Session,
    args: &'a ClassicArgs,
    first: u32,
}

impl<'a> Bed<'a> {
    fn connect(args: &'a ClassicArgs) -> Result<Self> {
        let session = Session::connect(&args.lab)?;
        Self::establish(session, args)
    }

    /// Phase 1 of RFC 9693: connections, and the proof that each of them is there.
    fn establish(mut session: Session, args: &'a ClassicArgs) -> Result<Self> {
        let first = session.fresh_flows(args.flows)?;
        let opened = session.trial(&Load::once(Step::Open, first, args.flows, args.setup_rate))?;
        let count = session.opened();
        let mut check = Load::once(Step::Validate, first, args.flows, args.setup_rate);
        check.packets = count;
        let checked = session.trial(&check)?;
        ensure!(
            count == args.flows && checked.lost == 0,
            "only {count} of {} connections were established and {} of them answered ({opened}); \
             lower --setup-rate, or give the director room for them",
            args.flows,
            checked.received,
        );
        Ok(Self { session, args, first })
    }

    fn name(&self, sizes: &Sizes, what: &str) -> String {
        format!("rfc2544/{}/{sizes}/{what}", self.session.scene.traffic)
    }

    /// A trial at this rate, as long as trials are.
    fn stream(&mut self, sizes: &Sizes, rate: f64) -> Result<Trial> {
        let packets = (rate * self.args.duration.as_secs_f64()).clamp(1.0, MOST_PACKETS);
        let load = Load {
            step: if self.args.one_way { Step::Forward } else { Step::Echo },
            first: self.first,
            flows: self.args.flows,
            packets: count(packets),
            rate,
            sizes: sizes.frames(self.session.scene.traffic),
            tolerance: self.args.tolerance,
            longest: None,
        };
        self.session.trial(&load)
    }

    /// The highest rate that passes, and its trial.
    fn throughput(&mut self, sizes: &Sizes) -> Result<(f64, Option<Trial>)> {
        let mean = sizes.mean(self.session.scene.traffic);
        let limit = self.session.limit(self.args.max_rate, mean)?;
        let mut search = Search::new(limit, self.args.resolution, self.args.most_trials);
        let mut best = None;
        while let Some(rate) = search.next() {
            let attempts = self.args.lab.attempts;
            let trial = attempt(attempts, Trial::passed, || self.stream(sizes, rate))?;
            search.note(rate, trial.verdict);
            if trial.passed() {
                best = Some(trial);
            }
        }
        if let Some(caveat) = search.caveat() {
            say(&format!("{sizes}, {:.0} packets/s: {caveat}", search.result()));
        }
        // What was really sent, which is at most a little less than what was wanted.
        let rate = best.as_ref().map_or(0.0, |trial| trial.rate.min(search.result()));
        Ok((rate, best))
    }

    fn throughput_figures(&self, sizes: &Sizes, rate: f64, best: Option<&Trial>) -> Vec<Figure> {
        let name = |what: &str| self.name(sizes, what);
        // With preamble and gap: what the link carries.
        let octets = f64::from(sizes.mean(self.session.scene.traffic) + 20);
        let mut figures = vec![
            Figure::new(name("throughput"), rate, "packets/s"),
            Figure::new(name("throughput_on_the_link"), rate * octets * 8.0 / 1e6, "Mbit/s"),
        ];
        if let Some(trial) = best {
            figures.push(Figure::new(name("loss_at_throughput"), trial.loss() * 100.0, "%"));
        }
        figures
    }

    /// Loss at 100 %, 90 %, … of the limit.
    fn loss(&mut self, sizes: &Sizes) -> Result<Vec<Figure>> {
        let mean = sizes.mean(self.session.scene.traffic);
        let limit = self.session.limit(self.args.max_rate, mean)?;
        let mut figures = Vec::new();
        let mut clean = 0;
        for share in (1..=10_u8).rev().map(|tenth| tenth * 10) {
            let trial = self.stream(sizes, limit * f64::from(share) / 100.0)?;
            let name = self.name(sizes, &format!("loss_at_{share}_percent"));
            figures.push(Figure::new(name, rounded(trial.loss() * 100.0), "%"));
            clean = if trial.lost == 0 { clean + 1 } else { 0 };
            if clean == 2 {
                break;
            }
        }
        Ok(figures)
    }

    fn conclude(&self, report: &mut Report, what: &str, figures: Vec<Figure>) -> Result<()> {
        let title = format!(
            "RFC 2544 {what}, {} flows to {}, trials of {:?}",
            self.args.flows, self.args.lab.service, self.args.duration
        );
        conclude(report, &title, "pointsman-bench rfc2544", figures, &self.session)
    }
}
