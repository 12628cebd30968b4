//! Changes of a running director through its control socket: the API, the client of the
//! subcommands, and the subcommands themselves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "support/plant.rs"]
mod plant;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Instant;

use plant::{FakeDirector, Wishes, wait_until};
use pointsman::control::api::client::{ChangeCall, Client, ClientError};
use pointsman::control::api::message::Failure;
use pointsman::ids::ServerSlot;
use serde_json::{Value, json};

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(future)
}

fn cli(socket: &Path, arguments: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_pointsman");
    Command::new(program).args(arguments).env("POINTSMAN_SOCKET", socket).output().unwrap()
}

/// What a subcommand that must succeed prints.
fn told(socket: &Path, arguments: &[&str]) -> String {
    let output = cli(socket, arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && error.is_empty(), "{arguments:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// The error of a subcommand that must fail.
fn refused(socket: &Path, arguments: &[&str]) -> String {
    let output = cli(socket, arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// Status and body of a request as it goes over the socket.
fn raw(socket: &Path, request: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).expect(&answer);
    (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}

fn request(socket: &Path, method: &str, path: &str, headers: &str, body: &str) -> (u16, Value) {
    let length = body.len();
    let text = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\n{headers}content-length: {length}\r\n\r\n{body}"
    );
    let (status, body) = raw(socket, &text);
    (status, serde_json::from_str(&body).expect(&body))
}

fn failure(error: ClientError) -> Failure {
    let ClientError::Refused(failure) = error else { panic!("{error}") };
    *failure
}

#[test]
fn a_change_is_answered_when_every_worker_has_it() {
    let directory = tempfile::tempdir().unwrap();
    let director = FakeDirector::start(directory.path());
    let client = Client::new(&director.socket);
    let call = ChangeCall::set_server("web", "10.0.0.11:8080", json!({ "weight": 9 }));
    let changed = block_on(client.change(call)).unwrap();
    assert_eq!((changed.version, changed.silent_workers.len()), (2, 0));
    assert!(changed.acknowledged_seconds.is_some());
    assert_eq!(changed.plan[0].to_string(), "~ server web 10.0.0.11:8080: weight 2 -> 9");
    let installs = director.told.lock().unwrap();
    let of = |worker| {
        let mine = installs.iter().filter(|(id, _)| *id == worker);
        mine.filter(|(_, command)| command.starts_with("InstallServices")).count()
    };
    assert_eq!((of(0), of(1)), (1, 1));
    drop(installs);
    let status = block_on(client.status()).unwrap();
    assert_eq!((status.table_version, status.services[0].servers[0].weight), (2, 9));
    director.stop();
}

#[test]
fn a_silent_worker_is_named_and_the_change_stays() {
    let directory = tempfile::tempdir().unwrap();
    let wishes = Wishes { silent: Some(1), ..Wishes::default() };
    let director = FakeDirector::start_with(directory.path(), &wishes);
    let client = Client::new(&director.socket);
    let call = ChangeCall::set_server("web", "10.0.0.11:8080", json!({ "weight": 9 }));
    let started = Instant::now();
    let changed = block_on(client.change(call)).unwrap();
    assert!(started.elapsed().as_secs_f64() >= 0.9, "{:?}", started.elapsed());
    assert_eq!((changed.version, &changed.silent_workers[..]), (2, &[1][..]));
    let error = refused(&director.socket, &["set", "web/10.0.0.11:8080", "weight=8"]);
    assert!(error.contains("weight 9 -> 8") && error.contains("worker 1"), "{error}");
    director.stop();
}

#[test]
fn no_update_is_lost_where_versions_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let director = FakeDirector::start(directory.path());
    let client = Client::new(&director.socket);
    let read = block_on(client.services()).unwrap();
    let (version, etag) = (read.version, read.etag);
    let set = |weight| ChangeCall::set_server("web", "10.0.0.11:8080", json!({ "weight": weight }));
    block_on(client.change(set(5).if_match(&etag))).unwrap();
    let late = failure(block_on(client.change(set(6).if_match(&etag))).unwrap_err());
    assert_eq!(late.version, Some(version + 1), "{late:?}");
    assert_eq!(block_on(client.service("web")).unwrap().servers[0].weight, Some(5));
    // Of many who decide by one version one wins, each time.
    let wins = std::thread::scope(|scope| {
        let try_it = |weight| {
            let client = client.clone();
            move || {
                let read = block_on(client.services()).unwrap().etag;
                block_on(client.change(set(weight).if_match(&read))).is_ok()
            }
        };
        let threads: Vec<_> = (10..18).map(|weight| scope.spawn(try_it(weight))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).filter(|won| *won).count()
    });
    let after = block_on(client.services()).unwrap().version;
    assert_eq!(after, version + 1 + u64::try_from(wins).unwrap());
    director.stop();
}

#[test]
fn errors_name_the_field_the_value_and_what_would_be_right() {
    let directory = tempfile::tempdir().unwrap();
    let director = FakeDirector::start(directory.path());
    let socket = &director.socket;
    let cases: [(&[&str], &[&str]); 10] = [
        (
            &["set", "web/10.0.0.11:8080", "weight=-3"],
            &["servers[10.0.0.11:8080].weight", "-3", "from 0 to"],
        ),
        (&["set", "web", "sheduler=rr"], &["sheduler", "did you mean `scheduler`"]),
        (&["set", "web", "scheduler=wrrr"], &["service[web].scheduler", "wrrr", "\"wrr\""]),
        (&["set", "wep", "scheduler=rr"], &["\"wep\"", "did you mean \"web\""]),
        (&["server", "add", "web", "10.0.0.300:80"], &["10.0.0.300:80"]),
        (
            &["server", "remove", "web", "10.0.0.99:80"],
            &["10.0.0.99:80", "pointsman service show web"],
        ),
        (&["server", "remove", "web", "10.0.0.11:80"], &["did you mean 10.0.0.11:8080"]),
        (&["drain", "10.0.0.12:80"], &["did you mean 10.0.0.12:8080"]),
        (&["service", "add", "dns", "udp://10.0.0.2:53"], &["service[dns].listen", "inside"]),
        (&["timeout", "established=900"], &["timeouts.established", "\"900s\""]),
    ];
    for (arguments, words) in cases {
        let error = refused(socket, arguments);
        for word in words {
            assert!(error.contains(word), "{arguments:?}: no {word} in {error}");
        }
    }
    let version = block_on(Client::new(socket).services()).unwrap().version;
    assert_eq!(version, 1, "nothing has changed");
    director.stop();
}

#[test]
fn services_and_servers_come_and_go_by_the_command_line() {
    let directory = tempfile::tempdir().unwrap();
    let director = FakeDirector::start(directory.path());
    let socket = &director.socket;
    let dry = told(
        socket,
        &["service", "add", "shop", "tcp://203.0.113.10:443", "scheduler=wrr", "--dry-run"],
    );
    assert!(
        dry.contains("+ service shop tcp://203.0.113.10:443") && dry.contains("dry run"),
        "{dry}"
    );
    assert!(!told(socket, &["service", "list"]).contains("shop"));
    let added =
        told(socket, &["service", "add", "shop", "tcp://203.0.113.10:443", "scheduler=wrr"]);
    assert!(added.contains("warning: ") && added.contains("all workers have it"), "{added}");
    told(socket, &["server", "add", "shop", "10.0.0.13:8443", "weight=3"]);
    told(socket, &["set", "shop", "timeouts.established=1h"]);
    told(socket, &["set", "shop/10.0.0.13:8443", "weight="]);
    let shown: Value =
        serde_json::from_str(&told(socket, &["service", "show", "shop", "--json"])).unwrap();
    assert_eq!(shown["servers"], json!([{ "address": "10.0.0.13:8443", "weight": 1 }]));
    assert_eq!(
        (&shown["scheduler"], &shown["timeouts"]["established"]),
        (&json!("wrr"), &json!("1h"))
    );
    let text = told(socket, &["service", "show", "shop"]);
    assert!(text.starts_with("service shop tcp://203.0.113.10:443\n  "), "{text}");
    told(socket, &["timeout", "udp=1m"]);
    assert!(told(socket, &["timeout"]).contains("udp"));
    told(socket, &["service", "remove", "shop"]);
    assert!(!told(socket, &["service", "list"]).contains("shop"));
    assert_eq!(told(socket, &["set", "web", "scheduler="]), "nothing to change\n");
    director.stop();
}

#[test]
fn a_reload_does_as_the_file_says_and_save_writes_what_was_changed() {
    let directory = tempfile::tempdir().unwrap();
    let director = FakeDirector::start(directory.path());
    let socket = &director.socket;
    let file = directory.path().join("pointsman.toml");
    let original = fs::read_to_string(&file).unwrap();
    told(socket, &["set", "web/10.0.0.12:8080", "weight=4"]);
    assert!(told(socket, &["reload", "--dry-run"]).contains("weight 4 -> 0"));
    assert!(told(socket, &["save"]).contains("written"));
    assert!(told(socket, &["save"]).contains("up to date"));
    let saved = fs::read_to_string(&file).unwrap();
    assert_eq!(saved, original.replace("weight = 0", "weight = 4"));
    assert_eq!(told(socket, &["reload"]), "nothing to change\n");
    fs::write(&file, original.replace("[director]", "[director")).unwrap();
    let error = refused(socket, &["reload"]);
    assert!(error.contains("syntax"), "{error}");
    assert!(refused(socket, &["save"]).contains("has been changed since"));
    fs::write(&file, &original).unwrap();
    let plan = told(socket, &["reload"]);
    assert!(plan.contains("~ server web 10.0.0.12:8080: weight 4 -> 0"), "{plan}");
    fs::remove_file(&file).unwrap();
    assert!(refused(socket, &["reload"]).contains("cannot read"));
    director.stop();
}

#[test]
fn a_drained_server_takes_no_connections_until_that_is_cancelled() {
    let directory = tempfile::tempdir().unwrap();
    let director = FakeDirector::start(directory.path());
    let socket = &director.socket;
    let load = director.loads.of(ServerSlot(1)).unwrap();
    load.add(true);
    let error = refused(socket, &["drain", "10.0.0.11:8080", "--timeout", "300ms"]);
    assert!(error.contains("10.0.0.11:8080 of web: 1 connections left"), "{error}");
    let status = block_on(Client::new(socket).status()).unwrap();
    let server = &status.services[0].servers[0];
    assert_eq!((server.weight, &*server.state), (0, "draining"));
    // Neither a reload nor another weight ends it, and the file does not know of it.
    assert_eq!(told(socket, &["reload"]), "nothing to change\n");
    told(socket, &["set", "web/10.0.0.11:8080", "weight=7"]);
    assert!(told(socket, &["drain"]).contains("1 connections left"));
    assert_eq!(block_on(Client::new(socket).status()).unwrap().services[0].servers[0].weight, 0);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| told(socket, &["drain", "10.0.0.11", "--timeout", "30s"]));
        std::thread::sleep(std::time::Duration::from_millis(300));
        load.remove(true);
        assert!(waiting.join().unwrap().contains("0 connections left"));
    });
    let cancelled = told(socket, &["drain", "10.0.0.11:8080", "--cancel"]);
    assert!(cancelled.contains("drain for 30s -> default"), "{cancelled}");
    let server = &block_on(Client::new(socket).status()).unwrap().services[0].servers[0];
    assert_eq!((server.weight, &*server.state), (7, "in_service"));
    let error = refused(socket, &["drain", "10.0.0.99"]);
    assert!(error.contains("10.0.0.99"), "{error}");
    director.stop();
}

#[test]
fn a_restart_does_not_end_a_drain() {
    let directory = tempfile::tempdir().unwrap();
    let director = FakeDirector::start(directory.path());
    told(&director.socket, &["drain", "10.0.0.11:8080", "--no-wait"]);
    director.stop();
    let director = FakeDirector::start(directory.path());
    let server = &block_on(Client::new(&director.socket).status()).unwrap().services[0].servers[0];
    assert_eq!((server.weight, &*server.state), (0, "draining"));
    told(&director.socket, &["drain", "10.0.0.11:8080", "--cancel"]);
    director.stop();
    let director = FakeDirector::start(directory.path());
    let server = &block_on(Client::new(&director.socket).status()).unwrap().services[0].servers[0];
    assert_eq!((server.weight, &*server.state), (2, "in_service"));
    director.stop();
}

#[test]
fn a_drained_server_is_removed_when_it_is_empty_or_its_time_is_over() {
    let directory = tempfile::tempdir().unwrap();
    let director = FakeDirector::start(directory.path());
    let socket = &director.socket;
    director.loads.of(ServerSlot(0)).unwrap().add(true);
    let text = told(socket, &["drain", "10.0.0.11:8080", "--remove", "--timeout", "10s"]);
    assert_eq!(text, "10.0.0.11:8080 of web is gone\n");
    told(socket, &["drain", "10.0.0.12:8080", "--remove", "--timeout", "1s", "--no-wait"]);
    wait_until("the removal", || {
        block_on(Client::new(socket).service("web")).unwrap().servers.is_empty()
    });
    assert_eq!(told(socket, &["drain"]), "no server is drained\n");
    director.stop();
}

#[test]
fn a_drain_that_does_not_end_as_it_should_is_no_success() {
    let directory = tempfile::tempdir().unwrap();
    let director = FakeDirector::start(directory.path());
    let socket = &director.socket;
    director.loads.of(ServerSlot(0)).unwrap().add(true);
    director.loads.of(ServerSlot(1)).unwrap().add(true);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| refused(socket, &["drain", "10.0.0.11:8080"]));
        wait_until("the drain", || told(socket, &["drain"]).contains("10.0.0.11"));
        std::thread::sleep(std::time::Duration::from_millis(500));
        told(socket, &["drain", "10.0.0.11:8080", "--cancel"]);
        let error = waiting.join().unwrap();
        assert!(error.contains("10.0.0.11:8080 of web takes connections again"), "{error}");
    });
    let error = refused(socket, &["drain", "10.0.0.12:8080", "--remove", "--timeout", "1s"]);
    assert!(error.contains("10.0.0.12:8080 of web was removed with 1 connections"), "{error}");
    // The same again, within a second of the first.
    for _ in 0..2 {
        let error = refused(socket, &["drain", "10.0.0.11", "--timeout", "1s"]);
        assert!(error.contains("1 connections left"), "{error}");
    }
    director.stop();
}

#[test]
fn a_service_that_listens_elsewhere_keeps_its_drains() {
    let directory = tempfile::tempdir().unwrap();
    let director = FakeDirector::start(directory.path());
    let socket = &director.socket;
    told(socket, &["drain", "10.0.0.11:8080", "--no-wait"]);
    told(socket, &["set", "web", "listen=tcp://203.0.113.10:8000"]);
    let server = &block_on(Client::new(socket).status()).unwrap().services[0].servers[0];
    assert_eq!((server.weight, &*server.state), (0, "draining"));
    director.stop();
}

#[test]
fn a_server_that_comes_starts_slowly() {
    let directory = tempfile::tempdir().unwrap();
    let director = FakeDirector::start(directory.path());
    let socket = &director.socket;
    told(socket, &["server", "add", "web", "10.0.0.13:8080", "slow_start=2s", "weight=2"]);
    let revision = block_on(Client::new(socket).services()).unwrap().version;
    let state = || {
        let status = block_on(Client::new(socket).status()).unwrap();
        let server = &status.services[0].servers[2];
        assert_eq!(server.weight, 2, "what is shown is what is stated");
        server.state.clone()
    };
    assert_eq!(state(), "starting");
    wait_until("the end of the slow start", || state() == "in_service");
    let told = director.told.lock().unwrap();
    let steps = told.iter().filter(|(id, what)| *id == 0 && what.starts_with("InstallServices"));
    assert!(steps.count() >= 4, "the server's share has grown in steps");
    drop(told);
    let now = block_on(Client::new(socket).services()).unwrap().version;
    assert_eq!(now, revision, "steps are no changes of what is wanted");
    director.stop();
}

#[test]
fn hostile_requests_are_answered_and_change_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let director = FakeDirector::start(directory.path());
    let socket = &director.socket;
    let cases = [
        ("POST", "/v1/services", "", "{", 400),
        ("POST", "/v1/services", "", "[]", 400),
        ("POST", "/v1/services", "", "{}", 422),
        ("POST", "/v1/services", "", r#"{"name": {"a": [null, {"b": 1e400}]}}"#, 400),
        ("POST", "/v1/services", "", r#"{"name": "x\u0000", "listen": 7, "servers": {}}"#, 422),
        ("PUT", "/v1/services", "", r#"[{"name": "a"}, {"name": "a"}]"#, 422),
        ("PATCH", "/v1/services/%ff", "", "{}", 400),
        ("PATCH", "/v1/services/web/servers/nobody", "", "{}", 400),
        ("PATCH", "/v1/timeouts", "", r#"{"established\n[x]\n": "1s"}"#, 422),
        ("DELETE", "/v1/services/web", "if-match: \"x\"\r\n", "", 400),
        ("DELETE", "/v1/services/web", "if-match: \"1\"\r\n", "", 400),
        ("DELETE", "/v1/services/web", "if-match: \"0-1\"\r\n", "", 412),
        ("DELETE", "/v1/services/web?dry-run=true", "", "", 400),
        ("DELETE", "/v1/services/web?connections=kill", "", "", 400),
        ("POST", "/v1/reload?dry_run=perhaps", "", "", 400),
        ("DELETE", "/v1/status", "", "", 405),
        ("GET", "/v2", "", "", 404),
    ];
    for (method, path, headers, body, expected) in cases {
        let length = body.len();
        let text = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\n{headers}content-length: {length}\r\n\r\n{body}"
        );
        let (status, answer) = raw(socket, &text);
        assert_eq!(status, expected, "{method} {path} {body}: {answer}");
    }
    let large = format!("{{\"name\": \"{}\"}}", "x".repeat(3 << 20));
    let length = large.len();
    let mut stream = UnixStream::connect(socket).unwrap();
    let head = format!("POST /v1/services HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    // The director may have closed before all is sent.
    stream.write_all(large.as_bytes()).ok();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok();
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 413"));
    let half: Vec<_> = (0..200)
        .map(|_| {
            let mut stream = UnixStream::connect(socket).unwrap();
            stream
                .write_all(b"POST /v1/services HTTP/1.1\r\ncontent-length: 100\r\n\r\n{")
                .unwrap();
            stream
        })
        .collect();
    drop(half);
    let (status, services) = request(socket, "GET", "/v1/services", "", "");
    assert_eq!((status, &services["version"]), (200, &json!(1)));
    director.stop();
}

#[test]
fn many_changes_in_a_row_are_all_taken_over() {
    let directory = tempfile::tempdir().unwrap();
    let director = FakeDirector::start(directory.path());
    let client = Client::new(&director.socket);
    for weight in 1..=300 {
        let call = ChangeCall::set_server("web", "10.0.0.12:8080", json!({ "weight": weight }));
        assert!(block_on(client.change(call)).unwrap().silent_workers.is_empty());
    }
    assert_eq!(block_on(client.services()).unwrap().version, 301);
    director.stop();
}

#[test]
fn sighup_reloads_the_file() {
    // A process of its own would need EAL: the signal goes to this one, whose control thread
    // catches it (nextest gives each test its process).
    if std::env::var_os("NEXTEST").is_none() {
        let this = std::env::current_exe().unwrap();
        let mut child = Command::new(this);
        child.args(["--exact", "sighup_reloads_the_file"]).env("NEXTEST", "1");
        assert!(child.status().unwrap().success());
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let director = FakeDirector::start(directory.path());
    let file = directory.path().join("pointsman.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("weight = 2", "weight = 6")).unwrap();
    let kill = Command::new("kill").args(["-HUP", &std::process::id().to_string()]).status();
    assert!(kill.unwrap().success());
    let client = Client::new(&director.socket);
    wait_until("the reload", || {
        block_on(client.service("web")).unwrap().servers[0].weight == Some(6)
    });
    director.stop();
}

#[test]
fn the_api_describes_itself() {
    let directory = tempfile::tempdir().unwrap();
    let director = FakeDirector::start(directory.path());
    let (status, document) = request(&director.socket, "GET", "/v1/openapi.json", "", "");
    assert_eq!(status, 200);
    assert!(document["openapi"].as_str().unwrap().starts_with("3."));
    let paths = document["paths"].as_object().unwrap();
    for (path, methods) in paths {
        for (method, operation) in methods.as_object().unwrap() {
            let described = operation["summary"].as_str().or(operation["description"].as_str());
            assert!(described.is_some(), "{method} {path} is not described");
            let orders = ["reload", "save", "zero", "release", "takeover"];
            let is_order = orders.iter().any(|order| path.ends_with(order));
            if matches!(&**method, "post" | "patch" | "put") && !is_order {
                assert!(operation["requestBody"].is_object(), "{method} {path} has no body");
            }
        }
    }
    let properties = &document["components"]["schemas"]["ServiceSpec"]["properties"];
    assert!(properties["scheduler"].is_object(), "{document}");
    // Every path that is described is served.
    for path in paths.keys().filter(|path| !path.contains('{')) {
        let (status, _) = request(&director.socket, "OPTIONS", path, "", "");
        assert_eq!(status, 405, "{path}");
    }
    director.stop();
}
