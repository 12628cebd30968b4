use std::collections::HashMap as StdMap;

use proptest::prelude::*;

use super::*;
use crate::ids::InterfaceId;

const A: Mac = [2, 0, 0, 0, 0, 0xa];
const B: Mac = [2, 0, 0, 0, 0, 0xb];
const W: WorkerId = WorkerId(1);

fn neighbor(number: u8) -> Neighbor {
    Neighbor { interface: InterfaceId(0), address: [10, 0, 0, number].into() }
}

fn at(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Ticks at `ms` and returns what came of it.
fn tick(cache: &mut Neighbors, ms: u64) -> Vec<Action> {
    cache.tick(at(ms));
    cache.take_actions()
}

fn tell(number: u8, mac: Mac, permanent: bool, worker: Option<WorkerId>) -> Action {
    Action::Tell { neighbor: neighbor(number), mac, permanent, worker }
}

fn gone(number: u8) -> Action {
    Action::Unreachable { neighbor: neighbor(number), worker: None }
}

fn probe(number: u8, station: Mac, only_if_used: bool) -> Action {
    Action::Probe { neighbor: neighbor(number), station, only_if_used }
}

/// A cache in which neighbour 1 answered at 0 with address A.
fn reachable() -> Neighbors {
    let mut cache = Neighbors::new(16);
    cache.resolve(at(0), W, neighbor(1));
    cache.seen(at(0), neighbor(1), A, false);
    cache.take_actions();
    cache
}

#[test]
fn a_wanted_neighbour_is_asked_for_at_once_and_only_once() {
    let mut cache = Neighbors::new(16);
    cache.resolve(at(5), W, neighbor(1));
    cache.resolve(at(5), WorkerId(0), neighbor(1));
    cache.resolve(at(900), W, neighbor(1));
    assert_eq!(cache.take_actions(), [Action::Ask(neighbor(1))]);
    assert_eq!(Action::Ask(neighbor(1)).audience(), Audience::Any);
}

#[test]
fn an_answer_is_told_to_every_worker_once() {
    let mut cache = Neighbors::new(16);
    cache.resolve(at(0), W, neighbor(1));
    cache.take_actions();
    cache.seen(at(3), neighbor(1), A, false);
    assert_eq!(cache.take_actions(), [tell(1, A, false, None)]);
    assert_eq!(tell(1, A, false, None).audience(), Audience::All);
    cache.seen(at(4), neighbor(1), A, false);
    assert_eq!(cache.take_actions(), []);
}

#[test]
fn a_silent_neighbour_is_asked_three_times_then_given_up() {
    let mut cache = Neighbors::new(16);
    cache.resolve(at(0), W, neighbor(1));
    assert_eq!(cache.take_actions().len(), 1);
    assert_eq!(tick(&mut cache, 999), []);
    assert_eq!(tick(&mut cache, 1000), [Action::Ask(neighbor(1))]);
    assert_eq!(tick(&mut cache, 2000), [Action::Ask(neighbor(1))]);
    assert_eq!(tick(&mut cache, 3000), [gone(1)]);
}

#[test]
fn packets_during_the_hold_down_cause_one_question_after_it() {
    let mut cache = Neighbors::new(16);
    cache.resolve(at(0), W, neighbor(1));
    for ms in [1000, 2000, 3000] {
        tick(&mut cache, ms);
    }
    for ms in 3001..3050 {
        cache.resolve(at(ms), W, neighbor(1));
    }
    assert_eq!(cache.take_actions(), []);
    assert_eq!(tick(&mut cache, 4000), [Action::Ask(neighbor(1))]);
}

#[test]
fn a_failed_neighbour_that_nobody_wants_is_forgotten() {
    let mut cache = Neighbors::new(16);
    cache.resolve(at(0), W, neighbor(1));
    for ms in [1000, 2000, 3000, 4000] {
        tick(&mut cache, ms);
    }
    assert!(cache.entries.is_empty() && cache.deadlines.is_empty());
}

#[test]
fn a_late_answer_revives_a_failed_neighbour() {
    let mut cache = Neighbors::new(16);
    cache.resolve(at(0), W, neighbor(1));
    for ms in [1000, 2000, 3000] {
        tick(&mut cache, ms);
    }
    cache.seen(at(3500), neighbor(1), A, false);
    assert_eq!(cache.take_actions(), [tell(1, A, false, None)]);
}

#[test]
fn a_worker_that_lost_a_known_neighbour_is_told_alone() {
    let mut cache = reachable();
    cache.resolve(at(10), W, neighbor(1));
    assert_eq!(cache.take_actions(), [tell(1, A, false, Some(W))]);
    assert_eq!(tell(1, A, false, Some(W)).audience(), Audience::One(W));
}

#[test]
fn what_nobody_asked_for_is_not_remembered() {
    let mut cache = Neighbors::new(16);
    cache.seen(at(0), neighbor(1), A, false);
    assert_eq!(cache.take_actions(), []);
    assert!(cache.entries.is_empty());
}

#[test]
fn who_speaks_to_us_is_remembered() {
    let mut cache = Neighbors::new(16);
    cache.seen(at(0), neighbor(1), A, true);
    assert_eq!(cache.take_actions(), [tell(1, A, false, None)]);
    cache.resolve(at(1), W, neighbor(1));
    assert_eq!(cache.take_actions(), [tell(1, A, false, Some(W))]);
}

#[test]
fn strangers_get_half_of_the_cache_and_give_way() {
    let mut cache = Neighbors::new(4);
    for number in 1..=4 {
        cache.seen(at(0), neighbor(number), A, true);
    }
    assert_eq!(cache.entries.len(), 2);
    for number in 11..=14 {
        cache.resolve(at(1), W, neighbor(number));
        assert!(cache.entries.contains_key(&neighbor(number)));
    }
    assert!(!cache.entries.contains_key(&neighbor(1)));
}

#[test]
fn a_neighbour_may_change_its_ethernet_address() {
    let mut cache = reachable();
    cache.seen(at(10), neighbor(1), B, false);
    assert_eq!(cache.take_actions(), [tell(1, B, false, None)]);
}

#[test]
fn a_neighbour_that_changes_all_the_time_is_believed_a_few_times_a_second() {
    let mut cache = reachable();
    for ms in 0..1000 {
        cache.seen(at(ms), neighbor(1), if ms % 2 == 0 { B } else { A }, true);
    }
    let told = u32::try_from(cache.take_actions().len()).unwrap();
    assert!(told <= 2 * CHANGES_PER_SECOND, "{told} changes told");
}

#[test]
fn group_and_zero_addresses_are_no_stations() {
    let mut cache = reachable();
    cache.seen(at(1), neighbor(1), [0xff; 6], false);
    cache.seen(at(1), neighbor(1), [0x33, 0x33, 0, 0, 0, 1], false);
    cache.seen(at(1), neighbor(1), [0; 6], false);
    assert_eq!(cache.take_actions(), []);
}

#[test]
fn a_neighbour_is_probed_after_its_time_and_stays_when_it_answers() {
    let mut cache = reachable();
    assert_eq!(tick(&mut cache, 29_999), []);
    assert_eq!(tick(&mut cache, 30_000), [probe(1, A, true)]);
    assert_eq!(probe(1, A, true).audience(), Audience::All);
    cache.seen(at(30_002), neighbor(1), A, false);
    assert_eq!(tick(&mut cache, 60_001), []);
    assert_eq!(tick(&mut cache, 60_002), [probe(1, A, true)]);
}

#[test]
fn a_neighbour_that_misses_three_probes_is_forgotten() {
    let mut cache = reachable();
    let mut actions = Vec::new();
    for ms in [30_000, 31_000, 32_000, 33_000] {
        actions.extend(tick(&mut cache, ms));
    }
    let ask = probe(1, A, true);
    assert_eq!(actions, [ask, ask, ask, gone(1)]);
    assert!(cache.entries.is_empty());
}

#[test]
fn an_essential_neighbour_is_never_given_up() {
    let mut cache = Neighbors::new(16);
    cache.add_essential(at(0), neighbor(1));
    assert_eq!(cache.take_actions(), [Action::Ask(neighbor(1))]);
    assert_eq!(cache.unsettled().iter().copied().collect::<Vec<_>>(), [neighbor(1)]);
    let mut asked = Vec::new();
    for ms in (0..20_000).step_by(100) {
        let actions = tick(&mut cache, ms);
        asked.extend(actions.contains(&Action::Ask(neighbor(1))).then_some(ms));
    }
    assert_eq!(asked, [1000, 2000, 8000, 9000, 10_000, 16_000, 17_000, 18_000]);
    assert_eq!(cache.unsettled().len(), 0);
    cache.seen(at(20_000), neighbor(1), A, false);
    assert_eq!(cache.take_actions(), [tell(1, A, true, None)]);
    assert_eq!(tick(&mut cache, 50_000), [probe(1, A, false)]);
    assert_eq!(probe(1, A, false).audience(), Audience::Any);
}

#[test]
fn a_configured_neighbour_is_told_and_never_changes() {
    let mut cache = Neighbors::new(16);
    cache.add_permanent(neighbor(1), A);
    cache.add_essential(at(0), neighbor(1));
    assert_eq!(cache.take_actions(), [tell(1, A, true, None)]);
    cache.seen(at(1), neighbor(1), B, false);
    assert_eq!(tick(&mut cache, 1_000_000), []);
    assert_eq!(cache.unsettled().len(), 0);
    cache.resolve(at(1_000_001), W, neighbor(1));
    assert_eq!(cache.take_actions(), [tell(1, A, true, Some(W))]);
}

#[test]
fn a_full_cache_refuses_strangers_and_keeps_friends() {
    let mut cache = Neighbors::new(2);
    for number in 1..=3 {
        cache.resolve(at(0), W, neighbor(number));
    }
    let refused = Action::Unreachable { neighbor: neighbor(3), worker: Some(W) };
    assert_eq!(cache.take_actions().last(), Some(&refused));
    cache.seen(at(1), neighbor(1), A, false);
    for ms in [1000, 2000, 3000] {
        tick(&mut cache, ms);
    }
    // Neighbour 2 has failed: neighbour 3 may have its place, and the workers forget 2.
    cache.resolve(at(3001), W, neighbor(3));
    assert_eq!(cache.take_actions(), [gone(2), Action::Ask(neighbor(3))]);
    assert!(cache.entries.contains_key(&neighbor(1)));
}

#[derive(Clone, Copy, Debug)]
enum Happening {
    Resolve(u8),
    Seen(u8, u8, bool),
    Essential(u8),
    Pass(u16),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        any::<u8>().prop_map(Happening::Resolve),
        (any::<u8>(), 0..3_u8, any::<bool>())
            .prop_map(|(number, mac, answer)| Happening::Seen(number, mac, answer)),
        (0..4_u8).prop_map(Happening::Essential),
        (0..2000_u16).prop_map(Happening::Pass),
    ]
}

proptest! {
    #[test]
    fn questions_are_bounded_whatever_happens(
        happenings in prop::collection::vec(happening(), 0..600),
        resolution_ms in 1..20_u64,
    ) {
        let mut cache = Neighbors::new(100);
        let (mut now, mut total) = (0, 0);
        let mut last: StdMap<Neighbor, u64> = StdMap::new();
        for happening in happenings {
            let mut pass = 0;
            match happening {
                Happening::Resolve(number) => cache.resolve(at(now), W, neighbor(number)),
                Happening::Seen(number, mac, answer) => cache.seen(at(now), neighbor(number), [2, 0, 0, 0, 0, mac], answer),
                Happening::Essential(number) => cache.add_essential(at(now), neighbor(number)),
                Happening::Pass(ms) => pass = u64::from(ms),
            }
            let end = now + pass;
            loop {
                cache.tick(at(now));
                for action in cache.take_actions() {
                    let (Action::Ask(asked) | Action::Probe { neighbor: asked, .. }) = action else { continue };
                    total += 1;
                    if let Some(before) = last.insert(asked, now) {
                        prop_assert!(now - before >= 1000, "{asked:?} at {before} and {now} ms");
                    }
                }
                if now >= end { break }
                now = (now + resolution_ms).min(end);
            }
            prop_assert!(cache.deadlines.len() <= 100 + 4);
            prop_assert!(cache.entries.len() <= 100 + 4);
            let most = u64::from(SOLICITS_AT_ONCE) + now * u64::from(SOLICITS_PER_SECOND) / 1000;
            prop_assert!(total <= most, "{total} questions in {now} ms");
        }
    }
}
