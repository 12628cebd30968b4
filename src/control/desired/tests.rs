use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::control::api::spec::ServiceSpec;
use crate::control::config::Machine;

const FILE: &str = r#"# The shop's director.
[director]
workers = [0, 1]
control_cpu = 0
routing = false # not a router

[interface.outside]
role = "outside"
device = "net_null0"
addresses = ["203.0.113.2/24"]

[interface.inside]
role = "inside"
device = "net_null1"
addresses = ["10.0.0.2/16"]

# Customers come here.
[[service]]
name = "web"
listen = "tcp://203.0.113.10:80"
scheduler = "wrr" # since the new server is bigger
servers = [
  { address = "10.0.0.11:8080", weight = 2 }, # the big one
  { address = "10.0.0.12:8080" },
]

[[service]]
name = "dns"
listen = "udp://203.0.113.10:53"

[[service.servers]]
address = "10.0.0.11:53" # the old one
"#;

fn state_of(text: &str) -> DesiredState {
    let machine = Machine::with_cpus(2);
    let Loaded { config, source, .. } = config::parse(text, "pointsman.toml", &machine).unwrap();
    let mut slots = SlotRegistry::new(64);
    let table = ServiceTable::compile(TableVersion(1), config.rules(), &mut slots).unwrap();
    DesiredState::new(source, config, slots, Arc::new(table)).unwrap()
}

fn state() -> DesiredState {
    state_of(FILE)
}

#[allow(clippy::needless_pass_by_value, reason = "callers make it on the spot")]
fn keys(json: serde_json::Value) -> Keys {
    json.as_object().unwrap().clone()
}

fn name(text: &str) -> ServerName {
    ServerName::parse(text).unwrap()
}

#[allow(clippy::needless_pass_by_value, reason = "callers make it on the spot")]
fn set_server(service: &str, server: &str, new: serde_json::Value) -> Change {
    Change::SetServer { service: service.into(), server: name(server), keys: keys(new) }
}

fn lines(outcome: &Outcome) -> Vec<String> {
    outcome.plan.iter().map(ToString::to_string).collect()
}

#[test]
fn a_change_edits_the_file_where_it_must_and_nowhere_else() {
    let mut state = state();
    let weight = set_server("web", "10.0.0.11:8080", json!({ "weight": 5 }));
    assert_eq!(
        lines(&state.apply(&weight, Duration::ZERO).unwrap()),
        ["~ server web 10.0.0.11:8080: weight 2 -> 5"]
    );
    let added = Change::AddServer {
        service: "web".into(),
        keys: keys(json!({ "address": "10.0.0.13:8080" })),
    };
    state.apply(&added, Duration::ZERO).unwrap();
    let old = set_server("dns", "10.0.0.11:53", json!({ "weight": 0 }));
    state.apply(&old, Duration::ZERO).unwrap();
    let scheduler =
        Change::SetService { service: "web".into(), keys: keys(json!({ "scheduler": "rr" })) };
    state.apply(&scheduler, Duration::ZERO).unwrap();
    let expected = FILE
        .replace("weight = 2 }", "weight = 5 }")
        .replace("\"wrr\"", "\"rr\"")
        .replace("12:8080\" },\n]", "12:8080\" },\n  { address = \"10.0.0.13:8080\" },\n]")
        .replace("# the old one\n", "# the old one\nweight = 0\n");
    assert_eq!(state.wanted.text(), expected);
    assert_eq!(state.version(), TableVersion(5));
}

#[test]
fn services_are_added_and_removed_with_their_comments() {
    let mut state = state();
    let ftp = keys(json!({
        "name": "ftp", "listen": "tcp://203.0.113.10:21",
        "servers": [{ "address": "10.0.0.11:21", "weight": 3 }, { "address": "10.0.0.12:21" }],
    }));
    let plan = lines(&state.apply(&Change::AddService(ftp), Duration::ZERO).unwrap());
    assert!(plan[0].starts_with("+ service ftp tcp://203.0.113.10:21: helper ftp, "), "{plan:?}");
    assert_eq!(plan[1], "+ server ftp 10.0.0.11:21: weight 3");
    let before = state.wanted.text();
    assert!(before.starts_with(FILE), "{before}");
    let gone = Change::RemoveService { service: "web".into(), connections: None };
    assert_eq!(
        lines(&state.apply(&gone, Duration::ZERO).unwrap()),
        ["- service web tcp://203.0.113.10:80"]
    );
    let text = state.wanted.text();
    assert!(!text.contains("Customers") && text.contains("# the old one"), "{text}");
    let names: Vec<_> =
        state.inventory().services.iter().map(|entry| entry.service.name.clone()).collect();
    assert_eq!(names, ["dns", "ftp"]);
    // What is saved is a file that says the same.
    let again = state_of(&text);
    assert_eq!(again.inventory().config.services, state.inventory().config.services);
}

#[test]
fn services_can_be_added_to_an_empty_list() {
    let (head, _) = FILE.split_once("# Customers come here.").unwrap();
    let mut state = state_of(&format!("service = []\n{head}"));
    let dns = json!({ "name": "dns", "listen": "udp://203.0.113.10:53" });
    let added = state.apply(&Change::AddService(keys(dns)), Duration::ZERO).unwrap();
    assert!(added.plan[0].to_string().starts_with("+ service dns udp://"));
    assert_eq!(state.inventory().services.len(), 1);
}

#[test]
fn what_is_not_valid_is_refused_with_its_place_and_changes_nothing() {
    let mut state = state();
    let cases = [
        (
            set_server("web", "10.0.0.12:8080", json!({ "weight": -1 })),
            "service[web].servers[10.0.0.12:8080].weight",
        ),
        (
            set_server("web", "10.0.0.12:8080", json!({ "wieght": 1 })),
            "service[web].servers[10.0.0.12:8080].wieght",
        ),
        (
            Change::SetService {
                service: "dns".into(),
                keys: keys(json!({ "scheduler": "wrrr" })),
            },
            "service[dns].scheduler",
        ),
        (
            Change::AddService(keys(json!({ "name": "web", "listen": "tcp://203.0.113.10:81" }))),
            "service[web].name",
        ),
        (Change::SetTimeouts(keys(json!({ "established": 900 }))), "timeouts.established"),
    ];
    let before = state.wanted.text();
    for (change, field) in cases {
        let Err(Refused::Invalid(problems)) = state.apply(&change, Duration::ZERO) else {
            panic!("{change:?}")
        };
        assert_eq!(problems[0].field.as_deref(), Some(field), "{problems:?}");
        assert!(
            problems[0].help.is_some() || problems[0].message.contains("expected"),
            "{problems:?}"
        );
    }
    assert_eq!((state.wanted.text(), state.version()), (before, TableVersion(1)));
}

#[test]
fn an_unknown_service_or_server_is_told_from_a_known_one() {
    let mut state = state();
    let refused = state
        .apply(&Change::RemoveService { service: "wep".into(), connections: None }, Duration::ZERO)
        .unwrap_err();
    assert_eq!(refused, Refused::NoService { name: "wep".into(), nearest: Some("web".into()) });
    let server = name("10.9.9.9:1");
    let refused = state
        .apply(
            &Change::RemoveServer { service: "web".into(), server, connections: None },
            Duration::ZERO,
        )
        .unwrap_err();
    assert!(matches!(refused, Refused::NoServer { .. }), "{refused}");
}

#[test]
fn a_server_that_states_no_port_is_known_by_that_of_its_service() {
    let mut state = state_of(&FILE.replace("10.0.0.11:53", "10.0.0.11"));
    for (server, weight) in [("10.0.0.11:53", 3), ("10.0.0.11", 4)] {
        state
            .apply(&set_server("dns", server, json!({ "weight": weight })), Duration::ZERO)
            .unwrap();
        assert_eq!(state.inventory().services[1].servers[0].server.weight, weight);
    }
    let server = name("10.0.0.11:53");
    state
        .apply(
            &Change::RemoveServer { service: "dns".into(), server, connections: None },
            Duration::ZERO,
        )
        .unwrap();
    assert!(state.inventory().services[1].servers.is_empty());
}

#[test]
fn a_family_without_connection_tables_is_refused() {
    let mut state = state();
    let v6 = keys(json!({ "name": "six", "listen": "tcp://[2001:db8::10]:80" }));
    let refused = state.apply(&Change::AddService(v6), Duration::ZERO).unwrap_err();
    assert!(matches!(refused, Refused::NoRoomForFamily { family: "IPv6", .. }), "{refused}");
}

#[test]
fn a_reload_converges_to_the_file_whatever_was_changed_meanwhile() {
    let mut state = state();
    state
        .apply(&set_server("web", "10.0.0.11:8080", json!({ "weight": 0 })), Duration::ZERO)
        .unwrap();
    state
        .apply(&Change::RemoveService { service: "dns".into(), connections: None }, Duration::ZERO)
        .unwrap();
    let reload = Change::Reload { text: FILE.into() };
    let preview = lines(&state.preview(&reload).unwrap());
    assert_eq!(preview[0], "~ server web 10.0.0.11:8080: weight 0 -> 2");
    assert!(preview[1].starts_with("+ service dns udp://203.0.113.10:53"), "{preview:?}");
    assert_eq!(state.version(), TableVersion(3), "a preview changes nothing");
    assert_eq!(lines(&state.apply(&reload, Duration::ZERO).unwrap()), preview);
    assert_eq!(state.wanted.text(), FILE);
    let again = state.apply(&reload, Duration::ZERO).unwrap();
    assert!(again.plan.is_empty() && again.table.is_none());
}

#[test]
fn what_needs_a_restart_is_named_and_the_rest_is_done() {
    let mut state = state();
    let text = FILE
        .replace("workers = [0, 1]", "workers = [1]")
        .replace("routing = false", "routing = true")
        .replace("\"10.0.0.2/16\"]", "\"10.0.0.2/16\"]\nmtu = 1600");
    let outcome = state.apply(&Change::Reload { text: text.clone() }, Duration::ZERO).unwrap();
    assert_eq!(
        lines(&outcome),
        [
            "~ policy: routing false -> true",
            "! [director] workers: value [0, 1] -> [1] needs a restart of the director",
            "! [interface.inside] mtu: value 1600 needs a restart of the director",
        ]
    );
    let config = &state.inventory().config;
    assert!(config.policy.routing && outcome.table.is_some());
    assert_eq!((config.director.workers.len(), config.interfaces[1].mtu), (2, 1500));
    assert_eq!(state.wanted.text(), text, "what is saved is what the file says");
}

#[test]
fn a_bad_file_changes_nothing() {
    let mut state = state();
    for text in
        ["[director", &FILE.replace("wrr", "wrong"), &FILE.replace("10.0.0.2/16", "10.9.0.2/24")]
    {
        let refused =
            state.apply(&Change::Reload { text: text.into() }, Duration::ZERO).unwrap_err();
        assert!(matches!(refused, Refused::Invalid(_)), "{refused}");
        assert_eq!((state.version(), state.wanted.text()), (TableVersion(1), FILE.to_owned()));
    }
}

#[test]
fn a_drain_that_a_restart_will_not_know_of_says_so() {
    let socket = "[director]\nsocket = \"/proc/nowhere/pointsman.sock\"";
    let mut state = state_of(&FILE.replace("[director]", socket));
    let how = Some(Emptying { timeout: None, remove: false, now: 0 });
    let order = DrainOrder { server: name("10.0.0.12"), service: None, how };
    let outcome = state.apply(&Change::Drain(order), Duration::ZERO).unwrap();
    assert!(outcome.table.is_some());
    let [warning] = &outcome.warnings[..] else { panic!("{:?}", outcome.warnings) };
    assert!(warning.message.starts_with("/proc/nowhere/pointsman.drains.json: "), "{warning}");
}

#[test]
fn the_same_change_twice_installs_nothing_twice() {
    let mut state = state();
    let change = set_server("web", "10.0.0.12:8080", json!({ "weight": 7 }));
    assert!(state.apply(&change, Duration::ZERO).unwrap().table.is_some());
    let again = state.apply(&change, Duration::ZERO).unwrap();
    assert!(again.table.is_none() && again.plan.is_empty());
    assert_eq!(state.version(), TableVersion(2));
}

#[test]
fn a_file_that_somebody_else_has_changed_is_not_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    let path: PathBuf = directory.path().join("pointsman.toml");
    let mut state = state();
    state.source.path.clone_from(&path);
    std::fs::write(&path, FILE).unwrap();
    assert!(!state.save(false).unwrap());
    state
        .apply(&set_server("web", "10.0.0.12:8080", json!({ "weight": 7 })), Duration::ZERO)
        .unwrap();
    assert!(state.save(false).unwrap());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), state.wanted.text());
    let other = format!("{FILE}# mine\n");
    std::fs::write(&path, &other).unwrap();
    assert!(matches!(state.save(false), Err(NotSaved::Overtaken(_))));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), other);
    assert!(state.save(true).unwrap());
    let left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "no other file is left: {left:?}");
}

/// A change that may or may not be possible.
fn any_change() -> impl Strategy<Value = Change> {
    let service = || prop::sample::select(vec!["web", "dns", "a", "b"]).prop_map(str::to_owned);
    let server =
        || (11_u8..15, 80_u16..82).prop_map(|(host, port)| format!("10.0.0.{host}:{port}"));
    prop_oneof![
        (service(), 1000_u16..1003).prop_map(|(name, port)| Change::AddService(keys(
            json!({ "name": name, "listen": format!("tcp://203.0.113.10:{port}") })
        ))),
        service().prop_map(|service| Change::RemoveService { service, connections: None }),
        (service(), prop::sample::select(vec!["rr", "wrr", "lc", "wlc"])).prop_map(
            |(service, scheduler)| Change::SetService {
                service,
                keys: keys(json!({ "scheduler": scheduler })),
            }
        ),
        (service(), server(), 0_u32..4).prop_map(|(service, address, weight)| Change::AddServer {
            service,
            keys: keys(json!({ "address": address, "weight": weight })),
        }),
        (service(), server(), 0_u32..4).prop_map(|(service, address, weight)| {
            set_server(&service, &address, json!({ "weight": weight }))
        }),
        (service(), server()).prop_map(|(service, address)| Change::RemoveServer {
            service,
            server: name(&address),
            connections: None,
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// After any changes what is in force is what the file says that would be saved, and what was
    /// refused has changed nothing.
    #[test]
    fn what_is_in_force_is_what_would_be_saved(changes in prop::collection::vec(any_change(), 1..30)) {
        let mut state = state();
        for change in changes {
            let before = (state.version(), state.wanted.text(), state.inventory().config.clone());
            let preview = state.preview(&change).map(|outcome| outcome.plan);
            match state.apply(&change, Duration::ZERO) {
                Ok(outcome) => {
                    prop_assert_eq!(preview.unwrap(), outcome.plan.clone());
                    prop_assert_eq!(outcome.table.is_some(), !outcome.plan.is_empty());
                    let changed = state.version() != before.0;
                    prop_assert_eq!(changed, outcome.table.is_some());
                }
                Err(refused) => {
                    prop_assert_eq!(preview.unwrap_err(), refused);
                    let now = (state.version(), state.wanted.text(), state.inventory().config.clone());
                    prop_assert_eq!(now, before);
                }
            }
            let again = state_of(&state.wanted.text());
            prop_assert_eq!(&again.inventory().config.services, &state.inventory().config.services);
        }
    }

    /// A service that is read and stated again is the same service.
    #[test]
    fn a_spec_says_everything_of_its_service(changes in prop::collection::vec(any_change(), 1..10)) {
        let mut state = state();
        for change in changes {
            state.apply(&change, Duration::ZERO).ok();
        }
        let specs: Vec<_> =
            state.inventory().config.services.iter().map(ServiceSpec::from).collect();
        let stated = specs.iter().map(|spec| keys(serde_json::to_value(spec).unwrap())).collect();
        let outcome = state.apply(&Change::ReplaceServices(stated), Duration::ZERO).unwrap();
        prop_assert_eq!(lines(&outcome), Vec::<String>::new());
    }
}
