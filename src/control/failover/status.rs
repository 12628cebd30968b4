//! What the failover thread shows of itself.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::backing::STANDBY_IS_THERE;
use super::election::Election;
use super::role::{Cause, Role};
use super::sync::Standby;
use super::{Heard, Turner};
use crate::control::config::{FailoverConfig, MacAddress};
use crate::dataplane::failover::Unheard;

/// The pair, as one of its directors sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FailoverStatus {
    /// The sync group.
    pub name: String,
    /// `master`, `backup`, `fault` or `stopped`.
    pub role: String,
    /// Seconds since 1970.
    pub since: u64,
    /// Why it is that.
    pub reason: String,
    /// What happens if this director, or the other one, fails.
    pub on_failure: String,
    /// A link that some addresses need and that is missing, while this director goes on with the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreached: Option<String>,
    /// The virtual router (VRID).
    pub router_id: u8,
    /// 2 or 3.
    pub version: u8,
    /// The priority that it sends.
    pub priority: u8,
    /// Seconds between advertisements.
    pub interval_seconds: f64,
    /// Seconds without an advertisement after which it takes over, at most.
    pub takeover_seconds: f64,
    /// Changes of the role since the start.
    pub transitions: u64,
    /// Advertisements sent.
    pub advertisements_sent: u64,
    /// Advertisements heard.
    pub advertisements_received: u64,
    /// Messages that were no advertisements for this group, by reason.
    pub advertisements_refused: Vec<RefusedAdvertisements>,
    /// Gratuitous ARP and unsolicited Neighbor Advertisements sent.
    pub announcements: u64,
    /// Connections told to the other director.
    pub connections_sent: u64,
    /// Connections that the other director has told.
    pub connections_received: u64,
    /// Messages about connections that were not understood, or of another group.
    pub connection_messages_refused: u64,
    /// Why one of them was refused last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_message_refused: Option<String>,
    /// What this director knows of the other one's connections: `off`, `telling` (it is the
    /// master), `asking`, `learning`, `learnt`, or `unanswered`: nobody tells everything.
    #[serde(default)]
    pub connections_known: String,
    /// Connections that wait to be told: the lag.
    pub connections_waiting: u64,
    /// Connections, and messages, that found a queue full; they come again.
    pub connections_lost: u64,
    /// Who stood by last, as it says itself where connections are synchronised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standby: Option<StandbyStatus>,
    /// Where it listens and speaks.
    pub links: Vec<LinkStatus>,
}

/// Another director, which takes over if the master fails.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StandbyStatus {
    /// Its address.
    pub address: String,
    /// Whether it was told all connections.
    pub knows_all: bool,
    /// Seconds since it said so.
    pub heard_seconds_ago: f64,
}

/// Messages that did not count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RefusedAdvertisements {
    /// Why.
    pub reason: String,
    /// How many.
    pub count: u64,
}

/// A virtual router of the group: an address family on an interface.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LinkStatus {
    /// The interface.
    pub interface: String,
    /// `ipv4` or `ipv6`.
    pub family: String,
    /// Whether there is a link.
    pub up: bool,
    /// The address that this director speaks from.
    pub source: String,
    /// The Ethernet address that the floating addresses have while it is the master.
    pub mac: String,
    /// The floating addresses there.
    pub floating: Vec<String>,
    /// Who was heard last.
    pub peer: Option<PeerStatus>,
}

/// Another director.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PeerStatus {
    /// Its address.
    pub address: String,
    /// Its priority; 0: it has given up.
    pub priority: u8,
    /// Seconds since it was heard.
    pub heard_seconds_ago: f64,
}

/// The status as the thread has shown it last: the thread never waits for those that read it.
#[derive(Debug, Default)]
pub(super) struct Shown(Mutex<Arc<FailoverStatus>>);

impl Shown {
    /// Before the thread has had its first turn.
    pub(super) fn of(group: &FailoverConfig) -> Self {
        Self(Mutex::new(Arc::new(FailoverStatus {
            name: group.name.clone(),
            role: Role::Stopped.name().to_owned(),
            since: UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs()),
            reason: "the director starts".to_owned(),
            router_id: group.router_id,
            version: group.version.number(),
            priority: group.priority,
            ..FailoverStatus::default()
        })))
    }

    pub(super) fn get(&self) -> Arc<FailoverStatus> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Shows another one; `false`: somebody reads in this moment.
    pub(super) fn put(&self, status: FailoverStatus) -> bool {
        let mut status = Arc::new(status);
        let mut shown = match self.0.try_lock() {
            Ok(shown) => shown,
            Err(TryLockError::Poisoned(shown)) => shown.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        std::mem::swap(&mut *shown, &mut status);
        // The one before is freed when the lock is: after it.
        drop(shown);
        true
    }
}

/// What the thread counts.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) announced: u64,
    pub(super) transitions: u64,
    refused: BTreeMap<Unheard, u64>,
}

impl Counts {
    pub(super) fn refuse(&mut self, why: Unheard) {
        *self.refused.entry(why).or_default() += 1;
    }

    fn refused(&self, why: Unheard) -> u64 {
        self.refused.get(&why).copied().unwrap_or(0)
    }
}

/// How things are.
pub(super) fn of(turner: &Turner, now: Duration, election: &Election) -> FailoverStatus {
    let Turner { group, links, health, counts, .. } = turner;
    let (role, since, cause) = election.state();
    let began = SystemTime::now().checked_sub(now.saturating_sub(since));
    let began = began.and_then(|began| began.duration_since(UNIX_EPOCH).ok());
    let peer = |(Heard { from, priority, .. }, at): (Heard, Duration)| PeerStatus {
        address: from.to_string(),
        priority,
        heard_seconds_ago: now.saturating_sub(at).as_secs_f64(),
    };
    let links: Vec<_> = (0..)
        .zip(links)
        .map(|(place, link)| LinkStatus {
            interface: link.name.clone(),
            family: link.family().to_owned(),
            up: health.is_up(link.interface),
            source: link.own.to_string(),
            mac: MacAddress(link.mac).to_string(),
            floating: link.floating.iter().map(ToString::to_string).collect(),
            peer: election.heard(place).map(peer),
        })
        .collect();
    let patience = election.longest_patience();
    let unreached = health.unreached();
    // Without synchronisation nobody says that it stands by, and such a link is needed as any.
    let is_last_choice =
        group.sync.is_some() && *cause == Cause::Broken(unreached.clone().unwrap_or_default());
    let on_failure = if role == Role::Fault && is_last_choice {
        LAST_CHOICE.to_owned()
    } else {
        on_failure(role, &links, election.lease(), (patience, election.unwatched()))
    };
    FailoverStatus {
        name: group.name.clone(),
        role: role.name().to_owned(),
        since: began.unwrap_or_default().as_secs(),
        reason: cause.to_string(),
        on_failure,
        unreached: unreached.filter(|_| role != Role::Fault),
        router_id: group.router_id,
        version: group.version.number(),
        priority: election.priority(),
        interval_seconds: group.interval.as_secs_f64(),
        takeover_seconds: patience.as_secs_f64(),
        transitions: counts.transitions,
        advertisements_sent: counts.sent,
        advertisements_received: counts.received,
        advertisements_refused: refused(turner),
        announcements: counts.announced,
        connections_sent: turner.sync_counts.sent.load(Relaxed),
        connections_received: turner.sync_counts.received.load(Relaxed),
        connection_messages_refused: turner.sync_counts.refused.load(Relaxed)
            + turner.channel.refused_synchronisation(),
        // Who asks looks these up: they are behind a lock.
        connection_message_refused: None,
        standby: None,
        connections_known: turner.sync_counts.knowledge().name().to_owned(),
        connections_waiting: turner.sync_counts.waiting.load(Relaxed),
        connections_lost: turner.channel.sync.lost(),
        links,
    }
}

fn refused(turner: &Turner) -> Vec<RefusedAdvertisements> {
    let of = |why: &Unheard| RefusedAdvertisements {
        reason: why.name().to_owned(),
        count: turner.counts.refused(*why) + turner.channel.refused(*why),
    };
    Unheard::ALL.iter().map(of).collect()
}

impl FailoverStatus {
    /// Of a pair whose other director has said that it stands by.
    pub(super) fn with(self, standby: Option<Standby>) -> Self {
        let Some(Standby { address, has_learnt, at }) = standby else { return self };
        let ago = at.elapsed();
        let mut on_failure = self.on_failure;
        if self.role == Role::Master.name() {
            let lease = self.interval_seconds * 3000.0;
            let knows = if has_learnt { "knows all" } else { "does not know all" };
            on_failure = if ago < STANDBY_IS_THERE {
                format!(
                    "{address} stands by, {knows} connections, and takes over {lease:.0} ms and \
                     its skew after the last advertisement"
                )
            } else {
                let ago = whole_seconds(ago);
                format!("{address} stood by {ago} ago: nobody is known to take over")
            };
        }
        let standby = StandbyStatus {
            address: address.to_string(),
            knows_all: has_learnt,
            heard_seconds_ago: ago.as_secs_f64(),
        };
        Self { on_failure, standby: Some(standby), ..self }
    }
}

/// Of who leaves the addresses to another one because it reaches more of them.
const LAST_CHOICE: &str =
    "this director takes over when no other one is heard, for what it reaches";

/// `patience`: how long a backup waits; `unwatched`: of the silence so far as much does not count.
fn on_failure(
    role: Role,
    links: &[LinkStatus],
    lease: Duration,
    (patience, unwatched): (Duration, Duration),
) -> String {
    let peer = links.iter().find_map(|link| link.peer.as_ref());
    let lease = lease.as_millis();
    match (role, peer) {
        (Role::Master, Some(peer)) => {
            let ago = Duration::try_from_secs_f64(peer.heard_seconds_ago).unwrap_or_default();
            let ago = whole_seconds(ago);
            format!(
                "{} was the master {ago} ago: if it stands by, it takes over {lease} ms and its \
                 skew after the last advertisement",
                peer.address
            )
        }
        (Role::Master, None) => {
            "no other director has been heard since the start: nobody is known to take over"
                .to_owned()
        }
        (Role::Backup, _) => {
            let patience_ms = patience.as_millis();
            let takes_over =
                format!("this director takes over {patience_ms} ms after the last advertisement");
            if unwatched > patience {
                let ms = unwatched.as_millis();
                format!("{takes_over}; of the silence {ms} ms do not count: it did not look then")
            } else {
                takes_over
            }
        }
        (Role::Fault, _) => "this director does not take over: something is broken".to_owned(),
        (Role::Stopped, _) => "this director has ended".to_owned(),
    }
}

fn whole_seconds(duration: Duration) -> impl std::fmt::Display {
    humantime::format_duration(Duration::from_secs(duration.as_secs()))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_backup_says_that_it_has_not_looked() {
        const SECOND: Duration = Duration::from_secs(1);
        let says = |unwatched| on_failure(Role::Backup, &[], SECOND, (SECOND, unwatched));
        assert_eq!(says(SECOND), "this director takes over 1000 ms after the last advertisement");
        assert_eq!(
            says(SECOND * 5),
            "this director takes over 1000 ms after the last advertisement; \
             of the silence 5000 ms do not count: it did not look then"
        );
    }

    #[test]
    fn the_master_says_who_stands_by_and_who_does_not_any_more() {
        let master = FailoverStatus {
            role: "master".into(),
            on_failure: "nobody".into(),
            interval_seconds: 0.1,
            ..FailoverStatus::default()
        };
        let now = Instant::now();
        let standby = |has_learnt, ago| Standby {
            address: [10, 0, 0, 3].into(),
            has_learnt,
            at: now.checked_sub(Duration::from_secs(ago)).unwrap(),
        };
        assert_eq!(master.clone().with(None), master);
        let says = |standby| master.clone().with(Some(standby)).on_failure;
        let takes_over = "connections, and takes over 300 ms and its skew after the last \
                          advertisement";
        assert_eq!(says(standby(true, 1)), format!("10.0.0.3 stands by, knows all {takes_over}"));
        let learns = format!("10.0.0.3 stands by, does not know all {takes_over}");
        assert_eq!(says(standby(false, 1)), learns);
        let gone = "10.0.0.3 stood by 1m 5s ago: nobody is known to take over";
        assert_eq!(says(standby(true, 65)), gone);
        // A backup speaks of itself.
        let backup = FailoverStatus { role: "backup".into(), ..master };
        let told = backup.with(Some(standby(true, 65)));
        assert_eq!((&*told.on_failure, told.standby.is_some()), ("nobody", true));
    }

    #[test]
    fn who_shows_the_status_does_not_wait_for_who_reads_it() {
        let shown = Shown::default();
        let status = |priority| FailoverStatus { priority, ..FailoverStatus::default() };
        assert!(shown.put(status(1)));
        let reading = shown.0.lock().unwrap();
        assert!(!shown.put(status(2)));
        assert_eq!(reading.priority, 1);
        drop(reading);
        // What was read may be kept.
        let kept = shown.get();
        assert!(shown.put(status(3)));
        assert_eq!((kept.priority, shown.get().priority), (1, 3));
    }
}
