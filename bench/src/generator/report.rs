//! The figures as rows of the benchmark's report, and all trials as a file.

use std::fs;

use anyhow::{Context, Result};
use serde::Serialize;

use super::numbers::rounded;
use super::session::Session;
use super::trial::Trial;
use crate::measure::Runs;
use crate::results::{Report, Row, say};

/// A figure: its name, value and unit.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
}

impl Figure {
    /// One figure.
    pub(crate) fn new(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { name: name.into(), value: rounded(value), unit }
    }
}

/// The file of a command.
#[derive(Debug, Serialize)]
struct File<'a> {
    /// How it was called.
    command: Vec<String>,
    #[serde(flatten)]
    report: &'a Report,
    /// Packets that the generator's own ports lost: they count as lost, and are not the director's.
    generator_port_losses: u64,
    trials: &'a [Trial],
}

/// Shows the figures, and writes the file that was asked for.
pub(crate) fn conclude(
    report: &mut Report,
    title: &str,
    command: &str,
    figures: Vec<Figure>,
    session: &Session,
) -> Result<()> {
    let row = |figure: Figure| {
        let mut once = Runs::default();
        once.push(figure.value);
        Row::new(figure.name, figure.unit, &once, command)
    };
    report.add(title, figures.into_iter().map(row).collect())?;
    let losses = session.port_losses();
    if losses > 0 {
        say(&format!(
            "the generator's own ports lost {losses} packets: more descriptors, less load"
        ));
    }
    let Some(path) = &session.args.json else { return Ok(()) };
    let file = File {
        command: std::env::args().collect(),
        report,
        generator_port_losses: losses,
        trials: &session.trials,
    };
    let text = serde_json::to_string_pretty(&file)? + "\n";
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
