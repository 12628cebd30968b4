"""802.1Q VLANs on one NIC, jumbo frames, and packets in several buffers."""

import struct

from scapy.all import (
    IP, TCP, UDP, Dot1Q, Ether, IPOption, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrHopByHop, PadN, Raw,
    raw,
)

from cases import (
    BROADCAST, CLIENT, CLIENT6, CLIENT_SIDE, DNS, DNS6, OF_DNS, OF_DNS6, OF_WEB, OF_WEB6, PORT0,
    SERVER_MAC, TWO_NICS, VLANS, WEB, WEB6, Case, Flow, Port, Topology,
)
from fragments import in_order, pieces
from icmp_errors import icmp, ip_of
from own_errors import reset, split, time_exceeded, too_big, unreachable

NARROW_VLANS = Topology("narrow-vlans", (Port("outside+inside", 10), PORT0),
                        (Port("outside+inside", 20), PORT0))
TRUNK = Topology("trunk", (Port("outside+inside"), PORT0), (Port("outside+inside", 20), PORT0))
JUMBO = Topology("jumbo", (Port("outside+inside+old", 10), PORT0),
                 (Port("outside+inside+old", 20), PORT0))
OLD = Topology("jumbo", (Port("outside+inside+old", 10), PORT0),
               (Port("outside+inside+old", 30), PORT0))
SMALL = Topology("small-buffers", (Port("outside+inside", 10), PORT0),
                 (Port("outside+inside", 20), PORT0))


def flows(topology):
    for layer4, client, service, server, own in (
        (TCP, CLIENT, WEB, OF_WEB, "10.0.0.1"), (UDP, CLIENT, DNS, OF_DNS, "10.0.0.1"),
        (TCP, CLIENT6, WEB6, OF_WEB6, "fd00::1"), (UDP, CLIENT6, DNS6, OF_DNS6, "fd00::1"),
    ):
        yield Flow(topology, layer4, client, service, server), own


def syn(flow):
    return {"flags": "S"} if flow.layer4 == TCP else {}


def tagged(frame, *tags, outer=0x8100):
    """A frame with these (VLAN, priority) tags, the first one outermost."""
    octets = raw(frame)
    (kind,) = struct.unpack("!H", octets[12:14])
    packet = Raw(octets[14:])
    for vlan, priority in reversed(tags):
        packet = Dot1Q(vlan=vlan, prio=priority, type=kind) / packet
        kind = 0x8100
    old = Ether(octets)
    return Ether(src=old.src, dst=old.dst, type=outer) / packet


def neighbours():
    from generate import advertisement, is_at, solicitation, who_has
    case = Case("vlan_arp_and_nd", "Each VLAN answers for its own addresses, with its tag", VLANS)
    out, inside = VLANS.outside, VLANS.inside
    for target in ("192.0.2.1", "192.0.2.100", "198.51.100.80"):
        case.outside(who_has(target), (out, is_at(PORT0, target)), consumed=1)
        case.inside(who_has(target, "10.0.0.9"), dropped="not_for_us")
    case.inside(who_has("10.0.0.1", "10.0.0.9"), (inside, is_at(PORT0, "10.0.0.1", "10.0.0.9")),
                consumed=1)
    case.outside(who_has("10.0.0.1"), dropped="not_for_us")
    for target in ("2001:db8:1::1", "2001:db8:1::100", "fe80::70:63ff:fe61:7000"):
        case.outside(solicitation(target), (out, advertisement(target, PORT0)), consumed=1)
    case.inside(solicitation("fd00::1", "fd00::9"),
                (inside, advertisement("fd00::1", PORT0, "fd00::9")), consumed=1)
    case.inside(solicitation("2001:db8:1::100", "fd00::9"), dropped="not_for_us")
    case.outside(solicitation("fd00::1"), dropped="not_for_us")

    case = Case("vlan_asks_for_a_server_and_sends_what_waited", "With the tag of the inside", VLANS,
                eal=False)
    from generate import NOBODY, arp
    flow = Flow(VLANS, TCP, CLIENT, ("192.0.2.102", 80), ("10.0.0.20", 8080))
    server = SERVER_MAC["10.0.0.20"]
    first, second = flow.request(flags="S"), flow.request(b"more", flags="A")
    ask = arp(1, (PORT0, "10.0.0.1"), (NOBODY, "10.0.0.20"), PORT0, BROADCAST)
    case.outside(first[0], (inside, ask))
    case.outside(second[0])
    tell = arp(2, (server, "10.0.0.20"), (PORT0, "10.0.0.1"), server, PORT0)
    case.inside(tell, (inside, first[1]), (inside, second[1]), consumed=1)
    case.request(flow.request(b"and more", flags="A"))


def unknown():
    case = Case("vlan_tags_that_nobody_has_are_dropped", "Also two tags, and no tag at all", VLANS)
    wire = Port(VLANS.outside.name)
    flow = Flow(VLANS, UDP, CLIENT, DNS, OF_DNS)
    question = flow.request(b"question")
    bad = [tagged(question[0], (vlan, 0)) for vlan in (0, 1, 9, 11, 30, 4095)]
    bad += [question[0], tagged(question[0], (10, 0), outer=0x88A8),
            tagged(question[0], (10, 0), (20, 0)), tagged(question[0], (10, 0), (10, 0)),
            tagged(question[0], (10, 0), (0, 3)), tagged(question[0], (0, 3), (10, 0)),
            tagged(question[0], (10, 0), (20, 0), outer=0x88A8)]
    for frame in bad:
        case.send(wire, frame, dropped="unknown_vlan")
    case.request(question)
    for priority in range(8):
        case.send(wire, tagged(question[0], (10, priority)), (VLANS.inside, question[1]))
    # What is behind a good tag may be anything.
    for ether_type in (0x88CC, 0x05FF, 0x0000):
        case.outside(Ether(src=CLIENT_SIDE, dst=PORT0, type=ether_type) / Raw(b"x" * 46),
                     dropped="unknown_ether_type")
    whole = raw(tagged(question[0], (10, 0)))
    for length in range(len(whole)):
        case.send(wire, whole[:length], dropped="truncated")

    case = Case("vlan_tags_where_there_are_no_vlans", "VLAN 0 only states a priority", TWO_NICS)
    flow = Flow(TWO_NICS, UDP, CLIENT, DNS, OF_DNS)
    question = flow.request(b"question")
    for priority in (0, 5, 7):
        case.outside(tagged(question[0], (0, priority)), ("inside", question[1]))
    frame = flow.request(hops=1)[0]
    case.outside(tagged(frame, (0, 6)), ("outside", time_exceeded(frame, DNS[0])),
                 dropped="ttl_expired")
    for tags in ([(10, 0)], [(4095, 0)], [(0, 0), (0, 0)], [(0, 0), (10, 0)]):
        case.outside(tagged(question[0], *tags), dropped="unknown_vlan")
    case.outside(tagged(question[0], (0, 0), outer=0x88A8), dropped="unknown_vlan")

    case = Case("vlan_beside_frames_without_tags", "Clients without a tag, servers with one", TRUNK,
                any_order=False)
    for flow, own in flows(TRUNK):
        case.request(flow.request(**syn(flow)))
        case.reply(flow.reply(b"answer"))
        come, leave = flow.request(b"with a priority")
        case.outside(tagged(come, (0, 5)), (TRUNK.inside, leave))
        frame = flow.request(hops=1)[0]
        case.outside(tagged(frame, (0, 5)), (TRUNK.outside, time_exceeded(frame, flow.service[0])),
                     dropped="ttl_expired")
        frame = flow.reply(hops=1)[0]
        case.inside(frame, (TRUNK.inside, time_exceeded(frame, own)), dropped="ttl_expired")
        case.send(TRUNK.outside, tagged(come, (10, 0)), dropped="unknown_vlan")


def echo():
    from generate import ping4, ping6, pong4, pong6
    case = Case("vlan_ping", "Own addresses and VIPs answer on the VLAN that asks", VLANS)
    for target in ("192.0.2.1", "192.0.2.100", "10.0.0.1"):
        case.outside(ping4(target), (VLANS.outside, pong4(target)), consumed=1)
        case.inside(ping4(target, "10.0.0.9"), (VLANS.inside, pong4(target, "10.0.0.9")), consumed=1)
    for target in ("2001:db8:1::1", "2001:db8:1::100", "fd00::1"):
        case.outside(ping6(target), (VLANS.outside, pong6(target)), consumed=1)
        case.inside(ping6(target, "fd00::9"), (VLANS.inside, pong6(target, "fd00::9")), consumed=1)


def errors():
    case = Case("vlan_own_errors", "Expired, too big, closed: answered on the VLAN that they came by",
                NARROW_VLANS)
    out, inside = NARROW_VLANS.outside, NARROW_VLANS.inside
    for flow, own in flows(NARROW_VLANS):
        ip = {} if flow.v6 else {"ip": {"flags": "DF", "id": 7}}
        headers = (40 if flow.v6 else 20) + (20 if flow.layer4 == TCP else 8)
        case.request(flow.request(**syn(flow), **ip))
        frame = flow.request(hops=1)[0]
        case.outside(frame, (out, time_exceeded(frame, flow.service[0])), dropped="ttl_expired")
        frame = flow.reply(hops=1)[0]
        case.inside(frame, (inside, time_exceeded(frame, own)), dropped="ttl_expired")
        case.request(flow.request(b"r" * (1280 - headers), **ip))
        case.reply(flow.reply(b"r" * (1400 - headers), **ip))
        frame = flow.request(b"r" * (1281 - headers), **ip)[0]
        case.outside(frame, (out, too_big(frame, flow.service[0], 1280)), dropped="mtu_exceeded")
        frame = flow.reply(b"r" * (1401 - headers), **ip)[0]
        case.inside(frame, (inside, too_big(frame, own, 1400)), dropped="mtu_exceeded")
        # From another port: what waits for a neighbour may be overtaken.
        client = (flow.client[0], 20001)
        closed = Flow(NARROW_VLANS, flow.layer4, client, (flow.service[0], 81), flow.server)
        frame = closed.request(b"hello", **syn(flow))[0]
        answer = reset(frame) if flow.layer4 == TCP else unreachable(frame)
        case.outside(frame, (out, answer), dropped="no_service")

    case = Case("vlan_icmp_errors", "About requests and replies, from both VLANs", VLANS,
                any_order=False)
    for flow, _ in flows(VLANS):
        case.request(flow.request(**syn(flow)))
        kind, code = (1, 3) if flow.v6 else (3, 1)
        router = ("2001:db8:ffff::9", "fd00::9") if flow.v6 else ("198.18.0.9", "10.0.0.9")
        server = SERVER_MAC[flow.server[0]]
        reply, request = flow.reply(b"a reply", hops=40), flow.request(b"a request", hops=40)
        asked, answered = flow.reply(b"a reply", hops=39), flow.request(b"a request", hops=39)
        case.outside(
            icmp((CLIENT_SIDE, PORT0), (router[0], flow.service[0]), kind, code, bytes(4),
                 ip_of(reply[1])),
            (VLANS.inside, icmp((PORT0, server), (router[0], flow.server[0]), kind, code, bytes(4),
                                ip_of(asked[0]), hops=59)))
        case.inside(
            icmp((server, PORT0), (router[1], flow.client[0]), kind, code, bytes(4),
                 ip_of(request[1])),
            (VLANS.outside, icmp((PORT0, CLIENT_SIDE), (flow.service[0], flow.client[0]), kind, code,
                                 bytes(4), ip_of(answered[0]), hops=59)))


def carried():
    case = Case("vlan_fragments_and_options", "Fragments in any order; options; extension headers",
                VLANS, any_order=False)
    for flow, _ in flows(VLANS):
        if flow.layer4 == TCP:
            continue
        body = bytes(i * 7 % 251 for i in range(4000))
        for ident, arrange in enumerate((list, lambda o: o[::-1], lambda o: o[1:] + o[:1])):
            for make, send, to in ((flow.request, case.outside, VLANS.inside),
                                   (flow.reply, case.inside, VLANS.outside)):
                order = list(enumerate(pieces(make(body), 77 + ident, 1448)))
                in_order(case, send, to, arrange(order))
        if flow.v6:
            chain = [IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0" * 4)]),
                     IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 12)])]
            case.request(flow.request(b"question", chain=chain))
            case.reply(flow.reply(b"answer", chain=chain))
        else:
            ip = {"options": [IPOption(b"\x94\x04\x00\x00")], "tos": 0xB9}
            case.request(flow.request(b"question", ip=ip))
            case.reply(flow.reply(b"answer", ip=ip))
    link = Ether(src=CLIENT_SIDE, dst=PORT0)
    for protocol in (47, 50, 136):
        packet = link / IP(src="198.18.7.7", dst="192.0.2.100", proto=protocol)
        case.outside(packet / Raw(b"x" * 20), dropped="unknown_protocol")
        packet = link / IPv6(src="2001:db8:ffff::7", dst="2001:db8:1::100", nh=protocol)
        case.outside(packet / Raw(b"x" * 20), dropped="unknown_protocol")

    case = Case("vlan_packets_are_split", "Every piece has the tag", NARROW_VLANS)
    flow = Flow(NARROW_VLANS, UDP, CLIENT, DNS, OF_DNS)
    for length in (1253, 1300, 1472):
        frame, expected = flow.request(b"q" * length, ip={"id": 0xBEEF})
        parts = split(expected, 1280)
        assert len(parts) == 2
        case.outside(frame, *[(NARROW_VLANS.inside, part) for part in parts], consumed=1)


def jumbo():
    case = Case("jumbo_frames", "9000 octets both ways", JUMBO)
    for flow, _ in flows(JUMBO):
        ip = {} if flow.v6 else {"ip": {"flags": "DF", "id": 7}}
        headers = (40 if flow.v6 else 20) + (20 if flow.layer4 == TCP else 8)
        case.request(flow.request(**syn(flow), **ip))
        for length in (1501, 4097, 8999, 9000):
            case.request(flow.request(b"j" * (length - headers), **ip))
            case.reply(flow.reply(b"J" * (length - headers), **ip))

    case = Case("jumbo_frames_to_a_smaller_link", "Answered or split, as they say", OLD)
    for layer4, client, service, server in (
        (TCP, CLIENT, ("192.0.2.110", 80), ("10.0.1.11", 8080)),
        (UDP, CLIENT, ("192.0.2.110", 53), ("10.0.1.11", 5353)),
        (TCP, CLIENT6, ("2001:db8:1::110", 80), ("fd00:1::11", 8080)),
        (UDP, CLIENT6, ("2001:db8:1::110", 53), ("fd00:1::11", 5353)),
    ):
        flow = Flow(OLD, layer4, client, service, server)
        ip = {} if flow.v6 else {"ip": {"flags": "DF", "id": 7}}
        headers = (40 if flow.v6 else 20) + (20 if layer4 == TCP else 8)
        case.request(flow.request(**syn(flow), **ip))
        case.request(flow.request(b"j" * (1500 - headers), **ip))
        case.reply(flow.reply(b"J" * (1500 - headers), **ip))
        for length in (1501, 9000):
            frame = flow.request(b"j" * (length - headers), **ip)[0]
            case.outside(frame, (OLD.outside, too_big(frame, service[0], 1500)),
                         dropped="mtu_exceeded")
        if not flow.v6:
            body = bytes(i * 7 % 251 for i in range(9000 - headers))
            frame, expected = flow.request(body, ip={"id": 0xBEEF})
            parts = split(expected, 1500)
            assert len(parts) == 7
            case.outside(frame, *[(OLD.inside, part) for part in parts], consumed=1)


def small_buffers():
    """net_pcap puts what does not fit a buffer of 640 octets into several."""
    case = Case("packets_in_several_buffers", "Split, or refused with a right quote", SMALL)
    body = bytes(i * 7 % 251 for i in range(1472))
    for layer4, service, server in ((TCP, WEB, OF_WEB), (UDP, DNS, OF_DNS)):
        flow = Flow(SMALL, layer4, CLIENT, service, server)
        headers = 20 + (20 if layer4 == TCP else 8)
        case.request(flow.request(**syn(flow)))
        for length in (620, 640, 641, 1200, 1500):
            for make, send, to in ((flow.request, case.outside, SMALL.inside),
                                   (flow.reply, case.inside, SMALL.outside)):
                frame, expected = make(body[:length - headers], ip={"id": 0xBEEF})
                parts = split(expected, 576)
                send(frame, *[(to, part) for part in parts], consumed=1)
            frame = flow.request(body[:length - headers], ip={"flags": "DF"})[0]
            case.outside(frame, (SMALL.outside, too_big(frame, service[0], 576)),
                         dropped="mtu_exceeded")
            frame = flow.request(body[:length - headers], hops=1)[0]
            case.outside(frame, (SMALL.outside, time_exceeded(frame, service[0])),
                         dropped="ttl_expired")


ALL = (neighbours, unknown, echo, errors, carried, jumbo, small_buffers)
