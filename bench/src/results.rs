//! What was measured: rows, the machine, the build; as a table and as a file.

use std::fmt;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result};
use comfy_table::{Cell, CellAlignment, Table, presets};
use pointsman::dpdk::{memory, tsc};
use pointsman_bench::flows::{Family, Traffic};
use serde::Serialize;

use crate::goals::Goal;
use crate::measure::Runs;
use crate::scale::scale;

/// Octets of a huge page.
const HUGE_PAGE: u64 = memory::HUGE_PAGE as u64;

/// One figure.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    /// What, with its scale: `loop/ipv4_udp/64k_flows/director`.
    pub(crate) name: String,
    /// The median over the runs.
    pub(crate) value: f64,
    /// Of `value`, `goal` and `spread`.
    pub(crate) unit: &'static str,
    /// What is aimed at, if anything is.
    pub(crate) goal: Option<Goal>,
    /// Whether `value` meets the goal.
    pub(crate) holds: Option<bool>,
    /// Smallest and largest run.
    pub(crate) spread: [f64; 2],
    /// How many runs.
    pub(crate) runs: usize,
    /// Of those during which the core was not shared; `None`: of none it is known.
    pub(crate) quiet: Option<Quiet>,
    /// What was run.
    pub(crate) command: String,
}

/// The quiet runs of a row.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Quiet {
    /// Their median.
    value: f64,
    /// How many.
    runs: usize,
}

impl fmt::Display for Quiet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:.2}", self.runs, self.value)
    }
}

impl Row {
    /// The figure of some runs.
    pub(crate) fn new(name: String, unit: &'static str, runs: &Runs, command: &str) -> Self {
        let round = |value: f64| (value * 1000.0).round() / 1000.0;
        let (value, goal) = (round(runs.median()), Goal::of(&name));
        let quiet = runs.quiet();
        Self {
            name,
            value,
            unit,
            goal,
            holds: goal.map(|goal| goal.holds(value)),
            spread: runs.spread().map(round),
            runs: runs.len(),
            quiet: (quiet.len() > 0)
                .then(|| Quiet { value: round(quiet.median()), runs: quiet.len() }),
            command: command.to_owned(),
        }
    }

    /// With a goal that is not known before it is measured.
    pub(crate) fn with_goal(self, goal: Goal) -> Self {
        Self { goal: Some(goal), holds: Some(goal.holds(self.value)), ..self }
    }
}

/// Facts without which a figure means nothing.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    cpu: String,
    cpus: usize,
    kernel: String,
    memory_mib: u64,
    /// How fast the time stamp counter counts, and with it the cycles of the rows; 0 where nothing
    /// was measured in this process.
    tsc_mhz: u64,
    huge_pages_2mib: u64,
    /// One, five and fifteen minutes, when the measurement began: others on the machine.
    load_average: String,
}

/// What was built.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Build {
    commit: String,
    /// Whether the tree had changes that were not committed.
    dirty: bool,
    rustc: String,
    dpdk: String,
    profile: &'static str,
}

/// A results file.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    date: String,
    machine: Machine,
    build: Build,
    rows: Vec<Row>,
}

impl Report {
    /// A report without rows.
    pub(crate) fn begin() -> Self {
        let commit = output("git", &["rev-parse", "--short=12", "HEAD"]);
        // The results themselves do not count.
        let changes = output("git", &["status", "--porcelain", "--", ".", ":!bench/results"]);
        Self {
            date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            machine: Machine {
                cpu: field("/proc/cpuinfo", "model name"),
                cpus: std::thread::available_parallelism().map_or(0, usize::from),
                kernel: output("uname", &["-r"]),
                memory_mib: number("/proc/meminfo", "MemTotal") / 1024,
                tsc_mhz: 0,
                huge_pages_2mib: number("/proc/meminfo", "HugePages_Total"),
                load_average: fs::read_to_string("/proc/loadavg")
                    .map(|text| text.split(' ').take(3).collect::<Vec<_>>().join(" "))
                    .unwrap_or_default(),
            },
            build: Build {
                commit: if commit.is_empty() { "unknown".to_owned() } else { commit },
                dirty: !changes.is_empty(),
                rustc: output("rustc", &["--version"]),
                dpdk: output("pkg-config", &["--modversion", "libdpdk"]),
                profile: if cfg!(debug_assertions) { "debug" } else { "release" },
            },
            rows: Vec::new(),
        }
    }

    /// Adds rows and shows them.
    pub(crate) fn add(&mut self, title: &str, rows: Vec<Row>) -> Result<()> {
        show(title, &rows)?;
        self.rows.extend(rows);
        Ok(())
    }

    /// All rows so far.
    pub(crate) fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Shows the rows that have a goal once more, in one table.
    pub(crate) fn summarise(&self) -> Result<()> {
        let rows: Vec<_> = self.rows.iter().filter(|row| row.goal.is_some()).cloned().collect();
        if rows.is_empty() {
            return Ok(());
        }
        let missed = rows.iter().filter(|row| row.holds == Some(false)).count();
        show(&format!("Goals: {} of {} hold", rows.len() - missed, rows.len()), &rows)
    }

    /// Writes `<date>-<commit>.json` into a folder.
    pub(crate) fn write(&mut self, folder: &Path) -> Result<PathBuf> {
        // Known once EAL has started.
        self.machine.tsc_mhz = tsc::hz() / 1_000_000;
        fs::create_dir_all(folder)?;
        let day = self.date.split('T').next().unwrap_or_default();
        let file = folder.join(format!("{day}-{}.json", self.build.commit));
        let text = serde_json::to_string_pretty(&self)? + "\n";
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        say(&format!("written: {}", file.display()));
        Ok(file)
    }
}

/// Free huge pages of 2 MiB.
pub(crate) fn free_huge_pages() -> u64 {
    number("/proc/meminfo", "HugePages_Free")
}

/// Says so where a table of this size will find no free huge pages.
pub(crate) fn warn_of_ordinary_memory(traffic: Traffic, connections: u32) {
    let record = match traffic.family {
        Family::V4 => 64,
        Family::V6 => 128,
    };
    // Two index entries of 16 octets at most, each.
    let octets = u64::from(connections) * (record + 48);
    if octets > HUGE_PAGE && octets / HUGE_PAGE > free_huge_pages() {
        say(&format!(
            "{traffic}, {} connections: not enough free huge pages, so ordinary memory may be \
             measured",
            scale(connections)
        ));
    }
}

/// Memory of this process, huge pages included.
pub(crate) fn resident_kib() -> f64 {
    let of = |name| number("/proc/self/status", name);
    let kib = of("VmRSS") + of("HugetlbPages");
    f64::from(u32::try_from(kib).unwrap_or(u32::MAX))
}

/// A line for whoever watches.
pub(crate) fn say(line: &str) {
    let mut out = std::io::stderr().lock();
    // Nobody may be reading any more; the measurement goes on.
    drop(writeln!(out, "bench: {line}"));
}

fn show(title: &str, rows: &[Row]) -> Result<()> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["measure", "median", "min..max", "unit", "goal", "holds", "runs", "quiet"]);
    for row in rows {
        let [min, max] = row.spread;
        table.add_row([
            Cell::new(&row.name),
            Cell::new(format!("{:.2}", row.value)).set_alignment(CellAlignment::Right),
            Cell::new(format!("{min:.2}..{max:.2}")).set_alignment(CellAlignment::Right),
            Cell::new(row.unit),
            Cell::new(row.goal.map(|goal| goal.to_string()).unwrap_or_default()),
            Cell::new(match row.holds {
                Some(true) => "yes",
                Some(false) => "NO",
                None => "",
            }),
            Cell::new(row.runs),
            Cell::new(row.quiet.map(|quiet| quiet.to_string()).unwrap_or_default()),
        ]);
    }
    writeln!(std::io::stdout().lock(), "\n{title}\n{table}")?;
    Ok(())
}

/// The first line that a command prints; nothing if it cannot.
fn output(program: &str, args: &[&str]) -> String {
    let result = Command::new(program).args(args).output();
    let text = result.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    text.unwrap_or_default().lines().next().unwrap_or_default().trim().to_owned()
}

fn field(file: &str, name: &str) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    let value = text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    });
    value.unwrap_or_default()
}

fn number(file: &str, name: &str) -> u64 {
    field(file, name).split(' ').next().and_then(|digits| digits.parse().ok()).unwrap_or(0)
}
