//! What every laboratory command is told: ports, addresses, CPUs.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ipnet::IpNet;
use pointsman::wire::ethernet::Mac;

use super::clients::Clients;
use pointsman_bench::flows::{self, Family, Traffic, Transport};

/// Ports, addresses and CPUs of a laboratory.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct LabArgs {
    /// Port towards the director's outside, where the clients are: a PCI address or a DPDK vdev.
    #[arg(long)]
    pub(crate) outside: String,
    /// Port towards the director's inside, where the real servers are.
    #[arg(long)]
    pub(crate) inside: String,
    /// The virtual service, as the director has it: udp://ADDRESS:PORT or tcp://ADDRESS:PORT.
    #[arg(long, default_value = "udp://192.0.2.100:9")]
    pub(crate) service: String,
    /// The clients' network [default: `198.18.0.0/15` or `2001:2::/48`].
    #[arg(long)]
    pub(crate) clients: Option<IpNet>,
    /// The router that the clients are behind, the director's gateway [default: `192.0.2.254` or
    /// `2001:db8:1::fe`].
    #[arg(long)]
    pub(crate) gateway: Option<IpAddr>,
    /// Addresses of the real servers: ARP and Neighbor Solicitations for them are answered.
    #[arg(long, value_delimiter = ',', default_values = ["10.0.0.11", "10.0.0.12", "10.0.0.13"])]
    pub(crate) servers: Vec<String>,
    /// The director's outside Ethernet address; without it the virtual service's is asked for.
    #[arg(long)]
    pub(crate) director_mac: Option<String>,
    /// CPU of the clients' lcore.
    #[arg(long, default_value_t = 1)]
    pub(crate) client_cpu: u16,
    /// CPU of the servers' lcore.
    #[arg(long, default_value_t = 2)]
    pub(crate) server_cpu: u16,
    /// CPU of everything else.
    #[arg(long, default_value_t = 0)]
    pub(crate) main_cpu: u16,
    /// Sleep when there is nothing to do: where CPUs are shared, at the price of some accuracy.
    #[arg(long)]
    pub(crate) shared_cpus: bool,
    /// Ordinary memory in place of huge pages.
    #[arg(long)]
    pub(crate) no_huge: bool,
    /// DPDK's memory, in MiB.
    #[arg(long, default_value_t = 512)]
    pub(crate) memory: u32,
    /// Packet buffers.
    #[arg(long, default_value_t = 65_535)]
    pub(crate) mbufs: u32,
    /// Descriptors of every queue.
    #[arg(long, default_value_t = 1024)]
    pub(crate) descriptors: u16,
    /// One more argument of EAL; may be repeated.
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) eal_arg: Vec<String>,
    /// How long the links may take to come up.
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
    pub(crate) link_timeout: Duration,
    /// How long the last packets of a trial are waited for (RFC 2544: 2 s).
    #[arg(long, default_value = "2s", value_parser = humantime::parse_duration)]
    pub(crate) drain: Duration,
    /// A pause of the generator as long as this is made good by sending faster; of longer ones the
    /// rest is given up.
    #[arg(long, default_value = "1ms", value_parser = humantime::parse_duration)]
    pub(crate) catch_up: Duration,
    /// A trial counts if at least this share of the wanted rate was sent.
    #[arg(long, default_value_t = 0.98)]
    pub(crate) pace: f64,
    /// Repeat a trial that fails, up to so many attempts; only the last one decides.
    #[arg(long, default_value_t = 1)]
    pub(crate) attempts: u32,
    /// The director's metrics (ADDRESS:PORT), to compare what it counts.
    #[arg(long)]
    pub(crate) metrics: Option<SocketAddr>,
    /// Write all trials to this file, as JSON.
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
}

/// The addresses of a laboratory.
#[derive(Clone, Debug)]
pub(crate) struct Scene {
    pub(crate) traffic: Traffic,
    pub(crate) vip: SocketAddr,
    pub(crate) clients: Clients,
    pub(crate) gateway: IpAddr,
    /// What the outside port answers for.
    pub(crate) outside: Vec<IpNet>,
    /// What the inside port answers for.
    pub(crate) inside: Vec<IpNet>,
    pub(crate) director: Option<Mac>,
}

impl LabArgs {
    /// A laboratory without ports, everything else as usual.
    pub(crate) fn in_memory() -> Self {
        Self {
            outside: String::new(),
            inside: String::new(),
            service: String::new(),
            clients: None,
            gateway: None,
            servers: Vec::new(),
            director_mac: None,
            client_cpu: 1,
            server_cpu: 2,
            main_cpu: 0,
            shared_cpus: false,
            no_huge: false,
            memory: 512,
            mbufs: 65_535,
            descriptors: 1024,
            eal_arg: Vec::new(),
            link_timeout: Duration::ZERO,
            drain: Duration::from_secs(2),
            catch_up: Duration::from_millis(1),
            pace: 0.98,
            attempts: 1,
            metrics: None,
            json: None,
        }
    }

    /// The addresses, checked.
    pub(crate) fn scene(&self) -> Result<Scene> {
        let (transport, vip) = service(&self.service)?;
        let family = if vip.is_ipv4() { Family::V4 } else { Family::V6 };
        let network = match (self.clients, family) {
            (Some(network), _) => network,
            (None, Family::V4) => "198.18.0.0/15".parse()?,
            (None, Family::V6) => "2001:2::/48".parse()?,
        };
        let clients = Clients::of(network)?;
        ensure!(clients.family() == family, "clients in {network}, but the service is {vip}");
        let gateway = self.gateway.unwrap_or_else(|| flows::gateway(family));
        let inside: Result<Vec<_>> = self.servers.iter().map(|text| network_of(text)).collect();
        Ok(Scene {
            traffic: Traffic { family, transport },
            vip,
            clients,
            gateway,
            outside: vec![network, gateway.into()],
            inside: inside?,
            director: self.director_mac.as_deref().map(mac).transpose()?,
        })
    }
}

/// A service as configuration files write it.
fn service(text: &str) -> Result<(Transport, SocketAddr)> {
    let help = || format!("{text:?} is no service; write udp://192.0.2.100:9 or tcp://[::1]:80");
    let (protocol, address) = text.split_once("://").with_context(help)?;
    let transport = match protocol {
        "udp" => Transport::Udp,
        "tcp" => Transport::Tcp,
        _ => bail!(help()),
    };
    Ok((transport, address.parse().with_context(help)?))
}

fn network_of(text: &str) -> Result<IpNet> {
    text.parse()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .with_context(|| format!("{text:?} is neither an address nor a network"))
}

fn mac(text: &str) -> Result<Mac> {
    let mut octets = text.split(':').map(|octet| u8::from_str_radix(octet, 16));
    let mut mac = Mac::default();
    for place in &mut mac {
        *place = match octets.next() {
            Some(Ok(octet)) => octet,
            _ => bail!("{text:?} is no Ethernet address"),
        };
    }
    ensure!(octets.next().is_none(), "{text:?} is no Ethernet address");
    Ok(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_and_addresses_are_read_or_refused() {
        let (transport, vip) = service("tcp://[2001:db8::1]:80").unwrap();
        assert!(transport == Transport::Tcp && vip.port() == 80 && vip.is_ipv6());
        assert!(service("192.0.2.1:9").is_err() && service("sctp://192.0.2.1:9").is_err());
        assert_eq!(mac("02:00:00:00:01:fe").unwrap(), [2, 0, 0, 0, 1, 0xfe]);
        assert!(mac("02:00:00:00:01").is_err() && mac("02:00:00:00:01:fe:00").is_err());
        assert_eq!(network_of("10.0.0.11").unwrap().prefix_len(), 32);
    }
}
