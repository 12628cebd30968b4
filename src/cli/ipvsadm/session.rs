//! Does what a command line asks for.

use std::io::{BufRead, Write};

use super::arguments::{self, Complaint};
use super::command::{
    Command, Forwarding, Listing, ServerSpec, ServiceKey, ServiceSpec, View, What,
};
use super::director::{Director, Failure, Refusal};
use super::names::Names;
use super::rows::ServiceRow;
use super::text::Style;
use super::{connections, help, listing, order, save};

/// Done.
const DONE: u8 = 0;
/// A listing of what is not there, or nobody answers.
const NOTHING: u8 = 1;
/// The command line is wrong.
const WRONG: u8 = 2;
/// The director refuses, or the command line is not understood at all: -1.
const REFUSED: u8 = 255;

/// Whether the lines of `-R` go on after one of them.
enum Next {
    /// They do; the exit code if it was the last.
    GoOn(u8),
    /// They do not.
    Stop(u8),
}

/// The world of a call.
pub struct Session<'a> {
    /// The name that it was called by, which complaints show.
    pub program: &'a str,
    /// The director.
    pub director: &'a mut dyn Director,
    /// Knows names.
    pub names: &'a dyn Names,
    /// stdin, which `-R` reads.
    pub input: &'a mut dyn BufRead,
    /// stdout
    pub output: &'a mut dyn Write,
    /// stderr
    pub errors: &'a mut dyn Write,
}

impl std::fmt::Debug for Session<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("program", &self.program).finish_non_exhaustive()
    }
}

impl Session<'_> {
    /// Called as `ipvsadm`, with these words: the exit code.
    pub fn ipvsadm(&mut self, words: &[String]) -> u8 {
        let (Next::GoOn(code) | Next::Stop(code)) = self.line(words, false);
        code
    }

    /// Called as `ipvsadm-save`: a wrapper around `ipvsadm -S` that knows `-n` alone.
    pub fn ipvsadm_save(&mut self, words: &[String]) -> u8 {
        let mut options = words.iter().filter(|word| word.starts_with('-'));
        if options.any(|option| option != "-n") {
            let name = self.program.rsplit('/').next().unwrap_or_default();
            self.complain(&format!(
                "{name}: Script to save the IPVS table to stdout.\n   With the -n option, prints \
                 out the table in numeric format."
            ));
            return NOTHING;
        }
        let numeric = words.iter().any(|word| word == "-n");
        self.run(&Command::Save { numeric })
    }

    /// Called as `ipvsadm-restore`: what is read, to its end, replaces everything; lines that begin
    /// with `#` are passed over.
    pub fn ipvsadm_restore(&mut self) -> u8 {
        let mut text = Vec::new();
        if let Err(error) = self.input.read_to_end(&mut text) {
            self.complain(&format!("cannot read the rules: {error}"));
            return NOTHING;
        }
        self.run(&Command::Clear);
        let lines = text.split(|octet| *octet == b'\n');
        let rules: Vec<_> = lines.filter(|line| !line.starts_with(b"#")).collect();
        let rules = rules.join(&b'\n');
        let mut session = Session {
            program: self.program,
            director: &mut *self.director,
            names: self.names,
            input: &mut &rules[..],
            output: &mut *self.output,
            errors: &mut *self.errors,
        };
        session.restore()
    }

    /// One command line, of a call or of `-R`.
    fn line(&mut self, words: &[String], of_restore: bool) -> Next {
        let parsed = if words.is_empty() {
            Ok(Command::List(Listing {
                what: What::Services(View::Plain, None),
                numeric: false,
                exact: false,
                sorted: true,
            }))
        } else {
            arguments::parse(words, self.names)
        };
        match parsed {
            Ok(Command::Restore) if of_restore => Next::Stop(self.hint()),
            Ok(Command::Restore) => Next::GoOn(self.restore()),
            Ok(command @ (Command::Help | Command::Version)) => Next::Stop(self.run(&command)),
            Ok(command @ Command::List(_)) => match self.run(&command) {
                DONE => Next::GoOn(DONE),
                code => Next::Stop(code),
            },
            Ok(command) => Next::GoOn(self.run(&command)),
            Err(Complaint::NoCommand) => Next::Stop(self.hint()),
            Err(complaint @ Complaint::Option(_)) => {
                self.complain(&complaint.to_string());
                Next::GoOn(REFUSED)
            }
            Err(Complaint::Wrong(message)) => {
                self.complain(&message);
                Next::Stop(WRONG)
            }
        }
    }

    /// `-R`: each line as a command line, until one is wrong. What has been done stays done.
    fn restore(&mut self) -> u8 {
        let mut code = DONE;
        let mut line = Vec::new();
        loop {
            line.clear();
            match self.input.read_until(b'\n', &mut line) {
                Ok(0) => return code,
                Ok(_) => {}
                Err(error) => {
                    self.complain(&format!("cannot read the rules: {error}"));
                    return NOTHING;
                }
            }
            let text = String::from_utf8_lossy(&line);
            let words = text.split([' ', '\t', '\r', '\n']).filter(|word| !word.is_empty());
            let mut words: Vec<String> = words.map(str::to_owned).collect();
            if words.first().is_some_and(|word| word == "ipvsadm") {
                words.remove(0);
            }
            if words.is_empty() {
                continue;
            }
            match self.line(&words, true) {
                Next::GoOn(this) => code = this,
                Next::Stop(code) => return code,
            }
        }
    }

    /// Runs a command that is right.
    fn run(&mut self, command: &Command) -> u8 {
        let done = match command {
            Command::List(listing) => self.list(listing),
            Command::Save { numeric } => self.save(*numeric),
            Command::Help => help::write(self.output, self.program).map_err(Failure::from),
            Command::Version => help::write_version(self.output).map_err(Failure::from),
            Command::AddService(_)
            | Command::EditService(_)
            | Command::DeleteService(_)
            | Command::Clear
            | Command::Restore
            | Command::AddServer(..)
            | Command::EditServer(..)
            | Command::DeleteServer(..)
            | Command::Zero(_)
            | Command::Set(_)
            | Command::StartDaemon
            | Command::StopDaemon => self.change(command).map_err(Failure::from),
        };
        let done = done.and_then(|()| self.output.flush().map_err(Failure::from));
        match done {
            Ok(()) => DONE,
            // A reader that has seen enough (`| head`) is no error.
            Err(Failure::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => DONE,
            Err(Failure::Output(error)) => {
                self.complain(&format!("cannot write the output: {error}"));
                NOTHING
            }
            Err(Failure::Refused(refusal)) => {
                self.complain(&explain(command, &refusal));
                let lists = matches!(command, Command::List(_) | Command::Save { .. });
                if lists || matches!(refusal, Refusal::Unreachable(_)) { NOTHING } else { REFUSED }
            }
        }
    }

    fn change(&mut self, command: &Command) -> Result<(), Refusal> {
        let director = &mut *self.director;
        match command {
            Command::AddService(service) => {
                check_service(service).and_then(|()| director.add_service(service))
            }
            Command::EditService(service) => {
                check_service(service).and_then(|()| director.edit_service(service))
            }
            Command::DeleteService(key) => director.delete_service(key),
            Command::Clear => director.clear(),
            Command::AddServer(key, server) => {
                check_server(server).and_then(|()| director.add_server(key, server))
            }
            Command::EditServer(key, server) => {
                check_server(server).and_then(|()| director.edit_server(key, server))
            }
            Command::DeleteServer(key, server) => director.delete_server(key, *server),
            Command::Zero(key) => director.zero(key.as_ref()),
            Command::Set(timeouts) => director.set_timeouts(*timeouts),
            Command::StartDaemon | Command::StopDaemon => Err(Refusal::Other(
                "there are no sync daemons: key sync of [[failover]] in the configuration file \
                 has connections told to the other director"
                    .into(),
            )),
            // These change nothing.
            Command::Restore
            | Command::Save { .. }
            | Command::List(_)
            | Command::Help
            | Command::Version => Ok(()),
        }
    }

    fn list(&mut self, listing: &Listing) -> Result<(), Failure> {
        let style = self.style(listing.numeric, listing.exact);
        match listing.what {
            What::Services(view, only) => {
                let services = self.services(only.as_ref(), listing.sorted)?;
                if only.is_none() {
                    let size = self.director.capacity()?;
                    listing::write_version(self.output, size)?;
                }
                listing::write_header(self.output, view)?;
                for service in &services {
                    listing::write_service(self.output, service, view, style)?;
                }
            }
            What::Connections { engines } => {
                connections::write_header(self.output, engines)?;
                let output = &mut *self.output;
                self.director.connections(&mut |connection| {
                    connections::write_connection(output, connection, style)
                })?;
            }
            What::Timeouts => {
                listing::write_timeouts(self.output, self.director.timeouts()?)?;
            }
            // None runs.
            What::Daemons => {}
        }
        Ok(())
    }

    fn save(&mut self, numeric: bool) -> Result<(), Failure> {
        let style = self.style(numeric, false);
        let services = self.services(None, true)?;
        let (ranges, services): (Vec<_>, Vec<_>) =
            services.iter().partition(|service| service.is_range);
        for service in services {
            save::write_service(self.output, service, style)?;
        }
        for range in ranges {
            self.complain(&format!(
                "not saved: the range of ports at {}, which ipvsadm cannot say; use `pointsman save`",
                style.service(&range.key)
            ));
        }
        Ok(())
    }

    fn services(
        &mut self,
        only: Option<&ServiceKey>,
        sorted: bool,
    ) -> Result<Vec<ServiceRow>, Refusal> {
        let mut services = self.director.services()?;
        if let Some(only) = only {
            services.retain(|service| service.key == *only);
            if services.is_empty() {
                return Err(Refusal::NoService);
            }
        }
        if sorted {
            order::sort(&mut services);
        }
        Ok(services)
    }
}

/// Whether pointsman has what the service needs.
fn check_service(service: &ServiceSpec) -> Result<(), Refusal> {
    // No persistence engine is there; the kernel has sip where that module is loaded.
    if service.engine.is_some() { Err(Refusal::NoScheduler) } else { Ok(()) }
}

/// Whether pointsman can forward to the server, and its thresholds go together.
fn check_server(server: &ServerSpec) -> Result<(), Refusal> {
    let method = match server.forwarding {
        Forwarding::Masquerading => None,
        Forwarding::Gatewaying => Some("gatewaying (-g, which is the default)"),
        Forwarding::Tunneling => Some("tunneling (-i)"),
    };
    if let Some(method) = method {
        return Err(Refusal::Other(format!(
            "{method} is not supported: pointsman forwards by masquerading alone, use -m"
        )));
    }
    if server.lower > server.upper { Err(Refusal::OutOfRange) } else { Ok(()) }
}

/// A refusal in the words of ipvsadm, which depend on what was to be done.
fn explain(command: &Command, refusal: &Refusal) -> String {
    let of_server = matches!(
        command,
        Command::AddServer(..) | Command::EditServer(..) | Command::DeleteServer(..)
    );
    let message = match refusal {
        Refusal::Exists if of_server => "Destination already exists",
        Refusal::Exists => "Service already exists",
        Refusal::NoService if of_server => "Service not defined",
        Refusal::NoService => "No such service",
        Refusal::NoServer => "No such destination",
        Refusal::NoScheduler => "Scheduler or persistence engine not found",
        Refusal::OutOfRange => "Numerical result out of range",
        Refusal::Other(message) => message,
        Refusal::Unreachable(why) => return format!("Can't initialize ipvs: {why}"),
    };
    message.to_owned()
}

impl<'a> Session<'a> {
    fn style(&self, numeric: bool, exact: bool) -> Style<'a> {
        Style { names: (!numeric).then_some(self.names), exact }
    }

    /// Where help is to be found.
    fn hint(&mut self) -> u8 {
        let program = self.program;
        self.complain(&format!("Try `{program} -h' or '{program} --help' for more information."));
        REFUSED
    }

    fn complain(&mut self, message: &str) {
        // What was listed before comes before it. When stderr is gone there is nobody to tell.
        self.output.flush().ok();
        writeln!(self.errors, "{message}").ok();
    }
}
