//! Key `sync` of `[[failover]]`: how directors tell each other of connections.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use toml::Spanned;

use super::check::{interface_of, moves};
use super::draft::{FailoverDraft, FloatingDraft, program};
use crate::control::config::diagnostic::Finding;
use crate::control::config::draft::{Draft, InterfaceDraft, Value};
use crate::control::config::model::{Config, InterfaceConfig, Role};
use crate::control::config::reader::{List, Problems, Section, Wrong, nearest};
use crate::control::config::value;
use crate::dataplane::failover::REFRESH;
use crate::ids::InterfaceId;

/// Connection synchronisation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncConfig {
    /// The interface that the messages leave by and come in by.
    pub interface: InterfaceId,
    /// Other directors; empty: whoever is in the multicast group of IPVS.
    pub peers: Vec<IpAddr>,
    /// How long a connection must have lasted before others are told of it. Default: not at all.
    pub after: Duration,
    /// The longest time in which all connections are told of again. Default 15 s.
    pub refresh: Duration,
    /// The file with the key that messages are encrypted and authenticated with.
    pub key_file: Option<PathBuf>,
}

/// A key: 32 octets.
pub type SyncKey = [u8; KEY];
const KEY: usize = 32;

impl SyncConfig {
    /// The director's addresses that messages come from: one for each family that is spoken.
    pub fn sources(&self, config: &Config) -> Vec<IpAddr> {
        let interface = config.interfaces.get(self.interface.index());
        let addresses = || interface.iter().flat_map(|known| &known.addresses);
        let floating = config.failover.iter().flat_map(|group| &group.floating);
        let stays = |own: &IpAddr| floating.clone().all(|floating| floating.address != *own);
        let first = |ipv4: bool| {
            let spoken = if self.peers.is_empty() {
                ipv4
            } else {
                self.peers.iter().any(|peer| peer.is_ipv4() == ipv4)
            };
            let own = || addresses().map(IpNet::addr).filter(|own| own.is_ipv4() == ipv4);
            own().find(&stays).or_else(|| own().next()).filter(|_| spoken)
        };
        [true, false].into_iter().filter_map(first).collect()
    }

    /// Reads the key; `None`: there is none to read.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn key(&self) -> Result<Option<SyncKey>, String> {
        self.key_file.as_deref().map(read_key).transpose()
    }
}

/// 64 hexadecimal digits.
fn read_key(path: &Path) -> Result<SyncKey, String> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| format!("{shown}: {error}"))?;
    let digits = text.trim();
    let mut key = [0; KEY];
    let is_whole = digits.len() == 2 * KEY && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    let octets = (0..digits.len()).step_by(2).map(|at| digits.get(at..at + 2));
    for (octet, pair) in key.iter_mut().zip(octets) {
        let number = pair.filter(|_| is_whole).and_then(|pair| u8::from_str_radix(pair, 16).ok());
        *octet = number.ok_or_else(|| {
            format!("{shown} is no key: expected 64 hexadecimal digits (openssl rand -hex 32)")
        })?;
    }
    if is_whole {
        Ok(key)
    } else {
        Err(format!("{shown} is empty: expected 64 hexadecimal digits"))
    }
}

/// `sync` as it is written.
#[derive(Default)]
pub(in crate::control::config) struct SyncDraft {
    off: bool,
    interface: Value<String>,
    peers: List<IpAddr>,
    after: Value<Duration>,
    refresh: Value<Duration>,
    key_file: Value<PathBuf>,
}

impl SyncDraft {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        if section.is_table("sync") {
            return section.section("sync").map(Self::read_table).unwrap_or_default();
        }
        let word = section.value("sync", |value| match value.as_bool() {
            Some(false) => Ok(None),
            Some(true) | None => value::name(value).map(Some).map_err(|wrong| {
                let help = "write the name of an interface, false, or { interface = \"inside\" }";
                Wrong::new(wrong.message).help(help)
            }),
        });
        let Some(word) = word else { return Self::default() };
        let (off, span) = (word.get_ref().is_none(), word.span());
        let interface = word.into_inner().map(|name| Spanned::new(span, name));
        Self { off, interface, ..Self::default() }
    }

    fn read_table(mut section: Section<'_>) -> Self {
        let longest = Duration::from_secs(3600);
        let draft = Self {
            off: false,
            interface: section.value("interface", value::name),
            peers: section.list("peers", "[\"10.0.0.3\"]", value::ip),
            after: section.value("after", value::duration(Duration::ZERO..=longest)),
            refresh: section.value("refresh", value::duration(Duration::from_secs(1)..=longest)),
            key_file: section.value("key_file", program),
        };
        section.finish();
        draft
    }

    /// Fills in the defaults; `None`: connections are not synchronised.
    pub(super) fn build(
        self,
        floating: &[FloatingDraft],
        interfaces: &[InterfaceConfig],
    ) -> Option<SyncConfig> {
        if self.off {
            return None;
        }
        let peers: Vec<IpAddr> = self.peers.items.into_iter().map(Spanned::into_inner).collect();
        let name = match &self.interface {
            Some(name) => Some(name.get_ref().as_str()),
            None => usual(floating, &peers, interfaces),
        };
        let place = interfaces.iter().position(|known| Some(known.name.as_str()) == name)?;
        Some(SyncConfig {
            interface: InterfaceId(u8::try_from(place).ok()?),
            peers,
            after: self.after.map_or(Duration::ZERO, Spanned::into_inner),
            refresh: self.refresh.map_or(REFRESH, Spanned::into_inner),
            key_file: self.key_file.map(Spanned::into_inner),
        })
    }
}

/// The interface of the first peer; else the first inside interface with a floating address and an
/// IPv4 address of its own, else any.
fn usual<'d>(
    floating: &'d [FloatingDraft],
    peers: &[IpAddr],
    interfaces: &'d [InterfaceConfig],
) -> Option<&'d str> {
    if let Some(peer) = peers.first() {
        let has = |known: &&InterfaceConfig| known.addresses.iter().any(|net| net.contains(peer));
        return interfaces.iter().find(has).map(|known| known.name.as_str());
    }
    let names = floating.iter().filter_map(|entry| entry.interface.as_ref());
    let names = names.map(|name| name.get_ref().as_str());
    let find = |name: &&str| interfaces.iter().find(|known| known.name == *name);
    let with_v4 = |name: &&str| {
        find(name).is_some_and(|known| known.addresses.iter().any(|net| net.addr().is_ipv4()))
    };
    let is_inside = |name: &&str| find(name).is_some_and(|known| known.role != Role::Outside);
    let mut usable = names.filter(with_v4);
    usable.clone().find(is_inside).or_else(|| usable.next())
}

/// Compares it with the rest of the file.
pub(super) fn check(group: &FailoverDraft, draft: &Draft, problems: &Problems) {
    let sync = &group.sync;
    let known: Vec<&str> =
        draft.interfaces.iter().map(|known| known.name.get_ref().as_str()).collect();
    let named = sync.interface.as_ref();
    let interface = named.and_then(|name| {
        draft.interfaces.iter().find(|known| known.name.get_ref() == name.get_ref())
    });
    match (named, interface) {
        (Some(name), None) if !known.is_empty() => {
            let message = format!("sync: there is no [interface.{name}]");
            let help = nearest(name.get_ref(), &known, "interfaces");
            problems.add(Finding::error(name.span(), message).help(help));
        }
        (Some(name), Some(interface))
            if interface.networks_known && sync.peers.items.is_empty() =>
        {
            let mut own = interface.addresses.items.iter();
            if !own.any(|net| net.get_ref().addr().is_ipv4()) {
                let message = format!("sync: {name} has no IPv4 address to send from");
                let help = "name another interface, or state the other director in `peers`";
                problems.add(Finding::error(name.span(), message).help(help));
            }
        }
        (Some(_) | None, _) => {}
    }
    // All messages leave by one interface.
    let first = sync.peers.items.first().filter(|_| named.is_none());
    let of_first = first.and_then(|first| interface_of_peer(*first.get_ref(), draft));
    for peer in &sync.peers.items {
        check_peer(peer, interface.or(of_first), draft, problems);
    }
    check_default(group, draft, problems);
}

/// Where nothing is said of it, messages go to IPVS's group, which IPv6 does not have.
fn check_default(group: &FailoverDraft, draft: &Draft, problems: &Problems) {
    let SyncDraft { off, interface, peers, .. } = &group.sync;
    let is_default = !off && interface.is_none() && peers.items.is_empty() && peers.complete;
    let may_have_v4 = |known: &InterfaceDraft| {
        let mut own = known.addresses.items.iter();
        !known.networks_known || own.any(|net| net.get_ref().addr().is_ipv4())
    };
    let may_be_used =
        |floating: &FloatingDraft| interface_of(floating, draft).is_none_or(may_have_v4);
    if !is_default || !group.floating_known {
        return;
    }
    if group.floating.iter().any(may_be_used) {
        return check_group(group, problems);
    }
    let message = "sync: no interface with a floating address has an IPv4 address: the other \
                   director is told of no connection";
    let help = "state the other director, for example sync = { peers = [\"fd00::3\"] }, or that \
                there is none to tell: sync = false";
    problems.add(Finding::warning(group.span.clone(), message).help(help));
}

/// Where advertisements go to peers alone, there may be no multicast.
fn check_group(group: &FailoverDraft, problems: &Problems) {
    let Some(first) = group.peers.items.first() else { return };
    let message = "peers: advertisements go to them alone, but connections are told to the group \
                   224.0.0.81";
    let help = format!(
        "say to whom, for example sync = {{ peers = [\"{}\"] }}; or the interface by which the \
         group is reached: sync = \"inside\"",
        first.get_ref()
    );
    problems.add(Finding::warning(first.span(), message).help(help));
}

/// The interface in whose network an address is; `None` also where that cannot be said.
fn interface_of_peer(ip: IpAddr, draft: &Draft) -> Option<&InterfaceDraft> {
    let reaches = |known: &&InterfaceDraft| {
        known.addresses.items.iter().any(|net| net.get_ref().contains(&ip))
    };
    let are_known = draft.interfaces.iter().all(|known| known.networks_known);
    draft.interfaces.iter().find(reaches).filter(|_| are_known)
}

fn check_peer(
    peer: &Spanned<IpAddr>,
    interface: Option<&InterfaceDraft>,
    draft: &Draft,
    problems: &Problems,
) {
    let ip = *peer.get_ref();
    let mut own = draft.interfaces.iter().flat_map(|known| &known.addresses.items);
    if let Some(own) = own.find(|own| own.get_ref().addr() == ip) {
        let message = format!("sync.peers: {ip} is this director's own address");
        let finding = Finding::error(peer.span(), message).first_stated(own.span());
        return problems.add(finding.help("state the other director's"));
    }
    if let Some(moves) = moves(ip, draft) {
        let message =
            format!("sync.peers: {ip} moves: nobody else has it while this director does");
        let finding = Finding::error(peer.span(), message).first_stated(moves);
        return problems.add(finding.help("state an address that stays with the other director"));
    }
    let reaches = |known: &InterfaceDraft| {
        !known.networks_known || known.addresses.items.iter().any(|net| net.get_ref().contains(&ip))
    };
    let is_reached = match interface {
        Some(interface) => reaches(interface),
        None => draft.interfaces.iter().any(reaches),
    };
    if !is_reached {
        let place = interface.map_or_else(
            || "an interface".to_owned(),
            |known| format!("[interface.{}]", known.name.get_ref()),
        );
        let message = format!("sync.peers: {ip} is in no network of {place}");
        let help = "state an address of the other director on a link that both have; messages \
                    leave by one interface, `interface` or that of the first peer";
        problems.add(Finding::error(peer.span(), message).help(help));
    }
}
