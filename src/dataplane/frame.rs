//! What the pipeline needs of a packet buffer and of the world around it, so that the same code
//! runs on mbufs and on plain vectors.

use crate::dpdk::prefetch::prefetch_slot;
use crate::ids::{InterfaceId, PortId, VlanId, WorkerId};

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

    /// Takes octets off the front; `false`, and nothing changes, when the first buffer has fewer.
    fn pop_front(&mut self, octets: usize) -> bool;

    /// Puts octets of any value in front; `false`, and nothing changes, when there is no room.
    fn push_front(&mut self, octets: usize) -> bool;

    /// Copies the octets from `from` on, of whatever buffers; `false` when the frame has fewer.
    fn copy_octets(&self, from: usize, into: &mut [u8]) -> bool;

    /// The port that the frame came from.
    fn input(&self) -> PortId;

    /// The VLAN that the frame came by. Means something on a port with VLANs only, once the frame
    /// has been looked at there.
    fn vlan(&self) -> VlanId;

    /// Notes the VLAN that the frame came by.
    fn set_vlan(&mut self, vlan: VlanId);

    /// Fetches the headers into the cache.
    #[inline]
    fn prefetch(&self) {
        prefetch_slot(self.octets(), 0);
    }

    /// As [`Frame::prefetch`], of a frame that lies in another worker's cache with all that
    /// describes it.
    #[inline]
    fn prefetch_moved(&self) {
        self.prefetch();
    }
}

/// Where frames come from and go to.
pub trait Outlet<F> {
    /// An empty frame for a packet of our own.
    fn allocate(&mut self) -> Option<F>;

    /// Sends a frame.
    fn transmit(&mut self, interface: InterfaceId, frame: F);

    /// Sends a frame before all that waits to leave by the interface; whether it was taken. One that
    /// is urgent is tried for a while.
    fn transmit_now(&mut self, interface: InterfaceId, frame: F, _is_urgent: bool) -> bool {
        self.transmit(interface, frame);
        true
    }

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
    /// The VLAN that it came by; the pipeline writes it.
    pub vlan: VlanId,
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

    fn pop_front(&mut self, octets: usize) -> bool {
        let Some(left) = self.octets.len().checked_sub(octets) else { return false };
        self.octets.copy_within(octets.., 0);
        self.octets.truncate(left);
        true
    }

    fn push_front(&mut self, octets: usize) -> bool {
        let before = self.octets.len();
        self.octets.resize(before + octets, 0);
        self.octets.copy_within(..before, octets);
        true
    }

    fn copy_octets(&self, from: usize, into: &mut [u8]) -> bool {
        let part = self.octets.get(from..).and_then(|rest| rest.get(..into.len()));
        part.is_some_and(|part| {
            into.copy_from_slice(part);
            true
        })
    }

    fn input(&self) -> PortId {
        self.input
    }

    fn vlan(&self) -> VlanId {
        self.vlan
    }

    fn set_vlan(&mut self, vlan: VlanId) {
        self.vlan = vlan;
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
    fn pop_front(&mut self, octets: usize) -> bool {
        self.adj(octets)
    }

    #[inline]
    fn push_front(&mut self, octets: usize) -> bool {
        self.prepend(octets).is_some()
    }

    fn copy_octets(&self, from: usize, into: &mut [u8]) -> bool {
        self.copy_octets(from, into)
    }

    #[inline]
    fn prefetch(&self) {
        self.prefetch();
    }

    #[inline]
    fn prefetch_moved(&self) {
        self.prefetch_moved();
    }

    #[inline]
    fn input(&self) -> PortId {
        self.port()
    }

    #[inline]
    fn vlan(&self) -> VlanId {
        self.vlan()
    }

    #[inline]
    fn set_vlan(&mut self, vlan: VlanId) {
        self.set_vlan(vlan);
    }
}
