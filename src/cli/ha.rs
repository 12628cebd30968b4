//! `pointsman ha`: the pair, and its maintenance.

use std::fmt::Write;
use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use clap::{Args, ValueEnum};

use super::{Socket, json, output};
use crate::control::api::message::{FailoverStatus, LinkStatus, PeerStatus};

const EXAMPLES: &str = "\
Examples:
  sudo pointsman ha                      who is the master, since when and why
  sudo pointsman ha release              give up before maintenance: the other one takes over
  sudo pointsman ha takeover             take over now, whatever the priorities are";

/// Show the pair of directors, or have the floating addresses move.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Ha {
    /// What is to happen; without it the pair is shown.
    #[arg(value_enum)]
    order: Option<Order>,
    #[command(flatten)]
    socket: Socket,
    /// Print JSON, as the control socket gives it.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Order {
    /// Give up, and leave it to the other director as long as there is one.
    Release,
    /// Take over from the other director.
    Takeover,
}

impl Ha {
    pub(super) fn run(self) -> ExitCode {
        let Self { order, socket, json: as_json } = self;
        socket.ask(async move |client| {
            let status = match order {
                None => client.failover().await?,
                Some(Order::Release) => client.release().await?,
                Some(Order::Takeover) => client.take_over().await?,
            };
            if as_json { json(&status) } else { Ok(text(&status)) }
        })
    }
}

fn text(status: &FailoverStatus) -> String {
    let FailoverStatus { name, role, since, reason, on_failure, links, .. } = status;
    let since = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(*since));
    let mut text = format!("{name}: {role} since {since}: {reason}\n{on_failure}\n");
    // Writing to a string does not fail.
    if let Some(missing) = &status.unreached {
        writeln!(text, "not all addresses are reached: {missing}").ok();
    }
    writeln!(
        text,
        "VRRP {} router {}, priority {}, every {} ms, takeover after {} ms, {} transitions",
        status.version,
        status.router_id,
        status.priority,
        milliseconds(status.interval_seconds),
        milliseconds(status.takeover_seconds),
        status.transitions,
    )
    .ok();
    writeln!(text, "connections: {}", synchronisation(status)).ok();
    let head = ["interface", "family", "link", "source", "floating", "at", "other director"];
    let mut table = output::table(&head, head.len());
    for link in links {
        table.add_row(row(link));
    }
    text + &table.trim_fmt() + "\n"
}

/// What the two know of each other's connections.
fn synchronisation(status: &FailoverStatus) -> String {
    let FailoverStatus { connections_sent: sent, connections_received: received, .. } = status;
    let waiting = status.connections_waiting;
    let known = match status.connections_known.as_str() {
        "telling" => "the other director is told of them",
        "asking" => "the other director is asked for all of them",
        "learning" => "all of them are on their way here",
        "learnt" => "all of the other director's are known here",
        "unanswered" => "no other director tells all of them",
        _ => return "not synchronised".to_owned(),
    };
    let refused = status.connection_message_refused.as_deref();
    let refused = refused.map_or_else(String::new, |why| format!("; last refused: {why}"));
    format!("{known}; {sent} told, {received} heard, {waiting} waiting{refused}")
}

fn row(link: &LinkStatus) -> Vec<String> {
    let peer = link.peer.as_ref().map_or_else(
        || "never heard".to_owned(),
        |PeerStatus { address, priority, heard_seconds_ago }| {
            let ago = milliseconds(*heard_seconds_ago);
            format!("{address} priority {priority}, {ago} ms ago")
        },
    );
    vec![
        link.interface.clone(),
        link.family.clone(),
        if link.up { "up" } else { "down" }.to_owned(),
        link.source.clone(),
        link.floating.join(" "),
        link.mac.clone(),
        peer,
    ]
}

fn milliseconds(seconds: f64) -> String {
    format!("{:.0}", seconds * 1000.0)
}
