#!/usr/bin/env bash
# The director between two dpdk-testpmd on shared-memory ports: one generates packets as clients,
# one plays the real servers. No NIC, no huge pages, no root. Ends by itself; compares the counters
# of all three, and fails where they contradict each other.
set -euo pipefail
cd "$(dirname "$0")/../../.."

usage() {
    cat <<TEXT
Usage: bench/lab/testpmd/run.sh [--mode flowgen|txonly] [--seconds N] [--cpus CLIENTS,DIRECTOR,SERVERS]

  flowgen  64 flows to 64 virtual services; the servers send everything back (default)
  txonly   256 clients of one virtual service; the servers only receive
POINTSMAN=path names the director's binary, KEEP=1 keeps the folder with configuration and logs.
TEXT
}

mode=flowgen seconds=3 cpus=0,1,0
while [ $# -gt 0 ]; do
    case $1 in
    --mode) mode=$2 && shift 2 ;;
    --seconds) seconds=$2 && shift 2 ;;
    --cpus) cpus=$2 && shift 2 ;;
    -h | --help) usage && exit ;;
    *) usage >&2 && exit 2 ;;
    esac
done
case $mode in flowgen | txonly) ;; *) usage >&2 && exit 2 ;; esac
IFS=, read -r clients_cpu director_cpu servers_cpu <<<"$cpus"

say() { echo "testpmd lab: $*"; }
fail() {
    echo "testpmd lab: $*" >&2
    exit 1
}

pointsman=${POINTSMAN:-target/release/pointsman}
[ -x "$pointsman" ] || fail "$pointsman is missing: cargo build --release, or POINTSMAN=target/debug/pointsman"
for tool in dpdk-testpmd curl; do
    command -v "$tool" >/dev/null || fail "$tool is missing: scripts/install-deps demo bench"
done

folder=$(mktemp -d)
metrics=127.0.0.1:$((20000 + $$ % 10000))
pids=()
tidy() {
    local pid
    for pid in "${pids[@]}"; do
        kill -KILL "$pid" 2>/dev/null || true
    done
    if [ -n "${KEEP:-}" ]; then say "kept: $folder"; else rm -rf "$folder"; fi
}
trap tidy EXIT
trap 'exit 130' INT TERM

# testpmd NAME CPU ARGUMENTS...: starts one that takes commands from $folder/NAME.in.
testpmd() {
    local name=$1 cpu=$2
    shift 2
    mkfifo "$folder/$name.in"
    # Open for reading too, so that nobody waits for the other end.
    exec {feed}<>"$folder/$name.in"
    # --in-memory is refused together with --no-huge; --no-shconf leaves no files either.
    dpdk-testpmd --no-huge --no-shconf --no-pci --no-telemetry -m 256 --lcores "0@$cpu,1@$cpu" \
        --vdev "net_memif0,role=server,id=0,socket=$folder/$name.sock,socket-abstract=no" -- \
        --interactive --nb-cores=1 --total-num-mbufs=32768 --disable-link-check "$@" \
        <"$folder/$name.in" >"$folder/$name.log" 2>&1 {feed}>&- &
    pids+=($!)
}

# await SECONDS WHAT COMMAND...: until the command succeeds.
await() {
    local end=$((SECONDS + $1)) what=$2
    shift 2
    until "$@"; do
        [ $SECONDS -lt $end ] || fail "$what: nothing within time; KEEP=1 keeps the logs"
        sleep 0.1
    done
}

ended() { ! kill -0 "$1" 2>/dev/null; }
command_to() { echo "$2" >"$folder/$1.in"; }

services() {
    local number
    if [ "$mode" = txonly ]; then
        service clients 198.18.0.100:9 9
    else
        # What flowgen sends to: one address after the other, one port. All of it comes from one
        # client's port, so that the servers need one port for each service.
        for number in $(seq 0 63); do
            service "flow$number" "10.253.0.$number:1001" $((1000 + number))
        done
    fi
}

service() {
    cat <<TEXT
[[service]]
name = "$1"
listen = "udp://$2"
scheduler = "rr"
timeouts = { udp = "60s" }
servers = [{ address = "10.0.0.11:$3" }, { address = "10.0.0.12:$3" }]
TEXT
}

configuration() {
    cat <<TEXT
[director]
workers = [$director_cpu]
control_cpu = $director_cpu
idle = "adaptive"
connections = 10_000
metrics = "$metrics"
socket = "$folder/pointsman.sock"
[dpdk]
hugepages = false
memory = "256MiB"
[interface.outside]
role = "outside"
device = "net_memif,role=client,id=0,socket=$folder/clients.sock,socket-abstract=no"
# Where flowgen sends to, whatever it is told.
mac = "00:01:02:03:04:01"
addresses = ["192.0.2.1/24"]
gateways = ["192.0.2.254"]
[interface.outside.neighbors]
"192.0.2.254" = "02:00:00:00:01:fe"
[interface.inside]
role = "inside"
device = "net_memif,role=client,id=0,socket=$folder/servers.sock,socket-abstract=no"
addresses = ["10.0.0.1/24"]
[interface.inside.neighbors]
"10.0.0.11" = "02:00:00:00:02:11"
"10.0.0.12" = "02:00:00:00:02:12"
TEXT
    services
}

# The counter of testpmd: RX-packets or TX-packets of its port, the last time it was shown.
testpmd_counter() {
    awk -v want="$2-packets:" '{ for (i = 1; i < NF; i++) if ($i == want) value = $(i + 1) } END { print value + 0 }' "$folder/$1.log"
}

# The director's: the sum over all series of a metric with this label.
director_counter() {
    awk -v metric="pointsman_$1{" -v label="$2" 'index($0, metric) == 1 && index($0, label) { sum += $NF } END { printf "%.0f\n", sum }' "$folder/metrics"
}

# same WHAT TESTPMD DIRECTOR [MISSING]: the director's may be larger by so many.
same() {
    local verdict=holds
    if [ "$2" -gt "$3" ] || [ $(($3 - $2)) -gt "${4:-0}" ]; then
        verdict=CONTRADICTION
        contradictions=$((contradictions + 1))
    fi
    printf '  %-58s %12s %12s  %s\n' "$1" "$2" "$3" "$verdict"
}

if [ "$mode" = txonly ]; then
    testpmd servers "$servers_cpu" --forward-mode=rxonly
    testpmd clients "$clients_cpu" --forward-mode=txonly --txonly-multi-flow --eth-peer=0,00:01:02:03:04:01 \
        --tx-ip=198.18.0.1,198.18.0.100 --tx-udp=1024,9
else
    testpmd servers "$servers_cpu" --forward-mode=5tswap
    testpmd clients "$clients_cpu" --forward-mode=flowgen --flowgen-flows=64
fi
for name in clients servers; do
    await 20 "testpmd as $name" grep -q 'testpmd>' "$folder/$name.log"
done
command_to servers start

configuration >"$folder/director.toml"
"$pointsman" run --config "$folder/director.toml" >"$folder/director.log" 2>&1 &
director=$!
pids+=("$director")
await 20 "the director's links" curl -sf -o /dev/null "http://$metrics/readyz"

say "$mode for $seconds s"
command_to clients start
sleep "$seconds"
command_to clients stop
sleep 0.5
command_to clients "show port stats 0"
curl -sf -o "$folder/metrics" "http://$metrics/metrics" || fail "the director's metrics are gone"
command_to servers stop
command_to servers "show port stats 0"
sleep 0.3

# The director first: a memif client that outlives its server sends into nothing.
kill -TERM "$director"
director_ended=0
wait "$director" || director_ended=$?
# testpmd's words are in its file once it has ended.
for name in clients servers; do
    command_to "$name" quit
done
for pid in "${pids[@]}"; do
    await 10 "the end of testpmd" ended "$pid"
done

contradictions=0
printf '  %-58s %12s %12s\n' "" testpmd director
same "clients sent, director received outside" \
    "$(testpmd_counter clients TX)" "$(director_counter port_rx_packets_total outside)"
same "servers received, director sent inside" \
    "$(testpmd_counter servers RX)" "$(director_counter port_tx_packets_total inside)"
if [ "$mode" = flowgen ]; then
    same "servers sent, director received inside" \
        "$(testpmd_counter servers TX)" "$(director_counter port_rx_packets_total inside)"
    # Once it has stopped, flowgen leaves in the ring what still comes.
    same "clients received, director sent outside (a ring's 1024 less)" \
        "$(testpmd_counter clients RX)" "$(director_counter port_tx_packets_total outside)" 1024
fi
connections=$(director_counter service_connections_total "")
say "connections: $connections"
say "drops: $(awk '/^pointsman_packets_dropped_total/ && $NF > 0 { match($0, /reason="[a-z_]*"/); printf "%s %s; ", substr($0, RSTART + 8, RLENGTH - 9), $NF }' "$folder/metrics")"
[ "$director_ended" = 0 ] || fail "the director ended with $director_ended: its books do not balance, see KEEP=1"
[ "$contradictions" = 0 ] || fail "$contradictions counters contradict each other"
[ "$connections" -gt 0 ] || fail "no packet became a connection"
say "every packet is accounted for"
