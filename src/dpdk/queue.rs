//! The queues of a port: each belongs to one worker.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Arc;

use super::burst::{self, Burst};
use super::hash_sample::Sampler;
use super::mbuf::Mbuf;
use super::port::{Device, receive};
use crate::ids::{PortId, QueueId};

macro_rules! queue {
    ($(#[$doc:meta])* $name:ident { $($(#[$note:meta])* $field:ident: $type:ty),* }) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name {
            port: PortId,
            queue: QueueId,
            device: Arc<Device>,
            $($(#[$note])* $field: $type,)*
            /// Not `Sync`: one thread at a time.
            _one_thread: PhantomData<Cell<()>>,
        }

        impl $name {
            /// The one handle of this queue. The device is running and has such a queue.
            pub(super) fn new(
                device: &Arc<Device>,
                queue: QueueId,
                $($field: $type,)*
            ) -> Self {
                device.lend_queue();
                let (port, device) = (device.id(), Arc::clone(device));
                Self { port, queue, device, $($field,)* _one_thread: PhantomData }
            }

            /// The port that the queue belongs to.
            #[inline]
            pub fn port(&self) -> PortId {
                self.port
            }

            /// The number of the queue.
            #[inline]
            pub fn queue(&self) -> QueueId {
                self.queue
            }
        }

        impl Drop for $name {
            fn drop(&mut self) {
                self.device.return_queue();
            }
        }
    };
}

queue!(
    /// A receive queue: not `Clone`, and the port stays open as long as it lives.
    RxQueue {
        /// Until there are enough samples.
        sampler: Option<Sampler>
    }
);
queue!(
    /// A transmit queue: not `Clone`, and the port stays open as long as it lives.
    TxQueue {}
);

impl RxQueue {
    /// Adds what has arrived to `burst`, as far as there is room. How many packets came.
    #[inline]
    pub fn rx_burst(&mut self, burst: &mut Burst) -> usize {
        let before = burst.len();
        // SAFETY: the port runs and has this queue, and `&mut self` is its only user.
        let came = unsafe { receive(self.port, self.queue.0, burst) };
        if self.sampler.is_some() {
            self.sample(burst.get(before..).unwrap_or_default());
        }
        came
    }

    /// Packets that wait in the queue; `None`: the driver cannot tell.
    pub fn depth(&self) -> Option<u32> {
        // SAFETY: the port runs and has this queue, and nobody else polls it now.
        let count = unsafe { dpdk_sys::shim_rx_queue_count(self.port.0, self.queue.0) };
        u32::try_from(count).ok()
    }

    #[cold]
    fn sample(&mut self, packets: &[Mbuf]) {
        let wants_more = |sampler: &mut Sampler| sampler.look(self.queue, packets);
        if !packets.is_empty() && !self.sampler.as_mut().is_some_and(wants_more) {
            self.sampler = None;
        }
    }
}

impl TxQueue {
    /// Hands packets to the NIC, from the front of `burst`, and leaves what it did not take there
    /// in order. How many it took.
    #[inline]
    pub fn tx_burst(&mut self, burst: &mut Burst) -> usize {
        let count = u16::try_from(burst.len()).unwrap_or(0);
        let packets = burst::pointers(burst);
        // SAFETY: the port runs and has this queue, `&mut self` is its only user, and `packets` are
        // `count` packets that we own.
        let taken = unsafe { dpdk_sys::shim_tx_burst(self.port.0, self.queue.0, packets, count) };
        let taken = usize::from(taken);
        // SAFETY: the NIC owns these from the front now.
        unsafe { burst::forget_front(burst, taken) };
        taken
    }
}
