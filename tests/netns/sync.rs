//! What the other director of a pair is told of connections, and what it makes of it.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use toml::{Table, Value};

use crate::ftp::{self, start_servers};
use crate::lab::{Lab, VIP4, VIPS, eventually, section, service};
use crate::masquerade::{masquerade, outside_serves, url};
use crate::pair::{Side, by_tshark};
use crate::traffic::answers;
use crate::wire::{Capture, SIDES};

const LONG: Duration = Duration::from_secs(20);

/// All connections are told of again in ten minutes alone: what is known sooner was told of when it
/// began or changed, or in a transfer.
fn settings(config: &mut Table, more: &str) {
    let text = format!("refresh = \"10m\"\n{more}");
    let group = &mut config["failover"].as_array_mut().unwrap()[0];
    let sync: Table = text.parse().unwrap();
    group.as_table_mut().unwrap().insert("sync".into(), Value::Table(sync));
}

fn key(lab: &Lab, name: &str, digit: char) -> String {
    let file = lab.state().join(name);
    fs::write(&file, String::from(digit).repeat(64)).unwrap();
    format!("key_file = \"{}\"\n", file.display())
}

/// What a director says of its synchronisation.
fn said(side: &Side<'_>, what: &str) -> serde_json::Value {
    let text = side.tell("ha --json").unwrap();
    serde_json::from_str::<serde_json::Value>(&text).unwrap()[what].clone()
}

fn has_learnt(side: &Side<'_>) {
    eventually(LONG, "everything was told", || {
        (said(side, "connections_known") == "learnt").then_some(())
    });
}

/// The active director is gone as after a failure of its power.
fn fail_over(director: Side<'_>, backup: &Side<'_>) {
    // What was said last is on its way.
    std::thread::sleep(Duration::from_millis(200));
    director.dies();
    backup.becomes("master");
}

/// Four files over one connection, in twelve seconds at least.
const DOWNLOAD: &str = r"
import hashlib, http.client, sys, time
from urllib.parse import urlsplit
url = urlsplit(sys.argv[1])
client = http.client.HTTPConnection(url.hostname, url.port or 80, timeout=30)
client.connect()
socket, digest = client.sock, hashlib.sha256()
for _ in range(4):
    client.request('GET', url.path)
    answer = client.getresponse()
    assert answer.status == 200 and client.sock is socket
    while part := answer.read(16384):
        digest.update(part)
        time.sleep(12 / 4 / 64)
print(digest.hexdigest())
";

/// A download that takes a while, from this host.
fn begin_download(lab: &Lab, host: &str, name: &str, url: &str) {
    // One for each: the one before may still be reading its own.
    let script = lab.state().join(format!("{name}.py"));
    fs::write(&script, DOWNLOAD).unwrap();
    lab.begin(host, name, &format!("/usr/bin/python3 {} {url}", script.display()));
}

/// It has not ended yet.
fn download_is_under_way(lab: &Lab, name: &str) {
    let exit = lab.state().join(format!("{name}.exit"));
    assert!(!exit.exists(), "{name} has ended: {}", lab.log(name));
}

fn downloads_are_under_way_and_end_well(lab: &Lab, names: &[&str]) {
    for name in names {
        download_is_under_way(lab, name);
    }
    for name in names {
        download_ends_well(lab, name);
    }
}

/// Every octet has come, over one connection.
fn download_ends_well(lab: &Lab, name: &str) {
    let content = lab.state().join("content/big").display().to_string();
    let whole = "for i in $(seq 4); do cat FILE; done | sha256sum".replace("FILE", &content);
    let whole = lab.run("client", &whole);
    let code = lab.exit_code(name, Duration::from_secs(60));
    let log = lab.log(name);
    assert_eq!((code, log.trim()), (0, whole.trim_end_matches(['-', ' ', '\n'])), "{name}");
}

#[test]
fn connections_of_inside_hosts_and_of_servers_as_clients_survive_a_takeover() {
    let lab = Lab::pair("syncnat");
    outside_serves(&lab);
    // With two workers the director's ports lead to either, whatever the other one chose.
    let [director, backup] = Side::both(&lab, ["1", "0, 1"], |config| {
        settings(config, "");
        masquerade(config);
    });
    has_learnt(&backup);
    // Masqueraded, and through the VIP by full NAT.
    for (name, outside, vip) in [("v4", "192.0.2.10", VIPS[0]), ("v6", "2001:db8:1::10", VIPS[1])] {
        begin_download(&lab, "rs1", &format!("out-{name}"), &url(outside, "/big"));
        begin_download(&lab, "rs2", &format!("hair-{name}"), &format!("http://{vip}/big"));
    }
    // Of those with the outside the client is there: the servers' ends are inside.
    let is_known = |client: &str| {
        let known = backup.tell("connections --limit 100000").unwrap();
        let mut rows = known.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        rows.any(|row| row.get(1) == Some(&"ESTABLISHED") && row[2].starts_with(client))
    };
    eventually(LONG, "the downloads are known", || {
        let clients = ["192.0.2.10:", "10.0.0.12:", "[2001:db8:1::10]:", "[fd00:a::12]:"];
        clients.into_iter().all(is_known).then_some(())
    });
    let names = ["out-v4", "out-v6", "hair-v4", "hair-v6"];
    for name in names {
        download_is_under_way(&lab, name);
    }
    fail_over(director, &backup);
    for name in names {
        download_ends_well(&lab, name);
    }
    backup.stop();
}

/// By `release` and by a clean stop: nothing of these connections was told of before.
#[test]
fn who_gives_up_tells_of_all_that_is_kept_back() {
    let lab = Lab::pair("syncpart");
    let [director, backup] =
        Side::both(&lab, ["0, 1", "1"], |config| settings(config, "after = \"10m\""));
    has_learnt(&backup);
    let begin = |names: &[&str]| {
        for (name, vip) in names.iter().zip(VIPS) {
            begin_download(&lab, "client", name, &format!("http://{vip}/big"));
        }
    };
    let waits = |side: &Side<'_>| {
        eventually(LONG, "two connections are kept back", || {
            (said(side, "connections_waiting").as_u64() >= Some(2)).then_some(())
        });
        std::thread::sleep(Duration::from_secs(1));
    };
    begin(&["released4", "released6"]);
    waits(&director);
    director.tell("ha release").unwrap();
    backup.becomes("master");
    downloads_are_under_way_and_end_well(&lab, &["released4", "released6"]);
    has_learnt(&director);
    begin(&["stopped4", "stopped6"]);
    waits(&backup);
    backup.stop();
    director.becomes("master");
    downloads_are_under_way_and_end_well(&lab, &["stopped4", "stopped6"]);
    director.stop();
}

/// One service for a firewall mark, of each address family.
#[test]
fn connections_of_a_firewall_mark_survive_a_takeover() {
    let lab = Lab::pair("syncmark");
    let [director, backup] = Side::both(&lab, ["0", "1"], |config| {
        settings(config, "");
        for (name, listen) in [("web", "fwmark://7"), ("web6", "fwmark6://7")] {
            service(config, name).insert("listen".into(), listen.into());
        }
        let text = "addresses = [\"192.0.2.100\", \"2001:db8:1::100\"]\nprotocol = \"tcp\"\n\
                    mark = 7\nports = [80]";
        let mark: Table = text.parse().unwrap();
        config.insert("mark".into(), Value::Array(vec![mark.into()]));
    });
    has_learnt(&backup);
    for (name, vip) in [("v4", VIPS[0]), ("v6", VIPS[1])] {
        begin_download(&lab, "client", name, &format!("http://{vip}/big"));
    }
    for family in ["ipv4", "ipv6"] {
        let known = || (backup.connections(family) > 0).then_some(());
        eventually(LONG, "the download is known", known);
    }
    fail_over(director, &backup);
    downloads_are_under_way_and_end_well(&lab, &["v4", "v6"]);
    backup.stop();
}

#[test]
fn a_director_that_preempts_is_told_everything_before_it_takes_over() {
    let lab = Lab::pair("syncjoin");
    // Over IPv6, to the other one alone, and sealed.
    let key = key(&lab, "sync.key", 'a');
    let change = |config: &mut Table, peer: &str| {
        settings(config, &format!("interface = \"inside\"\npeers = [\"{peer}\"]\n{key}"));
        section(config, &["interface", "inside"]).insert("mtu".into(), 1300.into());
    };
    for host in ["rs1", "rs2", "rs3"] {
        lab.run(host, "ip link set eth0 mtu 1300");
    }
    let mut config = Side::config(&lab, "backup", "0");
    change(&mut config, "fd00:a::2");
    let backup = Side::start(&lab, "backup", &config);
    backup.becomes("master");
    let capture = lab.state().join("sync.pcap");
    let line = format!("tcpdump -i any -w {} udp port 8848", capture.display());
    lab.begin("switch", "tcpdump", &line);
    for (name, vip) in [("v4", VIPS[0]), ("v6", VIPS[1])] {
        begin_download(&lab, "client", name, &format!("http://{vip}/big"));
    }
    assert_eq!(answers(&lab, VIP4, 99).values().sum::<usize>(), 99);
    std::thread::sleep(Duration::from_secs(1));
    let mut config = Side::config(&lab, "director", "0, 1");
    change(&mut config, "fd00:a::3");
    let group = &mut config["failover"].as_array_mut().unwrap()[0];
    group.as_table_mut().unwrap().insert("preempt".into(), true.into());
    let director = Side::start(&lab, "director", &config);
    director.becomes("master");
    assert!(director.reason().contains("better than"), "{}", director.reason());
    downloads_are_under_way_and_end_well(&lab, &["v4", "v6"]);
    lab.end("tcpdump");
    // Nobody else can read an address in them.
    let seen = fs::read(&capture).unwrap();
    let has = |octets: &[u8]| seen.windows(octets.len()).any(|part| part == octets);
    assert!(seen.len() > 1000 && has(&[0x22, 0x90]), "{} octets", seen.len());
    assert!(!has(&[192, 0, 2, 100]) && !has(&[10, 0, 0, 11]));
    // Full messages fit a link whose packets are shorter.
    let lengths = by_tshark(&lab, &capture, "udp.port == 8848", &["ipv6.plen"]);
    let longest = lengths.iter().filter_map(|of| of[0].parse().ok()).max().unwrap_or(0);
    assert!((1200..=1300).contains(&(longest + 40)), "{longest}: {lengths:?}");
    director.stop();
    backup.stop();
}

#[test]
fn messages_with_another_key_or_none_are_refused_and_the_director_says_why() {
    let lab = Lab::pair("synckey");
    let keys = [key(&lab, "a.key", 'a'), key(&lab, "b.key", 'b')];
    let start = |role, key: &str| {
        let mut config = Side::config(&lab, role, "0");
        settings(&mut config, key);
        Side::start(&lab, role, &config)
    };
    let director = start("director", &keys[0]);
    director.becomes("master");
    let backup = start("backup", &keys[1]);
    assert_eq!(answers(&lab, VIP4, 6).values().sum::<usize>(), 6);
    let because = |text: &str| {
        eventually(LONG, text, || {
            let why = said(&backup, "connection_message_refused");
            why.as_str().is_some_and(|why| why.contains(text)).then_some(())
        });
    };
    because("10.0.0.2: its key is another one");
    assert_eq!(said(&backup, "connections_received"), 0);
    // Nobody tells it anything: it does not wait for ever.
    eventually(LONG, "nobody answers", || {
        (said(&backup, "connections_known") == "unanswered").then_some(())
    });
    director.stop();
    // It has none.
    let director = start("director", "");
    backup.becomes("master");
    backup.stop();
    director.becomes("master");
    let backup = start("backup", &keys[1]);
    assert_eq!(answers(&lab, VIP4, 3).values().sum::<usize>(), 3);
    eventually(LONG, "not sealed", || {
        let why = said(&backup, "connection_message_refused");
        why.as_str().is_some_and(|why| why.contains("it is not sealed")).then_some(())
    });
    director.stop();
    backup.stop();
}

/// A client stays with its server, also one that has no connection any more; a service that is left
/// out is not told of; and what is over soon, neither.
#[test]
fn a_client_stays_with_its_server_after_a_takeover() {
    let lab = Lab::pair("syncstay");
    let [director, backup] = Side::both(&lab, ["0, 1", "1"], |config| {
        settings(config, "after = \"1500ms\"\n");
        for (name, scheduler) in [("web", "rr"), ("web6", "rr")] {
            let web = service(config, name);
            web.insert("persistence".into(), "5m".into());
            web.insert("scheduler".into(), scheduler.into());
        }
        service(config, "bulk").insert("sync".into(), false.into());
    });
    has_learnt(&backup);
    let server = |vip: &str| answers(&lab, vip, 1).into_keys().next().unwrap();
    // Others take turns first: a director that knows nothing would begin with another server.
    for (host, vip) in ["rs1", "rs2"].into_iter().flat_map(|host| VIPS.map(|vip| (host, vip))) {
        lab.run(host, &format!("curl -sS --max-time 10 -o /dev/null http://{vip}/"));
    }
    let before = VIPS.map(server);
    let line = "iperf3 --time 20 --client 192.0.2.100 --bitrate 1M";
    lab.begin("client", "iperf3", line);
    begin_download(&lab, "client", "v4", &format!("http://{VIP4}/big"));
    eventually(LONG, "the download is known", || (backup.connections("ipv4") > 0).then_some(()));
    let templates = || {
        let socket = lab.state().join("backup-pointsman.sock");
        let line = format!(
            "curl -sSf --max-time 5 --unix-socket {} http://pointsman/v1/templates",
            socket.display()
        );
        lab.run("backup", &line).matches("192.0.2.10").count()
    };
    eventually(LONG, "templates are known", || (templates() > 0).then_some(()));
    // Of the short ones and of the service that is left out nothing was told.
    assert_eq!(backup.connections("ipv4"), 1);
    download_is_under_way(&lab, "v4");
    fail_over(director, &backup);
    for _ in 0..3 {
        assert_eq!(VIPS.map(server), before);
    }
    download_ends_well(&lab, "v4");
    lab.end("iperf3");
    backup.stop();
}

/// Sessions of FTP: one that waits, and one with a transfer.
const SESSIONS: &str = r"
import ftplib, hashlib, os, sys, time
host, state = sys.argv[1], sys.argv[2]
def login():
    ftp = ftplib.FTP(host, timeout=20)
    ftp.login()
    return ftp
waiting, busy = login(), login()
lists = [sorted(waiting.nlst())]
# Texts of other lengths than the server's, so that sequence numbers are shifted.
for _ in range(3):
    lists.append(sorted(waiting.nlst()))
digest = hashlib.sha256()
def slowly(data):
    digest.update(data)
    time.sleep(len(data) / 600e3)
    if not os.path.exists(state + '/ftp-began'):
        open(state + '/ftp-began', 'w').close()
busy.retrbinary('RETR big', slowly, blocksize=16384)
while not os.path.exists(state + '/ftp-go'):
    time.sleep(0.1)
for ftp in (waiting, busy):
    for _ in range(3):
        lists.append(sorted(ftp.nlst()))
again = hashlib.sha256()
waiting.retrbinary('RETR big', again.update)
waiting.set_pasv(False)
lists.append(sorted(waiting.nlst()))
assert all(names == lists[0] for names in lists), lists
assert digest.digest() == again.digest()
for ftp in (waiting, busy):
    ftp.quit()
print(digest.hexdigest())
";

#[test]
fn ftp_sessions_go_on_after_a_takeover() {
    let lab = Lab::pair("syncftp");
    start_servers(&lab, "");
    let [director, backup] = Side::both(&lab, ["1", "0, 1"], |config| {
        settings(config, "");
        let services = config["service"].as_array_mut().unwrap();
        services.extend(VIPS.map(|vip| ftp::service(vip, 21, 21, &["rs1"])));
    });
    has_learnt(&backup);
    let script = lab.state().join("sessions.py");
    fs::write(&script, SESSIONS).unwrap();
    let wanted = fs::read(lab.state().join("ftp-rs1/big")).unwrap();
    let mut sums = BTreeSet::new();
    for (name, host) in [("v4", "192.0.2.100"), ("v6", "2001:db8:1::100")] {
        let state = lab.state().join(name);
        fs::create_dir(&state).unwrap();
        let line = format!("/usr/bin/python3 {} {host} {}", script.display(), state.display());
        lab.begin("client", name, &line);
    }
    for name in ["v4", "v6"] {
        let began = lab.state().join(name).join("ftp-began");
        eventually(LONG, "a transfer", || began.exists().then_some(()));
    }
    std::thread::sleep(Duration::from_secs(1));
    fail_over(director, &backup);
    for name in ["v4", "v6"] {
        fs::write(lab.state().join(name).join("ftp-go"), "").unwrap();
    }
    for name in ["v4", "v6"] {
        assert_eq!(lab.exit_code(name, Duration::from_secs(40)), 0, "{}", lab.log(name));
        sums.insert(lab.log(name).lines().last().unwrap_or_default().to_owned());
    }
    assert_eq!(sums.len(), 1, "{sums:?}");
    assert_eq!(wanted.len(), 3 << 20);
    backup.stop();
}

#[test]
fn tshark_reads_what_is_told_of_connections_of_both_families() {
    let lab = Lab::pair("synctshark");
    let [director, backup] = Side::both(&lab, ["0", "1"], |config| settings(config, ""));
    has_learnt(&backup);
    let capture = Capture::begin(&lab, SIDES[1], "udp port 8848");
    for (vip, source) in [("192.0.2.100", 40_001), ("[2001:db8:1::100]", 40_002)] {
        let line = format!("curl -sS -o /dev/null --local-port {source} http://{vip}/");
        lab.client(&line);
    }
    let of_both = ["192.0.2.10:40001", "[2001:db8:1::10]:40002"];
    eventually(LONG, "both are known", || {
        let known = backup.tell("connections --limit 100000")?;
        of_both.iter().all(|client| known.contains(client)).then_some(())
    });
    capture.end();
    let known = backup.tell("connections --limit 100000").unwrap();
    let fields = ["ipvs.syncid", "ipvs.proto", "ipvs.vport", "ipvs.dport"];
    for (port, addresses, [client, vip]) in [
        (40_001, ["ipvs.caddr", "ipvs.vaddr", "ipvs.daddr"], ["192.0.2.10", "192.0.2.100"]),
        (
            40_002,
            ["ipvs.caddr6", "ipvs.vaddr6", "ipvs.daddr6"],
            ["2001:db8:1::10", "2001:db8:1::100"],
        ),
    ] {
        let filter = format!("ipvs.version == 1 && ipvs.cport == {port}");
        let told = capture.read(&filter, &[&fields[..], &addresses].concat());
        let row = told.first().unwrap_or_else(|| panic!("{port}: nothing was told"));
        let is_of_client = |line: &&str| line.contains(&format!(":{port}"));
        let line = known.lines().find(is_of_client).unwrap();
        let [front @ .., server] = &row[..] else { panic!("{row:?}") };
        assert_eq!(front, ["51", "0x06", "80", "8080", client, vip]);
        assert!(line.contains(&**server), "{server}: {line}");
    }
    director.stop();
    backup.stop();
}

/// Everything again in a second, as it is stated.
#[test]
fn connections_are_told_of_again_as_often_as_it_is_stated() {
    let lab = Lab::pair("syncwalk");
    let [director, backup] = Side::both(&lab, ["0", "1"], |config| {
        settings(config, "");
        section(config, &["timeouts"]).insert("udp".into(), "2m".into());
        let sync = &mut config["failover"].as_array_mut().unwrap()[0]["sync"];
        sync.as_table_mut().unwrap().insert("refresh".into(), "1s".into());
    });
    lab.client("curl -sS http://192.0.2.100/");
    let received = || said(&backup, "connections_received").as_u64().unwrap();
    let (from, begin) = (received(), std::time::Instant::now());
    eventually(LONG, "it is told of again and again", || (received() >= from + 8).then_some(()));
    assert!(begin.elapsed() > Duration::from_secs(4), "not in every turn");
    director.stop();
    backup.stop();
}
