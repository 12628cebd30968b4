//! What the pipeline needs of a packet buffer and of the world around it, so that the same code
//! runs on mbufs and on plain vectors.

use crate::dpdk::prefetch::prefetch_slot;
use crate::ids::{InterfaceId, PortId, WorkerId};

/// Packets that are processed together.
pub const BURST: usize = 64;

/// A burst of frames.
pub type FrameBurst<F> = arrayvec::ArrayVec<F, BURST>;

/// An Ethernet frame without FCS.
pub trait Frame: Send + Sized {
    /// The first (usually the only) buffer of the frame; all headers must lie in it.
    fn octets(&self) -> &[u8];

    /// As [`Frame::octets`], to change.
    fn octets_mut(&mut self) -> &mut [u8];

    /// Octets of the whole frame, over all its buffers.
    fn total_len(&self) -> usize;

    /// Shortens the frame or lengthens it with zeros; `false`, and nothing changes, when that
    /// cannot be done in place.
    fn set_len(&mut self, len: usize) -> bool;

    /// The port that the frame came from.
    fn input(&self) -> PortId;

    /// Fetches the headers into the cache.
    #[inline]
    fn prefetch(&self) {
        prefetch_slot(self.octets(), 0);
    }
}

/// Where frames come from and go to.
pub trait Outlet<F> {
    /// An empty frame for a packet of our own.
    fn allocate(&mut self) -> Option<F>;

    /// Sends a frame.
    fn transmit(&mut self, interface: InterfaceId, frame: F);

    /// Gives a frame to the worker that owns its flow.
    fn hand_over(&mut self, worker: WorkerId, frame: F);

    /// Takes a frame that is not needed any more (already counted as dropped or consumed).
    fn discard(&mut self, frame: F);
}

/// A frame in ordinary memory: for tests and tools.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BufferFrame {
    /// The frame.
    pub octets: Vec<u8>,
    /// The port that it came from.
    pub input: PortId,
}

impl Frame for BufferFrame {
    fn octets(&self) -> &[u8] {
        &self.octets
    }

    fn octets_mut(&mut self) -> &mut [u8] {
        &mut self.octets
    }

    fn total_len(&self) -> usize {
        self.octets.len()
    }

    fn set_len(&mut self, len: usize) -> bool {
        self.octets.resize(len, 0);
        true
    }

    fn input(&self) -> PortId {
        self.input
    }
}

#[cfg(feature = "dpdk")]
impl Frame for crate::dpdk::mbuf::Mbuf {
    #[inline]
    fn octets(&self) -> &[u8] {
        self.octets()
    }

    #[inline]
    fn octets_mut(&mut self) -> &mut [u8] {
        self.octets_mut()
    }

    #[inline]
    fn total_len(&self) -> usize {
        self.len()
    }

    #[inline]
    fn set_len(&mut self, len: usize) -> bool {
        self.set_len(len)
    }

    #[inline]
    fn input(&self) -> PortId {
        self.port()
    }
}
