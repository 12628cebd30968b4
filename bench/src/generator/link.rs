//! What a side of the generator sends and receives by: a port's queues, or rings to the software
//! forwarder of the self-test.

use pointsman::dpdk::burst::Burst;
use pointsman::dpdk::queue::{RxQueue, TxQueue};
use pointsman::dpdk::ring::{RingConsumer, RingProducer};

/// Both directions of one side.
#[derive(Debug)]
pub(crate) enum Link {
    /// A DPDK port.
    Port {
        /// What comes.
        rx: RxQueue,
        /// What goes.
        tx: TxQueue,
    },
    /// Rings to and from another lcore.
    Rings {
        /// What comes.
        rx: RingConsumer,
        /// What goes.
        tx: RingProducer,
    },
}

impl Link {
    /// Adds what has come to `burst`.
    #[inline]
    pub(crate) fn receive(&mut self, burst: &mut Burst) -> usize {
        match self {
            Self::Port { rx, .. } => rx.rx_burst(burst),
            Self::Rings { rx, .. } => rx.pop_burst(burst),
        }
    }

    /// Sends from the front of `burst`; what was not taken stays there. How many were taken.
    #[inline]
    pub(crate) fn transmit(&mut self, burst: &mut Burst) -> usize {
        if burst.is_empty() {
            return 0;
        }
        match self {
            Self::Port { tx, .. } => tx.tx_burst(burst),
            Self::Rings { tx, .. } => tx.push_burst(burst),
        }
    }
}
