//! The IPv6 groups that the director listens to, as the routers and snooping switches of its links
//! are told of them (Multicast Listener Discovery, RFC 3810, and RFC 2710 where they speak that
//! alone): when that changes, when a link comes up, and when they ask.
//!
//! A pair's directors both listen to the groups of what moves, so that no switch has to learn
//! anything at a takeover.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::config::Config;
use super::{failover, ownership};
use crate::dataplane::mailbox::{GROUPS, ListenerReport};
use crate::ids::InterfaceId;
use crate::wire::address::{Address, V6};
use crate::wire::ethernet::Mac;
use crate::wire::ipv6;
use crate::wire::mld::{Listening, Query};

/// How often a change is told, and at what distance (RFC 3810 sections 9.1 and 9.11).
const TELLINGS: u8 = 2;
const TELL_EVERY: Duration = Duration::from_secs(1);
/// How long a link counts as one of version 1 after a query of it (RFC 3810 section 9.12).
const VERSION_1_FOR: Duration = Duration::from_secs(260);
/// Between two answers on one link, whoever asks however often.
const ANSWER_EVERY: Duration = Duration::from_millis(100);
/// Reports that leave at once, and the time until more of them do: 3200 a second.
const AT_ONCE: usize = 64;
const REST: Duration = Duration::from_millis(20);

/// A group, and a link that it is listened to on.
type Listener = (InterfaceId, V6);

/// The solicited-node groups of all IPv6 addresses that the director, or the other one of its pair
/// while that is the active one, answers for, and the group of advertisements. Where there is no
/// such address there is no group. `macs`: of the interfaces.
fn groups(config: &Config, macs: &[Mac]) -> BTreeSet<Listener> {
    let owned = ownership::owned_addresses(config).into_iter();
    let owned = owned.filter_map(|(id, address)| Some((id, V6::from_ip(address)?)));
    let mut addresses: BTreeSet<Listener> = owned.collect();
    let links: BTreeSet<_> = addresses.iter().map(|(id, _)| *id).collect();
    let local = |id: InterfaceId| Some((id, ipv6::link_local(macs.get(id.index())?)));
    addresses.extend(links.into_iter().filter_map(local));
    let solicited = addresses.iter().map(|(id, address)| (*id, ipv6::solicited_node(address)));
    solicited.chain(failover::groups(config, macs)).collect()
}

/// Which links have yet to be told what.
#[derive(Debug, Default)]
pub(super) struct Membership {
    /// Of the interfaces.
    macs: Vec<Mac>,
    /// Which interfaces have a link.
    up: Vec<bool>,
    groups: BTreeSet<Listener>,
    /// What has changed, and how often that is still to be told.
    changes: BTreeMap<Listener, (Listening, u8)>,
    next: Duration,
    links: BTreeMap<InterfaceId, Link>,
    /// What is to be told, and when more of it may leave.
    waiting: VecDeque<(InterfaceId, ListenerReport)>,
    rested: Duration,
}

/// Who asks on a link.
#[derive(Debug, Default)]
struct Link {
    /// What is to be answered, and when.
    answer: Option<(Duration, Asked)>,
    /// When the next answer may leave.
    free: Duration,
    version_1_until: Duration,
}

/// Which groups are asked for.
#[derive(Debug)]
enum Asked {
    All,
    These(BTreeSet<V6>),
}

impl Membership {
    /// The director begins with this configuration. `macs`: of the interfaces.
    pub(super) fn at_start(config: &Config, macs: Vec<Mac>, now: Duration) -> Self {
        let mut membership = Self { macs, ..Self::default() };
        membership.adopt(now, config);
        membership
    }

    /// This configuration is in force from now on.
    pub(super) fn adopt(&mut self, now: Duration, config: &Config) {
        self.change(now, groups(config, &self.macs));
    }

    /// Which interfaces have a link now. Whoever is at the other end of a new one knows nothing.
    pub(super) fn see(&mut self, now: Duration, up: Vec<bool>) {
        let was_up = |id: InterfaceId| self.up.get(id.index()).is_some_and(|up| *up);
        let is_new = |id: InterfaceId| up.get(id.index()).is_some_and(|up| *up) && !was_up(id);
        let news: Vec<_> = self.groups.iter().filter(|(id, _)| is_new(*id)).copied().collect();
        if !news.is_empty() {
            self.tell(now, news.into_iter().map(|group| (group, Listening::Begins)));
        }
        self.up = up;
    }

    fn tell(&mut self, now: Duration, news: impl Iterator<Item = (Listener, Listening)>) {
        self.changes.extend(news.map(|(group, what)| (group, (what, TELLINGS))));
        self.next = now;
    }

    /// The director listens to these from now on.
    fn change(&mut self, now: Duration, groups: BTreeSet<Listener>) {
        let begun = groups.difference(&self.groups).map(|group| (*group, Listening::Begins));
        let ended = self.groups.difference(&groups).map(|group| (*group, Listening::Ends));
        let news: Vec<_> = begun.chain(ended).collect();
        if news.is_empty() {
            return;
        }
        self.tell(now, news.into_iter());
        self.groups = groups;
    }

    /// A link asks; `chance`: a random number, which says when within the time allowed to answer.
    pub(super) fn queried(&mut self, now: Duration, id: InterfaceId, query: Query, chance: u32) {
        let is_of_some = match query.group {
            Some(group) => self.groups.contains(&(id, group)),
            None => on_link(&self.groups, id).next().is_some(),
        };
        let link = self.links.entry(id).or_default();
        if query.is_version_1 {
            link.version_1_until = now + VERSION_1_FOR;
        }
        if !is_of_some {
            return;
        }
        let delay = (u64::from(query.within) * u64::from(chance)) >> 32;
        let at = (now + Duration::from_millis(delay)).max(link.free);
        let (due, asked) = link.answer.get_or_insert((at, Asked::These(BTreeSet::new())));
        *due = at.min(*due);
        match (query.group, &mut *asked) {
            (Some(group), Asked::These(groups)) => _ = groups.insert(group),
            (Some(_), Asked::All) => {}
            (None, _) => *asked = Asked::All,
        }
    }

    /// What is to be told now: no more than a worker takes at once.
    pub(super) fn due(&mut self, now: Duration) -> Vec<(InterfaceId, ListenerReport)> {
        if now < self.rested {
            return Vec::new();
        }
        // What is asked or changes meanwhile comes after what is being told, in one piece.
        if self.waiting.is_empty() {
            self.waiting = self.news(now);
        }
        let count = self.waiting.len().min(AT_ONCE);
        if count < self.waiting.len() {
            self.rested = now + REST;
        }
        self.waiting.drain(..count).collect()
    }

    /// What has changed, and then answers.
    fn news(&mut self, now: Duration) -> VecDeque<(InterfaceId, ListenerReport)> {
        let mut changed: BTreeMap<(InterfaceId, Listening), Vec<V6>> = BTreeMap::new();
        let mut answers = Vec::new();
        if now >= self.next && !self.changes.is_empty() {
            self.next = now + TELL_EVERY;
            for ((id, group), (what, left)) in &mut self.changes {
                changed.entry((*id, *what)).or_default().push(*group);
                *left -= 1;
            }
            self.changes.retain(|_, (_, left)| *left > 0);
        }
        for (id, link) in &mut self.links {
            if let Some((_, asked)) = link.answer.take_if(|(due, _)| *due <= now) {
                link.free = now + ANSWER_EVERY;
                // What has ended since is not listened to.
                let is_asked = |group: &V6| match &asked {
                    Asked::All => true,
                    Asked::These(groups) => groups.contains(group),
                };
                let groups = on_link(&self.groups, *id).filter(is_asked).collect();
                answers.push(((*id, Listening::Is), groups));
            }
        }
        let reports = |((id, listening), groups): (_, Vec<V6>)| {
            let is_old = self.links.get(&id).is_some_and(|link| now < link.version_1_until);
            let split = groups.chunks(if is_old { 1 } else { GROUPS });
            let of = |groups: &[V6]| {
                let groups = groups.iter().copied().collect();
                (id, ListenerReport { listening, is_version_1: is_old, groups })
            };
            split.map(of).collect::<Vec<_>>()
        };
        changed.into_iter().chain(answers).flat_map(reports).collect()
    }
}

/// The groups that are listened to on a link.
fn on_link(groups: &BTreeSet<Listener>, id: InterfaceId) -> impl Iterator<Item = V6> + '_ {
    groups.range((id, V6::default())..=(id, [0xff; 16])).map(|(_, group)| *group)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::test_config::{config, service};

    const MS: Duration = Duration::from_millis(1);
    const ON: InterfaceId = InterfaceId(0);
    const ALL: Query = Query { group: None, within: 1000, is_version_1: false };

    fn group(last: u8) -> V6 {
        [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, last]
    }

    fn listening(count: u8) -> BTreeSet<Listener> {
        (0..count).map(|last| (ON, group(last))).collect()
    }

    /// What is told at which time: of how many groups.
    fn told(
        membership: &mut Membership,
        times: std::ops::Range<u32>,
    ) -> Vec<(u32, Listening, usize)> {
        let at = |ms: u32| {
            let reports = membership.due(MS * ms).into_iter();
            reports.map(move |(_, report)| (ms, report.listening, report.groups.len()))
        };
        times.flat_map(at).collect()
    }

    #[test]
    fn a_change_is_told_twice_and_a_group_that_goes_too() {
        let mut membership = Membership::default();
        membership.change(MS, listening(9));
        let begins = |ms, count| (ms, Listening::Begins, count);
        let twice = [begins(1, 8), begins(1, 1), begins(1001, 8), begins(1001, 1)];
        assert_eq!(told(&mut membership, 0..5000), twice);
        membership.change(MS * 5000, listening(9));
        assert_eq!(told(&mut membership, 5000..7000), [], "nothing has changed");
        membership.change(MS * 7000, listening(7));
        let ends = |ms| (ms, Listening::Ends, 2);
        assert_eq!(told(&mut membership, 7000..9000), [ends(7000), ends(8000)]);
        // Gone, and back before that was told twice.
        membership.change(MS * 9000, listening(6));
        assert_eq!(told(&mut membership, 9000..9001), [(9000, Listening::Ends, 1)]);
        membership.change(MS * 9001, listening(7));
        assert_eq!(told(&mut membership, 9001..12_000), [begins(9001, 1), begins(10_001, 1)]);
    }

    #[test]
    fn whoever_is_plugged_in_is_told_everything() {
        let mut membership = Membership::default();
        membership.change(MS, listening(3));
        let begins = |ms| (ms, Listening::Begins, 3);
        let mut seen = |at: u32, up: [bool; 2]| {
            membership.see(MS * at, up.to_vec());
            told(&mut membership, at..at + 4000)
        };
        assert_eq!(seen(1, [false, true]), [begins(1), begins(1001)], "into the void");
        assert_eq!(seen(5000, [true, true]), [begins(5000), begins(6000)]);
        assert_eq!(seen(10_000, [true, true]), []);
        assert_eq!(seen(15_000, [false, false]), []);
        assert_eq!(seen(20_000, [false, true]), [], "there is no group there");
        assert_eq!(seen(25_000, [true, true]), [begins(25_000), begins(26_000)]);
    }

    #[test]
    fn a_query_is_answered_within_its_time() {
        let mut membership = Membership::default();
        membership.change(MS, listening(3));
        told(&mut membership, 0..2000);
        let is = |ms, count| (ms, Listening::Is, count);
        for (chance, delay) in [(0, 0), (1 << 31, 500), (u32::MAX, 999)] {
            let mut asked = |query| {
                membership.queried(MS * 10_000, ON, query, chance);
                told(&mut membership, 10_000..12_000)
            };
            assert_eq!(asked(ALL), [is(10_000 + delay, 3)]);
            assert_eq!(
                asked(Query { group: Some(group(1)), ..ALL }),
                [is((10_000 + delay).max(10_100 + delay), 1)]
            );
            assert_eq!(asked(Query { group: Some(group(9)), ..ALL }), [], "nobody listens to it");
        }
        membership.queried(MS * 20_000, InterfaceId(1), ALL, 0);
        assert_eq!(told(&mut membership, 20_000..22_000), [], "nor to anything there");
    }

    #[test]
    fn who_asks_without_end_gets_ten_answers_a_second() {
        let mut membership = Membership::default();
        membership.change(MS, listening(3));
        told(&mut membership, 0..2000);
        let mut answers = Vec::new();
        for ms in 10_000..11_000 {
            membership.queried(MS * ms, ON, Query { within: 0, ..ALL }, 0);
            answers.extend(told(&mut membership, ms..ms + 1));
        }
        let times: Vec<_> = answers.iter().map(|(ms, ..)| *ms).collect();
        assert_eq!(times, (10_000..11_000).step_by(100).collect::<Vec<_>>());
    }

    #[test]
    fn thousands_of_groups_are_told_bit_by_bit_and_what_ends_meanwhile_after_them() {
        let all = |count: u16| -> BTreeSet<Listener> {
            let group = |number: u16| {
                let [high, low] = number.to_be_bytes();
                [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, high, low]
            };
            (0..count).map(|number| (ON, group(number))).collect()
        };
        let mut membership = Membership::default();
        membership.change(MS, all(10_000));
        let first = told(&mut membership, 1..500);
        let whole = [(1, AT_ONCE), (21, AT_ONCE), (381, 1250 - 19 * AT_ONCE)];
        for (at, reports) in whole {
            assert_eq!(first.iter().filter(|(ms, ..)| *ms == at).count(), reports, "{at}");
        }
        assert_eq!(first.iter().map(|(.., groups)| groups).sum::<usize>(), 10_000);
        told(&mut membership, 500..2000);
        // Whoever asks without end is answered once more when everything was told.
        let mut answers = Vec::new();
        for ms in 10_000..11_000 {
            membership.queried(MS * ms, ON, Query { within: 0, ..ALL }, 0);
            if ms == 10_100 {
                membership.change(MS * ms, all(9999));
            }
            answers.extend(told(&mut membership, ms..ms + 1));
        }
        assert!(answers.chunk_by(|one, other| one.0 == other.0).all(|turn| turn.len() <= AT_ONCE));
        let ends = answers.iter().position(|(_, listening, _)| *listening == Listening::Ends);
        let before = answers.iter().take(ends.unwrap()).map(|(.., groups)| groups).sum::<usize>();
        assert_eq!(before, 10_000, "an answer is told to its end");
        let of_next = answers.iter().skip(ends.unwrap() + 1).take(1250);
        assert_eq!(of_next.map(|(.., groups)| groups).sum::<usize>(), 9999);
    }

    #[test]
    fn where_version_1_asks_it_is_answered_for_a_while() {
        let mut membership = Membership::default();
        membership.change(MS, listening(3));
        told(&mut membership, 0..2000);
        membership.queried(MS * 2000, ON, Query { is_version_1: true, ..ALL }, 0);
        let answer = membership.due(MS * 2000);
        assert_eq!(answer.len(), 3);
        assert!(answer.iter().all(|(_, report)| report.is_version_1 && report.groups.len() == 1));
        // A switch that speaks version 2 may ask beside it.
        membership.queried(MS * 3000, ON, ALL, 0);
        assert!(membership.due(MS * 3000).iter().all(|(_, report)| report.is_version_1));
        membership.queried(MS * 263_000, ON, ALL, 0);
        assert!(membership.due(MS * 263_000).iter().all(|(_, report)| !report.is_version_1));
    }

    #[test]
    fn a_director_listens_where_it_has_ipv6_addresses() {
        let macs = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];
        let mut config = config();
        assert_eq!(groups(&config, &macs), BTreeSet::new());
        config.interfaces[0].addresses.push("2001:db8::2/64".parse().unwrap());
        config.services = vec![service("web", "tcp://[2001:db8::ab:cdef]:80", &["10.0.0.11:80"])];
        let expected = ["ff02::1:ff00:1", "ff02::1:ff00:2", "ff02::1:ffab:cdef"];
        let expected =
            expected.map(|text| (ON, text.parse::<std::net::Ipv6Addr>().unwrap().octets()));
        assert_eq!(groups(&config, &macs), BTreeSet::from(expected));
    }
}
