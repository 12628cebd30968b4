//! Services as the control API states them, and as ipvsadm does: from one to the other.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::command::{
    Granularity, Persistence, SchedulerFlags, ServerSpec, ServiceKey, ServiceSpec,
};
use super::director::Refusal;
use super::rows::{Counters, ServerRow, ServiceRow};
use crate::control::api::message::{self, Traffic, TrafficRates};
use crate::service::Protocol;

/// `GET /v1/services`, as far as ipvsadm knows of such things.
#[derive(Debug, Deserialize)]
pub(super) struct Stated {
    pub(super) etag: String,
    pub(super) services: Vec<StatedService>,
}

#[derive(Debug, Deserialize)]
pub(super) struct StatedService {
    pub(super) name: String,
    listen: String,
    scheduler: Option<String>,
    #[serde(default)]
    scheduler_flags: Vec<String>,
    one_packet: Option<bool>,
    persistence: Option<StatedPersistence>,
    #[serde(default)]
    servers: Vec<StatedServer>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum StatedPersistence {
    Timeout(String),
    Whole { timeout: Option<String>, prefix: Option<u8> },
}

#[derive(Debug, Deserialize)]
pub(super) struct StatedServer {
    /// As the API names it.
    pub(super) address: String,
    weight: Option<u32>,
    upper_threshold: Option<u32>,
    lower_threshold: Option<u32>,
}

impl StatedService {
    /// The service in ipvsadm's terms; of a range of ports its first one.
    pub(super) fn key(&self) -> Option<ServiceKey> {
        let (scheme, rest) = self.listen.split_once("://")?;
        let protocol = match scheme {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            "fwmark" => return Some(ServiceKey::Mark { mark: rest.parse().ok()?, ipv6: false }),
            "fwmark6" => return Some(ServiceKey::Mark { mark: rest.parse().ok()?, ipv6: true }),
            _ => return None,
        };
        let (ip, ports) = rest.rsplit_once(':')?;
        let first = ports.split('-').next()?;
        let address = format!("{ip}:{first}").parse().ok()?;
        Some(ServiceKey::Endpoint { protocol, address })
    }

    /// Whether it is a range of ports, which ipvsadm knows nothing of.
    fn is_range(&self) -> bool {
        let ports = self.listen.rsplit_once(':').map_or("", |(_, ports)| ports);
        !self.listen.starts_with("fwmark") && ports.contains('-')
    }

    /// The server with this address.
    pub(super) fn server(&self, address: SocketAddr) -> Option<&StatedServer> {
        self.servers.iter().find(|server| server.address() == Some(address))
    }

    /// The service with what is counted of it.
    pub(super) fn row(&self, counted: Option<&message::Service>) -> Option<ServiceRow> {
        let key = self.key()?;
        let counted_servers = counted.map(|service| &service.servers[..]).unwrap_or_default();
        let servers = self.servers.iter().filter_map(|server| {
            let address = server.address()?;
            Some(server.row(address, counted_servers.iter().find(|one| one.address == address)))
        });
        // The newest first, as in the kernel.
        let mut servers: Vec<_> = servers.collect();
        servers.reverse();
        Some(ServiceRow {
            key,
            is_range: self.is_range(),
            scheduler: self.scheduler.clone().unwrap_or_else(|| "wlc".to_owned()),
            flags: self.flags(),
            persistence: self.persistence.as_ref().map(|stated| stated.read(key.is_ipv6())),
            one_packet: self.one_packet.unwrap_or_default(),
            totals: counted.map(|service| totals(&service.since_zero)).unwrap_or_default(),
            rates: servers.iter().map(|server| server.rates).fold(Counters::default(), add),
            servers,
        })
    }

    fn flags(&self) -> SchedulerFlags {
        let has = |end: &str| self.scheduler_flags.iter().any(|flag| flag.ends_with(end));
        SchedulerFlags { fallback: has("-fallback"), port: has("-port"), third: false }
    }
}

impl StatedServer {
    fn address(&self) -> Option<SocketAddr> {
        let bare = self.address.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        let without_port = || bare.unwrap_or(&self.address).parse::<IpAddr>().ok();
        let with_port = self.address.parse().ok();
        with_port.or_else(|| without_port().map(|ip| SocketAddr::new(ip, 0)))
    }

    fn row(&self, address: SocketAddr, counted: Option<&message::Server>) -> ServerRow {
        let weight = self.weight.unwrap_or(1);
        ServerRow {
            address,
            weight,
            weight_in_force: counted.map_or(weight, |server| server.weight),
            upper: self.upper_threshold.unwrap_or_default(),
            lower: self.lower_threshold.unwrap_or_default(),
            active: counted.map_or(0, |server| server.active),
            inactive: counted.map_or(0, |server| server.inactive),
            persistent: counted.map_or(0, |server| server.templates),
            totals: counted.map(|server| totals(&server.since_zero)).unwrap_or_default(),
            rates: counted.map(|server| rates(&server.rates)).unwrap_or_default(),
        }
    }
}

impl StatedPersistence {
    fn read(&self, ipv6: bool) -> Persistence {
        let (timeout, prefix) = match self {
            Self::Timeout(timeout) => (Some(timeout), None),
            Self::Whole { timeout, prefix } => (timeout.as_ref(), *prefix),
        };
        let timeout = timeout.and_then(|text| humantime::parse_duration(text).ok());
        let timeout = timeout.and_then(|timeout| u32::try_from(timeout.as_secs()).ok());
        let granularity = if ipv6 {
            Granularity::Prefix(prefix.unwrap_or(128))
        } else {
            let host_bits = 32_u32.saturating_sub(prefix.unwrap_or(32).into());
            Granularity::Mask(Ipv4Addr::from(u32::MAX.checked_shl(host_bits).unwrap_or_default()))
        };
        Persistence { timeout: timeout.unwrap_or(Persistence::TIMEOUT), granularity }
    }
}

fn add(a: Counters, b: Counters) -> Counters {
    Counters {
        connections: a.connections + b.connections,
        in_packets: a.in_packets + b.in_packets,
        out_packets: a.out_packets + b.out_packets,
        in_octets: a.in_octets + b.in_octets,
        out_octets: a.out_octets + b.out_octets,
    }
}

fn totals(traffic: &Traffic) -> Counters {
    let Traffic { connections, in_packets, out_packets, in_octets, out_octets } = *traffic;
    Counters { connections, in_packets, out_packets, in_octets, out_octets }
}

/// Octets in a second, not bits.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate is positive, and far below 2^53"
)]
fn rates(rates: &TrafficRates) -> Counters {
    let whole = |rate: f64| rate.round() as u64;
    Counters {
        connections: whole(rates.connections),
        in_packets: whole(rates.in_packets),
        out_packets: whole(rates.out_packets),
        in_octets: whole(rates.in_bits / 8.0),
        out_octets: whole(rates.out_bits / 8.0),
    }
}

/// `tcp://192.0.2.100:80`, `fwmark6://8`
fn listen(key: &ServiceKey) -> String {
    match key {
        ServiceKey::Endpoint { protocol, address } => format!("{protocol}://{address}"),
        ServiceKey::Mark { mark, ipv6: false } => format!("fwmark://{mark}"),
        ServiceKey::Mark { mark, ipv6: true } => format!("fwmark6://{mark}"),
    }
}

/// The keys of a new service.
pub(super) fn new_service(spec: &ServiceSpec) -> Result<Value, Refusal> {
    let mut keys = Map::new();
    keys.insert("name".to_owned(), json!(spec.key.service_name()));
    keys.insert("listen".to_owned(), json!(listen(&spec.key)));
    for (key, value) in service_keys(spec)? {
        if !value.is_null() {
            keys.insert(key.to_owned(), value);
        }
    }
    Ok(keys.into())
}

/// The keys that make a service as stated; `null` takes one out.
pub(super) fn edited_service(spec: &ServiceSpec) -> Result<Value, Refusal> {
    let keys = service_keys(spec)?.into_iter();
    Ok(keys.map(|(key, value)| (key.to_owned(), value)).collect())
}

fn service_keys(spec: &ServiceSpec) -> Result<[(&'static str, Value); 4], Refusal> {
    let flags = scheduler_flags(spec)?;
    let persistence = spec.persistence.as_ref().map(persistence_value).transpose()?;
    Ok([
        ("scheduler", json!(spec.scheduler)),
        ("scheduler_flags", flags),
        ("persistence", persistence.unwrap_or_default()),
        ("one_packet", if spec.one_packet { json!(true) } else { Value::Null }),
    ])
}

/// The flags by their names in the configuration file.
fn scheduler_flags(spec: &ServiceSpec) -> Result<Value, Refusal> {
    let SchedulerFlags { fallback, port, third } = spec.flags;
    match spec.scheduler.as_str() {
        _ if spec.flags.is_none() => Ok(Value::Null),
        "sh" | "mh" if !third => Ok(spec.flags.names(&spec.scheduler).split(',').collect()),
        "maglev" if port && !fallback && !third => Ok(json!(["maglev-port"])),
        scheduler => Err(Refusal::Other(format!(
            "scheduler {scheduler} has no flags {}",
            spec.flags.names(scheduler)
        ))),
    }
}

fn persistence_value(persistence: &Persistence) -> Result<Value, Refusal> {
    let timeout = written(persistence.timeout);
    let prefix = match persistence.granularity {
        // Taken out, where it is set.
        whole if whole.is_whole() => None,
        Granularity::Prefix(length) => Some(u32::from(length)),
        Granularity::Mask(mask) => {
            let ones = mask.to_bits().leading_ones();
            if ones != mask.to_bits().count_ones() || ones == 0 {
                return Err(Refusal::Other(format!(
                    "persistent netmask {mask} is not supported: pointsman takes those of 1 to 32 \
                     leading bits, such as 255.255.255.0"
                )));
            }
            Some(ones)
        }
    };
    Ok(json!({ "timeout": timeout, "prefix": prefix }))
}

/// Seconds, as the configuration file has them.
pub(super) fn written(seconds: u32) -> String {
    humantime::format_duration(Duration::from_secs(seconds.into())).to_string()
}

/// The keys of a new server.
pub(super) fn new_server(spec: &ServerSpec) -> Value {
    let mut keys = Map::from_iter([("address".to_owned(), json!(server_name(spec.address)))]);
    for (key, value) in server_keys(spec) {
        if !value.is_null() {
            keys.insert(key.to_owned(), value);
        }
    }
    keys.into()
}

/// The keys that make a server as stated.
pub(super) fn edited_server(spec: &ServerSpec) -> Value {
    server_keys(spec).into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn server_keys(spec: &ServerSpec) -> [(&'static str, Value); 3] {
    let threshold = |number: u32| if number == 0 { Value::Null } else { json!(number) };
    [
        ("weight", json!(spec.weight)),
        ("upper_threshold", threshold(spec.upper)),
        ("lower_threshold", threshold(spec.lower)),
    ]
}

/// Without a port where it has none: then the client's is kept.
fn server_name(address: SocketAddr) -> String {
    match address.ip() {
        _ if address.port() != 0 => address.to_string(),
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stated(json: Value) -> ServiceRow {
        serde_json::from_value::<StatedService>(json).unwrap().row(None).unwrap()
    }

    fn endpoint(address: &str) -> ServiceKey {
        ServiceKey::Endpoint { protocol: Protocol::Tcp, address: address.parse().unwrap() }
    }

    #[test]
    fn services_of_every_kind_have_their_key() {
        for (listen, key, is_range) in [
            ("tcp://192.0.2.1:80", endpoint("192.0.2.1:80"), false),
            ("tcp://[2001:db8::1]:0", endpoint("[2001:db8::1]:0"), false),
            ("tcp://192.0.2.1:8000-8099", endpoint("192.0.2.1:8000"), true),
            ("fwmark://7", ServiceKey::Mark { mark: 7, ipv6: false }, false),
            ("fwmark6://4294967295", ServiceKey::Mark { mark: u32::MAX, ipv6: true }, false),
        ] {
            let row = stated(json!({ "name": "x", "listen": listen }));
            assert_eq!((row.key, row.is_range), (key, is_range), "{listen}");
        }
    }

    #[test]
    fn what_is_made_is_read_again() {
        let flags = SchedulerFlags { fallback: true, port: false, third: false };
        let mask = Granularity::Mask([255, 255, 255, 0].into());
        for (key, granularity) in [
            (endpoint("192.0.2.1:80"), mask),
            (endpoint("[2001:db8::1]:80"), Granularity::Prefix(64)),
            (ServiceKey::Mark { mark: 7, ipv6: true }, Granularity::Prefix(128)),
        ] {
            let persistence = Some(Persistence { timeout: 90, granularity });
            let scheduler = "mh".to_owned();
            let spec =
                ServiceSpec { key, scheduler, flags, persistence, one_packet: true, engine: None };
            let row = stated(new_service(&spec).unwrap());
            assert_eq!((row.key, row.flags, row.one_packet), (key, flags, true));
            assert_eq!((row.scheduler.as_str(), row.persistence), ("mh", persistence));
            let keys = edited_service(&ServiceSpec {
                persistence: None,
                flags: SchedulerFlags::NONE,
                one_packet: false,
                ..spec
            });
            let taken_out = json!({
                "scheduler": "mh", "scheduler_flags": null, "persistence": null, "one_packet": null
            });
            assert_eq!(keys.unwrap(), taken_out);
        }
    }

    #[test]
    fn a_netmask_with_a_hole_and_flags_without_use_are_refused() {
        let key = endpoint("192.0.2.1:80");
        let mask = Granularity::Mask([255, 0, 255, 0].into());
        let spec = ServiceSpec {
            key,
            scheduler: "rr".to_owned(),
            flags: SchedulerFlags::NONE,
            persistence: Some(Persistence { timeout: 90, granularity: mask }),
            one_packet: false,
            engine: None,
        };
        let refused = |spec: &ServiceSpec, word: &str| match new_service(spec) {
            Err(Refusal::Other(message)) => assert!(message.contains(word), "{message}"),
            other => panic!("{other:?}"),
        };
        refused(&spec, "255.0.255.0");
        let flags = SchedulerFlags { port: true, ..SchedulerFlags::NONE };
        refused(&ServiceSpec { persistence: None, flags, ..spec }, "flag-2");
    }

    #[test]
    fn servers_without_a_port_are_port_0_to_ipvsadm() {
        for (address, name) in [
            ("10.0.0.11:80", "10.0.0.11:80"),
            ("10.0.0.11:0", "10.0.0.11"),
            ("[fd00::11]:0", "[fd00::11]"),
        ] {
            let address: SocketAddr = address.parse().unwrap();
            assert_eq!(server_name(address), name);
            let row = stated(json!({
                "name": "x", "listen": "fwmark://7", "servers": [{ "address": name }]
            }));
            assert_eq!(row.servers[0].address, address);
        }
    }
}
