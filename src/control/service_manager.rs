//! What systemd is told of a service of type notify (`sd_notify(3)`).

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Where systemd listens, in the environment.
const VARIABLE: &str = "NOTIFY_SOCKET";

/// Tells it, where there is one.
pub(super) fn tell(state: &str) {
    let Some(path) = env::var_os(VARIABLE) else { return };
    if let Err(cause) = send(&path, state) {
        tracing::warn!(state, %cause, "systemd cannot be told");
    }
}

fn send(path: &OsStr, state: &str) -> io::Result<()> {
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(path)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemd_hears_what_it_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let systemd = UnixDatagram::bind(&path).unwrap();
        send(path.as_os_str(), "READY=1").unwrap();
        let mut octets = [0; 64];
        let length = systemd.recv(&mut octets).unwrap();
        assert_eq!(&octets[..length], b"READY=1");
    }
}
