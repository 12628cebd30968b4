//! `pointsman check` on machines of all kinds: what it says, and its exit codes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use pointsman::cli::check::{Outcome, check};
use pointsman::control::config::preflight::{Host, PciDevice, SocketState, check as preflight};
use pointsman::control::config::{Diagnostic, Machine, parse};

/// A machine on which everything is as it should be, but for what a test changes.
struct TestHost {
    huge_pages_mib: u64,
    memory_mib: Option<u64>,
    interfaces: Vec<&'static str>,
    files: Result<(), io::ErrorKind>,
    directories: Result<(), io::ErrorKind>,
    listen: Result<(), io::ErrorKind>,
    socket: SocketState,
    pci: PciDevice,
}

impl Default for TestHost {
    fn default() -> Self {
        Self {
            huge_pages_mib: 8192,
            memory_mib: Some(8192),
            interfaces: vec!["eth0"],
            files: Ok(()),
            directories: Ok(()),
            listen: Ok(()),
            socket: SocketState::Free,
            pci: PciDevice::Bound("vfio-pci".into()),
        }
    }
}

impl Host for TestHost {
    fn free_huge_pages_mib(&self) -> u64 {
        self.huge_pages_mib
    }
    fn available_memory_mib(&self) -> Option<u64> {
        self.memory_mib
    }
    fn has_network_interface(&self, name: &str) -> bool {
        self.interfaces.contains(&name)
    }
    fn can_read(&self, _: &Path) -> io::Result<()> {
        Ok(self.files?)
    }
    fn can_create_in(&self, _: &Path) -> io::Result<()> {
        Ok(self.directories?)
    }
    fn can_listen(&self, _: SocketAddr) -> io::Result<()> {
        Ok(self.listen?)
    }
    fn socket(&self, _: &Path) -> SocketState {
        self.socket
    }
    fn pci_device(&self, _: &str) -> PciDevice {
        self.pci.clone()
    }
}

fn findings(device: &str, dpdk: &str, host: &TestHost) -> Vec<Diagnostic> {
    let text = format!(
        "[dpdk]\n{dpdk}\n[interface.lan]\nrole = \"both\"\ndevice = {device:?}\n\
         addresses = [\"10.0.0.1/24\"]\n"
    );
    let loaded = parse(&text, "test.toml", &Machine::with_cpus(4)).unwrap();
    preflight(&loaded.config, "test.toml", host)
}

/// The only finding, as text.
fn finding(device: &str, dpdk: &str, host: &TestHost) -> String {
    let found = findings(device, dpdk, host);
    let [finding] = &found[..] else { panic!("{found:?}") };
    assert!(finding.help.is_some(), "{finding}");
    finding.to_string()
}

#[test]
fn nothing_is_wrong_with_a_machine_that_has_everything() {
    for device in ["3b:00.0", "net_af_packet,iface=eth0", "net_pcap,rx_pcap=a,tx_pcap=b"] {
        assert_eq!(findings(device, "", &TestHost::default()), []);
    }
}

/// Wants one error that says `message`, with a remedy that says `help`.
fn obstacle(device: &str, dpdk: &str, host: &TestHost, message: &str, help: &str) {
    let found = finding(device, dpdk, host);
    assert!(found.starts_with("test.toml: error: "), "{found}");
    assert!(found.contains(message) && found.contains(help), "{found}");
}

#[test]
fn too_little_memory_is_named_with_its_remedy() {
    let good = TestHost::default();
    let message = "do not hold the packet buffers, about 2259 MiB";
    obstacle("net_null", "mbufs = 1_000_000", &good, message, "2304MiB");
    let host = TestHost { huge_pages_mib: 24, ..TestHost::default() };
    let message = "1024 MiB of huge pages are asked for, 24 MiB are free";
    obstacle("net_null", "", &host, message, "+ 500");
    let host = TestHost { memory_mib: Some(100), ..TestHost::default() };
    let message = "512 MiB are asked for, 100 MiB are available";
    obstacle("net_null", "hugepages = false", &host, message, "smaller");
    let host = TestHost { memory_mib: Some(600), ..TestHost::default() };
    let message = "tables take up to 161 MiB beside 512 MiB for packets; 600 MiB are available";
    obstacle("net_null", "hugepages = false", &host, message, "fewer connections");
}

#[test]
fn a_device_that_is_not_there_is_named_with_its_remedy() {
    for device in ["net_af_packet,iface=eth7", "net_af_xdp,iface=eth7", "net_pcap,iface=eth7"] {
        obstacle(device, "", &TestHost::default(), "no network interface eth7", "ip link");
    }
    let host = TestHost { files: Err(io::ErrorKind::NotFound), ..TestHost::default() };
    obstacle("net_pcap,rx_pcap=x.pcap", "", &host, "cannot read x.pcap", "capture file");
    for (pci, message, help) in [
        (PciDevice::Absent, "no PCI device 0000:3b:00.0", "--status"),
        (PciDevice::Unbound, "0000:3b:00.0 has no driver", "--bind=vfio-pci"),
        (PciDevice::Bound("ixgbe".into()), "kernel's driver ixgbe", "--bind=vfio-pci"),
    ] {
        obstacle("3b:00.0", "", &TestHost { pci, ..TestHost::default() }, message, help);
    }
}

#[test]
fn a_listener_that_cannot_be_is_named_with_its_remedy() {
    for (kind, help) in [
        (io::ErrorKind::AddrInUse, "another process"),
        (io::ErrorKind::AddrNotAvailable, "127.0.0.1:9464"),
    ] {
        let host = TestHost { listen: Err(kind), ..TestHost::default() };
        obstacle("net_null", "", &host, "cannot listen on 127.0.0.1:9464", help);
    }
    let host = TestHost { socket: SocketState::NotASocket, ..TestHost::default() };
    obstacle("net_null", "", &host, "is not a socket", "remove it");
    let host =
        TestHost { directories: Err(io::ErrorKind::PermissionDenied), ..TestHost::default() };
    obstacle("net_null", "", &host, "cannot create a socket in /run/pointsman", "as root");
}

#[test]
fn what_a_running_director_has_taken_is_no_error() {
    let host = TestHost {
        socket: SocketState::InUse,
        listen: Err(io::ErrorKind::AddrInUse),
        huge_pages_mib: 0,
        ..TestHost::default()
    };
    let found = findings("net_null", "", &host);
    assert_eq!(found.len(), 3);
    assert!(!found.iter().any(Diagnostic::is_error), "{found:?}");
}

#[test]
fn a_mellanox_nic_stays_with_its_kernel_driver() {
    let host = TestHost { pci: PciDevice::Bound("mlx5_core".into()), ..TestHost::default() };
    assert_eq!(findings("3b:00.0", "", &host), []);
}

fn run(path: &Path, host: &TestHost) -> (Outcome, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let outcome = check(path, &Machine::with_cpus(8), host, &mut out, &mut err).unwrap();
    (outcome, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

fn ready_made(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("dpdk-config").join(name)
}

#[test]
fn a_good_file_gets_a_summary_and_silence_on_stderr() {
    let host = TestHost { interfaces: vec!["outside0", "inside0"], ..TestHost::default() };
    let (outcome, out, err) = run(&ready_made("lab-veth.toml"), &host);
    assert_eq!((outcome, err.as_str()), (Outcome::Good, ""));
    for line in [
        "  workers     2 on CPU 0, 1; control thread on CPU 0\n",
        "  interface   outside (outside) on net_af_packet0,iface=outside0: 192.0.2.1/24, 2001:db8:1::1/64\n",
        "  service     web at tcp://192.0.2.100:80, wrr, 3 servers\n",
        "  memory      512 MiB of ordinary pages for DPDK; ",
    ] {
        assert!(out.contains(line), "{out}");
    }
}

#[test]
fn vlans_of_one_device_are_named_and_the_device_is_looked_at_once() {
    let file = ready_made("appliance-one-nic-vlans.toml");
    let host = TestHost::default();
    let (outcome, out, err) = run(&file, &host);
    assert_eq!((outcome, err.as_str()), (Outcome::Good, ""));
    for line in [
        "  interface   outside (outside) on 0000:3b:00.0, VLAN 10: 203.0.113.2/24\n",
        "  interface   inside (inside) on 0000:3b:00.0, VLAN 20: 10.0.0.1/24\n",
    ] {
        assert!(out.contains(line), "{out}");
    }
    let (_, _, err) = run(&file, &TestHost { pci: PciDevice::Absent, ..host });
    assert_eq!(err.matches("there is no PCI device 0000:3b:00.0").count(), 1, "{err}");
}

#[test]
fn a_good_file_on_the_wrong_machine_is_bad() {
    let (outcome, out, err) = run(&ready_made("lab-veth.toml"), &TestHost::default());
    assert_eq!((outcome, out.as_str()), (Outcome::Bad, ""));
    assert!(err.contains("no network interface outside0"), "{err}");
    assert!(err.ends_with("the file is valid, but not on this machine: 2 errors\n"), "{err}");
}

#[test]
fn a_bad_file_gets_all_its_errors_and_their_number() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "[directr]\n[dpdk]\nmemory = 1\n").unwrap();
    let (outcome, out, err) = run(file.path(), &TestHost::default());
    assert_eq!((outcome, out.as_str()), (Outcome::Bad, ""));
    assert!(err.contains(":1:2: error: unknown key `directr`"), "{err}");
    assert!(err.ends_with(": 3 errors\n"), "{err}");
}

#[test]
fn a_file_that_is_not_there_has_an_exit_code_of_its_own() {
    let (outcome, _, err) = run(Path::new("/nonexistent.toml"), &TestHost::default());
    assert_eq!(outcome, Outcome::Unreadable);
    assert!(err.starts_with("error: cannot read /nonexistent.toml: No such file"), "{err}");
}
