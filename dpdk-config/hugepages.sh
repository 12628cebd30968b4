#!/usr/bin/env bash
# Reserves 2 MiB huge pages for DPDK. Idempotent; says what it changes.
set -euo pipefail

usage() {
    cat <<'TEXT'
Usage: dpdk-config/hugepages.sh [--dry-run] [--node N] [--mount DIR] PAGES
       dpdk-config/hugepages.sh --show

Reserves PAGES huge pages of 2 MiB: 1024 are 2 GiB. With --node, on that NUMA node: the NIC's own
(cat /sys/bus/pci/devices/ADDRESS/numa_node). With --mount, mounts a hugetlbfs on DIR as well;
pointsman itself needs no mount. The reservation lasts until the next boot; docs/operations.md
says how to make it permanent.
TEXT
}

fail() {
    echo "hugepages: $*" >&2
    exit 1
}

pool=/sys/kernel/mm/hugepages/hugepages-2048kB
dry_run=no
mount_point=
node=
pages=

show() {
    local directory
    for directory in /sys/devices/system/node/node*/hugepages/hugepages-2048kB; do
        [ -d "$directory" ] || directory=$pool
        echo "hugepages: $directory: $(cat "$directory/nr_hugepages") reserved, $(cat "$directory/free_hugepages") free, of 2 MiB"
    done
    awk '$3 == "hugetlbfs" { print "hugepages: hugetlbfs mounted on " $2 }' /proc/mounts
}

while [ $# -gt 0 ]; do
    case $1 in
        --dry-run) dry_run=yes ;;
        --mount)
            [ $# -ge 2 ] || fail "--mount needs a directory"
            mount_point=$2
            shift
            ;;
        --node)
            [ $# -ge 2 ] || fail "--node needs a number"
            node=$2
            shift
            ;;
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
            [ -z "$pages" ] || fail "one number of pages, not two: $pages and $1"
            pages=$1
            ;;
    esac
    shift
done
[[ $pages =~ ^[0-9]{1,7}$ ]] || { usage >&2 && fail "how many pages? ${pages:+not \"$pages\"}"; }
[ -z "$node" ] || pool=/sys/devices/system/node/node$node/hugepages/hugepages-2048kB
[ -d "$pool" ] || fail "$pool does not exist: ${node:+no NUMA node $node, or }no 2 MiB huge pages in this kernel"

do_it() {
    if [ $dry_run = yes ]; then
        echo "hugepages: would $1"
    else
        echo "hugepages: $1"
        "${@:2}"
    fi
}

reserve() {
    echo "$pages" >"$pool/nr_hugepages"
}

mount_it() {
    mkdir -p "$mount_point"
    mount -t hugetlbfs -o pagesize=2M,mode=0770 none "$mount_point"
}

have=$(cat "$pool/nr_hugepages")
[ $dry_run = yes ] || [ "$(id -u)" = 0 ] || fail "needs root"
if [ "$have" -ge "$pages" ]; then
    echo "hugepages: $have pages of 2 MiB are reserved already, $pages are enough: nothing to do"
else
    do_it "reserve $pages pages of 2 MiB, $((pages * 2)) MiB, instead of $have ($pool)" reserve
    if [ $dry_run = no ]; then
        found=$(cat "$pool/nr_hugepages")
        if [ "$found" -lt "$pages" ]; then
            echo "$have" >"$pool/nr_hugepages"
            fail "the kernel found only $found, back to $have: memory is too little or too fragmented; reserve at boot"
        fi
    fi
fi
if [ -n "$mount_point" ]; then
    if awk -v at="$mount_point" '$2 == at && $3 == "hugetlbfs" { found = 1 } END { exit !found }' /proc/mounts; then
        echo "hugepages: a hugetlbfs is mounted on $mount_point already: nothing to do"
    else
        do_it "mount a hugetlbfs on $mount_point" mount_it
    fi
fi
