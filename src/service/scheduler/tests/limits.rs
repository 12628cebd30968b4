//! Thresholds, and what lblc and lblcr remember.

use super::*;

const DAY_MS: u32 = 24 * 3600 * 1000;

/// Two servers with room for two connections each.
fn limited(kind: SchedulerKind, flags: SchedulerFlags) -> (ServiceTable, ServerLoads) {
    let limit = |server| RealServer { upper_threshold: 2, ..server };
    let servers = vec![limit(server(11, 8)), limit(server(12, 8))];
    let table = compile(&service(kind, flags, servers), &mut SlotRegistry::new(8));
    let loads = ServerLoads::new(8);
    table.set_thresholds(&loads);
    (table, loads)
}

#[test]
fn no_scheduler_chooses_an_overloaded_server() {
    for kind in SchedulerKind::ALL {
        let flags = SchedulerFlags { fallback: true, port: true };
        let (table, loads) = limited(kind, flags);
        let mut begun = 0;
        for number in 0..500 {
            let [high, low] = u16::to_be_bytes(number);
            let key = key([198, 18, high, low], number);
            let asking = Asking { key: &key, now: Tick(0) };
            let Some(server) = found(&table).schedule(&asking, &loads) else { continue };
            loads.of(server.slot).unwrap().add(false);
            begun += 1;
        }
        // Everything goes to one server of dh.
        let room = if kind == SchedulerKind::DestinationHashing { 2 } else { 4 };
        assert_eq!(begun, room, "{kind}");
        // One ends: one is below three quarters of two.
        let [first, ..] = found(&table).servers() else { panic!("servers") };
        let load = loads.of(first.slot).unwrap();
        if load.connections().1 > 0 {
            load.remove(false);
            let chosen = choice(found(&table), &loads, [198, 18, 0, 1], 1024);
            let expected = Some(first.address[3]);
            assert!(chosen == expected || kind == SchedulerKind::DestinationHashing, "{kind}");
        }
    }
}

#[test]
fn sh_and_mh_refuse_the_clients_of_an_overloaded_server_unless_they_may_fall_back() {
    for kind in [SchedulerKind::SourceHashing, SchedulerKind::MaglevHashing] {
        for fallback in [false, true] {
            let (table, loads) = limited(kind, SchedulerFlags { fallback, port: false });
            let client = [198, 18, 0, 7];
            let first = choice(found(&table), &loads, client, 1).unwrap();
            let servers = found(&table).servers();
            let server = servers.iter().find(|server| server.address[3] == first).unwrap();
            loads.of(server.slot).unwrap().add(true);
            loads.of(server.slot).unwrap().add(true);
            let other = if first == 11 { 12 } else { 11 };
            let expected = fallback.then_some(other);
            assert_eq!(choice(found(&table), &loads, client, 1), expected, "{kind}");
        }
    }
}

#[test]
fn thresholds_of_wrr_with_the_largest_weights_take_no_long_search() {
    let kind = SchedulerKind::WeightedRoundRobin;
    let limit = |server| RealServer { upper_threshold: 1, ..server };
    let servers = vec![limit(server(11, RealServer::MAX_WEIGHT)), server(12, 1)];
    let table =
        compile(&service(kind, SchedulerFlags::default(), servers), &mut SlotRegistry::new(8));
    let loads = ServerLoads::new(8);
    table.set_thresholds(&loads);
    for number in 0..1000 {
        let key = key([198, 18, 0, 1], number);
        let asking = Asking { key: &key, now: Tick(0) };
        let server = found(&table).schedule(&asking, &loads).unwrap();
        loads.of(server.slot).unwrap().add(true);
    }
    let connections = found(&table)
        .servers()
        .iter()
        .map(|server| (server.address[3], loads.of(server.slot).unwrap().connections().0));
    assert_eq!(connections.collect::<Vec<_>>(), [(12, 999), (11, 1)]);
}

#[test]
fn the_largest_weights_and_many_connections_are_compared_without_overflow() {
    let max = RealServer::MAX_WEIGHT;
    for kind in [
        SchedulerKind::WeightedLeastConnections,
        SchedulerKind::ShortestExpectedDelay,
        SchedulerKind::NeverQueue,
        SchedulerKind::LocalityLeastConnections,
        SchedulerKind::LocalityLeastConnectionsReplicated,
    ] {
        let servers = vec![server(11, max), server(12, max - 1)];
        let table =
            compile(&service(kind, SchedulerFlags::default(), servers), &mut SlotRegistry::new(8));
        let loads = ServerLoads::new(8);
        for server in found(&table).servers() {
            for _ in 0..100_000 {
                loads.of(server.slot).unwrap().add(true);
            }
        }
        assert_eq!(choice(found(&table), &loads, [198, 18, 0, 1], 1), Some(11), "{kind}");
    }
}

fn replicated() -> (ServiceTable, ServerLoads) {
    let kind = SchedulerKind::LocalityLeastConnectionsReplicated;
    let servers = vec![server(11, 1), server(12, 1)];
    let table =
        compile(&service(kind, SchedulerFlags::default(), servers), &mut SlotRegistry::new(8));
    (table, ServerLoads::new(8))
}

#[test]
fn a_destination_of_lblcr_gets_a_second_server_when_busy_and_loses_it_after_a_day() {
    let (table, loads) = replicated();
    let service = found(&table);
    let key = key([198, 18, 0, 1], 1);
    let at = |now: u32| {
        let server = service.schedule(&Asking { key: &key, now: Tick(now) }, &loads).unwrap();
        server.address[3]
    };
    let load = |last: u8| {
        let mut servers = service.servers().iter();
        loads.of(servers.find(|server| server.address[3] == last).unwrap().slot).unwrap()
    };
    assert_eq!(at(0), 12);
    load(12).add(true);
    // Not busy: no more active connections than its weight.
    assert_eq!(at(1), 12);
    load(12).add(true);
    assert_eq!(at(2), 11);
    load(11).add(false);
    // Both serve the destination now; the one with less to do is chosen.
    assert_eq!(at(3), 11);
    // Nothing changed for a day, though it was used: the busier one leaves the set.
    assert_eq!(at(DAY_MS / 2), 11);
    assert_eq!(at(DAY_MS + 3), 11);
    load(12).remove(true);
    load(12).remove(true);
    assert_eq!(at(DAY_MS + 4), 11, "12 is not in the set, or it would be chosen");
}

#[test]
fn a_destination_of_lblc_is_forgotten_after_a_day_without_use() {
    let kind = SchedulerKind::LocalityLeastConnections;
    let servers = vec![server(11, 1), server(12, 1)];
    let table =
        compile(&service(kind, SchedulerFlags::default(), servers), &mut SlotRegistry::new(8));
    let (service, loads) = (found(&table), ServerLoads::new(8));
    let key = key([198, 18, 0, 1], 1);
    let at = |now: u32| {
        service.schedule(&Asking { key: &key, now: Tick(now) }, &loads).unwrap().address[3]
    };
    assert_eq!(at(0), 12);
    let [twelve, _] = service.servers() else { panic!("two servers") };
    loads.of(twelve.slot).unwrap().add(true);
    assert_eq!(at(DAY_MS - 1), 12);
    assert_eq!(at(2 * DAY_MS - 2), 12);
    assert_eq!(at(3 * DAY_MS - 2), 11);
}
