//! Gratuitous ARP and unsolicited Neighbor Advertisements for the addresses that stay with this
//! director: some times after the start, and new ones when they come.

use std::net::IpAddr;
use std::time::Duration;

use crate::ids::InterfaceId;

/// How often and at what distance owned addresses are announced at the start.
const ANNOUNCEMENTS: u8 = 3;
const ANNOUNCE_EVERY: Duration = Duration::from_secs(1);
/// The addresses to announce, and when.
#[derive(Debug)]
pub(super) struct Announcements {
    /// All that the director answers for.
    owned: Vec<(InterfaceId, IpAddr)>,
    /// Those that the links have not been told of often enough.
    addresses: Vec<(InterfaceId, IpAddr)>,
    left: u8,
    next: Duration,
}

impl Announcements {
    /// All are announced from now on.
    pub(super) fn of(owned: Vec<(InterfaceId, IpAddr)>, now: Duration) -> Self {
        Self { addresses: owned.clone(), owned, left: ANNOUNCEMENTS, next: now }
    }

    /// The director answers for these from now on: the new ones are announced.
    pub(super) fn change(&mut self, now: Duration, owned: Vec<(InterfaceId, IpAddr)>) {
        if self.left == 0 {
            self.addresses.clear();
        }
        self.addresses.retain(|address| owned.contains(address));
        let news = owned.iter().filter(|address| !self.owned.contains(address));
        let before = self.addresses.len();
        self.addresses.extend(news);
        if self.addresses.len() > before {
            (self.left, self.next) = (ANNOUNCEMENTS, now);
        }
        self.owned = owned;
    }

    /// What is to be announced now.
    pub(super) fn due(&mut self, now: Duration) -> &[(InterfaceId, IpAddr)] {
        if self.left == 0 || now < self.next {
            return &[];
        }
        self.left -= 1;
        self.next = now + ANNOUNCE_EVERY;
        &self.addresses
    }
}
