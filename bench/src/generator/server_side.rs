//! The lcore that plays the real servers: it counts what the inside port brings, and answers as
//! servers do, which for NAT routing is by sending back to where a packet came from.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Result;
use pointsman::dpdk::burst::{Burst, free_all};
use pointsman::dpdk::mbuf::Mbuf;
use pointsman::dpdk::mempool::Mempool;
use pointsman::dpdk::{lcore, tsc};
use pointsman::wire::U32;
use pointsman::wire::ethernet::{EthernetHeader, Mac};
use pointsman::wire::flow_key::Direction;
use pointsman::wire::tcp::flags;
use zerocopy::FromBytes;
use zerocopy::network_endian::U64;

use super::client_side::{PAUSE_US, rate_of};
use super::clients::Clients;
use super::frames::{Addresses, Content, Tag, Template, Variable};
use super::inspect::{Arrival, Segment, answer, client_of, inspect, turn_round};
use super::link::Link;
use super::numbers::cycles;
use super::pace::{Pacer, Sender};
use super::plan::{Plan, Progress, Seen, Step};
use super::station::{Reaction, Station};
use super::tally::{Clock, Tally};
use pointsman_bench::flows::Traffic;

/// How long after a trial's end the other side's word is waited for.
const ORPHANED: Duration = Duration::from_secs(10);

/// What the server side has between trials.
#[derive(Debug)]
pub(crate) struct ServerSide {
    pub(crate) link: Link,
    pub(crate) pool: Mempool,
    pub(crate) station: Station,
    pub(crate) clients: Clients,
    pub(crate) traffic: Traffic,
    /// Sleep when there is nothing to do.
    pub(crate) yields: bool,
    /// The connections that the last opening brought: RFC 9693's state table of the responder.
    pub(crate) connections: Vec<Connection>,
    /// The real servers that connections came to.
    pub(crate) servers: Vec<Server>,
}

/// A connection as the server sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Connection {
    /// Its packet's number, which gives the flow.
    number: u32,
    /// Where its server is among the servers.
    server: usize,
}

/// A real server, with the stations between which it talks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Server {
    address: SocketAddr,
    mac: Mac,
    director: Mac,
}

/// What came of a trial on this side.
#[derive(Debug)]
pub(crate) struct Served {
    /// Packets sent by this side of its own: those of a validation.
    pub(crate) sent: u32,
    /// In a second.
    pub(crate) rate: f64,
    pub(crate) tally: Tally,
}

/// By how much a client's sequence number is past its flow's: what it has said by then. `None` for a
/// segment that neither opens nor closes a connection.
fn progress_of(step: Step, control: u8) -> Option<u32> {
    const CLOSING: u8 = flags::FIN | flags::ACK;
    match (step, control) {
        (Step::Open, flags::SYN) => Some(0),
        (Step::Open, flags::ACK) | (Step::Close, CLOSING) => Some(1),
        (Step::Close, flags::ACK) => Some(2),
        _ => None,
    }
}

/// One trial.
struct Run<'a> {
    side: &'a mut ServerSide,
    plan: &'a Plan,
    clock: Clock,
    /// By server.
    templates: Vec<Template>,
    seen: Seen,
    answers: Burst,
    tally: Tally,
}

impl ServerSide {
    /// Takes part in a trial until the client side says that it is over.
    pub(crate) fn run(&mut self, plan: &Plan, progress: &Progress) -> Result<Served> {
        let clock = Clock::new();
        let begun = tsc::now();
        if plan.step == Step::Open {
            self.connections = Vec::with_capacity(plan.flows as usize);
        }
        let packets = if plan.step == Step::Validate { plan.packets } else { 0 };
        let pacer = Pacer::new(plan.rate, plan.catch_up, clock.hz, begun);
        let mut sender = Sender::new(pacer, packets, plan.longest, clock.hz, begun);
        let mut run = Run::new(self, plan, clock)?;
        let end = begun.saturating_add(cycles(plan.longest + ORPHANED, clock.hz));
        let mut now = begun;
        while !progress.over.load(Ordering::Acquire) && now < end {
            now = tsc::now();
            let worked = run.offer(&mut sender, now) | run.receive();
            progress.arrived.store(run.tally.received, Ordering::Relaxed);
            if packets > 0 && sender.is_done() {
                let (_, last) = sender.times();
                progress.sent_at.store(last.max(1), Ordering::Release);
            }
            if !worked && run.side.yields {
                lcore::delay_us_sleep(PAUSE_US);
            }
        }
        let tally = run.tally;
        Ok(Served { sent: sender.sent(), rate: rate_of(&sender, clock), tally })
    }
}

impl<'a> Run<'a> {
    fn new(side: &'a mut ServerSide, plan: &'a Plan, clock: Clock) -> Result<Self> {
        let size = plan.sizes.first().copied().unwrap_or_default().into();
        let template = |server: &Server| {
            let addresses = Addresses {
                to: server.director,
                from: server.mac,
                service: server.address,
                clients: side.clients.base(),
            };
            Template::new(side.traffic, Direction::Reply, &addresses, Content::Data(size))
        };
        let templates = side.servers.iter().map(template).collect();
        let seen = Seen::new(plan.packets.max(plan.flows));
        let (answers, tally) = (Burst::new(), Tally::new()?);
        Ok(Self { side, plan, clock, templates, seen, answers, tally })
    }

    /// Sends a packet of the next connections.
    fn offer(&mut self, sender: &mut Sender, now: u64) -> bool {
        let ServerSide { link, pool, clients, connections, .. } = &mut *self.side;
        let (plan, templates) = (self.plan, &self.templates);
        sender.poll(now, pool, link, |place, mbuf| {
            let Some(Connection { number, server }) = connections.get(place as usize) else {
                return;
            };
            let (flow, Some(template)) = (plan.flow(*number), templates.get(*server)) else {
                return;
            };
            let tag = Tag {
                trial: U32::new(plan.trial),
                number: U32::new(*number),
                stamp: U64::new(now),
            };
            let numbers = [flow.wrapping_add(1); 2];
            let variable = Variable { client: clients.client(flow), numbers, tag };
            if mbuf.set_len(template.len()) {
                template.write(&variable, mbuf.octets_mut());
            }
        })
    }

    /// Counts and answers what has come. Whether anything has.
    fn receive(&mut self) -> bool {
        self.side.link.transmit(&mut self.answers);
        if !self.answers.is_empty() {
            return false;
        }
        let mut burst = Burst::new();
        let came = self.side.link.receive(&mut burst);
        let now = tsc::now();
        let mut done = Burst::new();
        for mut mbuf in burst {
            if self.take(&mut mbuf, now) {
                self.answers.push(mbuf);
            } else {
                done.push(mbuf);
            }
        }
        free_all(&mut done);
        self.side.link.transmit(&mut self.answers);
        came > 0
    }

    /// One packet; whether it is an answer now.
    fn take(&mut self, mbuf: &mut Mbuf, now: u64) -> bool {
        match inspect(self.side.traffic, mbuf.octets()) {
            Arrival::Ours(segment) => {
                if let Some(number) = self.number(&segment) {
                    return self.serve(number, &segment, mbuf, now);
                }
                self.tally.strays += 1;
                false
            }
            Arrival::Corrupt => {
                self.tally.corrupt += 1;
                false
            }
            Arrival::Other => self.side.station.react(mbuf) == Reaction::Answer,
        }
    }

    /// The number of a packet of this trial, if it came from that number's client.
    fn number(&self, segment: &Segment) -> Option<u32> {
        let plan = self.plan;
        let number = match (segment.tag, plan.step) {
            (Some(tag), Step::Open | Step::Echo | Step::Forward) => {
                (tag.trial.get() == plan.trial).then_some(tag.number.get())?
            }
            (None, step) => {
                plan.number(segment.sequence.wrapping_sub(progress_of(step, segment.flags)?))?
            }
            _ => return None,
        };
        let client = self.side.clients.client(plan.flow(number));
        (client == client_of(&segment.source)).then_some(number)
    }

    fn serve(&mut self, number: u32, segment: &Segment, mbuf: &mut Mbuf, now: u64) -> bool {
        let family = self.side.traffic.family;
        match (self.plan.step, segment.flags) {
            (Step::Open, flags::SYN) => {
                answer(family, flags::SYN | flags::ACK, mbuf.octets_mut());
                true
            }
            (Step::Close, control) if control == flags::FIN | flags::ACK => {
                answer(family, flags::FIN | flags::ACK, mbuf.octets_mut());
                true
            }
            _ if !self.seen.note(number) => {
                self.tally.duplicates += 1;
                false
            }
            (Step::Echo, _) => {
                self.arrived(segment, now);
                turn_round(self.side.traffic, mbuf.octets_mut());
                true
            }
            (Step::Open, _) => {
                self.arrived(segment, now);
                let server = self.server(segment, mbuf);
                self.side.connections.push(Connection { number, server });
                false
            }
            _ => {
                self.arrived(segment, now);
                false
            }
        }
    }

    fn arrived(&mut self, segment: &Segment, now: u64) {
        self.tally.received += 1;
        if let Some(tag) = segment.tag {
            self.tally.took(now.saturating_sub(tag.stamp.get()), self.clock.hz);
        }
    }

    /// The place of the server that a packet came to.
    fn server(&mut self, segment: &Segment, mbuf: &Mbuf) -> usize {
        let stations = EthernetHeader::read_from_prefix(mbuf.octets());
        let (mac, director) =
            stations.map(|(link, _)| (link.destination, link.source)).unwrap_or_default();
        let server = Server { address: segment.destination, mac, director };
        let servers = &mut self.side.servers;
        servers.iter().position(|known| *known == server).unwrap_or_else(|| {
            servers.push(server);
            servers.len() - 1
        })
    }
}
