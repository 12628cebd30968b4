//! Section `[[failover]]`, from the file to the configuration: the pair's floating addresses and
//! the election that decides who has them.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use toml::Spanned;
use toml::de::DeValue;

use super::diagnostic::{Finding, Span};
use super::draft::{Draft, InterfaceDraft, Value};
use super::model::{InterfaceConfig, Role};
use super::reader::{List, Problems, Section, Wrong, nearest};
use super::value;
use crate::ids::InterfaceId;
use crate::wire::vrrp::{ADDRESSES, AUTHENTICATION, OWNER, Version};

/// What fits the twelve bits of version 3 (RFC 9568 section 5.2.7).
const INTERVALS: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_millis(40_950);
const LONGEST_DELAY: Duration = Duration::from_secs(3600);

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
    /// Who has more is the better one; [`OWNER`]: the floating addresses are its own. Default 100.
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
    /// How links are told who has the floating addresses.
    pub announcements: Announcements,
    /// What the election depends on besides links and workers.
    pub track: Vec<Track>,
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

    /// The floating addresses of an interface.
    pub fn floating_of(&self, interface: InterfaceId) -> impl Iterator<Item = IpAddr> + '_ {
        let all = self.floating.iter();
        all.filter(move |known| known.interface == interface).map(|known| known.address)
    }
}

/// As it is written.
pub(super) struct FailoverDraft {
    span: Span,
    name: Value<String>,
    router_id: Value<u8>,
    version: Value<Version>,
    priority: Value<u8>,
    interval: Value<Duration>,
    preempt: Value<Preempt>,
    peers: List<IpAddr>,
    password: Value<String>,
    pseudo_header: Value<bool>,
    announcements: AnnouncementsDraft,
    track: Vec<Track>,
    notify: Value<PathBuf>,
    floating: Vec<FloatingDraft>,
    /// No floating address had to be left out.
    floating_known: bool,
}

#[derive(Default)]
struct AnnouncementsDraft {
    repeat: Value<u8>,
    every: Value<Duration>,
    refresh: Value<Duration>,
    per_second: Value<u32>,
}

struct FloatingDraft {
    interface: Value<String>,
    address: Value<IpAddr>,
}

impl FailoverDraft {
    pub(super) fn read(mut section: Section<'_>) -> Self {
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
            announcements: announcements.unwrap_or_default(),
            track: section
                .tables("track", "track")
                .items
                .into_iter()
                .filter_map(|entry| read_track(entry.into_inner()))
                .collect(),
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

fn program(value: &DeValue<'_>) -> Result<PathBuf, Wrong> {
    let path = PathBuf::from(value::string(value)?);
    if path.is_absolute() {
        return Ok(path);
    }
    Err(Wrong::new(format!("{} is not an absolute path", path.display()))
        .help("write for example \"/etc/pointsman/notify\""))
}

/// Compares the section with the rest of the file.
pub(super) fn check(draft: &Draft, problems: &Problems) {
    let [group, more @ ..] = &draft.failovers[..] else { return };
    for group in more {
        let message = "a second [[failover]]: a director has one sync group, for only then both \
                       sides of it move together";
        problems.add(Finding::error(group.span.clone(), message).help("join their addresses"));
    }
    check_protocol(group, problems);
    for (number, floating) in group.floating.iter().enumerate() {
        check_floating(group, floating, draft, problems);
        let earlier = group.floating.get(..number).unwrap_or_default();
        check_twice(floating, earlier, problems);
    }
    if group.floating_known {
        check_count(group, problems);
        check_peers(group, draft, problems);
        if !group.floating.is_empty() {
            check_sides(group, draft, problems);
        }
    }
    check_vips(group, draft, problems);
}

fn version_of(group: &FailoverDraft) -> Version {
    group.version.as_ref().map_or(Version::V3, |version| *version.get_ref())
}

fn priority_of(group: &FailoverDraft) -> u8 {
    group.priority.as_ref().map_or(FailoverConfig::DEFAULT_PRIORITY, |own| *own.get_ref())
}

fn check_protocol(group: &FailoverDraft, problems: &Problems) {
    match (version_of(group), &group.interval, &group.password) {
        (Version::V2, Some(interval), _) if interval.get_ref().subsec_nanos() != 0 => {
            let message = "interval: version 2 counts whole seconds";
            let help = "write \"1s\", or use version 3";
            problems.add(Finding::error(interval.span(), message).help(help));
        }
        (Version::V3, Some(interval), _) if interval.get_ref().subsec_nanos() % 10_000_000 != 0 => {
            let message = "interval: version 3 counts hundredths of a second";
            problems.add(Finding::error(interval.span(), message).help("write \"100ms\""));
        }
        (Version::V3, _, Some(password)) => {
            let message = "password: version 3 has none";
            let help = "remove it, or use version = 2";
            problems.add(Finding::error(password.span(), message).help(help));
        }
        (Version::V2 | Version::V3, ..) => {}
    }
}

fn interface_of<'d>(floating: &FloatingDraft, draft: &'d Draft) -> Option<&'d InterfaceDraft> {
    let name = floating.interface.as_ref()?.get_ref();
    draft.interfaces.iter().find(|known| known.name.get_ref() == name)
}

fn check_floating(
    group: &FailoverDraft,
    floating: &FloatingDraft,
    draft: &Draft,
    problems: &Problems,
) {
    let Some(name) = &floating.interface else { return };
    let Some(interface) = interface_of(floating, draft) else {
        let known: Vec<&str> =
            draft.interfaces.iter().map(|known| known.name.get_ref().as_str()).collect();
        if !known.is_empty() {
            let message = format!("interface: there is no [interface.{name}]");
            let help = nearest(name.get_ref(), &known, "interfaces");
            problems.add(Finding::error(name.span(), message).help(help));
        }
        return;
    };
    let Some(address) = &floating.address else { return };
    let ip = *address.get_ref();
    if ip.is_ipv6() && version_of(group) == Version::V2 {
        let message = "address: version 2 is for IPv4 alone";
        problems.add(Finding::error(address.span(), message).help("use version 3"));
        return;
    }
    let own = interface.addresses.items.iter().find(|own| own.get_ref().addr() == ip);
    let is_owner = priority_of(group) == OWNER;
    match own {
        Some(own) if !is_owner => {
            let message = format!("address: {ip} is the interface's own: it cannot move");
            let help = "give the interface another address, or state priority = 255, which makes \
                        this director the owner";
            let finding = Finding::error(address.span(), message);
            problems.add(finding.first_stated(own.span()).help(help));
        }
        None if is_owner => {
            let message = format!("address: {ip} is not the interface's own");
            let help = "a director with priority 255 owns the floating addresses: list it in \
                        `addresses`, or use a priority of 254 at most";
            problems.add(Finding::error(address.span(), message).help(help));
        }
        Some(_) | None => {}
    }
    if !interface.networks_known {
        return;
    }
    let mut networks = interface.addresses.items.iter().map(Spanned::get_ref);
    if !is_link_local(ip) && !networks.any(|network| network.contains(&ip)) {
        let list: Vec<_> =
            interface.addresses.items.iter().map(|net| net.get_ref().trunc().to_string()).collect();
        let message = format!("address: {ip} is in no network of {name}");
        let help = format!("{name} has {}", list.join(", "));
        problems.add(Finding::error(address.span(), message).help(help));
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

fn check_twice(floating: &FloatingDraft, earlier: &[FloatingDraft], problems: &Problems) {
    let Some(address) = &floating.address else { return };
    let interface = floating.interface.as_ref().map(Spanned::get_ref);
    let first = earlier.iter().find_map(|other| {
        let same_place = other.interface.as_ref().map(Spanned::get_ref) == interface
            || !is_link_local(*address.get_ref());
        other.address.as_ref().filter(|known| known.get_ref() == address.get_ref() && same_place)
    });
    if let Some(first) = first {
        let message = format!("address: {} floats twice", address.get_ref());
        problems.add(Finding::error(address.span(), message).first_stated(first.span()));
    }
}

/// NAT needs both sides: the clients' packets, and the real servers' replies.
fn check_sides(group: &FailoverDraft, draft: &Draft, problems: &Problems) {
    let roles: Option<Vec<Role>> = group
        .floating
        .iter()
        .map(|floating| interface_of(floating, draft)?.role.as_ref().map(|role| *role.get_ref()))
        .collect();
    let Some(roles) = roles else { return };
    for side in [Role::Outside, Role::Inside] {
        if roles.contains(&side) || roles.contains(&Role::Both) {
            continue;
        }
        let (message, help) = match side {
            Role::Inside => (
                "no address floats on the inside: real servers that have a director as their \
                 default gateway keep it when the other one takes over",
                "add the real servers' default gateway: { interface = \"inside\", address = \
                 \"10.0.0.1\" }",
            ),
            Role::Outside | Role::Both => (
                "no address floats on the outside: nothing is heard there of the other director",
                "add an address on the side of the clients, for example a VIP",
            ),
        };
        problems.add(Finding::warning(group.span.clone(), message).help(help));
    }
}

fn check_peers(group: &FailoverDraft, draft: &Draft, problems: &Problems) {
    for peer in &group.peers.items {
        let ip = *peer.get_ref();
        let on_link = |interface: &InterfaceDraft| {
            is_link_local(ip)
                || interface.addresses.items.iter().any(|net| net.get_ref().contains(&ip))
        };
        let own = draft.interfaces.iter().flat_map(|interface| &interface.addresses.items);
        if let Some(own) = own.clone().find(|own| own.get_ref().addr() == ip) {
            let message = format!("peers: {ip} is this director's own address");
            let finding = Finding::error(peer.span(), message).first_stated(own.span());
            problems.add(finding.help("state the other director's"));
        } else if !draft.interfaces.iter().any(on_link) {
            let message = format!("peers: {ip} is in no network of an interface");
            let help = "VRRP is not routed: state an address on a link that both directors have";
            problems.add(Finding::error(peer.span(), message).help(help));
        }
    }
    if group.peers.items.is_empty() || !group.peers.complete {
        return;
    }
    for floating in &group.floating {
        let (Some(interface), Some(address)) = (interface_of(floating, draft), &floating.address)
        else {
            continue;
        };
        let reaches = |peer: &Spanned<IpAddr>| {
            let peer = *peer.get_ref();
            let mut networks = interface.addresses.items.iter();
            peer.is_ipv4() == address.get_ref().is_ipv4()
                && (is_link_local(peer) || networks.any(|net| net.get_ref().contains(&peer)))
        };
        if !group.peers.items.iter().any(reaches) {
            let family = if address.get_ref().is_ipv4() { "IPv4" } else { "IPv6" };
            let message = format!("address: no peer is on {} over {family}", interface.name);
            let help = "add the other director's address there to `peers`; without `peers` both \
                        use multicast";
            problems.add(Finding::error(address.span(), message).help(help));
        }
    }
}

fn check_count(group: &FailoverDraft, problems: &Problems) {
    if group.floating.is_empty() {
        let message = "floating: there is no address";
        let help = "list the real servers' default gateway and an address on the outside";
        problems.add(Finding::error(group.span.clone(), message).help(help));
    } else if group.floating.len() > ADDRESSES {
        let message = format!("floating: more than {ADDRESSES} addresses");
        let help = "VIPs move with the group without being listed";
        problems.add(Finding::error(group.span.clone(), message).help(help));
    }
}

/// A VIP that is an interface's own stays where it is.
fn check_vips(group: &FailoverDraft, draft: &Draft, problems: &Problems) {
    if priority_of(group) == OWNER {
        return;
    }
    let own: Vec<&Spanned<IpNet>> =
        draft.interfaces.iter().flat_map(|interface| &interface.addresses.items).collect();
    for service in &draft.services {
        let Some(listen) = &service.listen else { continue };
        let Some(vip) = listen.get_ref().ip() else { continue };
        if let Some(own) = own.iter().find(|own| own.get_ref().addr() == vip) {
            let message = format!("listen: {vip} is an interface's own address: it does not float");
            let help = "use an address of its own for the service";
            let finding = Finding::warning(listen.span(), message);
            problems.add(finding.first_stated(own.span()).help(help));
        }
    }
}

/// Fills in the defaults. `None`: a required value is missing, which a check should have found.
pub(super) fn build(
    drafts: Vec<FailoverDraft>,
    interfaces: &[InterfaceConfig],
) -> Option<Option<FailoverConfig>> {
    let Some(draft) = drafts.into_iter().next() else { return Some(None) };
    let version = version_of(&draft);
    let floating = |entry: FloatingDraft| {
        let name = entry.interface?.into_inner();
        let place = interfaces.iter().position(|interface| interface.name == name)?;
        let interface = InterfaceId(u8::try_from(place).ok()?);
        Some(Floating { interface, address: entry.address?.into_inner() })
    };
    let or = |value: Value<Duration>, otherwise| value.map_or(otherwise, Spanned::into_inner);
    let usual = Announcements::default();
    let told = draft.announcements;
    let priority = draft.priority.map(Spanned::into_inner);
    Some(Some(FailoverConfig {
        name: draft.name?.into_inner(),
        router_id: draft.router_id?.into_inner(),
        version,
        priority: priority.unwrap_or(FailoverConfig::DEFAULT_PRIORITY),
        interval: or(draft.interval, FailoverConfig::default_interval(version)),
        preempt: draft.preempt.map_or(Preempt::Never, Spanned::into_inner),
        peers: draft.peers.items.into_iter().map(Spanned::into_inner).collect(),
        password: draft.password.map(Spanned::into_inner),
        pseudo_header: draft.pseudo_header.is_some_and(Spanned::into_inner),
        announcements: Announcements {
            repeat: told.repeat.map_or(usual.repeat, Spanned::into_inner),
            every: or(told.every, usual.every),
            refresh: or(told.refresh, usual.refresh),
            per_second: told.per_second.map_or(usual.per_second, Spanned::into_inner),
        },
        track: draft.track,
        notify: draft.notify.map(Spanned::into_inner),
        floating: draft.floating.into_iter().map(floating).collect::<Option<_>>()?,
    }))
}
