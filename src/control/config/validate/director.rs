//! Sections `[director]` and `[dpdk]`.

use toml::Spanned;

use crate::control::config::diagnostic::Finding;
use crate::control::config::draft::{DirectorDraft, Draft, Workers};
use crate::control::config::machine::Machine;
use crate::control::config::model::Idle;
use crate::control::config::reader::Problems;
use crate::ids::CpuId;

/// Every two workers are joined by rings, and a ring takes one of DPDK's 2560 memory zones.
const MAX_WORKERS: usize = 40;

/// What pointsman hands to EAL by itself.
const OWN_EAL_ARGS: [(&str, &str); 18] = [
    ("-l", "director.workers"),
    ("-c", "director.workers"),
    ("-s", "director.workers"),
    ("-S", "director.workers"),
    ("--lcores", "director.workers"),
    ("--main-lcore", "director.workers"),
    ("-n", "the machine's own"),
    ("--master-lcore", "director.workers"),
    ("--no-huge", "dpdk.hugepages"),
    ("--in-memory", "dpdk.hugepages"),
    ("--legacy-mem", "dpdk.hugepages"),
    ("--no-shconf", "dpdk.hugepages"),
    ("--vdev", "interface.NAME.device"),
    ("-a", "interface.NAME.device"),
    ("--allow", "interface.NAME.device"),
    ("--no-pci", "interface.NAME.device"),
    ("-m", "dpdk.memory"),
    ("--socket-mem", "dpdk.memory"),
];

pub(super) fn check(draft: &Draft, machine: &Machine, problems: &Problems) {
    check_cpus(&draft.director, machine, problems);
    check_ipv6_share(draft, problems);
    check_dpdk(draft, problems);
    check_state_file(draft, problems);
}

/// In a pair the other director has the connections, and newer ones than a file.
fn check_state_file(draft: &Draft, problems: &Problems) {
    if let Some(path) = &draft.director.state_file
        && !draft.failovers.is_empty()
    {
        let message = "state_file: one director of a pair leaves its connections to the other";
        let help = "leave it out, and `pointsman ha release` before a restart";
        problems.add(Finding::error(path.span(), message).help(help));
    }
}

/// The CPU of the control thread.
pub(in crate::control::config) fn control_cpu(
    director: &DirectorDraft,
    machine: &Machine,
) -> CpuId {
    let first = machine.cpus.first().copied().unwrap_or_default();
    director.control_cpu.as_ref().map_or(first, |cpu| CpuId(*cpu.get_ref()))
}

/// One CPU per worker.
pub(in crate::control::config) fn workers(
    director: &DirectorDraft,
    machine: &Machine,
) -> Vec<CpuId> {
    let control = control_cpu(director, machine);
    match &director.workers {
        Some(Workers::On(cpus)) => cpus.items.iter().map(|cpu| CpuId(*cpu.get_ref())).collect(),
        Some(Workers::Auto) | None => {
            let others = machine.cpus.iter().copied().filter(|&cpu| cpu != control);
            let others: Vec<_> = others.take(MAX_WORKERS).collect();
            if others.is_empty() { vec![control] } else { others }
        }
    }
}

fn check_cpus(director: &DirectorDraft, machine: &Machine, problems: &Problems) {
    let stated: &[Spanned<u16>] = match &director.workers {
        Some(Workers::On(cpus)) => {
            if let (true, true, Some(span)) = (cpus.items.is_empty(), cpus.complete, &cpus.span) {
                let finding = Finding::error(span.clone(), "workers: there must be a worker");
                problems.add(finding.help("write for example [1], or \"auto\""));
            }
            &cpus.items
        }
        Some(Workers::Auto) | None => &[],
    };
    for (key, cpu) in stated
        .iter()
        .map(|cpu| ("workers", cpu))
        .chain(director.control_cpu.iter().map(|cpu| ("control_cpu", cpu)))
    {
        if !machine.has(*cpu.get_ref()) {
            let message = format!("{key}: CPU {cpu} is not there, or not for this process");
            let help = format!("CPUs to choose from: {}", machine.cpu_list());
            problems.add(Finding::error(cpu.span(), message).help(help));
        }
    }
    if let Some(last) = stated.get(MAX_WORKERS) {
        let message = format!("workers: DPDK runs {MAX_WORKERS} at most");
        problems.add(Finding::error(last.span(), message));
    }
    let busy = director.idle.as_ref().is_none_or(|idle| *idle.get_ref() == Idle::Busy);
    if !busy {
        return;
    }
    let control = control_cpu(director, machine);
    for (index, cpu) in stated.iter().enumerate() {
        let with = if CpuId(*cpu.get_ref()) == control {
            "the control thread"
        } else if stated.iter().take(index).any(|other| other == cpu) {
            "another worker"
        } else {
            continue;
        };
        let message = format!("a busy worker shares CPU {cpu} with {with}");
        let finding = Finding::warning(cpu.span(), message);
        problems.add(finding.help("give each its own CPU, or set idle = \"adaptive\""));
    }
}

fn check_ipv6_share(draft: &Draft, problems: &Problems) {
    let Some(share) = &draft.director.ipv6_share else { return };
    for listen in draft.services.iter().filter_map(|service| service.listen.as_ref()) {
        let ipv6 = listen.get_ref().is_ipv6();
        let none = if ipv6 { 0 } else { 100 };
        if *share.get_ref() == none {
            let family = if ipv6 { "IPv6" } else { "IPv4" };
            let message = format!(
                "ipv6_share: {none} leaves no connections for the {family} service {}",
                listen.get_ref()
            );
            let help = "leave it out, or write a percentage between";
            problems.add(Finding::error(share.span(), message).help(help));
            return;
        }
    }
}

fn check_dpdk(draft: &Draft, problems: &Problems) {
    let dpdk = &draft.dpdk;
    for (key, ring) in
        [("rx_descriptors", &dpdk.rx_descriptors), ("tx_descriptors", &dpdk.tx_descriptors)]
    {
        let Some(ring) = ring else { continue };
        let count = *ring.get_ref();
        if !count.is_multiple_of(32) {
            let message =
                format!("{key}: {count} is not a multiple of 32, which many NICs ask for");
            let help = format!("write {}", count.next_multiple_of(32));
            problems.add(Finding::error(ring.span(), message).help(help));
        }
    }
    for arg in &dpdk.eal_args {
        let text = arg.get_ref();
        let name = text.split('=').next().unwrap_or_default();
        if let Some((_, key)) = OWN_EAL_ARGS.iter().find(|(own, _)| *own == name) {
            let message = format!("eal_args: pointsman sets {name} itself");
            problems.add(Finding::error(arg.span(), message).help(format!("set {key} instead")));
        }
        if text.is_empty() || text.contains('\0') {
            problems.add(Finding::error(arg.span(), "eal_args: an argument must not be empty"));
        }
    }
}
