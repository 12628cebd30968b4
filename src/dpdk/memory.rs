//! Large zeroed arrays, on huge pages where the machine has them.
//!
//! The kernel places a page on the NUMA node of the thread that first touches it: call
//! [`HugeSlice::prefault`] on the worker that will use the memory.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use zerocopy::FromZeros;

/// Octets of the huge page that is asked for.
pub const HUGE_PAGE: usize = 2 << 20;
/// Octets that count as an ordinary page; a multiple of the real one on some machines.
const PLAIN_PAGE: usize = 4096;

/// Whether to ask for reserved huge pages (hugetlbfs).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HugePages {
    /// Reserved huge pages if the kernel has enough of them, or else ordinary memory with a request
    /// for transparent huge pages. Less than one huge page is always ordinary memory.
    #[default]
    Try,
    /// Ordinary memory, with a request for transparent huge pages.
    Never,
}

/// What the pages of a [`HugeSlice`] are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageSize {
    /// Reserved 2 MiB pages.
    Huge2Mib,
    /// Ordinary pages; the kernel was asked to join them into huge ones as it can.
    Transparent,
    /// Ordinary pages, because nothing was mapped (an empty slice, or under Miri).
    Plain,
}

impl fmt::Display for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Huge2Mib => "2 MiB huge pages",
            Self::Transparent => "transparent huge pages where the kernel has them",
            Self::Plain => "ordinary pages",
        })
    }
}

/// There is not enough memory.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// The size does not fit the address space.
    #[error("{count} elements of {element} octets are more than this machine can address")]
    TooLarge {
        /// Elements asked for.
        count: usize,
        /// Octets of one.
        element: usize,
    },
    /// The kernel refused.
    #[error(
        "cannot get {octets} octets ({} MiB) of memory: {cause}; give the machine more memory, \
         reserve more huge pages, or configure fewer connections",
        octets.div_ceil(1 << 20)
    )]
    Refused {
        /// Octets asked for.
        octets: usize,
        /// The kernel's words.
        cause: String,
    },
}

/// A zeroed array of `T` in its own mapping; unmapped when dropped.
pub struct HugeSlice<T> {
    start: NonNull<T>,
    len: usize,
    /// Octets mapped at `start`; 0 when nothing is.
    mapped: usize,
    page_size: PageSize,
}

// SAFETY: the slice owns its memory like a `Box<[T]>`.
unsafe impl<T: Send> Send for HugeSlice<T> {}
// SAFETY: as above; shared access only gives `&T`.
unsafe impl<T: Sync> Sync for HugeSlice<T> {}

impl<T: FromZeros> HugeSlice<T> {
    const CHECKED: () = {
        assert!(size_of::<T>() > 0, "elements must have a size");
        assert!(align_of::<T>() <= PLAIN_PAGE, "a mapping is aligned to a page only");
    };

    /// `len` elements of all-zero octets, as [`HugePages::Try`] gets them.
    pub fn zeroed(len: usize) -> Result<Self, MemoryError> {
        Self::zeroed_on(len, HugePages::Try)
    }

    /// `len` elements of all-zero octets.
    pub fn zeroed_on(len: usize, huge_pages: HugePages) -> Result<Self, MemoryError> {
        let () = Self::CHECKED;
        let octets = len
            .checked_mul(size_of::<T>())
            .filter(|octets| *octets <= isize::MAX as usize - HUGE_PAGE)
            .ok_or(MemoryError::TooLarge { count: len, element: size_of::<T>() })?;
        if octets == 0 {
            let start = NonNull::dangling();
            return Ok(Self { start, len, mapped: 0, page_size: PageSize::Plain });
        }
        let (start, mapped, page_size) = map(octets, huge_pages)?;
        Ok(Self { start: start.cast(), len, mapped, page_size })
    }
}

impl<T> HugeSlice<T> {
    /// What kind of pages the memory has.
    pub fn page_size(&self) -> PageSize {
        self.page_size
    }

    /// Octets of address space that the slice takes: its elements, rounded up to whole pages.
    pub fn octets(&self) -> usize {
        self.mapped
    }

    /// Takes every page from the kernel now, on the NUMA node of the calling thread, so that no
    /// later access stops for it. Contents stay as they are.
    ///
    /// # Errors
    /// When the machine does not have that much memory.
    pub fn prefault(&mut self) -> Result<(), MemoryError> {
        if self.mapped == 0 {
            return Ok(());
        }
        match populate(self.start.cast(), self.mapped) {
            Ok(()) => Ok(()),
            // A kernel that does not know the call.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                self.touch_pages();
                Ok(())
            }
            Err(error) => {
                Err(MemoryError::Refused { octets: self.mapped, cause: error.to_string() })
            }
        }
    }

    /// For kernels before 5.14: writes one octet of every page back to itself.
    fn touch_pages(&mut self) {
        let octets = self.len * size_of::<T>();
        for offset in (0..octets).step_by(PLAIN_PAGE) {
            // SAFETY: `offset` is within the mapping.
            let octet = unsafe { self.start.cast::<std::mem::MaybeUninit<u8>>().byte_add(offset) };
            // SAFETY: `&mut self` excludes every other access; the type takes any octet.
            let value = unsafe { octet.read_volatile() };
            // SAFETY: as above, and it is the same value.
            unsafe { octet.write_volatile(value) };
        }
    }
}

impl<T> Deref for HugeSlice<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: `len` valid elements lie at `start` (zeroed is valid: FromZeros), owned by self.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T> DerefMut for HugeSlice<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and `&mut self` makes the access unique.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl<T> Drop for HugeSlice<T> {
    fn drop(&mut self) {
        if std::mem::needs_drop::<T>() {
            let elements = std::ptr::slice_from_raw_parts_mut(self.start.as_ptr(), self.len);
            // SAFETY: the elements are valid and nothing uses them after this.
            unsafe { std::ptr::drop_in_place(elements) };
        }
        if self.mapped > 0 {
            // SAFETY: `map` gave exactly these octets, and this is the only release.
            unsafe { unmap(self.start.cast(), self.mapped) };
        }
    }
}

impl<T> fmt::Debug for HugeSlice<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HugeSlice")
            .field("len", &self.len)
            .field("octets", &self.mapped)
            .field("page_size", &self.page_size)
            .finish_non_exhaustive()
    }
}

#[cfg(not(miri))]
fn map(octets: usize, huge: HugePages) -> Result<(NonNull<u8>, usize, PageSize), MemoryError> {
    if huge == HugePages::Try && octets >= HUGE_PAGE {
        let rounded = octets.next_multiple_of(HUGE_PAGE);
        let flags = libc::MAP_HUGETLB | libc::MAP_HUGE_2MB;
        if let Ok(start) = map_anonymous(rounded, flags) {
            return Ok((start, rounded, PageSize::Huge2Mib));
        }
    }
    let rounded = octets.next_multiple_of(PLAIN_PAGE);
    let start = map_anonymous(rounded, 0)
        .map_err(|error| MemoryError::Refused { octets, cause: error.to_string() })?;
    // Only a wish: a kernel without transparent huge pages refuses it, and nothing is lost.
    // SAFETY: the mapping was made above and has `rounded` octets.
    unsafe { libc::madvise(start.as_ptr().cast(), rounded, libc::MADV_HUGEPAGE) };
    Ok((start, rounded, PageSize::Transparent))
}

#[cfg(not(miri))]
fn map_anonymous(octets: usize, flags: libc::c_int) -> std::io::Result<NonNull<u8>> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new anonymous mapping at an address of the kernel's choice replaces nothing.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), octets, protection, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error());
    }
    NonNull::new(start.cast()).ok_or_else(|| std::io::ErrorKind::OutOfMemory.into())
}

#[cfg(not(miri))]
unsafe fn unmap(start: NonNull<u8>, octets: usize) {
    // SAFETY: the caller hands over exactly one mapping of `map`.
    unsafe { libc::munmap(start.as_ptr().cast(), octets) };
}

/// Whether the kernel took the wish (Linux 5.14 and later).
#[cfg(not(miri))]
fn populate(start: NonNull<u8>, octets: usize) -> std::io::Result<()> {
    // SAFETY: the octets are one whole mapping of ours; the advice changes no contents.
    match unsafe { libc::madvise(start.as_ptr().cast(), octets, libc::MADV_POPULATE_WRITE) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

#[cfg(miri)]
fn layout(octets: usize) -> std::alloc::Layout {
    std::alloc::Layout::from_size_align(octets, PLAIN_PAGE).expect("checked by the caller")
}

#[cfg(miri)]
fn map(octets: usize, _: HugePages) -> Result<(NonNull<u8>, usize, PageSize), MemoryError> {
    // SAFETY: the layout has a size.
    let start = unsafe { std::alloc::alloc_zeroed(layout(octets)) };
    NonNull::new(start)
        .map(|start| (start, octets, PageSize::Plain))
        .ok_or(MemoryError::Refused { octets, cause: "the allocator refused".to_owned() })
}

#[cfg(miri)]
unsafe fn unmap(start: NonNull<u8>, octets: usize) {
    // SAFETY: the caller hands over exactly one allocation of `map`.
    unsafe { std::alloc::dealloc(start.as_ptr(), layout(octets)) };
}

#[cfg(miri)]
fn populate(_: NonNull<u8>, _: usize) -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_slice_is_zero_and_keeps_what_is_written_across_prefault() {
        for huge_pages in [HugePages::Try, HugePages::Never] {
            let mut slice = HugeSlice::<u64>::zeroed_on(10_000, huge_pages).unwrap();
            assert!(slice.iter().all(|value| *value == 0));
            slice[9_999] = 7;
            slice.prefault().unwrap();
            slice.touch_pages();
            assert_eq!(slice[9_999], 7);
            assert_eq!(slice.iter().sum::<u64>(), 7);
            assert!(slice.octets() >= 80_000);
        }
    }

    #[test]
    fn an_empty_slice_maps_nothing() {
        let mut slice = HugeSlice::<u32>::zeroed(0).unwrap();
        slice.prefault().unwrap();
        assert!(slice.is_empty());
        assert_eq!((slice.octets(), slice.page_size()), (0, PageSize::Plain));
    }

    #[test]
    fn a_size_that_overflows_is_an_error() {
        let error = HugeSlice::<u64>::zeroed(usize::MAX / 4).unwrap_err();
        assert_eq!(error, MemoryError::TooLarge { count: usize::MAX / 4, element: 8 });
    }

    #[test]
    #[cfg(not(miri))]
    fn a_refusal_says_how_much_was_asked_for() {
        let octets = 1 << 55;
        let error = HugeSlice::<u8>::zeroed(octets).unwrap_err();
        assert!(error.to_string().contains(&octets.to_string()), "{error}");
    }

    #[test]
    fn the_slice_moves_to_another_thread() {
        let mut slice = HugeSlice::<u16>::zeroed(100).unwrap();
        slice[3] = 9;
        let sum = std::thread::spawn(move || slice.iter().sum::<u16>()).join().unwrap();
        assert_eq!(sum, 9);
    }
}
