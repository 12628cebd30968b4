//! Packets from memory: fresh mbufs of a real pool, written in the receive path. The cheapest
//! source there is, and the same for the director and for plain forwarding.

use anyhow::{Result, ensure};
use pointsman::dataplane::frame::{BURST, FrameBurst};
use pointsman::dpdk::mbuf::Mbuf;
use pointsman::dpdk::mempool::Mempool;
use pointsman::ids::PortId;

use crate::flows::{Random, Template};
use crate::world::input;

/// In which order flows take their turns.
#[derive(Clone, Debug)]
pub(crate) enum Order {
    /// One after the other, from this one on.
    Sequential(u32),
    /// Drawn from all, each as likely as any other.
    Random(Random),
}

/// The flows, and whose turn it is.
#[derive(Clone, Debug)]
pub(crate) struct Flows {
    /// How many there are.
    pub(crate) count: u32,
    /// Their order.
    pub(crate) order: Order,
}

impl Flows {
    /// All of `count`, at random.
    pub(crate) fn random(count: u32) -> Self {
        Self { count, order: Order::Random(Random::new(u64::from(count))) }
    }

    /// All of `count`, in order.
    pub(crate) fn sequential(count: u32) -> Self {
        Self { count, order: Order::Sequential(0) }
    }

    #[inline]
    fn next(&mut self) -> u32 {
        match &mut self.order {
            Order::Sequential(next) => {
                let flow = *next;
                *next = if flow + 1 == self.count { 0 } else { flow + 1 };
                flow
            }
            Order::Random(random) => random.below(self.count),
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
            ensure!(frame.append(template.len()).is_some(), "the mbufs are too small");
            template.write(flows.next(), frame.octets_mut());
        }
        Ok(())
    }
}
