//! The configuration file as it is wanted: edited in place, so that comments, order and what nobody
//! named stay as the operator wrote them when it is saved.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Map, Value as Json};
use toml_edit::{Array, ArrayOfTables, DocumentMut, InlineTable, Item, Table, TableLike, Value};

use super::Refused;
use crate::control::config::nearest;
use crate::service::Listen;

/// Keys with their values, as the API gives them; `null` takes a key out.
pub(in crate::control) type Keys = Map<String, Json>;

/// What only a start reads.
const FIXED: [&str; 4] = ["director", "dpdk", "interface", "failover"];
/// Keys of `[director]` that are about traffic and can change at run time.
pub(super) const LIVE: [&str; 3] = ["non_syn", "closed_ports", "routing"];

/// A configuration file, taken apart but not validated.
#[derive(Clone, Debug)]
pub(super) struct Document(DocumentMut);

impl Document {
    /// Takes a file's text apart. What is not TOML is an empty document: who calls has validated.
    pub(super) fn of(text: &str) -> Self {
        let mut document: DocumentMut = text.parse().unwrap_or_default();
        if let Some(services) = document.get_mut("service") {
            // `service = [{ … }]` says the same as `[[service]]`, and `service = []` as nothing.
            let inline = std::mem::take(services);
            *services = if inline.as_array().is_some_and(Array::is_empty) {
                ArrayOfTables::new().into()
            } else {
                inline.into_array_of_tables().map_or_else(|other| other, Into::into)
            };
        }
        Self(document)
    }

    /// The text of the file.
    pub(super) fn text(&self) -> String {
        self.0.to_string()
    }

    /// The same document with those parts of `running` that only a start reads.
    pub(super) fn with_fixed_parts_of(&self, running: &Self) -> Self {
        let mut mixed = self.clone();
        for section in FIXED {
            match running.0.get(section) {
                Some(item) => drop(mixed.0.insert(section, item.clone())),
                None => drop(mixed.0.remove(section)),
            }
        }
        for key in LIVE {
            let wanted = self.0.get("director").and_then(|director| director.get(key)).cloned();
            let director = mixed.0.entry("director").or_insert_with(|| Table::new().into());
            let Some(director) = director.as_table_like_mut() else { continue };
            match wanted {
                Some(item) => drop(director.insert(key, item)),
                None => drop(director.remove(key)),
            }
        }
        mixed
    }

    /// Adds a service behind the others.
    pub(super) fn add_service(&mut self, keys: &Keys) {
        let mut table = Table::new();
        set_keys(&mut table, keys);
        let services = self.0.entry("service").or_insert_with(|| ArrayOfTables::new().into());
        if let Some(services) = services.as_array_of_tables_mut() {
            services.push(table);
        }
    }

    /// Takes all services out.
    pub(super) fn clear_services(&mut self) {
        self.0.remove("service");
    }

    /// Sets keys of a service.
    pub(super) fn set_service(&mut self, name: &str, keys: &Keys) -> Result<(), Refused> {
        set_keys(self.service(name)?, keys);
        Ok(())
    }

    /// Takes a service out.
    pub(super) fn remove_service(&mut self, name: &str) -> Result<(), Refused> {
        self.service(name)?;
        if let Some(services) = self.0.get_mut("service").and_then(Item::as_array_of_tables_mut) {
            services.retain(|service| name_of(service) != Some(name));
        }
        Ok(())
    }

    /// Adds a server behind the others of its service.
    pub(super) fn add_server(&mut self, service: &str, keys: &Keys) -> Result<(), Refused> {
        let table = self.service(service)?;
        let servers = table.entry("servers").or_insert_with(|| Array::new().into());
        if let Some(servers) = servers.as_array_of_tables_mut() {
            let mut server = Table::new();
            set_keys(&mut server, keys);
            servers.push(server);
        } else if let Some(servers) = servers.as_array_mut() {
            push(servers, inline(keys));
        }
        Ok(())
    }

    /// Sets keys of a server.
    pub(super) fn set_server(
        &mut self,
        service: &str,
        server: ServerName,
        keys: &Keys,
    ) -> Result<(), Refused> {
        set_keys(self.server(service, server)?, keys);
        Ok(())
    }

    /// Takes a server out.
    pub(super) fn remove_server(
        &mut self,
        service: &str,
        server: ServerName,
    ) -> Result<(), Refused> {
        self.server(service, server)?;
        let table = self.service(service)?;
        let server = server.or_port(port_of(table));
        let Some(servers) = table.get_mut("servers") else { return Ok(()) };
        if let Some(servers) = servers.as_array_of_tables_mut() {
            servers.retain(|table| !server.is(table));
        } else if let Some(servers) = servers.as_array_mut() {
            servers.retain(|value| !value.as_inline_table().is_some_and(|table| server.is(table)));
        }
        Ok(())
    }

    /// Sets keys of `[timeouts]`.
    pub(super) fn set_timeouts(&mut self, keys: &Keys) {
        let timeouts = self.0.entry("timeouts").or_insert_with(|| Table::new().into());
        if let Some(timeouts) = timeouts.as_table_like_mut() {
            set_keys(timeouts, keys);
        }
    }

    fn service(&mut self, name: &str) -> Result<&mut Table, Refused> {
        let services = self.0.get_mut("service").and_then(Item::as_array_of_tables_mut);
        let mut others = Vec::new();
        for service in services.into_iter().flat_map(ArrayOfTables::iter_mut) {
            if name_of(service) == Some(name) {
                return Ok(service);
            }
            others.extend(name_of(service).map(str::to_owned));
        }
        let nearest = nearest(name, &others).map(str::to_owned);
        Err(Refused::NoService { name: name.to_owned(), nearest })
    }

    /// The addresses of a service's servers, as they are stated.
    fn server_names(&mut self, service: &str) -> Result<Vec<String>, Refused> {
        let address = |server: &dyn TableLike| {
            server.get("address").and_then(Item::as_str).map(str::to_owned)
        };
        Ok(match self.service(service)?.get("servers") {
            Some(Item::ArrayOfTables(tables)) => {
                tables.iter().filter_map(|table| address(table)).collect()
            }
            Some(Item::Value(Value::Array(tables))) => {
                let tables = tables.iter().filter_map(Value::as_inline_table);
                tables.filter_map(|table| address(table)).collect()
            }
            _ => Vec::new(),
        })
    }

    fn server(&mut self, service: &str, server: ServerName) -> Result<&mut dyn TableLike, Refused> {
        let nearest = server.nearest(self.server_names(service)?);
        let missing = || {
            let server = server.to_string();
            Refused::NoServer { service: service.to_owned(), server, nearest: nearest.clone() }
        };
        let table = self.service(service)?;
        let server = server.or_port(port_of(table));
        let servers = table.get_mut("servers").ok_or_else(missing)?;
        match servers {
            Item::ArrayOfTables(tables) => tables
                .iter_mut()
                .find(|table| server.is(*table))
                .map(|table| -> &mut dyn TableLike { table })
                .ok_or_else(missing),
            Item::Value(Value::Array(tables)) => tables
                .iter_mut()
                .filter_map(Value::as_inline_table_mut)
                .find(|table| server.is(*table))
                .map(|table| -> &mut dyn TableLike { table })
                .ok_or_else(missing),
            Item::None | Item::Value(_) | Item::Table(_) => Err(missing()),
        }
    }
}

fn name_of(service: &Table) -> Option<&str> {
    service.get("name").and_then(Item::as_str)
}

/// The port of servers that state none.
fn port_of(service: &Table) -> Option<u16> {
    let listen: Listen = service.get("listen").and_then(Item::as_str)?.parse().ok()?;
    listen.ports().single()
}

/// A server as the operator names it: with a port, or without where it has none of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::control) struct ServerName {
    pub(in crate::control) ip: IpAddr,
    pub(in crate::control) port: Option<u16>,
}

impl ServerName {
    /// As it is written in the file. Port 0 is none.
    pub(in crate::control) fn parse(text: &str) -> Option<Self> {
        let with_port = text.parse::<SocketAddr>().ok();
        with_port
            .map(|address| Self { ip: address.ip(), port: Some(address.port()) })
            .or_else(|| {
                let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
                bare.unwrap_or(text).parse().ok().map(|ip| Self { ip, port: None })
            })
            .map(|name| Self { port: name.port.filter(|port| *port != 0), ..name })
    }

    /// The name of a server with this address.
    pub(super) fn of(address: SocketAddr) -> Self {
        Self { ip: address.ip(), port: Some(address.port()).filter(|port| *port != 0) }
    }

    /// The one of these that was probably meant: another port of the same address.
    pub(super) fn nearest(self, known: Vec<String>) -> Option<String> {
        let same = |known: &String| Self::parse(known).is_some_and(|known| known.ip == self.ip);
        known.into_iter().find(same)
    }

    /// Whether it names the server with this address; one that states no port has `otherwise`.
    pub(super) fn is_at(self, address: SocketAddr, otherwise: Option<u16>) -> bool {
        let stated = Some(address.port()).filter(|port| *port != 0);
        self.ip == address.ip() && self.port.or(otherwise) == stated.or(otherwise)
    }

    /// With the port that a server has which states none.
    fn or_port(self, otherwise: Option<u16>) -> Wanted {
        Wanted { server: Self { port: self.port.or(otherwise), ..self }, otherwise }
    }
}

/// A server to be found among those of a service.
#[derive(Clone, Copy)]
struct Wanted {
    server: ServerName,
    /// The port of those that state none.
    otherwise: Option<u16>,
}

impl Wanted {
    fn is(self, server: &dyn TableLike) -> bool {
        let address = server.get("address").and_then(Item::as_str);
        let stated = address.and_then(ServerName::parse);
        stated.is_some_and(|stated| {
            ServerName { port: stated.port.or(self.otherwise), ..stated } == self.server
        })
    }
}

impl std::fmt::Display for ServerName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.ip, port).fmt(f),
            None => self.ip.fmt(f),
        }
    }
}

fn set_keys(table: &mut dyn TableLike, keys: &Keys) {
    for (key, json) in keys {
        if key == "persistence"
            && json.is_object()
            && let Some(Item::Value(old)) = table.get_mut(key)
            && old.is_str()
        {
            // `persistence = "6m"` is short for a table.
            let timeout = old.clone();
            *old = Value::InlineTable([("timeout", timeout)].into_iter().collect());
        }
        if let (Json::Object(inner), Some(old)) =
            (json, table.get_mut(key).and_then(Item::as_table_like_mut))
        {
            set_keys(old, inner);
            continue;
        }
        match (value(json), table.get_mut(key)) {
            (None, _) => drop(table.remove(key)),
            (Some(new), Some(Item::Value(old))) => {
                // What stands beside it, such as a comment, stays.
                let decor = old.decor().clone();
                *old = new;
                *old.decor_mut() = decor;
            }
            (Some(new), Some(item)) => *item = Item::Value(new),
            (Some(new), None) => drop(table.insert(key, Item::Value(new))),
        }
    }
}

fn inline(keys: &Keys) -> InlineTable {
    let pairs = keys.iter().filter_map(|(key, json)| Some((key.as_str(), value(json)?)));
    pairs.collect()
}

/// A JSON value as TOML; `null` is none.
fn value(json: &Json) -> Option<Value> {
    Some(match json {
        Json::Null => return None,
        Json::Bool(truth) => Value::from(*truth),
        Json::Number(number) => number
            .as_i64()
            .map_or_else(|| Value::from(number.as_f64().unwrap_or(f64::NAN)), Value::from),
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(elements) => {
            let mut array = Array::new();
            let tables = elements.iter().any(Json::is_object);
            for element in elements.iter().filter_map(value) {
                if tables {
                    push(&mut array, element);
                } else {
                    array.push(element);
                }
            }
            Value::Array(array)
        }
        Json::Object(keys) => Value::InlineTable(inline(keys)),
    })
}

/// Adds an element on a line of its own.
fn push(array: &mut Array, element: impl Into<Value>) {
    let mut element = element.into();
    *element.decor_mut() = toml_edit::Decor::new("\n  ", "");
    array.push_formatted(element);
    array.set_trailing_comma(true);
    let trailing = array.trailing().as_str().unwrap_or_default();
    if !trailing.ends_with('\n') {
        array.set_trailing(format!("{}\n", trailing.trim_end_matches(' ')));
    }
}
