//! The running director, by its control socket.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use serde_json::json;
use tokio::runtime::Runtime;

use super::command::{ServerSpec, ServiceKey, ServiceSpec, Timeouts};
use super::director::{ConnectionSink, Director, Failure, Refusal};
use super::rows::{ConnectionRow, ServiceRow};
use super::stated::{self, Stated, StatedServer, StatedService};
use crate::control::api::client::{ChangeCall, Client, ClientError};
use crate::control::api::message::{Connection, Template};
use crate::service::Listen;

/// Connections that are asked for at once.
const PAGE: usize = 1000;
/// How often a change is decided anew because others came in between.
const ATTEMPTS: usize = 32;

/// A director that is asked through its socket.
#[derive(Debug)]
pub(super) struct Remote {
    runtime: Runtime,
    client: Client,
}

impl Remote {
    pub(super) fn new(socket: PathBuf) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { runtime, client: Client::new(socket) })
    }

    /// Asks, and waits for the answer.
    fn ask<T>(&self, answer: impl Future<Output = Result<T, ClientError>>) -> Result<T, Refusal> {
        self.runtime.block_on(answer).map_err(|error| refusal(&error))
    }

    fn stated(&self) -> Result<Stated, Refusal> {
        self.ask(self.client.get("/v1/services"))
    }

    /// Makes the change that `decide` decides on by what there is; anew where somebody else has
    /// changed something meanwhile.
    fn change(
        &self,
        decide: impl Fn(&Stated) -> Result<ChangeCall, Refusal>,
    ) -> Result<(), Refusal> {
        let mut attempts = 0;
        loop {
            let stated = self.stated()?;
            let call = decide(&stated)?.if_match(&stated.etag).origin("ipvsadm");
            attempts += 1;
            match self.runtime.block_on(self.client.change(call)) {
                Err(ClientError::Refused(failure))
                    if failure.version.is_some() && attempts < ATTEMPTS => {}
                Err(error) => return Err(refusal(&error)),
                Ok(changed) if changed.silent_workers.is_empty() => return Ok(()),
                Ok(changed) => {
                    let workers: Vec<_> =
                        changed.silent_workers.iter().map(u16::to_string).collect();
                    return Err(Refusal::Other(format!(
                        "changed, but not taken over yet by worker {}: see `pointsman status \
                         --workers`",
                        workers.join(", ")
                    )));
                }
            }
        }
    }
}

impl Stated {
    fn service(&self, key: &ServiceKey) -> Result<&StatedService, Refusal> {
        let is_it = |service: &&StatedService| service.key() == Some(*key);
        self.services.iter().find(is_it).ok_or(Refusal::NoService)
    }

    fn server(
        &self,
        key: &ServiceKey,
        address: SocketAddr,
    ) -> Result<(&StatedService, &StatedServer), Refusal> {
        let service = self.service(key)?;
        service.server(address).map(|server| (service, server)).ok_or(Refusal::NoServer)
    }
}

/// What the client says, in ipvsadm's terms.
fn refusal(error: &ClientError) -> Refusal {
    match error {
        ClientError::NotAllowed { .. } => {
            Refusal::Unreachable(format!("Permission denied (you must be root): {error}"))
        }
        ClientError::Refused(failure) => {
            let fields = failure.problems.iter().filter_map(|problem| problem.field.as_deref());
            let unknown_scheduler = fields.into_iter().any(|field| field.ends_with(".scheduler"));
            if unknown_scheduler { Refusal::NoScheduler } else { Refusal::Other(error.to_string()) }
        }
        ClientError::NotRunning { .. }
        | ClientError::Connection { .. }
        | ClientError::Silent { .. }
        | ClientError::NotTakenOver { .. }
        | ClientError::NotEmpty(_)
        | ClientError::NotUnderstood(_) => Refusal::Unreachable(error.to_string()),
    }
}

fn connection_row(connection: &Connection) -> ConnectionRow {
    ConnectionRow {
        protocol: connection.protocol.to_uppercase(),
        expires: connection.expires_ms / 1000,
        state: connection.state.clone(),
        client: connection.client,
        service: connection.service,
        server: connection.server,
    }
}

/// A template is a connection without a client's port. That of a mark has the mark in the place of
/// the VIP, as the kernel keeps it.
fn template_row(template: &Template) -> Option<ConnectionRow> {
    let listen: Listen = template.listen.parse().ok()?;
    let (protocol, vip) = match listen {
        Listen::Vip { protocol, ip, ports } => {
            (protocol.name(), SocketAddr::new(ip, ports.single().unwrap_or(0)))
        }
        Listen::Mark { mark, ipv6: false } => {
            ("ip", SocketAddr::new(Ipv4Addr::from(mark.get()).into(), 0))
        }
        Listen::Mark { mark, ipv6: true } => {
            ("ip", SocketAddr::new(Ipv6Addr::from(u128::from(mark.get()) << 96).into(), 0))
        }
    };
    Some(ConnectionRow {
        protocol: protocol.to_uppercase(),
        expires: template.expires_ms / 1000,
        state: "NONE".to_owned(),
        client: SocketAddr::new(template.client, 0),
        service: vip,
        server: template.server,
    })
}

impl Director for Remote {
    fn capacity(&mut self) -> Result<u64, Refusal> {
        let status = self.ask(self.client.status())?;
        Ok(status.workers.iter().map(|worker| worker.capacity).sum())
    }

    fn services(&mut self) -> Result<Vec<ServiceRow>, Refusal> {
        let stated = self.stated()?;
        let status = self.ask(self.client.status())?;
        let row = |service: &StatedService| {
            let counted = status.services.iter().find(|one| one.name == service.name);
            service.row(counted)
        };
        Ok(stated.services.iter().filter_map(row).collect())
    }

    fn connections(&mut self, sink: &mut ConnectionSink<'_>) -> Result<(), Failure> {
        let mut cursor: Option<String> = None;
        loop {
            let page = self.ask(self.client.connections(PAGE, cursor.as_deref()))?;
            for connection in &page.connections {
                sink(&connection_row(connection))?;
            }
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        let listing = self.ask(self.client.templates(usize::MAX))?;
        let mut rows = listing.templates.iter().filter_map(template_row);
        rows.try_for_each(|row| sink(&row)).map_err(Failure::from)
    }

    fn timeouts(&mut self) -> Result<Timeouts, Refusal> {
        let stated = self.ask(self.client.timeouts())?;
        let seconds = |name: &str| {
            let idle = stated.get(name).and_then(|text| humantime::parse_duration(text).ok());
            let seconds = idle.and_then(|idle| u32::try_from(idle.as_secs()).ok());
            seconds.ok_or_else(|| Refusal::Other(format!("the director has no timeout {name}")))
        };
        let [tcp, tcp_fin, udp] = TIMEOUTS.map(seconds);
        Ok(Timeouts { tcp: tcp?, tcp_fin: tcp_fin?, udp: udp? })
    }

    fn add_service(&mut self, spec: &ServiceSpec) -> Result<(), Refusal> {
        let keys = stated::new_service(spec)?;
        self.change(|stated| {
            if stated.service(&spec.key).is_ok() {
                return Err(Refusal::Exists);
            }
            Ok(ChangeCall::add_service(keys.clone()))
        })
    }

    fn edit_service(&mut self, spec: &ServiceSpec) -> Result<(), Refusal> {
        self.change(|stated| {
            let service = stated.service(&spec.key)?;
            Ok(ChangeCall::set_service(&service.name, stated::edited_service(spec)?))
        })
    }

    fn delete_service(&mut self, key: &ServiceKey) -> Result<(), Refusal> {
        self.change(|stated| Ok(ChangeCall::remove_service(&stated.service(key)?.name)))
    }

    fn clear(&mut self) -> Result<(), Refusal> {
        self.change(|_| Ok(ChangeCall::replace_services(json!([]))))
    }

    fn add_server(&mut self, key: &ServiceKey, spec: &ServerSpec) -> Result<(), Refusal> {
        self.change(|stated| {
            let service = stated.service(key)?;
            if service.server(spec.address).is_some() {
                return Err(Refusal::Exists);
            }
            Ok(ChangeCall::add_server(&service.name, stated::new_server(spec)))
        })
    }

    fn edit_server(&mut self, key: &ServiceKey, spec: &ServerSpec) -> Result<(), Refusal> {
        self.change(|stated| {
            let (service, server) = stated.server(key, spec.address)?;
            let keys = stated::edited_server(spec);
            Ok(ChangeCall::set_server(&service.name, &server.address, keys))
        })
    }

    fn delete_server(&mut self, key: &ServiceKey, address: SocketAddr) -> Result<(), Refusal> {
        self.change(|stated| {
            let (service, server) = stated.server(key, address)?;
            Ok(ChangeCall::remove_server(&service.name, &server.address))
        })
    }

    fn zero(&mut self, key: Option<&ServiceKey>) -> Result<(), Refusal> {
        let stated = self.stated()?;
        let service = key.map(|key| stated.service(key)).transpose()?;
        let name = service.map(|service| &*service.name);
        self.ask(self.client.zero(name)).map(drop)
    }

    fn set_timeouts(&mut self, timeouts: Timeouts) -> Result<(), Refusal> {
        let set = [timeouts.tcp, timeouts.tcp_fin, timeouts.udp];
        let keys = TIMEOUTS.into_iter().zip(set).filter(|(_, seconds)| *seconds != 0);
        let keys = keys.map(|(name, seconds)| (name.to_owned(), json!(stated::written(seconds))));
        let call = ChangeCall::set_timeouts(keys.collect());
        self.change(|_| Ok(call.clone()))
    }
}

/// The idle times that `--set` sets, by their names in the configuration file.
const TIMEOUTS: [&str; 3] = ["established", "fin_wait", "udp"];
