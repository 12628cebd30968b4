//! Gratuitous ARP and unsolicited Neighbor Advertisements of the active director: at the takeover,
//! again some times, and now and then while nothing happens; never more than so many a second.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use crate::control::config::Announcements;
use crate::ids::InterfaceId;

/// An address and the link that is told of it.
pub(super) type Announcement = (InterfaceId, IpAddr);

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
    /// Until when what may be sent has been counted.
    counted: Duration,
    /// What may be sent now.
    allowed: f64,
}

impl Announcer {
    pub(super) fn new(settings: Announcements) -> Self {
        Self {
            settings,
            addresses: Vec::new(),
            queue: VecDeque::new(),
            next: None,
            counted: Duration::ZERO,
            allowed: 0.0,
        }
    }

    /// The active director answers for these from now on; new ones are announced at once.
    pub(super) fn set(&mut self, addresses: Vec<Announcement>) {
        if self.next.is_some() {
            let news = addresses.iter().filter(|address| !self.addresses.contains(address));
            self.queue.extend(news);
        }
        self.queue.retain(|address| addresses.contains(address));
        self.addresses = addresses;
    }

    /// The director has become the active one.
    pub(super) fn begin(&mut self, now: Duration) {
        self.queue.clear();
        self.next = Some((self.settings.repeat, now));
        // The first ones leave at once.
        self.allowed = f64::from(self.settings.per_second) / 10.0;
        self.counted = now;
    }

    /// The director is not the active one any more.
    pub(super) fn end(&mut self) {
        self.queue.clear();
        self.next = None;
    }

    /// Whoever is on this link may have been told otherwise.
    pub(super) fn again(&mut self, interface: InterfaceId) {
        if self.next.is_none() {
            return;
        }
        for address in self.addresses.iter().filter(|(on, _)| *on == interface) {
            if !self.queue.contains(address) {
                self.queue.push_back(*address);
            }
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
        let rate = f64::from(self.settings.per_second);
        let passed = now.saturating_sub(self.counted).as_secs_f64();
        self.counted = now;
        self.allowed = (self.allowed + passed * rate).min(rate / 10.0).max(1.0);
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 1 and a tenth of the rate"
        )]
        let count = (self.allowed as usize).min(room).min(self.queue.len());
        #[allow(clippy::cast_precision_loss, reason = "a small number")]
        let spent = count as f64;
        self.allowed -= spent;
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
    fn a_link_that_may_have_been_told_otherwise_is_told_again_and_once() {
        let settings = Announcements { repeat: 1, ..Announcements::default() };
        let mut announcer = Announcer::new(settings);
        announcer.set(addresses(4));
        announcer.again(InterfaceId(0));
        announcer.begin(MS);
        assert_eq!(announcer.due(MS, 200).len(), 4);
        announcer.again(InterfaceId(1));
        announcer.again(InterfaceId(1));
        let told = announcer.due(MS * 2, 200);
        assert_eq!(told.iter().map(|(on, _)| on.0).collect::<Vec<_>>(), [1, 1]);
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
}
