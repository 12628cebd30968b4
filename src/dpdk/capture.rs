//! Catches what DPDK and its drivers print to standard output and standard error while EAL starts:
//! the usage text, and the reason why an argument was refused, never reach DPDK's log.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};

/// Where standard error really goes: differs from 2 only while something is captured.
static REAL_STDERR: AtomicI32 = AtomicI32::new(libc::STDERR_FILENO);

/// Writes to the terminal or log of the user even while output is captured. For last words: DPDK
/// may end the process right after.
pub(super) fn write_to_real_stderr(text: &str) {
    // SAFETY: the text is valid for its length; a closed descriptor gives an error and no more.
    unsafe {
        libc::write(REAL_STDERR.load(Ordering::Acquire), text.as_ptr().cast(), text.len());
    }
}

/// Standard output and error of this process, sent to a file in memory until dropped.
pub(super) struct Capture {
    text: File,
    saved: [(RawFd, OwnedFd); 2],
}

impl Capture {
    /// Starts to capture; `None` if the system does not let us, which loses nothing but the text.
    pub(super) fn start() -> Option<Self> {
        // SAFETY: the name is a C string.
        let file = unsafe { libc::memfd_create(c"dpdk-output".as_ptr(), libc::MFD_CLOEXEC) };
        // SAFETY: the kernel just made this descriptor, and nothing else owns it.
        let text = (file >= 0).then(|| unsafe { File::from_raw_fd(file) })?;
        let stdout = duplicate(libc::STDOUT_FILENO)?;
        let stderr = duplicate(libc::STDERR_FILENO)?;
        flush();
        REAL_STDERR.store(stderr.as_raw_fd(), Ordering::Release);
        let saved = [(libc::STDOUT_FILENO, stdout), (libc::STDERR_FILENO, stderr)];
        for (number, _) in &saved {
            replace(text.as_raw_fd(), *number);
        }
        Some(Self { text, saved })
    }

    /// Ends the capture; the lines that were printed.
    pub(super) fn finish(mut self) -> Vec<String> {
        self.restore();
        let mut octets = Vec::new();
        let read = self.text.rewind().and_then(|()| self.text.read_to_end(&mut octets));
        if read.is_err() {
            return Vec::new();
        }
        String::from_utf8_lossy(&octets).lines().map(str::to_owned).collect()
    }

    fn restore(&mut self) {
        flush();
        for (number, original) in &self.saved {
            replace(original.as_raw_fd(), *number);
        }
        REAL_STDERR.store(libc::STDERR_FILENO, Ordering::Release);
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.restore();
    }
}

fn duplicate(descriptor: RawFd) -> Option<OwnedFd> {
    // SAFETY: takes and gives plain numbers.
    let copy = unsafe { libc::fcntl(descriptor, libc::F_DUPFD_CLOEXEC, 3) };
    // SAFETY: the kernel just made this descriptor, and nothing else owns it.
    (copy >= 0).then(|| unsafe { OwnedFd::from_raw_fd(copy) })
}

fn replace(with: RawFd, number: RawFd) {
    // SAFETY: both are open descriptors of this process; the standard ones are owned by no object.
    unsafe { libc::dup2(with, number) };
}

/// Empties the buffers of C and of Rust.
fn flush() {
    // A failure to print is not ours to report.
    drop(std::io::stdout().flush());
    // SAFETY: a null stream stands for all open output streams.
    unsafe { libc::fflush(std::ptr::null_mut()) };
}
