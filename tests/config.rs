//! The configuration file as an operator sees it: what is accepted, and how errors look.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;

use pointsman::control::config::{
    Config, Device, Diagnostic, Idle, Listing, LoadError, Machine, PortConfig, Role, load_for,
    parse,
};
use pointsman::ids::{CpuId, InterfaceId, VlanId};
use pointsman::service::{
    ClosedPorts, Helper, MssClamp, NonSyn, Policy, Protocol, RealServer, Removal, SchedulerFlags,
    SchedulerKind, TimeoutPreset, Timeouts,
};
use pointsman::wire::toeplitz::RssInput;

/// The machine that the cases assume.
fn machine() -> Machine {
    Machine::with_cpus(8)
}

fn files(directory: &str, extension: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    let mut files: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|found| found == extension));
    files.sort();
    assert!(!files.is_empty());
    files
}

fn file_name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

/// `tests/config/CASE.toml` gives exactly what `CASE.stderr` says. `BLESS=1` writes the latter.
#[test]
fn every_bad_file_gets_the_errors_it_deserves() {
    let mut failures = Vec::new();
    for case in files("tests/config", "toml") {
        let text = fs::read_to_string(&case).unwrap();
        let found = match parse(&text, file_name(&case), &machine()) {
            Ok(loaded) => Listing(&loaded.warnings).to_string(),
            Err(diagnostics) => {
                assert!(diagnostics.iter().any(Diagnostic::is_error), "{}", case.display());
                Listing(&diagnostics).to_string()
            }
        };
        let golden = case.with_extension("stderr");
        if std::env::var_os("BLESS").is_some() {
            fs::write(&golden, &found).unwrap();
        }
        let expected = fs::read_to_string(&golden).unwrap_or_default();
        if found != expected {
            let case = file_name(&case);
            failures.push(format!("=== {case}: expected\n{expected}=== found\n{found}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn every_ready_made_file_loads_without_a_warning() {
    for file in files("dpdk-config", "toml") {
        match load_for(&file, &machine()) {
            Ok(loaded) => {
                assert!(loaded.warnings.is_empty(), "{}", Listing(&loaded.warnings));
            }
            Err(error) => panic!("{error}"),
        }
    }
}

const SMALL: &str = r#"
[interface.lan]
role = "both"
device = "net_null"
addresses = ["10.0.0.1/24"]
"#;

fn good(text: &str) -> Config {
    match parse(text, "test.toml", &machine()) {
        Ok(loaded) => loaded.config,
        Err(diagnostics) => panic!("{}", Listing(&diagnostics)),
    }
}

#[test]
fn the_smallest_file_has_every_default() {
    let config = good(SMALL);
    let director = &config.director;
    assert_eq!(director.workers, (1..8).map(CpuId).collect::<Vec<_>>());
    assert_eq!(director.control_cpu, CpuId(0));
    assert_eq!(director.idle, Idle::Busy);
    assert_eq!(director.connections, 1_000_000);
    assert_eq!(director.ipv6_share, 0);
    assert_eq!(director.persistence_templates, 262_144);
    assert_eq!(director.metrics, Some("127.0.0.1:9464".parse().unwrap()));
    assert_eq!(director.socket, Path::new("/run/pointsman/pointsman.sock"));
    assert_eq!(director.log.filter, "info");
    assert_eq!(director.non_syn, NonSyn::Drop);
    assert!(config.dpdk.hugepages);
    assert_eq!((config.dpdk.memory_mib, config.dpdk.mbuf_octets), (1024, 2048));
    assert_eq!(config.interfaces[0].mtu, 1500);
    assert_eq!(config.timeouts, Timeouts::default());
    assert!(config.services.is_empty());
}

#[test]
fn without_huge_pages_less_memory_is_the_default() {
    let config = good(&format!("[dpdk]\nhugepages = false\n{SMALL}"));
    assert_eq!(config.dpdk.memory_mib, 512);
}

#[test]
fn the_only_cpu_serves_everything() {
    let loaded = parse(SMALL, "test.toml", &Machine::with_cpus(1)).unwrap();
    assert_eq!(loaded.config.director.workers, [CpuId(0)]);
}

#[test]
fn every_key_arrives_where_it_belongs() {
    let config = good(include_str!("config/everything.toml"));
    let director = &config.director;
    assert_eq!(director.workers, [CpuId(1), CpuId(2)]);
    assert_eq!(director.control_cpu, CpuId(3));
    assert_eq!(director.idle, Idle::Adaptive(Duration::from_micros(100)));
    assert_eq!((director.connections, director.ipv6_share), (4_000_000, 25));
    assert_eq!(director.metrics, None);
    assert_eq!(director.non_syn, NonSyn::Schedule);
    assert_eq!(director.errors_per_second, 250);
    assert_eq!(director.fragment_timeout, Duration::from_secs(5));
    let policy = Policy { closed_ports: ClosedPorts::Unreachable, routing: true };
    assert_eq!(config.policy, policy);
    let dpdk = &config.dpdk;
    assert_eq!((dpdk.memory_mib, dpdk.mbufs, dpdk.mbuf_octets), (2048, Some(65_536), 9728));
    assert_eq!((dpdk.rx_descriptors, dpdk.tx_descriptors), (2048, 512));
    assert_eq!(dpdk.eal_args, ["--iova-mode=va"]);

    let [outside, inside] = &config.interfaces[..] else { panic!("two interfaces") };
    assert_eq!((outside.name.as_str(), outside.role), ("zebra", Role::Outside));
    assert_eq!((&outside.device, outside.vlan.0), (&Device::Pci("0000:3b:00.0".into()), 10));
    assert_eq!((outside.mtu, outside.queues, outside.promiscuous), (9000, Some(2), true));
    assert_eq!(outside.mac.unwrap().to_string(), "02:00:00:00:00:aa");
    assert_eq!(outside.mss_clamp, Some(MssClamp::Octets(8000)));
    assert_eq!(inside.mss_clamp, Some(MssClamp::Mtu));
    assert_eq!(outside.gateways.len(), 2);
    assert_eq!(outside.neighbors[0].0, "203.0.113.1".parse::<IpAddr>().unwrap());
    assert_eq!(inside.routes[0].to, "10.1.0.0/16".parse().unwrap());
    assert_eq!(inside.routes[0].via, "10.0.0.254".parse::<IpAddr>().unwrap());

    assert_eq!(director.persistence_templates, 100_000);
    let [masquerade] = &config.masquerades[..] else { panic!("one masquerade") };
    assert_eq!(
        masquerade.sources,
        ["10.0.0.0/24".parse().unwrap(), "10.1.0.0/16".parse().unwrap()]
    );
    assert_eq!(masquerade.addresses.len(), 2);
    assert_eq!(masquerade.ports, 2000..=2999);

    assert_eq!(config.timeouts.icmp, Duration::from_secs(90));
    let rfc = Timeouts::preset(TimeoutPreset::Rfc);
    assert_eq!(config.timeouts.established, Duration::from_secs(3600));
    assert_eq!(config.timeouts.close, rfc.close);
    let seconds = [
        config.timeouts.sctp_first_init,
        config.timeouts.sctp_init,
        config.timeouts.sctp_established,
        config.timeouts.sctp_shutdown,
        config.timeouts.sctp_rejected,
        config.timeouts.sctp_closed,
    ]
    .map(|timeout| timeout.as_secs());
    assert_eq!(seconds, [5, 60, 1800, 70, 6, 10]);
}

#[test]
fn every_key_of_a_service_arrives_where_it_belongs() {
    let config = good(include_str!("config/everything.toml"));
    let [web, dns, sigtran, passive, all_ports, shop] = &config.services[..] else {
        panic!("six services")
    };
    let persistence = web.persistence.unwrap();
    assert_eq!((persistence.timeout, persistence.prefix), (Duration::from_secs(600), 24));
    assert_eq!((web.connection_limit, dns.connection_limit), (Some(50_000), None));
    assert_eq!((dns.persistence, passive.persistence), (None, None));
    assert_eq!(all_ports.persistence.unwrap().prefix, 32, "every client for itself");
    assert_eq!(passive.servers[0].address.to_string(), "10.0.0.12:0", "the client's port");
    assert_eq!((shop.listen.mark().unwrap().get(), shop.listen.is_ipv6()), (7, false));
    assert_eq!(dns.servers[0].slow_start, Some(Duration::from_secs(30)));
    assert_eq!((web.removal, dns.removal), (Removal::Reset, Removal::Finish));
    assert_eq!(web.scheduler, SchedulerKind::MaglevHashing);
    assert_eq!(web.scheduler_flags, SchedulerFlags { fallback: true, port: true });
    let thresholds = |server: &RealServer| (server.upper_threshold, server.lower_threshold);
    assert_eq!(web.servers.iter().map(thresholds).collect::<Vec<_>>(), [(1000, 900), (0, 0)]);
    assert_eq!(web.servers[0].address, "10.1.2.3:8080".parse::<SocketAddr>().unwrap());
    assert_eq!((web.servers[0].weight, web.servers[1].weight), (RealServer::MAX_WEIGHT, 1));
    assert_eq!(web.non_syn, NonSyn::Drop, "the service's own word counts");
    let own = dns.timeouts.unwrap();
    assert_eq!(own.udp, Duration::from_secs(10));
    assert_eq!(own.close_wait, Duration::from_secs(240), "the service's preset");
    assert!(dns.one_packet && !web.one_packet);
    assert_eq!(web.timeouts, None);
    assert_eq!(dns.scheduler, SchedulerKind::WeightedLeastConnections);
    assert_eq!(
        (sigtran.listen.protocol(), sigtran.non_syn),
        (Some(Protocol::Sctp), NonSyn::Schedule)
    );
}

#[test]
fn every_key_of_a_mark_arrives_where_it_belongs() {
    let config = good(include_str!("config/everything.toml"));
    let [mark] = &config.marks[..] else { panic!("one mark") };
    assert_eq!((mark.mark.get(), mark.protocol), (7, Some(Protocol::Tcp)));
    assert_eq!(mark.addresses[0].to_string(), "203.0.113.20/32");
    assert_eq!(mark.addresses[1].to_string(), "198.51.100.0/28");
    let ports: Vec<_> = mark.ports.iter().map(ToString::to_string).collect();
    assert_eq!(ports, ["80", "443", "8443-8449"]);
    assert_eq!(mark.sources, ["192.0.2.0/24".parse().unwrap()]);
    assert_eq!(mark.interface, Some(InterfaceId(0)));
}

#[test]
fn the_nics_key_is_read_with_and_without_colons() {
    let config = good(include_str!("config/everything.toml"));
    let key = config.dpdk.rss_key.unwrap();
    assert_eq!((key.len(), key[0], key[39]), (40, 0x6d, 0xfa));
    assert_eq!(config.dpdk.rss_input, RssInput::Packed);
    let octets: Vec<_> = key.iter().chain(&key[..12]).map(|octet| format!("{octet:02X}")).collect();
    let text = format!("{SMALL}\n[dpdk]\nrss_key = {:?}\n", octets.join(":"));
    assert_eq!(good(&text).dpdk.rss_key.unwrap(), [&key[..], &key[..12]].concat());
}

#[test]
fn virtual_devices_of_one_driver_get_distinct_names() {
    let config = good(
        r#"
        [interface.b]
        role = "outside"
        device = "net_af_packet,iface=eth0"
        addresses = ["192.0.2.1/24"]
        [interface.a]
        role = "inside"
        device = "net_af_packet,iface=eth1"
        addresses = ["10.0.0.1/24"]
        "#,
    );
    let devices: Vec<_> =
        config.interfaces.iter().map(|interface| interface.device.to_string()).collect();
    assert_eq!(devices, ["net_af_packet0,iface=eth0", "net_af_packet1,iface=eth1"]);
}

#[test]
fn vlans_of_one_device_share_a_port_and_what_is_said_of_it() {
    let config = good(include_str!("config/vlans-good.toml"));
    let [clients, servers, plain, other] = &config.interfaces[..] else { panic!("four") };
    for interface in [clients, servers, plain] {
        assert_eq!(interface.device.to_string(), "net_null0");
        assert_eq!(interface.mac.unwrap().to_string(), "02:00:00:00:00:01");
        assert_eq!((interface.queues, interface.promiscuous), (Some(3), true));
    }
    assert_eq!((other.device.to_string().as_str(), other.mac), ("net_null7", None));
    assert_eq!((other.queues, other.promiscuous), (None, false));
    assert_eq!((clients.mtu, servers.mtu, plain.mtu), (1500, 9000, 1500));
    let vlans = [clients, servers, plain].map(|interface| interface.vlan);
    assert_eq!(vlans, [VlanId(1), VlanId(4094), VlanId::UNTAGGED]);

    let ports = config.ports();
    let names: Vec<_> = ports.iter().map(PortConfig::name).collect();
    assert_eq!(names, ["clients+servers+plain", "other"]);
    assert_eq!((ports[0].mtu(), ports[1].mtu()), (9000, 1500));
}

/// A director has as many ports as DPDK, and more interfaces by VLANs.
#[test]
fn there_are_limits_to_ports_and_to_interfaces() {
    let section = |number: usize, vlans: bool| {
        let role = if number == 0 { "outside" } else { "inside" };
        let (device, vlan) = if vlans {
            ("net_null0".into(), format!("vlan = {}\n", number + 1))
        } else {
            (format!("net_null{number}"), String::new())
        };
        format!(
            "[interface.i{number}]\nrole = \"{role}\"\ndevice = \"{device}\"\n{vlan}\
             addresses = [\"10.{number}.0.1/24\"]\n"
        )
    };
    let errors = |count: usize, vlans: bool| {
        let text: String = (0..count).map(|number| section(number, vlans)).collect();
        match parse(&text, "f", &machine()) {
            Ok(_) => Vec::new(),
            Err(found) => found.into_iter().map(|error| error.message).collect(),
        }
    };
    assert_eq!(errors(32, false), Vec::<String>::new());
    assert_eq!(errors(33, false), ["DPDK has 32 ports at most"]);
    assert_eq!(errors(128, true), Vec::<String>::new());
    assert_eq!(errors(129, true), ["there can be 128 interfaces at most"]);
}

#[test]
fn a_single_virtual_device_keeps_its_name() {
    assert_eq!(good(SMALL).interfaces[0].device.to_string(), "net_null");
}

#[test]
fn connections_are_shared_by_the_families_that_are_served() {
    let service = |name: &str, listen: &str, server: &str| {
        format!(
            "[[service]]\nname = {name:?}\nlisten = {listen:?}\nservers = [{{ address = {server:?} }}]\n"
        )
    };
    let ipv4 = service("a", "tcp://10.0.0.100:80", "10.0.0.11:80");
    let ipv6 = service("b", "tcp://[fd00::100]:80", "[fd00::11]:80");
    let small = SMALL.replace("\"10.0.0.1/24\"", "\"10.0.0.1/24\", \"fd00::1/64\"");
    for (services, share) in [(ipv4.clone(), 0), (ipv6.clone(), 100), (ipv4 + &ipv6, 50)] {
        assert_eq!(good(&format!("{small}{services}")).director.ipv6_share, share);
    }
}

/// The manual's first example stands alone; the others, together, are a file.
#[test]
fn the_examples_of_the_manual_are_valid() {
    let manual = include_str!("../docs/configuration.md");
    let mut examples =
        manual.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    good(examples.next().unwrap());
    let rest: String = examples.collect();
    let loaded = parse(&rest, "manual", &machine()).unwrap_or_else(|e| panic!("{}", Listing(&e)));
    assert!(loaded.warnings.is_empty(), "{}", Listing(&loaded.warnings));
}

#[test]
fn the_manual_names_every_key() {
    let manual = include_str!("../docs/configuration.md");
    for line in include_str!("config/everything.toml").lines() {
        let Some((key, _)) = line.split_once(" = ") else { continue };
        if !key.starts_with(['"', '#']) {
            assert!(manual.contains(&format!("`{key}`")), "{key} is not in the manual");
        }
    }
}

#[test]
fn a_file_that_is_not_there_is_not_a_wrong_file() {
    let error = load_for(Path::new("/nonexistent.toml"), &machine()).unwrap_err();
    assert!(matches!(error, LoadError::Unreadable { .. }));
    assert!(error.to_string().contains("/nonexistent.toml"));
}

#[test]
fn a_file_that_is_not_text_is_refused_with_the_place() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), b"[director]\nlog = \"\xff\"\n").unwrap();
    let error = load_for(file.path(), &machine()).unwrap_err().to_string();
    assert!(error.contains(":2:8: error: the file is not UTF-8"), "{error}");
}

/// Keys and values of the file, rearranged: gets further than random octets.
fn scrap() -> impl Strategy<Value = String> {
    let everything = include_str!("config/everything.toml");
    let lines: Vec<&str> = everything.lines().collect();
    let words: Vec<&str> = everything.split_inclusive([' ', '\n', '"', '.', '[']).collect();
    prop_oneof![
        prop::collection::vec(prop::sample::select(lines), 0..40)
            .prop_map(|lines| lines.join("\n")),
        prop::collection::vec(prop::sample::select(words), 0..80).prop_map(|words| words.concat()),
    ]
}

fn well_formed(text: &str) {
    if let Err(diagnostics) = parse(text, "f", &machine()) {
        assert!(diagnostics.iter().any(Diagnostic::is_error));
        for diagnostic in &diagnostics {
            assert!(!diagnostic.message.is_empty());
            assert!(diagnostic.to_string().starts_with("f:"));
        }
    }
}

#[test]
fn deep_nesting_does_not_exhaust_the_stack() {
    for open in ["[", "{a=", "a.", "[["] {
        well_formed(&format!("a = {}", open.repeat(50_000)));
        well_formed(&open.repeat(50_000));
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in any::<String>()) {
        well_formed(&text);
    }

    #[test]
    fn no_rearranged_file_makes_the_parser_panic(text in scrap()) {
        well_formed(&text);
    }

    #[test]
    fn no_changed_character_makes_the_parser_panic(
        at in any::<prop::sample::Index>(),
        new in any::<char>(),
    ) {
        let mut text: Vec<char> = include_str!("config/everything.toml").chars().collect();
        let at = at.index(text.len());
        text[at] = new;
        well_formed(&text.into_iter().collect::<String>());
    }
}

#[test]
fn ftp_services_have_their_helper_unless_told_otherwise() {
    let with = |listen: &str, more: &str| {
        let service = format!(
            "{SMALL}[[service]]\nname = \"x\"\nlisten = \"{listen}\"\n{more}\n\
             servers = [{{ address = \"10.0.0.3:21\" }}]\n"
        );
        good(&service).services[0].helper
    };
    assert_eq!(with("tcp://10.0.0.9:21", ""), Some(Helper::Ftp));
    assert_eq!(with("tcp://10.0.0.9:21", "helper = \"none\""), None);
    assert_eq!(with("tcp://10.0.0.9:2121", ""), None);
    assert_eq!(with("tcp://10.0.0.9:2121", "helper = \"ftp\""), Some(Helper::Ftp));
    assert_eq!(with("udp://10.0.0.9:21", ""), None);
}
