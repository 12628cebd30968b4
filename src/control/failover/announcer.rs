//! Gratuitous ARP and unsolicited Neighbor Advertisements of the active director: at the takeover,
//! again some times, and now and then while nothing happens; never more than so many a second.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use hashbrown::HashSet;

use crate::control::config::Announcements;
use crate::ids::InterfaceId;

/// An address and the link that is told of it.
pub(super) type Announcement = (InterfaceId, IpAddr);

/// After this time rounds may begin anew once more, however often others claim the addresses.
const ANEW_AFTER: Duration = Duration::from_millis(100);

/// What is announced when.
#[derive(Debug)]
pub(super) struct Announcer {
    settings: Announcements,
    /// All that the active director answers for.
    addresses: Vec<Announcement>,
    /// Those that wait for their turn.
    queue: VecDeque<Announcement>,
    /// Rounds that are to come, and when the next one begins; `None`: the director is not active.
    next: Option<(u8, Duration)>,
    /// When the rounds have begun anew last.
    began_anew: Option<Duration>,
    allowance: Allowance,
}

/// How much may be sent: so many a second, and a tenth of that at once.
#[derive(Debug)]
struct Allowance {
    /// The time that each takes of what was saved.
    each: Duration,
    /// Time that was saved, and its end.
    saved: Duration,
    until: Duration,
}

impl Allowance {
    /// The most that is saved, where one takes no more.
    const MOST: Duration = Duration::from_millis(100);

    fn new(per_second: u32) -> Self {
        let each = Duration::from_nanos(1_000_000_000_u64.div_ceil(u64::from(per_second.max(1))));
        Self { each, saved: Self::MOST.max(each), until: Duration::ZERO }
    }

    /// Takes as many as may be sent now, at most `wanted`.
    fn take(&mut self, now: Duration, wanted: usize) -> usize {
        let passed = now.saturating_sub(self.until);
        self.saved = self.saved.saturating_add(passed).min(Self::MOST.max(self.each));
        self.until = now;
        let allowed = u32::try_from(self.saved.as_nanos() / self.each.as_nanos());
        let count = allowed.unwrap_or(u32::MAX).min(u32::try_from(wanted).unwrap_or(u32::MAX));
        self.saved = self.saved.saturating_sub(self.each * count);
        count as usize
    }
}

impl Announcer {
    pub(super) fn new(settings: Announcements) -> Self {
        Self {
            allowance: Allowance::new(settings.per_second),
            settings,
            addresses: Vec::new(),
            queue: VecDeque::new(),
            next: None,
            began_anew: None,
        }
    }

    /// The active director answers for these from now on; new ones are announced at once.
    pub(super) fn set(&mut self, addresses: Vec<Announcement>) {
        if self.next.is_some() {
            let known: HashSet<_> = self.addresses.iter().collect();
            self.queue.extend(addresses.iter().filter(|address| !known.contains(address)));
        }
        let kept: HashSet<_> = addresses.iter().copied().collect();
        self.queue.retain(|address| kept.contains(address));
        self.addresses = addresses;
    }

    /// The director has become the active one.
    pub(super) fn begin(&mut self, now: Duration) {
        self.queue.clear();
        self.next = Some((self.settings.repeat, now));
    }

    /// The director is not the active one any more.
    pub(super) fn end(&mut self) {
        self.queue.clear();
        self.next = None;
    }

    /// Whoever is on any link may have been told otherwise: when what waits has left, all rounds begin
    /// anew; soon, where they have begun anew just now.
    pub(super) fn again(&mut self, now: Duration) {
        let Some((rounds, at)) = &mut self.next else { return };
        let anew = self.began_anew.map_or(now, |began| now.max(began + ANEW_AFTER));
        *rounds = self.settings.repeat;
        if anew < *at {
            *at = anew;
            self.began_anew = Some(anew);
        }
    }

    /// What is to be announced now, at most `room`.
    pub(super) fn due(&mut self, now: Duration, room: usize) -> Vec<Announcement> {
        let Some((rounds, at)) = self.next else { return Vec::new() };
        if now >= at && self.queue.is_empty() {
            self.queue.extend(&self.addresses);
            let Announcements { every, refresh, .. } = self.settings;
            let (rounds, pause) = match rounds {
                0 | 1 => (0, if refresh.is_zero() { Duration::MAX } else { refresh }),
                more => (more - 1, every),
            };
            self.next = Some((rounds, now.saturating_add(pause)));
        }
        let count = self.allowance.take(now, room.min(self.queue.len()));
        self.queue.drain(..count).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn addresses(count: u16) -> Vec<Announcement> {
        let of = |number: u16| {
            let [high, low] = number.to_be_bytes();
            (InterfaceId(low & 1), IpAddr::from([10, 0, high, low]))
        };
        (0..count).map(of).collect()
    }

    /// When how many were announced.
    fn run(announcer: &mut Announcer, from: u32, to: u32) -> Vec<(u32, usize)> {
        let each = |at: u32| (at, announcer.due(MS * at, 200).len());
        (from..to).map(each).filter(|(_, count)| *count > 0).collect()
    }

    #[test]
    fn all_are_told_at_once_and_again_and_refreshed() {
        let settings = Announcements { repeat: 3, ..Announcements::default() };
        let mut announcer = Announcer::new(settings);
        announcer.set(addresses(4));
        assert_eq!(run(&mut announcer, 0, 10), []);
        announcer.begin(MS * 10);
        let told = run(&mut announcer, 10, 130_000);
        assert_eq!(told, [(10, 4), (1010, 4), (2010, 4), (62_010, 4), (122_010, 4)]);
        announcer.end();
        assert_eq!(run(&mut announcer, 130_000, 260_000), []);
    }

    #[test]
    fn thousands_leave_at_the_rate_that_is_allowed() {
        let settings = Announcements { repeat: 1, per_second: 1000, ..Announcements::default() };
        let mut announcer = Announcer::new(settings);
        announcer.set(addresses(3000));
        announcer.begin(MS);
        let told = run(&mut announcer, 1, 5000);
        assert_eq!(told.iter().map(|(_, count)| count).sum::<usize>(), 3000);
        let (last, _) = told.last().unwrap();
        assert!((2850..3050).contains(last), "{last}");
        assert!(told.iter().all(|(_, count)| *count <= 101));
    }

    #[test]
    fn who_may_have_been_told_otherwise_is_told_again_as_after_a_takeover() {
        let settings = Announcements { repeat: 2, ..Announcements::default() };
        let mut announcer = Announcer::new(settings);
        announcer.set(addresses(4));
        announcer.again(MS);
        assert_eq!(run(&mut announcer, 1, 10), [], "it is not the active one");
        announcer.begin(MS * 10);
        assert_eq!(run(&mut announcer, 10, 5000), [(10, 4), (1010, 4)]);
        announcer.again(MS * 5000);
        announcer.again(MS * 5000);
        assert_eq!(run(&mut announcer, 5000, 10_000), [(5000, 4), (6000, 4)]);
        announcer.again(MS * 10_000);
        assert_eq!(run(&mut announcer, 10_000, 10_500), [(10_000, 4)]);
        announcer.again(MS * 10_500);
        assert_eq!(run(&mut announcer, 10_500, 15_000), [(10_500, 4), (11_500, 4)]);
    }

    #[test]
    fn who_claims_the_addresses_without_end_makes_the_rounds_begin_ten_times_a_second() {
        let settings = Announcements { repeat: 1, ..Announcements::default() };
        let mut announcer = Announcer::new(settings);
        announcer.set(addresses(4));
        announcer.begin(MS);
        let mut turn = |at: u32| {
            announcer.again(MS * at);
            announcer.due(MS * at, 200).len()
        };
        let told: Vec<_> = (1..2000).step_by(5).map(|at| (at, turn(at))).collect();
        let rounds: Vec<_> =
            told.iter().filter(|(_, count)| *count > 0).map(|(at, _)| at).collect();
        assert!((19..=21).contains(&rounds.len()), "{rounds:?}");
        // None has to wait for longer than that.
        assert!(rounds.windows(2).all(|pair| pair[1] - pair[0] <= 105), "{rounds:?}");
    }

    #[test]
    fn a_new_address_is_told_and_one_that_is_gone_is_not() {
        let mut announcer = Announcer::new(Announcements::default());
        announcer.set(addresses(2));
        announcer.begin(MS);
        assert_eq!(announcer.due(MS, 0), []);
        announcer.set(addresses(3)[1..].to_vec());
        assert_eq!(announcer.due(MS * 2, 200), addresses(3)[1..].to_vec());
    }

    /// What is announced within a minute, a turn every so often, while there is always more.
    fn in_a_minute(per_second: u32, turn: Duration) -> usize {
        let settings = Announcements { per_second, repeat: 1, ..Announcements::default() };
        let mut announcer = Announcer::new(settings);
        announcer.set(addresses(10_000));
        announcer.begin(MS);
        let times = std::iter::successors(Some(MS), |at| Some(*at + turn));
        let times = times.take_while(|at| *at <= MS * 60_000);
        times.map(|at| announcer.due(at, 200).len()).sum()
    }

    #[test]
    fn the_rate_is_held_however_often_there_is_a_turn() {
        for per_second in [10, 100] {
            for turn in [MS / 2, MS * 5, MS * 100] {
                let told = in_a_minute(per_second, turn);
                let most = per_second as usize * 60 + per_second as usize / 10;
                assert!((most * 98 / 100..=most).contains(&told), "{per_second} {turn:?}: {told}");
            }
        }
    }

    #[test]
    fn who_becomes_the_active_one_again_and_again_announces_no_more_than_is_allowed() {
        let settings = Announcements { per_second: 100, ..Announcements::default() };
        let mut announcer = Announcer::new(settings);
        announcer.set(addresses(1000));
        let mut told = 0;
        for at in (1..=10_000).step_by(10) {
            announcer.begin(MS * at);
            told += announcer.due(MS * at, 200).len();
            announcer.end();
        }
        assert!((990..=1010).contains(&told), "{told}");
    }

    #[test]
    fn of_ten_thousand_addresses_each_waits_once_and_in_order() {
        let mut announcer = Announcer::new(Announcements::default());
        let all = addresses(15_000);
        announcer.set(all[..10_000].to_vec());
        announcer.begin(MS);
        assert_eq!(announcer.due(MS, 50), all[..50]);
        // Half of them go, others come, and hosts may have been told otherwise.
        announcer.set(all[5000..].to_vec());
        announcer.again(MS);
        assert_eq!(announcer.queue, all[5000..].to_vec());
        announcer.queue.drain(..9990);
        announcer.again(MS * 2);
        let told = announcer.due(MS * 1000, 50);
        assert_eq!(told, all[14_990..], "what waits comes first");
        assert_eq!(announcer.due(MS * 2000, 50), all[5000..5050]);
    }
}
