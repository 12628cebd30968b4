//! ipvsadm's language: scripts as the documentation of LVS has them, with clients and servers.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::process::Output;
use std::time::Duration;

use toml::{Table, Value};

use crate::director::{BINARY, Director};
use crate::lab::{Lab, VIP4, VIPS, forget_soon, section};
use crate::traffic::{answers, echoes, shares};

/// A laboratory whose director has no service, and where `ipvsadm` is pointsman.
fn without_services(lab: &Lab, workers: &str, change: impl Fn(&mut Table)) -> Table {
    for program in ["ipvsadm", "ipvsadm-save", "ipvsadm-restore"] {
        symlink(BINARY, lab.state().join(program)).unwrap();
    }
    let mut config = lab.config(workers);
    // Tables are made at the start, before there is a service of either family.
    section(&mut config, &["director"]).insert("ipv6_share".to_owned(), 25.into());
    config.insert("service".to_owned(), Value::Array(Vec::new()));
    change(&mut config);
    config
}

fn attempt(lab: &Lab, script: &str) -> Output {
    let state = lab.state();
    let state = state.display();
    let environment = format!(
        "PATH={state}:$PATH; export PATH POINTSMAN_SOCKET={state}/pointsman.sock; cd {state}"
    );
    lab.attempt("director", &format!("{environment}; set -e\n{script}"))
}

/// What a script prints that must succeed.
fn script(lab: &Lab, text: &str) -> String {
    let output = attempt(lab, text);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{text}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// The set-up of the LVS-NAT how-to, with names of ports.
const NAT: &str = "
VIP=192.0.2.100
ipvsadm -C
ipvsadm -A -t $VIP:http -s rr
ipvsadm -a -t $VIP:http -r 10.0.0.11:8080 -m -w 1
ipvsadm -a -t $VIP:http -r 10.0.0.12:8080 -m -w 1
ipvsadm -a -t $VIP:http -r 10.0.0.13:8080 -m -w 1
ipvsadm -A -u $VIP:echo -s rr
for server in 10.0.0.11 10.0.0.12 10.0.0.13; do
    ipvsadm -a -u $VIP:echo -r $server:7007 -m
done
ipvsadm --add-service --tcp-service '[2001:db8:1::100]:80' --scheduler rr
for n in 1 2 3; do
    ipvsadm --add-server --tcp-service '[2001:db8:1::100]:80' --real-server \"[fd00:a::1$n]:8080\" --masquerading
done
";

/// The numbers of a line of `--stats`: connections, packets in, out, octets in, out.
fn stats(lab: &Lab, line: &str) -> Vec<u64> {
    let listing = script(lab, "ipvsadm -ln --stats --exact");
    let line = listing.lines().find(|text| text.starts_with(line)).expect(&listing);
    let words = line.split_whitespace().skip(2);
    words.map(|word| word.parse().unwrap()).collect()
}

fn nat_set_up(lab: &Lab, director: &Director<'_>) {
    script(lab, NAT);
    for vip in VIPS {
        assert_eq!(answers(lab, vip, 9), shares([3, 3, 3]), "{vip}");
    }
    assert_eq!(echoes(lab, VIP4, 9), shares([3, 3, 3]));
    let of_service = stats(lab, "TCP  192.0.2.100:80 ");
    let of_server = stats(lab, "  -> 10.0.0.12:8080 ");
    assert_eq!((of_service[0], of_server[0]), (9, 3));
    // Three packets of the handshake, a request, and the end, at least.
    assert!(of_server[1] >= 3 * 5 && of_server[2] >= 3 * 4, "{of_server:?}");
    assert!(of_server[3] > 40 * of_server[1] && of_service[3] > of_server[3]);
    assert_eq!(stats(lab, "UDP  192.0.2.100:7 ")[..3], [9, 9, 9]);
    assert_eq!(stats(lab, "TCP  [2001:db8:1::100]:80 ")[0], 9);
    let connections = script(lab, "ipvsadm -lnc");
    assert!(connections.contains(" 192.0.2.100:80 ") && connections.contains(" TIME_WAIT "));
    script(lab, "ipvsadm -Z -t 192.0.2.100:80");
    assert_eq!(stats(lab, "TCP  192.0.2.100:80 "), [0; 5]);
    assert_eq!(stats(lab, "UDP  192.0.2.100:7 ")[0], 9);
    answers(lab, VIP4, 3);
    assert_eq!(stats(lab, "TCP  192.0.2.100:80 ")[0], 3);
    script(lab, "ipvsadm -Z");
    assert_eq!(stats(lab, "UDP  192.0.2.100:7 "), [0; 5]);
    // Metrics count on.
    let services = director.metrics().connections("tcp-192.0.2.100-80");
    assert_eq!(services, [4, 4, 4]);
}

fn edits(lab: &Lab) {
    script(lab, "ipvsadm -e -t 192.0.2.100:80 -r 10.0.0.12:8080 -m -w 0");
    assert_eq!(answers(lab, VIP4, 8), shares([4, 0, 4]));
    script(lab, "ipvsadm -E -t 192.0.2.100:80 -s wrr");
    script(lab, "ipvsadm -e -t 192.0.2.100:80 -r 10.0.0.12:8080 -m -w 2");
    assert_eq!(answers(lab, VIP4, 8), shares([2, 4, 2]));
    script(lab, "ipvsadm -d -t 192.0.2.100:80 -r 10.0.0.11:8080");
    assert_eq!(answers(lab, VIP4, 6), shares([0, 4, 2]));
    script(lab, "ipvsadm -D -t 192.0.2.100:80");
    let refused = lab.attempt("client", &format!("curl -sS --max-time 1 http://{VIP4}/"));
    assert!(!refused.status.success(), "{refused:?}");
}

fn saves_and_restores(lab: &Lab) {
    script(lab, NAT);
    let saved = script(lab, "ipvsadm -S -n | tee rules.ipvs; cat rules.ipvs | ipvsadm-restore");
    let again = script(lab, "ipvsadm-save -n");
    assert_eq!((saved.lines().count(), &saved), (12, &again));
    assert_eq!(answers(lab, VIP4, 9), shares([3, 3, 3]));
    script(lab, "ipvsadm -C; ipvsadm -R < rules.ipvs; rm rules.ipvs");
    assert_eq!(script(lab, "ipvsadm --save --numeric"), saved);
    for vip in VIPS {
        assert_eq!(answers(lab, vip, 9), shares([3, 3, 3]), "{vip}");
    }
}

#[test]
fn scripts_of_lvs_nat_run_unchanged() {
    let lab = Lab::two_nic("lvsnat");
    let config = without_services(&lab, "0, 1", |_| {});
    let director = lab.direct(&config);
    nat_set_up(&lab, &director);
    edits(&lab);
    saves_and_restores(&lab);
    script(&lab, "ipvsadm -C");
    director.balanced_metrics();
    director.stop();
}

#[test]
fn persistent_services_are_made_by_scripts() {
    let lab = Lab::two_nic("lvspers");
    let config = without_services(&lab, "0, 1", forget_soon);
    let director = lab.direct(&config);
    script(
        &lab,
        "ipvsadm -A -t 192.0.2.100:80 -s rr -p 5
         for n in 1 2 3; do ipvsadm -a -t 192.0.2.100:80 -r 10.0.0.1$n:8080 -m; done",
    );
    let listed = script(&lab, "ipvsadm -ln");
    assert!(listed.contains("TCP  192.0.2.100:80 rr persistent 5\n"), "{listed}");
    let tally = answers(&lab, VIP4, 9);
    assert_eq!(tally.len(), 1, "all go to one server: {tally:?}");
    let connections = script(&lab, "ipvsadm -lnc");
    let template = |line: &str| {
        line.starts_with("TCP 00:0")
            && line.contains(" NONE        192.0.2.10:0       192.0.2.100:80 ")
    };
    assert_eq!(connections.lines().filter(|line| template(line)).count(), 1, "{connections}");
    // Once the client is forgotten, the next server has its turn.
    std::thread::sleep(Duration::from_secs(8));
    assert_ne!(answers(&lab, VIP4, 9), tally);
    script(&lab, "ipvsadm -E -t 192.0.2.100:80 -s rr");
    assert_eq!(answers(&lab, VIP4, 9).len(), 3);
    director.balanced_metrics();
    director.stop();
}

#[test]
fn firewall_marks_make_one_service_of_many_ports() {
    let lab = Lab::two_nic("lvsmark");
    let config = without_services(&lab, "0, 1", |config| {
        // In the place of iptables -t mangle -j MARK --set-mark 1.
        let mark =
            "mark = 1\naddresses = [\"192.0.2.100\"]\nprotocol = \"tcp\"\nports = [80, 8000]";
        let mark: Table = mark.parse().unwrap();
        config.insert("mark".to_owned(), Value::Array(vec![mark.into()]));
    });
    let director = lab.direct(&config);
    script(
        &lab,
        "ipvsadm -A -f 1 -s rr
         ipvsadm -a -f 1 -r 10.0.0.11:8080 -m
         ipvsadm -a -f 1 -r 10.0.0.12:8080 -m
         ipvsadm -a -f 1 -r 10.0.0.13:8080 -m",
    );
    // No source port of one is one of the other's, who lead to the same ports of the servers.
    let ports_from = |first: u16| {
        let range = format!("{first} {}", first + 9999);
        lab.client(&format!("sysctl -qw net.ipv4.ip_local_port_range='{range}'"));
    };
    ports_from(10_000);
    let mut tally: BTreeMap<String, usize> = answers(&lab, VIP4, 4);
    ports_from(20_000);
    for (server, count) in answers(&lab, "192.0.2.100:8000", 5) {
        *tally.entry(server).or_default() += count;
    }
    assert_eq!(tally, shares([3, 3, 3]));
    assert_eq!(stats(&lab, "FWM  1 ")[0], 9);
    let saved = script(&lab, "ipvsadm -Sn");
    assert!(saved.starts_with("-A -f 1 -s rr\n-a -f 1 -r 10.0.0.11:8080 -m -w 1\n"), "{saved}");
    director.balanced_metrics();
    director.stop();
}

#[test]
fn what_is_not_masqueraded_is_refused() {
    let lab = Lab::two_nic("lvsdr");
    let config = without_services(&lab, "0", |_| {});
    let director = lab.direct(&config);
    let output = attempt(
        &lab,
        "ipvsadm -A -t 192.0.2.100:80\nipvsadm -a -t 192.0.2.100:80 -r 10.0.0.11:8080",
    );
    assert_eq!(output.status.code(), Some(255));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("use -m"), "{error}");
    assert_eq!(script(&lab, "ipvsadm -Sn"), "-A -t 192.0.2.100:80 -s wlc\n");
    director.stop();
}
