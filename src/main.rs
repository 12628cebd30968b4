//! The one binary.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    pointsman::cli::Cli::parse().run()
}
