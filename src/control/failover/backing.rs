//! Whether another director is known to work, so that this one can leave the addresses to it.

use std::time::Duration;

use super::election::{Election, Role};

/// Who said longer ago that it stands by may not do so any more.
pub(super) const STANDBY_IS_THERE: Duration = Duration::from_secs(5);

/// What is known of others besides what the election knows.
#[derive(Debug, Default)]
pub(super) struct Backing {
    /// How often another one has said that it stands by.
    notes: u64,
    /// When it did so last.
    stood_by: Option<Duration>,
}

impl Backing {
    /// Whether somebody else works. `notes`: how often another one has said that it stands by.
    pub(super) fn is_there(&mut self, now: Duration, notes: u64, election: &Election) -> bool {
        let (role, since, _) = election.state();
        if self.notes != notes {
            (self.notes, self.stood_by) = (notes, Some(now));
        }
        // It has had the time to take over, and has not.
        if role == Role::Fault && now.saturating_sub(since) > election.longest_patience() {
            self.stood_by = None;
        }
        let is_recent = |at: Duration| now.saturating_sub(at) < STANDBY_IS_THERE;
        self.stood_by.is_some_and(is_recent) || election.hears_a_master(now)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::control::config::Preempt;
    use crate::control::failover::{Heard, Rules};
    use crate::wire::vrrp::{RESIGNED, Version};

    const MS: Duration = Duration::from_millis(1);

    fn election() -> Election {
        let rules = Rules {
            version: Version::V3,
            priority: 100,
            interval: MS * 100,
            preempt: Preempt::Never,
            learns: false,
            links: vec![IpAddr::from([10, 0, 0, 3])],
        };
        Election::new(rules, None, Duration::ZERO, &mut Vec::new())
    }

    fn heard(priority: u8) -> Heard {
        Heard { from: [10, 0, 0, 2].into(), priority, interval: MS * 100 }
    }

    #[test]
    fn a_master_is_there_until_it_is_silent_or_gives_up() {
        let (mut election, mut backing) = (election(), Backing::default());
        assert!(!backing.is_there(MS, 0, &election));
        election.hear(MS, 0, heard(150), &mut Vec::new());
        assert!(backing.is_there(MS * 300, 0, &election));
        assert!(!backing.is_there(MS * 400, 0, &election));
        election.hear(MS * 500, 0, heard(150), &mut Vec::new());
        election.hear(MS * 501, 0, heard(RESIGNED), &mut Vec::new());
        assert!(!backing.is_there(MS * 502, 0, &election));
    }

    #[test]
    fn a_standby_is_there_for_five_seconds_after_it_has_said_so() {
        let (election, mut backing) = (election(), Backing::default());
        assert!(backing.is_there(MS * 10, 1, &election));
        assert!(backing.is_there(MS * 5000, 1, &election));
        assert!(!backing.is_there(MS * 5010, 1, &election));
        assert!(backing.is_there(MS * 5020, 2, &election));
    }

    #[test]
    fn a_standby_that_has_not_taken_over_in_time_is_not_there() {
        let (mut election, mut backing) = (election(), Backing::default());
        election.set_fault(MS * 10, Some("a link"), &mut Vec::new());
        assert!(backing.is_there(MS * 20, 1, &election));
        assert!(backing.is_there(MS * 300, 1, &election));
        assert!(!backing.is_there(MS * 400, 1, &election));
        election.set_fault(MS * 400, None, &mut Vec::new());
        assert!(!backing.is_there(MS * 500, 1, &election), "it is not trusted again at once");
        assert!(backing.is_there(MS * 1000, 2, &election), "it has said so again");
    }
}
