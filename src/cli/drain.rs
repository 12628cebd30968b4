//! `pointsman drain`: empty a real server.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio::time::{Instant, sleep};

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
        let timeout_text = timeout.map(|timeout| humantime::format_duration(timeout).to_string());
        let spec = DrainSpec { server, service, timeout: timeout_text, remove };
        socket.ask(async move |client| {
            let begun = client.change(ChangeCall::drain(&spec)).await?;
            let mine: Vec<_> = begun.plan.iter().map(|step| step.subject.clone()).collect();
            let left = if no_wait {
                of(&mine, client.drains().await?)
            } else {
                wait(&client, &mine, timeout).await?
            };
            match (json, no_wait || left.iter().all(|server| server.connections == 0)) {
                (true, _) => self::json(&left),
                (false, true) => Ok(render_end(&mine, &left)),
                (false, false) => Err(ClientError::NotEmpty(render(&left))),
            }
        })
    }
}

/// Those of the drains that are of these subjects (`server SERVICE ADDRESS`).
fn of(subjects: &[String], drains: Vec<DrainingServer>) -> Vec<DrainingServer> {
    let is_mine = |drain: &DrainingServer| {
        subjects.contains(&format!("server {} {}", drain.service, drain.server))
    };
    drains.into_iter().filter(is_mine).collect()
}

/// What is left of the drains when they are empty or gone, or the time is over.
async fn wait(
    client: &Client,
    subjects: &[String],
    timeout: Option<Duration>,
) -> Result<Vec<DrainingServer>, ClientError> {
    let end = timeout.map(|timeout| Instant::now() + timeout);
    loop {
        let left = of(subjects, client.drains().await?);
        let empty = left.iter().all(|server| server.connections == 0 && !server.remove);
        if empty || end.is_some_and(|end| Instant::now() >= end) {
            return Ok(left);
        }
        sleep(LOOK_EVERY).await;
    }
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

fn render_end(subjects: &[String], left: &[DrainingServer]) -> String {
    let mut text = render(left);
    if left.is_empty() {
        text = subjects.iter().fold(String::new(), |text, subject| text + subject + " is gone\n");
    }
    text
}
