use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Barrier;
use std::sync::atomic::AtomicUsize;
use std::thread;

use proptest::prelude::*;

use super::*;
use crate::wire::address::V4;
use crate::wire::prefix::mask;

const SERVICE: ServiceId = ServiceId(3);
const MINUTE: u32 = 60_000;

/// As random as a real one: with small numbers, parts of all hashes would be the same.
const SECRET: [u64; 4] =
    [0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03, 0x94d0_49bb_1331_11eb, 0xbf58_476d_1ce4_e5b9];

fn loads(capacity: usize) -> ServerLoads {
    ServerLoads::with_templates(64, Templates::new(capacity, SECRET))
}

fn key(client: u32) -> TemplateKey {
    TemplateKey::new::<V4>(SERVICE, client.to_be_bytes(), mask::<V4>(32))
}

fn ask(client: u32, now: u32) -> Ask {
    Ask { key: key(client), now: Tick(now), timeout_ms: MINUTE, hold_ms: 0 }
}

/// The server of a connection where it is this one's turn.
fn server(loads: &ServerLoads, ask: Ask, turn: u16) -> u16 {
    let (slot, _) =
        loads.templates().server(loads, &ask, |_| true, || Some(ServerSlot(turn))).unwrap();
    slot.0
}

fn count(loads: &ServerLoads, slot: u16) -> u32 {
    loads.of(ServerSlot(slot)).unwrap().templates()
}

fn sweep_all(loads: &ServerLoads, now: u32) {
    for start in (0..loads.templates().capacity()).step_by(WINDOW) {
        loads.sweep_templates((start, Tick(now)), |_, _| true);
    }
}

#[test]
fn later_connections_of_a_client_follow_its_first_one() {
    let loads = loads(64);
    assert_eq!(server(&loads, ask(1, 0), 11), 11);
    assert_eq!(server(&loads, ask(1, 10), 12), 11);
    assert_eq!(server(&loads, ask(2, 10), 12), 12);
    assert_eq!((count(&loads, 11), count(&loads, 12)), (1, 1));
    let other_service = TemplateKey { service: ServiceId(4), ..key(1) };
    assert_eq!(server(&loads, Ask { key: other_service, ..ask(1, 20) }, 13), 13);
    assert_eq!(loads.templates().len(), 3);
}

#[test]
fn each_new_connection_starts_the_time_anew() {
    let loads = loads(64);
    server(&loads, ask(1, 0), 11);
    assert_eq!(server(&loads, ask(1, MINUTE - 1), 12), 11);
    assert_eq!(server(&loads, ask(1, 2 * MINUTE - 2), 12), 11);
    assert_eq!(server(&loads, ask(1, 3 * MINUTE - 2), 12), 12, "its time is over");
    assert_eq!((count(&loads, 11), count(&loads, 12)), (0, 1));
}

#[test]
fn a_template_lives_while_a_connection_of_it_does() {
    let loads = loads(64);
    server(&loads, Ask { hold_ms: 2 * MINUTE, ..ask(1, 0) }, 11);
    assert_eq!(server(&loads, ask(1, 2 * MINUTE - 1), 12), 11, "until its timer is looked at");
    loads.templates().hold(&key(1), ServerSlot(11), Tick(10 * MINUTE));
    loads.templates().hold(&key(1), ServerSlot(11), Tick(9 * MINUTE));
    sweep_all(&loads, 9 * MINUTE);
    let rows: Vec<_> = loads.templates().rows(Tick(9 * MINUTE + 1)).collect();
    assert_eq!(rows[0].expires_ms, MINUTE - 1, "IPVS would look again in a minute");
    let rows: Vec<_> = loads.templates().rows(Tick(5 * MINUTE)).collect();
    assert_eq!(rows[0].expires_ms, MINUTE);
    assert_eq!(server(&loads, ask(1, 10 * MINUTE - 1), 12), 11);
    loads.templates().hold(&key(1), ServerSlot(12), Tick(20 * MINUTE));
    assert_eq!(server(&loads, ask(1, 12 * MINUTE), 12), 12, "of another server it knows nothing");
}

#[test]
fn a_template_whose_server_takes_nothing_new_is_not_used() {
    let loads = loads(64);
    server(&loads, ask(1, 0), 11);
    let accepts = |slot| slot != ServerSlot(11);
    let again = || Some(ServerSlot(12));
    let templates = loads.templates();
    let found = templates.server(&loads, &ask(1, 10), accepts, again);
    assert_eq!(found, Some((ServerSlot(12), true)));
    assert_eq!((count(&loads, 11), count(&loads, 12), templates.len()), (0, 1, 1));
    assert_eq!(server(&loads, ask(1, 20), 13), 12, "that it is good again changes nothing");
    let nobody = templates.server(&loads, &ask(9, 20), accepts, || None);
    assert_eq!((nobody, templates.len()), (None, 1));
}

#[test]
fn without_room_clients_are_scheduled_all_the_same() {
    let loads = loads(WINDOW);
    for client in 0..16 {
        server(&loads, ask(client, 0), 11);
    }
    let found = loads.templates().server(&loads, &ask(16, 1), |_| true, || Some(ServerSlot(12)));
    assert_eq!(found, Some((ServerSlot(12), false)));
    assert_eq!(server(&loads, ask(7, 1), 12), 11, "the others keep theirs");
    let late = MINUTE + 1 + GRACE_MS;
    let found = loads.templates().server(&loads, &ask(16, late), |_| true, || Some(ServerSlot(12)));
    assert_eq!(found, Some((ServerSlot(12), true)), "time makes room");
}

#[test]
fn what_is_over_or_of_no_use_is_cleared_and_leaves_no_count() {
    let loads = loads(256);
    for client in 0..100 {
        server(&loads, ask(client, client * 100), if client % 2 == 0 { 11 } else { 12 });
    }
    let now = MINUTE + GRACE_MS + 50 * 100;
    sweep_all(&loads, now);
    assert_eq!(loads.templates().len(), 49);
    assert_eq!((count(&loads, 11), count(&loads, 12)), (24, 25));
    for start in (0..256).step_by(WINDOW) {
        loads.sweep_templates((start, Tick(now)), |service, slot| {
            service == SERVICE && slot != ServerSlot(11)
        });
    }
    assert_eq!((count(&loads, 11), count(&loads, 12), loads.templates().len()), (0, 25, 25));
    loads.forget_templates(|service, _| service == ServiceId(4));
    assert_eq!(loads.templates().len(), 25);
    loads.forget_templates(|_, slot| slot == ServerSlot(12));
    assert_eq!((count(&loads, 12), loads.templates().len()), (0, 0));
    assert_eq!(loads.templates().rows(Tick(now)).count(), 0);
}

#[test]
fn a_listing_tells_clients_servers_and_times() {
    let loads = loads(64);
    let network = TemplateKey::new::<V4>(SERVICE, [198, 18, 19, 138], mask::<V4>(24));
    server(&loads, Ask { key: network, ..ask(0, 1000) }, 11);
    let address: Ipv6Addr = "2001:db8:1:2:3::9".parse().unwrap();
    let v6 = TemplateKey::new(ServiceId(4), address.octets(), mask::<[u8; 16]>(64));
    server(&loads, Ask { key: v6, ..ask(0, 2000) }, 12);
    let row = |service, client: &str, server, expires_ms| TemplateRow {
        service: ServiceId(service),
        client: client.parse().unwrap(),
        server: ServerSlot(server),
        expires_ms,
    };
    let mut rows: Vec<_> = loads.templates().rows(Tick(5000)).collect();
    rows.sort_by_key(|row| row.service);
    assert_eq!(rows, [row(3, "198.18.19.0", 11, 56_000), row(4, "2001:db8:1:2::", 12, 57_000)],);
}

#[test]
fn time_passes_its_wrap() {
    let loads = loads(64);
    server(&loads, ask(1, u32::MAX - 100), 11);
    assert_eq!(server(&loads, ask(1, 500), 12), 11);
    sweep_all(&loads, MINUTE);
    assert_eq!(loads.templates().len(), 1);
    sweep_all(&loads, MINUTE + 500 + GRACE_MS);
    assert_eq!(loads.templates().len(), 0);
}

proptest! {
    /// Against a map, with clients enough that windows overlap.
    #[test]
    fn one_worker_finds_what_a_map_finds(
        steps in proptest::collection::vec((0..40_u32, 0..2000_u32, any::<bool>()), 1..400),
    ) {
        let loads = loads(256);
        let mut model: HashMap<u32, (u16, u32)> = HashMap::new();
        let mut now = 0;
        for (turn, (client, pause, is_swept)) in (0_u16..).zip(steps) {
            now += pause * 10;
            if is_swept {
                sweep_all(&loads, now);
            }
            let turn = turn % 64;
            let entry = model.entry(client).or_insert((turn, 0));
            if now >= entry.1 {
                entry.0 = turn;
            }
            entry.1 = now + MINUTE;
            prop_assert_eq!(server(&loads, ask(client, now), turn), entry.0);
        }
        let rows: BTreeMap<_, _> =
            loads.templates().rows(Tick(now)).map(|row| (row.client, row.server.0)).collect();
        let live = model.iter().filter(|(_, (_, until))| now < *until);
        let live = live.map(|(client, (slot, _))| (IpAddr::from(client.to_be_bytes()), *slot));
        prop_assert_eq!(rows, live.collect::<BTreeMap<_, _>>());
        let counted: u32 = (0..64).map(|slot| count(&loads, slot)).sum();
        prop_assert_eq!(counted, loads.templates().len());
    }
}

/// Workers schedule the same clients at the same time, each with turns of its own: each client
/// has one server. Between rounds time passes, so that places are taken over and cleared.
#[allow(clippy::excessive_nesting, reason = "threads, rounds and clients")]
fn agree(workers: u16, capacity: usize, clients: u32, rounds: u32) {
    let loads = loads(capacity);
    let start = Barrier::new(workers.into());
    let undecided = AtomicUsize::new(0);
    let chosen: Vec<Vec<(u32, u32, u16)>> = thread::scope(|scope| {
        let work = |worker: u16| {
            let (loads, start, undecided) = (&loads, &start, &undecided);
            scope.spawn(move || {
                let mut chosen = Vec::new();
                for round in 0..rounds {
                    start.wait();
                    let now = round * (MINUTE + 2 * GRACE_MS);
                    for client in 0..clients {
                        let turn = ServerSlot(worker * 8 + u16::try_from(client % 8).unwrap());
                        let ask = ask(client, now);
                        let found =
                            loads.templates().server(loads, &ask, |_| true, || Some(turn)).unwrap();
                        if found.1 {
                            chosen.push((round, client, found.0.0));
                        } else {
                            undecided.fetch_add(1, Relaxed);
                        }
                        if client % 3 == u32::from(worker) {
                            loads.sweep_templates((client as usize * 7, Tick(now)), |_, _| true);
                        }
                    }
                }
                chosen
            })
        };
        let threads: Vec<_> = (0..workers).map(work).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut servers: BTreeMap<(u32, u32), BTreeSet<u16>> = BTreeMap::new();
    for (round, client, slot) in chosen.into_iter().flatten() {
        servers.entry((round, client)).or_default().insert(slot);
    }
    let torn: Vec<_> = servers.iter().filter(|(_, servers)| servers.len() != 1).collect();
    assert!(torn.is_empty(), "{torn:?}");
    assert_eq!(servers.len(), (rounds * clients) as usize);
    assert_eq!(undecided.load(Relaxed), 0, "there was room");
    let counted: u32 = (0..64).map(|slot| count(&loads, slot)).sum();
    assert_eq!((counted, loads.templates().len()), (clients, clients));
    assert_eq!(
        loads.templates().rows(Tick((rounds - 1) * (MINUTE + 2 * GRACE_MS))).count(),
        clients as usize
    );
}

#[test]
fn workers_agree_on_one_server_for_each_client() {
    agree(2, 4096, 700, 40);
    agree(3, 4096, 700, 20);
    agree(7, 1024, 40, 100);
}

#[test]
fn workers_agree_where_all_clients_share_one_window() {
    agree(4, WINDOW, 8, 1500);
}
