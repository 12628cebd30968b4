//! What the file says of traffic: `[[service]]`, `[[masquerade]]`, and idle times.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::IpNet;
use toml::Spanned;
use toml::de::DeValue;

use super::{SECOND, Value};
use crate::control::config::diagnostic::Span;
use crate::control::config::reader::{List, Section, Wrong};
use crate::control::config::value;
use crate::service::{
    Helper, Listen, NonSyn, PortRange, Protocol, RealServer, Removal, SchedulerFlag,
    SchedulerFlags, SchedulerKind, TimeoutPreset, Timeouts,
};

const LONGEST_SLOW_START: Duration = Duration::from_secs(24 * 3600);
const LONGEST_TIMEOUT: Duration = Duration::from_secs(24 * 24 * 3600);

pub(in crate::control::config) struct ServiceDraft {
    /// Its `[[service]]`.
    pub(in crate::control::config) span: Span,
    pub(in crate::control::config) name: Value<String>,
    pub(in crate::control::config) listen: Value<Listen>,
    pub(in crate::control::config) scheduler: Value<SchedulerKind>,
    pub(in crate::control::config) scheduler_flags: List<SchedulerFlagDraft>,
    pub(in crate::control::config) on_removal: Value<Removal>,
    pub(in crate::control::config) servers: List<ServerDraft>,
    pub(in crate::control::config) non_syn: Value<NonSyn>,
    pub(in crate::control::config) one_packet: Value<bool>,
    pub(in crate::control::config) sync: Value<bool>,
    pub(in crate::control::config) helper: Value<Option<Helper>>,
    pub(in crate::control::config) timeouts: Option<TimeoutsDraft>,
    pub(in crate::control::config) persistence: Option<PersistenceDraft>,
    pub(in crate::control::config) connection_limit: Value<u32>,
}

/// `persistence = "6m"`, or a table.
#[derive(Default)]
pub(in crate::control::config) struct PersistenceDraft {
    pub(in crate::control::config) timeout: Value<Duration>,
    pub(in crate::control::config) prefix: Value<u8>,
}

/// A flag, and the scheduler that has it.
pub(in crate::control::config) type SchedulerFlagDraft = (SchedulerKind, SchedulerFlag);

pub(in crate::control::config) struct ServerDraft {
    pub(in crate::control::config) address: Value<SocketAddr>,
    pub(in crate::control::config) weight: Value<u32>,
    pub(in crate::control::config) upper_threshold: Value<u32>,
    pub(in crate::control::config) lower_threshold: Value<u32>,
    pub(in crate::control::config) slow_start: Value<Duration>,
}

pub(in crate::control::config) struct MarkDraft {
    /// Its `[[mark]]`.
    pub(in crate::control::config) span: Span,
    pub(in crate::control::config) mark: Value<u32>,
    pub(in crate::control::config) addresses: List<IpNet>,
    pub(in crate::control::config) protocol: Value<Protocol>,
    pub(in crate::control::config) ports: List<PortRange>,
    pub(in crate::control::config) sources: List<IpNet>,
    pub(in crate::control::config) interface: Value<String>,
}

pub(in crate::control::config) struct MasqueradeDraft {
    pub(in crate::control::config) sources: List<IpNet>,
    pub(in crate::control::config) addresses: List<IpAddr>,
    pub(in crate::control::config) ports: Value<RangeInclusive<u16>>,
}

/// What the file says of idle times, over a preset or what holds otherwise.
#[derive(Default)]
pub(in crate::control::config) struct TimeoutsDraft {
    preset: Option<TimeoutPreset>,
    own: Vec<(Field, Duration)>,
}

/// One of the idle times.
type Field = fn(&mut Timeouts) -> &mut Duration;

/// The keys of `[timeouts]`.
const TIMEOUTS: &[(&str, Field)] = &[
    ("established", |timeouts| &mut timeouts.established),
    ("syn_sent", |timeouts| &mut timeouts.syn_sent),
    ("syn_recv", |timeouts| &mut timeouts.syn_recv),
    ("fin_wait", |timeouts| &mut timeouts.fin_wait),
    ("time_wait", |timeouts| &mut timeouts.time_wait),
    ("close", |timeouts| &mut timeouts.close),
    ("close_wait", |timeouts| &mut timeouts.close_wait),
    ("last_ack", |timeouts| &mut timeouts.last_ack),
    ("listen", |timeouts| &mut timeouts.listen),
    ("synack", |timeouts| &mut timeouts.synack),
    ("udp", |timeouts| &mut timeouts.udp),
    ("icmp", |timeouts| &mut timeouts.icmp),
    ("sctp_first_init", |timeouts| &mut timeouts.sctp_first_init),
    ("sctp_init", |timeouts| &mut timeouts.sctp_init),
    ("sctp_established", |timeouts| &mut timeouts.sctp_established),
    ("sctp_shutdown", |timeouts| &mut timeouts.sctp_shutdown),
    ("sctp_rejected", |timeouts| &mut timeouts.sctp_rejected),
    ("sctp_closed", |timeouts| &mut timeouts.sctp_closed),
];

impl TimeoutsDraft {
    pub(super) fn read(mut section: Section<'_>) -> Self {
        let presets = [("lvs", TimeoutPreset::Lvs), ("rfc", TimeoutPreset::Rfc)];
        let preset = section.value("preset", value::word(&presets)).map(Spanned::into_inner);
        let timeout = value::duration(SECOND..=LONGEST_TIMEOUT);
        let mut own = Vec::new();
        for (key, field) in TIMEOUTS {
            let stated = section.value(key, &timeout);
            own.extend(stated.map(|idle| (*field, idle.into_inner())));
        }
        section.finish();
        Self { preset, own }
    }

    /// The idle times where these hold unless the file says otherwise.
    pub(in crate::control::config) fn over(self, otherwise: &Timeouts) -> Timeouts {
        let mut timeouts = self.preset.map_or(*otherwise, Timeouts::preset);
        for (field, idle) in self.own {
            *field(&mut timeouts) = idle;
        }
        timeouts
    }
}

pub(super) fn non_syn(value: &DeValue<'_>) -> Result<NonSyn, Wrong> {
    value::word(&NonSyn::ALL.map(|answer| (answer.name(), answer)))(value)
}

impl ServiceDraft {
    pub(super) fn read(mut section: Section<'_>) -> Self {
        let helpers = [("ftp", Some(Helper::Ftp)), ("none", None)];
        let schedulers = SchedulerKind::ALL.map(|kind| (kind.name(), kind));
        let removals = Removal::ALL.map(|removal| (removal.name(), removal));
        let servers = section.tables("servers", "a server of `servers`");
        let name = section.required("name", "\"web\"", value::name);
        let listen = section.required("listen", "\"tcp://203.0.113.10:80\"", value::listen);
        let port = listen.as_ref().and_then(|listen| listen.get_ref().ports().single());
        let servers = List {
            items: servers.items.into_iter().map(|server| read_server(server, port)).collect(),
            span: servers.span,
            complete: servers.complete,
        };
        let draft = Self {
            span: section.span(),
            name,
            listen,
            scheduler: section.value("scheduler", value::word(&schedulers)),
            scheduler_flags: section.list("scheduler_flags", "[\"sh-port\"]", scheduler_flag),
            on_removal: section.value("on_removal", value::word(&removals)),
            servers,
            non_syn: section.value("non_syn", non_syn),
            one_packet: section.value("one_packet", value::boolean),
            sync: section.value("sync", value::boolean),
            helper: section.value("helper", value::word(&helpers)),
            timeouts: section.section("timeouts").map(TimeoutsDraft::read),
            persistence: read_persistence(&mut section),
            connection_limit: section
                .value("connection_limit", value::integer(1..=i64::from(u32::MAX))),
        };
        section.finish();
        draft
    }
}

fn read_persistence(section: &mut Section<'_>) -> Option<PersistenceDraft> {
    let timeout = value::duration(SECOND..=LONGEST_TIMEOUT);
    if section.has("persistence") && !section.is_table("persistence") {
        let timeout = section.value("persistence", timeout);
        return Some(PersistenceDraft { timeout, prefix: None });
    }
    let mut section = section.section("persistence")?;
    let draft = PersistenceDraft {
        timeout: section.value("timeout", timeout),
        prefix: section.value("prefix", value::integer(1..=128)),
    };
    section.finish();
    Some(draft)
}

fn scheduler_flag(value: &DeValue<'_>) -> Result<SchedulerFlagDraft, Wrong> {
    let names = SchedulerKind::ALL.into_iter().flat_map(SchedulerKind::flags);
    let known: Vec<_> = names
        .filter_map(|(name, _)| SchedulerFlags::find(name).ok().map(|found| (*name, found)))
        .collect();
    value::word(&known)(value)
}

/// A server whose port is not stated has the service's, where that is one.
fn read_server(section: Spanned<Section<'_>>, port: Option<u16>) -> Spanned<ServerDraft> {
    let span = section.span();
    let mut section = section.into_inner();
    let address = section.required("address", "\"10.0.0.11:8080\"", |found| {
        let mut address = value::server_address(found)?;
        if let (0, Some(port)) = (address.port(), port) {
            address.set_port(port);
        }
        Ok(address)
    });
    let server = ServerDraft {
        address,
        weight: section.value("weight", value::integer(0..=i64::from(RealServer::MAX_WEIGHT))),
        slow_start: section.value("slow_start", value::duration(SECOND..=LONGEST_SLOW_START)),
        upper_threshold: section.value("upper_threshold", value::integer(0..=i64::from(u32::MAX))),
        lower_threshold: section.value("lower_threshold", value::integer(0..=i64::from(u32::MAX))),
    };
    section.finish();
    Spanned::new(span, server)
}

impl MarkDraft {
    pub(super) fn read(mut section: Section<'_>) -> Self {
        const ADDRESSES: &str = "[\"203.0.113.10\"]";
        let protocols =
            [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].map(|known| (known.name(), known));
        section.require("addresses", ADDRESSES);
        let draft = Self {
            span: section.span(),
            mark: section.required("mark", "1", value::integer(1..=i64::from(u32::MAX))),
            addresses: section.list("addresses", ADDRESSES, value::marked_network),
            protocol: section.value("protocol", value::word(&protocols)),
            ports: section.list("ports", "[80, 443, \"8000-8099\"]", value::port_or_range),
            sources: section.list("sources", "[\"198.51.100.0/24\"]", value::network),
            interface: section.value("interface", value::name),
        };
        section.finish();
        draft
    }
}

impl MasqueradeDraft {
    pub(super) fn read(mut section: Section<'_>) -> Self {
        const SOURCES: &str = "[\"10.0.0.0/24\"]";
        const ADDRESSES: &str = "[\"203.0.113.10\"]";
        section.require("sources", SOURCES);
        section.require("addresses", ADDRESSES);
        let draft = Self {
            sources: section.list("sources", SOURCES, value::network),
            addresses: section.list("addresses", ADDRESSES, value::external_address),
            ports: section.value("ports", value::ports),
        };
        section.finish();
        draft
    }
}
