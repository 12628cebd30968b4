//! Which interface leads to an address.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::control::config::draft::InterfaceDraft;

/// The networks of all interfaces.
pub(super) struct Networks<'a> {
    interfaces: &'a [InterfaceDraft],
    /// All that the file says about networks could be read.
    pub(super) known: bool,
}

impl<'a> Networks<'a> {
    pub(super) fn new(interfaces: &'a [InterfaceDraft]) -> Self {
        let known =
            !interfaces.is_empty() && interfaces.iter().all(|interface| interface.networks_known);
        Self { interfaces, known }
    }

    /// The interface that packets to `ip` leave by: longest prefix, then the gateway.
    pub(super) fn towards(&self, ip: IpAddr) -> Option<&'a InterfaceDraft> {
        let networks = self.interfaces.iter().flat_map(|interface| {
            let own = interface.addresses.items.iter().map(|address| *address.get_ref());
            let routes = interface.routes.iter().filter_map(|route| route.to.as_ref());
            own.chain(routes.map(|to| *to.get_ref())).map(move |net| (net, interface))
        });
        let best = networks
            .filter(|(net, _)| net.contains(&ip))
            .max_by_key(|(net, _)| net.prefix_len())
            .map(|(_, interface)| interface);
        best.or_else(|| {
            self.interfaces.iter().find(|interface| {
                let mut gateways = interface.gateways.items.iter();
                gateways.any(|gateway| gateway.get_ref().is_ipv4() == ip.is_ipv4())
            })
        })
    }

    /// The connected network of which `ip` is the network or broadcast address.
    pub(super) fn edge(&self, ip: IpAddr) -> Option<IpNet> {
        let mut addresses =
            self.interfaces.iter().flat_map(|interface| interface.addresses.items.iter());
        addresses
            .find_map(|address| is_edge(*address.get_ref(), ip).then(|| address.get_ref().trunc()))
    }

    /// For messages: the networks that there are, by interface.
    pub(super) fn list(&self) -> String {
        let of = |interface: &InterfaceDraft| {
            let nets: Vec<_> = interface
                .addresses
                .items
                .iter()
                .map(|address| address.get_ref().trunc().to_string())
                .chain(
                    interface.routes.iter().filter_map(|r| r.to.as_ref()).map(ToString::to_string),
                )
                .collect();
            format!("{} has {}", interface.name, nets.join(", "))
        };
        self.interfaces.iter().map(of).collect::<Vec<_>>().join("; ")
    }
}

/// Whether a network is one address.
pub(super) fn is_single(net: &IpNet) -> bool {
    net.prefix_len() == net.max_prefix_len()
}

/// Whether `ip` is the network or broadcast address of `net`.
fn is_edge(net: IpNet, ip: IpAddr) -> bool {
    match net {
        IpNet::V4(net) => net.prefix_len() < 31 && (ip == net.network() || ip == net.broadcast()),
        IpNet::V6(net) => net.prefix_len() < 127 && ip == net.network(),
    }
}
