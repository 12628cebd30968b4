//! One packet buffer, owned.
//!
//! The accessors read DPDK's `struct rte_mbuf` in place, at offsets that the C compiler computed
//! for the installed release: no call leaves Rust per packet.

use std::fmt;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;

use dpdk_sys::{
    SHIM_MBUF_BUF_ADDR, SHIM_MBUF_BUF_LEN, SHIM_MBUF_DATA_LEN, SHIM_MBUF_DATA_OFF,
    SHIM_MBUF_FRESH_DATA, SHIM_MBUF_NB_SEGS, SHIM_MBUF_NEXT, SHIM_MBUF_OL_FLAGS, SHIM_MBUF_PKT_LEN,
    SHIM_MBUF_PORT, SHIM_MBUF_RSS, SHIM_MBUF_VLAN_TCI, rte_mbuf,
};

use super::prefetch;
use crate::ids::{PortId, VlanId};

/// A packet buffer; dropping it gives it back to its pool.
///
/// It has one owner, and that owner may be any thread. Octets are those of the first segment:
/// check [`is_contiguous`](Self::is_contiguous) before a packet's end matters.
#[repr(transparent)]
pub struct Mbuf(NonNull<rte_mbuf>);

// SAFETY: the buffer has one owner, and DPDK pools take buffers back from any thread.
unsafe impl Send for Mbuf {}

macro_rules! field {
    ($(#[$doc:meta])* $get:ident, $type:ty, $offset:expr) => {
        $(#[$doc])*
        #[inline]
        fn $get(&self) -> $type {
            // SAFETY: the C compiler computed the offset of this field within the structure.
            let field = unsafe { self.0.cast::<$type>().byte_add($offset) };
            // SAFETY: the buffer is ours, the field is initialised and has this type.
            unsafe { field.read() }
        }
    };
    ($(#[$doc:meta])* $get:ident, $set:ident, $type:ty, $offset:expr) => {
        field!($(#[$doc])* $get, $type, $offset);

        #[inline]
        fn $set(&mut self, value: $type) {
            // SAFETY: the C compiler computed the offset of this field within the structure.
            let field = unsafe { self.0.cast::<$type>().byte_add($offset) };
            // SAFETY: the buffer is ours alone, the field has this type.
            unsafe { field.write(value) };
        }
    };
}

impl Mbuf {
    field!(buffer, *mut u8, SHIM_MBUF_BUF_ADDR);
    field!(data_offset, set_data_offset, u16, SHIM_MBUF_DATA_OFF);
    field!(segment_count, u16, SHIM_MBUF_NB_SEGS);
    field!(port_number, set_port_number, u16, SHIM_MBUF_PORT);
    field!(flags, set_flags, u64, SHIM_MBUF_OL_FLAGS);
    field!(packet_octets, set_packet_octets, u32, SHIM_MBUF_PKT_LEN);
    field!(segment_octets, set_segment_octets, u16, SHIM_MBUF_DATA_LEN);
    field!(hash, set_hash, u32, SHIM_MBUF_RSS);
    field!(buffer_octets, u16, SHIM_MBUF_BUF_LEN);
    field!(vlan_number, set_vlan_number, u16, SHIM_MBUF_VLAN_TCI);
    field!(next, *mut rte_mbuf, SHIM_MBUF_NEXT);

    /// Takes over a buffer that DPDK handed out.
    ///
    /// # Safety
    /// `raw` is a live packet buffer that nothing else owns or will free.
    #[inline]
    pub(super) unsafe fn from_raw(raw: NonNull<rte_mbuf>) -> Self {
        Self(raw)
    }

    /// Where the first octet of data lies.
    #[inline]
    fn data(&self) -> *mut u8 {
        // SAFETY: DPDK keeps data_off within the buffer.
        unsafe { self.buffer().add(usize::from(self.data_offset())) }
    }

    /// The octets of the first segment, from the Ethernet header on.
    #[inline]
    pub fn octets(&self) -> &[u8] {
        // SAFETY: DPDK keeps data_off + data_len within the initialised buffer, which is ours.
        unsafe { std::slice::from_raw_parts(self.data(), usize::from(self.segment_octets())) }
    }

    /// The octets of the first segment, to be changed in place.
    #[inline]
    pub fn octets_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `octets`, and `&mut self` makes the access unique.
        unsafe { std::slice::from_raw_parts_mut(self.data(), usize::from(self.segment_octets())) }
    }

    /// Fetches the line that the packet's headers begin in.
    #[inline]
    pub fn prefetch(&self) {
        prefetch::address(self.data());
    }

    /// Fetches the buffer's first line and that of the headers, which is to be changed, both of
    /// another CPU's cache. Reads neither to know where the other is: the headers of nearly every
    /// packet lie where the buffer's data begin.
    #[inline]
    pub fn prefetch_moved(&self) {
        let start: *const u8 = self.0.as_ptr().cast();
        prefetch::address(start);
        prefetch::address_to_write(start.wrapping_add(SHIM_MBUF_FRESH_DATA));
    }

    /// Octets of the whole packet, all segments together.
    #[inline]
    pub fn len(&self) -> usize {
        self.packet_octets() as usize
    }

    /// Whether the packet has no octets.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the first segment holds the whole packet.
    #[inline]
    pub fn is_contiguous(&self) -> bool {
        self.segment_count() == 1
    }

    /// How many segments hold the packet.
    #[inline]
    pub fn segments(&self) -> u16 {
        self.segment_count()
    }

    /// The port that received the packet; 65535 if none did.
    #[inline]
    pub fn port(&self) -> PortId {
        PortId(self.port_number())
    }

    /// Says which port received the packet: for packets that are made or moved by software.
    #[inline]
    pub fn set_port(&mut self, port: PortId) {
        self.set_port_number(port.0);
    }

    /// The VLAN that was written last. Drivers leave anything here: only what
    /// [`set_vlan`](Self::set_vlan) wrote since the packet was received means something.
    #[inline]
    pub fn vlan(&self) -> VlanId {
        VlanId(self.vlan_number())
    }

    /// Notes the VLAN that the packet came by.
    #[inline]
    pub fn set_vlan(&mut self, vlan: VlanId) {
        self.set_vlan_number(vlan.0);
    }

    /// Copies the octets from `from` on, of whatever segments, and fills `into`; `false` if the
    /// packet is too short, and what `into` holds then means nothing.
    pub fn copy_octets(&self, mut from: usize, mut into: &mut [u8]) -> bool {
        let mut segment = self.0;
        for _ in 0..self.segments() {
            // Not to be dropped: it belongs to the packet.
            let this = ManuallyDrop::new(Self(segment));
            let octets = this.octets();
            if let Some(part) = octets.get(from..) {
                let (now, later) = into.split_at_mut(part.len().min(into.len()));
                now.copy_from_slice(part.get(..now.len()).unwrap_or_default());
                into = later;
            }
            from = from.saturating_sub(octets.len());
            if into.is_empty() {
                return true;
            }
            let Some(next) = NonNull::new(this.next()) else { return false };
            segment = next;
        }
        false
    }

    /// The hash that the NIC computed, where it computes one.
    #[inline]
    pub fn rss_hash(&self) -> Option<u32> {
        (self.flags() & dpdk_sys::SHIM_RX_RSS_HASH != 0).then(|| self.hash())
    }

    /// Notes a hash as a NIC would: for packets that software makes in a NIC's place.
    #[inline]
    pub fn set_rss_hash(&mut self, hash: u32) {
        self.set_hash(hash);
        self.set_flags(self.flags() | dpdk_sys::SHIM_RX_RSS_HASH);
    }

    /// Octets that can be put in front of the packet.
    #[inline]
    pub fn headroom(&self) -> usize {
        usize::from(self.data_offset())
    }

    /// Octets that can be appended to a contiguous packet; 0 for any other.
    #[inline]
    pub fn tailroom(&self) -> usize {
        if !self.is_contiguous() {
            return 0;
        }
        let used = usize::from(self.data_offset()) + usize::from(self.segment_octets());
        usize::from(self.buffer_octets()).saturating_sub(used)
    }

    /// Adds `octets` octets, zeroed, at the end, and gives them; `None` if there is no room.
    #[inline]
    pub fn append(&mut self, octets: usize) -> Option<&mut [u8]> {
        if octets > self.tailroom() {
            return None;
        }
        let before = usize::from(self.segment_octets());
        self.resize(before + octets);
        let added = self.octets_mut().get_mut(before..)?;
        added.fill(0);
        Some(added)
    }

    /// Cuts a contiguous packet to its first `octets` octets. A shorter packet, and one of several
    /// segments, stays as it is.
    #[inline]
    pub fn truncate(&mut self, octets: usize) {
        if self.is_contiguous() && octets < self.len() {
            self.resize(octets);
        }
    }

    /// Makes a contiguous packet `octets` long: cuts it, or fills up with zeros. `false`, and no
    /// change, if there is no room or the packet has several segments.
    #[inline]
    pub fn set_len(&mut self, octets: usize) -> bool {
        if !self.is_contiguous() {
            return false;
        }
        let before = self.len();
        if octets > before {
            return self.append(octets - before).is_some();
        }
        self.resize(octets);
        true
    }

    /// Puts `octets` octets, zeroed, in front of the packet, and gives them; `None` if there is no
    /// room.
    #[inline]
    pub fn prepend(&mut self, octets: usize) -> Option<&mut [u8]> {
        let offset = usize::from(self.data_offset()).checked_sub(octets)?;
        let segment = u16::try_from(usize::from(self.segment_octets()) + octets).ok()?;
        let packet = u32::try_from(self.len() + octets).ok()?;
        self.set_data_offset(u16::try_from(offset).ok()?);
        self.set_segment_octets(segment);
        self.set_packet_octets(packet);
        let added = self.octets_mut().get_mut(..octets)?;
        added.fill(0);
        Some(added)
    }

    /// Takes `octets` octets off the front; `false`, and no change, if the first segment is shorter.
    #[inline]
    pub fn adj(&mut self, octets: usize) -> bool {
        let (Some(segment), Ok(removed)) =
            (usize::from(self.segment_octets()).checked_sub(octets), u16::try_from(octets))
        else {
            return false;
        };
        self.set_data_offset(self.data_offset() + removed);
        self.set_packet_octets(self.packet_octets() - u32::from(removed));
        self.set_segment_octets(u16::try_from(segment).unwrap_or(0));
        true
    }

    /// Writes both lengths of a contiguous packet. The caller has checked the room.
    #[inline]
    fn resize(&mut self, octets: usize) {
        let octets = u16::try_from(octets).unwrap_or(0);
        self.set_segment_octets(octets);
        self.set_packet_octets(u32::from(octets));
    }
}

impl Drop for Mbuf {
    #[inline]
    fn drop(&mut self) {
        let mut raw = self.0.as_ptr();
        // SAFETY: `self` owned the buffer since DPDK handed it out, and nothing uses it hereafter.
        unsafe { dpdk_sys::rte_pktmbuf_free_bulk(&raw mut raw, 1) };
    }
}

impl fmt::Debug for Mbuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mbuf")
            .field("port", &self.port_number())
            .field("len", &self.len())
            .field("segments", &self.segments())
            .finish_non_exhaustive()
    }
}
