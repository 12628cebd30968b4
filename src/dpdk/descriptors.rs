//! File descriptors that DPDK opens and another program must not inherit: packet sockets, devices,
//! and the memory behind huge pages, which would stay taken.

use std::io;

/// The first that is not standard input, output or error.
const FIRST: libc::c_uint = 3;

/// Keeps all descriptors but the first three from programs that this process starts.
pub fn keep_from_children() -> io::Result<()> {
    #[allow(clippy::cast_possible_wrap, reason = "a small flag")]
    let flags = libc::CLOSE_RANGE_CLOEXEC as libc::c_int;
    // SAFETY: with this flag nothing is closed; descriptors only get a mark.
    let code = unsafe { libc::close_range(FIRST, libc::c_uint::MAX, flags) };
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::process::Command;

    #[test]
    fn a_child_inherits_nothing() {
        let (reader, _writer) = io::pipe().unwrap();
        let number = reader.as_raw_fd();
        // SAFETY: takes the mark off a descriptor that is open.
        assert_eq!(unsafe { libc::fcntl(number, libc::F_SETFD, 0) }, 0);
        let is_inherited = || {
            let test = format!("test -e /proc/self/fd/{number}");
            Command::new("sh").args(["-c", &test]).status().unwrap().success()
        };
        assert!(is_inherited());
        keep_from_children().unwrap();
        assert!(!is_inherited());
    }
}
