//! The election of one director, event by event (RFC 9568 section 6.4).

use arrayvec::ArrayVec;

use super::*;
use crate::control::config::Preempt;
use crate::dataplane::failover::Hearing;
use crate::ids::{InterfaceId, WorkerId};
use crate::wire::vrrp::Version;

const MS: Duration = Duration::from_millis(1);
const INTERVAL: Duration = Duration::from_millis(100);
const OTHER: [&str; 2] = ["192.0.2.3", "10.0.0.3"];

struct Bench {
    election: Election,
    actions: Vec<Action>,
    now: Duration,
}

fn rules(priority: u8) -> Rules {
    Rules {
        version: Version::V3,
        priority,
        interval: INTERVAL,
        preempt: Preempt::Never,
        learns: false,
        links: vec!["192.0.2.2".parse().unwrap(), "10.0.0.2".parse().unwrap()],
    }
}

impl Bench {
    fn new(rules: Rules) -> Self {
        let mut actions = Vec::new();
        let election = Election::new(rules, None, Duration::ZERO, &mut actions);
        Self { election, actions, now: Duration::ZERO }
    }

    fn master(priority: u8) -> Self {
        let mut bench = Self::new(rules(priority));
        bench.run(500);
        assert_eq!(bench.role(), Role::Master);
        bench.actions.clear();
        bench
    }

    fn role(&self) -> Role {
        self.election.state().0
    }

    /// Some milliseconds pass.
    fn run(&mut self, ms: u32) {
        for _ in 0..ms {
            self.now += MS;
            self.election.tick(self.now, true, &mut self.actions);
        }
    }

    fn hear(&mut self, link: usize, priority: u8) {
        let heard = Heard { from: OTHER[link].parse().unwrap(), priority, interval: INTERVAL };
        self.election.hear(self.now, link, heard, &mut self.actions);
    }

    fn roles(&mut self) -> Vec<Role> {
        let role = |action: Action| match action {
            Action::Enter(role, _) => Some(role),
            Action::Advertise { .. } | Action::Announce { .. } => None,
        };
        std::mem::take(&mut self.actions).into_iter().filter_map(role).collect()
    }
}

fn advertise(priority: u8) -> [Action; 2] {
    [0, 1].map(|link| Action::Advertise { link, priority })
}

#[test]
fn a_backup_takes_over_after_three_intervals_and_its_skew() {
    for (priority, skew) in [(254, 1), (156, 40), (1, 100)] {
        let mut bench = Bench::new(rules(priority));
        bench.actions.clear();
        bench.run(300 + skew - 1);
        assert_eq!((bench.role(), bench.actions.len()), (Role::Backup, 0), "{priority}");
        bench.run(1);
        let [one, other] = advertise(priority);
        assert_eq!(bench.actions, [Action::Enter(Role::Master, Cause::Silence), one, other]);
    }
}

/// What is heard after a pause counts from then on, and the pause does not count on top of it.
#[test]
fn who_slept_and_hears_one_advertisement_waits_as_long_as_after_any() {
    for priority in [150, 0] {
        let mut bench = Bench::new(rules(100));
        bench.run(50);
        bench.now += Duration::from_secs(10);
        bench.hear(0, priority);
        bench.hear(1, priority);
        let patience = if priority == 0 { 61 } else { 361 };
        bench.election.tick(bench.now, true, &mut bench.actions);
        bench.run(patience - 1);
        assert_eq!(bench.role(), Role::Backup, "{priority}");
        bench.run(1);
        assert_eq!(bench.role(), Role::Master, "{priority}");
    }
}

#[test]
fn a_director_that_starts_broken_says_nothing_until_it_works() {
    let mut actions = Vec::new();
    let owner = rules(255);
    let mut election = Election::new(owner, Some("no link"), Duration::ZERO, &mut actions);
    election.tick(MS * 500, true, &mut actions);
    assert_eq!(actions, [Action::Enter(Role::Fault, Cause::Broken("no link".into()))]);
    election.set_fault(MS * 501, None, &mut actions);
    assert_eq!(election.state(), (Role::Master, MS * 501, &Cause::Owner));
}

#[test]
fn version_2_counts_its_skew_in_seconds() {
    let interval = Duration::from_secs(1);
    let mut bench = Bench::new(Rules { version: Version::V2, interval, ..rules(128) });
    bench.run(3499);
    assert_eq!(bench.role(), Role::Backup);
    bench.run(1);
    assert_eq!(bench.role(), Role::Master);
}

#[test]
fn a_master_that_is_heard_on_one_link_alone_keeps_the_backup_from_both() {
    let mut bench = Bench::new(rules(200));
    for _ in 0..50 {
        bench.run(100);
        bench.hear(1, 100);
    }
    assert_eq!(bench.role(), Role::Backup);
    bench.run(322);
    assert_eq!(bench.role(), Role::Master);
}

#[test]
fn the_interval_of_the_master_is_that_which_counts() {
    let mut bench = Bench::new(rules(156));
    for (link, other) in OTHER.iter().enumerate() {
        let from = other.parse().unwrap();
        let heard = Heard { from, priority: 200, interval: Duration::from_secs(1) };
        bench.election.hear(bench.now, link, heard, &mut bench.actions);
    }
    bench.run(3300);
    assert_eq!(bench.role(), Role::Backup);
    bench.run(100);
    assert_eq!(bench.role(), Role::Master);
}

#[test]
fn a_master_that_gives_up_is_followed_after_the_skew() {
    let mut bench = Bench::new(rules(156));
    bench.hear(0, 200);
    bench.hear(1, 200);
    bench.run(50);
    bench.hear(0, 0);
    bench.hear(1, 0);
    bench.run(39);
    assert_eq!(bench.role(), Role::Backup);
    bench.run(1);
    let cause = Cause::Resigned { from: OTHER[0].parse().unwrap() };
    assert_eq!(bench.election.state(), (Role::Master, bench.now, &cause));
}

#[test]
fn a_worse_master_stays_unless_this_one_preempts_and_then_after_the_delay() {
    for (preempt, after) in [
        (Preempt::Never, None),
        (Preempt::After(Duration::ZERO), Some(322)),
        (Preempt::After(Duration::from_secs(2)), Some(2322)),
    ] {
        let mut bench = Bench::new(Rules { preempt, ..rules(200) });
        let mut took = None;
        for ms in 0..5000 {
            if ms % 100 == 0 && bench.role() == Role::Backup {
                bench.hear(0, 100);
                bench.hear(1, 100);
            }
            bench.run(1);
            if bench.role() == Role::Master {
                took.get_or_insert(ms);
            }
        }
        let within = |at: i32| after.is_some_and(|after: i32| (after - 101..=after).contains(&at));
        assert!(
            took.is_none_or(within) && took.is_some() == after.is_some(),
            "{preempt:?} {took:?}"
        );
    }
}

#[test]
fn a_master_yields_to_a_better_one_and_to_the_higher_address_and_speaks_once_more() {
    for (priority, yields) in [(201, true), (200, true), (199, false)] {
        let mut bench = Bench::master(200);
        // 10.0.0.3 is more than 10.0.0.2.
        bench.hear(1, priority);
        if yields {
            let cause = Cause::Better { from: OTHER[1].parse().unwrap(), priority };
            let [one, other] = advertise(200);
            assert_eq!(bench.actions, [one, other, Action::Enter(Role::Backup, cause)]);
        } else {
            let again = Action::Advertise { link: 1, priority: 200 };
            assert_eq!(bench.actions, [again, Action::Announce { link: 1 }]);
        }
    }
}

#[test]
fn a_flood_of_worse_advertisements_is_not_answered_each_time() {
    let mut bench = Bench::master(200);
    for _ in 0..1000 {
        bench.hear(0, 1);
    }
    assert_eq!(bench.actions.len(), 2);
}

#[test]
fn an_owner_begins_as_the_master() {
    let bench = Bench::new(rules(255));
    assert_eq!(bench.actions[0], Action::Enter(Role::Master, Cause::Owner));
}

#[test]
fn what_is_broken_gives_up_both_sides_and_what_is_repaired_waits_its_turn() {
    let mut bench = Bench::master(200);
    bench.election.set_fault(bench.now, Some("no link"), &mut bench.actions);
    let [one, other] = advertise(0);
    let fault = Action::Enter(Role::Fault, Cause::Broken("no link".into()));
    assert_eq!(bench.actions, [one, other, fault]);
    bench.actions.clear();
    bench.run(5000);
    bench.hear(0, 1);
    assert_eq!(bench.actions, []);
    assert!(bench.election.obey(bench.now, Order::TakeOver, &mut bench.actions).is_err());
    bench.election.set_fault(bench.now, None, &mut bench.actions);
    assert_eq!(bench.roles(), [Role::Backup]);
    bench.run(321);
    assert_eq!(bench.role(), Role::Backup);
    bench.run(1);
    assert_eq!(bench.role(), Role::Master);
}

#[test]
fn a_master_that_stood_still_longer_than_others_wait_says_nothing_more() {
    let mut bench = Bench::master(200);
    bench.now += INTERVAL * 3 + MS;
    bench.election.tick(bench.now, true, &mut bench.actions);
    assert_eq!(bench.roles(), [Role::Backup]);
    bench.run(321);
    assert_eq!(bench.role(), Role::Backup);
}

#[test]
fn a_master_that_stood_still_does_not_assert_itself() {
    let mut bench = Bench::master(200);
    bench.now += INTERVAL * 3 + MS;
    bench.hear(0, 100);
    assert_eq!(bench.actions.len(), 1);
    assert_eq!(bench.roles(), [Role::Backup]);
}

#[test]
fn a_master_that_stood_still_shortly_goes_on() {
    let mut bench = Bench::master(200);
    bench.now += INTERVAL * 2;
    bench.election.tick(bench.now, true, &mut bench.actions);
    assert_eq!(bench.actions, advertise(200));
}

#[test]
fn a_backup_that_did_not_look_does_not_believe_in_silence() {
    let mut bench = Bench::new(rules(200));
    bench.run(100);
    bench.now += INTERVAL * 50;
    bench.election.tick(bench.now, true, &mut bench.actions);
    bench.run(200);
    assert_eq!(bench.role(), Role::Backup);
    for _ in 0..1000 {
        bench.now += MS;
        bench.election.tick(bench.now, false, &mut bench.actions);
    }
    assert_eq!(bench.role(), Role::Backup);
    bench.run(50);
    assert_eq!(bench.role(), Role::Master);
}

#[test]
fn the_operator_releases_and_takes_over() {
    let mut bench = Bench::master(100);
    bench.election.obey(bench.now, Order::Release, &mut bench.actions).unwrap();
    let [one, other] = advertise(0);
    assert_eq!(bench.actions, [one, other, Action::Enter(Role::Backup, Cause::Operator)]);
    bench.hear(0, 50);
    bench.hear(1, 50);
    bench.actions.clear();
    bench.election.obey(bench.now, Order::TakeOver, &mut bench.actions).unwrap();
    let [one, other] = advertise(254);
    assert_eq!(bench.actions, [Action::Enter(Role::Master, Cause::Operator), one, other]);
    bench.hear(0, 200);
    assert_eq!(bench.role(), Role::Master);
    bench.hear(0, 255);
    assert_eq!(bench.role(), Role::Backup);
    assert_eq!(bench.election.priority(), 100);
}

#[test]
fn a_released_director_takes_over_when_nobody_else_does() {
    let mut bench = Bench::master(200);
    bench.election.obey(bench.now, Order::Release, &mut bench.actions).unwrap();
    bench.run(900);
    assert_eq!(bench.role(), Role::Backup, "others have their time");
    bench.run(100);
    assert_eq!(bench.role(), Role::Master);
    // A preempting director does not take back what it has released.
    let preempt = Preempt::After(Duration::ZERO);
    let mut bench = Bench::new(Rules { preempt, ..rules(200) });
    bench.run(400);
    bench.election.obey(bench.now, Order::Release, &mut bench.actions).unwrap();
    for _ in 0..20 {
        bench.hear(0, 100);
        bench.hear(1, 100);
        bench.run(100);
    }
    assert_eq!(bench.role(), Role::Backup);
}

#[test]
fn a_director_that_ends_says_so() {
    let mut bench = Bench::master(200);
    bench.election.stop(bench.now, &mut bench.actions);
    let [one, other] = advertise(0);
    assert_eq!(bench.actions, [one, other, Action::Enter(Role::Stopped, Cause::Stops)]);
    bench.actions.clear();
    bench.run(1000);
    bench.hear(0, 1);
    assert_eq!(bench.actions, []);
}

/// A loop of the link brings back whatever is taken.
#[test]
fn a_loop_of_advertisements_does_not_keep_a_turn_from_its_end() {
    let channel = FailoverChannel::new(1, Hearing::on_no_link(51, Version::V3), || 0);
    let message = HeardMessage {
        interface: InterfaceId(0),
        source: [192, 0, 2, 3].into(),
        destination: [224, 0, 0, 18].into(),
        hop_limit: 255,
        payload: ArrayVec::new(),
    };
    assert!(channel.hear(WorkerId(0), message));
    let taken = heard_in_one_turn(&channel);
    let again = taken.map(|message| channel.hear(WorkerId(0), message));
    assert_eq!(again.count(), HEARD_IN_ONE_TURN);
    assert!(channel.heard().is_some(), "it comes in the next turn");
}

/// A device without a link keeps the last frames, and sends all of them when the link is back.
#[test]
fn what_a_director_said_before_it_gave_up_does_not_count_once_it_has() {
    let says = |link: usize, priority| {
        (link, Heard { from: OTHER[link].parse().unwrap(), priority, interval: INTERVAL })
    };
    let late = [says(0, 150), says(0, 150), says(1, 150), says(0, 0), says(1, 100), says(0, 100)];
    let counts = not_taken_back(late.to_vec());
    assert_eq!(counts, [says(1, 150), says(0, 0), says(1, 100), says(0, 100)]);
    let mut bench = Bench::master(100);
    for (link, heard) in not_taken_back(vec![says(0, 150), says(0, 0)]) {
        bench.election.hear(bench.now, link, heard, &mut bench.actions);
    }
    assert_eq!(bench.role(), Role::Master);
    // What came before may have told everybody otherwise.
    let again = Action::Advertise { link: 0, priority: 100 };
    assert_eq!(bench.actions, [again, Action::Announce { link: 0 }]);
}

/// A better director that preempts learns the connections first; and if the worse one is silent
/// meanwhile, it takes over with what it knows. The owner does the same.
#[test]
fn a_director_does_not_preempt_before_it_has_learnt_the_connections() {
    for priority in [200, 255] {
        let rules =
            || Rules { preempt: Preempt::After(Duration::ZERO), learns: true, ..rules(priority) };
        let round = |bench: &mut Bench| {
            bench.hear(0, 100);
            bench.hear(1, 100);
            bench.run(100);
            bench.role()
        };
        let mut bench = Bench::new(rules());
        for _ in 0..50 {
            assert_eq!(round(&mut bench), Role::Backup, "{priority}");
        }
        bench.election.set_learnt(true);
        let roles: Vec<_> = (0..5).map(|_| round(&mut bench)).collect();
        assert_eq!(roles.last(), Some(&Role::Master), "{priority}");

        let mut bench = Bench::new(rules());
        round(&mut bench);
        bench.run(500);
        assert_eq!(bench.role(), Role::Master, "{priority}");
    }
}
