//! Services, servers and numbers as text.

use std::net::SocketAddr;

use super::command::ServiceKey;
use super::names::Names;
use crate::service::Protocol;

/// Characters of an address with its port; more are cut off.
const ENDPOINT_MAX: usize = 59;
/// Characters of an IPv4 one in a table.
const COLUMN: usize = 28;

/// Writes addresses and ports, by name where names are given.
#[derive(Clone, Copy)]
pub(super) struct Style<'a> {
    /// `None`: `-n`.
    pub(super) names: Option<&'a dyn Names>,
    /// `--exact`
    pub(super) exact: bool,
}

impl Style<'_> {
    /// `10.0.0.11:80`, `[fd00::11]:80`, `web1.lan:http`; ports of no known protocol have no name.
    pub(super) fn endpoint(&self, address: SocketAddr, protocol: Option<Protocol>) -> String {
        let Some(names) = self.names else { return address.to_string() };
        let host = names.host_name(address.ip()).unwrap_or_else(|| address.ip().to_string());
        let port = protocol.and_then(|protocol| names.port_name(address.port(), protocol));
        let port = port.unwrap_or_else(|| address.port().to_string());
        let text =
            if address.is_ipv6() { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        text.chars().take(ENDPOINT_MAX).collect()
    }

    /// The same in a column of a table, where IPv4 is cut off at its width.
    pub(super) fn column(&self, address: SocketAddr, protocol: Option<Protocol>) -> String {
        let text = self.endpoint(address, protocol);
        if address.is_ipv4() { text.chars().take(COLUMN).collect() } else { text }
    }

    /// `TCP  192.0.2.100:80`, `FWM  8 IPv6`
    pub(super) fn service(&self, key: &ServiceKey) -> String {
        match key {
            ServiceKey::Endpoint { protocol, address } => {
                let name = protocol.name().to_uppercase();
                format!("{name:<4} {}", self.column(*address, Some(*protocol)))
            }
            ServiceKey::Mark { mark, ipv6: false } => format!("FWM  {mark}"),
            ServiceKey::Mark { mark, ipv6: true } => format!("FWM  {mark} IPv6"),
        }
    }

    /// A counter in nine columns: as it is up to eight digits, then in thousands (`100000K`), from
    /// 10^9 in millions, from 10^11 in thousands of millions, from 10^14 in millions of millions.
    pub(super) fn large(&self, number: u64) -> String {
        const SCALES: [(u64, u64, char); 4] = [
            (100_000_000_000_000, 1_000_000_000_000, 'T'),
            (100_000_000_000, 1_000_000_000, 'G'),
            (1_000_000_000, 1_000_000, 'M'),
            (100_000_000, 1_000, 'K'),
        ];
        let scale = SCALES.iter().find(|(from, ..)| number >= *from && !self.exact);
        match scale {
            Some((_, unit, letter)) => format!("{:>8}{letter}", number / unit),
            None => format!(" {number:>8}"),
        }
    }
}

/// The protocol whose ports a service has; a mark's are any protocol's.
pub(super) fn protocol(key: &ServiceKey) -> Option<Protocol> {
    match key {
        ServiceKey::Endpoint { protocol, .. } => Some(*protocol),
        ServiceKey::Mark { .. } => None,
    }
}
