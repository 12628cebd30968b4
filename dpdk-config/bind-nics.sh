#!/usr/bin/env bash
# Gives NICs to DPDK (vfio-pci) and back to the kernel. Idempotent; says what it changes.
set -euo pipefail

usage() {
    cat <<'TEXT'
Usage: dpdk-config/bind-nics.sh [--dry-run] PCI_ADDRESS...
       dpdk-config/bind-nics.sh [--dry-run] --unbind PCI_ADDRESS...
       dpdk-config/bind-nics.sh --show

A PCI address is 0000:3b:00.0 or 3b:00.0. Refuses the NIC that carries the default route. NICs of
Mellanox/NVIDIA (mlx4, mlx5) stay with their kernel driver: DPDK shares them, nothing is to be bound.
The binding lasts until the next boot.
TEXT
}

# For tests: another /sys.
sys=${BIND_NICS_SYS:-/sys}
dry_run=no
unbind=no
addresses=()

say() {
    echo "bind-nics: $*"
}

fail() {
    echo "bind-nics: $*" >&2
    exit 1
}

driver_of() {
    if [ -e "$sys/bus/pci/devices/$1/driver" ]; then
        basename "$(readlink -f "$sys/bus/pci/devices/$1/driver")"
    else
        echo none
    fi
}

interfaces_of() {
    local directory
    # A virtio NIC hangs its interface one level below the PCI device.
    for directory in "$sys/bus/pci/devices/$1"/net/* "$sys/bus/pci/devices/$1"/*/net/*; do
        if [ -e "$directory" ]; then basename "$directory"; fi
    done
}

show() {
    local device address
    for device in "$sys"/bus/pci/devices/*; do
        [ -e "$device/class" ] || continue
        # Class 02: network controllers.
        [[ $(cat "$device/class") == 0x02* ]] || continue
        address=${device##*/}
        say "$address driver $(driver_of "$address"), NUMA node $(cat "$device/numa_node" 2>/dev/null || echo unknown), interfaces: $(interfaces_of "$address" | tr '\n' ' ')"
    done
}

write() {
    local value=$1 file=$2
    if [ $dry_run = yes ]; then
        say "would write \"$value\" to $file"
    else
        echo "$value" >"$file" || fail "the kernel refused \"$value\" in $file; see dmesg"
    fi
}

# The interfaces that default routes use, those below a bridge or bond included.
default_route_interfaces() {
    local interface lower
    { ip -4 route show default && ip -6 route show default; } |
        grep -o 'dev [^ ]*' | cut -d' ' -f2 | sort -u |
        while read -r interface; do
            echo "$interface"
            for lower in "$sys/class/net/$interface"/lower_*; do
                if [ -e "$lower" ]; then echo "${lower##*/lower_}"; fi
            done
        done
}

refuse_if_in_use() {
    local address=$1 interface
    for interface in $(interfaces_of "$address"); do
        ! default_route_interfaces | grep -qxF "$interface" ||
            fail "$address ($interface) carries the default route: the machine would be cut off; nothing was changed"
        if [ -n "$(ip -brief address show dev "$interface" 2>/dev/null | awk '{ for (i = 3; i <= NF; i++) if ($i !~ /^fe80:/) print $i }')" ]; then
            say "note: $interface ($address) has addresses; the kernel loses them with the interface"
        fi
    done
}

check() {
    local address=$1 device=$sys/bus/pci/devices/$1
    [ -d "$device" ] || fail "no PCI device $address; --show lists the NICs"
    [[ $(cat "$device/class") == 0x02* ]] || fail "$address is no network controller"
    [ $unbind = yes ] || refuse_if_in_use "$address"
}

bind() {
    local address=$1 device=$sys/bus/pci/devices/$1 driver
    driver=$(driver_of "$address")
    case $driver in
        vfio-pci)
            say "$address has vfio-pci already: nothing to do"
            return
            ;;
        mlx4_core | mlx5_core)
            say "$address has $driver, which DPDK shares with the kernel: nothing to do"
            return
            ;;
    esac
    say "$address: from driver $driver to vfio-pci"
    write vfio-pci "$device/driver_override"
    [ "$driver" = none ] || write "$address" "$device/driver/unbind"
    write "$address" "$sys/bus/pci/drivers_probe"
    if [ $dry_run = no ] && [ "$(driver_of "$address")" != vfio-pci ]; then
        write "" "$device/driver_override"
        write "$address" "$sys/bus/pci/drivers_probe"
        fail "$address did not get vfio-pci and has $(driver_of "$address") now; see dmesg (is the IOMMU on?)"
    fi
}

give_back() {
    local address=$1 device=$sys/bus/pci/devices/$1 driver
    driver=$(driver_of "$address")
    if [ "$driver" != vfio-pci ]; then
        say "$address has driver $driver, not vfio-pci: nothing to do"
        return
    fi
    say "$address: from vfio-pci to the kernel's own driver"
    write "" "$device/driver_override"
    write "$address" "$device/driver/unbind"
    write "$address" "$sys/bus/pci/drivers_probe"
    [ $dry_run = yes ] || say "$address: driver $(driver_of "$address") now"
}

load_vfio() {
    local groups
    if [ ! -d "$sys/bus/pci/drivers/vfio-pci" ]; then
        if [ $dry_run = yes ]; then
            say "would load the kernel module vfio-pci"
        else
            say "loading the kernel module vfio-pci"
            modprobe vfio-pci || fail "this kernel has no vfio-pci"
        fi
    fi
    groups=("$sys"/kernel/iommu_groups/*)
    [ -e "${groups[0]}" ] ||
        say "note: no IOMMU is active. On real hardware boot with intel_iommu=on or amd_iommu=on; in a virtual machine without one: echo 1 > /sys/module/vfio/parameters/enable_unsafe_noiommu_mode"
}

while [ $# -gt 0 ]; do
    case $1 in
        --dry-run) dry_run=yes ;;
        --unbind) unbind=yes ;;
        --show)
            show
            exit
            ;;
        -h | --help)
            usage
            exit
            ;;
        -*) usage >&2 && fail "no option $1" ;;
        *)
            [[ $1 =~ ^([0-9a-fA-F]{4}:)?[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7]$ ]] ||
                fail "$1 is not a PCI address such as 0000:3b:00.0"
            address=${1,,}
            [[ $address == *:*:* ]] || address=0000:$address
            addresses+=("$address")
            ;;
    esac
    shift
done
[ ${#addresses[@]} -gt 0 ] || { usage >&2 && fail "which NICs?"; }
[ $dry_run = yes ] || [ "$(id -u)" = 0 ] || fail "needs root"
# All are looked at before any is touched.
for address in "${addresses[@]}"; do check "$address"; done
[ $unbind = yes ] || load_vfio
for address in "${addresses[@]}"; do
    if [ $unbind = yes ]; then give_back "$address"; else bind "$address"; fi
done
