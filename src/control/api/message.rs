//! What goes over the control socket, as JSON: shared by server and client.
//!
//! Fields may be added within `/v1`; none is removed or changes its meaning.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use super::spec::{ServerSpec, ServiceSpec, TimeoutsSpec};
pub use crate::control::desired::{Deed, KeyChange, Problem, Step};
pub use crate::control::failover::{FailoverStatus, LinkStatus, PeerStatus};

/// `GET /v1/status`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// What runs.
    pub build: Build,
    /// Seconds since the start.
    pub uptime_seconds: f64,
    /// What `/readyz` would complain about; empty: ready for traffic.
    pub not_ready: Vec<String>,
    /// Version of the services in force.
    pub table_version: u64,
    /// Worker 0 first.
    pub workers: Vec<Worker>,
    /// In the order of the configuration.
    pub interfaces: Vec<Interface>,
    /// In the order of the configuration.
    pub services: Vec<Service>,
}

/// What was built.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Build {
    /// The version of pointsman.
    pub version: String,
    /// The commit it was built from.
    pub commit: String,
    /// The version of DPDK.
    pub dpdk: String,
}

/// A worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Worker {
    /// 0 to workers - 1.
    pub id: u16,
    /// The CPU it runs on.
    pub cpu: u16,
    /// Share of time with packets, 0 to 1, over the last second.
    pub busy_share: f64,
    /// Cycles spent on a packet, over the last second.
    pub cycles_per_packet: f64,
    /// Packets processed together, over the last second.
    pub packets_per_burst: f64,
    /// Cycles of each stage for a packet, over the last second: receive, `look_up`, forward,
    /// transmit, housekeep.
    pub stage_cycles: BTreeMap<String, f64>,
    /// Packets that waited when last looked at.
    pub waiting: Waiting,
    /// Live connections, both families.
    pub connections: u64,
    /// Connections that fit, both families.
    pub capacity: u64,
    /// Packets since the start, by what became of them.
    pub packets: PacketTotals,
    /// Over the last second.
    pub rates: PacketRates,
}

/// Packets that wait for a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Waiting {
    /// In its receive queues; 0 where the driver cannot tell.
    pub receive: u64,
    /// In the rings from other workers.
    pub hand_over: u64,
}

/// Packets of one worker since the start. `received + handed_in + originated = transmitted +
/// handed_out + consumed + dropped + held`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PacketTotals {
    /// Taken from receive queues.
    pub received: u64,
    /// Taken over from other workers.
    pub handed_in: u64,
    /// Made by the worker.
    pub originated: u64,
    /// Taken by transmit queues.
    pub transmitted: u64,
    /// Given to other workers.
    pub handed_out: u64,
    /// Answered or understood.
    pub consumed: u64,
    /// Dropped.
    pub dropped: u64,
    /// Waiting for a neighbour.
    pub held: u64,
    /// `dropped` by reason; reasons without a drop are left out.
    pub drops: BTreeMap<String, u64>,
}

/// Packets and bits per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PacketRates {
    /// Packets in.
    pub in_packets: f64,
    /// Packets out.
    pub out_packets: f64,
    /// Bits in.
    pub in_bits: f64,
    /// Bits out.
    pub out_bits: f64,
}

/// A port and the interface on it; where several are on it (VLANs of one NIC), their names and
/// roles are joined by `+`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Interface {
    /// The configured name.
    pub name: String,
    /// outside, inside or both.
    pub role: String,
    /// Own addresses.
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpAddr>,
    /// The DPDK driver.
    pub driver: String,
    /// Its Ethernet address.
    pub mac: String,
    /// Whether the link is up.
    pub link_up: bool,
    /// Mbit/s, where known.
    pub speed_mbps: Option<u32>,
    /// Receive queues.
    pub rx_queues: u16,
    /// Transmit queues.
    pub tx_queues: u16,
    /// How its packets reach their workers: flow-rules, rss-one-end, rss, software, one-worker.
    pub steering: String,
    /// Whether its NIC hashes as that takes for granted: none (it does not matter, or cannot be
    /// told), waiting (for packets), confirmed, mismatch.
    pub hash_check: String,
    /// What the port counts.
    pub counters: InterfaceCounters,
    /// Over the last second.
    pub rates: PacketRates,
}

/// What a port counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InterfaceCounters {
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Octets received.
    pub rx_octets: u64,
    /// Octets sent.
    pub tx_octets: u64,
    /// Lost because a receive queue was full.
    pub missed: u64,
    /// Broken packets received.
    pub rx_errors: u64,
    /// Packets that could not be sent.
    pub tx_errors: u64,
    /// No buffer for a received packet.
    pub no_buffer: u64,
}

/// A virtual service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Service {
    /// The configured name.
    pub name: String,
    /// `tcp://203.0.113.10:80`
    pub listen: String,
    /// How it chooses the server of a new connection: `wlc`.
    pub scheduler: String,
    /// In the order of the configuration.
    pub servers: Vec<Server>,
    /// Since the start, with servers that are gone.
    #[serde(default)]
    pub totals: Traffic,
    /// The same since it was last set back by `POST /v1/zero`.
    #[serde(default)]
    pub since_zero: Traffic,
}

/// A real server of a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Server {
    /// Address and port.
    #[schema(value_type = String)]
    pub address: SocketAddr,
    /// How packets reach it: `Masq`, as ipvsadm calls NAT routing.
    pub forwarding: String,
    /// The weight that holds; 0: takes no new connections.
    pub weight: u32,
    /// `in_service`, `starting` (slowly), overloaded (it has reached its upper threshold), quiesced (by weight 0) or draining.
    pub state: String,
    /// Why it is in that state, where that is not plain.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Active connections.
    pub active: u32,
    /// Inactive connections.
    pub inactive: u32,
    /// Clients that persistence sends to it.
    #[serde(default)]
    pub templates: u32,
    /// Since the start.
    pub totals: Traffic,
    /// Since the start, or since it was last set back by `POST /v1/zero`.
    #[serde(default)]
    pub since_zero: Traffic,
    /// Over the last second.
    pub rates: TrafficRates,
}

/// What went to and came from a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Traffic {
    /// Connections scheduled.
    pub connections: u64,
    /// Packets from clients.
    pub in_packets: u64,
    /// Packets to clients.
    pub out_packets: u64,
    /// Octets from clients, from the IP header on.
    pub in_octets: u64,
    /// Octets to clients.
    pub out_octets: u64,
}

impl Traffic {
    /// Both together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            connections: self.connections + other.connections,
            in_packets: self.in_packets + other.in_packets,
            out_packets: self.out_packets + other.out_packets,
            in_octets: self.in_octets + other.in_octets,
            out_octets: self.out_octets + other.out_octets,
        }
    }

    /// What is more than before.
    #[must_use]
    pub const fn since(self, before: Self) -> Self {
        Self {
            connections: self.connections.saturating_sub(before.connections),
            in_packets: self.in_packets.saturating_sub(before.in_packets),
            out_packets: self.out_packets.saturating_sub(before.out_packets),
            in_octets: self.in_octets.saturating_sub(before.in_octets),
            out_octets: self.out_octets.saturating_sub(before.out_octets),
        }
    }
}

/// The same per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TrafficRates {
    /// Connections scheduled.
    pub connections: f64,
    /// Packets from clients.
    pub in_packets: f64,
    /// Packets to clients.
    pub out_packets: f64,
    /// Bits from clients.
    pub in_bits: f64,
    /// Bits to clients.
    pub out_bits: f64,
}

/// `POST /v1/upgrade`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpgradeSpec {
    /// The new director's program; absent: the one that runs, as it is on disk now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    /// Its configuration file; absent: that of the running director.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
}

/// `GET /v1/upgrade`, and what `POST` is answered with
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct UpgradeStatus {
    /// none, `under_way` or failed: the last upgrade of this process.
    pub state: String,
    /// The process that answers.
    pub pid: u32,
    /// The new director's process.
    pub successor: Option<u32>,
    /// Why the last one has failed.
    pub error: Option<String>,
    /// What this director has taken over when it started.
    pub taken_over: Option<TakenOver>,
}

impl UpgradeStatus {
    fn in_state(state: &str) -> Self {
        Self { state: state.to_owned(), pid: std::process::id(), ..Self::default() }
    }

    /// There was none.
    pub fn none(taken_over: Option<TakenOver>) -> Self {
        Self { taken_over, ..Self::in_state("none") }
    }

    /// One is under way.
    pub fn under_way() -> Self {
        Self::in_state("under_way")
    }

    /// The last one has failed.
    pub fn failed(error: String) -> Self {
        Self { error: Some(error), ..Self::in_state("failed") }
    }
}

/// What a director has taken over from the one before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TakenOver {
    /// director (an upgrade) or file.
    pub from: String,
    /// Connections that go on.
    pub connections: u64,
    /// Connections that do not, because what they need is not here.
    pub refused: u64,
    /// How long nobody forwarded; with a file, until this director forwarded, about.
    pub gap_seconds: f64,
}

/// `GET /v1/connections?limit=&cursor=`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Connections {
    /// At most `limit`.
    pub connections: Vec<Connection>,
    /// The `cursor` to go on with; `None`: that was all.
    pub next: Option<String>,
}

/// A connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Connection {
    /// tcp, udp or sctp.
    pub protocol: String,
    /// As `ipvsadm -lnc` names it.
    pub state: String,
    /// The client.
    #[schema(value_type = String)]
    pub client: SocketAddr,
    /// The virtual service.
    #[schema(value_type = String)]
    pub service: SocketAddr,
    /// The real server.
    #[schema(value_type = String)]
    pub server: SocketAddr,
    /// Milliseconds until it is forgotten unless a packet comes.
    pub expires_ms: u32,
    /// The worker that owns it.
    pub worker: u16,
}

/// `GET /v1/services`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Services {
    /// The version that this is; it begins anew with the director.
    pub version: u64,
    /// What `If-Match` takes for this version of this director's run: also the header `ETag`.
    pub etag: String,
    /// In the order of the configuration.
    pub services: Vec<ServiceSpec>,
}

/// The answer to a change, when every worker has it or has been waited for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Changed {
    /// The version in force now.
    pub version: u64,
    /// What was different; empty: nothing.
    pub plan: Vec<Step>,
    /// What the operator should look at nevertheless.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Problem>,
    /// Seconds until the last worker had it; absent where there was nothing for them to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledged_seconds: Option<f64>,
    /// Workers that have not said that they have it; they may be stuck.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub silent_workers: Vec<u16>,
}

/// `POST /v1/drains`: servers that are to take no new connections until they are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DrainSpec {
    /// The server; without a port, all of that address.
    #[schema(example = "10.0.0.11:8080")]
    pub server: String,
    /// Of this service alone; absent: of all services.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Time that its connections have; absent: as long as they take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "5m")]
    pub timeout: Option<String>,
    /// Whether it is removed when it is empty, or has no more time.
    #[serde(default)]
    pub remove: bool,
}

/// `GET /v1/drains`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DrainingServer {
    /// The service.
    pub service: String,
    /// The server.
    pub server: String,
    /// When that began, seconds since 1970.
    pub since: u64,
    /// When it should be empty, seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<u64>,
    /// Whether it is removed then.
    pub remove: bool,
    /// Connections that it still has, active and inactive ones.
    pub connections: u64,
}

/// `POST /v1/zero`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Zeroed {
    /// The service whose counters begin at 0 again; `null`: all.
    pub service: Option<String>,
}

impl DrainingServer {
    /// Whether it is the same drain, however many connections are left.
    pub fn is_same(&self, other: &Self) -> bool {
        (&self.service, &self.server, self.since) == (&other.service, &other.server, other.since)
    }
}

/// `POST /v1/save`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Saved {
    /// The file.
    pub path: String,
    /// Whether its text is another one now.
    pub changed: bool,
}

/// `GET /v1/templates`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Templates {
    /// At most `limit`.
    pub templates: Vec<Template>,
}

/// A client that persistence sends to a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Template {
    /// The name of the service.
    pub service: String,
    /// Where it listens.
    pub listen: String,
    /// The client, or the first address of its network.
    #[schema(value_type = String)]
    pub client: IpAddr,
    /// The server.
    #[schema(value_type = String)]
    pub server: SocketAddr,
    /// Milliseconds until it is forgotten unless another connection begins.
    pub expires_ms: u32,
}

/// The body of every answer that is not a success.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Failure {
    /// What went wrong.
    pub error: String,
    /// What to do.
    pub hint: String,
    /// What is wrong with what would have been in force.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
    /// The version in force, where another one was expected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
}
