"""UDP through a virtual service, both ways, stateless.

Port 0 sends as the clients. Port 1 sends what the one real server would answer: NAT routing keeps
the client's address and port, so the answers are known without looking at what arrived.

    start -f stl_udp.py -p 0 -m 10kpps -d 10          every flow once: connections are opened
    start -f stl_udp.py -p 0 1 -m 50% -t --size imix  both ways
"""

import argparse

from trex_stl_lib.api import *

# Octets with FCS, and how many of twelve packets have them.
IMIX = ((64, 7), (594, 4), (1518, 1))
FCS = 4


class UdpService:
    def get_streams(self, direction=0, tunables=(), **kwargs):
        parser = argparse.ArgumentParser(description=__doc__)
        parser.add_argument("--size", default="64", help="octets of a frame with FCS, or imix")
        parser.add_argument("--flows", type=int, default=65536)
        parser.add_argument("--service", default="192.0.2.100")
        parser.add_argument("--service-port", type=int, default=9)
        parser.add_argument("--server", default="10.0.0.11")
        parser.add_argument("--server-port", type=int, default=9)
        args = parser.parse_args(list(tunables))
        mix = IMIX if args.size == "imix" else ((int(args.size), 1),)
        return [self.stream(args, direction, size, share) for size, share in mix]

    def stream(self, args, direction, size, share):
        client = STLVmTupleGen(
            name="client",
            ip_min="198.18.0.0",
            ip_max="198.18.255.255",
            port_min=1024,
            port_max=65535,
            limit_flows=args.flows,
        )
        if direction == 0:
            base = Ether() / IP(dst=args.service) / UDP(dport=args.service_port)
            address, port = "IP.src", "UDP.sport"
        else:
            base = Ether() / IP(src=args.server) / UDP(sport=args.server_port)
            address, port = "IP.dst", "UDP.dport"
        # No UDP checksum: RFC 768 allows it over IPv4, and the director keeps it so.
        base[UDP].chksum = 0
        vm = STLScVmRaw(
            [
                client,
                STLVmWrFlowVar(fv_name="client.ip", pkt_offset=address),
                STLVmWrFlowVar(fv_name="client.port", pkt_offset=port),
                STLVmFixIpv4(offset="IP"),
            ]
        )
        padding = b"x" * max(0, size - FCS - len(base))
        packet = STLPktBuilder(pkt=base / padding, vm=vm)
        return STLStream(packet=packet, mode=STLTXCont(pps=share))


def register():
    return UdpService()
