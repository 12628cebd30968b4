//! The lcore that plays the clients: it offers packets at the outside port, and counts what comes
//! back.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Result;
use pointsman::dpdk::burst::{Burst, free_all};
use pointsman::dpdk::mbuf::Mbuf;
use pointsman::dpdk::mempool::Mempool;
use pointsman::dpdk::{lcore, tsc};
use pointsman::wire::U32;
use pointsman::wire::ethernet::Mac;
use pointsman::wire::flow_key::Direction;
use pointsman::wire::tcp::flags;
use zerocopy::network_endian::U64;

use super::clients::Clients;
use super::frames::{Addresses, Content, Tag, Template, Variable};
use super::inspect::{Arrival, Segment, answer, client_of, inspect};
use super::link::Link;
use super::numbers::{cycles, seconds};
use super::pace::{Pacer, Sender};
use super::plan::{Plan, Progress, Seen, Step};
use super::station::{Reaction, Station};
use super::tally::{Clock, Tally};
use pointsman_bench::flows::{Traffic, Transport};

/// Between two questions for the director's Ethernet address.
const ASK_EVERY: Duration = Duration::from_millis(200);
/// A pause without work, where the CPU is shared.
pub(crate) const PAUSE_US: u32 = 20;

/// What the client side has between trials.
#[derive(Debug)]
pub(crate) struct ClientSide {
    pub(crate) link: Link,
    pub(crate) pool: Mempool,
    pub(crate) station: Station,
    pub(crate) clients: Clients,
    pub(crate) traffic: Traffic,
    /// The virtual service.
    pub(crate) vip: SocketAddr,
    /// Whom ARP requests come from.
    pub(crate) gateway: IpAddr,
    /// The director's Ethernet address, once known.
    pub(crate) director: Option<Mac>,
    /// Sleep when there is nothing to do.
    pub(crate) yields: bool,
}

/// What came of a trial on this side.
#[derive(Debug)]
pub(crate) struct Offered {
    /// Packets that the port took.
    pub(crate) sent: u32,
    /// In a second, from the first to the last.
    pub(crate) rate: f64,
    pub(crate) tally: Tally,
}

/// What left, and at which rate.
pub(crate) fn rate_of(sender: &Sender, clock: Clock) -> f64 {
    let (first, last) = sender.times();
    let span = seconds(last.saturating_sub(first), clock.hz);
    if span > 0.0 { f64::from(sender.sent().saturating_sub(1)) / span } else { 0.0 }
}

/// One trial.
struct Run<'a> {
    side: &'a mut ClientSide,
    plan: &'a Plan,
    clock: Clock,
    templates: Vec<Template>,
    seen: Seen,
    /// When each flow's first segment was made: they carry no tag.
    made_at: Vec<u64>,
    answers: Burst,
    tally: Tally,
}

impl ClientSide {
    /// Takes part in a trial until it is over.
    pub(crate) fn run(&mut self, plan: &Plan, progress: &Progress) -> Result<Offered> {
        let clock = Clock::new();
        let begun = tsc::now();
        let pacer = Pacer::new(plan.rate, plan.catch_up, clock.hz, begun);
        let packets = if self.offers(plan.step) { plan.packets } else { 0 };
        let mut sender = Sender::new(pacer, packets, plan.longest, clock.hz, begun);
        let mut run = Run::new(self, plan, clock)?;
        let mut asked = 0;
        loop {
            let now = tsc::now();
            if plan.step == Step::Resolve && now - begun >= asked {
                run.ask();
                asked += cycles(ASK_EVERY, clock.hz);
            }
            let worked = run.offer(&mut sender, now) | run.receive();
            if packets > 0 && sender.is_done() {
                let (_, last) = sender.times();
                progress.sent_at.store(last.max(1), Ordering::Release);
            }
            if run.is_over(now, begun, progress) {
                break;
            }
            if !worked && run.side.yields {
                lcore::delay_us_sleep(PAUSE_US);
            }
        }
        progress.over.store(true, Ordering::Release);
        let tally = run.tally;
        Ok(Offered { sent: sender.sent(), rate: rate_of(&sender, clock), tally })
    }

    fn offers(&self, step: Step) -> bool {
        match step {
            Step::Open | Step::Echo | Step::Forward => self.director.is_some(),
            Step::Close => self.director.is_some() && self.traffic.transport == Transport::Tcp,
            Step::Rest | Step::Resolve | Step::Validate => false,
        }
    }
}

impl<'a> Run<'a> {
    fn new(side: &'a mut ClientSide, plan: &'a Plan, clock: Clock) -> Result<Self> {
        let addresses = Addresses {
            to: side.director.unwrap_or_default(),
            from: side.station.mac,
            service: side.vip,
            clients: side.clients.base(),
        };
        let is_tcp = side.traffic.transport == Transport::Tcp;
        let template =
            |content| Template::new(side.traffic, Direction::Inbound, &addresses, content);
        let templates = match plan.step {
            Step::Open if is_tcp => vec![template(Content::Control(flags::SYN))],
            Step::Close => vec![template(Content::Control(flags::FIN | flags::ACK))],
            Step::Open | Step::Echo | Step::Forward => {
                plan.sizes.iter().map(|size| template(Content::Data((*size).into()))).collect()
            }
            Step::Rest | Step::Resolve | Step::Validate => Vec::new(),
        };
        let seen = Seen::new(plan.packets.max(plan.flows));
        let stamped = is_tcp && matches!(plan.step, Step::Open | Step::Close);
        let made_at = vec![0; if stamped { plan.flows as usize } else { 0 }];
        let (answers, tally) = (Burst::new(), Tally::new()?);
        Ok(Self { side, plan, clock, templates, seen, made_at, answers, tally })
    }

    /// Asks who has the virtual service's address.
    fn ask(&mut self) {
        let question = self.side.station.question(self.side.gateway, self.side.vip.ip());
        let mut burst = Burst::new();
        if let Some(mut mbuf) = self.side.pool.alloc()
            && let Some(octets) = mbuf.append(question.len())
        {
            octets.copy_from_slice(&question);
            burst.push(mbuf);
        }
        // What the port does not take is asked again.
        self.side.link.transmit(&mut burst);
    }

    /// Sends what is due.
    fn offer(&mut self, sender: &mut Sender, now: u64) -> bool {
        // Answers go first: they belong to connections that have begun.
        self.side.link.transmit(&mut self.answers);
        if !self.answers.is_empty() {
            return true;
        }
        let ClientSide { link, pool, clients, .. } = &mut *self.side;
        let (plan, templates, made_at) = (self.plan, &self.templates, &mut self.made_at);
        // A segment that opens has the flow's number, one that closes follows it.
        let begins = u32::from(plan.step != Step::Open);
        sender.poll(now, pool, link, |number, mbuf| {
            let flow = plan.flow(number);
            let tag =
                Tag { trial: U32::new(plan.trial), number: U32::new(number), stamp: U64::new(now) };
            let first = flow.wrapping_add(begins);
            let numbers = [first, if begins == 0 { 0 } else { first }];
            let variable = Variable { client: clients.client(flow), numbers, tag };
            let Some(template) = templates.get(number as usize % templates.len().max(1)) else {
                return;
            };
            if mbuf.set_len(template.len()) {
                template.write(&variable, mbuf.octets_mut());
            }
            if let Some(made_at) = made_at.get_mut(number as usize) {
                *made_at = now;
            }
        })
    }

    /// Counts what has come. Whether anything has.
    fn receive(&mut self) -> bool {
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
            Arrival::Ours(segment) => self.count(&segment, mbuf, now),
            Arrival::Corrupt => {
                self.tally.corrupt += 1;
                false
            }
            Arrival::Other => match self.side.station.react(mbuf) {
                Reaction::Answer => true,
                Reaction::Learned(address, mac) if address == self.side.vip.ip() => {
                    self.side.director = Some(mac);
                    false
                }
                Reaction::Learned(..) | Reaction::Nothing => false,
            },
        }
    }

    fn count(&mut self, segment: &Segment, mbuf: &mut Mbuf, now: u64) -> bool {
        let step = self.plan.step;
        let is_control = matches!(step, Step::Open | Step::Close);
        let expected = match step {
            Step::Open => flags::SYN | flags::ACK,
            Step::Close => flags::FIN | flags::ACK,
            Step::Rest | Step::Resolve | Step::Validate | Step::Echo | Step::Forward => {
                segment.flags
            }
        };
        let number = match segment.tag.filter(|_| !is_control) {
            Some(tag) if tag.trial.get() == self.plan.trial => Some(tag.number.get()),
            None if is_control && segment.flags == expected => {
                let ours = u32::from(step == Step::Close);
                self.plan.number(segment.sequence.wrapping_sub(ours))
            }
            _ => None,
        };
        let client = client_of(&segment.destination);
        let Some(number) = number.filter(|number| {
            segment.source == self.side.vip
                && client == self.side.clients.client(self.plan.flow(*number))
        }) else {
            self.tally.strays += 1;
            return false;
        };
        if !self.seen.note(number) {
            self.tally.duplicates += 1;
            return false;
        }
        self.tally.received += 1;
        let made_at = match segment.tag {
            Some(tag) if !is_control => tag.stamp.get(),
            _ => self.made_at.get(number as usize).copied().unwrap_or(now),
        };
        self.tally.took(now.saturating_sub(made_at), self.clock.hz);
        if is_control {
            answer(self.side.traffic.family, flags::ACK, mbuf.octets_mut());
        }
        is_control
    }

    fn is_over(&self, now: u64, begun: u64, progress: &Progress) -> bool {
        let plan = self.plan;
        let passed = now.saturating_sub(begun);
        if passed > cycles(plan.longest, self.clock.hz) {
            return true;
        }
        let arrived = progress.arrived.load(Ordering::Relaxed);
        let packets = u64::from(plan.packets);
        let complete = match plan.step {
            Step::Rest => false,
            Step::Resolve => return self.side.director.is_some(),
            Step::Open | Step::Forward | Step::Close => arrived >= packets,
            Step::Echo | Step::Validate => self.tally.received >= packets,
        };
        let sent_at = progress.sent_at.load(Ordering::Acquire);
        let drained = now.saturating_sub(sent_at) > cycles(plan.drain, self.clock.hz);
        sent_at > 0 && (complete || drained)
    }
}
