//! `-h` and `-v`.

use std::io::{self, Write};

/// The version whose language this is: scripts look for it.
const VERSION: &str = "ipvsadm v1.31 2019/12/24 (compiled with popt and IPVS v1.2.1)";

/// The ways to call it, after the program's name.
const USAGE: &[&str] = &[
    "-A|E virtual-service [-s scheduler] [-p [timeout]] [-M netmask] [--pe persistence_engine] \
     [-b sched-flags]",
    "-D virtual-service",
    "-C",
    "-R",
    "-S [-n]",
    "-a|e virtual-service -r server-address -m [options]",
    "-d virtual-service -r server-address",
    "-L|l [virtual-service] [options]",
    "-Z [virtual-service]",
    "--set tcp tcpfin udp",
    "-h",
];

const OPTIONS: &str = "\
Commands, one of them first:
  --add-service     -A        make a virtual service
  --edit-service    -E        state its options anew
  --delete-service  -D        remove it and its servers
  --clear           -C        remove all virtual services
  --restore         -R        take commands from stdin, one on a line
  --save            -S        print the commands that make what there is
  --add-server      -a        give a virtual service a real server
  --edit-server     -e        state the real server's options anew
  --delete-server   -d        take it away
  --list            -L|-l     show what there is
  --zero            -Z        set counters back to zero
  --set tcp tcpfin udp        idle timeouts in seconds; 0: as it is
  --start-daemon, --stop-daemon
                              refused: see docs/ipvsadm.md
  --help            -h        show this
  --version         -v        show whose language this is

Virtual services:
  --tcp-service|-t  address   address is host[:port], [ipv6]:port
  --udp-service|-u  address
  --sctp-service    address
  --fwmark-service|-f mark    packets with this mark, a number from 1
  --ipv6         -6           after -f: IPv6 packets

Their options:
  --scheduler    -s name      rr|wrr|lc|wlc|lblc|lblcr|dh|sh|sed|nq|fo|ovf|mh|twos; without it wlc
  --sched-flags  -b flags     sh-fallback,sh-port or mh-fallback,mh-port
  --persistent   -p [seconds] a client stays with its server; without a number for 360 s
  --netmask      -M mask      which clients are one: an IPv4 mask, an IPv6 prefix length
  --ops          -o           every UDP datagram is scheduled by itself
  --pe           engine       refused: there are no persistence engines

Real servers:
  --real-server  -r address   host[:port]; without a port the service's
  --masquerading -m           by NAT, which is needed: the only way here
  --gatewaying   -g           refused, as are
  --ipip         -i           tunnels and --tun-type type, --tun-port port, --tun-nocsum,
                              --tun-csum, --tun-remcsum
  --weight       -w weight    its share; 0: no new connections
  --u-threshold  -x number    no new connections from so many on
  --l-threshold  -y number    until there are fewer than so many

Listings:
  --connection   -c           connections
  --timeout                   idle timeouts
  --daemon                    sync daemons, of which there are none
  --stats                     totals
  --rate                      the same in a second
  --thresholds                thresholds of real servers
  --persistent-conn           clients that persist
  --tun-info                  tunnels, of which there are none
  --exact                     all digits
  --nosort                    in the director's own order
  --sort                      does nothing
  --numeric      -n           no names for addresses and ports

Of sync daemons, checked and without effect:
  --syncid id, --sync-maxlen octets, --mcast-interface name, --mcast-group address,
  --mcast-port port, --mcast-ttl ttl
";

/// `-v`
pub(super) fn write_version(out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{VERSION}")
}

/// `-h`
pub(super) fn write(out: &mut dyn Write, program: &str) -> io::Result<()> {
    writeln!(out, "{VERSION}\nUsage:")?;
    for way in USAGE {
        writeln!(out, "  {program} {way}")?;
    }
    write!(out, "\n{OPTIONS}")
}
