//! What was measured: rows, the machine, the build; as a table and as a file.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result};
use comfy_table::{Cell, CellAlignment, Table, presets};
use serde::Serialize;

use crate::measure::Runs;

/// One figure.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    /// What, with its scale: `loop/ipv4_udp/64k_flows/director`.
    pub(crate) name: String,
    /// The median over the runs.
    pub(crate) value: f64,
    /// Of `value` and `spread`.
    pub(crate) unit: &'static str,
    /// Smallest and largest run.
    pub(crate) spread: [f64; 2],
    /// How many runs.
    pub(crate) runs: usize,
    /// What was run.
    pub(crate) command: String,
}

impl Row {
    /// The figure of some runs.
    pub(crate) fn new(name: String, unit: &'static str, runs: &Runs, command: &str) -> Self {
        let round = |value: f64| (value * 1000.0).round() / 1000.0;
        Self {
            name,
            value: round(runs.median()),
            unit,
            spread: runs.spread().map(round),
            runs: runs.len(),
            command: command.to_owned(),
        }
    }
}

/// Facts without which a figure means nothing.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    cpu: String,
    cpus: usize,
    kernel: String,
    memory_mib: u64,
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

    /// Writes `<date>-<commit>.json` into a folder.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder)?;
        let day = self.date.split('T').next().unwrap_or_default();
        let file = folder.join(format!("{day}-{}.json", self.build.commit));
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        say(&format!("written: {}", file.display()));
        Ok(())
    }
}

/// Free huge pages of 2 MiB.
pub(crate) fn free_huge_pages() -> u64 {
    number("/proc/meminfo", "HugePages_Free")
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
    table.set_header(["measure", "median", "min..max", "unit", "runs"]);
    for row in rows {
        let [min, max] = row.spread;
        table.add_row([
            Cell::new(&row.name),
            Cell::new(format!("{:.2}", row.value)).set_alignment(CellAlignment::Right),
            Cell::new(format!("{min:.2}..{max:.2}")).set_alignment(CellAlignment::Right),
            Cell::new(row.unit),
            Cell::new(row.runs),
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
