//! DPDK's own hash table (`rte_hash`), for comparison: the benchmark looks the same connections up
//! in it. The director does not use it.

use std::ffi::{c_int, c_void};
use std::fmt;
use std::ptr::{NonNull, without_provenance_mut};
use std::sync::Arc;

use super::burst::BURST;
use super::eal::Eal;
use super::error::{Attempt, DpdkError, name};
use super::mempool::ANY_SOCKET;

/// Octets of a key.
pub const KEY: usize = 16;
/// A key.
pub type Key = [u8; KEY];

/// Octets of a table's name with its final zero (`RTE_HASH_NAMESIZE`).
const NAME_OCTETS: usize = 32;
/// [`BURST`] and [`KEY`] as DPDK counts.
const BURST_U32: u32 = 64;
const KEY_U32: u32 = 16;
const _: () = assert!(BURST_U32 as usize == BURST && KEY_U32 as usize == KEY);
const _: () = assert!(BURST_U32 <= dpdk_sys::RTE_HASH_LOOKUP_BULK_MAX);

/// A table of numbers by keys of 16 octets, in DPDK's memory, with DPDK's default hash.
pub struct HashTable {
    raw: NonNull<dpdk_sys::rte_hash>,
    _eal: Arc<Eal>,
}

// SAFETY: the table has one owner, and DPDK keeps nothing of it by thread without
// RTE_HASH_EXTRA_FLAGS_MULTI_WRITER_ADD.
unsafe impl Send for HashTable {}

impl HashTable {
    /// An empty table for so many entries.
    ///
    /// # Errors
    /// When DPDK has not enough memory, or the name is taken.
    pub fn create(eal: &Arc<Eal>, table_name: &str, entries: u32) -> Result<Self, DpdkError> {
        let c_name = name(table_name, NAME_OCTETS)?;
        let parameters = dpdk_sys::rte_hash_parameters {
            name: c_name.as_ptr(),
            entries,
            key_len: KEY_U32,
            socket_id: ANY_SOCKET,
            ..Default::default()
        };
        let attempt = Attempt::new("rte_hash_create");
        // SAFETY: DPDK copies the name and checks the numbers; no hash function means its own.
        let raw = unsafe { dpdk_sys::rte_hash_create(&raw const parameters) };
        let subject = || format!("hash table {table_name} of {entries} entries");
        let raw = NonNull::new(raw).ok_or_else(|| attempt.failed(subject(), -1))?;
        Ok(Self { raw, _eal: Arc::clone(eal) })
    }

    /// Adds a number under a key, or replaces the one that is there.
    ///
    /// # Errors
    /// When the table is full.
    pub fn insert(&mut self, key: &Key, number: u32) -> Result<(), DpdkError> {
        let attempt = Attempt::new("rte_hash_add_key_data");
        let (key, data) = (key.as_ptr().cast(), without_provenance_mut(number as usize));
        // SAFETY: the key has the length that the table was made for, and DPDK copies it; the data
        // are a number that DPDK only keeps.
        match unsafe { dpdk_sys::rte_hash_add_key_data(self.raw.as_ptr(), key, data) } {
            0 => Ok(()),
            code => Err(attempt.failed("a full hash table".to_owned(), code)),
        }
    }

    /// Looks a burst of keys up: bit n of the result tells whether key n was found, and then its
    /// number is in its place.
    #[inline]
    pub fn find_burst(&self, keys: &[Key; BURST], numbers: &mut [u32; BURST]) -> u64 {
        let mut pointers: [*const c_void; BURST] = keys.each_ref().map(|key| key.as_ptr().cast());
        let mut data = [std::ptr::null_mut::<c_void>(); BURST];
        let mut hits = 0;
        // SAFETY: there are as many keys as said, of the right length, and as many places for data.
        let found: c_int = unsafe {
            dpdk_sys::rte_hash_lookup_bulk_data(
                self.raw.as_ptr(),
                pointers.as_mut_ptr(),
                BURST_U32,
                &raw mut hits,
                data.as_mut_ptr(),
            )
        };
        if found <= 0 {
            return 0;
        }
        for (number, data) in numbers.iter_mut().zip(data) {
            *number = u32::try_from(data.addr()).unwrap_or(u32::MAX);
        }
        hits
    }
}

impl Drop for HashTable {
    fn drop(&mut self) {
        // SAFETY: the table was made by `create` and nothing uses it after this.
        unsafe { dpdk_sys::rte_hash_free(self.raw.as_ptr()) };
    }
}

impl fmt::Debug for HashTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HashTable").finish_non_exhaustive()
    }
}
