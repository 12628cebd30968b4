//! Every state of an election, every event: what the director says and becomes at once, and when it
//! acts next by itself. The table is written after RFC 9568 section 6.4 (and RFC 3768 section 6.4,
//! whose skew is part of a second) and docs/failover.md, not after the code.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::net::IpAddr;
use std::time::Duration;

use pointsman::control::config::Preempt;
use pointsman::control::failover::{Action, Cause, Election, Heard, Order, Role, Rules};
use pointsman::wire::vrrp::Version;

/// The columns: everything that a director may be when something happens.
///
/// Of priority 156, whose skew is 39 hundredths of an interval: a backup that waits for silence, one
/// that preempts, one that preempts and has heard the worse one for too short or for long enough, one
/// that preempts and has not learnt the connections, and one that preempts and was released; the
/// master, and the master by the operator's order (254). The owner (255) before it has learnt, and
/// as the master. What is broken, of 156 and of the owner, and what has ended.
///
/// A cell has what happens at once and, after the colon, when the director acts next if nothing else
/// happens, in hundredths of an interval: a backup becomes the master, a master advertises. `B`, `M`,
/// `F`, `S`: it becomes that; a number: it advertises this priority on every link; `+`: it announces
/// the addresses on every link; `-`: it never acts. All timers were started 60 hundredths before.
///
/// Where this goes further than the RFC: a master says so once more before it yields; a release waits
/// for two leases longer; time in which nobody looked does not count; after a priority 0 the next
/// advertisement comes no later than it would have; who gives up while another is the master may have
/// announced the addresses just now. Of two that the operator had take over the one that was told so before yields.
const TABLE: &str = "
               waits    preempts delays   delayed  unlearnt released owner-waits master    owner     ordered   fault   owner-fault stopped
nothing        :280     :280     :280     :280     :280     :280     :241        :40       :40       :40       :-      :-          :-
0              :40      :40      :40      :40      :40      :40      :1          156,+:40  255,+:40  254,+:40  :-      :-          :-
lower          :340     :280     :340     :280     :340     :340     :301        156,+:40  255,+:40  254,+:40  :-      :-          :-
156-below      :340     :340     :340     :340     :340     :340     :301        156,+:40  255,+:40  254,+:40  :-      :-          :-
156-above      :340     :340     :340     :340     :340     :340     :301        156,B:340 255,+:40  254,+:40  :-      :-          :-
higher         :340     :340     :340     :340     :340     :340     :301        156,B:340 255,+:40  254,+:40  :-      :-          :-
254-below      :340     :340     :340     :340     :340     :340     :301        156,B:340 255,+:40  254,+:40  :-      :-          :-
254-above      :340     :340     :340     :340     :340     :340     :301        156,B:340 255,+:40  254,+:40  :-      :-          :-
255-below      :340     :340     :340     :340     :340     :340     :301        156,B:340 255,+:40  254,B:340 :-      :-          :-
255-above      :340     :340     :340     :340     :340     :340     :301        156,B:340 255,B:301 254,B:340 :-      :-          :-
stall          :280     :280     :280     :280     :280     :280     :241        B:340     B:301     B:340     :-      :-          :-
not-looking    :280     :280     :280     :280     :280     :280     :241        :39       :39       :39       :-      :-          :-
learnt         :280     :280     :280     :280     :280     :280     :241        :40       :40       :40       :-      :-          :-
breaks         F:-      F:-      F:-      F:-      F:-      F:-      F:-         0,F:-     0,F:-     0,F:-     :-      :-          :-
repaired       :280     :280     :280     :280     :280     :280     :241        :40       :40       :40       B:340   M,255:100   :-
release        :280     :280     :280     :280     :280     :280     :241        0,B:940   0,B:901   0,B:940   :-      :-          :-
takeover       M,254:100 M,254:100 M,254:100 M,254:100 M,254:100 M,254:100 M,255:100 :40   :40       :40       :-      :-          :-
stop           S:-      S:-      S:-      S:-      S:-      S:-      S:-         0,S:-     0,S:-     0,S:-     S:-     S:-         S:-
";

const INTERVAL: Duration = Duration::from_millis(100);

/// Of the director that is tested, on its two links.
const OWN: [[u8; 4]; 2] = [[192, 0, 2, 2], [10, 0, 0, 2]];

struct Bench {
    version: Version,
    election: Election,
    actions: Vec<Action>,
    now: Duration,
}

impl Bench {
    fn new(version: Version, priority: u8, preempt: Preempt, learns: bool) -> Self {
        let interval = hundredth(version) * 100;
        let links = OWN.map(IpAddr::from).to_vec();
        let rules = Rules { version, priority, interval, preempt, learns, links };
        let mut actions = Vec::new();
        let election = Election::new(rules, None, Duration::ZERO, &mut actions);
        let mut bench = Self { version, election, actions, now: Duration::ZERO };
        // The election has been there for a while.
        bench.run(200);
        bench
    }

    /// A state of the table.
    fn in_state(version: Version, state: &str) -> Self {
        let after = |hundredths| Preempt::After(hundredth(version) * hundredths);
        let (priority, preempt, learns) = match state {
            "waits" | "master" | "ordered" | "fault" | "stopped" => (156, Preempt::Never, false),
            "preempts" | "released" => (156, after(0), false),
            "delays" => (156, after(61), false),
            "delayed" => (156, after(60), false),
            "unlearnt" => (156, after(0), true),
            "owner-waits" => (255, Preempt::Never, true),
            "owner" | "owner-fault" => (255, Preempt::Never, false),
            _ => panic!("no state {state}"),
        };
        let mut bench = Self::new(version, priority, preempt, learns);
        match state {
            "delays" | "delayed" => bench.happens("lower"),
            "released" => {
                bench.happens("higher");
                bench.happens("release");
            }
            "master" => bench.run(200),
            "owner" => bench.run(100),
            "ordered" => bench.happens("takeover"),
            "fault" | "owner-fault" => bench.happens("breaks"),
            "stopped" => bench.happens("stop"),
            _ => bench.happens("higher"),
        }
        if state == "master" {
            // From its advertisement on.
            bench.actions.clear();
            while bench.actions.is_empty() {
                bench.run(1);
            }
        }
        bench.run(60);
        bench.actions.clear();
        bench
    }

    fn role(&self) -> Role {
        self.election.state().0
    }

    fn tick(&mut self, hundredths: u32, is_watching: bool) {
        self.now += hundredth(self.version) * hundredths;
        self.election.tick(self.now, is_watching, &mut self.actions);
    }

    fn run(&mut self, hundredths: u32) {
        (0..hundredths).for_each(|_| self.tick(1, true));
    }

    /// An advertisement, on all links. `last`: of its sender's addresses.
    fn hear(&mut self, priority: u8, last: u8) {
        for (link, [a, b, c, _]) in OWN.into_iter().enumerate() {
            let from = IpAddr::from([a, b, c, last]);
            let heard = Heard { from, priority, interval: hundredth(self.version) * 100 };
            self.election.hear(self.now, link, heard, &mut self.actions);
        }
    }

    /// A row of the table.
    fn happens(&mut self, event: &str) {
        let now = self.now;
        match event {
            "nothing" => {}
            "0" => self.hear(0, 3),
            // The address does not count where priorities differ.
            "lower" => self.hear(100, 3),
            "higher" => self.hear(200, 1),
            "156-below" => self.hear(156, 1),
            "156-above" => self.hear(156, 3),
            "254-below" => self.hear(254, 1),
            "254-above" => self.hear(254, 3),
            "255-below" => self.hear(255, 1),
            "255-above" => self.hear(255, 3),
            "stall" => self.tick(301, true),
            "not-looking" => self.tick(1, false),
            "learnt" => self.election.set_learnt(true),
            "breaks" => self.election.set_fault(now, Some("no link"), &mut self.actions),
            "repaired" => self.election.set_fault(now, None, &mut self.actions),
            "release" | "takeover" => {
                let order = if event == "release" { Order::Release } else { Order::TakeOver };
                let is_broken = self.role() == Role::Fault && order == Order::TakeOver;
                let answer = self.election.obey(now, order, &mut self.actions);
                assert_eq!(answer.is_err(), is_broken, "{answer:?}");
            }
            "stop" => self.election.stop(now, &mut self.actions),
            _ => panic!("no event {event}"),
        }
    }

    /// What it has done: the same on all links.
    fn done(&mut self) -> String {
        let actions = std::mem::take(&mut self.actions);
        let on = |here: usize| {
            let of = |action: &Action| match action {
                Action::Advertise { link, priority } => {
                    (*link == here).then(|| priority.to_string())
                }
                Action::Announce { link } => (*link == here).then(|| "+".to_owned()),
                Action::Enter(role, _) => Some(letter(*role).to_owned()),
            };
            actions.iter().filter_map(of).collect::<Vec<_>>().join(",")
        };
        let [one, other] = [on(0), on(1)];
        assert_eq!(one, other, "one side only: {actions:?}");
        one
    }

    /// When it acts by itself: a master advertises, a backup becomes the master.
    fn acts_next(&mut self) -> String {
        let was = self.role();
        let acts = |bench: &mut Self| {
            bench.run(1);
            !bench.actions.is_empty()
        };
        let Some(hundredths) = (1..2000).find(|_| acts(self)) else { return "-".to_owned() };
        let becomes = if was == Role::Master { "" } else { "M," };
        assert_eq!(self.done(), format!("{becomes}{}", self.election.priority()));
        hundredths.to_string()
    }
}

/// The smallest time here: 1 ms, or 10 ms, as an interval of version 2 has at least a second.
fn hundredth(version: Version) -> Duration {
    Duration::from_millis(if version == Version::V3 { 1 } else { 10 })
}

fn letter(role: Role) -> &'static str {
    match role {
        Role::Backup => "B",
        Role::Master => "M",
        Role::Fault => "F",
        Role::Stopped => "S",
    }
}

#[test]
fn every_event_in_every_state_does_what_the_rfc_and_the_manual_say() {
    let mut rows = TABLE.lines().filter(|line| !line.is_empty());
    let states: Vec<_> = rows.next().unwrap().split_whitespace().collect();
    let mut wrong = Vec::new();
    for row in rows {
        let mut cells = row.split_whitespace();
        let event = cells.next().unwrap();
        let cells: Vec<_> = cells.collect();
        assert_eq!(cells.len(), states.len(), "{event}");
        for (state, cell) in states.iter().zip(cells) {
            wrong.extend(
                [Version::V2, Version::V3].iter().filter_map(|v| differs(*v, state, event, cell)),
            );
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What another thing happens than a cell of the table has.
fn differs(version: Version, state: &str, event: &str, cell: &str) -> Option<String> {
    let mut bench = Bench::in_state(version, state);
    let (said, next) = cell.split_once(':').unwrap();
    bench.happens(event);
    let (done, role) = (bench.done(), bench.role());
    let became = said.split(',').rfind(|word| !word.is_empty() && "BMFS".contains(word));
    assert!(became.is_none_or(|became| became == letter(role)), "{state}, {event}");
    let acts = bench.acts_next();
    let is_so = done == said && acts == next;
    (!is_so).then(|| format!("{version:?}: {state}, {event}: {done}:{acts}, not {cell}"))
}

/// Version 3: those of the one that is heard. Version 2 has its own, others are refused.
#[test]
fn who_yields_waits_by_the_interval_of_the_better_one() {
    for (version, waits) in [(Version::V3, 1018), (Version::V2, 340)] {
        let mut bench = Bench::in_state(version, "master");
        for (link, [a, b, c, _]) in OWN.into_iter().enumerate() {
            let interval = hundredth(version) * 300;
            let heard = Heard { from: [a, b, c, 1].into(), priority: 200, interval };
            bench.election.hear(bench.now, link, heard, &mut bench.actions);
        }
        assert_eq!(bench.done(), "156,B");
        // Three intervals, and 100 of 256 parts of one.
        assert_eq!(bench.acts_next(), waits.to_string(), "{version:?}");
    }
}

/// Neither 0, which is to give up, nor 255, which is the owner's; and of the owner nothing.
#[test]
fn what_is_tracked_changes_the_priority_within_its_bounds_and_the_next_advertisement_says_so() {
    for (state, bonus, sends) in [
        ("master", -100, 56),
        ("master", 40, 196),
        ("master", -253, 1),
        ("master", 253, 254),
        ("owner", -100, 255),
    ] {
        let mut bench = Bench::in_state(Version::V3, state);
        bench.election.set_bonus(bonus);
        assert_eq!(bench.done(), "");
        bench.run(40);
        assert_eq!(bench.done(), sends.to_string(), "{state} {bonus}");
    }
    // A backup preempts whom it is better than now, and nobody else.
    for (bonus, waits) in [(-56, 361), (-55, 280)] {
        let mut bench = Bench::in_state(Version::V3, "preempts");
        bench.election.set_bonus(bonus);
        bench.happens("lower");
        assert_eq!(bench.acts_next(), waits.to_string(), "{bonus}");
    }
}

#[test]
fn it_says_why_it_became_what_it_is() {
    let from = IpAddr::from([192, 0, 2, 3]);
    let reasons = [
        ("waits", vec!["nothing"], Cause::Silence),
        ("waits", vec!["0"], Cause::Resigned { from }),
        ("preempts", vec!["lower"], Cause::Preempts { from, priority: 100 }),
        ("master", vec!["254-above"], Cause::Better { from, priority: 254 }),
        ("master", vec!["stall"], Cause::Stalled { silent: Duration::from_millis(361) }),
        ("master", vec!["breaks"], Cause::Broken("no link".into())),
        ("fault", vec!["repaired"], Cause::Repaired),
        ("owner-fault", vec!["repaired"], Cause::Owner),
        ("master", vec!["release"], Cause::Operator),
        ("waits", vec!["takeover"], Cause::Operator),
        ("master", vec!["stop"], Cause::Stops),
    ];
    for (state, events, cause) in reasons {
        let mut bench = Bench::in_state(Version::V3, state);
        for event in &events {
            bench.happens(event);
        }
        if bench.actions.is_empty() {
            bench.acts_next();
        }
        assert_eq!(bench.election.state().2, &cause, "{state} {events:?}");
    }
}

/// Two directors whose messages arrive at once. Times are hundredths of an interval.
fn tell(from: &mut Bench, to: &mut Bench, last: u8) {
    for action in std::mem::take(&mut from.actions) {
        if let Action::Advertise { link, priority } = action {
            let [a, b, c, _] = OWN[link];
            let heard = Heard { from: [a, b, c, last].into(), priority, interval: INTERVAL };
            to.election.hear(to.now, link, heard, &mut to.actions);
        }
    }
}

/// docs/failover.md: "take over now, whatever the priorities are".
#[test]
fn a_takeover_holds_against_one_that_has_been_told_the_same_before() {
    // The other one has the higher address.
    let mut director = Bench::in_state(Version::V3, "waits");
    let mut other = Bench::in_state(Version::V3, "ordered");
    // For longer than a lease: within one nobody could say who was told later.
    other.run(300);
    other.actions.clear();
    director.happens("takeover");
    for _ in 0..10 {
        tell(&mut director, &mut other, 2);
        tell(&mut other, &mut director, 3);
    }
    assert_eq!([director.role(), other.role()], [Role::Master, Role::Backup]);
}

/// RFC 9568 section 6.4.2: `Adver_Timer` is set to the interval when the director becomes active.
#[test]
fn a_master_that_was_one_a_moment_ago_advertises_after_one_interval() {
    let mut bench = Bench::in_state(Version::V3, "master");
    bench.happens("higher");
    bench.run(1);
    bench.actions.clear();
    bench.happens("takeover");
    assert_eq!((&*bench.done(), &*bench.acts_next()), ("M,254", "100"));
}

/// It is what it was before, and so is its skew.
#[test]
fn who_loses_what_the_operator_gave_it_waits_as_long_as_its_own_priority_says() {
    let mut bench = Bench::in_state(Version::V3, "ordered");
    bench.happens("stall");
    assert_eq!((&*bench.done(), &*bench.acts_next()), ("B", "340"));
}

/// What cannot be heard on one link says nothing: there it looks like a master for as long as it would
/// if it were one.
#[test]
fn who_gives_up_on_one_link_is_no_master_on_the_other() {
    let mut bench = Bench::in_state(Version::V3, "fault");
    bench.happens("higher");
    bench.run(10);
    assert!(bench.election.hears_a_master(bench.now));
    let [from, other] = [0, 1].map(|link: usize| {
        let [a, b, c, _] = OWN[link];
        IpAddr::from([a, b, c, 3])
    });
    let heard = |from, priority| Heard { from, priority, interval: INTERVAL };
    bench.election.hear(bench.now, 0, heard(from, 0), &mut bench.actions);
    assert!(!bench.election.hears_a_master(bench.now));
    // A third one has the addresses now.
    bench.run(1);
    bench.election.hear(bench.now, 1, heard(other, 100), &mut bench.actions);
    assert!(bench.election.hears_a_master(bench.now));
}

#[test]
fn a_backup_says_how_much_of_the_silence_does_not_count() {
    let mut bench = Bench::new(Version::V3, 156, Preempt::Never, false);
    let unwatched = |bench: &Bench| bench.election.unwatched();
    assert_eq!(unwatched(&bench), Duration::ZERO);
    (0..50).for_each(|_| bench.tick(1, false));
    assert_eq!(unwatched(&bench), INTERVAL / 2);
    // It stood still.
    bench.tick(150, true);
    assert_eq!(unwatched(&bench), INTERVAL * 2);
    bench.happens("higher");
    assert_eq!(unwatched(&bench), Duration::ZERO);
}

/// RFC 9568 section 6.4.3: an advertisement of priority 0 is answered at once, so that a third one
/// does not take over after its skew.
#[test]
fn who_gives_up_is_answered_also_right_after_it_has_claimed_to_be_the_master() {
    let mut bench = Bench::in_state(Version::V3, "master");
    bench.happens("lower");
    bench.run(10);
    bench.actions.clear();
    bench.happens("0");
    assert_eq!(bench.done(), "156,+");
}
