"""Fragments: translated one by one."""

import random

from scapy.all import (
    ICMP, IP, TCP, UDP, Ether, ICMPv6EchoReply, ICMPv6EchoRequest, IPv6, IPv6ExtHdrFragment, Raw,
    raw,
)

from cases import (
    CLIENT, CLIENT6, CLIENT_SIDE, DNS, DNS6, OF_DNS, OF_DNS6, OF_WEB, OF_WEB6, PORT0, TWO_NICS,
    WEB, WEB6, Case, Flow,
)
from own_errors import NARROW, split, time_exceeded, too_big


def piece(frame, ident, offset, part, more):
    """A fragment of a frame without options or extension headers."""
    frame = Ether(raw(frame))
    ether = Ether(src=frame.src, dst=frame.dst)
    if IPv6 in frame:
        ip = frame[IPv6]
        head = IPv6(src=ip.src, dst=ip.dst, hlim=ip.hlim, tc=ip.tc, fl=ip.fl) / IPv6ExtHdrFragment(
            nh=ip.nh, offset=offset // 8, m=int(more), id=ident)
    else:
        ip = frame[IP]
        head = IP(src=ip.src, dst=ip.dst, ttl=ip.ttl, tos=ip.tos, proto=ip.proto, id=ident,
                  frag=offset // 8, flags="MF" if more else 0)
    return ether / head / Raw(part)


def payload_of(frame):
    frame = Ether(raw(frame))
    return raw(frame)[54:] if IPv6 in frame else raw(frame)[34:]


def pieces(pair, ident, size):
    """The fragments of a packet as they come in and as they must leave."""
    both = []
    for frame in pair:
        payload = payload_of(frame)
        both.append([
            piece(frame, ident, at, payload[at:at + size], at + size < len(payload))
            for at in range(0, len(payload), size)
        ])
    return list(zip(*both))


def udp_flows():
    yield "ipv4", Flow(TWO_NICS, UDP, CLIENT, DNS, OF_DNS)
    yield "ipv6", Flow(TWO_NICS, UDP, CLIENT6, DNS6, OF_DNS6)


def in_order(case, send, to, order):
    """Fragments of one datagram, in some order: from the first one on they pass."""
    seen_first, waiting = False, []
    for number, (frame, expected) in order:
        if number == 0:
            seen_first = True
            send(frame, (to, expected), *[(to, later) for later in waiting])
        elif seen_first:
            send(frame, (to, expected))
        else:
            waiting.append(expected)
            send(frame)


def both_ways(case, flow, ident, size, length, arrange):
    body = bytes(i * 7 % 251 for i in range(length))
    for make, send, to in ((flow.request, case.outside, "inside"), (flow.reply, case.inside, "outside")):
        order = list(enumerate(pieces(make(body), ident, size)))
        in_order(case, send, to, arrange(order))


def orders():
    for family, flow in udp_flows():
        case = Case(f"fragments_{family}_in_any_order", "Two, three and eight of them, each order")
        for ident, (size, length) in enumerate(((8, 4), (64, 100), (1448, 3000), (1448, 10000))):
            for turn, arrange in enumerate((list, lambda o: o[::-1], lambda o: o[1:] + o[:1],
                                            lambda o: o[::2] + o[1::2], lambda o: o[1::2] + o[::2])):
                both_ways(case, flow, 1000 + ident * 10 + turn, size, length, arrange)

        case = Case(f"fragments_{family}_of_60_kB_in_random_order", "41 and more pieces, both ways")
        shuffle = random.Random(family)
        both_ways(case, flow, 60000, 1448 if flow.v6 else 1480, 60000, lambda o: shuffle.sample(o, len(o)))
        both_ways(case, flow, 60001, 1232, 60000, lambda o: shuffle.sample(o, len(o)))
        # Every second one is the worst case for what has come.
        both_ways(case, flow, 60002, 1232, 60000, lambda o: o[1::2] + o[::2])
        both_ways(case, flow, 60003, 1232, 65500 - 8, lambda o: o[::2] + o[1::2])

        case = Case(f"fragments_{family}_identification_used_again", "A new datagram after a whole one")
        for _ in range(3):
            both_ways(case, flow, 77, 64, 200, list)
            both_ways(case, flow, 77, 64, 200, lambda o: o[::-1])

    case = Case("fragments_of_tcp", "Segments in pieces; the first opens the connection")
    for client, service, server in ((CLIENT, WEB, OF_WEB), (CLIENT6, WEB6, OF_WEB6)):
        flow = Flow(TWO_NICS, TCP, client, service, server)
        in_order(case, case.outside, "inside",
                 enumerate(pieces(flow.request(b"fast open", flags="S"), 5, 24)))
        in_order(case, case.inside, "outside",
                 enumerate(pieces(flow.reply(b"x" * 99, flags="SA"), 6, 40)))

    case = Case("atomic_fragments", "RFC 6946: a fragment header on a whole packet")
    flow = Flow(TWO_NICS, UDP, CLIENT6, DNS6, OF_DNS6)
    waiting = pieces(flow.request(b"w" * 100), 9, 64)
    case.outside(waiting[1][0])
    for _ in range(3):
        for make, send, to in ((flow.request, case.outside, "inside"), (flow.reply, case.inside, "outside")):
            [(frame, expected)] = pieces(make(b"atom"), 9, 64)
            send(frame, (to, expected))
    case.outside(waiting[0][0], ("inside", waiting[0][1]), ("inside", waiting[1][1]))


def wrong():
    for family, flow in udp_flows():
        case = Case(f"fragments_{family}_that_overlap", "The whole datagram is dropped from then on")
        a, b, c = pieces(flow.request(b"o" * 150), 1, 64)
        body = payload_of(flow.request(b"o" * 150)[0])
        over = piece(flow.request()[0], 1, 32, body[32:96], True)
        case.outside(a[0], ("inside", a[1]))
        for frame in (over, b[0], c[0], a[0]):
            case.outside(frame, dropped="fragment_overlap")
        # What waits goes at once.
        body = payload_of(flow.request(b"o" * 250)[0])
        b, c = (piece(flow.request()[0], 2, at, body[at:at + 64], True) for at in (64, 128))
        over = piece(flow.request()[0], 2, 184, body[184:200], True)
        case.outside(b)
        case.outside(c)
        case.outside(over, dropped="fragment_overlap")
        case.dropped["fragment_overlap"] += 2
        case.outside(piece(flow.request()[0], 2, 0, body[:64], True), dropped="fragment_overlap")
        # An end before what has come, beyond the end, another end.
        for ident, first, second in ((3, (64, 64, True), (8, 24, False)),
                                     (4, (64, 32, False), (96, 8, True)),
                                     (5, (64, 32, False), (96, 8, False))):
            for number, (at, length, more) in enumerate((first, second)):
                frame = piece(flow.request()[0], ident, at, b"o" * length, more)
                if number == 0:
                    case.outside(frame)
                else:
                    case.outside(frame, dropped="fragment_overlap")
                    case.dropped["fragment_overlap"] += 1

        case = Case(f"fragments_{family}_twice", "A duplicate is dropped, the rest passes")
        a, b, c = pieces(flow.request(b"o" * 150), 1, 64)
        case.outside(c[0])
        case.outside(c[0], dropped="fragment_duplicate")
        case.outside(a[0], ("inside", a[1]), ("inside", c[1]))
        case.outside(a[0], dropped="fragment_duplicate")
        case.outside(c[0], dropped="fragment_duplicate")
        case.outside(b[0], ("inside", b[1]))

        case = Case(f"fragments_{family}_that_cannot_be", "Empty, odd, too long, too short a first")
        base = flow.request()[0]
        for frame in (
            piece(base, 1, 0, b"", True), piece(base, 1, 64, b"", False),
            piece(base, 1, 64, b"odd", True), piece(base, 1, 65528, b"12345678", False),
            piece(base, 1, 65528, b"12345678", True),
        ):
            case.outside(frame, dropped="malformed")
        web = Flow(TWO_NICS, TCP, CLIENT6, WEB6, OF_WEB6) if flow.v6 else Flow(
            TWO_NICS, TCP, CLIENT, WEB, OF_WEB)
        # RFC 1858: the control bits are in the second fragment.
        for ident, size in ((2, 8), (3, 16)):
            first, second, *_ = pieces(web.request(b"x" * 40, flags="S"), ident, size)
            case.outside(second[0])
            case.outside(first[0], dropped="malformed")
            case.dropped["malformed"] += 1
        # As the first fragment, so the others.
        stranger = Flow(TWO_NICS, UDP, flow.client, (
            "2001:db8:1::66" if flow.v6 else "192.0.2.66", 53), flow.server)
        for ident, frames, reason in ((4, pieces(stranger.request(b"x" * 100), 4, 64), "not_owned"),
                                      (5, pieces(stranger.request(b"x" * 100), 5, 64)[::-1], "not_owned")):
            early = [frame for frame, _ in frames]
            for place, frame in enumerate(early):
                if ident == 5 and place == 0:
                    case.outside(frame)
                else:
                    case.outside(frame, dropped=reason)
            case.dropped[reason] += ident == 5

        case = Case(f"fragments_{family}_without_a_first", "They wait for 30 s", eal=False)
        a, b, c = pieces(flow.request(b"o" * 150), 1, 64)
        case.outside(c[0])
        case.wait(29_000)
        case.outside(b[0])
        case.wait(1_200)
        case.dropped["fragment_timeout"] = 2
        case.outside(b[0])
        case.outside(a[0], ("inside", a[1]), ("inside", b[1]))
        case.outside(c[0], ("inside", c[1]))

    case = Case("fragments_to_a_group_are_dropped", "Nobody listens to them")
    for more in (True, False):
        for offset in (0, 64):
            frame = piece(Flow(TWO_NICS, UDP, CLIENT6, ("ff02::1", 53), OF_DNS6).request()[0], 1,
                          offset, b"x" * 64, more)
            frame.dst = "33:33:00:00:00:01"
            case.outside(frame, dropped="not_for_us")


def ping4(target, kind, ends, link, ttl):
    return Ether(src=link[0], dst=link[1]) / IP(src=ends[0], dst=ends[1], ttl=ttl) / ICMP(
        type=kind, id=7, seq=1) / Raw(bytes(i % 253 for i in range(6000)))


def echo():
    case = Case("fragmented_echo_requests_are_answered", "ping -s 6000, in order and not")
    client, vip = "198.18.7.7", "192.0.2.100"
    pair4 = (ping4(vip, 8, (client, vip), (CLIENT_SIDE, PORT0), 9),
             ping4(vip, 0, (vip, client), (PORT0, CLIENT_SIDE), 64))
    data = bytes(i % 249 for i in range(6000))
    client, vip = "2001:db8:ffff::7", "2001:db8:1::100"
    pair6 = (
        Ether(src=CLIENT_SIDE, dst=PORT0) / IPv6(src=client, dst=vip, hlim=9)
        / ICMPv6EchoRequest(id=7, seq=1, data=data),
        Ether(src=PORT0, dst=CLIENT_SIDE) / IPv6(src=vip, dst=client, hlim=64)
        / ICMPv6EchoReply(id=7, seq=1, data=data),
    )
    for pair in (pair4, pair6):
        for ident, arrange in enumerate((list, lambda o: o[::-1], lambda o: o[2:] + o[:2])):
            order = arrange(list(enumerate(pieces(pair, 4000 + ident, 1448))))
            # Each answered fragment ends here.
            case.consumed += len(order)
            in_order(case, case.outside, "outside", order)


def errors():
    case = Case("ttl_of_fragments", "The first one is answered, the others are dropped like it")
    for _, flow in udp_flows():
        (first, _), (second, _) = pieces(flow.request(b"t" * 100, hops=1), 1, 64)
        case.outside(first, ("outside", time_exceeded(first, flow.service[0])), dropped="ttl_expired")
        case.outside(second, dropped="ttl_expired")

    case = Case("fragments_are_split_further", "Where the next link takes less", NARROW)
    flow = Flow(NARROW, UDP, CLIENT, DNS, OF_DNS)
    for number, (frame, expected) in enumerate(pieces(flow.request(b"f" * 4000), 1, 1480)):
        smaller = split(expected, 1280)
        case.outside(frame, *[("inside", part) for part in smaller], consumed=int(len(smaller) > 1))

    case = Case("ipv6_fragments_too_big_for_the_next_link", "A later one that is larger than the first",
                NARROW)
    flow = Flow(NARROW, UDP, CLIENT6, DNS6, OF_DNS6)
    pair = flow.request(b"f" * 3000)
    first, expected = (piece(frame, 1, 0, payload_of(frame)[:800], True) for frame in pair)
    later = piece(pair[0], 1, 800, payload_of(pair[0])[800:2200], True)
    case.outside(first, ("inside", expected))
    case.outside(later, ("outside", too_big(later, DNS6[0], 1280)), dropped="mtu_exceeded")


ALL = (orders, wrong, echo, errors)
