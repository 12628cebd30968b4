//! `pointsman drain`: empty a real server.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use tokio::time::sleep;

use super::{Socket, json};
use crate::control::api::client::{ChangeCall, Client, ClientError};
use crate::control::api::message::{DrainSpec, DrainingServer};

/// Time between two looks at the connections that are left.
const LOOK_EVERY: Duration = Duration::from_millis(250);

const EXAMPLES: &str = "\
Examples:
  sudo pointsman drain 10.0.0.11:8080 --timeout 5m
                                        wait until it is empty, 5 minutes at most
  sudo pointsman drain 10.0.0.11 --timeout 5m --remove --no-wait
                                        all its ports; the director removes it when it is empty
  sudo pointsman drain                  what is drained, and how many connections are left
  sudo pointsman drain 10.0.0.11:8080 --cancel

A drained server takes no new connections, whatever its weight; those that it has go on. That
outlasts a reload and a restart of the director. Exit code 0: it is empty; 1: it is not, or
something went wrong.";

/// Empty a real server: no new connections, wait for the others to end.
#[allow(clippy::struct_excessive_bools, reason = "each is an option of its own")]
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Drain {
    /// The server; without a port, all of that address. Nothing: show what is drained.
    server: Option<String>,
    /// Of this service alone.
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Time that its connections have.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,
    /// Remove the server when it is empty, or has no more time.
    #[arg(long)]
    remove: bool,
    /// Let it take connections again.
    #[arg(long, conflicts_with_all = ["timeout", "remove"])]
    cancel: bool,
    /// Do not wait until it is empty.
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    socket: Socket,
    /// Print JSON: what is drained in the end.
    #[arg(long)]
    json: bool,
}

impl Drain {
    pub(super) fn run(self) -> ExitCode {
        let Self { server, service, timeout, remove, cancel, no_wait, socket, json } = self;
        let Some(server) = server else {
            let shown = if json { |drains: &Vec<_>| super::json(drains) } else { shown };
            return socket.ask(async move |client| shown(&client.drains().await?));
        };
        if cancel {
            let call = ChangeCall::cancel_drain(&server, service.as_deref());
            return socket.ask(async move |client| {
                let changed = client.change(call).await?;
                Ok(changed
                    .plan
                    .iter()
                    .fold(String::new(), |text, step| text + &format!("{step}\n")))
            });
        }
        let timeout = timeout.map(|timeout| humantime::format_duration(timeout).to_string());
        let meant = Meant::new(&server, service.as_deref());
        let spec = DrainSpec { server, service, timeout, remove };
        socket.ask(async move |client| {
            let begun = client.change(ChangeCall::drain(&spec)).await?;
            if let [first, rest @ ..] = &begun.silent_workers[..] {
                let workers = rest.iter().fold(first.to_string(), |all, id| format!("{all}, {id}"));
                let text = "it is drained, but ".to_owned();
                return Err(ClientError::NotTakenOver { text, workers });
            }
            let outcome = if no_wait {
                Outcome { left: meant.of(client.drains().await?), gone: Vec::new() }
            } else {
                meant.wait(&client).await?
            };
            let is_done = no_wait || outcome.left.iter().all(|server| server.connections == 0);
            match (json, is_done) {
                (true, true) => self::json(&outcome.left),
                (false, true) => Ok(outcome.gone.concat() + &render_some(&outcome.left)),
                (_, false) => Err(ClientError::NotEmpty(render(&outcome.left))),
            }
        })
    }
}

/// The servers that are drained: an address with or without a port, of one service or of all.
#[derive(Debug)]
struct Meant {
    ip: Option<IpAddr>,
    port: Option<u16>,
    service: Option<String>,
}

/// What a drain came to.
#[derive(Debug)]
struct Outcome {
    /// Servers that are drained still.
    left: Vec<DrainingServer>,
    /// A line for each that was removed.
    gone: Vec<String>,
}

impl Meant {
    fn new(server: &str, service: Option<&str>) -> Self {
        let with_port = server.parse::<SocketAddr>().ok();
        let bare = server.trim_start_matches('[').trim_end_matches(']').parse().ok();
        Self {
            ip: with_port.map(|address| address.ip()).or(bare),
            port: with_port.map(|address| address.port()),
            service: service.map(str::to_owned),
        }
    }

    /// Those that are meant. A server that states no port is meant whatever port is named.
    fn of(&self, drains: Vec<DrainingServer>) -> Vec<DrainingServer> {
        let is_meant = |drain: &DrainingServer| {
            let address = drain.server.parse::<SocketAddr>().ok();
            let same_port = |port| self.port.is_none_or(|named| port == 0 || named == port);
            self.service.as_ref().is_none_or(|service| *service == drain.service)
                && address.is_some_and(|address| {
                    Some(address.ip()) == self.ip && same_port(address.port())
                })
        };
        drains.into_iter().filter(is_meant).collect()
    }

    /// Waits until all are empty, or removed where they are to be, or have no more time.
    async fn wait(&self, client: &Client) -> Result<Outcome, ClientError> {
        let mut before: Vec<DrainingServer> = Vec::new();
        let mut gone = Vec::new();
        loop {
            let left = self.of(client.drains().await?);
            for drain in before.iter().filter(|drain| !left.iter().any(|one| one.is_same(drain))) {
                gone.push(end_of(client, drain).await?);
            }
            let is_over = |drain: &DrainingServer| {
                let no_time = drain.deadline.is_some_and(|deadline| unix_seconds() >= deadline);
                !drain.remove && (drain.connections == 0 || no_time)
            };
            if left.iter().all(is_over) {
                return Ok(Outcome { left, gone });
            }
            before = left;
            sleep(LOOK_EVERY).await;
        }
    }
}

/// How the drain of a server ended that is drained no more.
async fn end_of(client: &Client, drain: &DrainingServer) -> Result<String, ClientError> {
    let DrainingServer { service, server, connections, deadline, .. } = drain;
    let listing = client.services().await?;
    let specs = listing.services.iter().filter(|spec| spec.name == *service);
    if specs.flat_map(|spec| &spec.servers).any(|spec| spec.address == *server) {
        let text =
            format!("{server} of {service} takes connections again: its drain was cancelled\n");
        return Err(ClientError::NotEmpty(text));
    }
    let no_time = deadline.is_some_and(|deadline| unix_seconds() >= deadline);
    if no_time && *connections > 0 {
        let text = format!("{server} of {service} was removed with {connections} connections\n");
        return Err(ClientError::NotEmpty(text));
    }
    Ok(format!("{server} of {service} is gone\n"))
}

/// Seconds since 1970.
fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn render_some(drains: &[DrainingServer]) -> String {
    if drains.is_empty() { String::new() } else { render(drains) }
}

#[allow(clippy::unnecessary_wraps, clippy::ptr_arg, reason = "as `json` is called")]
fn shown(drains: &Vec<DrainingServer>) -> Result<String, ClientError> {
    Ok(render(drains))
}

fn render(drains: &[DrainingServer]) -> String {
    if drains.is_empty() {
        return "no server is drained\n".to_owned();
    }
    let mut text = String::new();
    for DrainingServer { service, server, connections, remove, .. } in drains {
        let removal = if *remove { ", to be removed" } else { "" };
        // Writing to a String does not fail.
        let _ = writeln!(text, "{server} of {service}: {connections} connections left{removal}");
    }
    text
}
