//! The environment abstraction layer: DPDK's runtime, one per process.

use std::ffi::{CStr, CString, c_char, c_int, c_uint};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;

use super::capture::Capture;
use super::eal_error::EalError;
use super::error::{self, Attempt, DpdkError};
use super::interrupts;
use super::lcore::LcoreId;
use super::main_thread;
use super::mempool::RetiredPool;
use crate::ids::{CpuId, PortId};

/// EAL was started once; DPDK allows no second time.
static CLAIMED: AtomicBool = AtomicBool::new(false);

/// What EAL is started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EalArgs {
    /// The program's name, as DPDK shows it.
    pub program: String,
    /// EAL's arguments, such as `--no-huge`.
    pub args: Vec<String>,
}

impl EalArgs {
    /// Arguments for `program`.
    pub fn new<S: Into<String>>(
        program: impl Into<String>,
        args: impl IntoIterator<Item = S>,
    ) -> Self {
        Self { program: program.into(), args: args.into_iter().map(Into::into).collect() }
    }

    fn to_c(&self) -> Result<Vec<CString>, EalError> {
        std::iter::once(&self.program)
            .chain(&self.args)
            .map(|arg| CString::new(arg.as_str()).map_err(|_| EalError::ZeroOctet(arg.clone())))
            .collect()
    }
}

/// DPDK's runtime. Everything made from it keeps it alive; the last one to go ends it.
///
/// EAL runs on a thread of its own (`dpdk-main`), which is DPDK's main lcore. Threads of the
/// program stay where they are; only lcores are pinned.
#[derive(Debug)]
pub struct Eal {
    thread: Option<JoinHandle<()>>,
    /// Worker lcores that run something.
    running: AtomicUsize,
    open_ports: Mutex<Vec<PortId>>,
    /// Pools without a handle that could not be freed at once.
    retired: Mutex<Vec<RetiredPool>>,
}

impl Eal {
    /// Starts EAL. While it starts, what the process prints is caught, as DPDK explains some errors
    /// on standard error only; from then on DPDK's log goes to `tracing`, target `dpdk`.
    ///
    /// A device that fails to start does not fail this: look for it with
    /// [`port_by_name`](Self::port_by_name).
    pub fn init(args: &EalArgs) -> Result<Arc<Self>, EalError> {
        let args = args.to_c()?;
        if CLAIMED.swap(true, Ordering::AcqRel) {
            return Err(EalError::AlreadyInitialised);
        }
        let (started, outcome) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name("dpdk-main".to_owned()).spawn(move || {
            let result = start(args);
            let failed = result.is_err();
            if started.send(result).is_err() || failed {
                return;
            }
            main_thread::serve();
        })?;
        match outcome.recv() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(error),
            Err(mpsc::RecvError) => return Err(EalError::Other { errno: 0, said: Vec::new() }),
        }
        Ok(Arc::new(Self {
            thread: Some(thread),
            running: AtomicUsize::new(0),
            open_ports: Mutex::new(Vec::new()),
            retired: Mutex::new(Vec::new()),
        }))
    }

    /// The lcores that can be given work: all but the main one.
    pub fn worker_lcores(&self) -> Vec<LcoreId> {
        let mut lcores = Vec::new();
        let mut last = c_uint::MAX;
        loop {
            // SAFETY: any number is taken; u32::MAX starts from the beginning.
            last = unsafe { dpdk_sys::rte_get_next_lcore(last, 1, 0) };
            if last >= dpdk_sys::RTE_MAX_LCORE {
                return lcores;
            }
            lcores.push(LcoreId(last));
        }
    }

    /// The lcore that EAL itself runs on.
    pub fn main_lcore(&self) -> LcoreId {
        // SAFETY: reads a number that rte_eal_init has set.
        LcoreId(unsafe { dpdk_sys::rte_get_main_lcore() })
    }

    /// The (first) CPU that an lcore is pinned to.
    pub fn lcore_cpu(&self, lcore: LcoreId) -> Option<CpuId> {
        // SAFETY: takes any number; one that is no lcore gives -1.
        u16::try_from(unsafe { dpdk_sys::shim_lcore_cpu(lcore.0) }).ok().map(CpuId)
    }

    /// The NUMA node of an lcore.
    pub fn lcore_socket(&self, lcore: LcoreId) -> Option<i32> {
        if lcore.0 >= dpdk_sys::RTE_MAX_LCORE {
            return None;
        }
        // SAFETY: the number is within DPDK's table.
        i32::try_from(unsafe { dpdk_sys::rte_lcore_to_socket_id(lcore.0) }).ok()
    }

    /// The port of this name: a PCI address such as `0000:3b:00.0`, or a vdev's name such as
    /// `net_null0`. Arguments after a comma are ignored.
    pub fn port_by_name(&self, name: &str) -> Option<PortId> {
        let name = CString::new(device_name(name)).ok()?;
        let mut port = 0;
        // SAFETY: a C string and a place for the number, both valid during the call.
        let found = unsafe { dpdk_sys::rte_eth_dev_get_port_by_name(name.as_ptr(), &raw mut port) };
        (found == 0).then_some(PortId(port))
    }

    /// All ports with their names.
    pub fn ports(&self) -> Vec<(PortId, String)> {
        (0..u16::try_from(dpdk_sys::RTE_MAX_ETHPORTS).unwrap_or(u16::MAX))
            .map(PortId)
            .filter_map(|port| Some((port, self.port_name(port)?)))
            .collect()
    }

    /// The name of a port.
    pub fn port_name(&self, port: PortId) -> Option<String> {
        // SAFETY: any number is taken.
        if unsafe { dpdk_sys::rte_eth_dev_is_valid_port(port.0) } == 0 {
            return None;
        }
        let mut name: [c_char; dpdk_sys::RTE_ETH_NAME_MAX_LEN as usize] =
            [0; dpdk_sys::RTE_ETH_NAME_MAX_LEN as usize];
        // SAFETY: DPDK writes at most RTE_ETH_NAME_MAX_LEN octets with the final zero.
        let code = unsafe { dpdk_sys::rte_eth_dev_get_name_by_port(port.0, name.as_mut_ptr()) };
        if code != 0 {
            return None;
        }
        // SAFETY: DPDK wrote a C string, or left the zeros.
        Some(unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned())
    }

    /// Adds a device while EAL runs, for example `net_af_packet0,iface=eth0`; gives its port.
    pub fn attach(&self, devargs: &str) -> Result<PortId, DpdkError> {
        let text = CString::new(devargs).map_err(|_| DpdkError::BadName(devargs.to_owned()))?;
        let attempt = Attempt::new("rte_dev_probe");
        // SAFETY: a C string, copied by DPDK.
        let code = unsafe { dpdk_sys::rte_dev_probe(text.as_ptr()) };
        let refused =
            |errno| DpdkError::Attach { devargs: devargs.to_owned(), errno, said: attempt.said() };
        if code < 0 {
            return Err(refused(error::positive(code)));
        }
        self.port_by_name(devargs).ok_or_else(|| refused(libc::ENODEV))
    }

    /// Whether EAL has huge pages.
    pub fn has_huge_pages(&self) -> bool {
        // SAFETY: reads EAL's configuration.
        unsafe { dpdk_sys::rte_eal_has_hugepages() != 0 }
    }

    /// The release of DPDK that runs, as it calls itself.
    pub fn version(&self) -> String {
        // SAFETY: only gives a pointer.
        let text = unsafe { dpdk_sys::rte_version() };
        // SAFETY: it points to a C string that is never freed.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    }

    /// Counts of lcores that run something.
    pub(super) fn running(&self) -> &AtomicUsize {
        &self.running
    }

    /// Makes the caller the owner of a port; `false` if it has one.
    pub(super) fn claim_port(&self, port: PortId) -> bool {
        let mut open = lock(&self.open_ports);
        let free = !open.contains(&port);
        if free {
            open.push(port);
        }
        free
    }

    /// Gives up a claim.
    pub(super) fn release_port(&self, port: PortId) {
        lock(&self.open_ports).retain(|open| *open != port);
    }

    /// Keeps a pool that has no handle any more until EAL ends.
    pub(super) fn retire(&self, pool: RetiredPool) {
        lock(&self.retired).push(pool);
    }
}

impl Drop for Eal {
    fn drop(&mut self) {
        let retired = std::mem::take(&mut *lock(&self.retired));
        // Workers hold an `Arc<Eal>` until joined, so none runs now.
        let out: u32 = retired.iter().map(RetiredPool::in_use).sum();
        if out > 0 {
            tracing::warn!(
                mbufs = out,
                "packets outlive the EAL; its memory is kept until the process ends"
            );
        } else {
            retired.into_iter().for_each(RetiredPool::free);
            main_thread::run(end);
        }
        main_thread::stop();
        if let Some(thread) = self.thread.take() {
            // It only fails by a panic, which has been shown already.
            drop(thread.join());
        }
    }
}

/// Starts EAL on the calling thread.
fn start(args: Vec<CString>) -> Result<(), EalError> {
    let log_is_ours = main_thread::take_log();
    let mark = main_thread::log_mark();
    let capture = Capture::start().filter(|_| log_is_ours);
    // EAL keeps pointers into its arguments for the life of the process, so they are never freed.
    let mut argv: Vec<*mut c_char> = args.into_iter().map(CString::into_raw).collect();
    let argc = c_int::try_from(argv.len()).unwrap_or(c_int::MAX);
    argv.push(std::ptr::null_mut());
    // SAFETY: `argc` C strings that live for ever; nobody else has called this (`CLAIMED`).
    let code = unsafe { dpdk_sys::rte_eal_init(argc, argv.as_mut_ptr()) };
    let errno = error::positive(-1);
    let printed = capture.map(Capture::finish).unwrap_or_default();
    if code < 0 {
        let mut lines = main_thread::lines_since(mark);
        lines.extend(printed);
        return Err(EalError::from_failure(errno, &lines));
    }
    for line in printed.iter().filter(|line| !line.trim().is_empty()) {
        tracing::debug!(target: "dpdk", "{line}");
    }
    main_thread::drain();
    Ok(())
}

/// Ends EAL; on the main lcore, once nothing else uses it.
fn end() {
    if !interrupts::hold() {
        tracing::warn!("DPDK's interrupt thread is stuck; its memory is kept until the end");
        return;
    }
    // SAFETY: ports, pools, rings and lcores hold an `Arc<Eal>`, so all of them are gone.
    unsafe { dpdk_sys::rte_eal_cleanup() };
}

/// The device of `devargs`, without its arguments.
fn device_name(devargs: &str) -> &str {
    devargs.split_once(',').map_or(devargs, |(name, _)| name)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
