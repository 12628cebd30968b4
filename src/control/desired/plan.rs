//! The difference between what is in force and what is wanted, as an operator reads it.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use utoipa::ToSchema;

use super::document::LIVE;
use super::drain::{Drain, Drains};
use crate::control::api::spec::{ServiceSpec, timeouts_spec};
use crate::control::config::Config;

/// What happens to the subject of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Deed {
    /// It is new.
    Add,
    /// Some of its keys change.
    Change,
    /// It goes.
    Remove,
    /// It is wanted, but only a restart can do it.
    NeedsRestart,
}

/// A step from what is in force to what is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Step {
    /// What happens.
    pub deed: Deed,
    /// To what: `service web`, `server web 10.0.0.11:8080`, `timeouts`, `[director] workers`.
    pub subject: String,
    /// The keys that are set or change.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<KeyChange>,
}

/// A key that changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyChange {
    /// The key.
    pub key: String,
    /// Its value so far; absent: it had none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Its value from now on; absent: it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

impl Step {
    /// What it takes to add a service: all its keys, and those of its servers.
    pub fn additions(service: &ServiceSpec) -> Vec<Self> {
        let mut steps = Vec::new();
        add_service(&mut steps, service);
        steps
    }

    /// Whether only a restart can do it.
    pub fn needs_restart(&self) -> bool {
        self.deed == Deed::NeedsRestart
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.deed {
            Deed::Add => '+',
            Deed::Change => '~',
            Deed::Remove => '-',
            Deed::NeedsRestart => '!',
        };
        write!(f, "{sign} {}", self.subject)?;
        let mut separator = ": ";
        for KeyChange { key, from, to } in &self.keys {
            f.write_str(separator)?;
            separator = ", ";
            match (from, to) {
                (None, Some(to)) => write!(f, "{key} {to}")?,
                (Some(from), Some(to)) => write!(f, "{key} {from} -> {to}")?,
                (Some(from), None) => write!(f, "{key} {from} -> default")?,
                (None, None) => f.write_str(key)?,
            }
        }
        if self.deed == Deed::NeedsRestart {
            f.write_str(" needs a restart of the director")?;
        }
        Ok(())
    }
}

/// Keys by name, with their values as they are written.
type Written = BTreeMap<String, String>;

/// The steps from one configuration to another; both have the same fixed parts.
pub(super) fn between(old: &Config, new: &Config) -> Vec<Step> {
    let mut steps = Vec::new();
    let specs = |config: &Config| config.services.iter().map(ServiceSpec::from).collect::<Vec<_>>();
    let (before, after) = (specs(old), specs(new));
    // A service is what listens there; its name is a key like others.
    for gone in before.iter().filter(|old| !after.iter().any(|new| new.listen == old.listen)) {
        steps.push(step(Deed::Remove, service_subject(gone), Vec::new()));
    }
    for service in &after {
        match before.iter().find(|old| old.listen == service.listen) {
            None => add_service(&mut steps, service),
            Some(old) => change_service(&mut steps, old, service),
        }
    }
    let mut whole = |subject: &str, old: &Written, new: &Written| {
        let keys = changes(old, new);
        if !keys.is_empty() {
            steps.push(step(Deed::Change, subject.to_owned(), keys));
        }
    };
    whole("timeouts", &timeouts_spec(&old.timeouts), &timeouts_spec(&new.timeouts));
    whole("policy", &policy(old), &policy(new));
    whole("marks", &marks(old), &marks(new));
    whole("masquerades", &masquerades(old), &masquerades(new));
    steps
}

fn step(deed: Deed, subject: String, keys: Vec<KeyChange>) -> Step {
    Step { deed, subject, keys }
}

fn service_subject(service: &ServiceSpec) -> String {
    format!("service {} {}", service.name, service.listen)
}

fn add_service(steps: &mut Vec<Step>, service: &ServiceSpec) {
    let keys = changes(&Written::new(), &service_keys(service));
    steps.push(step(Deed::Add, service_subject(service), keys));
    for server in servers(service) {
        add_server(steps, service, &server);
    }
}

fn add_server(steps: &mut Vec<Step>, service: &ServiceSpec, (address, keys): &(String, Written)) {
    let keys = changes(&Written::new(), keys);
    steps.push(step(Deed::Add, format!("server {} {address}", service.name), keys));
}

fn change_service(steps: &mut Vec<Step>, old: &ServiceSpec, new: &ServiceSpec) {
    let keys = changes(&service_keys(old), &service_keys(new));
    if !keys.is_empty() {
        steps.push(step(Deed::Change, service_subject(old), keys));
    }
    let (before, after) = (servers(old), servers(new));
    for (address, _) in before.iter().filter(|(old, _)| !after.iter().any(|(new, _)| new == old)) {
        let subject = format!("server {} {address}", new.name);
        steps.push(step(Deed::Remove, subject, Vec::new()));
    }
    for server in &after {
        let (address, keys) = server;
        match before.iter().find(|(old, _)| old == address) {
            None => add_server(steps, new, server),
            Some((_, old)) => {
                let keys = changes(old, keys);
                if !keys.is_empty() {
                    let subject = format!("server {} {address}", new.name);
                    steps.push(step(Deed::Change, subject, keys));
                }
            }
        }
    }
    let order = |servers: &[(String, Written)]| -> Vec<String> {
        servers.iter().map(|(address, _)| address.clone()).collect()
    };
    let kept = |of: &[(String, Written)], in_: &[(String, Written)]| -> Vec<String> {
        order(of).into_iter().filter(|address| order(in_).contains(address)).collect()
    };
    let (was, is) = (kept(&before, &after), kept(&after, &before));
    if was != is {
        let change =
            KeyChange { key: "order".into(), from: Some(was.join(" ")), to: Some(is.join(" ")) };
        steps.push(step(Deed::Change, format!("servers of {}", new.name), vec![change]));
    }
}

fn changes(old: &Written, new: &Written) -> Vec<KeyChange> {
    let keys: std::collections::BTreeSet<_> = old.keys().chain(new.keys()).collect();
    let changed = keys.into_iter().filter(|key| old.get(*key) != new.get(*key));
    let of = |key: &String| KeyChange {
        key: key.clone(),
        from: old.get(key).cloned(),
        to: new.get(key).cloned(),
    };
    changed.map(of).collect()
}

/// The keys of a serialised value but `without`.
fn written<T: Serialize>(value: &T, without: &[&str]) -> Written {
    let Ok(Json::Object(keys)) = serde_json::to_value(value) else { return Written::new() };
    let text = |json: Json| json.as_str().map_or_else(|| json.to_string(), str::to_owned);
    let keys = keys.into_iter().filter(|(key, _)| !without.contains(&key.as_str()));
    keys.map(|(key, json)| (key, text(json))).collect()
}

fn service_keys(service: &ServiceSpec) -> Written {
    written(service, &["listen", "servers"])
}

fn servers(service: &ServiceSpec) -> Vec<(String, Written)> {
    let of = |server| written(server, &["address"]);
    service.servers.iter().map(|server| (server.address.clone(), of(server))).collect()
}

fn policy(config: &Config) -> Written {
    let policy = &config.policy;
    [
        ("closed_ports".to_owned(), policy.closed_ports.name().to_owned()),
        ("routing".to_owned(), policy.routing.to_string()),
    ]
    .into()
}

/// In their order, since the first that matches applies.
fn marks(config: &Config) -> Written {
    let of = |(place, rule): (usize, &crate::service::MarkRule)| {
        let crate::service::MarkRule { mark, addresses, protocol, ports, sources, interface } =
            rule;
        let list = |items: Vec<String>| items.join(" ");
        let addresses = list(addresses.iter().map(ToString::to_string).collect());
        let ports = list(ports.iter().map(ToString::to_string).collect());
        let sources = list(sources.iter().map(ToString::to_string).collect());
        let protocol = protocol.map(|protocol| protocol.to_string()).unwrap_or_default();
        let interface = interface.map(|interface| interface.to_string()).unwrap_or_default();
        let parts = [
            ("mark", mark.to_string()),
            ("addresses", addresses),
            ("protocol", protocol),
            ("ports", ports),
            ("sources", sources),
            ("interface", interface),
        ];
        let parts = parts.iter().filter(|(_, text)| !text.is_empty());
        let text: Vec<_> = parts.map(|(key, text)| format!("{key} {text}")).collect();
        (format!("rule {}", place + 1), text.join(" "))
    };
    config.marks.iter().enumerate().map(of).collect()
}

fn masquerades(config: &Config) -> Written {
    let of = |rule: &crate::service::Masquerade| {
        let list = |items: Vec<String>| items.join(" ");
        let sources = list(rule.sources.iter().map(ToString::to_string).collect());
        let addresses = list(rule.addresses.iter().map(ToString::to_string).collect());
        let (first, last) = (rule.ports.start(), rule.ports.end());
        format!("{sources} as {addresses} ports {first}-{last}")
    };
    // In their order, since the first that has the source applies.
    let rules = config.masquerades.iter().enumerate();
    rules.map(|(place, rule)| (format!("rule {}", place + 1), of(rule))).collect()
}

/// The servers that are emptied from now on, or not any more.
pub(super) fn of_drains(old: &Drains, new: &Drains, config: &Config) -> Vec<Step> {
    let written = |drain: &Drain| {
        let remove = if drain.remove { ", then removed" } else { "" };
        match drain.deadline {
            Some(deadline) => format!("for {}s{remove}", deadline.saturating_sub(drain.since)),
            None => format!("until it is empty{remove}"),
        }
    };
    let mut steps = Vec::new();
    for service in &config.services {
        for server in &service.servers {
            let (from, to) = (old.of(service, server), new.of(service, server));
            if from != to {
                let [from, to] = [from, to].map(|drain| drain.map(written));
                let keys = vec![KeyChange { key: "drain".into(), from, to }];
                let subject = format!("server {} {}", service.name, server.address);
                steps.push(step(Deed::Change, subject, keys));
            }
        }
    }
    steps
}

/// Keys that only a start reads and that differ between two files.
pub(super) fn needing_restart(running: &str, wanted: &str) -> Vec<Step> {
    let parse = |text: &str| text.parse::<toml::Table>().unwrap_or_default();
    let (running, wanted) = (parse(running), parse(wanted));
    let mut steps = Vec::new();
    let mut compare = |title: &str, path: &[&str]| {
        let of = |table: &toml::Table| -> Written {
            let mut value = Some(table);
            for key in path {
                value = value.and_then(|table| table.get(*key)).and_then(toml::Value::as_table);
            }
            value
                .into_iter()
                .flatten()
                .map(|(key, value)| (key.clone(), value.to_string()))
                .collect()
        };
        let live = |key: &str| path == ["director"] && LIVE.contains(&key);
        for change in changes(&of(&running), &of(&wanted)).into_iter().filter(|c| !live(&c.key)) {
            steps.push(step(Deed::NeedsRestart, format!("{title} {}", change.key), vec![change]));
        }
    };
    compare("[director]", &["director"]);
    compare("[dpdk]", &["dpdk"]);
    let names = |table: &toml::Table| -> Vec<String> {
        let interfaces = table.get("interface").and_then(toml::Value::as_table);
        interfaces.into_iter().flat_map(|table| table.keys().cloned()).collect()
    };
    let all: std::collections::BTreeSet<_> =
        names(&running).into_iter().chain(names(&wanted)).collect();
    for name in &all {
        compare(&format!("[interface.{name}]"), &["interface", name]);
    }
    let groups = |table: &toml::Table| table.get("failover").map(ToString::to_string);
    let (before, after) = (groups(&running), groups(&wanted));
    if before != after {
        let change = KeyChange { key: String::new(), from: before, to: after };
        steps.push(step(Deed::NeedsRestart, "[[failover]]".to_owned(), vec![change]));
    }
    for step in &mut steps {
        // The key is named by the subject.
        for change in &mut step.keys {
            change.key = "value".into();
        }
    }
    steps
}
