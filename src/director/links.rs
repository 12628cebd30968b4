//! The links of the interfaces, for the failover thread, which must not wait for an answer.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use crate::control::LinkSource;
use crate::control::config::{Config, Device, InterfaceConfig};
use crate::dpdk::port::{Port, PortStatsReader};
use crate::ids::InterfaceId;

/// The pause between two looks at the kernel's interfaces.
const PAUSE: Duration = Duration::from_millis(10);

/// The links of the interfaces.
#[derive(Debug)]
pub(super) struct Links {
    /// By interface.
    interfaces: Vec<Option<LinkOf>>,
    kernel: Arc<Vec<KernelLink>>,
}

/// What tells of the link of an interface.
#[derive(Debug)]
struct LinkOf {
    port: PortStatsReader,
    /// The place of the kernel's interface behind a port whose driver does not look at it.
    kernel: Option<usize>,
}

/// An interface of the kernel, as it was at the last look.
#[derive(Debug)]
struct KernelLink {
    name: String,
    is_up: AtomicBool,
}

impl Links {
    /// Of the configured interfaces. A thread looks at those of the kernel as long as this lives:
    /// to ask the kernel may take long, for others change its interfaces meanwhile.
    pub(super) fn new(config: &Config, ports: &[Port]) -> Self {
        let configured = config.ports();
        let mut kernel = Vec::new();
        let mut of = |interface: &InterfaceConfig| {
            let place = configured.iter().position(|port| *port.device == interface.device)?;
            let name = behind(&interface.device);
            let kernel = name.map(|name| {
                kernel.push(KernelLink { name, is_up: AtomicBool::new(true) });
                kernel.len() - 1
            });
            Some(LinkOf { port: ports.get(place)?.stats_reader(), kernel })
        };
        let interfaces = config.interfaces.iter().map(&mut of).collect();
        let kernel = Arc::new(kernel);
        look(&kernel);
        if !kernel.is_empty() {
            let kernel = Arc::downgrade(&kernel);
            let watcher = std::thread::Builder::new().name("links".into());
            if let Err(error) = watcher.spawn(move || watch(&kernel)) {
                tracing::error!(%error, "nobody watches the links of the kernel's interfaces");
            }
        }
        Self { interfaces, kernel }
    }
}

impl LinkSource for Links {
    fn is_up(&self, interface: InterfaceId) -> bool {
        let Some(Some(link)) = self.interfaces.get(interface.index()) else { return true };
        let kernel = link.kernel.and_then(|place| self.kernel.get(place));
        link.port.link().is_none_or(|link| link.up)
            && kernel.is_none_or(|kernel| kernel.is_up.load(Relaxed))
    }
}

/// The kernel's interface that a device reads and writes frames of.
fn behind(device: &Device) -> Option<String> {
    match device {
        Device::Vdev { name, args } if name.starts_with("net_af_packet") => {
            args.split(',').find_map(|arg| arg.strip_prefix("iface=")).map(str::to_owned)
        }
        Device::Vdev { .. } | Device::Pci(_) => None,
    }
}

/// Until nobody asks any more.
fn watch(kernel: &Weak<Vec<KernelLink>>) {
    while let Some(kernel) = kernel.upgrade() {
        look(&kernel);
        drop(kernel);
        std::thread::sleep(PAUSE);
    }
}

/// Notes which interfaces are up and have a carrier; one that is gone has none.
///
/// `IFF_RUNNING` follows the carrier by up to a second, for the kernel looks at links that seldom.
/// So one whose carrier is lost is down at once, and one whose carrier is back is up only when the
/// kernel sends by it again. At the start a carrier is enough.
fn look(links: &[KernelLink]) {
    let Ok(all) = getifaddrs() else { return };
    let all: Vec<_> = all.map(|known| (known.interface_name, known.flags)).collect();
    for link in links {
        let mut working = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_LOWER_UP;
        if !link.is_up.load(Relaxed) {
            working |= InterfaceFlags::IFF_RUNNING;
        }
        let is_up = all.iter().any(|(name, flags)| *name == link.name && flags.contains(working));
        link.is_up.store(is_up, Relaxed);
    }
}
