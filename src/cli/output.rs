//! What goes to the terminal: tables, numbers, errors.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

use comfy_table::{CellAlignment, Table, presets};

/// Writes to stdout. A reader that has seen enough (`| head`) is no error.
pub(super) fn print(text: &[u8]) -> ExitCode {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text).and_then(|()| stdout.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => fail(&format_args!("cannot write the output: {error}")),
    }
}

/// Writes an error to stderr.
pub(super) fn fail(error: &dyn Display) -> ExitCode {
    // When stderr is gone too there is nobody left to tell.
    writeln!(io::stderr().lock(), "error: {error}").ok();
    ExitCode::FAILURE
}

/// A table without lines: the first `left` columns are words, the others numbers.
pub(super) fn table(header: &[&str], left: usize) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.to_vec());
    for column in table.column_iter_mut().skip(left) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

/// A number with at most four digits and a decimal prefix: `0`, `12.3`, `4.56k`, `789M`.
pub(super) fn short(value: f64) -> String {
    let mut value = if value.is_finite() { value.max(0.0) } else { 0.0 };
    let mut prefix = "";
    for larger in ["k", "M", "G", "T", "P"] {
        if value < 999.5 {
            break;
        }
        value /= 1000.0;
        prefix = larger;
    }
    let text = match value {
        whole if whole.fract() < 0.005 && prefix.is_empty() => format!("{whole:.0}"),
        small if small < 9.995 => format!("{small:.2}"),
        medium if medium < 99.95 => format!("{medium:.1}"),
        large => format!("{large:.0}"),
    };
    text + prefix
}

/// Minutes and seconds: `14:59`.
pub(super) fn minutes(ms: u32) -> String {
    let seconds = ms.div_ceil(1000);
    format!("{:02}:{:02}", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let cases = [
            (0.0, "0"),
            (7.0, "7"),
            (0.25, "0.25"),
            (999.0, "999"),
            (999.9, "1.00k"),
            (12_345.0, "12.3k"),
            (9_876_543.0, "9.88M"),
            (f64::NAN, "0"),
        ];
        for (value, expected) in cases {
            assert_eq!(short(value), expected);
        }
    }

    #[test]
    fn times_are_minutes_and_seconds() {
        assert_eq!(minutes(900_000), "15:00");
        assert_eq!(minutes(1), "00:01");
        assert_eq!(minutes(7_440_000), "124:00");
    }
}
