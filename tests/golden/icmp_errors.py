"""ICMP and ICMPv6 errors about connections, from both sides."""

import struct

from scapy.all import IP, TCP, UDP, Ether, IPOption, IPv6, Raw, in6_chksum, raw
from scapy.utils import checksum

from cases import (
    CLIENT, CLIENT6, CLIENT_SIDE, DNS, DNS6, OF_DNS, OF_DNS6, OF_WEB, OF_WEB6, PORT0, PORT1,
    SERVER_MAC, TWO_NICS, WEB, WEB6, Case, Flow,
)

# A MPLS label stack, as routers append it (RFC 4884, RFC 4950).
EXTENSION = b"\x20\x00\xde\xad\x00\x08\x01\x01\x00\x01\x91\xff"


def icmp(link, ends, kind, code, rest, quote, hops=60, spoil=0, **fields):
    """An error over Ethernet, its checksum off by `spoil`."""
    message = struct.pack("!BBH", kind, code, 0) + rest + quote
    ether = Ether(src=link[0], dst=link[1])
    if ":" in ends[0]:
        ip = IPv6(src=ends[0], dst=ends[1], hlim=hops, nh=58, plen=len(message), **fields)
        total = in6_chksum(58, ip, message)
    else:
        ip = IP(src=ends[0], dst=ends[1], ttl=hops, proto=1, **fields)
        total = checksum(message)
    message = message[:2] + struct.pack("!H", total ^ spoil) + message[4:]
    return ether / ip / Raw(message)


def ip_of(frame):
    return raw(frame)[14:]


def from_outside(flow, kind, code, rest=bytes(4), cut=None, shape=lambda quote: quote,
                 router=None, **more):
    """An error about a reply, that a router of the outside (or the client) sends to the VIP."""
    quoted = {key: more.pop(key) for key in ("ip", "chksum") if key in more}
    body = more.pop("body", b"a reply of some length")
    come = ip_of(flow.reply(body, hops=40, **quoted)[1])[:cut]
    leave = ip_of(flow.reply(body, hops=39, **quoted)[0])[:cut]
    router = router or ("2001:db8:ffff::9" if flow.v6 else "198.18.0.9")
    return (
        icmp((CLIENT_SIDE, PORT0), (router, flow.service[0]), kind, code, rest, shape(come), **more),
        icmp((PORT1, SERVER_MAC[flow.server[0]]), (router, flow.server[0]), kind, code, rest,
             shape(leave), **{**more, "hops": 59}),
    )


def from_inside(flow, kind, code, rest=bytes(4), cut=None, shape=lambda quote: quote,
                router=None, **more):
    """An error about a request, that the server or a router before it sends to the client."""
    quoted = {key: more.pop(key) for key in ("ip", "chksum") if key in more}
    body = more.pop("body", b"a request")
    come = ip_of(flow.request(body, hops=40, **quoted)[1])[:cut]
    leave = ip_of(flow.request(body, hops=39, **quoted)[0])[:cut]
    router = router or ("fd00::9" if flow.v6 else "10.0.0.9")
    mac = SERVER_MAC[flow.server[0]]
    return (
        icmp((mac, PORT1), (router, flow.client[0]), kind, code, rest, shape(come), **more),
        icmp((PORT0, CLIENT_SIDE), (flow.service[0], flow.client[0]), kind, code, rest,
             shape(leave), **{**more, "hops": 59}),
    )


def flows(v6=None):
    for family, layer4, client, service, server in (
        (4, TCP, CLIENT, WEB, OF_WEB), (4, UDP, CLIENT, DNS, OF_DNS),
        (6, TCP, CLIENT6, WEB6, OF_WEB6), (6, UDP, CLIENT6, DNS6, OF_DNS6),
    ):
        if v6 is None or v6 == (family == 6):
            yield Flow(TWO_NICS, layer4, client, service, server)


def opened(case, flow):
    """Opens the connection."""
    fields = {"flags": "S"} if flow.layer4 == TCP else {}
    case.request(flow.request(**fields))


def mtu_of(octets):
    return struct.pack("!HH", 0, octets)


KINDS4 = [(3, code, mtu_of(1400) if code == 4 else bytes(4)) for code in range(16)] + [
    (11, 0, bytes(4)), (11, 1, bytes(4)), (12, 0, b"\x14\0\0\0"), (12, 1, bytes(4))]
KINDS6 = [(1, code, bytes(4)) for code in range(7)] + [
    (2, 0, struct.pack("!I", 1400)), (3, 0, bytes(4)), (3, 1, bytes(4))] + [
    (4, code, struct.pack("!I", 40)) for code in range(3)]


def all_kinds():
    for v6, kinds, header in ((False, KINDS4, 20), (True, KINDS6, 40)):
        for side, make in (("outside", from_outside), ("inside", from_inside)):
            case = Case(f"icmp_errors_ipv{6 if v6 else 4}_from_{side}",
                        "Every type and code, the quote whole and cut to 8 octets",
                        # More than may wait for a neighbour, all at once.
                        eal=False)
            send = case.outside if make is from_outside else case.inside
            other = "inside" if make is from_outside else "outside"
            for flow in flows(v6):
                opened(case, flow)
                for kind, code, rest in kinds:
                    for cut in (None, header + 8):
                        frame, expected = make(flow, kind, code, rest, cut)
                        send(frame, (other, expected))


def padded(quote):
    """RFC 4884: the quote is filled up to 128 octets, the extension follows."""
    return quote[:128].ljust(128, b"\0") + EXTENSION


def shapes_of_quotes():
    case = Case("icmp_errors_with_extensions", "RFC 4884: the quote padded, and what follows it kept")
    for flow in flows():
        opened(case, flow)
        # In words of 8 octets (IPv6) or 4.
        rest = bytes([16, 0, 0, 0]) if flow.v6 else bytes([0, 32, 0, 0])
        kind = 3 if flow.v6 else 11
        header = 40 if flow.v6 else 20
        for cut in (None, header + 8, header + 20):
            for make, body in ((from_outside, b"x" * 300), (from_inside, b"y" * 300)):
                frame, expected = make(flow, kind, 0, rest, cut, padded, body=body)
                if make is from_outside:
                    case.outside(frame, ("inside", expected))
                else:
                    case.inside(frame, ("outside", expected))

    case = Case("icmp_errors_with_quotes_cut_anywhere", "Each length from the ports on")
    for flow in flows():
        opened(case, flow)
        header = 40 if flow.v6 else 20
        kind = 1 if flow.v6 else 3
        # Half a checksum is nothing that could be right.
        half = 17 if flow.layer4 == TCP else 7
        for length in (n for n in range(4, 28) if n != half):
            frame, expected = from_outside(flow, kind, 1, cut=header + length)
            case.outside(frame, ("inside", expected))
        for length in (0, 1, 2, 3):
            case.outside(from_outside(flow, kind, 1, cut=header + length)[0], dropped="truncated")
        case.outside(from_outside(flow, kind, 1, cut=header - 1)[0], dropped="truncated")

    case = Case("icmp_errors_that_quote_options", "IPv4 options in the quote are stepped over")
    for flow in flows(False):
        opened(case, flow)
        for options in (b"\x94\x04\x00\x00", b"\x01" * 40):
            ip = {"options": [IPOption(options)]}
            frame, expected = from_outside(flow, 3, 1, ip=ip)
            case.outside(frame, ("inside", expected))
            frame, expected = from_inside(flow, 11, 0, ip=ip, cut=20 + len(options) + 8)
            case.inside(frame, ("outside", expected))

    case = Case("icmp_errors_about_udp_without_checksum", "No checksum stays none in the quote")
    flow = next(f for f in flows(False) if f.layer4 == UDP)
    opened(case, flow)
    frame, expected = from_outside(flow, 3, 3, chksum=0)
    case.outside(frame, ("inside", expected))
    frame, expected = from_inside(flow, 3, 3, chksum=0, router="10.0.0.12")
    case.inside(frame, ("outside", expected))


def spoilt_quote(quote):
    return quote[:10] + bytes([quote[10] ^ 1]) + quote[11:]


def refused():
    case = Case("icmp_errors_that_are_not_believed", "Wrong checksums, unknown flows, wrong quotes")
    for flow in flows():
        opened(case, flow)
        kind = 1 if flow.v6 else 3
        for make, send in ((from_outside, case.outside), (from_inside, case.inside)):
            send(make(flow, kind, 1, spoil=1)[0], dropped="bad_checksum")
            send(make(flow, kind, 1, spoil=0xFFFF)[0], dropped="bad_checksum")
            if not flow.v6:
                send(make(flow, kind, 1, shape=spoilt_quote)[0], dropped="bad_checksum")
            stranger = Flow(TWO_NICS, flow.layer4, (flow.client[0], 20001), flow.service, flow.server)
            send(make(stranger, kind, 1)[0], dropped="icmp_unrelated")
            if not flow.v6:
                send(make(flow, kind, 1, ip={"frag": 100})[0], dropped="icmp_unrelated")
            # Version, header length.
            wrong = lambda quote: b"\x75" + quote[1:]
            send(make(flow, kind, 1, shape=wrong)[0], dropped="malformed")
            # About an ICMP error: the protocol of the quote says so.
            if flow.v6:
                head, message = IPv6(src=flow.service[0], dst=flow.client[0], nh=58), b"\1\1"
            else:
                head, message = IP(src=flow.service[0], dst=flow.client[0], proto=1), b"\3\1"
            about = raw(head / Raw(message + bytes(30)))
            send(make(flow, kind, 1, shape=lambda _: about)[0], dropped="icmp_unrelated")
            # The TTL of the error itself.
            send(make(flow, kind, 1, hops=1)[0], dropped="ttl_expired")
        if not flow.v6:
            for other in (5, 9, 10, 13, 17, 40):
                case.outside(from_outside(flow, other, 1)[0], dropped="icmp_unsupported")

    case = Case("icmpv6_redirects_and_groups_are_not_passed_on", "Nor an error to a group")
    flow = next(flows(True))
    opened(case, flow)
    case.outside(from_outside(flow, 137, 0)[0], dropped="icmp_unsupported")
    quote = ip_of(flow.reply(hops=40)[1])
    group = icmp((CLIENT_SIDE, "33:33:00:00:00:01"), ("2001:db8:1::9", "ff02::1"), 1, 1, bytes(4), quote)
    case.outside(group, dropped="not_for_us")
    case.outside(icmp((CLIENT_SIDE, PORT0), ("::", flow.service[0]), 1, 1, bytes(4), quote),
                 dropped="martian")


ALL = (all_kinds, shapes_of_quotes, refused)
