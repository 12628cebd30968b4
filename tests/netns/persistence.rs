//! Persistence and firewall marks: HTTP and HTTPS of a shop, with real servers and clients.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use toml::{Table, Value};

use crate::lab::{Lab, add_service, eventually, service};
use crate::live::{tell, under_load};
use crate::traffic::nothing_was_lost;

const SERVERS: [&str; 3] = ["rs1", "rs2", "rs3"];
/// In the outside network, nobody's address but for the mark's rule.
const SHOP: &str = "192.0.2.101";
const CLIENT: &str = "192.0.2.10";
const SHOP6: &str = "[2001:db8:1::101]";

/// An nginx on each server that answers HTTP and HTTPS with the server's name.
fn open_shops(lab: &Lab) {
    let state = lab.state();
    let (key, certificate) = (state.join("shop.key"), state.join("shop.pem"));
    lab.run(
        "rs1",
        &format!(
            "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=shop -keyout {} -out {} 2>&1",
            key.display(),
            certificate.display()
        ),
    );
    for server in SERVERS {
        let directory = state.join(server);
        let file = directory.join("shop.conf");
        let directory = directory.display();
        let text = format!(
            "daemon off; worker_processes 1; pid {directory}/shop.pid;
             error_log {directory}/shop.log; events {{ worker_connections 1024; }}
             http {{ access_log off; default_type text/plain; server {{
                 listen 80; listen [::]:80; listen 443 ssl; listen [::]:443 ssl;
                 ssl_certificate {}; ssl_certificate_key {};
                 location = / {{ return 200 \"{server}\\n\"; }}
             }} }}",
            certificate.display(),
            key.display()
        );
        fs::write(&file, text).unwrap();
        let line = format!("nginx -c {} -e {directory}/shop.log", file.display());
        lab.begin(server, &format!("{server}-shop"), &line);
    }
    for server in SERVERS {
        eventually(Duration::from_secs(10), &format!("{server} sells"), || {
            let answer = lab.attempt(server, "curl -sSk --max-time 2 https://[::1]/");
            (answer.stdout == format!("{server}\n").as_bytes()).then_some(())
        });
    }
}

fn table<const N: usize>(entries: [(&str, Value); N]) -> Table {
    entries.map(|(key, value)| (key.to_owned(), value)).into_iter().collect()
}

/// The laboratory's configuration with a shop of both address families, by a mark of each.
fn shop(lab: &Lab, workers: &str) -> Table {
    let mut config = lab.config(workers);
    add_service(&mut config, "shop", "fwmark://7", &["10.0.0.11", "10.0.0.12", "10.0.0.13"]);
    let servers = ["[fd00:a::11]", "[fd00:a::12]", "[fd00:a::13]"];
    add_service(&mut config, "shop6", "fwmark6://7", &servers);
    for name in ["shop", "shop6"] {
        service(&mut config, name).insert("persistence".into(), "5m".into());
    }
    let addresses = [SHOP, SHOP6.trim_matches(['[', ']'])].map(Value::from).to_vec();
    let mark = table([
        ("mark", 7.into()),
        ("addresses", addresses.into()),
        ("protocol", "tcp".into()),
        ("ports", Value::from(vec![80, 443])),
    ]);
    config.insert("mark".into(), Value::Array(vec![mark.into()]));
    config
}

/// Who answers an address of the client, by HTTP and HTTPS in turns, each on a new connection.
fn who(lab: &Lab, from: &str, vip: &str, rounds: usize) -> BTreeSet<String> {
    let curl = format!("curl -sSk --max-time 5 --interface {from} -H 'Connection: close'");
    let text = lab.client(&format!(
        "set -e; for i in $(seq {rounds}); do {curl} http://{vip}/; {curl} https://{vip}/; done"
    ));
    assert_eq!(text.lines().count(), 2 * rounds, "{text}");
    text.lines().map(str::to_owned).collect()
}

#[test]
fn http_and_https_of_a_client_reach_one_server_over_two_workers() {
    let lab = Lab::two_nic("shop");
    open_shops(&lab);
    for client in 20..26 {
        lab.client(&format!("ip address add 192.0.2.{client}/24 dev eth0"));
        lab.client(&format!("ip address add 2001:db8:1::{client}/64 dev eth0 nodad"));
    }
    let director = lab.direct(&shop(&lab, "0, 1"));
    let mut served: BTreeMap<String, usize> = BTreeMap::new();
    for client in 20..26 {
        for (from, vip) in
            [(format!("192.0.2.{client}"), SHOP), (format!("2001:db8:1::{client}"), SHOP6)]
        {
            let servers = who(&lab, &from, vip, 10);
            assert_eq!(servers.len(), 1, "{from}: {servers:?}");
            *served.entry(servers.into_iter().next().unwrap()).or_default() += 1;
        }
    }
    let all = SERVERS.map(|server| (server.to_owned(), 4));
    assert_eq!(served, BTreeMap::from(all), "clients take turns");
    let metrics = director.balanced_metrics();
    for worker in metrics.workers() {
        let used = metrics.sum("connections", &[("worker", &worker)]);
        assert!(used > 0, "worker {worker} has none of the connections");
    }
    assert_eq!(metrics.sum("connection_templates", &[]), 12);
    assert_eq!(metrics.drops(), []);
    director.stop();
}

#[test]
fn a_drained_server_loses_its_persistent_clients_under_load_without_an_error() {
    let lab = Lab::two_nic("sticky");
    open_shops(&lab);
    let director = lab.direct(&shop(&lab, "0, 1"));
    let one = |rounds| {
        let servers = who(&lab, CLIENT, SHOP, rounds);
        assert_eq!(servers.len(), 1, "{servers:?}");
        servers.into_iter().next().unwrap()
    };
    // wrk is that client too.
    let first = one(1);
    let address = first.replace("rs", "10.0.0.1");
    let load = format!("-H 'Connection: close' http://{SHOP}/");
    under_load(&lab, 5, &load, || {
        // The template outlives the connections that it has made, and names a drained server.
        assert_eq!(one(5), first);
        tell(&lab, &format!("drain {address} --no-wait"));
        let second = one(5);
        assert_ne!(second, first);
        tell(&lab, &format!("drain {address} --cancel"));
        assert_eq!(one(5), second, "it stays where it is now");
    });
    let metrics = director.balanced_metrics();
    nothing_was_lost(&metrics.drops());
    director.stop();
}
