//! `pointsman check FILE`: says everything about a configuration that can be said without
//! starting.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use bytesize::ByteSize;

use crate::control::config::preflight::{self, Host, ThisHost};
use crate::control::config::{self, Config, Listing, LoadError, Loaded, Machine};
use crate::ids::VlanId;

/// What `check` ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The configuration can be used here; there may have been warnings. Exit code 0.
    Good,
    /// The configuration cannot be used here. Exit code 1.
    Bad,
    /// There is no configuration to be read. Exit code 2.
    Unreadable,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Good => Self::SUCCESS,
            Outcome::Bad => Self::FAILURE,
            Outcome::Unreadable => Self::from(2),
        }
    }
}

/// Checks `path` against this machine. Errors and warnings go to stderr, a summary to stdout.
pub fn run(path: &Path) -> ExitCode {
    let (mut out, mut err) = (io::stdout().lock(), io::stderr().lock());
    let outcome = check(path, &Machine::this(), &ThisHost, &mut out, &mut err);
    // Nobody reads the output any more: that is no verdict on the file.
    outcome.unwrap_or(Outcome::Bad).into()
}

/// As [`run`], for any machine.
pub fn check(
    path: &Path,
    machine: &Machine,
    host: &dyn Host,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<Outcome> {
    let Loaded { config, warnings, .. } = match config::load_for(path, machine) {
        Ok(loaded) => loaded,
        Err(LoadError::Invalid(diagnostics)) => {
            write!(err, "{}", Listing(&diagnostics))?;
            let errors = diagnostics.iter().filter(|diagnostic| diagnostic.is_error()).count();
            writeln!(err, "{}: {}", path.display(), count(errors, "error"))?;
            return Ok(Outcome::Bad);
        }
        Err(error @ LoadError::Unreadable { .. }) => {
            writeln!(err, "error: {error}")?;
            writeln!(err, " = help: name a configuration file, such as dpdk-config/null.toml")?;
            return Ok(Outcome::Unreadable);
        }
    };
    let host_findings = preflight::check(&config, &path.display().to_string(), host);
    write!(err, "{}{}", Listing(&warnings), Listing(&host_findings))?;
    let errors = host_findings.iter().filter(|finding| finding.is_error()).count();
    if errors > 0 {
        let errors = count(errors, "error");
        writeln!(err, "{}: the file is valid, but not on this machine: {errors}", path.display())?;
        return Ok(Outcome::Bad);
    }
    writeln!(out, "{}: good", path.display())?;
    summarize(&config, out)?;
    Ok(Outcome::Good)
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn summarize(config: &Config, out: &mut dyn Write) -> io::Result<()> {
    let cpus: Vec<_> = config.director.workers.iter().map(ToString::to_string).collect();
    writeln!(
        out,
        "  workers     {} on CPU {}; control thread on CPU {}",
        cpus.len(),
        cpus.join(", "),
        config.director.control_cpu
    )?;
    for interface in &config.interfaces {
        let addresses: Vec<_> = interface.addresses.iter().map(ToString::to_string).collect();
        let vlan = match interface.vlan {
            VlanId::UNTAGGED => String::new(),
            vlan => format!(", VLAN {vlan}"),
        };
        writeln!(
            out,
            "  interface   {} ({}) on {}{}: {}",
            interface.name,
            interface.role.name(),
            interface.device,
            vlan,
            addresses.join(", ")
        )?;
    }
    for service in &config.services {
        let servers = count(service.servers.len(), "server");
        let (name, listen, scheduler) = (&service.name, service.listen, service.scheduler);
        writeln!(out, "  service     {name} at {listen}, {scheduler}, {servers}")?;
    }
    if config.services.is_empty() {
        writeln!(out, "  service     none")?;
    }
    for rule in &config.marks {
        let addresses: Vec<_> = rule.addresses.iter().map(ToString::to_string).collect();
        writeln!(out, "  mark        {} for {}", rule.mark, addresses.join(", "))?;
    }
    let need = config.memory_need();
    writeln!(
        out,
        "  memory      {} MiB of {} for DPDK; packet buffers about {}, {} connections about {}",
        config.dpdk.memory_mib,
        if config.dpdk.hugepages { "huge pages" } else { "ordinary pages" },
        ByteSize(need.packet_octets),
        config.director.connections,
        ByteSize(need.connection_octets),
    )
}
