//! The configuration file: one TOML file, read once, validated whole.
//!
//! [`load`] and [`parse`] give a [`Config`] in which every value has its type and every default
//! is filled in, or else every error of the file at once, each with its place.
//! [`preflight::check`] compares a valid configuration with the machine that is to run it.

mod model;
mod diagnostic;
mod field;
mod reader;
mod value;
mod device;
mod draft;
mod failover;
mod machine;
mod validate;
mod build;
mod memory;
mod ports;
mod host;
pub mod preflight;

use std::fmt;
use std::path::{Path, PathBuf};

use toml::de::DeTable;

pub use diagnostic::{Diagnostic, Place, Severity};
pub use failover::{
    Announcements, FailoverConfig, Floating, Preempt, SyncConfig, SyncKey, Track, TrackScript,
};
pub(super) use field::field_at;
pub use machine::Machine;
pub use memory::{MemoryNeed, RING};
pub use model::{
    Config, Device, DirectorConfig, DpdkConfig, Idle, InterfaceConfig, LogConfig, LogFormat,
    MacAddress, Role, Route,
};
pub use ports::PortConfig;
pub use validate::MAX_SERVERS;

use diagnostic::{Finding, Source};
use draft::Draft;
use reader::Problems;

/// Where a configuration comes from, for changes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigSource {
    /// The file, as the operator named it.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
    /// What it was validated for.
    pub machine: Machine,
}

/// A configuration that can be used.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// What the file says.
    pub config: Config,
    /// The file.
    pub source: ConfigSource,
    /// What the operator should look at nevertheless, in the order of the file.
    pub warnings: Vec<Diagnostic>,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// There is no such file, or it may not be read.
    #[error("cannot read {file}: {cause}")]
    Unreadable {
        /// The file, as the operator named it.
        file: String,
        /// What the operating system says.
        #[source]
        cause: std::io::Error,
    },
    /// Every error, and the warnings, in the order of the file.
    #[error("{}", Listing(.0))]
    Invalid(Vec<Diagnostic>),
}

/// Displays diagnostics one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Listing<'a>(pub &'a [Diagnostic]);

impl fmt::Display for Listing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|diagnostic| write!(f, "{diagnostic}"))
    }
}

/// Reads and validates a configuration file for this machine.
pub fn load(path: &Path) -> Result<Loaded, LoadError> {
    load_for(path, &Machine::this())
}

/// Reads and validates a configuration file for a machine with these CPUs.
pub fn load_for(path: &Path, machine: &Machine) -> Result<Loaded, LoadError> {
    let file = path.display().to_string();
    let octets = match std::fs::read(path) {
        Ok(octets) => octets,
        Err(cause) => return Err(LoadError::Unreadable { file, cause }),
    };
    let text = match String::from_utf8(octets) {
        Ok(text) => text,
        Err(error) => {
            let good = error.utf8_error().valid_up_to();
            let text = String::from_utf8_lossy(error.as_bytes());
            let finding = Finding::error(good..good + 1, "the file is not UTF-8 text from here on")
                .help("save it as UTF-8");
            let source = Source { file: &file, text: &text };
            return Err(LoadError::Invalid(vec![source.diagnostic(finding)]));
        }
    };
    parse(&text, &file, machine).map_err(LoadError::Invalid)
}

/// Validates the text of a configuration file. `file` is what messages call it; `machine` says
/// which CPUs there are.
pub fn parse(text: &str, file: &str, machine: &Machine) -> Result<Loaded, Vec<Diagnostic>> {
    let source = Source { file, text };
    let (table, syntax_errors) = DeTable::parse_recoverable(text);
    let problems = Problems::default();
    let draft = Draft::read(table.get_ref(), &problems);
    if syntax_errors.is_empty() {
        validate::check(&draft, machine, &problems);
    }
    let mut findings = problems.into_findings();
    if !syntax_errors.is_empty() {
        findings = with_syntax_errors(source, &syntax_errors, findings);
    }
    findings.sort_by_key(|finding| finding.span.as_ref().map_or(0, |span| span.start));
    let diagnostics: Vec<_> =
        findings.into_iter().map(|finding| source.diagnostic(finding)).collect();
    if diagnostics.iter().any(Diagnostic::is_error) {
        return Err(diagnostics);
    }
    let Some(config) = build::config(draft, machine) else {
        let message = "a required value is missing, and no check has found which".into();
        let help = "this is a bug of pointsman; please report it with the file".into();
        return Err(vec![Diagnostic::unplaced(Severity::Error, file, message, help)]);
    };
    let source =
        ConfigSource { path: file.into(), text: text.to_owned(), machine: machine.clone() };
    Ok(Loaded { config, source, warnings: diagnostics })
}

/// Adds the syntax errors to what was found in the rest of the file, and takes out what they
/// may have caused: what is absent, and what is on the same line.
fn with_syntax_errors(
    source: Source<'_>,
    errors: &[toml::de::Error],
    findings: Vec<Finding>,
) -> Vec<Finding> {
    let mut errors: Vec<_> =
        errors.iter().map(|error| (error.span().unwrap_or(0..0), error.message())).collect();
    errors.sort_by_key(|(span, _)| span.start);
    let mut all: Vec<Finding> = Vec::new();
    let mut lines = Vec::new();
    let mut readable = source.text.len();
    for (span, message) in errors {
        // An array that is not closed swallows the rest of the file.
        if message.contains("between array elements") && source.begins_statement(span.start) {
            readable = span.start;
            let finding = Finding::error(span, "syntax: an array before this line is not closed");
            all.push(finding.help("close it with `]`; what follows has not been checked"));
            break;
        }
        // One mistake often makes several errors on its line; the first one says most.
        let line = source.line_of(span.start);
        if lines.contains(&line) {
            continue;
        }
        lines.push(line);
        let finding = Finding::error(span, format!("syntax: {message}"));
        all.push(match syntax_help(message) {
            Some(help) => finding.help(help),
            None => finding,
        });
    }
    all.extend(findings.into_iter().filter(|finding| {
        let start = finding.span.as_ref().map_or(0, |span| span.start);
        !finding.absence && start < readable && !lines.contains(&source.line_of(start))
    }));
    all
}

/// The known name that was probably meant.
pub(super) fn nearest<'a>(wrong: &str, known: &'a [String]) -> Option<&'a str> {
    let known: Vec<_> = known.iter().map(String::as_str).collect();
    reader::likeliest(wrong, &known)
}

/// What a syntax error of the TOML parser is probably about.
fn syntax_help(message: &str) -> Option<&'static str> {
    let helps = [
        ("duplicate key", "it is stated above already: remove one of the two"),
        ("string values must be quoted", "write it in quotes"),
        ("unclosed table", "close it with `]`"),
        ("unclosed array of tables", "close it with `]]`"),
    ];
    helps.iter().find(|(part, _)| message.contains(part)).map(|(_, help)| *help)
}
