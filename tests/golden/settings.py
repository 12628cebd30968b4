"""Settings that are not the defaults: routing, resets, answers, segment sizes, one packet. And
the sides that packets may come from."""

from scapy.all import (
    GRE, ICMP, IP, TCP, UDP, Ether, ICMPv6EchoReply, ICMPv6EchoRequest, IPOption, IPv6,
    IPv6ExtHdrDestOpt, PadN, Raw, raw,
)

from cases import (
    CLIENT, CLIENT6, CLIENT_SIDE, DNS, DNS6, OF_DNS, OF_DNS6, OF_WEB, OF_WEB6, ONE_NIC, PORT0,
    PORT1, SERVER_MAC, TWO_NICS, WEB, WEB6, Case, Flow, Topology,
)
from fragments import pieces
from icmp_errors import from_inside, from_outside, icmp, ip_of
from own_errors import reset, split, time_exceeded, too_big, unreachable

ROUTING = Topology("routing", ("outside", PORT0), ("inside", PORT1))
SETTINGS = Topology("settings", ("outside", PORT0), ("inside", PORT1))
SILENT = Topology("silent", ("outside", PORT0), ("inside", PORT1))

# What leads out of each side: the side, its own address there, the Ethernet addresses.
WAYS = {
    "ipv4": ((CLIENT[0], "10.0.0.11", "192.0.2.1", "10.0.0.1")),
    "ipv6": ((CLIENT6[0], "fd00::11", "2001:db8:1::1", "fd00::1")),
}


def routed(family, body, hops=64, inwards=True, **fields):
    """A packet as it comes in, and as a router passes it on."""
    out, inner, _, _ = WAYS[family]
    mac = SERVER_MAC[inner]
    source, destination = (out, inner) if inwards else (inner, out)
    come = (CLIENT_SIDE, PORT0) if inwards else (mac, PORT1)
    leave = (PORT1, mac) if inwards else (PORT0, CLIENT_SIDE)
    both = []
    for link, ttl in ((come, hops), (leave, hops - 1)):
        if family == "ipv6":
            ip = IPv6(src=source, dst=destination, hlim=ttl, **fields)
        else:
            ip = IP(src=source, dst=destination, ttl=ttl, **fields)
        both.append(Ether(raw(Ether(src=link[0], dst=link[1]) / ip / body)))
    return tuple(both)


def bodies(family):
    yield TCP(sport=1, dport=2, flags="S") / Raw(b"tcp")
    yield TCP(sport=1, dport=2, flags="A") / Raw(b"tcp")
    yield UDP(sport=1, dport=2) / Raw(b"udp!!")
    if family == "ipv6":
        yield ICMPv6EchoRequest(id=7, data=b"ask")
        yield ICMPv6EchoReply(id=7, data=b"answer")
    else:
        yield ICMP(type=8, id=7) / Raw(b"ask")
        yield ICMP(type=0, id=7) / Raw(b"answer")
    yield GRE() / Raw(b"something within")


def routing():
    case = Case("routing_passes_everything", "TCP, UDP, echo, GRE, both ways, untranslated", ROUTING,
                eal=False)
    for family, (_, _, outer, inner) in WAYS.items():
        for inwards in (True, False):
            send, to = (case.outside, "inside") if inwards else (case.inside, "outside")
            at = "outside" if inwards else "inside"
            for body in bodies(family):
                for hops in (64, 2):
                    frame, expected = routed(family, body, hops, inwards)
                    send(frame, (to, expected))
                frame = routed(family, body, 1, inwards)[0]
                send(frame, (at, time_exceeded(frame, outer if inwards else inner)),
                     dropped="ttl_expired")
    frame, expected = routed("ipv4", UDP(sport=1, dport=2), options=[IPOption(b"\x94\x04\x00\x00")])
    case.outside(frame, ("inside", expected))
    chain = IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 4)]) / UDP(sport=1, dport=2)
    frame, expected = routed("ipv6", chain)
    case.outside(frame, ("inside", expected))

    case = Case("routing_passes_errors", "About nothing that the director knows", ROUTING, eal=False)
    for family in WAYS:
        for inwards in (True, False):
            send, to = (case.outside, "inside") if inwards else (case.inside, "outside")
            at = "outside" if inwards else "inside"
            quoted = routed(family, UDP(sport=1, dport=2) / Raw(b"12345678"), inwards=not inwards)[1]
            out, inside, outer, inner = WAYS[family]
            ends = (out, inside) if inwards else (inside, out)
            mac = SERVER_MAC[inside]
            links = ((CLIENT_SIDE, PORT0), (PORT1, mac)) if inwards else (
                (mac, PORT1), (PORT0, CLIENT_SIDE))
            kind = (1, 4) if family == "ipv6" else (3, 3)
            frame, expected = (icmp(link, ends, *kind, bytes(4), ip_of(quoted), hops=hops)
                               for link, hops in zip(links, (64, 63)))
            send(frame, (to, expected))
            # No error about an error.
            send(icmp(links[0], ends, *kind, bytes(4), ip_of(quoted), hops=1), dropped="ttl_expired")

    case = Case("routing_fragments", "In order and not, of every protocol", ROUTING, eal=False)
    for family in WAYS:
        ident = 0
        for inwards in (True, False):
            send, to = (case.outside, "inside") if inwards else (case.inside, "outside")
            for body in bodies(family):
                ident += 1
                pair = routed(family, body / Raw(b"f" * 200), inwards=inwards)
                [first, *later] = pieces(pair, ident, 64)
                send(first[0], (to, first[1]))
                for frame, expected in later:
                    send(frame, (to, expected))
                ident += 1
                [first, second, *later] = pieces(pair, ident, 64)
                send(second[0])
                send(first[0], (to, first[1]), (to, second[1]))
                for frame, expected in later:
                    send(frame, (to, expected))

    case = Case("routing_too_big", "Answered with the MTU of the next link, or split", ROUTING,
                eal=False)
    for family, (_, _, outer, inner) in WAYS.items():
        header = 40 if family == "ipv6" else 20
        for inwards, mtu in ((True, 1280), (False, 1400)):
            send, to = (case.outside, "inside") if inwards else (case.inside, "outside")
            at, own = ("outside", outer) if inwards else ("inside", inner)
            df = {} if family == "ipv6" else {"flags": "DF", "id": 7}
            for body in (UDP(sport=1, dport=2), TCP(sport=1, dport=2, flags="A"), GRE()):
                fill = mtu - header - len(body)
                frame, expected = routed(family, body / Raw(b"r" * fill), inwards=inwards, **df)
                send(frame, (to, expected))
                frame = routed(family, body / Raw(b"r" * (fill + 1)), inwards=inwards, **df)[0]
                send(frame, (at, too_big(frame, own, mtu)), dropped="mtu_exceeded")
                if family == "ipv4":
                    frame, expected = routed(family, body / Raw(b"s" * (fill + 9)), inwards=inwards,
                                             id=0xBEEF)
                    send(frame, *[(to, piece) for piece in split(expected, mtu)], consumed=1)

    case = Case("routing_is_not_for_own_addresses", "Nor from them, nor past the services", ROUTING,
                eal=False)
    for client, service, server, own, mine in (
        (CLIENT, WEB, ("10.0.0.11", 8080), "192.0.2.1", "10.0.0.1"),
        (CLIENT6, WEB6, OF_WEB6, "2001:db8:1::1", "fd00::1"),
    ):
        web = Flow(ROUTING, TCP, client, service, server)
        case.request(web.request(flags="S"))
        case.reply(web.reply(flags="SA"))
        for address in (own, mine, service[0]):
            frame = Flow(ROUTING, TCP, client, (address, 81), server).request(flags="S")[0]
            case.outside(frame, ("outside", reset(frame)), dropped="no_service")
            frame = Flow(ROUTING, UDP, client, (address, 81), server).request(b"u")[0]
            case.outside(frame, ("outside", unreachable(frame)), dropped="no_service")
            frame = Flow(ROUTING, UDP, (address, 80), (server[0], 81), server).request(b"u")[0]
            case.outside(frame, dropped="martian")
        # Nowhere to go, from the wrong side, a host that nobody knows the way to.
        v6 = ":" in client[0]
        for to in (("2001:db8:9::1", 1) if v6 else ("203.0.113.9", 1),):
            frame = Flow(ROUTING, UDP, client, to, server).request(b"u")[0]
            case.outside(frame, dropped="no_route")
        spoofed = Flow(ROUTING, UDP, ("fd00::12" if v6 else "10.0.0.12", 1), (server[0], 2), server)
        case.outside(spoofed.request(b"u")[0], dropped="wrong_side")

    case = Case("routing_leaves_link_local_addresses_on_their_link", "RFC 4291 section 2.5.6, RFC 3927 section 2.7; and groups",
                ROUTING, eal=False)
    for source, destination in (("fe80::9", "fd00::11"), (CLIENT6[0], "fe80::11")):
        ip = IPv6(src=source, dst=destination)
        for body in (UDP(sport=1, dport=2), TCP(flags="S"), GRE()):
            frame = Ether(src=CLIENT_SIDE, dst=PORT0) / ip / body
            case.outside(frame, dropped="not_owned")
    # 169.254/16 as a source lies where its interface says; groups are no host's.
    for source, destination in (("198.18.7.7", "169.254.9.9"), ("198.18.7.7", "224.0.0.251"),
                                ("10.0.0.11", "239.1.1.1")):
        inside = source.startswith("10.")
        ip = IP(src=source, dst=destination)
        for body in (UDP(sport=1, dport=2), TCP(flags="S"), GRE()):
            link = Ether(src=SERVER_MAC["10.0.0.11"] if inside else CLIENT_SIDE,
                         dst=PORT1 if inside else PORT0)
            send = case.inside if inside else case.outside
            send(link / ip / body, dropped="not_owned")


def no_routing():
    case = Case("without_routing_nothing_passes_by_itself", "The default", TWO_NICS)
    for family in WAYS:
        for inwards in (True, False):
            send = case.outside if inwards else case.inside
            for body in bodies(family):
                frame = routed(family, body, inwards=inwards)[0]
                reason = "unknown_protocol" if GRE in frame else "not_owned"
                # Neighbor Discovery has a look at it first.
                send(frame, dropped="icmp_unsupported" if ICMPv6EchoReply in frame else reason)


def resets():
    case = Case("segments_of_no_connection_are_reset", "non_syn = reset, RFC 9293 section 3.10.7.1",
                SETTINGS, eal=False)
    for client, service, server in ((CLIENT, WEB, OF_WEB), (CLIENT6, WEB6, OF_WEB6)):
        web = Flow(SETTINGS, TCP, client, service, server)
        for flags in ("A", "SA", "F", "FA", "PA", "", "FPU", "SAF"):
            for payload in (b"", b"hello"):
                for hops in (64, 1):
                    frame = web.request(payload, flags=flags, seq=0xFFFFFFFE, ack=77, hops=hops)[0]
                    case.outside(frame, ("outside", reset(frame)), dropped="no_connection")
        for flags in ("R", "RA", "SR"):
            case.outside(web.request(flags=flags)[0], dropped="no_connection")
        case.request(web.request(flags="S"))
        case.request(web.request(flags="A"))
        # From inside nobody is told.
        other = Flow(SETTINGS, TCP, (client[0], 20001), service, server)
        case.inside(other.reply(flags="A")[0], dropped="not_owned")
    strict = Flow(SETTINGS, TCP, CLIENT, ("192.0.2.101", 80), OF_WEB)
    case.outside(strict.request(flags="A")[0], dropped="no_connection")

    case = Case("closed_ports_unreachable", "ICMP for TCP too", SETTINGS, eal=False)
    silent = Case("closed_ports_drop", "No answer at all", SILENT, eal=False)
    for client, own in ((CLIENT, ("192.0.2.100", "192.0.2.1")),
                        (CLIENT6, ("2001:db8:1::100", "2001:db8:1::1"))):
        for layer4 in (TCP, UDP):
            for address in own:
                fields = {"flags": "S"} if layer4 == TCP else {}
                flow = Flow(SETTINGS, layer4, client, (address, 81),
                            OF_WEB6 if ":" in address else OF_WEB)
                frame = flow.request(b"x", **fields)[0]
                case.outside(frame, ("outside", unreachable(frame)), dropped="no_service")
                silent.outside(frame, dropped="no_service")
        flow = Flow(SETTINGS, TCP, client, (own[0], 81), OF_WEB6 if ":" in own[0] else OF_WEB)
        for closed in (case, silent):
            closed.outside(flow.request(flags="RA")[0], dropped="no_service")
        # What else is answered still is.
        service, server = (WEB6, OF_WEB6) if ":" in client[0] else (WEB, OF_WEB)
        frame = Flow(SILENT, TCP, client, service, server).request(flags="S", hops=1)[0]
        silent.outside(frame, ("outside", time_exceeded(frame, service[0])), dropped="ttl_expired")


PLACES = (
    lambda mss: [("MSS", mss)],
    lambda mss: [("NOP", None), ("MSS", mss)],
    lambda mss: [("NOP", None), ("NOP", None), ("MSS", mss), ("SAckOK", b"")],
    lambda mss: [("WScale", 7), ("MSS", mss), ("Timestamp", (17, 0))],
    lambda mss: [("Timestamp", (17, 0)), ("NOP", None), ("MSS", mss), ("EOL", None)],
)
WITHOUT = ([], [("SAckOK", b""), ("WScale", 7)], [("EOL", None), ("NOP", None)])


def segment_sizes():
    for topology, limits in ((SETTINGS, (1360, 1340)), (SILENT, (1000, 1000))):
        case = Case(f"mss_clamp_{topology.name}", "SYN and SYN+ACK, both ways, wherever the option is",
                    topology, eal=False)
        ends = ((CLIENT, WEB, OF_WEB), (CLIENT6, WEB6, OF_WEB6))
        for (client, service, server), limit in zip(ends, limits):
            flow = Flow(topology, TCP, client, service, server)
            both = ((flow.request, case.request, "S"), (flow.reply, case.reply, "SA"))
            for options in PLACES:
                for announced in (1460, 8960, 65535, limit + 1, limit, limit - 1, 536, 0):
                    for make, send, flags in both:
                        send((make(flags=flags, options=options(announced))[0],
                              make(flags=flags, options=options(min(limit, announced)))[1]))
            for options in WITHOUT:
                for make, send, flags in both:
                    send(make(flags=flags, options=options))
            # Only a SYN announces.
            case.request(flow.request(b"data", flags="A", options=[("MSS", 1460)]))
            # Data with the SYN stays as it is.
            case.request((flow.request(b"odd", flags="S", options=[("MSS", 9000)])[0],
                          flow.request(b"odd", flags="S", options=[("MSS", limit)])[1]))


def one_packet():
    case = Case("one_packet", "Each datagram to the next server; replies are the service's", SETTINGS,
                eal=False)
    for client, service, servers in (
        (CLIENT, DNS, (("10.0.0.12", 5353), ("10.0.0.11", 5353))),
        (CLIENT6, DNS6, (("fd00::12", 5353), ("fd00::11", 5353))),
    ):
        flows = [Flow(SETTINGS, UDP, client, service, server) for server in servers]
        for turn in range(6):
            flow = flows[turn % 2]
            case.request(flow.request(b"question %d" % turn))
            # Late, of either server.
            for late in flows:
                case.reply(late.reply(b"answer!"))
        if not flows[0].v6:
            case.request(flows[0].request(b"no checksum", chksum=0))
            case.reply(flows[0].reply(b"no checksum", chksum=0))
            case.request(flows[1].request(b"x"))
        # TTL, both ways.
        frame = flows[0].request(b"x", hops=1)[0]
        case.outside(frame, ("outside", time_exceeded(frame, service[0])), dropped="ttl_expired")
        frame, own = flows[0].reply(b"x", hops=1)[0], "fd00::1" if flows[0].v6 else "10.0.0.1"
        case.inside(frame, ("inside", time_exceeded(frame, own)), dropped="ttl_expired")
        # From another port it is nobody's reply.
        other = Flow(SETTINGS, UDP, client, service, (servers[0][0], 5354))
        case.inside(other.reply(b"x")[0], dropped="not_owned")
        # An error about a datagram whose connection was not kept.
        case.outside(from_outside(flows[0], *((1, 4) if flows[0].v6 else (3, 3)))[0],
                     dropped="icmp_unrelated")

    case = Case("one_packet_fragments", "The datagram goes whole, to one server", SETTINGS, eal=False)
    for client, service, servers in (
        (CLIENT, DNS, (("10.0.0.12", 5353), ("10.0.0.11", 5353))),
        (CLIENT6, DNS6, (("fd00::12", 5353), ("fd00::11", 5353))),
    ):
        for turn in range(4):
            flow = Flow(SETTINGS, UDP, client, service, servers[turn % 2])
            for make, send, to in ((flow.request, case.outside, "inside"),
                                   (flow.reply, case.inside, "outside")):
                first, second, *later = pieces(make(b"f" * 3000), 30 + turn, 1232)
                if turn < 2:
                    send(first[0], (to, first[1]))
                    send(second[0], (to, second[1]))
                else:
                    send(second[0])
                    send(first[0], (to, first[1]), (to, second[1]))
                for frame, expected in later:
                    send(frame, (to, expected))


def sides():
    case = Case("wrong_side", "Packets that come by the interface that does not lead to their source",
                TWO_NICS)
    for layer4, client, service, server in (
        (TCP, CLIENT, WEB, OF_WEB), (UDP, CLIENT, DNS, OF_DNS),
        (TCP, CLIENT6, WEB6, OF_WEB6), (UDP, CLIENT6, DNS6, OF_DNS6),
    ):
        flow = Flow(TWO_NICS, layer4, client, service, server)
        syn = {"flags": "S"} if layer4 == TCP else {}
        ack = {"flags": "A"} if layer4 == TCP else {}
        # From outside with a source that is inside; from inside with one that is outside.
        neighbour = ("fd00::12", 9) if flow.v6 else ("10.0.0.11", 9)
        spoofed = Flow(TWO_NICS, layer4, neighbour, service, server)
        case.outside(spoofed.request(**syn)[0], dropped="wrong_side")
        frame = from_other_side(flow.request(**syn)[0])
        case.inside(frame, dropped="wrong_side")
        # Of a live connection.
        case.request(flow.request(**syn))
        case.inside(from_other_side(flow.request(**ack)[0]), dropped="wrong_side")
        case.outside(from_other_side(flow.reply(**ack)[0]), dropped="wrong_side")
        for frame, _ in pieces(flow.request(b"f" * 100, **ack), 3, 64):
            case.inside(from_other_side(frame), dropped="wrong_side")
        for frame, _ in pieces(flow.reply(b"f" * 100, **ack), 4, 64):
            case.outside(from_other_side(frame), dropped="wrong_side")
        # Nor is its TTL told to whoever pretends to be the client.
        case.inside(from_other_side(flow.request(hops=1, **ack)[0]), dropped="wrong_side")
        # Errors about it.
        kind = 1 if flow.v6 else 3
        case.inside(from_other_side(from_outside(flow, kind, 1)[0]), dropped="wrong_side")
        case.outside(from_other_side(from_inside(flow, kind, 1)[0]), dropped="wrong_side")
        case.outside(from_outside(flow, kind, 1, router=neighbour[0])[0], dropped="wrong_side")
        # It lives.
        case.reply(flow.reply(**ack))
        case.request(flow.request(**ack))

    case = Case("wrong_side_syn_ends_no_connection", "A SYN that would begin anew from the right side",
                TWO_NICS)
    for client, service, server in ((CLIENT, WEB, OF_WEB), (CLIENT6, WEB6, OF_WEB6)):
        flow = Flow(TWO_NICS, TCP, client, service, server)
        case.request(flow.request(flags="S"))
        case.reply(flow.reply(flags="SA"))
        case.request(flow.request(flags="A"))
        case.request(flow.request(flags="R"))
        case.inside(from_other_side(flow.request(flags="S")[0]), dropped="wrong_side")
        case.reply(flow.reply(flags="A"))

    case = Case("wrong_side_fragments_spoil_no_datagram", "Of a connection, routed, of one packet",
                ROUTING, eal=False)
    for client, server in ((CLIENT, ("10.0.0.11", 8080)), (CLIENT6, OF_WEB6)):
        flow = Flow(ROUTING, TCP, client, WEB6 if ":" in client[0] else WEB, server)
        case.request(flow.request(flags="S"))
        for ident, make, right, wrong, to in ((1, flow.request, case.outside, case.inside, "inside"),
                                              (2, flow.reply, case.inside, case.outside, "outside")):
            both = pieces(make(b"f" * 150, flags="A"), ident, 64)
            for frame, _ in both[1:] + both[:1]:
                wrong(from_other_side(frame), dropped="wrong_side")
            for frame, expected in both:
                right(frame, (to, expected))
                wrong(from_other_side(frame), dropped="wrong_side")
    for family in WAYS:
        for ident, inwards in ((3, True), (4, False)):
            right, wrong, to = (case.outside, case.inside, "inside") if inwards else (
                case.inside, case.outside, "outside")
            for frame, expected in pieces(routed(family, UDP(sport=1, dport=2) / Raw(b"f" * 150),
                                                 inwards=inwards), ident, 64):
                wrong(from_other_side(frame), dropped="wrong_side")
                right(frame, (to, expected))

    case = Case("one_nic_has_no_wrong_side", "What comes and goes by one interface", ONE_NIC,
                any_order=False)
    for client, service, server in ((CLIENT, WEB, OF_WEB), (CLIENT6, WEB6, OF_WEB6)):
        flow = Flow(ONE_NIC, TCP, client, service, server)
        case.request(flow.request(flags="S"))
        case.reply(flow.reply(flags="SA"))
        frame, expected = from_inside(flow, 1 if flow.v6 else 3, 1)
        frame[Ether].dst, expected[Ether].src = PORT0, PORT0
        case.inside(frame, ("lan", expected))


def from_other_side(frame):
    """The same packet by the other interface."""
    frame = Ether(raw(frame))
    if frame.dst == PORT0:
        frame.src, frame.dst = SERVER_MAC["10.0.0.12"], PORT1
    else:
        frame.src, frame.dst = CLIENT_SIDE, PORT0
    return frame


ALL = (routing, no_routing, resets, segment_sizes, one_packet, sides)
