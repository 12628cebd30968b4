//! The one binary.

use std::process::ExitCode;

use clap::Parser;
use pointsman::cli::{Cli, ipvsadm};

fn main() -> ExitCode {
    let mut words = std::env::args_os();
    let name = words.next().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    match ipvsadm::program_of(&name) {
        Some(program) => ipvsadm::run(&name, program, words),
        None => Cli::parse().run(),
    }
}
