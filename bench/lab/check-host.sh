#!/usr/bin/env bash
# Looks at what decides whether a measured rate is the director's or the host's: isolated CPUs,
# clock, huge pages, NUMA, IOMMU, PCIe, flow control, interrupts. Changes nothing. One line for each
# fact: OK, WARN (with what to do) or "--" where it cannot be seen here. Exit code 1 with any WARN.
set -euo pipefail

usage() {
    cat <<TEXT
Usage: bench/lab/check-host.sh --workers CPUS [--nic PCI-ADDRESS]... [--huge-mib N]

  --workers   the workers' CPUs as the kernel writes lists: 2-5,8
  --nic       a NIC of the director, for example 0000:3b:00.0; may be repeated
  --huge-mib  huge pages that must be free, in MiB; [dpdk] memory and the connection tables
              (default 2048)
TEXT
}

workers='' nics=() huge_mib=2048
while [ $# -gt 0 ]; do
    case $1 in
    --workers) workers=$2 && shift 2 ;;
    --nic) nics+=("$2") && shift 2 ;;
    --huge-mib) huge_mib=$2 && shift 2 ;;
    -h | --help) usage && exit ;;
    *) usage >&2 && exit 2 ;;
    esac
done
[[ $workers =~ ^[0-9]+([-,][0-9]+)*$ ]] || {
    usage >&2
    exit 2
}

# Another root is looked at where a test says so.
root=${CHECK_HOST_ROOT:-}
warnings=0
ok() { printf 'OK    %-14s %s\n' "$1" "$2"; }
unknown() { printf -- '--    %-14s %s\n' "$1" "$2"; }
warn() {
    printf 'WARN  %-14s %s\n' "$1" "$2"
    warnings=$((warnings + 1))
}
# content FILE: its text without the final newline; nothing if it cannot be read.
content() { cat "$root$1" 2>/dev/null || true; }

# expand LIST: 2-4,8 as 2 3 4 8.
expand() {
    local part
    for part in ${1//,/ }; do
        seq "${part%-*}" "${part#*-}"
    done
}

# missing WANTED HAVE: numbers of the first list that the second lacks.
missing() {
    local cpu have
    have=" $(expand "$2" | tr '\n' ' ')"
    for cpu in $(expand "$1"); do
        [[ $have == *" $cpu "* ]] || printf '%s ' "$cpu"
    done
}

check_cpus() {
    local absent list cpu siblings
    absent=$(missing "$workers" "$(content /sys/devices/system/cpu/online)")
    if [ -z "$absent" ]; then
        ok cpus "workers on $workers"
    else
        warn cpus "not there or offline: $absent"
    fi
    for list in isolated nohz_full; do
        # Without any, the kernel writes " (null)" or nothing.
        absent=$(missing "$workers" "$(content /sys/devices/system/cpu/$list | grep -o '[0-9,-]*' || true)")
        if [ -z "$absent" ]; then
            ok "$list" "all workers' CPUs"
        else
            warn "$list" "lacks $absent: boot with $([ $list = isolated ] && echo isolcpus || echo nohz_full)=$workers"
        fi
    done
    if grep -qw "rcu_nocbs=$workers" <<<"$(content /proc/cmdline)"; then
        ok rcu_nocbs "$workers"
    else
        warn rcu_nocbs "boot with rcu_nocbs=$workers, so that RCU callbacks run elsewhere"
    fi
    for cpu in $(expand "$workers"); do
        siblings=$(content "/sys/devices/system/cpu/cpu$cpu/topology/thread_siblings_list")
        case $siblings in
        '') unknown siblings "CPU $cpu: not shown" ;;
        "$cpu") ok siblings "CPU $cpu has its core for itself" ;;
        *) warn siblings "CPU $cpu shares a core ($siblings): leave the others idle, or switch SMT off" ;;
        esac
    done
}

check_clock() {
    local cpu governor boost state latency deepest=0
    for cpu in $(expand "$workers"); do
        governor=$(content "/sys/devices/system/cpu/cpu$cpu/cpufreq/scaling_governor")
        case $governor in
        performance) ok governor "CPU $cpu: performance" ;;
        '') unknown governor "CPU $cpu: no cpufreq (a virtual machine, or set by the firmware)" ;;
        *) warn governor "CPU $cpu: $governor; cpupower frequency-set -g performance" ;;
        esac
        for state in "$root/sys/devices/system/cpu/cpu$cpu/cpuidle"/state*; do
            [ -r "$state/latency" ] || continue
            [ "$(cat "$state/disable")" = 1 ] && continue
            latency=$(cat "$state/latency")
            [ "$latency" -le "$deepest" ] || deepest=$latency
        done
    done
    if [ "$deepest" -gt 10 ]; then
        warn c-states "a worker's CPU may sleep so that it takes $deepest us to wake: cpupower idle-set -D 10"
    else
        ok c-states "none that takes more than 10 us to leave ($deepest us)"
    fi
    boost=$(content /sys/devices/system/cpu/intel_pstate/no_turbo)
    if [ -n "$boost" ]; then
        boost=$((1 - boost))
    else
        boost=$(content /sys/devices/system/cpu/cpufreq/boost)
    fi
    case $boost in
    0) ok turbo "off: the same clock in every run" ;;
    1) warn turbo "on: rates depend on heat and on the other cores; off for comparisons, on for a maximum" ;;
    *) unknown turbo "not shown" ;;
    esac
    state=$(content /sys/devices/system/clocksource/clocksource0/current_clocksource)
    case $state in
    tsc | kvm-clock | hyperv_clocksource_tsc_page) ok clocksource "$state" ;;
    *) warn clocksource "${state:-unknown}: the time-stamp counter is not trusted here" ;;
    esac
}

check_memory() {
    local size free thp mib=0
    for size in "$root"/sys/kernel/mm/hugepages/hugepages-*kB; do
        [ -r "$size/free_hugepages" ] || continue
        free=$(cat "$size/free_hugepages")
        size=${size##*hugepages-}
        mib=$((mib + free * ${size%kB} / 1024))
    done
    if [ "$mib" -ge "$huge_mib" ]; then
        ok hugepages "$mib MiB free"
    else
        warn hugepages "$mib of $huge_mib MiB free: dpdk-config/hugepages.sh"
    fi
    thp=$(content /sys/kernel/mm/transparent_hugepage/enabled)
    if [ -n "$thp" ]; then
        ok thp "$thp"
    else
        unknown thp "not shown"
    fi
    if [ "$(content /proc/sys/kernel/numa_balancing)" = 1 ]; then
        warn numa_balancing "on: the kernel moves pages about; sysctl kernel.numa_balancing=0"
    else
        ok numa_balancing off
    fi
    if [ "$(content /proc/swaps | wc -l)" -gt 1 ]; then
        warn swap "on: the control thread may be swapped out; swapoff -a"
    else
        ok swap none
    fi
}

check_irqs() {
    local irq list bad='' cpu
    for irq in "$root"/proc/irq/[0-9]*; do
        list=$(cat "$irq/effective_affinity_list" 2>/dev/null || cat "$irq/smp_affinity_list" 2>/dev/null) || continue
        [ -n "$list" ] || continue
        for cpu in $(expand "$workers"); do
            [ -n "$(missing "$cpu" "$list")" ] || bad="$bad ${irq##*/}"
        done
    done
    if [ -z "$bad" ]; then
        ok irqs "none on the workers' CPUs"
    else
        warn irqs "on workers' CPUs:$(tr ' ' '\n' <<<"$bad" | sort -un | tr '\n' ' '); move them, stop irqbalance"
    fi
    if pgrep -x irqbalance >/dev/null 2>&1; then
        warn irqbalance "runs: it moves interrupts to workers' CPUs (systemctl stop irqbalance)"
    else
        ok irqbalance "does not run"
    fi
}

check_iommu() {
    local groups
    groups=$(find "$root/sys/kernel/iommu_groups" -mindepth 1 -maxdepth 1 2>/dev/null | wc -l)
    if [ "$groups" -gt 0 ]; then
        if grep -qw iommu=pt <<<"$(content /proc/cmdline)"; then
            ok iommu "$groups groups, iommu=pt"
        else
            warn iommu "on without iommu=pt: mappings of the kernel's own devices cost time"
        fi
    else
        warn iommu "off: vfio-pci works only in its no-IOMMU mode; intel_iommu=on or amd_iommu=on, and iommu=pt"
    fi
}

check_nic() {
    local nic=$1 device="/sys/bus/pci/devices/$1" driver node cpu speed width most_speed most_width
    if [ ! -e "$root$device" ]; then
        warn "$nic" "no such PCI device"
        return
    fi
    driver=$(basename "$(readlink -f "$root$device/driver" || echo none)")
    case $driver in
    vfio-pci | mlx5_core | mlx4_core) ok "$nic" "driver $driver" ;;
    *) warn "$nic" "driver $driver: dpdk-config/bind-nics.sh" ;;
    esac
    node=$(content "$device/numa_node")
    for cpu in $(expand "$workers"); do
        if [ "$node" = -1 ] || [ -e "$root/sys/devices/system/node/node$node/cpu$cpu" ]; then
            ok "$nic" "CPU $cpu is on its NUMA node ($node)"
        else
            warn "$nic" "is on NUMA node $node, CPU $cpu is not"
        fi
    done
    speed=$(content "$device/current_link_speed") width=$(content "$device/current_link_width")
    most_speed=$(content "$device/max_link_speed") most_width=$(content "$device/max_link_width")
    if [ -z "$width" ]; then
        unknown "$nic" "PCIe link not shown"
    elif [ "$speed $width" = "$most_speed $most_width" ]; then
        ok "$nic" "PCIe $speed x$width"
    else
        warn "$nic" "PCIe $speed x$width of $most_speed x$most_width: another slot?"
    fi
    # Once DPDK has it, no kernel interface is left to ask about flow control.
    local interface
    interface=$(find "$root$device/net" -mindepth 1 -maxdepth 1 -printf '%f\n' 2>/dev/null | head -n 1)
    if [ -z "$interface" ]; then
        unknown "$nic" "flow control cannot be seen: switch it off at the other end too"
    elif ethtool -a "$interface" 2>/dev/null | grep -Eq '^(RX|TX):[[:space:]]+on'; then
        warn "$nic" "flow control is on: pauses hide loss (ethtool -A $interface autoneg off rx off tx off)"
    else
        ok "$nic" "no flow control on $interface"
    fi
}

check_cpus
check_clock
check_memory
check_irqs
check_iommu
for nic in "${nics[@]}"; do
    check_nic "$nic"
done
[ ${#nics[@]} -gt 0 ] || unknown nic "none given (--nic)"
[ "$warnings" = 0 ] || {
    echo "$warnings warnings"
    exit 1
}
