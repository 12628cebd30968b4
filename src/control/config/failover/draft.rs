//! `[[failover]]` as it is written.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::sync::SyncDraft;
use super::{FailoverConfig, Preempt, Track, TrackScript};
use crate::control::config::diagnostic::Span;
use crate::control::config::draft::Value;
use crate::control::config::reader::{List, Section, Wrong};
use crate::control::config::value;
use crate::wire::vrrp::{AUTHENTICATION, Version};

/// What fits the twelve bits of version 3 (RFC 9568 section 5.2.7).
const INTERVALS: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_millis(40_950);
const LONGEST_DELAY: Duration = Duration::from_secs(3600);

/// As it is written.
pub(in crate::control::config) struct FailoverDraft {
    pub(super) span: Span,
    pub(super) name: Value<String>,
    pub(super) router_id: Value<u8>,
    pub(super) version: Value<Version>,
    pub(super) priority: Value<u8>,
    pub(super) interval: Value<Duration>,
    pub(super) preempt: Value<Preempt>,
    pub(super) peers: List<IpAddr>,
    pub(super) password: Value<String>,
    pub(super) pseudo_header: Value<bool>,
    pub(super) virtual_mac: Value<bool>,
    pub(super) accept: Value<bool>,
    pub(super) announcements: AnnouncementsDraft,
    pub(super) track: Vec<Track>,
    pub(super) sync: SyncDraft,
    pub(super) notify: Value<PathBuf>,
    pub(super) floating: Vec<FloatingDraft>,
    /// No floating address had to be left out.
    pub(super) floating_known: bool,
}

#[derive(Default)]
pub(super) struct AnnouncementsDraft {
    pub(super) repeat: Value<u8>,
    pub(super) every: Value<Duration>,
    pub(super) refresh: Value<Duration>,
    pub(super) per_second: Value<u32>,
}

pub(super) struct FloatingDraft {
    pub(super) interface: Value<String>,
    pub(super) address: Value<IpAddr>,
}

impl FailoverDraft {
    /// Where it says that an address moves.
    pub(super) fn floats(&self, ip: IpAddr) -> Option<Span> {
        let mut addresses = self.floating.iter().filter_map(|floating| floating.address.as_ref());
        addresses.find(|address| *address.get_ref() == ip).map(Spanned::span)
    }

    pub(in crate::control::config) fn read(mut section: Section<'_>) -> Self {
        const FLOATING: &str = "[{ interface = \"inside\", address = \"10.0.0.1\" }]";
        let versions = [("2", Version::V2), ("3", Version::V3)];
        section.require("floating", FLOATING);
        let floating = section.tables("floating", "floating");
        let complete = floating.complete && floating.span.is_some();
        let floating: Vec<_> = floating
            .items
            .into_iter()
            .map(|entry| FloatingDraft::read(entry.into_inner()))
            .collect();
        let version = if section.is_string("version") {
            section.value("version", value::word(&versions))
        } else {
            section.value("version", |value| match value::integer(2..=3)(value)? {
                2 => Ok(Version::V2),
                3_u8.. | 0 | 1 => Ok(Version::V3),
            })
        };
        let announcements = section.section("announcements").map(AnnouncementsDraft::read);
        let draft = Self {
            span: section.span(),
            name: section.required("name", "\"pair\"", value::name),
            router_id: section.required("router_id", "51", value::integer(1..=255)),
            version,
            priority: section.value("priority", value::integer(1..=255)),
            interval: section.value("interval", value::duration(INTERVALS)),
            preempt: section.value("preempt", preempt),
            peers: section.list("peers", "[\"192.0.2.3\"]", value::ip),
            password: section.value("password", password),
            pseudo_header: section.value("pseudo_header", value::boolean),
            virtual_mac: section.value("virtual_mac", value::boolean),
            accept: section.value("accept", value::boolean),
            announcements: announcements.unwrap_or_default(),
            track: section
                .tables("track", "track")
                .items
                .into_iter()
                .filter_map(|entry| read_track(entry.into_inner()))
                .collect(),
            sync: SyncDraft::read(&mut section),
            notify: section.value("notify", program),
            floating_known: complete && floating.iter().all(FloatingDraft::is_whole),
            floating,
        };
        section.finish();
        draft
    }
}

impl AnnouncementsDraft {
    fn read(mut section: Section<'_>) -> Self {
        let pauses = || value::duration(Duration::ZERO..=LONGEST_DELAY);
        let draft = Self {
            repeat: section.value("repeat", value::integer(1..=100)),
            every: section.value("every", pauses()),
            refresh: section.value("refresh", pauses()),
            per_second: section.value("per_second", value::integer(10..=100_000)),
        };
        section.finish();
        draft
    }
}

impl FloatingDraft {
    fn read(mut section: Section<'_>) -> Self {
        let draft = Self {
            interface: section.required("interface", "\"inside\"", value::name),
            address: section.required("address", "\"10.0.0.1\"", floating_address),
        };
        section.finish();
        draft
    }

    fn is_whole(&self) -> bool {
        self.interface.is_some() && self.address.is_some()
    }
}

/// What is tracked, by its first key; `None`: nothing that is known, which has been noted.
fn read_track(mut section: Section<'_>) -> Option<Track> {
    let weight = |section: &mut Section<'_>| {
        let weight = section.value("weight", value::integer(-253..=253));
        weight.map_or(0, Spanned::into_inner)
    };
    let track = if section.has("file") {
        section.value("file", program).map(Spanned::into_inner).map(Track::File)
    } else if section.has("servers") {
        let percent = section.value("servers", value::integer(1..=100)).map(Spanned::into_inner);
        let weight = weight(&mut section);
        percent.map(|percent| Track::Servers { percent, weight })
    } else {
        let path = section.required("script", "\"/etc/pointsman/check\"", program);
        let pauses = || value::duration(Duration::from_millis(100)..=LONGEST_DELAY);
        let counts = || value::integer(1..=100);
        let (usual, once, twice) = (Duration::from_secs(2), 1, 2);
        let interval = section.value("interval", pauses()).map_or(usual, Spanned::into_inner);
        let timeout = section.value("timeout", pauses()).map_or(usual, Spanned::into_inner);
        let rise = section.value("rise", counts()).map_or(once, Spanned::into_inner);
        let fall = section.value("fall", counts()).map_or(twice, Spanned::into_inner);
        let weight = weight(&mut section);
        path.map(|path| {
            let path = path.into_inner();
            Track::Script(TrackScript { path, interval, timeout, rise, fall, weight })
        })
    };
    section.finish();
    track
}

/// With or without the length of its network, which is the interface's.
fn floating_address(value: &DeValue<'_>) -> Result<IpAddr, Wrong> {
    match value.as_str() {
        Some(text) if text.contains('/') => value::own_address(value).map(|net| net.addr()),
        _ => value::ip(value),
    }
}

fn preempt(value: &DeValue<'_>) -> Result<Preempt, Wrong> {
    match value.as_bool() {
        Some(true) => Ok(Preempt::After(Duration::ZERO)),
        Some(false) => Ok(Preempt::Never),
        None => value::duration(Duration::ZERO..=LONGEST_DELAY)(value).map(Preempt::After).map_err(
            |wrong| Wrong::new(wrong.message).help("write true, false or a delay: \"30s\""),
        ),
    }
}

fn password(value: &DeValue<'_>) -> Result<String, Wrong> {
    let password = value::string(value)?;
    if password.is_empty() || password.len() > AUTHENTICATION {
        let found = password.len();
        return Err(Wrong::new(format!("it has {found} octets, and VRRP has room for 1 to 8")));
    }
    Ok(password)
}

pub(super) fn program(value: &DeValue<'_>) -> Result<PathBuf, Wrong> {
    let path = PathBuf::from(value::string(value)?);
    if path.is_absolute() {
        return Ok(path);
    }
    Err(Wrong::new(format!("{} is not an absolute path", path.display()))
        .help("write for example \"/etc/pointsman/notify\""))
}

pub(super) fn version_of(group: &FailoverDraft) -> Version {
    group.version.as_ref().map_or(Version::V3, |version| *version.get_ref())
}

pub(super) fn priority_of(group: &FailoverDraft) -> u8 {
    group.priority.as_ref().map_or(FailoverConfig::DEFAULT_PRIORITY, |own| *own.get_ref())
}
