//! Whether another director is known to work, so that this one can leave the addresses to it.

use std::time::Duration;

use super::election::Election;
use super::role::Role;

/// Who said longer ago that it stands by may not do so any more.
pub(super) const STANDBY_IS_THERE: Duration = Duration::from_secs(5);

/// What is known of others besides what the election knows.
#[derive(Debug, Default)]
pub(super) struct Backing {
    /// How often another one has said that it stands by and knows all connections.
    notes: u64,
    /// When it did so last.
    stood_by: Option<Duration>,
}

impl Backing {
    /// Whether somebody else works. `notes`: how often another one has said that it stands by and knows
    /// all connections.
    ///
    /// Whoever is no master trusts in one that it hears alone: of several that lack the same link each
    /// would leave it to the others.
    pub(super) fn is_there(&mut self, now: Duration, notes: u64, election: &Election) -> bool {
        if self.notes != notes {
            (self.notes, self.stood_by) = (notes, Some(now));
        }
        let (role, since, _) = election.state();
        let stands_by = self.stood_by.is_some_and(|at| {
            let is_trusted = match role {
                // By then others have heard this one, and have seen what they lack themselves.
                Role::Master => at >= since + election.longest_patience(),
                // As long as it may take to take over.
                Role::Fault => now.saturating_sub(since) <= election.lease() * 2,
                Role::Backup | Role::Stopped => false,
            };
            is_trusted && now.saturating_sub(at) < STANDBY_IS_THERE
        });
        stands_by || election.hears_a_master(now)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::control::config::Preempt;
    use crate::control::failover::{Action, Heard, Rules};
    use crate::wire::vrrp::{RESIGNED, Version};

    const MS: Duration = Duration::from_millis(1);

    fn election() -> Election {
        director(0)
    }

    /// One of several, the better the later.
    fn director(place: u8) -> Election {
        let rules = Rules {
            version: Version::V3,
            priority: 100 + place * 20,
            interval: MS * 100,
            preempt: Preempt::Never,
            learns: false,
            links: vec![address(place)],
        };
        Election::new(rules, None, Duration::ZERO, &mut Vec::new())
    }

    fn address(place: u8) -> IpAddr {
        [10, 0, 0, 3 + place].into()
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

    /// It is the master since 361 ms after its start.
    fn master() -> Election {
        let mut election = election();
        for at in (0..400).step_by(5) {
            election.tick(MS * at, true, &mut Vec::new());
        }
        assert_eq!(election.state().0, Role::Master);
        election
    }

    #[test]
    fn a_standby_is_there_for_five_seconds_after_it_has_said_so() {
        let (election, mut backing) = (master(), Backing::default());
        assert!(!backing.is_there(MS * 400, 1, &election), "it may not have seen what it lacks");
        assert!(!backing.is_there(MS * 1390, 1, &election));
        assert!(backing.is_there(MS * 1400, 2, &election));
        assert!(backing.is_there(MS * 6390, 2, &election));
        assert!(!backing.is_there(MS * 6410, 2, &election));
        assert!(backing.is_there(MS * 6420, 3, &election));
    }

    #[test]
    fn a_standby_that_has_not_taken_over_in_time_is_not_there() {
        let (mut election, mut backing) = (master(), Backing::default());
        assert!(backing.is_there(MS * 2000, 1, &election));
        election.set_fault(MS * 2000, Some("a link"), &mut Vec::new());
        assert!(backing.is_there(MS * 2600, 1, &election));
        assert!(!backing.is_there(MS * 2610, 2, &election));
        election.set_fault(MS * 2610, None, &mut Vec::new());
        assert_eq!(election.state().0, Role::Backup);
        assert!(!backing.is_there(MS * 2700, 3, &election), "another backup is no master");
    }

    /// Three directors that hear each other.
    struct Three {
        directors: [(Election, Backing); 3],
        notes: [u64; 3],
        roles: Vec<(Duration, usize, Role)>,
    }

    impl Three {
        /// They look, and hear what the others say.
        fn turn(&mut self, now: Duration, fault: Option<&str>) {
            let mut said = Vec::new();
            for (place, (election, backing)) in self.directors.iter_mut().enumerate() {
                let mut actions = Vec::new();
                let is_backed = backing.is_there(now, self.notes[place], election);
                election.set_fault(now, fault.filter(|_| is_backed), &mut actions);
                election.tick(now, true, &mut actions);
                said.extend(actions.into_iter().map(|action| (place, action)));
            }
            for (place, action) in said {
                self.tell(now, place, &action);
            }
        }

        fn tell(&mut self, now: Duration, by: usize, action: &Action) {
            match action {
                Action::Enter(role, _) => self.roles.push((now, by, *role)),
                Action::Advertise { priority, .. } => self.hear(now, by, *priority),
                Action::Announce { .. } => {}
            }
        }

        fn hear(&mut self, now: Duration, by: usize, priority: u8) {
            let from = address(u8::try_from(by).unwrap());
            let heard = Heard { from, priority, interval: MS * 100 };
            let others = self.directors.iter_mut().enumerate().filter(|(place, _)| *place != by);
            others.for_each(|(_, (other, _))| other.hear(now, 0, heard, &mut Vec::new()));
        }

        /// Those that stand by say so.
        fn note(&mut self) {
            for by in (0..3).filter(|by| self.directors[*by].0.state().0 == Role::Backup) {
                (0..3).filter(|place| *place != by).for_each(|place| self.notes[place] += 1);
            }
        }
    }

    /// A link that all of them lack at once costs one change, and no more come.
    #[test]
    fn of_several_that_lack_the_same_link_one_goes_on() {
        let directors = [0, 1, 2].map(|place| (director(place), Backing::default()));
        let mut three = Three { directors, notes: [0; 3], roles: Vec::new() };
        let cut = MS * 5000;
        for at in (5..60_000).step_by(5).map(|at| MS * at) {
            three.turn(at, (at >= cut).then_some("a link"));
            if at.subsec_millis() == 0 {
                three.note();
            }
        }
        let after: Vec<_> = three.roles.iter().filter(|(at, ..)| *at >= cut).collect();
        let masters: Vec<_> = after.iter().filter(|(.., role)| *role == Role::Master).collect();
        assert_eq!(masters.len(), 1, "{after:?}");
        assert!(after.iter().all(|(at, ..)| *at < cut + MS * 1000), "{after:?}");
        let roles = three.directors.map(|(election, _)| election.state().0);
        assert_eq!(roles.iter().filter(|role| **role == Role::Master).count(), 1, "{roles:?}");
    }
}
