//! A service and its servers as they are stated: the keys of the configuration file, as JSON.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::service::{Helper, Protocol, RealServer, Timeouts, VirtualService};

/// A virtual service: the keys of `[[service]]` (docs/configuration.md). What is left out has its
/// default; in a change, `null` takes a key out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServiceSpec {
    /// The operator's name, unique.
    #[schema(example = "web")]
    pub name: String,
    /// Where clients connect to.
    #[schema(example = "tcp://203.0.113.10:80")]
    pub listen: String,
    /// Chooses the server of a new connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "wlc")]
    pub scheduler: Option<String>,
    /// The real servers.
    #[serde(default)]
    pub servers: Vec<ServerSpec>,
    /// TCP segments of no connection: drop, reset or schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub non_syn: Option<String>,
    /// UDP: every datagram is scheduled anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub one_packet: Option<bool>,
    /// What reads the text of its connections: ftp or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub helper: Option<String>,
    /// Idle times that differ from the director's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<TimeoutsSpec>,
}

/// A real server of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServerSpec {
    /// Where packets are rewritten to.
    #[schema(example = "10.0.0.11:8080")]
    pub address: String,
    /// Share of new connections; 0: takes no new ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
}

/// Idle times by name: the keys of `[timeouts]`, with their units (`"15m"`).
pub type TimeoutsSpec = BTreeMap<String, String>;

/// Idle times as they are written.
pub(in crate::control) fn timeouts_spec(timeouts: &Timeouts) -> TimeoutsSpec {
    let entries = timeouts.entries().into_iter();
    entries.map(|(name, idle)| (name.to_owned(), written(idle))).collect()
}

/// A duration as it is written in the file.
pub(in crate::control) fn written(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

impl From<&VirtualService> for ServiceSpec {
    fn from(service: &VirtualService) -> Self {
        let VirtualService {
            name,
            listen,
            scheduler,
            servers,
            non_syn,
            one_packet,
            helper,
            timeouts,
        } = service;
        let helper = match helper {
            Some(Helper::Ftp) => "ftp",
            None => "none",
        };
        let protocol = listen.protocol;
        Self {
            name: name.clone(),
            listen: listen.to_string(),
            scheduler: Some(scheduler.to_string()),
            servers: servers.iter().map(ServerSpec::from).collect(),
            // What has no effect on a protocol is not stated: the file warns of it.
            non_syn: (protocol == Protocol::Tcp).then(|| non_syn.name().to_owned()),
            one_packet: (protocol == Protocol::Udp).then_some(*one_packet),
            helper: (protocol == Protocol::Tcp).then(|| helper.to_owned()),
            timeouts: timeouts.as_ref().map(timeouts_spec),
        }
    }
}

impl From<&RealServer> for ServerSpec {
    fn from(server: &RealServer) -> Self {
        let RealServer { address, weight } = server;
        Self { address: address.to_string(), weight: Some(*weight) }
    }
}
