//! DPDK's interrupt thread. It works on behalf of drivers (a memif connection, a link change) and is
//! not told when EAL ends: whoever takes memory away has to wait for it.

use std::ffi::c_void;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

/// How long the thread may take before it counts as stuck.
const PATIENCE: Duration = Duration::from_secs(5);

/// Waits until the interrupt thread has done everything that was pending; `false` if it does not
/// answer.
pub(super) fn settle() -> bool {
    // The first alarm may share a round with other events that are handled after it; the second
    // one comes in a later round.
    alarm() && alarm()
}

/// Holds the interrupt thread for the rest of the process; `false` if it does not answer.
///
/// `rte_eal_cleanup` takes away the memory under it without a word, and some drivers leave their
/// handles registered there (the listening socket of memif): woken once more, it would crash. The
/// event is our own, as the cleanup waits for the end of alarms.
pub(super) fn hold() -> bool {
    if !settle() {
        return false;
    }
    // SAFETY: takes plain numbers.
    let event = unsafe { libc::eventfd(1, libc::EFD_CLOEXEC) };
    // SAFETY: takes a plain number; gives memory of its own, which is kept for ever.
    let handle = unsafe { dpdk_sys::rte_intr_instance_alloc(dpdk_sys::SHIM_INTR_PRIVATE) };
    if event < 0 || handle.is_null() {
        return false;
    }
    // SAFETY: the handle was just made.
    let numbered = unsafe { dpdk_sys::rte_intr_fd_set(handle, event) };
    let kind = dpdk_sys::rte_intr_handle_type::RTE_INTR_HANDLE_EXT;
    // SAFETY: the handle was just made.
    let typed = unsafe { dpdk_sys::rte_intr_type_set(handle, kind) };
    if numbered != 0 || typed != 0 {
        return false;
    }
    let (sender, receiver) = sync_channel::<()>(1);
    let sender = Box::into_raw(Box::new(sender)).cast();
    // SAFETY: the handle lives for ever, and `hold_here` takes the sender over, once: it never
    // returns.
    let code = unsafe { dpdk_sys::rte_intr_callback_register(handle, Some(hold_here), sender) };
    code == 0 && receiver.recv_timeout(PATIENCE).is_ok()
}

/// Lets the interrupt thread come by and waits for it.
fn alarm() -> bool {
    let (sender, receiver) = sync_channel::<()>(1);
    let sender = Box::into_raw(Box::new(sender));
    // SAFETY: `answer` takes the sender over, if the alarm is set.
    let code = unsafe { dpdk_sys::rte_eal_alarm_set(1, Some(answer), sender.cast()) };
    if code != 0 {
        // SAFETY: the alarm is not set, so the sender is still ours.
        drop(unsafe { Box::from_raw(sender) });
        return false;
    }
    receiver.recv_timeout(PATIENCE).is_ok()
}

unsafe extern "C" fn answer(sender: *mut c_void) {
    // SAFETY: the caller passes a boxed sender, and each event comes once.
    let sender = unsafe { Box::from_raw(sender.cast::<SyncSender<()>>()) };
    // Nobody waits any more if it took too long.
    let _ = sender.send(());
}

unsafe extern "C" fn hold_here(sender: *mut c_void) {
    // SAFETY: the caller passes a boxed sender, and each event comes once.
    unsafe { answer(sender) };
    loop {
        std::thread::park();
    }
}
