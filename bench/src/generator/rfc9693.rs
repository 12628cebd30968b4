//! RFC 9693: how fast a stateful device establishes connections and lets them go, and how many it
//! keeps. All of it is judged by packets at the generator; the director's metrics only add to it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::metrics::Reading;
use super::numbers::count;
use super::plan::Step;
use super::report::{Figure, conclude};
use super::search::Search;
use super::session::{Session, attempt};
use super::settings::LabArgs;
use super::trial::{Load, Trial, Verdict};
use crate::results::{Report, say};
use pointsman_bench::flows::Transport;

/// Between two looks at the director's table while it empties.
const LOOK: Duration = Duration::from_millis(10);

/// The measurements of RFC 9693.
#[derive(Clone, Debug, clap::Subcommand)]
pub(crate) enum Rfc9693 {
    /// The highest rate of new connections at which each is established and validated.
    Establish(RateArgs),
    /// TCP: the highest rate at which connections are closed. With --metrics and --settle also how
    /// fast the director forgets them; UDP connections are only forgotten.
    Teardown(RateArgs),
    /// How many connections the director keeps at once.
    Capacity(CapacityArgs),
}

/// A search for a rate of connections.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct RateArgs {
    #[command(flatten)]
    stateful: StatefulArgs,
    /// Connections of one trial.
    #[arg(long, default_value_t = 100_000)]
    connections: u32,
    /// The highest rate that is tried, in connections a second.
    #[arg(long, default_value_t = 2_000_000.0)]
    max_rate: f64,
}

/// A search for a number of connections.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct CapacityArgs {
    #[command(flatten)]
    stateful: StatefulArgs,
    /// Where the doubling starts.
    #[arg(long, default_value_t = 65_536)]
    start: u32,
    /// Where it ends.
    #[arg(long, default_value_t = 16_777_216)]
    most: u32,
}

/// What the searches have in common.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct StatefulArgs {
    #[command(flatten)]
    lab: LabArgs,
    /// How exact the search is, as a share of the result.
    #[arg(long, default_value_t = 0.01)]
    resolution: f64,
    /// Trials of one search at most.
    #[arg(long, default_value_t = 30)]
    most_trials: u32,
    /// A rate at which connections can be established safely, in connections a second: validation
    /// packets, filling a table, and connections that are to be closed come at this.
    #[arg(long, default_value_t = 50_000.0)]
    safe_rate: f64,
    /// How long the director's table may take to become empty before each trial. With --metrics the
    /// trial begins as soon as it is; without, after this time.
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration)]
    settle: Duration,
}

/// Runs one of them.
pub(crate) fn run(command: &Rfc9693, report: &mut Report) -> Result<()> {
    match command {
        Rfc9693::Establish(args) => establish(args, report),
        Rfc9693::Teardown(args) => tear_down(args, report),
        Rfc9693::Capacity(args) => capacity(args, report),
    }
}

/// Connections that were opened.
#[derive(Clone, Copy, Debug)]
struct Opened {
    /// The first flow.
    first: u32,
    /// How many a server could reach.
    valid: u32,
    outcome: Outcome,
}

/// What came of a rate.
#[derive(Clone, Copy, Debug)]
struct Outcome {
    /// What was sent, in a second.
    rate: f64,
    verdict: Verdict,
}

impl Outcome {
    fn of(trial: &Trial) -> Self {
        Self { rate: trial.rate, verdict: trial.verdict }
    }

    fn passed(&self) -> bool {
        self.verdict == Verdict::Passed
    }
}

/// A generator, and how it searches.
struct Bed<'a> {
    session: Session,
    args: &'a StatefulArgs,
    /// The first flow and the number of connections that are open.
    open: Option<(u32, u32)>,
}

impl<'a> Bed<'a> {
    fn connect(args: &'a StatefulArgs) -> Result<Self> {
        Ok(Self { session: Session::connect(&args.lab)?, args, open: None })
    }

    fn is_tcp(&self) -> bool {
        self.session.scene.traffic.transport == Transport::Tcp
    }

    fn name(&self, what: &str) -> String {
        format!("rfc9693/{}/{what}", self.session.scene.traffic)
    }

    /// The table is empty, or as empty as time makes it.
    fn settle(&mut self) -> Result<()> {
        if self.args.settle.is_zero() {
            return Ok(());
        }
        if let Some((first, connections)) = self.open.take() {
            self.session.close(first, connections, self.args.safe_rate)?;
        }
        self.session.settle(self.args.settle)
    }

    /// Closes what is open, as a trial.
    fn close(&mut self, first: u32, connections: u32, rate: f64) -> Result<Trial> {
        self.open = None;
        self.session.trial(&Load::once(Step::Close, first, connections, rate))
    }

    /// Opens fresh connections at a rate, then has every one of them tried by a packet from its
    /// server (validation).
    fn open(&mut self, connections: u32, rate: f64) -> Result<Opened> {
        let first = self.session.fresh_flows(connections)?;
        self.open = Some((first, connections));
        let opened = self.session.trial(&Load::once(Step::Open, first, connections, rate))?;
        let mut check = Load::once(Step::Validate, first, connections, self.args.safe_rate);
        check.packets = self.session.opened();
        let valid = self.session.trial(&check)?.received;
        let mut outcome = Outcome::of(&opened);
        if outcome.passed() && valid < u64::from(connections) {
            outcome.verdict = Verdict::Lost;
        }
        Ok(Opened { first, valid: u32::try_from(valid).unwrap_or(u32::MAX), outcome })
    }

    /// The same where nothing may be missing; the first flow.
    fn open_all(&mut self, connections: u32) -> Result<u32> {
        let Opened { first, valid, outcome } = self.open(connections, self.args.safe_rate)?;
        ensure!(
            outcome.passed(),
            "{valid} of {connections} connections are there; lower --safe-rate"
        );
        Ok(first)
    }

    /// The highest rate that passes `once`.
    fn search(
        &mut self,
        limit: f64,
        mut once: impl FnMut(&mut Self, f64) -> Result<Outcome>,
    ) -> Result<f64> {
        ensure!(limit > 0.0 && limit.is_finite(), "{limit} connections/s cannot be offered");
        let mut search = Search::new(limit, self.args.resolution, self.args.most_trials);
        let mut best = 0.0;
        while let Some(rate) = search.next() {
            let outcome = attempt(self.args.lab.attempts, Outcome::passed, || {
                self.settle()?;
                once(self, rate)
            })?;
            search.note(rate, outcome.verdict);
            if outcome.passed() {
                best = outcome.rate.min(rate);
            }
        }
        if let Some(caveat) = search.caveat() {
            say(&format!("{:.0} connections/s: {caveat}", search.result()));
        }
        Ok(best)
    }

    fn conclude(&self, report: &mut Report, title: &str, figures: Vec<Figure>) -> Result<()> {
        let title = format!("RFC 9693 {title}, {}", self.args.lab.service);
        conclude(report, &title, "pointsman-bench rfc9693", figures, &self.session)
    }
}

fn establish(args: &RateArgs, report: &mut Report) -> Result<()> {
    let mut bed = Bed::connect(&args.stateful)?;
    let rate =
        bed.search(args.max_rate, |bed, rate| Ok(bed.open(args.connections, rate)?.outcome))?;
    let name = bed.name(&format!("establishment_rate/{}_connections", args.connections));
    bed.conclude(
        report,
        "maximum connection establishment rate",
        vec![Figure::new(name, rate, "connections/s")],
    )
}

fn tear_down(args: &RateArgs, report: &mut Report) -> Result<()> {
    let mut bed = Bed::connect(&args.stateful)?;
    let mut figures = Vec::new();
    let watches = args.stateful.lab.metrics.is_some() && !args.stateful.settle.is_zero();
    ensure!(
        bed.is_tcp() || watches,
        "UDP connections end by their timeout: only --metrics and --settle can show it"
    );
    if bed.is_tcp() {
        let rate = bed.search(args.max_rate, |bed, rate| {
            let first = bed.open_all(args.connections)?;
            Ok(Outcome::of(&bed.close(first, args.connections, rate)?))
        })?;
        let name = bed.name(&format!("close_rate/{}_connections", args.connections));
        figures.push(Figure::new(name, rate, "connections/s"));
    }
    if watches {
        figures.push(forget(&mut bed, args)?);
    }
    bed.conclude(report, "connection tear-down", figures)
}

/// How fast a full table empties by itself: connections by the time from the first that is gone to
/// the last.
fn forget(bed: &mut Bed<'_>, args: &RateArgs) -> Result<Figure> {
    let address = args.stateful.lab.metrics.context("no metrics")?;
    bed.settle()?;
    let first = bed.open_all(args.connections)?;
    if bed.is_tcp() {
        bed.close(first, args.connections, args.stateful.safe_rate)?;
    }
    let full = Reading::take(address)?.live;
    let begun = Instant::now();
    let mut since = begun;
    loop {
        let live = Reading::take(address)?.live;
        if live <= 0.0 {
            break;
        }
        if live >= full {
            since = Instant::now();
        }
        ensure!(
            begun.elapsed() < args.stateful.settle,
            "{live} connections are left after {:?}: raise --settle",
            args.stateful.settle
        );
        bed.session.rest(LOOK)?;
    }
    let rate = full / since.elapsed().as_secs_f64();
    let name = bed.name(&format!("expiry_rate/{full}_connections"));
    Ok(Figure::new(name, rate, "connections/s"))
}

fn capacity(args: &CapacityArgs, report: &mut Report) -> Result<()> {
    let stateful = &args.stateful;
    let mut bed = Bed::connect(stateful)?;
    ensure!(!stateful.settle.is_zero(), "every trial begins with an empty table: give --settle");
    // The most that were ever there at once: of a table that refuses what does not fit, all of it.
    let mut most = 0;
    let mut holds = |bed: &mut Bed<'_>, connections: f64| -> Result<Verdict> {
        let opened = attempt(
            stateful.lab.attempts,
            |opened: &Opened| opened.outcome.passed(),
            || {
                bed.settle()?;
                let opened = bed.open(count(connections), stateful.safe_rate)?;
                most = most.max(opened.valid);
                Ok(opened)
            },
        )?;
        Ok(opened.outcome.verdict)
    };
    let mut kept = 0.0;
    let mut limit = f64::from(args.start.max(1));
    let failed = loop {
        let verdict = holds(&mut bed, limit)?;
        if verdict != Verdict::Passed {
            break Some(verdict);
        }
        kept = limit;
        if limit >= f64::from(args.most) {
            break None;
        }
        limit = (limit * 2.0).min(f64::from(args.most));
    };
    if let Some(verdict) = failed {
        let mut search = Search::new(limit, stateful.resolution, stateful.most_trials);
        search.note(limit, verdict);
        search.note(kept, Verdict::Passed);
        while let Some(connections) = search.next() {
            let verdict = holds(&mut bed, connections)?;
            search.note(connections, verdict);
        }
        kept = search.result();
    } else {
        say(&format!("{limit} connections were kept; more were not tried"));
    }
    let figures = vec![
        Figure::new(bed.name("table_capacity/all_kept"), kept, "connections"),
        Figure::new(bed.name("table_capacity/most_kept"), most.into(), "connections"),
    ];
    bed.conclude(report, "connection table capacity", figures)
}
