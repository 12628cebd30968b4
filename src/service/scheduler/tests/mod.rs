mod recordings;
mod rotations;
mod hashes;
mod limits;

use std::net::SocketAddr;

use super::*;
use crate::ids::TableVersion;
use crate::service::{
    Listen, Protocol, RealServer, Rules, Service, ServiceTable, SlotRegistry, VirtualService,
};
use crate::wire::U16;
use crate::wire::address::V4;

const VIP: V4 = [192, 0, 2, 100];

/// A service at [`VIP`], port 80.
fn service(kind: SchedulerKind, flags: SchedulerFlags, servers: Vec<RealServer>) -> VirtualService {
    let listen = Listen::at(Protocol::Tcp, SocketAddr::from((VIP, 80)));
    VirtualService {
        scheduler: kind,
        scheduler_flags: flags,
        servers,
        ..VirtualService::new("web", listen)
    }
}

fn server(last: u8, weight: u32) -> RealServer {
    RealServer::new(SocketAddr::from(([10, 0, 0, last], 80)), weight)
}

fn compile(service: &VirtualService, slots: &mut SlotRegistry) -> ServiceTable {
    let services = std::slice::from_ref(service);
    ServiceTable::compile(TableVersion(1), Rules::of(services), slots).unwrap()
}

/// The service of [`service`].
fn found(table: &ServiceTable) -> &Service<V4> {
    table.v4().find(VIP, U16::new(80), 6).unwrap()
}

/// From this client to the service.
fn key(client: V4, port: u16) -> FlowKey<V4> {
    FlowKey {
        source: client,
        destination: VIP,
        source_port: U16::new(port),
        destination_port: U16::new(80),
        protocol: 6,
    }
}

/// The last octet of the server that a client is given.
fn choice(service: &Service<V4>, loads: &ServerLoads, client: V4, port: u16) -> Option<u8> {
    let key = key(client, port);
    let asking = Asking { key: &key, now: Tick(0) };
    service.schedule(&asking, loads).map(|server| server.address[3])
}

#[test]
fn no_scheduler_chooses_a_server_of_weight_zero() {
    for kind in SchedulerKind::ALL {
        for flags in [SchedulerFlags::default(), SchedulerFlags { fallback: true, port: true }] {
            let loads = ServerLoads::new(16);
            let mut slots = SlotRegistry::new(16);
            let mut web = service(kind, flags, vec![server(11, 0), server(12, 0)]);
            let table = compile(&web, &mut slots);
            assert_eq!(choice(found(&table), &loads, [198, 18, 0, 1], 1024), None, "{kind}");
            web.servers.push(server(13, 1));
            let table = compile(&web, &mut slots);
            for last in 0..=255 {
                let chosen = choice(found(&table), &loads, [198, 18, 0, last], 1024);
                assert!(matches!(chosen, None | Some(13)), "{kind} {chosen:?}");
                let refuses = [SchedulerKind::DestinationHashing, SchedulerKind::SourceHashing];
                assert!(chosen.is_some() || refuses.contains(&kind), "{kind}");
            }
        }
    }
}

#[test]
fn a_service_without_servers_has_none_to_choose() {
    for kind in SchedulerKind::ALL {
        let mut slots = SlotRegistry::new(16);
        let flags = SchedulerFlags { fallback: true, port: true };
        let table = compile(&service(kind, flags, Vec::new()), &mut slots);
        let loads = ServerLoads::new(16);
        assert_eq!(choice(found(&table), &loads, [198, 18, 0, 1], 1024), None, "{kind}");
    }
}

#[test]
fn two_draws_favour_weight_and_fewer_connections() {
    let kind = SchedulerKind::PowerOfTwoChoices;
    let servers = vec![server(11, 1), server(12, 3), server(13, 0)];
    let table =
        compile(&service(kind, SchedulerFlags::default(), servers), &mut SlotRegistry::new(8));
    let loads = ServerLoads::new(8);
    let draw = |loads: &ServerLoads| {
        let mut chosen = [0_u32; 3];
        for _ in 0..4000 {
            let last = choice(found(&table), loads, [198, 18, 0, 1], 1024).unwrap();
            chosen[usize::from(last) - 11] += 1;
        }
        chosen
    };
    // Without connections both are equal: the first draw decides, three of four for 12.
    let [a, b, c] = draw(&loads);
    assert!((900..1100).contains(&a) && (2900..3100).contains(&b) && c == 0, "{a} {b} {c}");
    // With a busy 12, it is chosen only when drawn twice: nine of sixteen.
    let busy = found(&table).servers().iter().find(|server| server.address[3] == 12).unwrap();
    loads.of(busy.slot).unwrap().add(true);
    let [a, b, c] = draw(&loads);
    assert!((1650..1850).contains(&a) && (2150..2350).contains(&b) && c == 0, "{a} {b} {c}");
}
