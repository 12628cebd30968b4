//! EAL's arguments, from the configuration.

use crate::control::config::{Config, Device};
use crate::dpdk::eal::EalArgs;

/// The lcore of a worker: lcore 0 is EAL's own.
pub(super) fn lcore_of(worker: usize) -> u32 {
    u32::try_from(worker + 1).unwrap_or(u32::MAX)
}

/// What EAL is started with.
pub(super) fn of(config: &Config) -> EalArgs {
    let mut args = vec!["--lcores".to_owned(), lcores(config), "--main-lcore".into(), "0".into()];
    // --in-memory: huge pages without a mounted hugetlbfs, and no files left behind; DPDK refuses
    // it together with --no-huge.
    let memory: &[&str] =
        if config.dpdk.hugepages { &["--in-memory"] } else { &["--no-huge", "--no-shconf"] };
    args.extend(memory.iter().copied().map(str::to_owned));
    args.extend(["-m".to_owned(), config.dpdk.memory_mib.to_string()]);
    args.push("--no-telemetry".to_owned());
    let mut has_pci = false;
    for port in config.ports() {
        match port.device {
            Device::Pci(address) => {
                has_pci = true;
                args.extend(["-a".to_owned(), address.clone()]);
            }
            device @ Device::Vdev { .. } => args.push(format!("--vdev={device}")),
        }
    }
    if !has_pci {
        args.push("--no-pci".to_owned());
    }
    args.extend(config.dpdk.eal_args.iter().cloned());
    EalArgs::new("pointsman", args)
}

/// EAL's own lcore on the control CPU, then one lcore for each worker on its CPU.
fn lcores(config: &Config) -> String {
    let own = format!("0@{}", config.director.control_cpu);
    let workers = config.director.workers.iter().enumerate();
    let workers = workers.map(|(worker, cpu)| format!("{}@{cpu}", lcore_of(worker)));
    std::iter::once(own).chain(workers).collect::<Vec<_>>().join(",")
}
