//! The director that comes: gives the workers what another one knew.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashMap;

use super::codec::{Head, Record};
use crate::control::api::message::TakenOver;
use crate::control::{Neighbor, WorkerHandle};
use crate::dataplane::handover::{ExpectedRow, Handover, Moved, MovedControl, Parcel};
use crate::dataplane::mailbox::Command;
use crate::ids::{InterfaceId, OwnersOf, ServerSlot, ServiceId, WorkerId};
use crate::service::{Listen, ServerLoads, SlotRegistry};
use crate::wire::ethernet::Mac;

/// Pause while the workers have enough.
const PAUSE: Duration = Duration::from_micros(100);
/// How long the workers may take for anything.
const PATIENCE: Duration = Duration::from_secs(10);
/// Data connections that wait for their control connections, at most.
const LATE: usize = 1 << 16;

/// What was taken over, and from whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// From a running director; otherwise from a file.
    pub is_live: bool,
    /// Connections that go on.
    pub connections: u64,
    /// Connections that do not: what they need is not here.
    pub refused: u64,
    /// Connections whose time was over.
    pub over: u64,
    /// How long nobody forwarded, microseconds.
    pub gap_us: u64,
    /// Neighbours that were known.
    pub neighbors: Vec<(Neighbor, Mac)>,
}

impl TakenOver {
    /// As the API says it.
    #[allow(clippy::cast_precision_loss, reason = "a gap of less than 2^52 microseconds")]
    pub(in crate::control) fn of(taken: &Taken) -> Self {
        Self {
            from: if taken.is_live { "director" } else { "file" }.to_owned(),
            connections: taken.connections,
            refused: taken.refused,
            gap_seconds: taken.gap_us as f64 / 1e6,
        }
    }
}

/// What takes things over.
pub struct Import<'d> {
    /// The workers.
    pub workers: &'d [WorkerHandle],
    /// What they take things by.
    pub handover: &'d Arc<Handover>,
    /// Connections per server, and templates.
    pub loads: &'d ServerLoads,
    /// The numbers of services and servers.
    pub slots: &'d SlotRegistry,
    /// The names of the interfaces.
    pub interfaces: Vec<&'d str>,
    /// Which workers a connection is of.
    pub owners: OwnersOf<Moved>,
}

impl std::fmt::Debug for Import<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Import").field("interfaces", &self.interfaces).finish_non_exhaustive()
    }
}

/// The numbers of another director.
#[derive(Debug)]
struct Numbers {
    services: HashMap<u16, ServiceId>,
    servers: HashMap<u16, ServerSlot>,
}

impl Numbers {
    fn new(head: &Head, slots: &SlotRegistry) -> Self {
        let listen = |text: &String| text.parse::<Listen>().ok();
        let service =
            |(number, text): &(u16, String)| Some((*number, slots.service(listen(text)?)?));
        let server = |(number, text, address): &(u16, String, _)| {
            Some((*number, slots.server(listen(text)?, *address)?))
        };
        Self {
            services: head.services.iter().filter_map(service).collect(),
            servers: head.servers.iter().filter_map(server).collect(),
        }
    }

    /// The numbers here. `None`: service or server are not known.
    fn here(&self, (service, server): (u16, u16)) -> Option<(u16, u16)> {
        Some((self.services.get(&service)?.0, self.servers.get(&server)?.0))
    }
}

/// Takes records.
#[derive(Debug)]
pub struct Receiver<'d> {
    import: Import<'d>,
    numbers: Numbers,
    /// How old what comes is, milliseconds.
    age_ms: u32,
    /// Parcels that the workers were given.
    given: u64,
    refused: u64,
    over: u64,
    /// Data connections, for which their control connections must be there.
    late: HashMap<(SocketAddr, SocketAddr), Moved>,
    expected: Vec<ExpectedRow>,
    neighbors: Vec<(Neighbor, Mac)>,
}

impl<'d> Receiver<'d> {
    /// Of the director with this head.
    pub fn new(import: Import<'d>, head: &Head) -> Self {
        let numbers = Numbers::new(head, import.slots);
        Self {
            import,
            numbers,
            age_ms: 0,
            given: 0,
            refused: 0,
            over: 0,
            late: HashMap::new(),
            expected: Vec::new(),
            neighbors: Vec::new(),
        }
    }

    /// What comes is so old.
    pub(super) fn age(&mut self, ms: u64) {
        self.age_ms = u32::try_from(ms).unwrap_or(u32::MAX);
    }

    /// Takes a record; waits while the workers have enough.
    pub(super) fn take(&mut self, record: Record) -> io::Result<()> {
        match record {
            Record::Connection(moved) => self.connection(moved),
            Record::Control(control) => self.control(*control),
            Record::Ended(ended) => {
                let moved = Moved {
                    protocol: ended.protocol,
                    state: 0,
                    traits: 0,
                    idle_ms: 0,
                    timeout_ms: 0,
                    client: ended.client,
                    vip: ended.vip,
                    local: ended.client,
                    server: ended.vip,
                    through: None,
                    control: None,
                };
                self.late.remove(&(ended.client, ended.vip));
                let [worker, _] = (self.import.owners)(&moved);
                self.bring(worker, Parcel::Ended(ended))
            }
            Record::Template { service, client, server, expires_ms } => {
                self.template((service, server), client, expires_ms);
                Ok(())
            }
            Record::Expected(row) => {
                if self.expected.len() < LATE {
                    self.expected.push(row);
                }
                Ok(())
            }
            Record::Neighbor { interface, address, mac } => {
                self.neighbor(&interface, address, mac);
                Ok(())
            }
            Record::Counted { server, counts } => match self.numbers.servers.get(&server) {
                Some(slot) => self.bring(WorkerId(0), Parcel::Counted(*slot, counts)),
                None => Ok(()),
            },
        }
    }

    /// A connection with the numbers of here. `None`: it does not go on.
    fn translated(&mut self, mut moved: Moved) -> Option<Moved> {
        moved.idle_ms = moved.idle_ms.saturating_add(self.age_ms);
        if moved.idle_ms >= moved.timeout_ms {
            self.over += 1;
            return None;
        }
        if let Some(through) = moved.through {
            let here = self.numbers.here(through);
            self.refused += u64::from(here.is_none());
            moved.through = Some(here?);
        }
        Some(moved)
    }

    fn connection(&mut self, moved: Moved) -> io::Result<()> {
        let Some(moved) = self.translated(moved) else { return Ok(()) };
        if moved.is_data() && self.late.len() < LATE {
            self.late.insert((moved.client, moved.vip), moved);
            return Ok(());
        }
        self.bring_to_owners(moved)
    }

    /// To the worker of its client's packets, and to that of its server's if it is another one.
    fn bring_to_owners(&mut self, moved: Moved) -> io::Result<()> {
        let [first, second] = (self.import.owners)(&moved);
        self.bring(first, Parcel::Connection(moved))?;
        if second != first {
            self.bring(second, Parcel::Connection(moved))?;
        }
        Ok(())
    }

    fn control(&mut self, control: MovedControl) -> io::Result<()> {
        let Some(connection) = self.translated(control.connection) else { return Ok(()) };
        let [worker, _] = (self.import.owners)(&connection);
        let mut control = MovedControl { connection, ..control };
        let until = Instant::now() + PATIENCE;
        while let Err(back) = self.import.handover.bring_control(worker, control) {
            control = back;
            pause(until)?;
        }
        self.given += 1;
        Ok(())
    }

    fn bring(&mut self, worker: WorkerId, mut parcel: Parcel) -> io::Result<()> {
        let until = Instant::now() + PATIENCE;
        while let Err(back) = self.import.handover.bring(worker, parcel) {
            parcel = back;
            pause(until)?;
        }
        self.given += 1;
        Ok(())
    }

    fn template(&self, numbers: (u16, u16), client: IpAddr, expires_ms: u32) {
        let left = expires_ms.saturating_sub(self.age_ms);
        let Some((service, server)) = self.numbers.here(numbers).filter(|_| left > 0) else {
            return;
        };
        let (loads, templates) = (self.import.loads, self.import.loads.templates());
        let whose = (ServiceId(service), client);
        templates.restore(loads, whose, ServerSlot(server), (templates.clock(), left));
    }

    /// The workers know a neighbour at once.
    fn neighbor(&mut self, interface: &str, address: IpAddr, mac: Mac) {
        let place = self.import.interfaces.iter().position(|known| *known == interface);
        let Some(place) = place.and_then(|place| u8::try_from(place).ok()) else { return };
        let interface = InterfaceId(place);
        for worker in self.import.workers {
            let command = Command::SetNeighbor { interface, address, mac, permanent: false };
            // The control thread tells it again.
            worker.mailbox.send(command).ok();
        }
        self.neighbors.push((Neighbor { interface, address }, mac));
    }

    /// Waits until the workers have dealt with everything.
    pub(super) fn settle(&self) -> io::Result<()> {
        let until = Instant::now() + PATIENCE;
        while self.import.handover.settled() < self.given {
            pause(until)?;
        }
        Ok(())
    }

    /// How many connections the workers have taken over, and how many do not go on.
    pub(super) fn count(&self) -> (u64, u64) {
        let (adopted, refused) = self.import.handover.taken();
        (adopted, refused + self.refused)
    }

    /// Gives the workers what has waited for other things.
    pub(super) fn conclude(&mut self) -> io::Result<()> {
        self.settle()?;
        for (_, moved) in std::mem::take(&mut self.late) {
            self.bring_to_owners(moved)?;
        }
        self.settle()?;
        let now = self.import.loads.templates().clock();
        for row in std::mem::take(&mut self.expected) {
            let Some((service, server)) = self.numbers.here((row.service, row.server)) else {
                continue;
            };
            self.import.handover.expect(&ExpectedRow { service, server, ..row }, now);
        }
        Ok(())
    }

    /// All of a file has come.
    pub(super) fn finish(mut self, gap_us: u64) -> Taken {
        if let Err(cause) = self.conclude() {
            tracing::error!(%cause, "not all connections were taken over");
        }
        self.taken(false, gap_us)
    }

    pub(super) fn taken(self, is_live: bool, gap_us: u64) -> Taken {
        let (connections, refused) = self.count();
        let Self { over, neighbors, .. } = self;
        Taken { is_live, connections, refused, over, gap_us, neighbors }
    }
}

fn pause(until: Instant) -> io::Result<()> {
    if Instant::now() > until {
        return Err(io::Error::other("a worker takes nothing over: it may be stuck"));
    }
    std::thread::sleep(PAUSE);
    Ok(())
}
