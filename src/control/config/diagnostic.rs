//! What is wrong with a configuration, where, and what would be right.

use std::fmt;
use std::ops::Range;

/// Octets of the file, from the first to behind the last.
pub(super) type Span = Range<usize>;

/// Longer source lines are shown in part.
const SHOWN_COLUMNS: usize = 120;

/// How bad a [`Diagnostic`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The configuration can be used, but probably does not do what was meant.
    Warning,
    /// The configuration cannot be used.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// A place in a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// Characters marked; all on this line, at least one.
    pub width: usize,
    /// The line, without its end.
    pub text: String,
}

/// One error or warning about a configuration. Displayed it looks so:
///
/// ```text
/// pointsman.toml:3:8: error: "150O" is not a number of octets
///   |
/// 3 | mtu = "150O"
///   |       ^^^^^^
///   = help: write mtu = 1500
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// The file, as the operator named it.
    pub file: String,
    /// Where it is; `None`: it concerns the file as a whole, or the machine.
    pub place: Option<Place>,
    /// What is wrong.
    pub message: String,
    /// More that helps to find the cause, such as where a duplicate was first stated.
    pub note: Option<String>,
    /// What would be right.
    pub help: Option<String>,
}

impl Diagnostic {
    /// Something about `file` as a whole, or about the machine that is to run it.
    pub fn unplaced(severity: Severity, file: &str, message: String, help: String) -> Self {
        let help = (!help.is_empty()).then_some(help);
        Self { severity, file: file.into(), place: None, message, note: None, help }
    }

    /// Whether the configuration cannot be used.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { severity, file, place, message, note, help } = self;
        let mut margin = String::new();
        if let Some(Place { line, column, width, text }) = place {
            writeln!(f, "{file}:{line}:{column}: {severity}: {message}")?;
            margin = " ".repeat(line.to_string().len());
            let (text, column) = visible(text, *column);
            let width = (*width).min(text.chars().count().saturating_sub(column - 1)).max(1);
            let (blank, carets) = (" ".repeat(column - 1), "^".repeat(width));
            writeln!(f, "{margin} |\n{line} | {text}\n{margin} | {blank}{carets}")?;
        } else {
            writeln!(f, "{file}: {severity}: {message}")?;
        }
        for (title, text) in [("note", note), ("help", help)] {
            if let Some(text) = text {
                writeln!(f, "{margin} = {title}: {text}")?;
            }
        }
        Ok(())
    }
}

/// The part of a line around `column` that fits a terminal, without control characters, and
/// the column there.
fn visible(text: &str, column: usize) -> (String, usize) {
    let skipped = if text.chars().count() > SHOWN_COLUMNS { column.saturating_sub(60) } else { 0 };
    let shown = text
        .chars()
        .skip(skipped)
        .take(SHOWN_COLUMNS)
        .map(|c| match c {
            '\t' => ' ',
            c if c.is_control() => '\u{fffd}',
            c => c,
        })
        .collect();
    (shown, column.saturating_sub(skipped).max(1))
}

/// A [`Diagnostic`] that does not know the text of the file yet.
#[derive(Debug)]
pub(super) struct Finding {
    pub(super) severity: Severity,
    pub(super) span: Option<Span>,
    pub(super) message: String,
    pub(super) help: Option<String>,
    /// Where a duplicate was stated first.
    pub(super) first: Option<Span>,
    /// Something is absent, which a syntax error elsewhere may explain.
    pub(super) absence: bool,
}

impl Finding {
    pub(super) fn error(span: Span, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            span: Some(span),
            message: message.into(),
            help: None,
            first: None,
            absence: false,
        }
    }

    pub(super) fn warning(span: Span, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(span, message) }
    }

    pub(super) fn absence(span: Option<Span>, message: impl Into<String>) -> Self {
        Self { span, absence: true, ..Self::error(0..0, message) }
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub(super) fn first_stated(mut self, first: Span) -> Self {
        self.first = Some(first);
        self
    }
}

/// A file's name and text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source<'a> {
    pub(super) file: &'a str,
    pub(super) text: &'a str,
}

impl Source<'_> {
    pub(super) fn diagnostic(self, finding: Finding) -> Diagnostic {
        Diagnostic {
            severity: finding.severity,
            file: self.file.into(),
            place: finding.span.map(|span| self.place(span)),
            message: finding.message,
            note: finding.first.map(|span| self.place(span)).map(|place| {
                format!("first stated at line {}, column {}", place.line, place.column)
            }),
            help: finding.help,
        }
    }

    /// From 0.
    pub(super) fn line_of(self, offset: usize) -> usize {
        self.text.bytes().take(offset).filter(|&octet| octet == b'\n').count()
    }

    fn place(self, span: Span) -> Place {
        let start = self.char_boundary(span.start);
        let end = self.char_boundary(span.end.max(start));
        let before = self.text.get(..start).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let rest = self.text.get(line_start..).unwrap_or_default();
        let text = rest.lines().next().unwrap_or_default();
        let line_end = line_start + text.len();
        let marked = self.text.get(start..end.min(line_end)).unwrap_or_default();
        Place {
            line: self.line_of(start) + 1,
            column: before.get(line_start..).unwrap_or_default().chars().count() + 1,
            width: marked.chars().count().max(1),
            text: text.into(),
        }
    }

    /// Whether a line with a key or a table begins here.
    pub(super) fn begins_statement(self, offset: usize) -> bool {
        let (Some(before), Some(rest)) = (self.text.get(..offset), self.text.get(offset..)) else {
            return false;
        };
        let line = rest.lines().next().unwrap_or_default();
        before.rsplit('\n').next().unwrap_or_default().trim().is_empty()
            && (line.starts_with('[') || line.contains('='))
    }

    fn char_boundary(self, offset: usize) -> usize {
        let mut offset = offset.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        offset
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_counts_characters_and_stays_on_its_line() {
        let source = Source { file: "f", text: "a = 1\nä = \"x\ny\"\n" };
        let place = source.place(11..18);
        assert_eq!((place.line, place.column, place.width), (2, 5, 2));
        assert_eq!(place.text, "ä = \"x");
    }

    #[test]
    fn a_place_behind_the_end_is_the_end() {
        let source = Source { file: "f", text: "a = 1" };
        let place = source.place(100..200);
        assert_eq!((place.line, place.column, place.width), (1, 6, 1));
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let source = Source { file: "f", text: "\ta = \u{1b}[31m" };
        let shown = source.diagnostic(Finding::error(1..2, "wrong")).to_string();
        assert!(!shown.contains('\u{1b}'));
        assert!(shown.contains("1 |  a = \u{fffd}[31m\n  |  ^\n"), "{shown}");
    }
}
