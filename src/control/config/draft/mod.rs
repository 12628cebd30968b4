//! The file as it was written: every value typed and with its place, nothing compared with
//! anything else yet. This file lists the keys.

mod services;

pub(super) use services::{
    MarkDraft, MasqueradeDraft, PersistenceDraft, ServerDraft, ServiceDraft, TimeoutsDraft,
};

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::control::config::device::device;
use crate::control::config::diagnostic::{Finding, Span};
use crate::control::config::failover::FailoverDraft;
use crate::control::config::model::{Device, Idle, LogFormat, MacAddress, Role};
use crate::control::config::reader::{List, Problems, Section, Wrong};
use crate::control::config::value;
use crate::ids::VlanId;
use crate::service::{ClosedPorts, MssClamp, NonSyn, Timeouts};
use crate::wire::toeplitz::RssInput;

/// A value that is absent, or wrong (which has been noted), or there.
pub(super) type Value<T> = Option<Spanned<T>>;

const SECOND: Duration = Duration::from_secs(1);
const LONGEST_REASSEMBLY: Duration = Duration::from_secs(120);
const SHORTEST_SLEEP: Duration = Duration::from_micros(1);
const LONGEST_SLEEP: Duration = Duration::from_millis(10);

pub(super) struct Draft {
    pub(super) director: DirectorDraft,
    pub(super) dpdk: DpdkDraft,
    pub(super) interfaces: Vec<InterfaceDraft>,
    /// There is a section `[interface.NAME]`, good or not.
    pub(super) any_interface: bool,
    pub(super) services: Vec<ServiceDraft>,
    pub(super) marks: Vec<MarkDraft>,
    pub(super) masquerades: Vec<MasqueradeDraft>,
    pub(super) timeouts: Timeouts,
    pub(super) failovers: Vec<FailoverDraft>,
}

pub(super) enum Workers {
    Auto,
    On(List<u16>),
}

#[derive(Default)]
pub(super) struct DirectorDraft {
    pub(super) workers: Option<Workers>,
    pub(super) control_cpu: Value<u16>,
    pub(super) idle: Value<Idle>,
    pub(super) connections: Value<u32>,
    pub(super) ipv6_share: Value<u8>,
    pub(super) persistence_templates: Value<u32>,
    /// `Some(None)`: off.
    pub(super) metrics: Value<Option<SocketAddr>>,
    pub(super) socket: Value<PathBuf>,
    pub(super) state_file: Value<PathBuf>,
    pub(super) log: Value<String>,
    pub(super) log_format: Value<LogFormat>,
    pub(super) non_syn: Value<NonSyn>,
    pub(super) closed_ports: Value<ClosedPorts>,
    pub(super) routing: Value<bool>,
    pub(super) errors_per_second: Value<u32>,
    pub(super) fragment_timeout: Value<Duration>,
}

#[derive(Default)]
pub(super) struct DpdkDraft {
    pub(super) hugepages: Value<bool>,
    pub(super) memory_mib: Value<u32>,
    pub(super) mbufs: Value<u32>,
    pub(super) mbuf_octets: Value<u16>,
    pub(super) rx_descriptors: Value<u16>,
    pub(super) tx_descriptors: Value<u16>,
    pub(super) rss_key: Value<Vec<u8>>,
    pub(super) rss_input: Value<RssInput>,
    pub(super) eal_args: Vec<Spanned<String>>,
}

pub(super) struct RouteDraft {
    pub(super) to: Value<IpNet>,
    pub(super) via: Value<IpAddr>,
}

pub(super) struct InterfaceDraft {
    pub(super) name: Spanned<String>,
    pub(super) role: Value<Role>,
    pub(super) device: Value<Device>,
    pub(super) vlan: Value<u16>,
    /// What is said of the VLAN, or that nothing is said, is not wrong.
    pub(super) vlan_known: bool,
    pub(super) addresses: List<IpNet>,
    pub(super) gateways: List<IpAddr>,
    pub(super) routes: Vec<RouteDraft>,
    pub(super) mtu: Value<u16>,
    pub(super) mss_clamp: Value<MssClamp>,
    pub(super) mac: Value<MacAddress>,
    pub(super) queues: Value<u16>,
    pub(super) promiscuous: Value<bool>,
    pub(super) neighbors: Vec<(Spanned<IpAddr>, MacAddress)>,
    /// Nothing of what says which networks are here had to be left out.
    pub(super) networks_known: bool,
}

impl Draft {
    pub(super) fn read(table: &DeTable<'_>, problems: &Problems) -> Self {
        let mut file = Section::root(table, problems);
        let director = file.section("director").map(DirectorDraft::read).unwrap_or_default();
        let dpdk = file.section("dpdk").map(DpdkDraft::read).unwrap_or_default();
        let entries = file.entries("interface");
        let any_interface = !entries.is_empty();
        let mut interfaces = Vec::new();
        for entry in entries {
            let name = match value::check_name(entry.key) {
                Ok(name) => name,
                Err(wrong) => {
                    let finding = Finding::error(entry.key_span.clone(), wrong.message);
                    problems.add(finding.help(wrong.help.unwrap_or_default()));
                    entry.key.escape_debug().to_string()
                }
            };
            let title = format!("[interface.{}]", entry.key.escape_debug());
            let section = Section::of(title, entry.value, entry.value_span, problems);
            let name = Spanned::new(entry.key_span, name);
            interfaces.extend(section.map(|section| InterfaceDraft::read(name, section)));
        }
        let services = file.tables("service", "[[service]]").items;
        let services = services.into_iter().map(|service| ServiceDraft::read(service.into_inner()));
        let services = services.collect();
        let marks = file.tables("mark", "[[mark]]").items;
        let marks = marks.into_iter().map(|mark| MarkDraft::read(mark.into_inner())).collect();
        let masquerades = file.tables("masquerade", "[[masquerade]]").items;
        let masquerades = masquerades.into_iter().map(Spanned::into_inner);
        let masquerades = masquerades.map(MasqueradeDraft::read).collect();
        let timeouts = file.section("timeouts").map(TimeoutsDraft::read).unwrap_or_default();
        let timeouts = timeouts.over(&Timeouts::default());
        let failovers = file.tables("failover", "[[failover]]").items.into_iter();
        let failovers = failovers.map(Spanned::into_inner).map(FailoverDraft::read).collect();
        file.finish();
        Self {
            director,
            dpdk,
            interfaces,
            any_interface,
            services,
            marks,
            masquerades,
            timeouts,
            failovers,
        }
    }
}

impl DirectorDraft {
    fn read(mut section: Section<'_>) -> Self {
        let draft = Self {
            workers: read_workers(&mut section),
            control_cpu: section.value("control_cpu", value::integer(0..=i64::from(u16::MAX))),
            idle: section.value("idle", idle),
            connections: section.value("connections", value::integer(1024..=1 << 30)),
            ipv6_share: section.value("ipv6_share", value::integer(0..=100)),
            persistence_templates: section
                .value("persistence_templates", value::integer(1024..=1 << 24)),
            metrics: section.value("metrics", metrics),
            socket: section.value("socket", socket),
            state_file: section.value("state_file", state_file),
            log: section.value("log", log_filter),
            log_format: section.value(
                "log_format",
                value::word(&[
                    ("text", LogFormat::Text),
                    ("json", LogFormat::Json),
                    ("journal", LogFormat::Journal),
                ]),
            ),
            non_syn: section.value("non_syn", services::non_syn),
            closed_ports: section.value("closed_ports", closed_ports),
            routing: section.value("routing", value::boolean),
            errors_per_second: section.value("errors_per_second", value::integer(0..=1_000_000)),
            fragment_timeout: section
                .value("fragment_timeout", value::duration(SECOND..=LONGEST_REASSEMBLY)),
        };
        section.finish();
        draft
    }
}

fn read_workers(section: &mut Section<'_>) -> Option<Workers> {
    const EXAMPLE: &str = "[1, 2], or \"auto\"";
    if section.is_string("workers") {
        return section.value("workers", value::word(&[("auto", ())])).map(|_| Workers::Auto);
    }
    let cpus = section.list("workers", EXAMPLE, value::integer(0..=i64::from(u16::MAX)));
    cpus.span.is_some().then_some(Workers::On(cpus))
}

fn closed_ports(value: &DeValue<'_>) -> Result<ClosedPorts, Wrong> {
    value::word(&ClosedPorts::ALL.map(|answer| (answer.name(), answer)))(value)
}

fn idle(value: &DeValue<'_>) -> Result<Idle, Wrong> {
    match value.as_str() {
        Some("busy") => Ok(Idle::Busy),
        Some("adaptive") => Ok(Idle::Adaptive(Idle::DEFAULT_SLEEP)),
        Some(text) if text.starts_with(|c: char| c.is_ascii_digit()) => {
            value::duration(SHORTEST_SLEEP..=LONGEST_SLEEP)(value).map(Idle::Adaptive)
        }
        Some(_) | None => Err(Wrong::new(format!(
            "expected \"busy\", \"adaptive\" or a sleeping time such as \"100us\", found {}",
            value.as_str().map_or_else(|| value::kind(value), |text| format!("{text:?}")),
        ))),
    }
}

fn metrics(value: &DeValue<'_>) -> Result<Option<SocketAddr>, Wrong> {
    match value::string(value)?.as_str() {
        "off" => Ok(None),
        text => value::socket_address(text).map(Some).map_err(|wrong| {
            Wrong::new(wrong.message).help("write for example \"127.0.0.1:9464\", or \"off\"")
        }),
    }
}

/// Longest path of a Unix socket on Linux, without the final zero.
const SOCKET_PATH_OCTETS: usize = 107;

fn socket(value: &DeValue<'_>) -> Result<PathBuf, Wrong> {
    let path = value::string(value)?;
    if path.is_empty() || path.ends_with('/') || path.contains('\0') {
        return Err(Wrong::new(format!("{path:?} is not the path of a socket"))
            .help("write for example \"/run/pointsman/pointsman.sock\""));
    }
    if path.len() > SOCKET_PATH_OCTETS {
        let found = path.len();
        return Err(Wrong::new(format!(
            "the path has {found} octets; a Unix socket's has at most {SOCKET_PATH_OCTETS}"
        )));
    }
    Ok(path.into())
}

fn state_file(value: &DeValue<'_>) -> Result<PathBuf, Wrong> {
    let path = value::string(value)?;
    if !path.starts_with('/') || path.ends_with('/') || path.contains('\0') {
        return Err(Wrong::new(format!("{path:?} is not the absolute path of a file"))
            .help("write for example \"/run/pointsman/state\""));
    }
    Ok(path.into())
}

fn log_filter(value: &DeValue<'_>) -> Result<String, Wrong> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let help = "write error, warn, info, debug or trace, or a filter such as \
                \"info,pointsman::control=debug\"";
    let filter = value::string(value)?;
    // A single word that is no level would be a filter for the crate of that name.
    let word = filter.chars().all(char::is_alphanumeric);
    let level = LEVELS.iter().any(|level| filter.eq_ignore_ascii_case(level));
    if (word && !level) || tracing_subscriber::EnvFilter::builder().parse(&filter).is_err() {
        return Err(Wrong::new(format!("{filter:?} is not a log level or filter")).help(help));
    }
    Ok(filter)
}

impl DpdkDraft {
    fn read(mut section: Section<'_>) -> Self {
        let descriptors = || value::integer(64..=32_768);
        let draft = Self {
            hugepages: section.value("hugepages", value::boolean),
            memory_mib: section.value("memory", value::mebibytes(64..=1 << 20)),
            mbufs: section.value("mbufs", value::integer(1024..=1 << 27)),
            mbuf_octets: section.value("mbuf_octets", value::integer(594..=65_407)),
            rx_descriptors: section.value("rx_descriptors", descriptors()),
            tx_descriptors: section.value("tx_descriptors", descriptors()),
            rss_key: section.value("rss_key", value::rss_key),
            rss_input: section.value(
                "rss_input",
                value::word(&[RssInput::Zeroed, RssInput::Packed].map(|i| (i.name(), i))),
            ),
            eal_args: section.list("eal_args", "[\"--iova-mode=va\"]", value::string).items,
        };
        section.finish();
        draft
    }
}

impl InterfaceDraft {
    fn read(name: Spanned<String>, mut section: Section<'_>) -> Self {
        let roles = [Role::Outside, Role::Inside, Role::Both].map(|role| (role.name(), role));
        let role = section.required("role", "\"outside\"", value::word(&roles));
        let device = section.required("device", "\"0000:3b:00.0\"", device);
        let vlan = section.value("vlan", value::integer(1..=i64::from(VlanId::MAX.0)));
        let vlan_known = vlan.is_some() || !section.has("vlan");
        section.require("addresses", "[\"10.0.0.1/24\"]");
        let addresses = section.list("addresses", "[\"10.0.0.1/24\"]", value::own_address);
        if let (true, true, Some(span)) =
            (addresses.items.is_empty(), addresses.complete, addresses.span.clone())
        {
            let finding = Finding::error(span, "addresses: an interface needs an address");
            section.problems().add(finding.help("write for example [\"10.0.0.1/24\"]"));
        }
        let gateways = section.list("gateways", "[\"10.0.0.254\"]", value::ip);
        let routes = section.tables("routes", "route");
        let routes_complete = routes.complete;
        let routes: Vec<_> =
            routes.items.into_iter().map(|route| read_route(route.into_inner())).collect();
        let networks_known = !addresses.items.is_empty()
            && addresses.complete
            && gateways.complete
            && routes_complete
            && routes.iter().all(|route| route.to.is_some());
        let draft = Self {
            name,
            role,
            device,
            vlan,
            vlan_known,
            addresses,
            gateways,
            routes,
            mtu: section.value("mtu", value::integer(576..=9600)),
            mss_clamp: section.value("mss_clamp", mss_clamp),
            mac: section.value("mac", value::mac),
            queues: section.value("queues", value::integer(1..=1024)),
            promiscuous: section.value("promiscuous", value::boolean),
            neighbors: read_neighbors(&mut section),
            networks_known,
        };
        section.finish();
        draft
    }
}

fn mss_clamp(value: &DeValue<'_>) -> Result<MssClamp, Wrong> {
    match value.as_str() {
        Some("mtu") => Ok(MssClamp::Mtu),
        Some(text) if text.parse::<u16>().is_err() => Err(Wrong::new(format!(
            "{text:?} is unknown: expected \"mtu\" or a number of octets such as 1360"
        ))),
        _ => value::integer(88..=9560)(value).map(MssClamp::Octets),
    }
}

fn read_route(mut section: Section<'_>) -> RouteDraft {
    let to = section.required("to", "\"10.1.0.0/16\"", value::network);
    let via = section.required("via", "\"10.0.0.254\"", value::ip);
    section.finish();
    RouteDraft { to, via }
}

fn read_neighbors(section: &mut Section<'_>) -> Vec<(Spanned<IpAddr>, MacAddress)> {
    let mut neighbors = Vec::new();
    for entry in section.entries("neighbors") {
        let wrong = |span: Span, wrong: Wrong| {
            let finding = Finding::error(span, format!("neighbors: {}", wrong.message));
            section.problems().add(match wrong.help {
                Some(help) => finding.help(help),
                None => finding,
            });
        };
        let ip = value::parse_ip(entry.key).map_err(|why| wrong(entry.key_span.clone(), why));
        let mac = value::mac(entry.value).map_err(|why| wrong(entry.value_span, why));
        if let (Ok(ip), Ok(mac)) = (ip, mac) {
            neighbors.push((Spanned::new(entry.key_span, ip), mac));
        }
    }
    neighbors
}
