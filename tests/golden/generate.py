#!/usr/bin/env python3
"""Writes the golden cases: what goes into the director, and what must come out.

Both are built from nothing by scapy, with scapy's checksums; no code of pointsman takes part.
Run from anywhere: python3 tests/golden/generate.py (needs scapy 2.5 or newer). The output is
the same every time, and is committed.
"""

import struct

from scapy.all import (
    ARP, ICMP, IP, TCP, UDP, Ether, ICMPv6EchoReply, ICMPv6EchoRequest, ICMPv6MLQuery,
    ICMPv6MLQuery2, ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptDstLLAddr, ICMPv6NDOptSrcLLAddr, IPOption,
    IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrHopByHop, IPv6ExtHdrRouting, PadN, Raw, RouterAlert, raw,
)

import fragments
import ftp_cases
import icmp_errors
import masquerade
import own_errors
import sctp_cases
import settings
import tcp_cases
import vlans
from cases import (
    BROADCAST, CLIENT, CLIENT6, CLIENT_SIDE, DNS, DNS6, MSS, NAMES, OF_DNS, OF_DNS6, OF_WEB,
    OF_WEB6, ONE_NIC, PORT0, PORT1, SERVER_MAC, TWO_NICS, WEB, WEB6, Case, Flow,
)
from own_errors import reset, time_exceeded, unreachable


def tcp_connections():
    for topology, suffix in NAMES.items():
        for family, client, service, server in (
            ("ipv4", CLIENT, WEB, OF_WEB),
            ("ipv6", CLIENT6, WEB6, OF_WEB6),
        ):
            case = Case(
                f"tcp_connection_{family}{suffix}",
                "A whole life: handshake, request, answer in two segments, both FINs",
                topology,
            )
            flow = Flow(topology, TCP, client, service, server)
            one = {"ip": {"id": 7, "flags": "DF", "tos": 0x2A}} if family == "ipv4" else {
                "ip": {"tc": 0x2A, "fl": 0x12345}
            }
            case.request(flow.request(flags="S", seq=1000, options=MSS, **one))
            case.reply(flow.reply(flags="SA", seq=5000, ack=1001, options=MSS, **one))
            case.request(flow.request(flags="A", seq=1001, ack=5001))
            get = b"GET / HTTP/1.1\r\nHost: www.example\r\n\r\n"
            case.request(flow.request(get, flags="PA", seq=1001, ack=5001))
            case.reply(flow.reply(flags="A", seq=5001, ack=1001 + len(get)))
            case.reply(flow.reply(b"x" * 1401, flags="A", seq=5001, ack=1001 + len(get)))
            case.reply(flow.reply(b"y" * 100, flags="PA", seq=6402, ack=1001 + len(get)))
            case.request(flow.request(flags="A", seq=1001 + len(get), ack=6502))
            case.request(flow.request(flags="FA", seq=1001 + len(get), ack=6502))
            case.reply(flow.reply(flags="FA", seq=6502, ack=1002 + len(get)))
            case.request(flow.request(flags="A", seq=1002 + len(get), ack=6503))


def udp_flows():
    for topology, suffix in NAMES.items():
        for family, client, service, server in (
            ("ipv4", CLIENT, DNS, OF_DNS),
            ("ipv6", CLIENT6, DNS6, OF_DNS6),
        ):
            case = Case(f"udp_{family}{suffix}", "Questions and answers, even and odd", topology)
            flow = Flow(topology, UDP, client, service, server)
            for payload in (b"question", b"odd", b"", b"z" * 1400):
                case.request(flow.request(payload))
                case.reply(flow.reply(payload + b"!", hops=255))

    case = Case("udp_zero_checksum_is_kept", "No checksum stays no checksum", ONE_NIC)
    flow = Flow(ONE_NIC, UDP, CLIENT, DNS, OF_DNS)
    case.request(flow.request(b"question", chksum=0))
    case.reply(flow.reply(b"answer", chksum=0))

    case = Case(
        "udp_checksum_that_becomes_zero_is_sent_as_ffff",
        "RFC 768: a computed zero is written as all ones",
        ONE_NIC,
    )
    for family, client, service, server in (
        ("ipv4", CLIENT, DNS, OF_DNS),
        ("ipv6", CLIENT6, DNS6, OF_DNS6),
    ):
        flow = Flow(ONE_NIC, UDP, client, service, server)
        for make in (flow.request, flow.reply):
            payload = payload_for_checksum_zero(make)
            pair = make(payload)
            assert raw(pair[1])[-4 - 2:-4] == b"\xff\xff", raw(pair[1]).hex()
            (case.request if make == flow.request else case.reply)(pair)


def payload_for_checksum_zero(make):
    """Two words, the second of which brings the translated checksum to zero."""
    octets = raw(make(b"\x00\x00\x00\x00")[1])
    (checksum,) = struct.unpack("!H", octets[-4 - 2:-4])
    return b"\x00\x00" + struct.pack("!H", checksum)


def ttl():
    for family, client, service, server in (
        ("ipv4", CLIENT, WEB, OF_WEB),
        ("ipv6", CLIENT6, WEB6, OF_WEB6),
    ):
        case = Case(
            f"ttl_{family}", "Two becomes one and passes; one and zero are answered", ONE_NIC
        )
        flow = Flow(ONE_NIC, TCP, client, service, server)
        for hops in (1, 0):
            frame = flow.request(flags="S", hops=hops)[0] if hops else zero_ttl(flow)
            case.outside(frame, ("lan", time_exceeded(frame, service[0])), dropped="ttl_expired")
        case.request(flow.request(flags="S", hops=2))
        case.reply(flow.reply(flags="SA", hops=2))
        frame, own = flow.reply(flags="SA", hops=1)[0], "fd00::1" if flow.v6 else "10.0.0.1"
        case.inside(frame, ("lan", time_exceeded(frame, own)), dropped="ttl_expired")
        # 256 is taken for 255 at every octet boundary of the checksum.
        for hops in (255, 128, 3):
            case.request(flow.request(flags="A", hops=hops))


def zero_ttl(flow):
    t = flow.topology
    return flow._build((CLIENT_SIDE, t.outside_mac), flow.client, flow.service, 0, b"", flags="S")


def headers_carried():
    case = Case("ipv4_options_are_carried", "Options and all header fields but the TTL", ONE_NIC)
    flow = Flow(ONE_NIC, TCP, CLIENT, WEB, OF_WEB)
    for options in (b"\x94\x04\x00\x00", b"\x01" * 40, b"\x07\x07\x04\x00\x00\x00\x00\x00"):
        ip = {"options": [IPOption(options)], "tos": 0xB9, "id": 0xFFFF, "flags": 0}
        case.request(flow.request(b"data", flags="S", ip=ip))
        case.reply(flow.reply(b"data", flags="A", ip=ip))

    case = Case("ipv6_extension_headers_are_carried", "Those that a router steps over", ONE_NIC)
    flow = Flow(ONE_NIC, UDP, CLIENT6, DNS6, OF_DNS6)
    hop_by_hop = IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0" * 4)])
    destination = IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 12)])
    routing = IPv6ExtHdrRouting(type=4, addresses=[], segleft=0)
    for chain in ([hop_by_hop], [destination], [hop_by_hop, destination, routing, destination],
                  [hop_by_hop] + [destination] * 7):
        case.request(flow.request(b"question", chain=chain))
        case.reply(flow.reply(b"answer", chain=chain))
    too_long = flow.request(b"question", chain=[hop_by_hop] + [destination] * 8)[0]
    case.outside(too_long, dropped="extension_header")

    case = Case("ethernet_padding_is_removed", "Short frames come padded, leave as they are", ONE_NIC)
    for family, client, service, server in (
        ("ipv4", CLIENT, WEB, OF_WEB), ("ipv6", CLIENT6, WEB6, OF_WEB6),
    ):
        flow = Flow(ONE_NIC, TCP, client, service, server)
        for frame, expected in (flow.request(flags="S"), flow.request(b"1", flags="A")):
            case.request((raw(frame) + b"\xa5" * 9, expected))
        frame, expected = flow.reply(flags="A")
        case.reply((raw(frame) + b"\x5a" * 300, expected))


def arp(op, sender, target, source, destination):
    return Ether(src=source, dst=destination) / ARP(
        op=op, hwsrc=sender[0], psrc=sender[1], hwdst=target[0], pdst=target[1]
    )


ASKER = "02:00:00:00:00:99"
NOBODY = "00:00:00:00:00:00"


def who_has(target, sender="192.0.2.9", to=BROADCAST):
    return arp(1, (ASKER, sender), (NOBODY, target), ASKER, to)


def is_at(mac, target, asker="192.0.2.9"):
    return arp(2, (mac, target), (ASKER, asker), mac, ASKER)


def arp_cases():
    case = Case("arp_outside", "Own address and VIPs are answered for, others not")
    for target in ("192.0.2.1", "192.0.2.100", "192.0.2.101", "198.51.100.80"):
        case.outside(who_has(target), ("outside", is_at(PORT0, target)), consumed=1)
    case.outside(who_has("192.0.2.1", to=PORT0), ("outside", is_at(PORT0, "192.0.2.1")), consumed=1)
    # Padded as it comes from a wire; the answer is not.
    case.outside(raw(who_has("192.0.2.1")) + b"\0" * 18, ("outside", is_at(PORT0, "192.0.2.1")),
                 consumed=1)
    for target in ("192.0.2.2", "10.0.0.1", "10.0.0.11", "198.18.7.7"):
        case.outside(who_has(target), dropped="not_for_us")

    case = Case("arp_inside", "The inside answers for its own address, never for a VIP")
    case.inside(who_has("10.0.0.1", "10.0.0.9"), ("inside", is_at(PORT1, "10.0.0.1", "10.0.0.9")),
                consumed=1)
    for target in ("192.0.2.100", "192.0.2.1", "198.51.100.80", "10.0.0.2"):
        case.inside(who_has(target, "10.0.0.9"), dropped="not_for_us")
        # Nor to one who asks from the other side's network, or whether it may be that.
        case.inside(who_has(target), dropped="not_for_us")
        case.inside(who_has(target, "0.0.0.0"), dropped="not_for_us")
        case.inside(who_has(target, "10.0.0.9", to=PORT1), dropped="not_for_us")

    case = Case("arp_one_nic", "One NIC answers for both sides", ONE_NIC)
    for target in ("192.0.2.1", "10.0.0.1", "192.0.2.100", "198.51.100.80"):
        case.outside(who_has(target), ("lan", is_at(PORT0, target)), consumed=1)

    case = Case("arp_probe_is_answered", "RFC 5227: who may I be? Not one of us")
    for target in ("192.0.2.1", "192.0.2.100"):
        case.outside(who_has(target, "0.0.0.0"), ("outside", is_at(PORT0, target, "0.0.0.0")),
                     consumed=1)
    case.outside(who_has("192.0.2.7", "0.0.0.0"), dropped="not_for_us")

    case = Case("arp_that_lies_is_dropped", "Wrong or hostile messages; the next is answered")
    good = who_has("192.0.2.1")
    claims = arp(1, (ASKER, "192.0.2.100"), (NOBODY, "192.0.2.1"), ASKER, BROADCAST)
    takes = arp(2, (ASKER, "192.0.2.1"), (PORT0, "192.0.2.1"), ASKER, PORT0)
    group = arp(1, ("01:00:5e:00:00:01", "192.0.2.9"), (NOBODY, "192.0.2.1"), ASKER, BROADCAST)
    ours = arp(1, (PORT0, "192.0.2.9"), (NOBODY, "192.0.2.1"), ASKER, BROADCAST)
    strange = arp(3, (ASKER, "192.0.2.9"), (NOBODY, "192.0.2.1"), ASKER, BROADCAST)
    nowhere = [arp(1, (ASKER, sender), (NOBODY, "192.0.2.1"), ASKER, BROADCAST)
               for sender in ("255.255.255.255", "224.0.0.18", "127.0.0.1", "0.0.0.9")]
    for frame in (claims, takes, group, ours, strange, *nowhere):
        case.outside(frame, dropped="bad_neighbor_message")
    for offset, octet in ((15, 6), (17, 1), (18, 8), (19, 16)):
        frame = bytearray(raw(good))
        frame[offset] = octet
        case.outside(bytes(frame), dropped="bad_neighbor_message")
    case.outside(raw(good)[:41], dropped="truncated")
    case.outside(good, ("outside", is_at(PORT0, "192.0.2.1")), consumed=1)

    case = Case("arp_asks_for_a_server_and_sends_what_waited",
                "The first packet waits for the answer; the second follows it in order", eal=False)
    flow = Flow(TWO_NICS, TCP, CLIENT, ("192.0.2.102", 80), ("10.0.0.20", 8080))
    server = SERVER_MAC["10.0.0.20"]
    first, second = flow.request(flags="S"), flow.request(b"more", flags="A")
    ask = arp(1, (PORT1, "10.0.0.1"), (NOBODY, "10.0.0.20"), PORT1, BROADCAST)
    case.outside(first[0], ("inside", ask))
    case.outside(second[0])
    tell = arp(2, (server, "10.0.0.20"), (PORT1, "10.0.0.1"), server, PORT1)
    case.inside(tell, ("inside", first[1]), ("inside", second[1]), consumed=1)
    case.request(flow.request(b"and more", flags="A"))


def solicitation(target, source="2001:db8:1::9", destination=None, link=None, hops=255, option=True):
    last = [int(part, 16) for part in raw(IPv6(dst=target))[24:40].hex(" ").split()]
    group = "ff02::1:ff%02x:%02x%02x" % tuple(last[-3:])
    link = link or "33:33:ff:%02x:%02x:%02x" % tuple(last[-3:])
    packet = Ether(src=ASKER, dst=link) / IPv6(src=source, dst=destination or group, hlim=hops)
    packet = packet / ICMPv6ND_NS(tgt=target)
    return packet / ICMPv6NDOptSrcLLAddr(lladdr=ASKER) if option else packet


def advertisement(target, mac, to="2001:db8:1::9", link=ASKER, solicited=1):
    return (
        Ether(src=mac, dst=link)
        / IPv6(src=target, dst=to, hlim=255)
        / ICMPv6ND_NA(tgt=target, R=1, S=solicited, O=1)
        / ICMPv6NDOptDstLLAddr(lladdr=mac)
    )


def neighbor_discovery():
    own, vip, routed = "2001:db8:1::1", "2001:db8:1::100", "2001:db8:2::80"
    link_local, inside_link_local = "fe80::70:63ff:fe61:7000", "fe80::70:63ff:fe61:7001"
    case = Case("nd_outside", "Own addresses and VIPs, by multicast and unicast; others not")
    for target in (own, vip, routed, link_local):
        case.outside(solicitation(target), ("outside", advertisement(target, PORT0)), consumed=1)
    case.outside(solicitation(own, destination=own, link=PORT0),
                 ("outside", advertisement(own, PORT0)), consumed=1)
    case.outside(solicitation(own, destination=own, link=PORT0, option=False),
                 ("outside", advertisement(own, PORT0)), consumed=1)
    for target in ("2001:db8:1::2", "fd00::1", "fd00::11", inside_link_local):
        case.outside(solicitation(target), dropped="not_for_us")

    case = Case("nd_inside", "The inside answers for its own address, never for a VIP")
    case.inside(solicitation("fd00::1", "fd00::9"),
                ("inside", advertisement("fd00::1", PORT1, "fd00::9")), consumed=1)
    case.inside(solicitation(inside_link_local, "fe80::9"),
                ("inside", advertisement(inside_link_local, PORT1, "fe80::9")), consumed=1)
    for target in (vip, routed, own, link_local, "fd00::2"):
        case.inside(solicitation(target, "fd00::9"), dropped="not_for_us")
        case.inside(solicitation(target, "::", option=False), dropped="not_for_us")
        case.inside(solicitation(target, "fd00::9", destination=target, link=PORT1),
                    dropped="not_for_us")

    case = Case("nd_one_nic", "One NIC answers for both sides", ONE_NIC)
    for target in (own, "fd00::1", vip, routed, link_local):
        case.outside(solicitation(target), ("lan", advertisement(target, PORT0)), consumed=1)
    case.outside(solicitation("fd00::2"), dropped="not_for_us")

    case = Case("nd_duplicate_address_detection", "RFC 4862: the answer goes to all nodes")
    answer = advertisement(own, PORT0, "ff02::1", "33:33:00:00:00:01", solicited=0)
    case.outside(solicitation(own, "::", option=False), ("outside", answer), consumed=1)
    case.outside(solicitation("2001:db8:1::77", "::", option=False), dropped="not_for_us")

    case = Case("nd_that_breaks_rfc_4861_is_dropped", "Sections 7.1.1 and 7.1.2")
    bad = [
        solicitation(own, hops=254),
        solicitation(own, "::"),
        solicitation(own, "::", destination=own, link=PORT0, option=False),
        raw(solicitation(own))[:-2] + b"\0\0",
        Ether(src=ASKER, dst=PORT0) / IPv6(src="2001:db8:1::9", dst=own, hlim=255)
        / ICMPv6ND_NS(tgt="ff02::1"),
        Ether(src=ASKER, dst=PORT0) / IPv6(src="2001:db8:1::9", dst=own, hlim=255)
        / ICMPv6ND_NS(tgt=own, code=1),
        Ether(src=ASKER, dst=PORT0) / IPv6(src="2001:db8:1::9", dst=own, hlim=255)
        / ICMPv6ND_NS(tgt=own) / Raw(b"\x01\x00" + b"\0" * 6),
        Ether(src=ASKER, dst=PORT0) / IPv6(src="2001:db8:1::9", dst=own, hlim=255)
        / ICMPv6ND_NS(tgt=own) / Raw(b"\x01\x02" + b"\0" * 6),
        Ether(src=ASKER, dst=PORT0) / IPv6(src="2001:db8:1::9", dst=own, hlim=255)
        / ICMPv6ND_NS(tgt=own) / ICMPv6NDOptSrcLLAddr(lladdr="33:33:00:00:00:01"),
        Ether(src=ASKER, dst="33:33:00:00:00:01")
        / IPv6(src="2001:db8:1::9", dst="ff02::1", hlim=255)
        / ICMPv6ND_NA(tgt="2001:db8:1::9", S=1) / ICMPv6NDOptDstLLAddr(lladdr=ASKER),
        Ether(src=ASKER, dst=PORT0) / IPv6(src=own, dst=own, hlim=255)
        / ICMPv6ND_NA(tgt=own, S=1) / ICMPv6NDOptDstLLAddr(lladdr=ASKER),
    ]
    for frame in bad:
        case.outside(frame, dropped="bad_neighbor_message")
    case.outside(solicitation(own), ("outside", advertisement(own, PORT0)), consumed=1)

    case = Case("nd_messages_of_others_are_not_answered", "Routers' and listeners' messages")
    for kind in (131, 132, 133, 134, 143):
        packet = Ether(src=ASKER, dst="33:33:00:00:00:01") / IPv6(
            src="fe80::9", dst="ff02::1", hlim=255, nh=58)
        case.outside(packet / Raw(bytes([kind]) + b"\0" * 23), dropped="not_for_us")

    case = Case("listener_queries", "Of Multicast Listener Discovery, from here and from elsewhere")
    for message in (ICMPv6MLQuery(), ICMPv6MLQuery2(), ICMPv6MLQuery2(mladdr="ff02::1:ff00:1")):
        case.outside(listener_query(message), consumed=1)
    for fields in ({"src": "2001:db8:1::9"}, {"hlim": 255}, {"alert": 1}):
        case.outside(listener_query(ICMPv6MLQuery2(), **fields), dropped="bad_neighbor_message")


def listener_query(message, src="fe80::9", hlim=1, alert=0):
    return Ether(src=ASKER, dst="33:33:00:00:00:01") / IPv6(src=src, dst="ff02::1", hlim=hlim) \
        / IPv6ExtHdrHopByHop(options=[RouterAlert(value=alert)]) / message


def ping4(target, source="198.18.7.7", link=PORT0, **fields):
    return Ether(src=CLIENT_SIDE, dst=link) / IP(src=source, dst=target, id=9, ttl=7) / ICMP(
        type=8, id=0x4142, seq=3, **fields) / Raw(b"abcdefghi")


def pong4(target, source="198.18.7.7", mac=PORT0):
    return Ether(src=mac, dst=CLIENT_SIDE) / IP(src=target, dst=source, id=9, ttl=64) / ICMP(
        type=0, id=0x4142, seq=3) / Raw(b"abcdefghi")


def ping6(target, source="2001:db8:ffff::7", link=PORT0):
    return Ether(src=CLIENT_SIDE, dst=link) / IPv6(src=source, dst=target, hlim=7) / (
        ICMPv6EchoRequest(id=0x4142, seq=3, data=b"abcdefghi"))


def pong6(target, source="2001:db8:ffff::7", mac=PORT0):
    return Ether(src=mac, dst=CLIENT_SIDE) / IPv6(src=target, dst=source, hlim=64) / (
        ICMPv6EchoReply(id=0x4142, seq=3, data=b"abcdefghi"))


def echo():
    case = Case("ping_ipv4", "Own addresses and VIPs answer, with or without a service")
    for target in ("192.0.2.1", "192.0.2.100", "10.0.0.1"):
        case.outside(ping4(target), ("outside", pong4(target)), consumed=1)
    case.outside(raw(ping4("192.0.2.1")) + b"\xee" * 7, ("outside", pong4("192.0.2.1")), consumed=1)
    case.outside(ping4("192.0.2.3"), dropped="not_owned")
    case.outside(ping4("10.0.0.11"), dropped="not_owned")
    case.outside(ping4("192.0.2.1", link=BROADCAST), dropped="not_for_us")
    case.outside(ping4("192.0.2.1", link=ASKER), dropped="not_for_us")
    unasked = Ether(src=CLIENT_SIDE, dst=PORT0) / IP(src="192.0.2.9", dst="192.0.2.1") / ICMP(type=0)
    case.outside(unasked, dropped="icmp_unsupported")

    case = Case("ping_ipv6", "Own addresses and VIPs answer")
    for target in ("2001:db8:1::1", "2001:db8:1::100", "fd00::1"):
        case.outside(ping6(target), ("outside", pong6(target)), consumed=1)
    case.outside(ping6("2001:db8:1::3"), dropped="not_owned")
    case.outside(ping6("ff02::1", link="33:33:00:00:00:01"), dropped="not_owned")
    case.outside(ping6("2001:db8:1::1", "::"), dropped="martian")


def refusals():
    case = Case("tcp_without_connection_is_dropped", "Only a SYN opens a connection", ONE_NIC)
    flow = Flow(ONE_NIC, TCP, CLIENT, WEB, OF_WEB)
    for flags in ("A", "SA", "F", "FA", "R", "RA", "PA", "", "SR", "SAR", "FPU"):
        case.outside(flow.request(flags=flags)[0], dropped="no_connection")
    case.request(flow.request(flags="S"))

    case = Case("sloppy_tcp_opens_on_any_segment_but_a_reset", "As IPVS's sloppy_tcp", ONE_NIC)
    for number, flags in enumerate(("A", "SA", "FA", "PA", "", "S")):
        flow = Flow(ONE_NIC, TCP, ("198.18.7.7", 30000 + number), ("192.0.2.101", 80),
                    ("10.0.0.11", 8080))
        case.request(flow.request(flags=flags))
        case.reply(flow.reply(flags="A"))
    flow = Flow(ONE_NIC, TCP, ("198.18.7.7", 31000), ("192.0.2.101", 80), ("10.0.0.11", 8080))
    for flags in ("R", "RA", "SR"):
        case.outside(flow.request(flags=flags)[0], dropped="no_connection")

    case = Case("no_service", "Own addresses and VIPs at ports where nothing listens")
    for layer4, service in ((TCP, ("192.0.2.100", 81)), (UDP, ("192.0.2.100", 80)),
                            (TCP, ("192.0.2.1", 80)), (TCP, ("10.0.0.1", 8080))):
        frame = Flow(TWO_NICS, layer4, CLIENT, service, OF_WEB).request()[0]
        answer = reset(frame) if layer4 == TCP else unreachable(frame)
        case.outside(frame, ("outside", answer), dropped="no_service")
    for layer4, service in ((TCP, ("2001:db8:1::100", 53)), (UDP, ("2001:db8:1::1", 80))):
        frame = Flow(TWO_NICS, layer4, CLIENT6, service, OF_WEB6).request()[0]
        answer = reset(frame) if layer4 == TCP else unreachable(frame)
        case.outside(frame, ("outside", answer), dropped="no_service")

    case = Case("not_owned", "The director is no router", ONE_NIC)
    case.outside(Flow(ONE_NIC, TCP, CLIENT, ("192.0.2.3", 80), OF_WEB).request(flags="S")[0],
                 dropped="not_owned")
    case.outside(Flow(ONE_NIC, UDP, CLIENT6, ("fd00::11", 80), OF_WEB6).request()[0],
                 dropped="not_owned")
    case.inside(Flow(ONE_NIC, TCP, CLIENT, WEB, OF_WEB).reply(flags="A")[0], dropped="not_owned")

    case = Case("unknown_protocols", "Neither TCP, UDP, SCTP nor ICMP; neither IP nor ARP")
    link = Ether(src=CLIENT_SIDE, dst=PORT0)
    for protocol in (0, 2, 47, 50, 136, 255):
        case.outside(link / IP(src="198.18.7.7", dst="192.0.2.100", proto=protocol) / Raw(b"x" * 20),
                     dropped="unknown_protocol")
    for header in (47, 50, 59, 136):
        packet = link / IPv6(src="2001:db8:ffff::7", dst="2001:db8:1::100", nh=header)
        case.outside(packet / Raw(b"x" * 20), dropped="unknown_protocol")
    for ether_type in (0x88CC, 0x05FF, 0x0000, 0x8847):
        case.outside(Ether(src=CLIENT_SIDE, dst=PORT0, type=ether_type) / Raw(b"x" * 46),
                     dropped="unknown_ether_type")


def rewritten(frame, offset, *octets):
    octets_of = bytearray(raw(frame))
    octets_of[offset:offset + len(octets)] = bytes(octets)
    return bytes(octets_of)


def rewritten4(frame, offset, *octets):
    """As `rewritten`, with a correct IPv4 header checksum."""
    changed = bytearray(rewritten(frame, offset, *octets))
    changed[24:26] = b"\0\0"
    header = changed[14:14 + (changed[14] & 15) * 4]
    total = sum(struct.unpack(f"!{len(header) // 2}H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    changed[24:26] = struct.pack("!H", ~total & 0xFFFF)
    return bytes(changed)


def malformed():
    tcp4 = Flow(TWO_NICS, TCP, CLIENT, WEB, OF_WEB).request(b"payload!", flags="S")[0]
    tcp6 = Flow(TWO_NICS, TCP, CLIENT6, WEB6, OF_WEB6).request(b"payload!", flags="S")[0]
    udp4 = Flow(TWO_NICS, UDP, CLIENT, DNS, OF_DNS).request(b"payload!")[0]
    udp6 = Flow(TWO_NICS, UDP, CLIENT6, DNS6, OF_DNS6).request(b"payload!")[0]

    case = Case("frames_cut_at_every_octet_are_dropped", "Any length short of the whole")
    for frame in (tcp4, tcp6, udp4, udp6):
        for length in range(1, len(raw(frame))):
            case.outside(raw(frame)[:length], dropped="truncated")

    case = Case("headers_that_contradict_themselves_are_dropped", "Version, lengths, offsets")
    for frame in (
        rewritten4(tcp4, 14, 0x55),              # version 5
        rewritten4(tcp4, 14, 0x44),              # header of 16 octets
        rewritten4(tcp4, 16, 0, 19),             # total length less than the header
        rewritten4(tcp4, 46, 0x40),              # TCP header of 16 octets
        rewritten4(tcp4, 46, 0xF0),              # TCP header beyond the packet
        rewritten4(udp4, 38, 0, 7),              # UDP length less than its header
        rewritten4(udp4, 38, 0, 17),             # UDP length beyond the packet
        rewritten(tcp6, 14, 0x40),               # version 4
        rewritten(tcp6, 66, 0x40),
        rewritten(tcp6, 66, 0xF0),
        rewritten(udp6, 58, 0, 7),
        rewritten(udp6, 58, 0, 17),
        rewritten(udp6, 20, 0),                  # a hop-by-hop header beyond the packet
    ):
        case.outside(frame, dropped="malformed")
    for frame in (
        rewritten4(tcp4, 16, 0x40, 0),           # total length beyond the frame
        rewritten(tcp6, 18, 0x40, 0),
    ):
        case.outside(frame, dropped="truncated")
    for offset in (24, 25, 22, 20, 15):
        octet = raw(tcp4)[offset] ^ 1
        case.outside(rewritten(tcp4, offset, octet), dropped="bad_checksum")

    case = Case("a_group_sends_no_frame", "IEEE 802.3: a source address names one station")
    for frame in (tcp4, tcp6, who_has("192.0.2.1"), ping4("192.0.2.1")):
        case.outside(rewritten(frame, 6, 0x03), dropped="malformed")

    case = Case("martian_addresses_are_dropped", "Sources and destinations that cannot be")
    for source in ("0.0.0.0", "127.0.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"):
        frame = Flow(TWO_NICS, TCP, (source, 1), WEB, OF_WEB).request(flags="S")[0]
        case.outside(frame, dropped="martian")
    for target in ("0.0.0.0", "127.0.0.1", "255.255.255.255"):
        frame = Flow(TWO_NICS, TCP, CLIENT, (target, 80), OF_WEB).request(flags="S")[0]
        case.outside(frame, dropped="martian")
    for source in ("::", "::1", "ff02::1"):
        frame = Flow(TWO_NICS, TCP, (source, 1), WEB6, OF_WEB6).request(flags="S")[0]
        case.outside(frame, dropped="martian")
    frame = Flow(TWO_NICS, TCP, CLIENT6, ("::1", 80), OF_WEB6).request(flags="S")[0]
    case.outside(frame, dropped="martian")

    case = Case("frames_for_other_stations_are_dropped", "Other unicast, and unicast in a group")
    for destination in (ASKER, BROADCAST, "01:00:5e:00:00:01"):
        case.outside(rewritten(tcp4, 0, *bytes.fromhex(destination.replace(":", ""))),
                     dropped="not_for_us")
        case.outside(rewritten(tcp6, 0, *bytes.fromhex(destination.replace(":", ""))),
                     dropped="not_for_us")

    case = Case("a_wrong_transport_checksum_stays_wrong", "The ends judge it, not the director",
                ONE_NIC)
    flow = Flow(ONE_NIC, UDP, CLIENT, DNS, OF_DNS)
    frame, expected = flow.request(b"question")
    good_in, good_out = Ether(raw(frame))[UDP].chksum, Ether(raw(expected))[UDP].chksum
    wrong = (good_in + 1) & 0xFFFF
    case.request((flow.request(b"question", chksum=wrong)[0],
                  flow.request(b"question", chksum=(good_out + 1) & 0xFFFF)[1]))


def scheduling():
    case = Case("round_robin_begins_with_the_last_server", "As IPVS, whose lists grow at the head",
                ONE_NIC, any_order=False)
    for number in range(6):
        server = ("10.0.0.12", 8080) if number % 2 == 0 else ("10.0.0.11", 8080)
        flow = Flow(ONE_NIC, TCP, ("198.18.9.9", 40000 + number), WEB, server)
        case.request(flow.request(flags="S"))
        case.reply(flow.reply(flags="SA"))
        case.request(flow.request(flags="A"))

    case = Case("a_closed_connection_is_forgotten", "10 s after a reset, IPVS's timeout of CLOSE",
                eal=False)
    flow = Flow(TWO_NICS, TCP, CLIENT, WEB, OF_WEB)
    case.request(flow.request(flags="S"))
    case.reply(flow.reply(flags="RA"))
    case.wait(9_900)
    case.reply(flow.reply(flags="RA"))
    case.wait(10_300)
    case.inside(flow.reply(flags="RA")[0], dropped="not_owned")


def main():
    for make in (tcp_connections, udp_flows, ttl, headers_carried, arp_cases, neighbor_discovery,
                 echo, refusals, malformed, scheduling, *icmp_errors.ALL, *own_errors.ALL,
                 *fragments.ALL, *ftp_cases.ALL, *masquerade.ALL, *settings.ALL, *sctp_cases.ALL,
                 *tcp_cases.ALL, *vlans.ALL):
        make()
    for case in Case.all:
        case.write()
    print(f"{len(Case.all)} cases")


if __name__ == "__main__":
    main()
