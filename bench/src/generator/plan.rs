//! What both sides do in one trial, and what they tell each other meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use serde::Serialize;

/// What is sent and by whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Step {
    /// Nothing; questions for addresses are answered.
    Rest,
    /// The client side asks for the director's Ethernet address.
    Resolve,
    /// One connection of each flow. UDP: a datagram that the servers note, unanswered. TCP: a
    /// three-way handshake.
    Open,
    /// The servers send one packet of each connection that they noted.
    Validate,
    /// Data from the clients, which the servers send back.
    Echo,
    /// Data from the clients, which the servers count.
    Forward,
    /// TCP: both ends of every connection say that they have no more.
    Close,
}

/// One trial.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) step: Step,
    /// Its number, in every data packet.
    pub(crate) trial: u32,
    /// The first flow.
    pub(crate) first: u32,
    /// How many flows take turns.
    pub(crate) flows: u32,
    /// How many packets are offered.
    pub(crate) packets: u32,
    /// In a second.
    pub(crate) rate: f64,
    /// Sizes of data frames with their FCS, which take turns.
    pub(crate) sizes: Arc<[u16]>,
    /// A pause of the generator as long as this is made good.
    pub(crate) catch_up: Duration,
    /// How long the last packets are waited for.
    pub(crate) drain: Duration,
    /// After that it is over, whatever happens.
    pub(crate) longest: Duration,
}

impl Plan {
    /// The flow of a packet.
    #[inline]
    pub(crate) fn flow(&self, number: u32) -> u32 {
        self.first.wrapping_add(number % self.flows.max(1))
    }

    /// The packet of a flow, where every flow has one; `None` for a flow of another trial.
    #[inline]
    pub(crate) fn number(&self, flow: u32) -> Option<u32> {
        Some(flow.wrapping_sub(self.first)).filter(|number| *number < self.flows)
    }
}

/// What one side tells the other while they run.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// What the server side counts so far.
    pub(crate) arrived: AtomicU64,
    /// When the last packet was sent, by the time-stamp counter; 0: not yet.
    pub(crate) sent_at: AtomicU64,
    /// The client side has ended the trial.
    pub(crate) over: AtomicBool,
}

/// Which packets came.
#[derive(Debug)]
pub(crate) struct Seen(Vec<u64>);

impl Seen {
    /// None of `count` yet.
    pub(crate) fn new(count: u32) -> Self {
        Self(vec![0; (count as usize).div_ceil(64)])
    }

    /// Notes one; `false` if it came before.
    #[inline]
    pub(crate) fn note(&mut self, number: u32) -> bool {
        let bit = 1 << (number % 64);
        let Some(word) = self.0.get_mut(number as usize / 64) else { return false };
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }
}
