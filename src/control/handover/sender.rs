//! The director that goes: everything that it knows of connections, into a stream.

use std::io::{self, Write};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::codec::{Head, Record, Writer};
use crate::control::observed::Observed;
use crate::dataplane::handover::{Handover, Parcel, Phase};
use crate::ids::ServerSlot;
use crate::wire::ethernet::Mac;

/// Pause while the workers have nothing.
const PAUSE: Duration = Duration::from_micros(200);
/// How long the workers may take to see something.
const PATIENCE: Duration = Duration::from_secs(5);

/// Milliseconds since 1970.
pub(super) fn unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// What is known, and where it is.
#[derive(Debug)]
pub(in crate::control) struct Sender {
    /// What the workers tell by.
    pub(in crate::control) handover: Arc<Handover>,
    /// What they have counted, and templates.
    pub(in crate::control) observed: Arc<Observed>,
    /// What the numbers mean.
    pub(in crate::control) head: Head,
    /// Neighbours that answer, with the names of their interfaces.
    pub(in crate::control) neighbors: Vec<(String, IpAddr, Mac)>,
}

impl Sender {
    /// Has the workers hold still.
    pub(super) fn hold(&self) -> io::Result<()> {
        self.handover.set_phase(Phase::Hold);
        self.await_hold()
    }

    /// Waits until the workers hold still.
    pub(super) fn await_hold(&self) -> io::Result<()> {
        let until = Instant::now() + PATIENCE;
        while !self.handover.is_held() {
            if Instant::now() > until {
                return Err(io::Error::other("a worker does not hold still: it may be stuck"));
            }
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Tells all connections (pass 1), or those that have changed since (2).
    pub(super) fn pass<W: Write>(&self, pass: u32, to: &mut Writer<W>) -> io::Result<()> {
        self.handover.begin(pass);
        let mut last = Instant::now();
        loop {
            // Asked before the queues are emptied: what was told is in them.
            let is_told = self.handover.is_told(pass);
            let count = self.drain(to)?;
            if is_told {
                return Ok(());
            }
            let now = Instant::now();
            if count > 0 {
                last = now;
            } else if now.duration_since(last) > PATIENCE {
                return Err(io::Error::other("a worker says nothing: it may be stuck"));
            } else {
                std::thread::sleep(PAUSE);
            }
        }
    }

    /// Empties the queues; how much was in them.
    fn drain<W: Write>(&self, to: &mut Writer<W>) -> io::Result<usize> {
        let mut count = 0;
        for worker in 0..self.handover.workers() {
            while let Some(control) = self.handover.leaving_control(worker) {
                count += 1;
                to.record(Record::Control(Box::new(control)))?;
            }
            while let Some(parcel) = self.handover.leaving(worker) {
                count += 1;
                record_of(&parcel).map_or(Ok(()), |record| to.record(record))?;
            }
        }
        Ok(count)
    }

    /// Tells everything else.
    pub(super) fn rest<W: Write>(&self, to: &mut Writer<W>) -> io::Result<()> {
        let templates = self.observed.loads.templates();
        for row in templates.listing() {
            to.record(Record::Template {
                service: row.service.0,
                client: row.client,
                server: row.server.0,
                expires_ms: row.expires_ms,
            })?;
        }
        for row in self.handover.expected(templates.clock()) {
            to.record(Record::Expected(row))?;
        }
        for (interface, address, mac) in &self.neighbors {
            to.record(Record::Neighbor {
                interface: interface.clone(),
                address: *address,
                mac: *mac,
            })?;
        }
        for (server, _, _) in &self.head.servers {
            let traffic = self.observed.server_traffic(ServerSlot(*server));
            let counts = [
                traffic.connections,
                traffic.in_packets,
                traffic.out_packets,
                traffic.in_octets,
                traffic.out_octets,
            ];
            if counts != [0; 5] {
                to.record(Record::Counted { server: *server, counts })?;
            }
        }
        Ok(())
    }
}

/// What a worker tells, as a record. Counters are not the workers' to tell.
fn record_of(parcel: &Parcel) -> Option<Record> {
    match parcel {
        Parcel::Connection(moved) => Some(Record::Connection(*moved)),
        Parcel::Ended(ended) => Some(Record::Ended(*ended)),
        Parcel::Counted(..) => None,
    }
}
