//! What all subcommands that change something have in common.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Map, Value};

use super::{Socket, json, output};
use crate::control::api::client::{ChangeCall, ClientError};
use crate::control::api::message::Changed;

/// How something is changed.
#[derive(Debug, Args)]
pub(super) struct Manner {
    #[command(flatten)]
    socket: Socket,
    /// Only show what would change.
    #[arg(long)]
    dry_run: bool,
    /// Print JSON, as the control socket gives it.
    #[arg(long)]
    json: bool,
}

impl Manner {
    /// Whom to ask where nothing is to be changed, and whether for JSON.
    pub(super) fn into_socket(self) -> (Socket, bool) {
        (self.socket, self.json)
    }

    /// Makes a change by keys and shows what it came to.
    pub(super) fn make_of(
        self,
        keys: impl IntoIterator<Item = KeyValue>,
        call: impl FnOnce(Value) -> ChangeCall,
    ) -> ExitCode {
        match object(keys) {
            Ok(keys) => self.make(call(Value::Object(keys))),
            Err(error) => output::fail(&error),
        }
    }

    /// Makes a change and shows what it came to.
    pub(super) fn make(self, call: ChangeCall) -> ExitCode {
        let Self { socket, dry_run, json: as_json } = self;
        socket.ask(async move |client| {
            let changed = client.change(call.dry_run(dry_run)).await?;
            if as_json {
                return json(&changed);
            }
            let text = render(&changed, dry_run);
            if changed.silent_workers.is_empty() {
                Ok(text)
            } else {
                let workers: Vec<_> = changed.silent_workers.iter().map(u16::to_string).collect();
                Err(ClientError::NotTakenOver { text, workers: workers.join(", ") })
            }
        })
    }
}

fn render(changed: &Changed, dry_run: bool) -> String {
    let mut lines: Vec<_> = changed.plan.iter().map(ToString::to_string).collect();
    lines.extend(changed.warnings.iter().map(|warning| format!("warning: {warning}")));
    let version = changed.version;
    lines.push(match changed.acknowledged_seconds {
        Some(seconds) => {
            format!("version {version}: all workers have it after {:.1} ms", seconds * 1e3)
        }
        None if changed.plan.is_empty() => "nothing to change".to_owned(),
        None if dry_run => "dry run: nothing has changed".to_owned(),
        None => format!("version {version} stays in force"),
    });
    lines.join("\n") + "\n"
}

/// A key and its value, as they are written on the command line: `weight=2`, `scheduler=wrr`,
/// `timeouts.established=1h`. Without a value the key gets its default.
#[derive(Clone, Debug)]
pub(super) struct KeyValue {
    path: Vec<String>,
    value: Value,
}

impl KeyValue {
    /// A key of the object itself.
    pub(super) fn new(key: &str, value: Value) -> Self {
        Self { path: vec![key.to_owned()], value }
    }
}

impl std::str::FromStr for KeyValue {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("expected KEY=VALUE, such as weight=2, found {text:?}");
        let (key, value) = text.split_once('=').ok_or_else(wrong)?;
        let path: Vec<_> = key.split('.').map(str::to_owned).collect();
        if path.iter().any(String::is_empty) {
            return Err(wrong());
        }
        Ok(Self { path, value: value_of(value) })
    }
}

/// As the file would have it; a word needs no quotes.
fn value_of(text: &str) -> Value {
    if text.is_empty() {
        return Value::Null;
    }
    let parsed = format!("value = {text}").parse::<toml::Table>();
    let value = parsed.ok().and_then(|mut table| table.remove("value"));
    let json = value.and_then(|value| serde_json::to_value(value).ok());
    json.unwrap_or_else(|| Value::String(text.to_owned()))
}

/// Keys and values as an object.
fn object(pairs: impl IntoIterator<Item = KeyValue>) -> Result<Map<String, Value>, String> {
    let mut object = Map::new();
    for KeyValue { path, value } in pairs {
        let twice = || format!("{} is set twice; say it once", path.join("."));
        insert(&mut object, &path, value).ok_or_else(twice)?;
    }
    Ok(object)
}

/// `None`: there is something already.
fn insert(object: &mut Map<String, Value>, path: &[String], value: Value) -> Option<()> {
    match path {
        [] => None,
        [key] => object.insert(key.clone(), value).is_none().then_some(()),
        [key, rest @ ..] => {
            let inner = object.entry(key.clone()).or_insert_with(|| Value::Object(Map::new()));
            inner.as_object_mut().and_then(|inner| insert(inner, rest, value))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_what_the_file_would_have() {
        let pairs = [
            "weight=2",
            "scheduler=wrr",
            "one_packet=true",
            "scheduler_flags=[\"sh-port\"]",
            "timeouts.established=1h",
            "timeouts.udp=\"30s\"",
            "helper=",
            "listen=tcp://192.0.2.1:80",
        ];
        let pairs = pairs.map(|pair| pair.parse::<KeyValue>().unwrap());
        let expected = json!({
            "weight": 2, "scheduler": "wrr", "one_packet": true, "scheduler_flags": ["sh-port"],
            "timeouts": { "established": "1h", "udp": "30s" }, "helper": null,
            "listen": "tcp://192.0.2.1:80",
        });
        assert_eq!(Value::Object(object(pairs).unwrap()), expected);
        for twice in [["persistence=1h", "persistence.prefix=24"], ["a.b=1", "a=2"], ["a=1", "a=2"]]
        {
            let pairs = twice.map(|pair| pair.parse::<KeyValue>().unwrap());
            assert!(object(pairs).unwrap_err().contains("twice"), "{twice:?}");
        }
        assert!("weight".parse::<KeyValue>().unwrap_err().contains("KEY=VALUE"));
        assert!(".x=1".parse::<KeyValue>().is_err());
    }
}
