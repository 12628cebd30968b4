//! Packets from memory: fresh mbufs of a real pool, written in the receive path. The cheapest
//! source there is, and the same for the director and for plain forwarding.

use std::sync::Arc;

use anyhow::{Result, ensure};
use pointsman::dataplane::frame::{BURST, FrameBurst};
use pointsman::dpdk::mbuf::Mbuf;
use pointsman::dpdk::mempool::Mempool;
use pointsman::ids::PortId;
use pointsman_bench::flows::Random;
use pointsman_bench::template::Template;
use pointsman_bench::world::input;

/// In which order flows take their turns.
#[derive(Clone, Debug)]
enum Order {
    /// One after the other, from this one on.
    Sequential(u32),
    /// Drawn from all, each as likely as any other.
    Random(Random),
    /// Drawn from all, and now and then one that was not there before.
    Growing {
        random: Random,
        /// One packet of so many is of a new flow.
        every: u32,
        /// Packets before the next new flow.
        left: u32,
        /// Its number.
        next: u32,
    },
}

/// The flows, and whose turn it is.
#[derive(Clone, Debug)]
pub(crate) struct Flows {
    /// How many there are.
    count: u32,
    order: Order,
    /// The first one's number.
    first: u32,
    /// Which ones, where they are not the first.
    members: Option<Arc<[u32]>>,
}

impl Flows {
    /// All of `count`, at random.
    pub(crate) fn random(count: u32) -> Self {
        let order = Order::Random(Random::new(u64::from(count)));
        Self { count, order, first: 0, members: None }
    }

    /// All of `count`, in order.
    pub(crate) fn sequential(count: u32) -> Self {
        Self { count, order: Order::Sequential(0), first: 0, members: None }
    }

    /// As [`Flows::random`], but every so many packets a flow begins, number `next` first.
    pub(crate) fn growing(count: u32, every: u32, next: u32) -> Self {
        let random = Random::new(u64::from(count));
        let order = Order::Growing { random, every, left: every, next };
        Self { count, order, first: 0, members: None }
    }

    /// Those from `first` on.
    pub(crate) fn beyond(mut self, first: u32) -> Self {
        self.first = first;
        self
    }

    /// These flows instead of the first so many.
    pub(crate) fn among(mut self, members: &Arc<[u32]>) -> Self {
        self.members = Some(Arc::clone(members));
        self
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    #[inline]
    fn next(&mut self) -> u32 {
        let number = match &mut self.order {
            Order::Sequential(next) => {
                let flow = *next;
                *next = if flow + 1 == self.count { 0 } else { flow + 1 };
                flow
            }
            Order::Random(random) => random.below(self.count),
            Order::Growing { random, every, left, next } => {
                *left -= 1;
                if *left == 0 {
                    *left = *every;
                    *next += 1;
                    *next - 1
                } else {
                    random.below(self.count)
                }
            }
        };
        match &self.members {
            Some(members) => members.get(number as usize).copied().unwrap_or(number),
            None => self.first + number,
        }
    }
}

/// Makes bursts.
#[derive(Debug)]
pub(crate) struct Source {
    pool: Mempool,
}

impl Source {
    /// Of the mbufs of this pool.
    pub(crate) fn new(pool: &Mempool) -> Self {
        Self { pool: pool.clone() }
    }

    /// Fills an empty burst.
    #[inline]
    pub(crate) fn receive(
        &mut self,
        burst: &mut FrameBurst<Mbuf>,
        template: &Template,
        flows: &mut Flows,
    ) -> Result<()> {
        ensure!(self.pool.alloc_bulk(burst, BURST), "the pool is empty: mbufs were lost");
        let port = PortId(u16::from(input(template.direction())));
        for frame in burst.iter_mut() {
            frame.set_port(port);
            ensure!(frame.append(template.octets()).is_some(), "the mbufs are too small");
            template.write(flows.next(), frame.octets_mut());
        }
        Ok(())
    }
}
