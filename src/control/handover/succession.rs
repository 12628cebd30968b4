//! The control thread's part: when connections are handed over, and to whom.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Release};

use tokio::sync::{mpsc, oneshot};

use super::codec::Head;
use super::sender::{Sender, unix_ms};
use super::{Ending, HandoverPlant, Upgrade, UpgradeParts, file};
use crate::control::Listeners;
use crate::control::api::message::{UpgradeSpec, UpgradeStatus};
use crate::control::config::{self, Config, Device, Listing, LoadError};
use crate::control::desired::DesiredState;
use crate::control::neighbor::Neighbors;
use crate::control::observed::Observed;
use crate::control::outbox::Outbox;
use crate::dataplane::handover::{Handover, Phase};
use crate::dataplane::mailbox::Command;
use crate::wire::ethernet::Mac;

/// The drivers whose ports two processes can hold: both get what comes.
const SHARED_DRIVERS: [&str; 3] = ["net_af_packet", "net_null", "net_pcap"];

/// Somebody wants the director's place taken by a new one.
#[derive(Debug)]
pub(in crate::control) struct UpgradeRequest {
    pub(in crate::control) spec: UpgradeSpec,
    /// The new director's process, or why there is none.
    pub(in crate::control) reply: oneshot::Sender<Result<u32, NoUpgrade>>,
}

/// Why there is no new director.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::control) enum NoUpgrade {
    #[error("an upgrade is under way")]
    UnderWay,
    #[error("this director is one of a pair")]
    Pair,
    #[error("{port}: two processes cannot hold a port of {driver}")]
    Exclusive { port: String, driver: String },
    #[error("{path} is not valid:\n{problems}", path = .path.display())]
    Invalid { path: PathBuf, problems: String },
    #[error("changes were made at run time that are not in {path}", path = .0.display())]
    Unsaved(PathBuf),
    #[error("{0}")]
    NotStarted(String),
}

impl NoUpgrade {
    /// What is to be done.
    pub(in crate::control) fn hint(&self) -> &'static str {
        match self {
            Self::UnderWay => "wait for its end: GET /v1/upgrade",
            Self::Pair => {
                "`pointsman ha release`, then restart the service: the other director serves \
                 meanwhile, and connections go on"
            }
            Self::Exclusive { .. } => {
                "set `state_file` in [director] and restart the service: connections go on, with a \
                 gap as long as the start takes; or run a pair"
            }
            Self::Invalid { .. } => "nothing was started",
            Self::Unsaved(_) => {
                "`pointsman save` keeps them; `pointsman upgrade --config FILE` goes by the file"
            }
            Self::NotStarted(_) => "this director goes on",
        }
    }
}

/// What hands connections over.
#[derive(Debug)]
pub(in crate::control) struct Succession {
    plant: HandoverPlant,
    upgrade: Upgrade,
    endings: mpsc::UnboundedReceiver<Ending>,
    /// Of the control socket and of the metrics.
    listeners: Vec<OwnedFd>,
    is_under_way: bool,
}

impl Succession {
    /// To be made before the control thread is kept on its CPU.
    pub(in crate::control) fn new(plant: HandoverPlant, doors: &Listeners) -> io::Result<Self> {
        let (upgrade, endings) = Upgrade::start()?;
        Ok(Self { plant, upgrade, endings, listeners: doors.duplicate()?, is_under_way: false })
    }

    /// Whether what is wanted must not change: the new director would not know.
    pub(in crate::control) const fn is_under_way(&self) -> bool {
        self.is_under_way
    }

    /// The next end of an upgrade.
    pub(in crate::control) async fn next(&mut self) -> Ending {
        match self.endings.recv().await {
            Some(ending) => {
                self.is_under_way = false;
                ending
            }
            None => std::future::pending().await,
        }
    }

    /// Starts a new director that is to take this one's place.
    pub(in crate::control) fn begin(&mut self, request: UpgradeRequest, parts: &mut Parts<'_>) {
        let UpgradeRequest { spec, reply } = request;
        let (started, answer) = oneshot::channel();
        match self.prepare(&spec, parts, started) {
            Ok(prepared) => {
                self.is_under_way = self.upgrade.begin(prepared);
                parts.observed.set_upgrade(UpgradeStatus::under_way());
                tokio::spawn(async move {
                    let gone = |_| Err(NoUpgrade::NotStarted("it was given up".to_owned()));
                    // Who asked may have given up.
                    reply.send(answer.await.unwrap_or_else(gone)).ok();
                });
            }
            Err(why) => {
                tracing::warn!(reason = %why, "an upgrade is refused");
                reply.send(Err(why)).ok();
            }
        }
    }

    fn prepare(
        &self,
        spec: &UpgradeSpec,
        parts: &mut Parts<'_>,
        started: oneshot::Sender<Result<u32, NoUpgrade>>,
    ) -> Result<UpgradeParts, NoUpgrade> {
        if self.is_under_way {
            return Err(NoUpgrade::UnderWay);
        }
        let running = &parts.observed.config;
        let config = spec.config.as_ref().map_or(parts.state.path(), |path| Path::new(path));
        check_ports(running)?;
        if spec.config.is_none() && parts.state.is_unsaved() {
            return Err(NoUpgrade::Unsaved(config.to_owned()));
        }
        let config = config.to_owned();
        let program = spec.program.as_ref().map_or_else(own_program, |path| Ok(path.into()));
        let program = program.map_err(|cause| NoUpgrade::NotStarted(cause.to_string()))?;
        let listeners = self.listeners.iter().map(OwnedFd::try_clone).collect::<io::Result<_>>();
        let listeners = listeners.map_err(|cause| NoUpgrade::NotStarted(cause.to_string()))?;
        let HandoverPlant { clock, keep_descriptors, .. } = self.plant;
        let sender = self.sender(parts);
        Ok(UpgradeParts { program, config, sender, listeners, clock, keep_descriptors, started })
    }

    /// The workers begin to hand over.
    fn sender(&self, parts: &mut Parts<'_>) -> Sender {
        let observed = Arc::clone(parts.observed);
        let expectations = Arc::clone(&self.plant.expectations);
        let handover = Arc::new(Handover::new(observed.workers.len(), Phase::Open, expectations));
        parts.outbox.send_all(|| Command::BeginHandover(Arc::clone(&handover)));
        let head = self.head(parts.state, &observed);
        let neighbors = neighbors(parts.neighbors, &observed.config);
        Sender { handover, observed, head, neighbors }
    }

    fn head(&self, state: &DesiredState, observed: &Observed) -> Head {
        let (services, servers) = state.numbers();
        Head {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            written_ms: unix_ms(),
            workers: u16::try_from(observed.workers.len()).unwrap_or(u16::MAX),
            secret: self.plant.secret,
            services,
            servers,
        }
    }

    /// The director ends: what is known of connections goes into its file before the workers are
    /// told to stop. `false`: there is no file.
    pub(in crate::control) fn leave(&self, parts: &mut Parts<'_>, stop: &Arc<AtomicBool>) -> bool {
        let Some(path) = parts.observed.config.director.state_file.clone() else { return false };
        let sender = self.sender(parts);
        let stop = Arc::clone(stop);
        let write = move || {
            if let Err(cause) = file::write(&path, &sender) {
                let path = path.display();
                tracing::error!(%path, %cause, "the state is not written: connections end");
            }
            stop.store(true, Release);
        };
        std::thread::Builder::new().name("state".into()).spawn(write).is_ok()
    }
}

/// What the control thread has.
pub(in crate::control) struct Parts<'c> {
    pub(in crate::control) observed: &'c Arc<Observed>,
    pub(in crate::control) state: &'c DesiredState,
    pub(in crate::control) neighbors: &'c Neighbors,
    pub(in crate::control) outbox: &'c mut Outbox,
}

fn neighbors(known: &Neighbors, config: &Config) -> Vec<(String, IpAddr, Mac)> {
    let named = |(neighbor, mac): (crate::control::Neighbor, Mac)| {
        let interface = config.interfaces.get(neighbor.interface.index())?;
        Some((interface.name.clone(), neighbor.address, mac))
    };
    known.reachable().filter_map(named).collect()
}

/// The program that runs; one that was replaced meanwhile is the new one.
fn own_program() -> io::Result<PathBuf> {
    let path = std::env::current_exe()?;
    let text = path.to_string_lossy();
    Ok(text.strip_suffix(" (deleted)").map_or_else(|| path.clone(), PathBuf::from))
}

/// Whether two processes can hold the ports.
fn check_ports(config: &Config) -> Result<(), NoUpgrade> {
    if config.failover.is_some() {
        return Err(NoUpgrade::Pair);
    }
    for port in config.ports() {
        let driver = match port.device {
            Device::Pci(address) => format!("the NIC at {address}"),
            device @ Device::Vdev { .. } => match device.driver() {
                Some(driver) if SHARED_DRIVERS.contains(&driver) => continue,
                driver => driver.unwrap_or_default().to_owned(),
            },
        };
        return Err(NoUpgrade::Exclusive { port: port.name(), driver });
    }
    Ok(())
}

/// Whether the new director's configuration file is valid, and its ports are such, too. Not to be
/// asked on a thread that is kept on a CPU.
pub(super) fn check_file(path: &Path) -> Result<(), NoUpgrade> {
    let invalid = |problems| NoUpgrade::Invalid { path: path.to_owned(), problems };
    match config::load(path) {
        Ok(loaded) => check_ports(&loaded.config),
        Err(LoadError::Invalid(diagnostics)) => Err(invalid(Listing(&diagnostics).to_string())),
        Err(error @ LoadError::Unreadable { .. }) => Err(invalid(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::test_config::config;

    #[test]
    fn ports_that_two_processes_cannot_hold_are_told_with_the_way_that_there_is() {
        let mut config = config();
        let device = |name: &str| Device::Vdev { name: name.to_owned(), args: String::new() };
        config.interfaces.iter_mut().for_each(|each| each.device = device("net_null0"));
        assert_eq!(check_ports(&config), Ok(()));
        for exclusive in [Device::Pci("0000:3b:00.0".to_owned()), device("net_memif0")] {
            config.interfaces[0].device = exclusive;
            let refused = check_ports(&config).unwrap_err();
            assert!(refused.to_string().contains("two processes cannot hold"), "{refused}");
            assert!(refused.hint().contains("state_file"));
        }
    }
}
