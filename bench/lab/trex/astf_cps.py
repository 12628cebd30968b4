"""TCP connections through a virtual service: handshake, a request, an answer, FIN both ways.

    start -f astf_cps.py -m 100000 -d 60          100,000 connections a second

The client side talks to the virtual service, the server side listens on the real server's port:
they are two TCP stacks, each of which sees its own side of the translation.
"""

import argparse

from trex.astf.api import *

REQUEST = b"GET / HTTP/1.1\r\nHost: lab\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Connections:
    def get_profile(self, tunables=(), **kwargs):
        parser = argparse.ArgumentParser(description=__doc__)
        parser.add_argument("--service", default="192.0.2.100")
        parser.add_argument("--port", type=int, default=80, help="of the service and of the servers")
        parser.add_argument("--ramp-up", type=int, default=5, help="seconds to reach the rate")
        args = parser.parse_args(list(tunables))

        client = ASTFProgram()
        client.send(REQUEST)
        client.recv(len(ANSWER))
        server = ASTFProgram()
        server.recv(len(REQUEST))
        server.send(ANSWER)

        addresses = ASTFIPGen(
            glob=ASTFIPGenGlobal(ip_offset="0.0.0.1"),
            dist_client=ASTFIPGenDist(ip_range=["198.18.0.1", "198.18.255.254"], distribution="seq"),
            dist_server=ASTFIPGenDist(ip_range=[args.service, args.service], distribution="seq"),
        )
        info = ASTFGlobalInfo()
        info.scheduler.rampup_sec = args.ramp_up
        template = ASTFTemplate(
            client_template=ASTFTCPClientTemplate(
                program=client, ip_gen=addresses, port=args.port, cps=1
            ),
            server_template=ASTFTCPServerTemplate(
                program=server, assoc=ASTFAssociationRule(port=args.port)
            ),
        )
        return ASTFProfile(
            default_ip_gen=addresses, default_c_glob_info=info, templates=template
        )


def register():
    return Connections()
