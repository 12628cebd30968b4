//! rr and wrr, over changes of the list of servers.

use proptest::prelude::*;

use super::*;

/// The list of IPVS and its pointer: new servers come to the head; when the server that the
/// pointer is at goes, the pointer moves back.
#[derive(Debug, Default)]
struct Model {
    /// The last octet of the address, and the weight.
    list: Vec<(u8, u32)>,
    /// `None`: before the first.
    pointer: Option<usize>,
    threshold: u32,
    weighted: bool,
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl Model {
    fn add(&mut self, last: u8, weight: u32) {
        self.list.insert(0, (last, weight));
        self.pointer = self.pointer.map(|at| at + 1);
    }

    fn remove(&mut self, place: usize) {
        self.list.remove(place);
        self.pointer = match self.pointer {
            Some(at) if at >= place => at.checked_sub(1),
            other => other,
        };
    }

    fn step(&self) -> (u32, u32) {
        let divisor = self.list.iter().fold(0, |divisor, (_, weight)| gcd(*weight, divisor));
        let largest = self.list.iter().map(|(_, weight)| *weight).max().unwrap_or(0);
        (divisor, if largest == 0 { 0 } else { largest + 1 - divisor })
    }

    /// Weights may have changed.
    fn align(&mut self) {
        let (divisor, highest) = self.step();
        if highest == 0 || self.threshold == 0 {
            return;
        }
        if self.threshold > highest {
            self.threshold = highest;
        } else if divisor > 1 {
            self.threshold = self.threshold / divisor * divisor + 1;
        }
    }

    /// One server after the other is looked at.
    fn next(&mut self) -> Option<u8> {
        let (divisor, highest) = self.step();
        if highest == 0 {
            return None;
        }
        self.align();
        self.threshold = self.threshold.max(1);
        for _ in 0..1000 {
            let place = self.pointer.map_or(0, |at| at + 1);
            self.pointer = (place < self.list.len()).then_some(place);
            let Some((last, weight)) = self.list.get(place) else {
                let lower = self.threshold.saturating_sub(divisor);
                self.threshold = lower.checked_sub(1).map_or(highest, |_| lower);
                continue;
            };
            let needed = [1, self.threshold][usize::from(self.weighted)];
            if *weight >= needed {
                return Some(*last);
            }
        }
        panic!("no server among {:?}", self.list);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Pick(u8),
    Add(u32),
    /// The one at this place, of so many.
    Remove(prop::sample::Index),
    /// It comes back at once, at the end of the file.
    Return(prop::sample::Index),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (1..20_u8).prop_map(Step::Pick),
        2 => (0..7_u32).prop_map(Step::Add),
        2 => any::<prop::sample::Index>().prop_map(Step::Remove),
        1 => any::<prop::sample::Index>().prop_map(Step::Return),
    ];
    prop::collection::vec(step, 1..40)
}

fn goes_on_as_the_model(weighted: bool, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let kind = if weighted { SchedulerKind::WeightedRoundRobin } else { SchedulerKind::RoundRobin };
    let mut web = service(kind, SchedulerFlags::default(), Vec::new());
    let (mut slots, loads) = (SlotRegistry::new(256), ServerLoads::new(256));
    let mut model = Model { weighted, ..Model::default() };
    let mut table = compile(&web, &mut slots);
    let mut last = 0;
    for step in steps {
        match step {
            Step::Pick(times) => {
                for _ in 0..times {
                    let chosen = choice(found(&table), &loads, [198, 18, 0, 1], 1024);
                    prop_assert_eq!(chosen, model.next(), "{:?}", web.servers);
                }
                continue;
            }
            Step::Add(weight) => {
                last += 1;
                web.servers.push(server(last, weight));
                model.add(last, weight);
            }
            Step::Remove(_) | Step::Return(_) if web.servers.is_empty() => continue,
            Step::Remove(index) => {
                let place = index.index(web.servers.len());
                web.servers.remove(place);
                model.remove(web.servers.len() - place);
            }
            Step::Return(index) => {
                let place = index.index(web.servers.len());
                let back = web.servers.remove(place);
                model.remove(web.servers.len() - place);
                table = compile(&web, &mut slots);
                web.servers.push(back);
                let std::net::IpAddr::V4(address) = back.address.ip() else { continue };
                model.add(address.octets()[3], back.weight);
            }
        }
        drop(table);
        table = compile(&web, &mut slots);
    }
    Ok(())
}

proptest! {
    #[test]
    fn rr_goes_on_where_it_was_when_servers_come_and_go(steps in steps()) {
        goes_on_as_the_model(false, steps)?;
    }

    #[test]
    fn wrr_goes_on_where_it_was_when_servers_come_and_go(steps in steps()) {
        goes_on_as_the_model(true, steps)?;
    }
}

#[test]
fn a_rotation_goes_on_in_the_next_version_of_the_table() {
    let loads = ServerLoads::new(16);
    let mut slots = SlotRegistry::new(16);
    let web = service(
        SchedulerKind::RoundRobin,
        SchedulerFlags::default(),
        vec![server(11, 1), server(12, 1), server(13, 1)],
    );
    let seen = [(); 6].map(|()| {
        let table = compile(&web, &mut slots);
        choice(found(&table), &loads, [198, 18, 0, 1], 1024).unwrap()
    });
    assert_eq!(seen, [13, 12, 11, 13, 12, 11]);
}

#[test]
fn workers_with_the_old_and_the_new_table_share_one_rotation() {
    let loads = ServerLoads::new(16);
    let mut slots = SlotRegistry::new(16);
    let mut web = service(
        SchedulerKind::RoundRobin,
        SchedulerFlags::default(),
        vec![server(11, 1), server(12, 1), server(13, 1)],
    );
    let old = compile(&web, &mut slots);
    web.servers.push(server(14, 1));
    let new = compile(&web, &mut slots);
    let pick = |table: &ServiceTable| choice(found(table), &loads, [198, 18, 0, 1], 1024).unwrap();
    let seen = [&old, &new, &old, &new, &old, &new, &old].map(pick);
    assert_eq!(seen, [13, 12, 11, 14, 13, 12, 11]);
}
