//! `pointsman service`: virtual services of the running director.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::json;

use super::change::{KeyValue, Manner};
use super::{Socket, output};
use crate::control::api::client::ChangeCall;
use crate::control::api::message::{Deed, ServiceSpec, Step};

const EXAMPLES: &str = "\
Examples:
  sudo pointsman service list
  sudo pointsman service show web
  sudo pointsman service add shop tcp://203.0.113.10:443 scheduler=wrr
  sudo pointsman service remove shop --dry-run

KEY=VALUE takes every key of [[service]] (docs/configuration.md). Changes last until the director
stops; `pointsman save` writes them into its configuration file.";

/// List, show, add and remove virtual services.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Service {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the services and their servers as they are stated.
    List {
        #[command(flatten)]
        socket: Socket,
        /// Print JSON, as the control socket gives it.
        #[arg(long)]
        json: bool,
    },
    /// Show one service with all its keys.
    Show {
        /// Its name.
        name: String,
        #[command(flatten)]
        socket: Socket,
        /// Print JSON, as the control socket gives it.
        #[arg(long)]
        json: bool,
    },
    /// Add a service; its servers are added with `pointsman server add`.
    Add {
        /// Its name, unique.
        name: String,
        /// Where clients connect to: `tcp://203.0.113.10:80`, `udp://[2001:db8::10]:53`.
        listen: String,
        /// More keys of the service.
        #[arg(value_name = "KEY=VALUE")]
        keys: Vec<KeyValue>,
        #[command(flatten)]
        manner: Manner,
    },
    /// Remove a service and its servers.
    Remove {
        /// Its name.
        name: String,
        /// What becomes of the connections: finish, reset or forget; otherwise as `on_removal` of
        /// the service says.
        #[arg(long, value_name = "ENDING")]
        connections: Option<String>,
        #[command(flatten)]
        manner: Manner,
    },
}

impl Service {
    pub(super) fn run(self) -> ExitCode {
        match self.action {
            Action::List { socket, json: as_json } => socket.ask(async move |client| {
                let listing = client.services().await?;
                if as_json { super::json(&listing) } else { Ok(render(&listing.services)) }
            }),
            Action::Show { name, socket, json: as_json } => socket.ask(async move |client| {
                let service = client.service(&name).await?;
                if as_json { super::json(&service) } else { Ok(render_one(&service)) }
            }),
            Action::Add { name, listen, keys, manner } => {
                let stated = [("name", json!(name)), ("listen", json!(listen))];
                let stated = stated.map(|(key, value)| KeyValue::new(key, value));
                manner.make_of(keys.into_iter().chain(stated), ChangeCall::add_service)
            }
            Action::Remove { name, connections, manner } => {
                manner.make(ChangeCall::remove_service(&name).connections(connections.as_deref()))
            }
        }
    }
}

fn render(services: &[ServiceSpec]) -> String {
    if services.is_empty() {
        return "no virtual services: `pointsman service add` adds one\n".to_owned();
    }
    let mut table = output::table(&["SERVICE / SERVER", "LISTEN", "SCHEDULER", "WEIGHT"], 3);
    for service in services {
        let scheduler = service.scheduler.clone().unwrap_or_default();
        table.add_row([service.name.clone(), service.listen.clone(), scheduler, String::new()]);
        for server in &service.servers {
            let weight = server.weight.map(|weight| weight.to_string()).unwrap_or_default();
            table.add_row([
                format!("  -> {}", server.address),
                String::new(),
                String::new(),
                weight,
            ]);
        }
    }
    table.trim_fmt() + "\n"
}

/// As the plan of its addition would have it.
fn render_one(service: &ServiceSpec) -> String {
    let steps = Step::additions(service);
    let line = |step: Step| {
        let text = step.to_string();
        let sign = if step.deed == Deed::Add { "+ " } else { "" };
        text.strip_prefix(sign).unwrap_or(&text).replacen(": ", "\n  ", 1).replace(", ", "\n  ")
    };
    steps.into_iter().map(line).collect::<Vec<_>>().join("\n") + "\n"
}
