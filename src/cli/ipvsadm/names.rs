//! Names of hosts and ports.
//!
//! Names that are given are resolved as any program does it, by DNS too. For listings without
//! `-n` the names of /etc/hosts and /etc/services are used and DNS is not asked: a listing must
//! not wait for a resolver, once for each address.

use std::cell::OnceCell;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};

use crate::service::Protocol;

/// Knows names.
pub trait Names {
    /// The address of a host, IPv4: as ipvsadm, which looks up no IPv6 addresses.
    fn host(&self, name: &str) -> Option<Ipv4Addr>;
    /// The port of a service of the system.
    fn port(&self, name: &str, protocol: Protocol) -> Option<u16>;
    /// The name of a host.
    fn host_name(&self, address: IpAddr) -> Option<String>;
    /// The name of a service of the system.
    fn port_name(&self, port: u16, protocol: Protocol) -> Option<String>;
}

/// The names that this machine knows.
#[derive(Debug, Default)]
pub struct SystemNames {
    services: OnceCell<Vec<Service>>,
    hosts: OnceCell<Vec<(IpAddr, String)>>,
}

/// A line of /etc/services: services(5).
#[derive(Debug)]
struct Service {
    /// The name, then its aliases.
    names: Vec<String>,
    port: u16,
    protocol: String,
}

impl SystemNames {
    fn services(&self) -> &[Service] {
        self.services.get_or_init(|| parse_services(&text("/etc/services")))
    }
}

impl Names for SystemNames {
    fn host(&self, name: &str) -> Option<Ipv4Addr> {
        let mut addresses = (name, 0).to_socket_addrs().ok()?;
        addresses.find_map(|address| match address {
            SocketAddr::V4(v4) => Some(*v4.ip()),
            SocketAddr::V6(_) => None,
        })
    }

    fn port(&self, name: &str, protocol: Protocol) -> Option<u16> {
        let is_it = |service: &&Service| {
            service.protocol == protocol.name() && service.names.iter().any(|known| known == name)
        };
        self.services().iter().find(is_it).map(|service| service.port)
    }

    fn host_name(&self, address: IpAddr) -> Option<String> {
        let hosts = self.hosts.get_or_init(|| parse_hosts(&text("/etc/hosts")));
        hosts.iter().find(|(known, _)| *known == address).map(|(_, name)| name.clone())
    }

    fn port_name(&self, port: u16, protocol: Protocol) -> Option<String> {
        let is_it =
            |service: &&Service| service.port == port && service.protocol == protocol.name();
        self.services().iter().find(is_it)?.names.first().cloned()
    }
}

/// What is in a file; a machine without it knows no names.
fn text(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The words of each line, without comments.
fn lines(text: &str) -> impl Iterator<Item = std::str::SplitWhitespace<'_>> {
    text.lines().map(|line| line.split('#').next().unwrap_or_default().split_whitespace())
}

fn parse_services(text: &str) -> Vec<Service> {
    let parse = |mut words: std::str::SplitWhitespace<'_>| {
        let name = words.next()?.to_owned();
        let (port, protocol) = words.next()?.split_once('/')?;
        let names = std::iter::once(name).chain(words.map(str::to_owned)).collect();
        Some(Service { names, port: port.parse().ok()?, protocol: protocol.to_owned() })
    };
    lines(text).filter_map(parse).collect()
}

fn parse_hosts(text: &str) -> Vec<(IpAddr, String)> {
    let parse = |mut words: std::str::SplitWhitespace<'_>| {
        Some((words.next()?.parse().ok()?, words.next()?.to_owned()))
    };
    lines(text).filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_known_by_name_alias_and_port() {
        let names = SystemNames::default();
        let text = "# names\nhttp\t\t80/tcp\t\twww # WorldWideWeb\ndomain 53/udp\nbroken\n";
        names.services.set(parse_services(text)).unwrap();
        assert_eq!(names.port("www", Protocol::Tcp), Some(80));
        assert_eq!(names.port("http", Protocol::Udp), None);
        assert_eq!(names.port_name(80, Protocol::Tcp).as_deref(), Some("http"));
        assert_eq!(names.port_name(53, Protocol::Tcp), None);
    }

    #[test]
    fn hosts_are_known_by_the_first_name_of_their_line() {
        let names = SystemNames::default();
        names.hosts.set(parse_hosts("10.0.0.11 web1.lan web1\n::1 localhost\n")).unwrap();
        assert_eq!(names.host_name([10, 0, 0, 11].into()).as_deref(), Some("web1.lan"));
        assert_eq!(names.host_name([10, 0, 0, 12].into()), None);
    }
}
