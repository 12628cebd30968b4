//! A service and its servers as they are stated: the keys of the configuration file, as JSON.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::service::{
    Helper, Protocol, RealServer, SchedulerFlags, SchedulerKind, Timeouts, VirtualService,
};

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
    /// Change how the scheduler works.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(example = json!(["sh-port"]))]
    pub scheduler_flags: Vec<String>,
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
    /// Sends a client's connections to one server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistence: Option<PersistenceSpec>,
    /// Connections that it may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_limit: Option<u32>,
    /// What becomes of the connections of a server that is removed: finish, reset or forget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_removal: Option<String>,
    /// Whether the other director of a pair is told of its connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync: Option<bool>,
}

/// How long a client is remembered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PersistenceSpec {
    /// After its last new connection.
    #[schema(example = "6m")]
    pub timeout: String,
    /// Leading bits of the address that clients have in common who count as one; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<u8>,
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
    /// Connections from which on it takes no new ones; 0: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upper_threshold: Option<u32>,
    /// Connections below which it takes them again; 0: three quarters of the upper threshold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lower_threshold: Option<u32>,
    /// Time over which its share of new connections grows when it begins to take some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "30s")]
    pub slow_start: Option<String>,
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

/// The names of a scheduler's flags that are set.
fn flag_names(scheduler: SchedulerKind, set: SchedulerFlags) -> Vec<String> {
    let flags = scheduler.flags().iter().filter(|(_, flag)| set.has(*flag));
    flags.map(|(name, _)| (*name).to_owned()).collect()
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
            persistence,
            connection_limit,
            scheduler_flags,
            removal,
            is_synchronised,
        } = service;
        let helper = match helper {
            Some(Helper::Ftp) => "ftp",
            None => "none",
        };
        let may_be = |wanted| listen.protocol().is_none_or(|protocol| protocol == wanted);
        Self {
            name: name.clone(),
            listen: listen.to_string(),
            scheduler: Some(scheduler.to_string()),
            servers: servers.iter().map(ServerSpec::from).collect(),
            // What has no effect on a protocol is not stated: the file warns of it.
            non_syn: may_be(Protocol::Tcp).then(|| non_syn.name().to_owned()),
            one_packet: may_be(Protocol::Udp).then_some(*one_packet),
            helper: may_be(Protocol::Tcp).then(|| helper.to_owned()),
            timeouts: timeouts.as_ref().map(timeouts_spec),
            persistence: persistence.as_ref().map(|persistence| PersistenceSpec {
                timeout: written(persistence.timeout),
                prefix: Some(persistence.prefix),
            }),
            connection_limit: *connection_limit,
            scheduler_flags: flag_names(*scheduler, *scheduler_flags),
            on_removal: Some(removal.name().to_owned()),
            // The usual is not stated.
            sync: (!is_synchronised).then_some(false),
        }
    }
}

impl From<&RealServer> for ServerSpec {
    fn from(server: &RealServer) -> Self {
        let RealServer { address, weight, upper_threshold, lower_threshold, slow_start } = server;
        // Port 0 keeps the port that the client sent to.
        let address = match address.port() {
            0 => address.ip().to_string(),
            _ => address.to_string(),
        };
        Self {
            address,
            weight: Some(*weight),
            upper_threshold: Some(*upper_threshold).filter(|threshold| *threshold > 0),
            lower_threshold: Some(*lower_threshold).filter(|threshold| *threshold > 0),
            slow_start: slow_start.map(written),
        }
    }
}
