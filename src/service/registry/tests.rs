use hashbrown::HashMap;
use proptest::prelude::*;

use super::*;
use crate::service::{Rules, ServiceTable, VirtualService};

fn listen(service: u8) -> Listen {
    format!("tcp://192.0.2.{service}:80").parse().unwrap()
}

fn address(server: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, server], 80))
}

fn services(wanted: &Set<(u8, u8)>) -> Vec<VirtualService> {
    let mut services: Vec<_> = (1..=4)
        .map(|service| VirtualService::new(format!("s{service}"), listen(service)))
        .collect();
    let mut wanted: Vec<_> = wanted.iter().copied().collect();
    wanted.sort_unstable();
    for (service, server) in wanted {
        let servers = &mut services[usize::from(service) - 1].servers;
        servers.push(RealServer::new(address(server), 1));
    }
    services.retain(|service| !service.servers.is_empty());
    services
}

/// Compiles a table of one service with these servers.
fn compile(
    registry: &mut SlotRegistry,
    version: u64,
    (removal, servers): (Removal, &[u8]),
) -> ServiceTable {
    let mut web = VirtualService::new("web", listen(1));
    web.servers = servers.iter().map(|last| RealServer::new(address(*last), 1)).collect();
    web.removal = removal;
    let services: &[_] = if servers.is_empty() { &[] } else { &[web] };
    ServiceTable::compile(TableVersion(version), Rules::of(services), registry).unwrap()
}

#[derive(Clone, Debug)]
enum Step {
    /// A server of a service is wanted, or no more.
    Toggle(u8, u8),
    /// A connection to a server that the workers know.
    Begin(prop::sample::Index),
    /// One of the connections ends.
    End(prop::sample::Index),
    /// The workers acknowledge the last table.
    Acknowledge,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        5 => (1..=4_u8, 1..=40_u8).prop_map(|(service, server)| Step::Toggle(service, server)),
        3 => any::<prop::sample::Index>().prop_map(Step::Begin),
        3 => any::<prop::sample::Index>().prop_map(Step::End),
        2 => Just(Step::Acknowledge),
    ];
    prop::collection::vec(step, 200..1500)
}

/// What a test knows of the slots, beside the registry.
#[derive(Default)]
struct World {
    wanted: Set<(u8, u8)>,
    /// Servers of the last table, and of the one that the workers have.
    last: Set<(u8, u8)>,
    theirs: Set<(u8, u8)>,
    slots: HashMap<(u8, u8), ServerSlot>,
    /// One server for each connection.
    connections: Vec<(u8, u8)>,
}

impl World {
    /// Whose slots nobody else may have.
    fn owners(&self) -> Set<(u8, u8)> {
        let sets = self.last.iter().chain(&self.theirs);
        sets.chain(&self.connections).copied().collect()
    }

    fn check(&mut self, registry: &SlotRegistry) -> Result<(), TestCaseError> {
        let mut seen = HashMap::new();
        for (service, server) in self.owners() {
            let slot = registry.server(listen(service), address(server));
            let slot = slot.ok_or_else(|| TestCaseError::fail("a live server has no slot"))?;
            let other = seen.insert(slot, (service, server));
            prop_assert_eq!(other, None, "slot {} has two owners", slot);
            let before = self.slots.insert((service, server), slot);
            prop_assert!(before.is_none_or(|before| before == slot), "a live server moved");
        }
        let owners = self.owners();
        self.slots.retain(|server, _| owners.contains(server));
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn a_slot_has_one_owner_and_slots_do_not_run_out_while_the_live_servers_fit(steps in steps()) {
        const LIVE: usize = 24;
        // Those of the last table, of the workers' table, and of connections.
        let loads = ServerLoads::new(3 * LIVE);
        let mut registry = SlotRegistry::new(3 * LIVE);
        let mut world = World::default();
        let (mut version, mut acknowledged) = (TableVersion(0), TableVersion(0));
        for step in steps {
            match step {
                Step::Toggle(service, server) => {
                    let key = (service, server);
                    if !world.wanted.remove(&key) && world.wanted.len() < LIVE {
                        world.wanted.insert(key);
                    }
                    for slot in registry.reclaim(&loads, acknowledged) {
                        prop_assert!(loads.of(slot).unwrap().is_idle());
                    }
                    version.0 += 1;
                    let services = services(&world.wanted);
                    let table = ServiceTable::compile(version, Rules::of(&services), &mut registry);
                    prop_assert!(table.is_ok(), "{:?}", table.err());
                    // Workers see one version after the other.
                    world.last.clone_from(&world.wanted);
                    world.theirs.clone_from(&world.wanted);
                }
                Step::Begin(index) if !world.theirs.is_empty() => {
                    let known: Vec<_> = world.theirs.iter().copied().collect();
                    let (service, server) = known[index.index(known.len())];
                    let new = !world.connections.contains(&(service, server));
                    let distinct = world.connections.iter().collect::<Set<_>>().len();
                    if !new || distinct < LIVE {
                        let slot = registry.server(listen(service), address(server)).unwrap();
                        loads.of(slot).unwrap().add(true);
                        world.connections.push((service, server));
                    }
                }
                Step::End(index) if !world.connections.is_empty() => {
                    let at = index.index(world.connections.len());
                    let (service, server) = world.connections.swap_remove(at);
                    let slot = registry.server(listen(service), address(server)).unwrap();
                    loads.of(slot).unwrap().remove(true);
                }
                Step::Acknowledge => acknowledged = version,
                Step::Begin(_) | Step::End(_) => {}
            }
            if version.0 - acknowledged.0 > 20 {
                acknowledged = version;
            }
            world.check(&registry)?;
        }
    }
}

#[test]
fn thousands_of_services_that_come_and_go_leave_nothing_behind() {
    let (loads, mut registry) = (ServerLoads::new(4), SlotRegistry::new(4));
    for version in 1..=70_000_u64 {
        let [.., high, low] = version.to_be_bytes();
        let text = format!("tcp://198.51.{high}.{low}:{}", 1 + version / 65_536);
        let mut web = VirtualService::new("web", text.parse().unwrap());
        web.servers = vec![RealServer::new(address(1), 1)];
        registry.reclaim(&loads, TableVersion(version - 1));
        let table =
            ServiceTable::compile(TableVersion(version), Rules::of(&[web]), &mut registry).unwrap();
        assert!(table.is_external([198, 51, high, low].into()));
        assert!(registry.services.len() <= 2 && registry.externals().count() <= 2);
    }
}

#[test]
fn a_slot_waits_for_the_workers_the_connections_and_the_templates() {
    let (loads, mut registry) = (ServerLoads::new(4), SlotRegistry::new(4));
    compile(&mut registry, 1, (Removal::Finish, &[1, 2]));
    let slot = registry.server(listen(1), address(1)).unwrap();
    let load = loads.of(slot).unwrap();
    load.add(false);
    load.add_template();
    let table = compile(&mut registry, 2, (Removal::Finish, &[2]));
    assert_eq!((table.weight(slot), table.departed(slot)), (None, Some(Removal::Finish)));
    assert_eq!(registry.reclaim(&loads, TableVersion(2)), []);
    load.remove(false);
    assert_eq!(registry.reclaim(&loads, TableVersion(2)), []);
    load.remove_template();
    assert_eq!(registry.reclaim(&loads, TableVersion(1)), []);
    assert_eq!(registry.reclaim(&loads, TableVersion(2)), [slot]);
    assert_eq!(registry.server(listen(1), address(1)), None);
    assert_eq!(registry.reclaim(&loads, TableVersion(2)), []);
}

#[test]
fn a_server_that_comes_back_while_it_has_connections_has_its_slot() {
    let (loads, mut registry) = (ServerLoads::new(4), SlotRegistry::new(4));
    compile(&mut registry, 1, (Removal::Finish, &[1, 2]));
    let slot = registry.server(listen(1), address(1)).unwrap();
    loads.of(slot).unwrap().add(true);
    compile(&mut registry, 2, (Removal::Finish, &[2]));
    registry.reclaim(&loads, TableVersion(2));
    let table = compile(&mut registry, 3, (Removal::Finish, &[2, 1]));
    assert_eq!((table.weight(slot), table.departed(slot)), (Some(1), None));
    assert_eq!(registry.reclaim(&loads, TableVersion(3)), []);
}

#[test]
fn what_becomes_of_connections_is_the_services_word_unless_said_of_the_server() {
    let mut registry = SlotRegistry::new(8);
    compile(&mut registry, 1, (Removal::Reset, &[1, 2, 3]));
    let [one, two, three] =
        [1, 2, 3].map(|last| registry.server(listen(1), address(last)).unwrap());
    assert!(registry.retire(listen(1), address(2), Removal::Forget));
    assert!(!registry.retire(listen(1), address(9), Removal::Forget));
    let table = compile(&mut registry, 2, (Removal::Reset, &[3]));
    assert_eq!(table.last_removal(), TableVersion(2));
    let departed = [one, two, three].map(|slot| table.departed(slot));
    assert_eq!(departed, [Some(Removal::Reset), Some(Removal::Forget), None]);
    // What was said of a server that stayed means nothing later; a service that goes as a whole
    // is remembered.
    assert!(registry.retire(listen(1), address(3), Removal::Finish));
    let table = compile(&mut registry, 3, (Removal::Reset, &[3]));
    assert_eq!(table.last_removal(), TableVersion(2));
    let table = compile(&mut registry, 4, (Removal::Finish, &[]));
    assert_eq!(table.departed(three), Some(Removal::Reset));
    assert_eq!(table.last_removal(), TableVersion(4));
}

#[test]
fn a_table_that_cannot_be_compiled_takes_nothing_for_good() {
    let (loads, mut registry) = (ServerLoads::new(2), SlotRegistry::new(2));
    compile(&mut registry, 1, (Removal::Finish, &[1]));
    let mut web = VirtualService::new("web", listen(1));
    web.servers = (2..=9).map(|last| RealServer::new(address(last), 1)).collect();
    let refused = ServiceTable::compile(TableVersion(2), Rules::of(&[web]), &mut registry);
    assert_eq!(refused.err(), Some(CompileError::TooManyServers(2)));
    let table = compile(&mut registry, 2, (Removal::Finish, &[1]));
    assert_eq!(table.last_removal(), TableVersion(0));
    registry.reclaim(&loads, TableVersion(2));
    compile(&mut registry, 3, (Removal::Finish, &[1, 7]));
}
