//! What can be said about a valid configuration and the machine that is to run it, without
//! starting anything.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use super::diagnostic::{Diagnostic, Severity};
use super::failover::SyncConfig;
use super::model::{Config, Device};
use super::ports::PortConfig;

pub use super::host::ThisHost;

/// The facts about a machine that [`check`] asks for.
pub trait Host {
    /// MiB of huge pages that are free, all sizes together.
    fn free_huge_pages_mib(&self) -> u64;
    /// MiB that a process can still have; `None`: not known.
    fn available_memory_mib(&self) -> Option<u64>;
    /// Whether the kernel has a network interface of this name.
    fn has_network_interface(&self, name: &str) -> bool;
    /// Whether this file can be read.
    fn can_read(&self, path: &Path) -> io::Result<()>;
    /// Whether a file can be made in this directory, which may itself have to be made.
    fn can_create_in(&self, directory: &Path) -> io::Result<()>;
    /// Whether a TCP listener can have this address.
    fn can_listen(&self, address: SocketAddr) -> io::Result<()>;
    /// What is at the path of the control socket.
    fn socket(&self, path: &Path) -> SocketState;
    /// A PCI device by its full address.
    fn pci_device(&self, address: &str) -> PciDevice;
}

/// What is at the path of the control socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketState {
    /// Nothing, or a socket on which nobody listens any more.
    Free,
    /// A socket on which somebody listens.
    InUse,
    /// Something that is not a socket.
    NotASocket,
}

/// A PCI device as the kernel shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PciDevice {
    /// There is no such device.
    Absent,
    /// No driver is bound to it.
    Unbound,
    /// This driver is bound to it.
    Bound(String),
}

/// Kernel drivers through which DPDK can use a NIC: the user space ones, and those whose NICs it
/// shares with the kernel.
const DPDK_DRIVERS: [&str; 6] =
    ["vfio-pci", "igb_uio", "uio_pci_generic", "mlx4_core", "mlx5_core", "mana"];

/// Compares a configuration with the machine; `file` is what messages call the configuration.
/// Empty: as far as one can see it will start. Where a director runs on the same socket, what it
/// has taken (huge pages, the metrics address) gives warnings only: a file that is to be loaded
/// by that one is good.
pub fn check(config: &Config, file: &str, host: &dyn Host) -> Vec<Diagnostic> {
    let running = host.socket(&config.director.socket) == SocketState::InUse;
    let mut report = Report { file, running, found: Vec::new() };
    check_memory(config, host, &mut report);
    for port in config.ports() {
        check_device(&port, host, &mut report);
    }
    check_listeners(config, host, &mut report);
    let sync = config.failover.as_ref().and_then(|group| group.sync.as_ref());
    if let Some(Err(wrong)) = sync.map(SyncConfig::key) {
        report.error(format!("sync.key_file: {wrong}"), "put the same key on both directors");
    }
    report.found
}

struct Report<'a> {
    file: &'a str,
    /// A director runs on the same socket.
    running: bool,
    found: Vec<Diagnostic>,
}

impl Report<'_> {
    fn error(&mut self, message: String, help: impl Into<String>) {
        self.found.push(Diagnostic::unplaced(Severity::Error, self.file, message, help.into()));
    }

    /// An error, but that a director which runs already may be the cause.
    fn taken(&mut self, message: String, help: impl Into<String>) {
        if self.running {
            self.warning(message, help);
        } else {
            self.error(message, help);
        }
    }

    fn warning(&mut self, message: String, help: impl Into<String>) {
        self.found.push(Diagnostic::unplaced(Severity::Warning, self.file, message, help.into()));
    }
}

fn check_memory(config: &Config, host: &dyn Host, report: &mut Report<'_>) {
    let asked = u64::from(config.dpdk.memory_mib);
    let packets = config.memory_need().packet_octets.div_ceil(1 << 20);
    if packets > asked {
        report.error(
            format!("dpdk.memory: {asked} MiB do not hold the packet buffers, about {packets} MiB"),
            format!(
                "set memory = \"{}MiB\", or fewer workers, queues or descriptors",
                packets.next_multiple_of(256)
            ),
        );
    }
    if config.dpdk.hugepages {
        let free = host.free_huge_pages_mib();
        if free < asked {
            let missing = (asked - free).div_ceil(2);
            report.taken(
                format!("dpdk.memory: {asked} MiB of huge pages are asked for, {free} MiB are free"),
                format!(
                    "as root: sysctl -w vm.nr_hugepages=$(($(sysctl -n vm.nr_hugepages) + {missing})) \
                     (pages of 2 MiB); for a laboratory: hugepages = false"
                ),
            );
        }
    }
    let Some(available) = host.available_memory_mib() else { return };
    // Connection tables are mappings of their own, beside DPDK's memory.
    let tables = config.memory_need().connection_octets.div_ceil(1 << 20);
    let others = if config.dpdk.hugepages { 0 } else { asked };
    if available < others {
        report.error(
            format!("dpdk.memory: {asked} MiB are asked for, {available} MiB are available"),
            "set a smaller dpdk.memory, or free memory",
        );
    } else if available < tables + others {
        report.error(
            format!(
                "director.connections: the tables take up to {tables} MiB beside {others} MiB for \
                 packets; {available} MiB are available"
            ),
            "state fewer connections, or free memory",
        );
    }
}

fn check_device(port: &PortConfig<'_>, host: &dyn Host, report: &mut Report<'_>) {
    let first = port.interfaces.first().map_or("", |(_, interface)| &interface.name);
    let key = format!("interface.{first}.device");
    match port.device {
        Device::Pci(address) => check_pci(&key, address, host, report),
        Device::Vdev { name, .. } => check_vdev(&key, name, port.device, host, report),
    }
}

fn check_pci(key: &str, address: &str, host: &dyn Host, report: &mut Report<'_>) {
    let bind = format!("as root: dpdk-devbind.py --bind=vfio-pci {address}");
    match host.pci_device(address) {
        PciDevice::Absent => report.error(
            format!("{key}: there is no PCI device {address}"),
            "dpdk-devbind.py --status lists the network devices",
        ),
        PciDevice::Unbound => report.error(format!("{key}: {address} has no driver"), bind),
        PciDevice::Bound(driver) if DPDK_DRIVERS.contains(&driver.as_str()) => {}
        PciDevice::Bound(driver) => report.error(
            format!("{key}: {address} belongs to the kernel's driver {driver}, not to DPDK"),
            format!("{bind} (the kernel loses the interface: do not cut your own connection)"),
        ),
    }
}

fn check_vdev(key: &str, name: &str, device: &Device, host: &dyn Host, report: &mut Report<'_>) {
    let kernel_interface: &[&str] = match device.driver() {
        Some("net_af_packet" | "net_af_xdp") => &["iface"],
        Some("net_pcap") => &["iface", "rx_iface", "rx_iface_in", "tx_iface"],
        _ => &[],
    };
    for (argument, value) in device.arguments() {
        if kernel_interface.contains(&argument) && !host.has_network_interface(value) {
            report.error(
                format!("{key}: there is no network interface {value} ({name})"),
                "`ip link` lists them; a network namespace has its own",
            );
        }
        let path = Path::new(value);
        if argument == "rx_pcap"
            && let Err(cause) = host.can_read(path)
        {
            report.error(
                format!("{key}: cannot read {value}: {cause}"),
                "name a capture file that exists; a relative path begins where pointsman is started",
            );
        }
        if argument == "tx_pcap"
            && let Err(cause) = host.can_create_in(directory_of(path))
        {
            report.error(
                format!("{key}: cannot write {value}: {cause}"),
                "name a file in a directory that you may write to",
            );
        }
    }
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        Some(_) | None => Path::new("."),
    }
}

fn check_listeners(config: &Config, host: &dyn Host, report: &mut Report<'_>) {
    if let Some(address) = config.director.metrics
        && let Err(cause) = host.can_listen(address)
    {
        let message = format!("director.metrics: cannot listen on {address}: {cause}");
        let help = if cause.kind() == io::ErrorKind::AddrInUse {
            "another process has it (see `ss -ltnp`): stop that, or write another port, or \"off\""
        } else {
            "use an address of this machine's kernel, such as 127.0.0.1:9464, or \"off\""
        };
        report.taken(message, help);
    }
    let socket = &config.director.socket;
    let name = socket.display();
    match host.socket(socket) {
        SocketState::InUse => report.warning(
            format!("director.socket: a director is running on {name}"),
            "two cannot share a socket: stop that one before you start another, or give this one \
             its own `socket`",
        ),
        SocketState::NotASocket => report.error(
            format!("director.socket: {name} exists and is not a socket"),
            "remove it, or name another path",
        ),
        SocketState::Free => {}
    }
    let directory = directory_of(socket);
    if let Err(cause) = host.can_create_in(directory) {
        report.error(
            format!("director.socket: cannot create a socket in {}: {cause}", directory.display()),
            "run pointsman as root, or name a path that you may write to",
        );
    }
}
