//! The machine that this process runs on, as the kernel shows it.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::fs::Access;

use super::preflight::{Host, PciDevice, SocketState};

/// The machine that this process runs on.
#[derive(Clone, Copy, Debug, Default)]
pub struct ThisHost;

impl Host for ThisHost {
    fn free_huge_pages_mib(&self) -> u64 {
        free_huge_pages_mib(Path::new("/sys/kernel/mm/hugepages"))
    }

    fn available_memory_mib(&self) -> Option<u64> {
        available_memory_mib(&fs::read_to_string("/proc/meminfo").ok()?)
    }

    fn has_network_interface(&self, name: &str) -> bool {
        // A name with a slash would lead elsewhere.
        !name.is_empty() && !name.contains('/') && Path::new("/sys/class/net").join(name).exists()
    }

    fn can_read(&self, path: &Path) -> io::Result<()> {
        let file = fs::File::open(path)?;
        if file.metadata()?.is_dir() { Err(io::ErrorKind::IsADirectory.into()) } else { Ok(()) }
    }

    fn can_create_in(&self, directory: &Path) -> io::Result<()> {
        let existing = directory.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."));
        if !existing.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(rustix::fs::access(existing, Access::WRITE_OK | Access::EXEC_OK)?)
    }

    fn can_listen(&self, address: SocketAddr) -> io::Result<()> {
        TcpListener::bind(address).map(drop)
    }

    fn socket(&self, path: &Path) -> SocketState {
        match fs::metadata(path) {
            Ok(metadata) if !metadata.file_type().is_socket() => SocketState::NotASocket,
            Ok(_) if UnixStream::connect(path).is_ok() => SocketState::InUse,
            Ok(_) | Err(_) => SocketState::Free,
        }
    }

    fn pci_device(&self, address: &str) -> PciDevice {
        pci_device(Path::new("/sys/bus/pci/devices"), address)
    }
}

/// Sums up `hugepages-<size>kB/free_hugepages`.
fn free_huge_pages_mib(directory: &Path) -> u64 {
    let Ok(sizes) = fs::read_dir(directory) else { return 0 };
    let of = |size: &fs::DirEntry| -> Option<u64> {
        let name = size.file_name();
        let kib = name.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?;
        let free = fs::read_to_string(size.path().join("free_hugepages")).ok()?;
        Some(kib.parse::<u64>().ok()?.saturating_mul(free.trim().parse().ok()?))
    };
    sizes.flatten().filter_map(|size| of(&size)).sum::<u64>() / 1024
}

fn available_memory_mib(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024)
}

fn pci_device(devices: &Path, address: &str) -> PciDevice {
    let device = devices.join(address);
    if !device.exists() {
        return PciDevice::Absent;
    }
    match fs::read_link(device.join("driver")) {
        Err(_) => PciDevice::Unbound,
        Ok(target) => {
            let name = target.file_name().unwrap_or_default();
            PciDevice::Bound(name.to_string_lossy().into_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_pages_of_all_sizes_are_summed_up() {
        let directory = tempfile::tempdir().unwrap();
        for (size, free) in [("hugepages-2048kB", "3\n"), ("hugepages-1048576kB", "1\n")] {
            fs::create_dir(directory.path().join(size)).unwrap();
            fs::write(directory.path().join(size).join("free_hugepages"), free).unwrap();
        }
        assert_eq!(free_huge_pages_mib(directory.path()), 6 + 1024);
        assert_eq!(free_huge_pages_mib(&directory.path().join("absent")), 0);
    }

    #[test]
    fn available_memory_is_read_from_meminfo() {
        let meminfo = "MemTotal:       24576000 kB\nMemAvailable:    2097152 kB\n";
        assert_eq!(available_memory_mib(meminfo), Some(2048));
        assert_eq!(available_memory_mib("MemTotal: 1 kB\n"), None);
    }

    #[test]
    fn a_pci_device_names_its_driver() {
        let devices = tempfile::tempdir().unwrap();
        let device = devices.path().join("0000:3b:00.0");
        assert_eq!(pci_device(devices.path(), "0000:3b:00.0"), PciDevice::Absent);
        fs::create_dir(&device).unwrap();
        assert_eq!(pci_device(devices.path(), "0000:3b:00.0"), PciDevice::Unbound);
        std::os::unix::fs::symlink("../../drivers/ixgbe", device.join("driver")).unwrap();
        assert_eq!(pci_device(devices.path(), "0000:3b:00.0"), PciDevice::Bound("ixgbe".into()));
    }

    #[test]
    fn a_listening_socket_is_in_use_and_a_dead_one_is_free() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s.sock");
        assert_eq!(ThisHost.socket(&path), SocketState::Free);
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert_eq!(ThisHost.socket(&path), SocketState::InUse);
        drop(listener);
        assert_eq!(ThisHost.socket(&path), SocketState::Free);
        fs::write(directory.path().join("file"), "").unwrap();
        assert_eq!(ThisHost.socket(&directory.path().join("file")), SocketState::NotASocket);
    }

    #[test]
    fn an_occupied_address_cannot_be_listened_on() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let cause = ThisHost.can_listen(listener.local_addr().unwrap()).unwrap_err();
        assert_eq!(cause.kind(), io::ErrorKind::AddrInUse);
    }
}
