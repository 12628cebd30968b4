//! Section `[[failover]]`, from the file to the configuration: the pair's floating addresses and
//! the election that decides who has them.

mod check;
mod draft;
mod sync;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;

use super::draft::Value;
use super::model::InterfaceConfig;
use crate::ids::InterfaceId;
use crate::wire::ethernet::Mac;
use crate::wire::vrrp::{self, Version};

pub(super) use check::check;
pub(super) use draft::FailoverDraft;
use draft::{FloatingDraft, version_of};
pub use sync::{SyncConfig, SyncKey};

/// Section `[[failover]]`: the sync group of a pair of directors. Its floating addresses, and all
/// VIPs, are those of one director at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailoverConfig {
    /// Its name, for people.
    pub name: String,
    /// The virtual router (VRID), on every link.
    pub router_id: u8,
    /// The protocol. Default 3.
    pub version: Version,
    /// Who has more is the better one; 255: the floating addresses are its own. Default 100.
    pub priority: u8,
    /// How often the master says that it is there. Default 100 ms, or 1 s with version 2.
    pub interval: Duration,
    /// Whether it takes over from a worse director that works. Default: never.
    pub preempt: Preempt,
    /// Other directors; empty: whoever is in the multicast group.
    pub peers: Vec<IpAddr>,
    /// The password of version 2, which protects against mistakes and nothing else.
    pub password: Option<String>,
    /// Whether checksums of version 3 over IPv4 have a pseudo header. Default false.
    pub pseudo_header: bool,
    /// Whether what moves has the Ethernet addresses of a virtual router. Default: the port's.
    pub virtual_mac: bool,
    /// Whether the master is a host for what moves: answers echo, and refuses what no service has.
    /// Default true; the owner always is.
    pub accept: bool,
    /// How links are told who has the floating addresses.
    pub announcements: Announcements,
    /// What the election depends on besides links and workers.
    pub track: Vec<Track>,
    /// How connections are synchronised; `None`: they are not.
    pub sync: Option<SyncConfig>,
    /// A program that is told of every change of the role.
    pub notify: Option<PathBuf>,
    /// The floating addresses.
    pub floating: Vec<Floating>,
}

/// Whether a better director takes over from a worse one that works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preempt {
    /// Not while that one works.
    Never,
    /// When it has been heard for so long.
    After(Duration),
}

/// Gratuitous ARP and unsolicited Neighbor Advertisements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announcements {
    /// How often each address is announced at a takeover. Default 5.
    pub repeat: u8,
    /// The time between. Default 1 s.
    pub every: Duration,
    /// How often all are announced while nothing happens; zero: never. Default 60 s: what switches
    /// have learnt they forget after minutes.
    pub refresh: Duration,
    /// Announcements in a second, at most. Default 2000.
    pub per_second: u32,
}

impl Default for Announcements {
    fn default() -> Self {
        Self {
            repeat: 5,
            every: Duration::from_secs(1),
            refresh: Duration::from_secs(60),
            per_second: 2000,
        }
    }
}

/// Something that an election depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Track {
    /// A file with a number, which is added to the priority; -254 or less: this director must not
    /// be the master. No file: nothing.
    File(PathBuf),
    /// A program, which says by its exit code whether all is well.
    Script(TrackScript),
    /// The share of servers that take new connections.
    Servers {
        /// Percent, at least.
        percent: u8,
        /// What is added to the priority where there are fewer; 0: this director must not be the
        /// master.
        weight: i32,
    },
}

/// A program that says whether all is well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackScript {
    /// The program.
    pub path: PathBuf,
    /// The time between its end and its next start. Default 2 s.
    pub interval: Duration,
    /// How long it may take. Default 2 s.
    pub timeout: Duration,
    /// Good ends in a row after which all is well. Default 1.
    pub rise: u8,
    /// Bad ends in a row after which it is not. Default 2.
    pub fall: u8,
    /// What is added to the priority where all is not well; 0 (default): this director must not be
    /// the master.
    pub weight: i32,
}

/// A floating address and the interface that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Floating {
    /// The interface.
    pub interface: InterfaceId,
    /// The address.
    pub address: IpAddr,
}

impl FailoverConfig {
    /// Key `priority`, where the file does not say.
    const DEFAULT_PRIORITY: u8 = 100;

    /// Key `interval`, where the file does not say.
    const fn default_interval(version: Version) -> Duration {
        match version {
            Version::V2 => Duration::from_secs(1),
            Version::V3 => Duration::from_millis(100),
        }
    }

    /// The Ethernet addresses, of IPv4 and IPv6, that what moves has on an interface; `None`: the
    /// port's.
    pub fn virtual_macs(&self, interface: InterfaceId) -> Option<[Mac; 2]> {
        let floats_there = self.floating_of(interface).next().is_some();
        (self.virtual_mac && floats_there)
            .then(|| [false, true].map(|is_v6| vrrp::virtual_mac(self.router_id, is_v6)))
    }

    /// The floating addresses of an interface.
    pub fn floating_of(&self, interface: InterfaceId) -> impl Iterator<Item = IpAddr> + '_ {
        let all = self.floating.iter();
        all.filter(move |known| known.interface == interface).map(|known| known.address)
    }
}

/// Fills in the defaults. `None`: a required value is missing, which a check should have found.
pub(super) fn build(
    draft: FailoverDraft,
    interfaces: &[InterfaceConfig],
) -> Option<FailoverConfig> {
    let version = version_of(&draft);
    let floating = |entry: FloatingDraft| {
        let name = entry.interface?.into_inner();
        let place = interfaces.iter().position(|interface| interface.name == name)?;
        let interface = InterfaceId(u8::try_from(place).ok()?);
        Some(Floating { interface, address: entry.address?.into_inner() })
    };
    let sync = draft.sync.build(&draft.floating, interfaces);
    let or = |value: Value<Duration>, otherwise| value.map_or(otherwise, Spanned::into_inner);
    let usual = Announcements::default();
    let told = draft.announcements;
    let priority = draft.priority.map(Spanned::into_inner);
    Some(FailoverConfig {
        name: draft.name?.into_inner(),
        router_id: draft.router_id?.into_inner(),
        version,
        priority: priority.unwrap_or(FailoverConfig::DEFAULT_PRIORITY),
        interval: or(draft.interval, FailoverConfig::default_interval(version)),
        preempt: draft.preempt.map_or(Preempt::Never, Spanned::into_inner),
        peers: draft.peers.items.into_iter().map(Spanned::into_inner).collect(),
        password: draft.password.map(Spanned::into_inner),
        pseudo_header: draft.pseudo_header.is_some_and(Spanned::into_inner),
        virtual_mac: draft.virtual_mac.is_some_and(Spanned::into_inner),
        accept: draft.accept.is_none_or(Spanned::into_inner),
        announcements: Announcements {
            repeat: told.repeat.map_or(usual.repeat, Spanned::into_inner),
            every: or(told.every, usual.every),
            refresh: or(told.refresh, usual.refresh),
            per_second: told.per_second.map_or(usual.per_second, Spanned::into_inner),
        },
        track: draft.track,
        sync,
        notify: draft.notify.map(Spanned::into_inner),
        floating: draft.floating.into_iter().map(floating).collect::<Option<_>>()?,
    })
}
