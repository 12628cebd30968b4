//! The control API through its real socket, with the client that the subcommands use.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "support/plant.rs"]
mod plant;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use plant::{FakeDirector, Wishes, config, wait_until};
use pointsman::control::api::client::{Client, ClientError};
use pointsman::control::{Listeners, StartError};
use pointsman::ids::ServerSlot;

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(future)
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn cli(arguments: &[&str], socket: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pointsman"))
        .args(arguments)
        .env("POINTSMAN_SOCKET", socket)
        .output()
        .unwrap()
}

fn text(octets: &[u8]) -> String {
    String::from_utf8(octets.to_vec()).unwrap()
}

#[test]
fn status_tells_of_build_workers_interfaces_services_and_servers() {
    let directory = directory();
    let director = FakeDirector::start(directory.path());
    director.loads.of(ServerSlot(0)).unwrap().add(true);
    let client = Client::new(&director.socket);
    wait_until("readiness", || block_on(client.status()).unwrap().not_ready.is_empty());
    let status = block_on(client.status()).unwrap();
    assert_eq!(status.build.version, "1.2.3");
    assert_eq!(status.table_version, 1);
    assert_eq!(status.workers.len(), 2);
    let packets = &status.workers[0].packets;
    assert_eq!(packets.received, 1000);
    assert_eq!(packets.drops.get("no_service"), Some(&55));
    assert_eq!(packets.drops.len(), 1);
    let come = packets.received + packets.handed_in + packets.originated;
    let left = packets.transmitted + packets.handed_out + packets.consumed;
    assert_eq!(come, left + packets.dropped + packets.held);
    let names: Vec<_> = status.interfaces.iter().map(|interface| &*interface.name).collect();
    assert_eq!(names, ["outside", "inside"]);
    assert_eq!(status.interfaces[1].role, "inside");
    assert_eq!(status.interfaces[1].counters.missed, 205);
    let [web] = &status.services[..] else { panic!("one service") };
    assert_eq!((&*web.listen, &*web.scheduler), ("tcp://203.0.113.10:80", "wlc"));
    assert_eq!(web.servers[0].address.to_string(), "10.0.0.11:8080");
    assert_eq!((web.servers[0].weight, web.servers[1].weight), (2, 0));
    assert_eq!(web.servers[0].active + web.servers[1].active, 1);
    let connections: u64 = web.servers.iter().map(|server| server.totals.connections).sum();
    assert_eq!(connections, 14, "7 of each worker");
    director.stop();
}

#[test]
fn rates_follow_the_counters() {
    let directory = directory();
    let director = FakeDirector::start(directory.path());
    let client = Client::new(&director.socket);
    wait_until("a rate", || {
        director.stats[0].server(ServerSlot(0)).unwrap().in_packets.add(50);
        director.stats[1].received.add(1000);
        let status = block_on(client.status()).unwrap();
        let servers = &status.services[0].servers;
        let rate: f64 = servers.iter().map(|server| server.rates.in_packets).sum();
        rate > 0.0 && status.workers[1].rates.in_packets > 0.0
    });
    director.stop();
}

#[test]
fn connections_come_in_pages_from_all_workers() {
    let directory = directory();
    let wishes = Wishes { connections: 700, ..Wishes::default() };
    let director = FakeDirector::start_with(directory.path(), &wishes);
    let client = Client::new(&director.socket);
    let mut clients = std::collections::BTreeSet::new();
    let mut cursor = None;
    let mut answers = 0;
    loop {
        let page = block_on(client.connections(300, cursor.as_deref())).unwrap();
        assert!(page.connections.len() <= 300);
        clients.extend(page.connections.into_iter().map(|connection| connection.client));
        answers += 1;
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(clients.len(), 1400);
    assert!(answers >= 5);
    director.stop();
}

#[test]
fn many_listings_at_once_get_their_own_answers() {
    let directory = directory();
    let wishes = Wishes { connections: 2000, ..Wishes::default() };
    let director = FakeDirector::start_with(directory.path(), &wishes);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let client = Client::new(&director.socket);
                let all = block_on(client.connections(10_000, None)).unwrap();
                let distinct: std::collections::BTreeSet<_> =
                    all.connections.iter().map(|connection| connection.client).collect();
                assert_eq!((all.connections.len(), distinct.len()), (4000, 4000));
            });
        }
    });
    director.stop();
}

#[test]
fn a_silent_worker_is_named() {
    let directory = directory();
    let wishes = Wishes { silent: Some(1), ..Wishes::default() };
    let director = FakeDirector::start_with(directory.path(), &wishes);
    let client = Client::new(&director.socket);
    let started = Instant::now();
    let Err(ClientError::Refused(failure)) = block_on(client.connections(100, None)) else {
        panic!("a silent worker's connections")
    };
    assert!(failure.error.contains("worker 1"), "{}", failure.error);
    assert!(started.elapsed() < Duration::from_secs(5));
    director.stop();
}

#[test]
fn nonsense_is_answered_with_an_error_and_a_hint() {
    let directory = directory();
    let director = FakeDirector::start(directory.path());
    let client = Client::new(&director.socket);
    for path in
        ["/", "/v1", "/v2/status", "/v1/connections?limit=x", "/v1/connections?cursor=../etc"]
    {
        let Err(ClientError::Refused(failure)) = block_on(client.get::<serde_json::Value>(path))
        else {
            panic!("{path} is answered")
        };
        assert!(!failure.error.is_empty() && !failure.hint.is_empty(), "{path}");
    }
    let mut stream = UnixStream::connect(&director.socket).unwrap();
    stream.write_all(b"POST /v1/status HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 405") && answer.contains("hint"), "{answer}");
    director.stop();
}

#[test]
fn half_requests_block_nobody() {
    let directory = directory();
    let director = FakeDirector::start(directory.path());
    let mut hostile: Vec<_> = (0..30)
        .map(|_| {
            let mut stream = UnixStream::connect(&director.socket).unwrap();
            stream.write_all(b"GET /v1/sta").unwrap();
            stream
        })
        .collect();
    let started = Instant::now();
    block_on(Client::new(&director.socket).status()).unwrap();
    assert!(started.elapsed() < Duration::from_secs(1));
    for stream in &mut hostile {
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).expect("half a request is cut off in time");
    }
    director.stop();
}

#[test]
fn the_socket_is_for_owner_and_group_and_goes_with_the_director() {
    let directory = directory();
    let mut config = config(directory.path());
    config.director.socket = directory.path().join("made/on/demand.sock");
    let listeners = Listeners::bind(&config).unwrap();
    let mode = fs::metadata(&config.director.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    drop(listeners);
    assert!(!config.director.socket.exists());
    assert!(!directory.path().join("made/on").exists());

    let director = FakeDirector::start(directory.path());
    let socket = director.socket.clone();
    assert!(socket.exists());
    director.stop();
    assert!(!socket.exists());
}

#[test]
fn a_second_director_on_the_same_socket_is_refused_and_harms_nobody() {
    let directory = directory();
    let director = FakeDirector::start(directory.path());
    let refused = Listeners::bind(&config(directory.path())).unwrap_err();
    assert!(matches!(refused, StartError::SocketInUse { .. }), "{refused}");
    assert!(refused.to_string().contains("pointsman.sock"), "{refused}");
    block_on(Client::new(&director.socket).status()).unwrap();
    director.stop();
}

#[test]
fn a_stale_socket_is_replaced() {
    let directory = directory();
    drop(UnixListener::bind(directory.path().join("pointsman.sock")).unwrap());
    let director = FakeDirector::start(directory.path());
    block_on(Client::new(&director.socket).status()).unwrap();
    director.stop();
}

#[test]
fn a_file_in_the_place_of_the_socket_is_left_alone() {
    let directory = directory();
    let path = directory.path().join("pointsman.sock");
    fs::write(&path, "precious").unwrap();
    let refused = Listeners::bind(&config(directory.path())).unwrap_err();
    assert!(matches!(refused, StartError::NotASocket { .. }), "{refused}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn the_status_command_prints_tables_and_json() {
    let directory = directory();
    let director = FakeDirector::start(directory.path());
    wait_until("the workers' figures", || {
        director.stats.iter().all(|stats| stats.table_v4.used.get() == 3)
    });
    let output = cli(&["status"], &director.socket);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let shown = text(&output.stdout);
    for word in
        ["web tcp://203.0.113.10:80 wlc", "-> 10.0.0.11:8080", "Masq", "outside", "no_service 110"]
    {
        assert!(shown.contains(word), "no {word:?} in\n{shown}");
    }
    let workers = text(&cli(&["status", "--workers"], &director.socket).stdout);
    assert!(workers.starts_with("WORKER") && !workers.contains("Masq"), "{workers}");
    let json = cli(&["status", "--json"], &director.socket);
    let status: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(status["services"][0]["servers"][1]["weight"], 0);
    director.stop();
}

#[test]
fn the_connections_command_lists_up_to_its_limit() {
    let directory = directory();
    let director = FakeDirector::start(directory.path());
    let all = text(&cli(&["connections"], &director.socket).stdout);
    assert_eq!(all.lines().count(), 7, "{all}");
    assert!(all.contains("ESTABLISHED") && all.contains("15:00"), "{all}");
    let some = text(&cli(&["connections", "--limit", "2"], &director.socket).stdout);
    assert!(some.contains("and more"), "{some}");
    director.stop();
}

#[test]
fn a_command_without_a_director_says_what_to_do() {
    let directory = directory();
    let output = cli(&["status"], &directory.path().join("none.sock"));
    assert!(!output.status.success());
    let error = text(&output.stderr);
    assert!(error.contains("none.sock") && error.contains("pointsman run"), "{error}");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let directory = directory();
    let wishes = Wishes { connections: 20_000, ..Wishes::default() };
    let director = FakeDirector::start_with(directory.path(), &wishes);
    let mut child = Command::new(env!("CARGO_BIN_EXE_pointsman"))
        .args(["connections", "--limit", "40000", "--socket"])
        .arg(&director.socket)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output.stderr));
    director.stop();
}

#[test]
fn every_subcommand_explains_itself() {
    for arguments in [
        &["--help"][..],
        &["run", "--help"],
        &["check", "--help"],
        &["status", "--help"],
        &["connections", "--help"],
        &["completions", "--help"],
    ] {
        let output = cli(arguments, Path::new("/nonexistent"));
        let help = text(&output.stdout);
        assert!(output.status.success() && help.contains("Example"), "{arguments:?}: {help}");
    }
    let script = cli(&["completions", "bash"], Path::new("/nonexistent"));
    assert!(text(&script.stdout).contains("pointsman"));
}

#[test]
fn owned_addresses_are_announced_three_times_by_one_worker() {
    let directory = directory();
    let director = FakeDirector::start(directory.path());
    let announced = || {
        let told = director.told.lock().unwrap();
        let vip = told.iter().filter(|(_, command)| {
            command.contains("Announce") && command.contains("203.0.113.10")
        });
        vip.map(|(worker, _)| *worker).collect::<Vec<_>>()
    };
    wait_until("three announcements", || announced().len() >= 3);
    std::thread::sleep(Duration::from_millis(1200));
    assert_eq!(announced(), [0, 0, 0]);
    director.stop();
}

#[test]
fn gateways_and_servers_are_resolved_at_the_start_and_told_to_all() {
    let directory = directory();
    let director = FakeDirector::start(directory.path());
    let told_of = |address: &str| {
        let told = director.told.lock().unwrap();
        let of = told
            .iter()
            .filter(|(_, command)| command.contains("SetNeighbor") && command.contains(address));
        of.map(|(worker, _)| *worker).collect::<std::collections::BTreeSet<_>>()
    };
    for address in ["203.0.113.1,", "10.0.0.11,", "10.0.0.12,"] {
        wait_until(address, || told_of(address).len() == 2);
    }
    director.stop();
}
