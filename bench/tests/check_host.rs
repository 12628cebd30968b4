//! `bench/lab/check-host.sh` on hosts that are made of files.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::process::Command;

/// Files of a host that is set up well for workers on CPUs 2 and 3.
const GOOD: [(&str, &str); 15] = [
    ("sys/devices/system/cpu/online", "0-3"),
    ("sys/devices/system/cpu/isolated", "2-3"),
    ("sys/devices/system/cpu/nohz_full", "2-3"),
    ("proc/cmdline", "isolcpus=2-3 rcu_nocbs=2-3 intel_iommu=on iommu=pt"),
    ("sys/devices/system/cpu/cpu2/topology/thread_siblings_list", "2"),
    ("sys/devices/system/cpu/cpu3/topology/thread_siblings_list", "3"),
    ("sys/devices/system/cpu/cpu2/cpufreq/scaling_governor", "performance"),
    ("sys/devices/system/cpu/cpu3/cpufreq/scaling_governor", "performance"),
    ("sys/devices/system/cpu/intel_pstate/no_turbo", "1"),
    ("sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc"),
    ("sys/kernel/mm/hugepages/hugepages-1048576kB/free_hugepages", "2"),
    ("proc/sys/kernel/numa_balancing", "0"),
    ("proc/swaps", "Filename"),
    ("proc/irq/24/effective_affinity_list", "0-1"),
    ("sys/kernel/iommu_groups/0/type", "DMA"),
];

fn write(root: &Path, file: &str, text: &str) {
    let path = root.join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, format!("{text}\n")).unwrap();
}

/// The lines that warn about a good host with these files changed.
fn warnings(changes: &[(&str, &str)]) -> Vec<String> {
    let root = tempfile::tempdir().unwrap();
    for (file, text) in GOOD.iter().chain(changes) {
        write(root.path(), file, text);
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("lab/check-host.sh");
    let output = Command::new(script)
        .args(["--workers", "2-3"])
        .env("CHECK_HOST_ROOT", root.path())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    // Of the real host: which programs run.
    let told = |line: &&str| line.starts_with("WARN") && !line.contains("irqbalance  ");
    let lines: Vec<_> = text.lines().filter(told).map(str::to_owned).collect();
    assert!(text.contains("OK    cpus"), "{text}");
    lines
}

#[test]
fn a_host_that_is_set_up_well_gives_no_warning() {
    assert_eq!(warnings(&[]), Vec::<String>::new());
}

#[test]
fn every_fault_is_named() {
    let faults = [
        ("sys/devices/system/cpu/isolated", "2", "lacks 3"),
        ("sys/devices/system/cpu/nohz_full", " (null)", "nohz_full=2-3"),
        ("proc/cmdline", "iommu=pt", "rcu_nocbs=2-3"),
        ("sys/devices/system/cpu/cpu3/topology/thread_siblings_list", "1,3", "shares a core"),
        ("sys/devices/system/cpu/cpu2/cpufreq/scaling_governor", "powersave", "powersave"),
        ("sys/devices/system/cpu/intel_pstate/no_turbo", "0", "turbo"),
        ("sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet", "hpet"),
        ("sys/kernel/mm/hugepages/hugepages-1048576kB/free_hugepages", "1", "1024 of 2048 MiB"),
        ("proc/sys/kernel/numa_balancing", "1", "numa_balancing"),
        ("proc/swaps", "Filename\n/swapfile", "swapoff"),
        ("proc/irq/24/effective_affinity_list", "1-2", "24"),
    ];
    for (file, text, words) in faults {
        let lines = warnings(&[(file, text)]);
        assert_eq!(lines.len(), 1, "{file}: {lines:?}");
        assert!(lines[0].contains(words), "{file}: {lines:?}");
    }
}

#[test]
fn a_cpu_that_sleeps_deeply_is_told() {
    let state = "sys/devices/system/cpu/cpu2/cpuidle/state3";
    let (latency, disable) = (format!("{state}/latency"), format!("{state}/disable"));
    let on = warnings(&[(latency.as_str(), "133"), (disable.as_str(), "0")]);
    assert!(on.len() == 1 && on[0].contains("133 us"), "{on:?}");
    assert!(warnings(&[(latency.as_str(), "133"), (disable.as_str(), "1")]).is_empty());
}
