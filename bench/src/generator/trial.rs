//! One trial: what was wanted, what came of it, and whether it passed.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::client_side::Offered;
use super::numbers::{fraction, rounded};
use super::plan::{Plan, Step};
use super::server_side::Served;
use super::session::longest;
use super::settings::LabArgs;
use super::tally::Latency;
use pointsman_bench::flows::{Traffic, Transport};

/// What a trial wants.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) step: Step,
    pub(crate) first: u32,
    pub(crate) flows: u32,
    pub(crate) packets: u32,
    pub(crate) rate: f64,
    pub(crate) sizes: Arc<[u16]>,
    /// Share of the packets that may be lost.
    pub(crate) tolerance: f64,
    /// It is over after this; `None`: as long as the packets take.
    pub(crate) longest: Option<Duration>,
}

impl Load {
    /// Nothing to send yet.
    pub(crate) fn of(step: Step) -> Self {
        Self {
            step,
            first: 0,
            flows: 1,
            packets: 0,
            rate: 1.0,
            sizes: Arc::new([64]),
            tolerance: 0.0,
            longest: None,
        }
    }

    /// One packet of each of `flows` flows.
    pub(crate) fn once(step: Step, first: u32, flows: u32, rate: f64) -> Self {
        Self { first, flows, packets: flows, rate, ..Self::of(step) }
    }

    /// The plan for both sides.
    pub(crate) fn plan(&self, trial: u32, args: &LabArgs) -> Plan {
        Plan {
            step: self.step,
            trial,
            first: self.first,
            flows: self.flows,
            packets: self.packets,
            rate: self.rate,
            sizes: Arc::clone(&self.sizes),
            catch_up: args.catch_up,
            drain: args.drain,
            longest: self.longest.unwrap_or_else(|| longest(self.packets, self.rate, args.drain)),
        }
    }
}

/// How a trial ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// Everything wanted was sent and came.
    Passed,
    /// More was lost than may be.
    Lost,
    /// The generator, or its port, did not send at the wanted rate: this says nothing about more.
    NotOffered,
    /// Packets came broken.
    Corrupt,
}

/// The record of a trial.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Trial {
    number: usize,
    pub(crate) step: Step,
    /// Sizes of frames with their FCS, which take turns.
    frames: Vec<u16>,
    flows: u32,
    /// Packets (or connections) a second that were wanted, and sent.
    pub(crate) wanted_rate: f64,
    pub(crate) rate: f64,
    pub(crate) packets: u32,
    pub(crate) sent: u32,
    /// At the servers.
    pub(crate) arrived: u64,
    /// At the clients.
    pub(crate) received: u64,
    pub(crate) lost: u64,
    duplicates: u64,
    strays: u64,
    corrupt: u64,
    /// From client to server, and from client to client (validation: from server to client).
    pub(crate) to_servers: Option<Latency>,
    pub(crate) to_clients: Option<Latency>,
    /// What the director says that it scheduled meanwhile.
    pub(crate) director_connections: Option<f64>,
    pub(crate) verdict: Verdict,
}

impl Trial {
    /// What came of a trial.
    pub(crate) fn new(
        number: usize,
        load: &Load,
        offered: &Offered,
        served: &Served,
        traffic: Traffic,
        pace: f64,
    ) -> Self {
        let (client, server) = (&offered.tally, &served.tally);
        let (sent, rate) = if load.step == Step::Validate {
            (served.sent, served.rate)
        } else {
            (offered.sent, offered.rate)
        };
        let both = client.received.min(server.received);
        let came = match (load.step, traffic.transport) {
            (Step::Validate | Step::Echo, _) => client.received,
            (Step::Open | Step::Close, Transport::Tcp) => both,
            _ => server.received,
        };
        let lost = u64::from(sent).saturating_sub(came);
        let corrupt = client.corrupt + server.corrupt;
        let may_be_lost = load.tolerance * f64::from(load.packets);
        let is_offered = sent == load.packets && (load.packets < 2 || rate >= load.rate * pace);
        let verdict = if corrupt > 0 {
            Verdict::Corrupt
        } else if fraction(lost) > may_be_lost {
            Verdict::Lost
        } else if is_offered {
            Verdict::Passed
        } else {
            Verdict::NotOffered
        };
        Self {
            number,
            step: load.step,
            frames: load.sizes.to_vec(),
            flows: load.flows,
            wanted_rate: rounded(load.rate),
            rate: rounded(rate),
            packets: load.packets,
            sent,
            arrived: server.received,
            received: client.received,
            lost,
            duplicates: client.duplicates + server.duplicates,
            strays: client.strays + server.strays,
            corrupt,
            to_servers: server.latency(),
            to_clients: client.latency(),
            director_connections: None,
            verdict,
        }
    }

    /// Whether it passed.
    pub(crate) fn passed(&self) -> bool {
        self.verdict == Verdict::Passed
    }

    /// Share of what was sent that was lost.
    pub(crate) fn loss(&self) -> f64 {
        if self.sent == 0 { 1.0 } else { fraction(self.lost) / f64::from(self.sent) }
    }
}

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, step, wanted_rate, rate, sent, arrived, received, lost, .. } = self;
        write!(
            f,
            "trial {number} {step:?}: wanted {wanted_rate:.0}/s, sent {sent} at {rate:.0}/s, \
             {arrived} at the servers, {received} at the clients, {lost} lost: {:?}",
            self.verdict
        )
    }
}
