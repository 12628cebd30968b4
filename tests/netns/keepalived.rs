//! keepalived as the other half of a pair.

use std::fs;
use std::time::Duration;

use toml::{Table, Value};

use crate::lab::{Lab, eventually};
use crate::pair::{Side, all_have_asked, float_only, with};

const LONG: Duration = Duration::from_secs(20);

/// keepalived in the backup's place.
fn keepalived(lab: &Lab, settings: &str, families: &[&str]) {
    let mut instances = Vec::new();
    let mut names = Vec::new();
    for family in families {
        for (interface, floating) in match *family {
            "ipv4" => [("outside0", "192.0.2.100/24"), ("inside0", "10.0.0.1/24")],
            _ => [("outside0", "2001:db8:1::100/64"), ("inside0", "fd00:a::1/64")],
        } {
            let name = format!("{interface}-{family}");
            let [own, peer] = match (interface, *family) {
                ("outside0", "ipv4") => ["192.0.2.2", "192.0.2.1"],
                ("outside0", _) => ["2001:db8:1::2", "2001:db8:1::1"],
                (_, "ipv4") => ["10.0.0.3", "10.0.0.2"],
                _ => ["fd00:a::3", "fd00:a::2"],
            };
            let is_unicast = settings.contains("UNICAST");
            // Without it those by IPv6 have the hop limit of any packet, and are refused.
            let unicast =
                format!("unicast_src_ip {own}\nunicast_ttl 255\nunicast_peer {{ {peer} }}");
            let peer = if is_unicast { unicast } else { String::new() };
            let settings = settings.replace("UNICAST", "");
            let instance = format!(
                "vrrp_instance {name} {{\n state BACKUP\n interface {interface}\n \
                 virtual_router_id 51\n {settings}\n {peer}\n virtual_ipaddress {{ {floating} }}\n}}\n"
            );
            instances.push(instance);
            names.push(name);
        }
    }
    let file = lab.state().join("keepalived.conf");
    let (group, instances) = (names.join("\n"), instances.concat());
    let text = format!(
        "global_defs {{\n router_id backup\n}}\n\
         vrrp_sync_group pair {{ group {{\n{group}\n}} }}\n{instances}"
    );
    fs::write(&file, text).unwrap();
    let (file, state) = (file.display(), lab.state());
    let pids = format!("-p {0}/ka.pid -r {0}/kav.pid", state.display());
    lab.begin(
        "backup",
        "keepalived",
        &format!("keepalived --dont-fork --log-console --log-detail --vrrp -f {file} {pids}"),
    );
}

/// The kernel of the backup has addresses of its own.
fn kernel_in_the_backups_place(lab: &Lab) {
    let settings: Vec<_> = ["all", "default", "outside0", "inside0"]
        .iter()
        .map(|name| {
            format!("net.ipv6.conf.{name}.disable_ipv6=0 net.ipv6.conf.{name}.accept_dad=0")
        })
        .collect();
    lab.run("backup", &format!("sysctl -q -w {}", settings.join(" ")));
    for (interface, addresses) in [
        ("outside0", ["192.0.2.2/24", "2001:db8:1::2/64"]),
        ("inside0", ["10.0.0.3/24", "fd00:a::3/64"]),
    ] {
        for address in addresses {
            lab.run("backup", &format!("ip address add {address} dev {interface}"));
        }
    }
}

fn has_floating(lab: &Lab, family: &str) -> bool {
    let floating = match family {
        "ipv4" => ["192.0.2.100/24", "10.0.0.1/24"],
        _ => ["2001:db8:1::100/64", "fd00:a::1/64"],
    };
    // It takes them over one after the other.
    eventually(Duration::from_secs(2), "both sides are the same", || {
        let text = lab.run("backup", "ip -br address");
        let [outside, inside] = floating.map(|part| text.contains(part));
        (outside == inside).then_some(outside)
    })
}

/// Elects with keepalived in both directions.
pub(crate) fn elects_with_keepalived(lab: &Lab, settings: &str, families: &[&str], config: &Table) {
    kernel_in_the_backups_place(lab);
    let has_floating = || has_floating(lab, families[0]);
    let director = Side::start(lab, "director", config);
    director.becomes("master");
    keepalived(lab, settings, families);
    eventually(LONG, "keepalived is a backup", || {
        lab.log("keepalived").contains("Entering BACKUP STATE").then_some(())
    });
    std::thread::sleep(Duration::from_secs(2));
    assert!(!has_floating(), "{}", lab.log("keepalived"));
    assert_eq!(director.role(), "master");
    // Killed: keepalived takes over; back again: it stays the master.
    director.dies();
    eventually(LONG, "keepalived is the master", || has_floating().then_some(()));
    let director = Side::start(lab, "director", config);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(director.role(), "backup", "{}", director.reason());
    assert!(has_floating());
    // The operator takes over, and keepalived yields.
    director.tell("ha takeover").unwrap();
    eventually(LONG, "keepalived yields", || (!has_floating()).then_some(()));
    assert_eq!(director.role(), "master");
    // It resigns, and keepalived takes over.
    director.tell("ha release").unwrap();
    eventually(LONG, "keepalived takes over", || has_floating().then_some(()));
    director.becomes("backup");
    // keepalived ends in order.
    assert_eq!(lab.end("keepalived"), 0, "{}", lab.log("keepalived"));
    director.becomes("master");
    assert!(director.reason().ends_with(" has given up"), "{}", director.reason());
    let refused = director.ask().unwrap();
    for entry in refused["advertisements_refused"].as_array().unwrap() {
        assert_eq!(entry["count"], 0, "{entry}");
    }
    director.stop();
}

#[test]
fn keepalived_is_the_other_half_by_version_3_and_multicast() {
    let lab = Lab::pair("keep3");
    let config = with(&lab, |group| drop(group.insert("pseudo_header".into(), true.into())));
    let settings = "version 3\n priority 100\n advert_int 0.1\n nopreempt";
    elects_with_keepalived(&lab, settings, &["ipv4", "ipv6"], &config);
}

#[test]
fn keepalived_is_the_other_half_by_version_3_and_unicast() {
    let lab = Lab::pair("keep3u");
    let config = with(&lab, |group| {
        float_only(group, "ipv4");
        group.insert("pseudo_header".into(), true.into());
        let peers = ["192.0.2.2", "10.0.0.3"].map(Value::from).to_vec();
        group.insert("peers".into(), peers.into());
    });
    let settings = "UNICAST version 3\n priority 100\n advert_int 0.1\n nopreempt";
    elects_with_keepalived(&lab, settings, &["ipv4"], &config);
}

#[test]
fn keepalived_is_the_other_half_by_version_2_with_a_password() {
    let lab = Lab::pair("keep2");
    let config = with(&lab, |group| {
        float_only(group, "ipv4");
        group.insert("version".into(), 2.into());
        group.insert("interval".into(), "1s".into());
        group.insert("password".into(), "secret".into());
    });
    let settings = "version 2\n priority 100\n advert_int 1\n nopreempt\n \
        authentication {\n auth_type PASS\n auth_pass secret\n }";
    elects_with_keepalived(&lab, settings, &["ipv4"], &config);
}

#[test]
fn keepalived_is_the_other_half_by_version_2_and_unicast() {
    let lab = Lab::pair("keep2u");
    let config = with(&lab, |group| {
        float_only(group, "ipv4");
        group.insert("version".into(), 2.into());
        group.insert("interval".into(), "1s".into());
        let peers = ["192.0.2.2", "10.0.0.3"].map(Value::from).to_vec();
        group.insert("peers".into(), peers.into());
    });
    let settings = "UNICAST version 2\n priority 100\n advert_int 1\n nopreempt";
    elects_with_keepalived(&lab, settings, &["ipv4"], &config);
}

#[test]
fn keepalived_is_the_other_half_by_ipv6_and_unicast() {
    let lab = Lab::pair("keep6u");
    let config = with(&lab, |group| {
        float_only(group, "ipv6");
        let peers = ["2001:db8:1::2", "fd00:a::3"].map(Value::from).to_vec();
        group.insert("peers".into(), peers.into());
    });
    let settings = "UNICAST version 3\n priority 100\n advert_int 0.1\n nopreempt";
    elects_with_keepalived(&lab, settings, &["ipv6"], &config);
}

#[test]
fn a_better_keepalived_is_the_master_while_it_lives() {
    let lab = Lab::pair("keepbest");
    let config = with(&lab, |group| drop(group.insert("pseudo_header".into(), true.into())));
    kernel_in_the_backups_place(&lab);
    let director = Side::start(&lab, "director", &config);
    director.becomes("master");
    let settings = "version 3\n priority 200\n advert_int 0.1";
    for dies in [true, false] {
        keepalived(&lab, settings, &["ipv4", "ipv6"]);
        director.becomes("backup");
        assert!(
            director.reason().ends_with(" is there with priority 200"),
            "{}",
            director.reason()
        );
        eventually(LONG, "keepalived is the master", || has_floating(&lab, "ipv4").then_some(()));
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!((director.role(), has_floating(&lab, "ipv4")), ("backup".into(), true));
        if dies {
            // The one that speaks first: it would give up if it saw the other one die.
            let state = lab.state();
            lab.run(
                "backup",
                &format!(
                    "cd {} && kill -KILL $(cat kav.pid ka.pid) && rm ka.pid kav.pid",
                    state.display()
                ),
            );
            lab.end("keepalived");
            director.becomes("master");
            assert_eq!(director.reason(), "no other director was heard in time");
            // What its kernel has left.
            for (interface, address) in [
                ("outside0", "192.0.2.100/24"),
                ("outside0", "2001:db8:1::100/64"),
                ("inside0", "10.0.0.1/24"),
                ("inside0", "fd00:a::1/64"),
            ] {
                lab.run("backup", &format!("ip address del {address} dev {interface}"));
            }
            all_have_asked(&lab);
        } else {
            assert_eq!(lab.end("keepalived"), 0, "{}", lab.log("keepalived"));
            director.becomes("master");
            assert!(director.reason().ends_with(" has given up"), "{}", director.reason());
        }
    }
    director.stop();
}

#[test]
fn a_director_that_preempts_takes_over_from_a_worse_keepalived_that_works() {
    let lab = Lab::pair("keepworse");
    let config = with(&lab, |group| {
        group.insert("pseudo_header".into(), true.into());
        group.insert("preempt".into(), true.into());
        group.insert("interval".into(), "500ms".into());
    });
    kernel_in_the_backups_place(&lab);
    keepalived(&lab, "version 3\n priority 100\n advert_int 0.5", &["ipv4", "ipv6"]);
    let has_floating = || has_floating(&lab, "ipv4");
    eventually(LONG, "keepalived is the master", || has_floating().then_some(()));
    for _ in 0..2 {
        let director = Side::start(&lab, "director", &config);
        director.becomes("master");
        let reason = director.reason();
        assert!(reason.starts_with("it is better than "), "{reason}");
        assert!(reason.ends_with(" with priority 100"), "{reason}");
        eventually(LONG, "keepalived yields", || (!has_floating()).then_some(()));
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!((director.role(), has_floating()), ("master".into(), false));
        director.stop();
        eventually(LONG, "keepalived takes over", || has_floating().then_some(()));
    }
    assert_eq!(lab.end("keepalived"), 0, "{}", lab.log("keepalived"));
}
