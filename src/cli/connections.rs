//! `pointsman connections`.

use std::process::ExitCode;

use clap::Args;

use super::{Socket, json, output};
use crate::control::api::client::{Client, ClientError};
use crate::control::api::message::{self, Connection};

/// The most that is asked for at once.
const PAGE: usize = 1000;

const EXAMPLES: &str = "\
Examples:
  sudo pointsman connections
  sudo pointsman connections --limit 100000 | grep ESTABLISHED | wc -l
  sudo pointsman connections --json | jq -r '.connections[].client'

The table changes while it is read: a connection that lives throughout is listed at least once.";

/// Show single connections, as `ipvsadm -lnc` does.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Connections {
    #[command(flatten)]
    socket: Socket,
    /// Show at most so many.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    limit: usize,
    /// Print JSON, as the control socket gives it.
    #[arg(long)]
    json: bool,
}

impl Connections {
    pub(super) fn run(self) -> ExitCode {
        let Self { socket, limit, json: as_json } = self;
        socket.ask(async move |client| {
            let listing = gather(&client, limit).await?;
            if as_json { json(&listing) } else { Ok(render(&listing, limit)) }
        })
    }
}

/// All pages, up to `limit` connections.
async fn gather(client: &Client, limit: usize) -> Result<message::Connections, ClientError> {
    let mut all = message::Connections { connections: Vec::new(), next: None };
    loop {
        let room = limit.saturating_sub(all.connections.len());
        if room == 0 {
            return Ok(all);
        }
        let page = client.connections(room.min(PAGE), all.next.as_deref()).await?;
        all.connections.extend(page.connections);
        all.next = page.next;
        if all.next.is_none() {
            return Ok(all);
        }
    }
}

fn render(listing: &message::Connections, limit: usize) -> String {
    let header = ["PROTO", "STATE", "CLIENT", "SERVICE", "SERVER", "WORKER", "EXPIRES"];
    let mut table = output::table(&header, 5);
    for connection in &listing.connections {
        table.add_row(row(connection));
    }
    let mut text = table.trim_fmt() + "\n";
    if listing.next.is_some() {
        text.extend(["… and more: the first ", &limit.to_string(), " are shown; see --limit\n"]);
    }
    text
}

fn row(connection: &Connection) -> [String; 7] {
    [
        connection.protocol.clone(),
        connection.state.clone(),
        connection.client.to_string(),
        connection.service.to_string(),
        connection.server.to_string(),
        connection.worker.to_string(),
        output::minutes(connection.expires_ms),
    ]
}
