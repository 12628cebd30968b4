//! Elections of real directors, beyond the pair whose master dies.

use std::time::Duration;

use crate::lab::Lab;
use crate::pair::{MAC_OF, Side, all_have_asked, answers_alone, float_only, group, set};
use crate::wire::Capture;

/// Who was the master, one after the other, as a side heard it by a family. The one before may speak
/// twice more: what was on its way, and that it yields.
fn masters(capture: &Capture<'_>, family: &str) -> Vec<&'static str> {
    let mut terms: Vec<(&str, usize)> = Vec::new();
    for line in capture.read(&format!("vrrp && {family}"), &["eth.src", "vrrp.prio"]) {
        let of = |known: &&(&str, &str, &str)| line[0] == known.1 || line[0] == known.2;
        let (role, ..) = *MAC_OF.iter().find(of).unwrap();
        let expected = match role {
            "director" => "150",
            "backup" => "100",
            _ => "50",
        };
        assert!([expected, "0"].contains(&&*line[1]), "{role}: {line:?}");
        let before = terms.len().checked_sub(2).map(|place| terms[place].0);
        match terms.last_mut() {
            Some((last, _)) if *last == role => {}
            Some((_, late)) if before == Some(role) && *late < 2 => *late += 1,
            _ => terms.push((role, 0)),
        }
    }
    terms.into_iter().map(|(role, _)| role).collect()
}

#[test]
fn of_three_directors_the_best_that_lives_is_the_only_one_that_speaks() {
    let lab = Lab::trio("three");
    let captures = Capture::both(&lab, "ip proto 112 or ip6 proto 112");
    // Each is better than those before. 50 steps of priority are a fifth of an interval apart
    // (RFC 9568 section 6.1), which has to be more than what a busy machine takes from a process.
    let mut running: Vec<Side<'_>> = Vec::new();
    for role in ["third", "backup", "director"] {
        let mut config = Side::config(&lab, role, "0");
        set(&mut config, "preempt = true\ninterval = \"500ms\"");
        let side = Side::start(&lab, role, &config);
        side.becomes("master");
        for worse in &running {
            worse.becomes("backup");
        }
        running.push(side);
    }
    all_have_asked(&lab);
    for role in ["backup", "third"] {
        running.pop().unwrap().dies();
        let best = running.last().unwrap();
        best.becomes("master");
        assert_eq!(best.reason(), "no other director was heard in time");
        answers_alone(&lab, role);
        for other in &running[..running.len() - 1] {
            assert_eq!(other.role(), "backup", "{}", other.reason());
        }
        all_have_asked(&lab);
    }
    running.pop().unwrap().stop();
    captures.iter().for_each(Capture::end);
    for capture in &captures {
        for family in ["ip", "ipv6"] {
            let expected = ["third", "backup", "director", "backup", "third"];
            assert_eq!(masters(capture, family), expected, "{family}");
        }
    }
}

#[test]
fn a_better_director_waits_as_long_as_it_is_told_and_the_owner_until_it_has_learnt() {
    let lab = Lab::pair("delays");
    let backup = Side::start(&lab, "backup", &Side::config(&lab, "backup", "1"));
    backup.becomes("master");
    let mut config = Side::config(&lab, "director", "0");
    set(&mut config, "preempt = \"8s\"");
    let director = Side::start(&lab, "director", &config);
    std::thread::sleep(Duration::from_millis(3500));
    assert_eq!((&*director.role(), &*backup.role()), ("backup", "master"));
    director.becomes("master");
    backup.becomes("backup");
    let reason = director.reason();
    assert!(reason.starts_with("it is better than ") && reason.ends_with(" 100"), "{reason}");
    director.dies();
    backup.becomes("master");

    // The owner's addresses are those that float.
    let mut config = Side::config(&lab, "director", "0");
    set(&mut config, "priority = 255");
    for (interface, addresses) in [
        ("outside", ["192.0.2.100/24", "2001:db8:1::100/64"]),
        ("inside", ["10.0.0.1/24", "fd00:a::1/64"]),
    ] {
        let addresses = addresses.map(toml::Value::from).to_vec();
        config["interface"][interface]["addresses"] = addresses.into();
    }
    for dies in [true, false] {
        let owner = Side::start(&lab, "director", &config);
        owner.becomes("master");
        backup.becomes("backup");
        assert!(backup.reason().ends_with(" is there with priority 255"), "{}", backup.reason());
        answers_alone(&lab, "director");
        all_have_asked(&lab);
        if dies {
            owner.dies();
        } else {
            // It does not come back as long as it lives.
            owner.tell("ha release").unwrap();
            std::thread::sleep(Duration::from_secs(2));
            assert_eq!(owner.role(), "backup");
            backup.becomes("master");
            answers_alone(&lab, "backup");
            owner.stop();
        }
        backup.becomes("master");
        all_have_asked(&lab);
    }
    backup.stop();
}

/// How many advertisements a director has refused for this reason.
fn refused(side: &Side<'_>, reason: &str) -> u64 {
    let status = side.ask().unwrap();
    let all = status["advertisements_refused"].as_array().unwrap();
    all.iter().find(|entry| entry["reason"] == reason).unwrap()["count"].as_u64().unwrap()
}

#[test]
fn by_version_2_another_password_and_another_interval_are_refused_and_told() {
    let lab = Lab::pair("refused");
    let start = |role: &'static str, password: &str, interval: &str| {
        let mut config = Side::config(&lab, role, "0");
        float_only(group(&mut config), "ipv4");
        let settings = format!("version = 2\npassword = \"{password}\"\ninterval = \"{interval}\"");
        set(&mut config, &settings);
        Side::start(&lab, role, &config)
    };
    let director = start("director", "secret", "1s");
    director.becomes("master");
    for (password, interval, reason) in [("secreT", "1s", "password"), ("secret", "2s", "interval")]
    {
        let backup = start("backup", password, interval);
        backup.becomes("master");
        // Both have spoken.
        std::thread::sleep(Duration::from_millis(2500));
        for side in [&director, &backup] {
            assert!(refused(side, reason) >= 2, "{reason}: {:?}", side.ask());
            let heard = &side.ask().unwrap()["advertisements_received"];
            assert_eq!((side.role(), heard.as_u64()), ("master".into(), Some(0)), "{reason}");
        }
        let line = "curl -sSf --max-time 5 http://127.0.0.1:9464/metrics";
        let metrics = lab.run("director", line);
        let is_told = |line: &str| {
            line.starts_with("pointsman_failover_advertisements_refused_total{")
                && line.contains(&format!("reason=\"{reason}\""))
                && !line.ends_with(" 0")
        };
        assert!(metrics.lines().any(is_told), "{metrics}");
        backup.dies();
    }
    let backup = start("backup", "secret", "1s");
    // For longer than it would wait.
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!((&*backup.role(), &*director.role()), ("backup", "master"));
    director.dies();
    backup.becomes("master");
    backup.stop();
}

/// The addresses that each director keeps.
const STAY: [(&str, [&str; 4]); 2] = [
    ("director", ["192.0.2.1", "2001:db8:1::1", "10.0.0.2", "fd00:a::2"]),
    ("backup", ["192.0.2.2", "2001:db8:1::2", "10.0.0.3", "fd00:a::3"]),
];

/// One of two directors that speak by unicast alone.
fn by_unicast(lab: &Lab, place: usize) -> Side<'_> {
    let ((role, _), (_, peers)) = (STAY[place], STAY[1 - place]);
    let mut config = Side::config(lab, role, "0");
    set(&mut config, &format!("peers = {peers:?}\nsync = {{ peers = [{:?}] }}", peers[2]));
    let side = Side::start(lab, role, &config);
    side.becomes(["master", "backup"][place]);
    side
}

/// It was away for so long that the master has given up asking for it, or has never heard of it.
#[test]
fn a_standby_by_unicast_hears_the_master_as_soon_as_its_cables_are_back() {
    let lab = Lab::pair("unplugged");
    let plug = |state: &str| {
        for switch in ["switch", "street"] {
            lab.run(switch, &format!("ip link set to-backup {state}"));
        }
    };
    let stays = |director: &Side<'_>, backup: &Side<'_>| {
        plug("up");
        backup.becomes("backup");
        std::thread::sleep(Duration::from_secs(3));
        assert_eq!([director, backup].map(Side::role), ["master", "backup"]);
        let log = lab.log("backup");
        assert!(!log.contains("to=\"master\""), "{log}");
    };
    let [director, backup] = [0, 1].map(|place| by_unicast(&lab, place));
    plug("down");
    backup.becomes("fault");
    std::thread::sleep(Duration::from_secs(40));
    stays(&director, &backup);
    plug("down");
    backup.becomes("fault");
    director.dies();
    let director = by_unicast(&lab, 0);
    std::thread::sleep(Duration::from_secs(4));
    stays(&director, &backup);
    director.stop();
    backup.stop();
}

#[test]
fn two_directors_elect_by_unicast_alone() {
    let lab = Lab::pair("unicast");
    let places = [("street", "to-backup"), ("switch", "to-backup")];
    let filter = "ip proto 112 or ip6 proto 112 or udp port 8848";
    let captures = places.map(|place| Capture::begin(&lab, place, filter));
    let [director, backup] = [0, 1].map(|place| by_unicast(&lab, place));
    answers_alone(&lab, "director");
    all_have_asked(&lab);
    director.dies();
    backup.becomes("master");
    answers_alone(&lab, "backup");
    backup.stop();
    captures.iter().for_each(Capture::end);
    for capture in &captures {
        let count = |filter: &str| capture.read(filter, &["frame.number"]).len();
        for family in ["ip", "ipv6"] {
            assert!(count(&format!("vrrp && {family}")) > 0, "{family}");
        }
        assert_eq!(count("eth.dst.ig == 1"), 0, "to a group");
    }
    assert!(!captures[1].read("udp.port == 8848", &["frame.number"]).is_empty());
}
