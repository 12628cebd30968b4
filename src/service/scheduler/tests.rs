use std::net::{IpAddr, SocketAddr};

use hashbrown::HashMap;

use super::*;
use crate::ids::{ServerSlot, TableVersion};
use crate::service::{NonSyn, RealServer, Rules, ServiceTable, SlotRegistry, VirtualService};
use crate::wire::U16;

fn service(scheduler: SchedulerKind, servers: &[(String, u32)], port: u16) -> VirtualService {
    VirtualService {
        name: "web".into(),
        listen: "tcp://192.0.2.100:80".parse().unwrap(),
        scheduler,
        servers: servers
            .iter()
            .map(|(address, weight)| {
                RealServer::new(SocketAddr::new(address.parse::<IpAddr>().unwrap(), port), *weight)
            })
            .collect(),
        non_syn: NonSyn::Drop,
        one_packet: false,
        helper: None,
        timeouts: None,
        persistence: None,
        connection_limit: None,
    }
}

/// Every recording of this scheduler: the same server for every new connection as the kernel's
/// IPVS chose, with resets making connections inactive in between.
fn choices_equal_those_of_ipvs(kind: SchedulerKind) {
    let recordings: serde_json::Value =
        serde_json::from_str(include_str!("../../../tests/oracle/schedulers.json")).unwrap();
    let mut compared = 0;
    for recording in recordings.as_array().unwrap() {
        if recording["scheduler"] != kind.name() {
            continue;
        }
        let servers: Vec<(String, u32)> =
            serde_json::from_value(recording["servers"].clone()).unwrap();
        let loads = ServerLoads::new(16);
        let mut slots = SlotRegistry::new(16);
        let table = ServiceTable::compile(
            TableVersion(1),
            Rules::of(&[service(kind, &servers, 80)]),
            &mut slots,
        )
        .unwrap();
        let found = table.v4().find([192, 0, 2, 100], U16::new(80), 6).unwrap();
        let mut chosen: HashMap<(String, u64), ServerSlot> = HashMap::new();
        for (at, event) in recording["events"].as_array().unwrap().iter().enumerate() {
            let (what, of) = event.as_object().unwrap().iter().next().unwrap();
            let client = (of[0].as_str().unwrap().to_owned(), of[1].as_u64().unwrap());
            if what == "new" {
                let server = found.schedule(&loads);
                let address = server.map(|server| IpAddr::from(server.address).to_string());
                assert_eq!(address.as_deref(), of[2].as_str(), "{kind} {servers:?} event {at}");
                let slot = server.unwrap().slot;
                loads.of(slot).unwrap().add(true);
                chosen.insert(client, slot);
                compared += 1;
            } else {
                loads.of(chosen[&client]).unwrap().change(false);
            }
        }
    }
    assert!(compared > 50, "{compared}");
}

#[test]
fn rr_chooses_as_ipvs_does() {
    choices_equal_those_of_ipvs(SchedulerKind::RoundRobin);
}

#[test]
fn wrr_chooses_as_ipvs_does() {
    choices_equal_those_of_ipvs(SchedulerKind::WeightedRoundRobin);
}

#[test]
fn lc_chooses_as_ipvs_does() {
    choices_equal_those_of_ipvs(SchedulerKind::LeastConnections);
}

#[test]
fn wlc_chooses_as_ipvs_does() {
    choices_equal_those_of_ipvs(SchedulerKind::WeightedLeastConnections);
}

#[test]
fn no_scheduler_chooses_a_server_of_weight_zero() {
    for kind in SchedulerKind::ALL {
        let loads = ServerLoads::new(16);
        let mut slots = SlotRegistry::new(16);
        let servers = [("10.0.0.11".to_owned(), 0), ("10.0.0.12".to_owned(), 0)];
        let table = ServiceTable::compile(
            TableVersion(1),
            Rules::of(&[service(kind, &servers, 80)]),
            &mut slots,
        )
        .unwrap();
        let found = table.v4().find([192, 0, 2, 100], U16::new(80), 6).unwrap();
        assert_eq!(found.schedule(&loads), None, "{kind}");
    }
}

#[test]
fn a_rotation_goes_on_in_the_next_version_of_the_table() {
    let servers = ["10.0.0.11", "10.0.0.12", "10.0.0.13"].map(|ip| (ip.to_owned(), 1));
    let loads = ServerLoads::new(16);
    let mut slots = SlotRegistry::new(16);
    let mut seen = Vec::new();
    for version in 1..=6 {
        let web = service(SchedulerKind::RoundRobin, &servers, 80);
        let table =
            ServiceTable::compile(TableVersion(version), Rules::of(&[web]), &mut slots).unwrap();
        let found = table.v4().find([192, 0, 2, 100], U16::new(80), 6).unwrap();
        seen.push(found.schedule(&loads).unwrap().address[3]);
    }
    assert_eq!(seen, [13, 12, 11, 13, 12, 11]);
}
