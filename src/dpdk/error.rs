//! What can go wrong after EAL has started.

use std::ffi::{CStr, CString, c_int};
use std::fmt;

use super::main_thread;

/// A refusal by DPDK or by the wrappers.
#[derive(Debug, thiserror::Error)]
pub enum DpdkError {
    /// No port has this name.
    #[error(
        "no DPDK port {name:?}; {}; a device needs its driver (vfio-pci, see dpdk-config/) or a \
         --vdev argument",
        Known(known)
    )]
    NoSuchPort {
        /// The name asked for.
        name: String,
        /// The names of the ports that exist.
        known: Vec<String>,
    },
    /// The port was opened before and is still in use.
    #[error("DPDK port {0:?} is already open; each port has one owner")]
    PortInUse(String),
    /// A device could not be started or attached.
    #[error("cannot attach device {devargs:?}: {}{}", ErrnoText(*errno), Said(said))]
    Attach {
        /// The device and its arguments.
        devargs: String,
        /// Why, as a positive `errno`.
        errno: i32,
        /// What DPDK logged meanwhile.
        said: Vec<String>,
    },
    /// The other side is not there yet (a memif server, for example): try again later.
    #[error("port {port:?} cannot start yet, its peer is not there; try again{}", Said(said))]
    NotReady {
        /// The port's name.
        port: String,
        /// What DPDK logged meanwhile.
        said: Vec<String>,
    },
    /// DPDK refused a call.
    #[error("{call} failed for {subject}: {}{}", ErrnoText(*errno), Said(said))]
    Call {
        /// The function of DPDK.
        call: &'static str,
        /// What it was called for: a port, a pool, a ring.
        subject: String,
        /// Why, as a positive `errno`.
        errno: i32,
        /// What DPDK logged meanwhile.
        said: Vec<String>,
    },
    /// A name is too long for DPDK, or has a zero octet.
    #[error("DPDK does not take the name {0:?}: too long, or with a zero octet")]
    BadName(String),
    /// A number is outside of what DPDK takes.
    #[error("{what} of {subject}: {given} is not within {min} to {max}")]
    OutOfRange {
        /// Which number.
        what: &'static str,
        /// Of what.
        subject: String,
        /// The number given.
        given: usize,
        /// The least that is taken.
        min: usize,
        /// The most that is taken.
        max: usize,
    },
    /// A port was configured without a pool for its packets.
    #[error("port {0:?} needs at least one mempool for what it receives")]
    NoMempool(String),
    /// The device has no queue of one direction.
    #[error("port {0:?} has no {1} queues")]
    NoQueues(String, &'static str),
    /// The device does not do what something depends on.
    #[error("port {port:?} does not offer {wish}")]
    NotOffered {
        /// The port's name.
        port: String,
        /// What it was asked for.
        wish: &'static str,
    },
    /// The port takes frames to no other address than its own.
    #[error(
        "port {0:?} can receive frames to no other MAC address than its own: it neither takes \
         further addresses nor has a promiscuous mode, so there can be no virtual MAC on it"
    )]
    NoMoreMacs(String),
    /// The port's queues are still with their workers.
    #[error("the queues of port {0:?} are still in use; drop them first")]
    QueuesInUse(String),
    /// The port must be configured first.
    #[error("port {0:?} is not configured yet")]
    NotConfigured(String),
    /// The port must be stopped first.
    #[error("port {0:?} is running; stop it first")]
    Running(String),
    /// EAL was not given this lcore, or it is the main one.
    #[error("lcore {lcore} is not a worker lcore; EAL has {workers:?} (see --lcores)")]
    NoSuchLcore {
        /// The lcore asked for.
        lcore: u32,
        /// The worker lcores.
        workers: Vec<u32>,
    },
    /// The lcore still runs something.
    #[error("lcore {0} is busy")]
    LcoreBusy(u32),
    /// What ran on the lcore panicked.
    #[error("the work on lcore {lcore} panicked: {message}")]
    Panicked {
        /// Where it ran.
        lcore: u32,
        /// The panic's words.
        message: String,
    },
    /// EAL has ended.
    #[error("EAL has ended")]
    Ended,
}

impl DpdkError {
    /// Whether trying the same again later can succeed.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::NotReady { .. } | Self::LcoreBusy(_))
    }
}

/// One call into DPDK that may fail, and the log around it.
pub(super) struct Attempt {
    call: &'static str,
    mark: u64,
}

impl Attempt {
    /// Remembers where the log stands before the call.
    pub(super) fn new(call: &'static str) -> Self {
        Self { call, mark: main_thread::log_mark() }
    }

    /// What DPDK logged since.
    pub(super) fn said(&self) -> Vec<String> {
        main_thread::lines_since(self.mark)
    }

    /// The error for `subject`; `code` may have either sign, 0 and -1 stand for `rte_errno`.
    pub(super) fn failed(self, subject: impl Into<String>, code: c_int) -> DpdkError {
        let said = self.said();
        DpdkError::Call { call: self.call, subject: subject.into(), errno: positive(code), said }
    }

    /// `Ok` if `code` is not negative.
    pub(super) fn check(self, subject: &str, code: c_int) -> Result<(), DpdkError> {
        if code < 0 { Err(self.failed(subject, code)) } else { Ok(()) }
    }
}

/// The reason behind a return code of DPDK: -errno, or -1 for one that lies in `rte_errno`.
pub(super) fn positive(code: c_int) -> i32 {
    match code {
        -1 | 0 => {
            // SAFETY: reads this thread's rte_errno.
            let errno = unsafe { dpdk_sys::shim_errno() };
            if errno == 0 { code.saturating_neg() } else { errno.saturating_abs() }
        }
        code => code.saturating_abs(),
    }
}

/// DPDK's words for an `errno`.
pub(super) fn errno_text(errno: i32) -> String {
    // SAFETY: gives a C string that lives until this thread's next call.
    let text = unsafe { dpdk_sys::rte_strerror(errno) };
    if text.is_null() {
        return format!("error {errno}");
    }
    // SAFETY: not null, and valid as said above.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// A name as DPDK takes it: shorter than `limit` octets with its final zero.
pub(super) fn name(name: &str, limit: usize) -> Result<CString, DpdkError> {
    CString::new(name)
        .ok()
        .filter(|name| name.as_bytes_with_nul().len() <= limit)
        .ok_or_else(|| DpdkError::BadName(name.to_owned()))
}

struct ErrnoText(i32);

impl fmt::Display for ErrnoText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&errno_text(self.0))
    }
}

/// Lines of DPDK's log after an error's own words.
pub(super) struct Said<'a>(pub(super) &'a [String]);

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, "; DPDK said: {}", self.0.join(" | ")) }
    }
}

struct Known<'a>(&'a [String]);

impl fmt::Display for Known<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            f.write_str("there is no port at all")
        } else {
            write!(f, "there are {}", self.0.join(", "))
        }
    }
}
