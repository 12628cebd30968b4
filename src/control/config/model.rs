//! The validated configuration: every value has its type, every default is filled in.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

use super::failover::FailoverConfig;
use crate::ids::{CpuId, VlanId};
use crate::service::{
    MarkRule, Masquerade, MssClamp, NonSyn, Policy, Rules, Timeouts, VirtualService,
};
use crate::wire::toeplitz::RssInput;

/// A whole configuration file, valid.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Workers, listeners, logging, sizes.
    pub director: DirectorConfig,
    /// What EAL is started with.
    pub dpdk: DpdkConfig,
    /// In the order of the file; at least one. [`Config::ports`] says which share a DPDK port.
    pub interfaces: Vec<InterfaceConfig>,
    /// In the order of the file; may be empty.
    pub services: Vec<VirtualService>,
    /// In the order of the file; may be empty.
    pub marks: Vec<MarkRule>,
    /// In the order of the file; may be empty.
    pub masquerades: Vec<Masquerade>,
    /// Idle times of connections.
    pub timeouts: Timeouts,
    /// What holds for all traffic.
    pub policy: Policy,
    /// The pair; `None`: the director is alone.
    pub failover: Option<FailoverConfig>,
}

impl Config {
    /// What the service table is compiled from.
    pub fn rules(&self) -> Rules<'_> {
        let Self { services, marks, masquerades, timeouts, policy, .. } = self;
        Rules { services, marks, masquerades, timeouts: *timeouts, policy: *policy }
    }

    /// The single addresses that outside parties send to: VIPs, destinations of firewall marks,
    /// and what masquerades appear with.
    pub fn external_addresses(&self) -> BTreeSet<IpAddr> {
        let vips = self.services.iter().filter_map(|service| service.listen.ip());
        let marked = self.marks.iter().flat_map(MarkRule::single_addresses);
        let masquerades = self.masquerades.iter().flat_map(|rule| rule.addresses.iter().copied());
        vips.chain(marked).chain(masquerades).collect()
    }
}

/// Section `[director]`.
#[derive(Clone, Debug, PartialEq)]
pub struct DirectorConfig {
    /// One worker per entry, on that CPU. A CPU may appear more than once (laboratory, CI).
    /// `workers = "auto"` is resolved when the file is read: every CPU but the control CPU, or
    /// that one where there is no other.
    pub workers: Vec<CpuId>,
    /// The CPU of the control thread.
    pub control_cpu: CpuId,
    /// What a worker does when its queues are empty.
    pub idle: Idle,
    /// Connections that fit, all workers and both address families together.
    pub connections: u32,
    /// Share of `connections` kept for IPv6, 0 to 100 percent. Default: 50 when an IPv6 service
    /// is configured beside an IPv4 one, else 0 or 100.
    pub ipv6_share: u8,
    /// Clients that persistence remembers at once, rounded up to a power of two. Default 262 144,
    /// of 32 octets each.
    pub persistence_templates: u32,
    /// HTTP listener of the metrics; `None`: off. Default 127.0.0.1:9464.
    pub metrics: Option<SocketAddr>,
    /// Unix socket of the control API. Default /run/pointsman/pointsman.sock.
    pub socket: PathBuf,
    /// Where a stopping director leaves what it knows of connections for the next start; `None`,
    /// the default: nowhere.
    pub state_file: Option<PathBuf>,
    /// Log level and format.
    pub log: LogConfig,
    /// What is done with TCP segments that belong to no connection and are no SYN, for every
    /// service that does not say otherwise.
    pub non_syn: NonSyn,
    /// ICMP errors and TCP resets of the director's own, a second and worker. Default 1000.
    pub errors_per_second: u32,
    /// How long a datagram's fragments are remembered (RFC 4787 REQ-14 leaves it to the NAT).
    /// Default 30 s.
    pub fragment_timeout: Duration,
}

impl DirectorConfig {
    /// Key `connections`, where the file does not say.
    pub const DEFAULT_CONNECTIONS: u32 = 1_000_000;
    /// Key `metrics`, where the file does not say.
    pub const DEFAULT_METRICS: SocketAddr =
        SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9464));
    /// Key `errors_per_second`, where the file does not say.
    pub const DEFAULT_ERRORS_PER_SECOND: u32 = 1000;
    /// Key `fragment_timeout`, where the file does not say.
    pub const DEFAULT_FRAGMENT_TIMEOUT: Duration = Duration::from_secs(30);
    /// Key `socket`, where the file does not say.
    pub const DEFAULT_SOCKET: &str = "/run/pointsman/pointsman.sock";
}

/// What a worker does when there is nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Poll without pause: the appliance's choice, and the default.
    Busy,
    /// Sleep for this long after a few hundred empty polls: laboratories, CI, small machines.
    /// `idle = "adaptive"` means 50 µs.
    Adaptive(Duration),
}

impl Idle {
    /// The sleep of `idle = "adaptive"`.
    pub const DEFAULT_SLEEP: Duration = Duration::from_micros(50);
}

/// Keys `log` and `log_format` of `[director]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// error, warn, info (default), debug or trace, or a `tracing` filter such as
    /// `info,pointsman::control=debug`.
    pub filter: String,
    /// Text (default) or JSON lines.
    pub format: LogFormat,
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
    /// To systemd's journal, with its fields.
    Journal,
}

/// Section `[dpdk]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DpdkConfig {
    /// Use huge pages (default). `false`: `--no-huge`, for CI.
    pub hugepages: bool,
    /// Memory for packet buffers and EAL, in MiB. Default 1024 with huge pages, else 512.
    pub memory_mib: u32,
    /// Packet buffers; `None`: as many as the queues, rings and caches can hold.
    pub mbufs: Option<u32>,
    /// Data room of a packet buffer, octets, less the headroom. Default 2048; more for jumbo
    /// frames.
    pub mbuf_octets: u16,
    /// Descriptors of a receive queue. Default 1024.
    pub rx_descriptors: u16,
    /// Descriptors of a transmit queue. Default 1024.
    pub tx_descriptors: u16,
    /// The key that NICs hash with, 40 or 52 octets; `None`: random at every start.
    pub rss_key: Option<Vec<u8>>,
    /// What NICs that hash one end of a flow do with the other. Default: zeroed.
    pub rss_input: RssInput,
    /// Handed to EAL as they are, after pointsman's own.
    pub eal_args: Vec<String>,
}

impl DpdkConfig {
    /// Key `mbuf_octets`, where the file does not say.
    pub const DEFAULT_MBUF_OCTETS: u16 = 2048;
    /// What a frame has beside its IP packet: an Ethernet header and a VLAN tag.
    pub const FRAME_OVERHEAD_OCTETS: u16 = 18;
}

/// Which side of the director an interface is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Towards the clients; owns the VIPs.
    Outside,
    /// Towards the real servers.
    Inside,
    /// Both on one NIC.
    Both,
}

impl Role {
    /// The word of the configuration file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Outside => "outside",
            Self::Inside => "inside",
            Self::Both => "both",
        }
    }
}

/// The DPDK device behind an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Device {
    /// A PCI address, `0000:3b:00.0`, bound to a driver that DPDK can use.
    Pci(String),
    /// A virtual device: the driver's name, a unique suffix where needed, and its arguments, as
    /// DPDK's `--vdev` takes them: `net_af_packet0,iface=eth0`.
    Vdev {
        /// `net_af_packet0`
        name: String,
        /// `iface=eth0`; may be empty.
        args: String,
    },
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pci(address) => f.write_str(address),
            Self::Vdev { name, args } if args.is_empty() => f.write_str(name),
            Self::Vdev { name, args } => write!(f, "{name},{args}"),
        }
    }
}

/// An Ethernet address. Written `02:00:00:00:00:01`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MacAddress(pub [u8; 6]);

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, rest @ ..] = self.0;
        write!(f, "{first:02x}")?;
        rest.iter().try_for_each(|octet| write!(f, ":{octet:02x}"))
    }
}

impl FromStr for MacAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not an Ethernet address such as 02:00:00:00:00:01");
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().filter(|part| part.len() == 2).ok_or_else(wrong)?;
            *octet = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        if parts.next().is_some() {
            return Err(wrong());
        }
        Ok(Self(octets))
    }
}

/// A static route beyond a connected network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destinations.
    pub to: IpNet,
    /// The next hop, on the interface's own network.
    pub via: IpAddr,
}

/// Section `[interface.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceConfig {
    /// NAME; a label in metrics.
    pub name: String,
    /// Side of the director.
    pub role: Role,
    /// The DPDK device. Interfaces with the same one are VLANs of one port, and say the same of
    /// it (`mac`, `queues`, `promiscuous`).
    pub device: Device,
    /// The VLAN whose frames it has; [`VlanId::UNTAGGED`]: those without a tag.
    pub vlan: VlanId,
    /// The director's own addresses with their networks.
    pub addresses: Vec<IpNet>,
    /// Default gateways, at most one per address family and director.
    pub gateways: Vec<IpAddr>,
    /// More networks behind next hops of this interface.
    pub routes: Vec<Route>,
    /// Largest IP packet, octets. Default 1500.
    pub mtu: u16,
    /// The largest TCP segment that SYN packets which cross the interface may announce; `None`:
    /// any.
    pub mss_clamp: Option<MssClamp>,
    /// The Ethernet address to use; `None`: the port's own.
    pub mac: Option<MacAddress>,
    /// Queue pairs; `None`: one per worker, as far as the port has them.
    pub queues: Option<u16>,
    /// Whether to take frames for other Ethernet addresses from the port (they are dropped in
    /// software). Default false.
    pub promiscuous: bool,
    /// Static neighbours.
    pub neighbors: Vec<(IpAddr, MacAddress)>,
}

impl InterfaceConfig {
    /// Key `mtu`, where the file does not say.
    pub const DEFAULT_MTU: u16 = 1500;
}
