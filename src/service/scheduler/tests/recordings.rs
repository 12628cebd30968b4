//! The choices of the kernel's IPVS, recorded.

use hashbrown::HashMap;
use serde_json::Value;

use super::*;
use crate::ids::ServerSlot;

fn recordings() -> Vec<Value> {
    let text = include_str!("../../../../tests/oracle/schedulers.json");
    serde_json::from_str(text).unwrap()
}

/// What a recording was made with.
fn recorded_service(recording: &Value) -> VirtualService {
    let kind: SchedulerKind = recording["scheduler"].as_str().unwrap().parse().unwrap();
    let mut flags = SchedulerFlags::default();
    for name in recording["flags"].as_str().unwrap().split(',').filter(|name| !name.is_empty()) {
        let (of, flag) = SchedulerFlags::find(name).unwrap();
        assert_eq!(of, kind, "{name}");
        flags = flags.with(flag);
    }
    let servers: Vec<(String, u32)> = serde_json::from_value(recording["servers"].clone()).unwrap();
    let servers = servers.iter().map(|(address, weight)| {
        RealServer::new(format!("{address}:80").parse().unwrap(), *weight)
    });
    service(kind, flags, servers.collect())
}

/// What happened: connections begin, with the server that the kernel chose; or the server of
/// one resets it.
fn events(recording: &Value) -> Vec<(&str, &Value)> {
    if let Some(all) = recording["new_connections"].as_array() {
        return all.iter().map(|of| ("new", of)).collect();
    }
    let all = recording["events"].as_array().unwrap().iter();
    all.map(|event| event.as_object().unwrap().iter().next().unwrap())
        .map(|(what, of)| (what.as_str(), of))
        .collect()
}

/// The same server for every new connection as the kernel's IPVS chose, with resets making
/// connections inactive in between; how many were compared.
fn compare(recording: &Value) -> usize {
    let web = recorded_service(recording);
    let loads = ServerLoads::new(16);
    let table = compile(&web, &mut SlotRegistry::new(16));
    let service = found(&table);
    let mut chosen: HashMap<(V4, u16), ServerSlot> = HashMap::new();
    let mut compared = 0;
    for (at, (what, of)) in events(recording).into_iter().enumerate() {
        let client: std::net::Ipv4Addr = of[0].as_str().unwrap().parse().unwrap();
        let client = (client.octets(), u16::try_from(of[1].as_u64().unwrap()).unwrap());
        if what == "reset" {
            loads.of(chosen[&client]).unwrap().change(false);
            continue;
        }
        assert_eq!(what, "new");
        let key = key(client.0, client.1);
        let server = service.schedule(&Asking { key: &key, now: Tick(0) }, &loads);
        let address = server.map(|server| server.address.to_ip().to_string());
        let context = format!("{} {} event {at}", web.scheduler, recording["flags"]);
        assert_eq!(address.as_deref(), of[2].as_str(), "{context} {:?}", web.servers);
        if let Some(server) = server {
            loads.of(server.slot).unwrap().add(true);
            chosen.insert(client, server.slot);
        }
        compared += 1;
    }
    compared
}

#[test]
fn every_choice_that_was_recorded_of_ipvs_is_made() {
    let mut compared: HashMap<SchedulerKind, usize> = HashMap::new();
    for recording in &recordings() {
        let kind = recorded_service(recording).scheduler;
        *compared.entry(kind).or_default() += compare(recording);
    }
    for kind in SchedulerKind::ALL {
        // Random, or not in the kernel.
        let is_recorded =
            ![SchedulerKind::PowerOfTwoChoices, SchedulerKind::Maglev].contains(&kind);
        let compared = compared.get(&kind).copied().unwrap_or(0);
        assert_eq!(compared > 80, is_recorded, "{kind}: {compared}");
    }
}

#[test]
fn the_recordings_are_of_all_flags() {
    let all = recordings();
    for kind in [SchedulerKind::SourceHashing, SchedulerKind::MaglevHashing] {
        for (name, _) in kind.flags() {
            let recorded = |recording: &Value| recording["flags"].as_str().unwrap().contains(name);
            assert!(all.iter().any(recorded), "{name}");
        }
    }
}
