//! The links of the interfaces, for the failover thread, which must not wait for an answer.
//!
//! A thread of its own asks: the kernel may take long, for others change its interfaces meanwhile,
//! and so may a port, which answers one question at a time, that of its counters among them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use crate::control::LinkSource;
use crate::control::config::{Config, Device, InterfaceConfig};
use crate::dpdk::port::{Port, PortStatsReader};
use crate::ids::InterfaceId;

/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// The links of the interfaces as they were at the last look.
#[derive(Debug)]
pub(super) struct Links(Arc<Watched>);

/// What is looked at, and how often it was.
#[derive(Debug)]
struct Watched {
    links: Vec<Link>,
    looks: AtomicU64,
}

/// The link of an interface.
#[derive(Debug)]
struct Link {
    /// `None`: nothing tells of it, and it counts as up.
    port: Option<PortStatsReader>,
    /// The kernel's interface behind a port whose driver does not look at it.
    kernel: Option<String>,
    is_port_up: AtomicBool,
    is_kernel_up: AtomicBool,
}

impl Link {
    fn of(interface: &InterfaceConfig, port: Option<&Port>) -> Self {
        Self {
            port: port.map(Port::stats_reader),
            kernel: port.and_then(|_| behind(&interface.device)),
            is_port_up: AtomicBool::new(true),
            is_kernel_up: AtomicBool::new(true),
        }
    }
}

impl LinkSource for Links {
    fn is_up(&self, interface: InterfaceId) -> bool {
        self.0
            .links
            .get(interface.index())
            .is_none_or(|link| link.is_port_up.load(Relaxed) && link.is_kernel_up.load(Relaxed))
    }

    fn looks(&self) -> u64 {
        self.0.looks.load(Relaxed)
    }
}

/// Who looks at the links, until this is dropped. It must be before the ports are stopped.
#[derive(Debug)]
pub(super) struct LinkWatch {
    watched: Arc<Watched>,
    is_over: Arc<AtomicBool>,
    watcher: Option<JoinHandle<()>>,
}

impl LinkWatch {
    /// Begins to look at the links of the configured interfaces of a pair.
    ///
    /// # Errors
    /// There is no thread for it.
    pub(super) fn begin(config: &Config, ports: &[Port]) -> io::Result<Self> {
        let configured = config.ports();
        let of = |interface: &InterfaceConfig| {
            let place = configured.iter().position(|port| *port.device == interface.device);
            Link::of(interface, place.and_then(|place| ports.get(place)))
        };
        let links = config.interfaces.iter().map(of).collect();
        let watched = Arc::new(Watched { links, looks: AtomicU64::new(0) });
        let is_over = Arc::<AtomicBool>::default();
        let mut watch = Self { watched, is_over, watcher: None };
        if config.failover.is_some() {
            look(&watch.watched);
            watch.start()?;
        }
        Ok(watch)
    }

    fn start(&mut self) -> io::Result<()> {
        let (watched, is_over) = (Arc::clone(&self.watched), Arc::clone(&self.is_over));
        let watch = move || {
            while !is_over.load(Relaxed) {
                look(&watched);
                std::thread::sleep(PAUSE);
            }
        };
        self.watcher = Some(std::thread::Builder::new().name("links".into()).spawn(watch)?);
        Ok(())
    }

    /// What is known of them.
    pub(super) fn links(&self) -> Links {
        Links(Arc::clone(&self.watched))
    }
}

impl Drop for LinkWatch {
    fn drop(&mut self) {
        self.is_over.store(true, Relaxed);
        if let Some(watcher) = self.watcher.take() {
            // If it has panicked, its message is in the log.
            watcher.join().ok();
        }
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

fn look(Watched { links, looks }: &Watched) {
    for link in links {
        let state = link.port.as_ref().and_then(PortStatsReader::link);
        link.is_port_up.store(state.is_none_or(|state| state.up), Relaxed);
    }
    if links.iter().any(|link| link.kernel.is_some()) {
        look_at_kernel(links);
    }
    looks.fetch_add(1, Relaxed);
}

/// Notes which interfaces of the kernel are up and have a carrier; one that is gone has none.
///
/// `IFF_RUNNING` follows the carrier by up to a second, for the kernel looks at links that seldom.
/// So one whose carrier is lost is down at once, and one whose carrier is back is up only when the
/// kernel sends by it again. At the start a carrier is enough.
fn look_at_kernel(links: &[Link]) {
    let Ok(all) = getifaddrs() else { return };
    let all: Vec<_> = all.map(|known| (known.interface_name, known.flags)).collect();
    for link in links {
        let Some(kernel) = &link.kernel else { continue };
        let mut working = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_LOWER_UP;
        if !link.is_kernel_up.load(Relaxed) {
            working |= InterfaceFlags::IFF_RUNNING;
        }
        let is_up = all.iter().any(|(name, flags)| name == kernel && flags.contains(working));
        link.is_kernel_up.store(is_up, Relaxed);
    }
}
