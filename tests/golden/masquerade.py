"""Connections that inside hosts open to the outside.

As everywhere `request` is from the outside party to the director and on, `reply` from the inside:
so a reply comes first here. Director "masquerade" keeps ports that are free, and has one other.
"""

from scapy.all import ICMP, IP, TCP, UDP, ICMPv6EchoReply, ICMPv6EchoRequest, IPv6, Ether, Raw, raw

from cases import CLIENT_SIDE, MSS, PORT0, PORT1, SERVER_MAC, Case, Flow, Topology
from fragments import pieces
from icmp_errors import KINDS4, KINDS6, from_inside, from_outside, mtu_of, padded
from own_errors import about, reset, split, time_exceeded, too_big, unreachable
from settings import from_other_side

MASQUERADE = Topology("masquerade", ("outside", PORT0), ("inside", PORT1))
ONE_NIC_MASQUERADE = Topology("one-nic-masquerade", ("lan", PORT0), ("lan", PORT0))
SERVER_MAC.update({"10.0.0.13": "02:00:00:00:01:13", "fd00::13": "02:00:00:00:01:13",
                   "fd00::20": "02:00:00:00:01:20"})

FAMILIES = {
    "ipv4": {"outside": "198.18.7.7", "other": "198.18.7.8", "external": "192.0.2.100",
             "host": "10.0.0.{}", "own": "10.0.0.1"},
    "ipv6": {"outside": "2001:db8:ffff::7", "other": "2001:db8:ffff::8",
             "external": "2001:db8:1::100", "host": "fd00::{}", "own": "fd00::1"},
}


class Echo(Flow):
    """Echo requests of an inside host. Ends are addresses with the identifier there."""

    def _echo(self, link, source, destination, hops, payload, kind, identifier, seq=1, ip=None):
        ether = Ether(src=link[0], dst=link[1])
        if self.v6:
            echo = (ICMPv6EchoRequest if kind == 8 else ICMPv6EchoReply)(
                id=identifier, seq=seq, data=payload)
            return ether / IPv6(src=source[0], dst=destination[0], hlim=hops, **(ip or {})) / echo
        echo = ICMP(type=kind, id=identifier, seq=seq)
        return ether / IP(src=source[0], dst=destination[0], ttl=hops, **(ip or {})) / echo / Raw(payload)

    def reply(self, payload=b"", hops=64, **fields):
        """The inside asks."""
        t = self.topology
        come, leave = (SERVER_MAC[self.server[0]], t.inside_mac), (t.outside_mac, CLIENT_SIDE)
        return (
            self._echo(come, self.server, self.client, hops, payload, 8, self.server[1], **fields),
            self._echo(leave, self.service, self.client, hops - 1, payload, 8, self.service[1],
                       **fields),
        )

    def request(self, payload=b"", hops=64, **fields):
        """The outside answers."""
        t = self.topology
        come, leave = (CLIENT_SIDE, t.outside_mac), (t.inside_mac, SERVER_MAC[self.server[0]])
        return (
            self._echo(come, self.client, self.service, hops, payload, 0, self.service[1], **fields),
            self._echo(leave, self.client, self.server, hops - 1, payload, 0, self.server[1],
                       **fields),
        )


def flow(family, layer4, host=11, port=40000, external=None, outside=7000, to="outside",
         topology=MASQUERADE):
    """A flow of an inside host to an outside endpoint."""
    f = FAMILIES[family]
    ends = ((f[to], outside), (f["external"], external or port), (f["host"].format(host), port))
    if layer4 == ICMP:
        return Echo(topology, None, *ends)
    return Flow(topology, layer4, *ends)


def kinds():
    for family in FAMILIES:
        for layer4 in (TCP, UDP, ICMP):
            yield family, layer4


def opening(a):
    return {"flags": "S"} if a.layer4 == TCP else {}


def opened(case, a):
    case.reply(a.reply(b"" if a.layer4 == TCP else b"opens", **opening(a)))


def lives():
    for topology, suffix in ((MASQUERADE, ""), (ONE_NIC_MASQUERADE, "_one_nic")):
        for family in FAMILIES:
            case = Case(f"masquerade_tcp_{family}{suffix}",
                        "An inside host opens, both close, and the port is used again", topology)
            a = flow(family, TCP, topology=topology)
            for round_ in range(3):
                case.reply(a.reply(flags="S", seq=1000, options=MSS))
                case.request(a.request(flags="SA", seq=5000, ack=1001, options=MSS))
                case.reply(a.reply(flags="A", seq=1001, ack=5001))
                case.reply(a.reply(b"GET /", flags="PA", seq=1001, ack=5001))
                case.request(a.request(b"x" * 1201, flags="PA", seq=5001, ack=1006))
                if round_ == 1:
                    case.request(a.request(flags="R", seq=6202))
                else:
                    first, second = (a.reply, case.reply), (a.request, case.request)
                    if round_:
                        first, second = second, first
                    first[1](first[0](flags="FA", seq=1006, ack=6202))
                    second[1](second[0](flags="A", seq=6202, ack=1007))
                    second[1](second[0](flags="FA", seq=6202, ack=1007))
                    first[1](first[0](flags="A", seq=1007, ack=6203))

            case = Case(f"masquerade_udp_{family}{suffix}", "Questions and answers, even and odd",
                        topology)
            a = flow(family, UDP, topology=topology)
            for payload in (b"question", b"odd", b"", b"z" * 1200):
                case.reply(a.reply(payload))
                case.request(a.request(payload + b"!", hops=255))
            if family == "ipv4":
                case.reply(a.reply(b"no checksum", chksum=0))
                case.request(a.request(b"no checksum", chksum=0))

            # The running director may answer in another order until it knows the neighbours.
            case = Case(f"masquerade_echo_{family}{suffix}", "An inside host pings", topology,
                        eal=False)
            a = flow(family, ICMP, port=0x1234, topology=topology)
            for seq, payload in ((1, b""), (2, b"odd"), (65535, b"p" * 1200)):
                case.reply(a.reply(payload, seq=seq))
                case.request(a.request(payload, seq=seq, hops=255))

    case = Case("masquerade_echo_identifier_0", "It is no reply, and appears as another", MASQUERADE)
    for family in FAMILIES:
        a = flow(family, ICMP, port=0, external=61000)
        for payload in (b"", b"odd"):
            case.reply(a.reply(payload))
            case.request(a.request(payload))
        frame, expected = from_outside(a, 3 if a.v6 else 11, 0)
        case.outside(frame, ("inside", expected))
        come = (SERVER_MAC[a.server[0]], PORT1)
        case.inside(a._echo(come, a.server, a.client, 64, b"", 0, 0),
                    dropped="icmp_unsupported" if a.v6 else "not_owned")


def ports():
    for family, layer4 in kinds():
        name = {TCP: "tcp", UDP: "udp", ICMP: "echo"}[layer4]
        case = Case(f"masquerade_ports_{name}_{family}",
                    "One port, three hosts: kept, another, refused; all of them again elsewhere",
                    MASQUERADE)
        for outside, to in ((7000, "outside"), (7001, "outside"), (7000, "other")):
            if layer4 == ICMP and outside == 7001:
                continue
            a = flow(family, layer4, 11, outside=outside, to=to)
            b = flow(family, layer4, 12, outside=outside, to=to, external=61000)
            c = flow(family, layer4, 13, outside=outside, to=to)
            opened(case, a)
            opened(case, b)
            frame = c.reply(b"", **opening(c))[0]
            own = FAMILIES[family]["own"]
            kind = (1, 1) if c.v6 else (3, 13)
            case.inside(frame, ("inside", about(frame, own, *kind)), dropped="ports_exhausted")
            # Another port of the third host is free.
            d = flow(family, layer4, 13, port=40001, outside=outside, to=to)
            opened(case, d)
            fields = {"flags": "SA"} if layer4 == TCP else {}
            for one in (a, b, d):
                case.request(one.request(b"answer", **fields))
                case.reply(one.reply(b"again", **({"flags": "A"} if layer4 == TCP else {})))

    for family, layer4, port in (("ipv4", TCP, 80), ("ipv4", UDP, 53), ("ipv6", TCP, 80),
                                 ("ipv6", UDP, 53)):
        name = {TCP: "tcp", UDP: "udp"}[layer4]
        case = Case(f"masquerade_leaves_the_port_of_a_{name}_service_{family}",
                    "The host's own port is one on which a service listens", MASQUERADE)
        a = flow(family, layer4, 13, port=port, external=61000)
        opened(case, a)
        case.request(a.request(b"x", **({"flags": "SA"} if layer4 == TCP else {})))
        # The outside endpoint is a client, too.
        f = FAMILIES[family]
        host, server_port = (11, 8080) if layer4 == TCP else (12, 5353)
        b = Flow(MASQUERADE, layer4, (f["outside"], 7000), (f["external"], port),
                 (f["host"].format(host), server_port))
        case.request(b.request(b"y", **opening(b)))
        case.reply(b.reply(b"z", **({"flags": "SA"} if layer4 == TCP else {})))
        # The other protocol has no service there.
        other = UDP if layer4 == TCP else TCP
        opened(case, flow(family, other, 13, port=port))

    case = Case("masquerade_port_again_after_its_time", "TCP, UDP and echo by their idle times",
                MASQUERADE, eal=False)
    for family, layer4 in kinds():
        a = flow(family, layer4, 11)
        b = flow(family, layer4, 12, external=61000)
        opened(case, a)
        opened(case, b)
    # SYN_RECV 60 s, UDP 300 s, echo 60 s.
    case.wait(60_500)
    for family, layer4 in kinds():
        b = flow(family, layer4, 12, external=61000 if layer4 == UDP else None)
        opened(case, b)
    case.wait(300_500)
    for family, layer4 in kinds():
        opened(case, flow(family, layer4, 13))


def refused():
    case = Case("masquerade_what_opens_nothing", "From inside: no SYN, no request, no rule",
                MASQUERADE)
    for family in FAMILIES:
        a = flow(family, TCP)
        for flags in ("A", "SA", "FA", "R", "RA", "SR", ""):
            case.inside(a.reply(flags=flags)[0], dropped="no_connection")
        e = flow(family, ICMP)
        # An answer to nothing.
        come = (SERVER_MAC[e.server[0]], PORT1)
        case.inside(e._echo(come, e.server, e.client, 64, b"", 0, 99), dropped="no_connection")
        for layer4 in (TCP, UDP, ICMP):
            x = flow(family, layer4, 20)
            for hops in (64, 1):
                case.inside(x.reply(hops=hops, **opening(x))[0], dropped="not_owned")
        # Another protocol.
        gre = Ether(src=come[0], dst=come[1]) / (
            IPv6(src=a.server[0], dst=a.client[0], nh=47) if a.v6 else
            IP(src=a.server[0], dst=a.client[0], proto=47)) / Raw(b"12345678")
        case.inside(gre, dropped="unknown_protocol")

    case = Case("masquerade_unsolicited", "From outside to external ports that are not theirs",
                MASQUERADE)
    for family in FAMILIES:
        for layer4 in (TCP, UDP):
            answer = reset if layer4 == TCP else unreachable
            a = flow(family, layer4)
            frame = a.request(b"x", **opening(a))[0]
            case.outside(frame, ("outside", answer(frame)), dropped="no_service")
            opened(case, a)
            for other in (flow(family, layer4, to="other"), flow(family, layer4, outside=7001),
                          flow(family, layer4, port=40001)):
                frame = other.request(b"x", **opening(a))[0]
                case.outside(frame, ("outside", answer(frame)), dropped="no_service")
            case.request(a.request(b"x", **({"flags": "SA"} if layer4 == TCP else {})))
        e = flow(family, ICMP)
        case.outside(e.request(b"x")[0], dropped="icmp_unsupported")
        opened(case, e)
        case.outside(flow(family, ICMP, to="other").request(b"x")[0], dropped="icmp_unsupported")
        case.outside(flow(family, ICMP, port=40001).request(b"x")[0], dropped="icmp_unsupported")
        case.request(e.request(b"x"))
        # The external address answers requests itself, of this identifier, too.
        for end in (e.client, (FAMILIES[family]["other"], 0)):
            ask = e._echo((CLIENT_SIDE, PORT0), end, e.service, 64, b"ping", 8, 40000)
            answer = e._echo((PORT0, CLIENT_SIDE), e.service, end, 64, b"ping", 0, 40000)
            case.outside(ask, ("outside", answer), consumed=1)

    case = Case("masquerade_wrong_side", "Only by its own interface a packet is one of the flow",
                MASQUERADE)
    for family, layer4 in kinds():
        a = flow(family, layer4)
        opened(case, a)
        fields = {"flags": "SA"} if layer4 == TCP else {}
        case.inside(from_other_side(a.request(b"x", **fields)[0]), dropped="wrong_side")
        case.outside(from_other_side(a.reply(b"x", **fields)[0]), dropped="wrong_side")
        # A host's source, from outside, where there is no flow yet.
        b = flow(family, layer4, 13)
        case.outside(from_other_side(b.reply(b"x", **opening(b))[0]), dropped="wrong_side")
        for make, send in ((from_outside, case.inside), (from_inside, case.outside)):
            send(from_other_side(make(a, 1 if a.v6 else 3, 1)[0]), dropped="wrong_side")
        case.request(a.request(b"x", **fields))

    case = Case("masquerade_ttl", "Inside hosts see the director as a hop; so do outside ones",
                MASQUERADE)
    for family, layer4 in kinds():
        a, own = flow(family, layer4), FAMILIES[family]["own"]
        frame = a.reply(b"probe", hops=1, **opening(a))[0]
        case.inside(frame, ("inside", time_exceeded(frame, own)), dropped="ttl_expired")
        case.reply(a.reply(b"probe", hops=2, **opening(a)))
        frame = a.reply(b"probe", hops=1, **opening(a))[0]
        case.inside(frame, ("inside", time_exceeded(frame, own)), dropped="ttl_expired")
        fields = {"flags": "SA"} if layer4 == TCP else {}
        frame = a.request(b"back", hops=1, **fields)[0]
        case.outside(frame, ("outside", time_exceeded(frame, a.service[0])), dropped="ttl_expired")
        case.request(a.request(b"back", hops=2, **fields))


def errors():
    for family, layer4 in kinds():
        name = {TCP: "tcp", UDP: "udp", ICMP: "echo"}[layer4]
        case = Case(f"masquerade_errors_{name}_{family}",
                    "Both ways, the quote whole and cut to 8 octets; the external port differs",
                    MASQUERADE)
        opened(case, flow(family, layer4, 11))
        a = flow(family, layer4, 12, external=61000)
        opened(case, a)
        header = 40 if a.v6 else 20
        for make, send, to in ((from_outside, case.outside, "inside"),
                               (from_inside, case.inside, "outside")):
            for kind, code, rest in (KINDS6 if a.v6 else KINDS4):
                for cut in (None, header + 8):
                    frame, expected = make(a, kind, code, rest, cut)
                    send(frame, (to, expected))
            rest = bytes([16, 0, 0, 0]) if a.v6 else bytes([0, 32, 0, 0])
            frame, expected = make(a, 3 if a.v6 else 11, 0, rest, None, padded, body=b"x" * 300)
            send(frame, (to, expected))
            # Of the endpoint itself, as Port Unreachable is.
            router = a.client[0] if make is from_outside else a.server[0]
            frame, expected = make(a, 1 if a.v6 else 3, 4 if a.v6 else 3, router=router)
            send(frame, (to, expected))
            # About another flow.
            other = flow(family, layer4, 12, external=61000, to="other")
            send(make(other, 1 if a.v6 else 3, 1)[0], dropped="icmp_unrelated")
            send(make(a, 1 if a.v6 else 3, 1, spoil=1)[0], dropped="bad_checksum")

    case = Case("masquerade_too_big", "The inside host learns the MTU of the link outside", MASQUERADE)
    for family, layer4 in kinds():
        a, own = flow(family, layer4), FAMILIES[family]["own"]
        opened(case, a)
        df = {} if a.v6 else {"ip": {"flags": "DF", "id": 7}}
        headers = (40 if a.v6 else 20) + (20 if layer4 == TCP else 8)
        fields = {"flags": "A"} if layer4 == TCP else {}
        case.reply(a.reply(b"r" * (1400 - headers), **df, **fields))
        frame = a.reply(b"r" * (1401 - headers), **df, **fields)[0]
        case.inside(frame, ("inside", too_big(frame, own, 1400)), dropped="mtu_exceeded")
        if not a.v6:
            frame, expected = a.reply(b"s" * (1500 - headers), ip={"id": 0xBEEF}, **fields)
            case.inside(frame, *[("outside", piece) for piece in split(expected, 1400)], consumed=1)


def fragments():
    for family, layer4 in kinds():
        name = {TCP: "tcp", UDP: "udp", ICMP: "echo"}[layer4]
        case = Case(f"masquerade_fragments_{name}_{family}",
                    "The first fragment opens; 6000 octets each way in several orders", MASQUERADE)
        opened(case, flow(family, layer4, 11))
        a = flow(family, layer4, 12, external=61000)
        body = bytes(i * 7 % 251 for i in range(6000))
        orders = (list, lambda o: o[::-1], lambda o: o[1::2] + o[::2])
        for turn, order in enumerate(orders):
            for make, send, to in ((a.reply, case.inside, "outside"),
                                   (a.request, case.outside, "inside")):
                fields = {}
                if layer4 == TCP:
                    fields = {"flags": "SA" if make == a.request else "S"}
                both = order(list(enumerate(pieces(make(body, **fields), 100 + turn, 1256))))
                waiting, is_open = [], False
                for number, (frame, expected) in both:
                    if number == 0:
                        is_open = True
                        send(frame, (to, expected), *[(to, late) for late in waiting])
                    elif is_open:
                        send(frame, (to, expected))
                    else:
                        waiting.append(expected)
                        send(frame)

    case = Case("masquerade_fragments_refused", "As the first fragment, so the others", MASQUERADE)
    for family, layer4 in kinds():
        x = flow(family, layer4, 20)
        frames = [frame for frame, _ in pieces(x.reply(b"x" * 100, **opening(x)), 5, 64)]
        for frame in frames:
            case.inside(frame, dropped="not_owned")
        # Exhausted: told once.
        opened(case, flow(family, layer4, 11))
        opened(case, flow(family, layer4, 12, external=61000))
        c, own = flow(family, layer4, 13), FAMILIES[family]["own"]
        first, *later = [frame for frame, _ in pieces(c.reply(b"x" * 100, **opening(c)), 6, 64)]
        kind = (1, 1) if c.v6 else (3, 13)
        case.inside(first, ("inside", about(first, own, *kind)), dropped="ports_exhausted")
        for frame in later:
            case.inside(frame, dropped="ports_exhausted")


ALL = (lives, ports, refused, errors, fragments)
