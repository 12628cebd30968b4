"""What the director tells the sender of a packet that it cannot forward."""

import struct

from scapy.all import IP, TCP, UDP, Ether, IPOption, IPv6, IPv6ExtHdrHopByHop, PadN, Raw, raw

from cases import (
    CLIENT, CLIENT6, CLIENT_SIDE, DNS, DNS6, OF_DNS, OF_DNS6, OF_WEB, OF_WEB6, PORT0, PORT1,
    SERVER_MAC, TWO_NICS, WEB, WEB6, Case, Flow, Topology,
)
from icmp_errors import icmp

NARROW = Topology("narrow", ("outside", PORT0), ("inside", PORT1))


def about(frame, source, kind, code, rest=bytes(4)):
    """An error about a frame: 576 octets at most over IPv4, 1280 over IPv6."""
    frame = Ether(raw(frame))
    link = (frame.dst, frame.src)
    if IPv6 in frame:
        quote = raw(frame)[14:14 + 1280 - 48]
        return icmp(link, (source, frame[IPv6].src), kind, code, rest, quote, hops=64)
    quote = raw(frame)[14:14 + 576 - 28]
    return icmp(link, (source, frame[IP].src), kind, code, rest, quote, hops=64, tos=0xC0, id=0)


def network(frame):
    frame = Ether(raw(frame))
    return frame[IPv6] if IPv6 in frame else frame[IP]


def time_exceeded(frame, source):
    return about(frame, source, *((3, 0) if ":" in source else (11, 0)))


def unreachable(frame):
    source = network(frame).dst
    return about(frame, source, *((1, 4) if ":" in source else (3, 3)))


def too_big(frame, source, mtu):
    if ":" in source:
        return about(frame, source, 2, 0, struct.pack("!I", mtu))
    return about(frame, source, 3, 4, struct.pack("!HH", 0, mtu))


def reset(frame):
    frame = Ether(raw(frame))
    ip, tcp = network(frame), frame[TCP]
    data = len(tcp.payload)
    if "A" in tcp.flags:
        fields = {"flags": "R", "seq": tcp.ack, "ack": 0}
    else:
        length = data + ("S" in tcp.flags) + ("F" in tcp.flags)
        fields = {"flags": "RA", "seq": 0, "ack": (tcp.seq + length) % 2 ** 32}
    if IPv6 in frame:
        answer = IPv6(src=ip.dst, dst=ip.src, hlim=64)
    else:
        answer = IP(src=ip.dst, dst=ip.src, ttl=64, id=0, flags="DF")
    return Ether(src=frame.dst, dst=frame.src) / answer / TCP(
        sport=tcp.dport, dport=tcp.sport, window=0, **fields)


def closed_ports():
    case = Case("closed_tcp_port", "A reset as of RFC 9293 3.10.7.1, but never one for a reset")
    for client, service, server in ((CLIENT, ("192.0.2.100", 81), OF_WEB),
                                    (CLIENT6, ("2001:db8:1::100", 81), OF_WEB6)):
        flow = Flow(TWO_NICS, TCP, client, service, server)
        for flags in ("S", "A", "SA", "F", "FA", "PA", "", "SF", "FPU"):
            for payload in (b"", b"hello"):
                for hops in (64, 1):
                    frame = flow.request(payload, flags=flags, seq=0xFFFFFFFE, ack=77, hops=hops)[0]
                    case.outside(frame, ("outside", reset(frame)), dropped="no_service")
        for flags in ("R", "RA", "SR"):
            case.outside(flow.request(flags=flags)[0], dropped="no_service")
    flow = Flow(TWO_NICS, TCP, CLIENT, ("192.0.2.100", 81), OF_WEB)
    frame = flow.request(b"abc", flags="S", options=[("MSS", 1460)],
                         ip={"options": [IPOption(b"\x94\x04\x00\x00")]})[0]
    case.outside(frame, ("outside", reset(frame)), dropped="no_service")
    flow = Flow(TWO_NICS, TCP, CLIENT6, ("2001:db8:1::100", 81), OF_WEB6)
    chain = [IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0" * 4)])]
    frame = flow.request(b"abc", flags="S", chain=chain)[0]
    case.outside(frame, ("outside", reset(frame)), dropped="no_service")

    case = Case("closed_udp_port", "Port unreachable; the quote no longer than an error may be")
    for client, service, server in ((CLIENT, ("192.0.2.100", 81), OF_DNS),
                                    (CLIENT6, ("2001:db8:1::100", 81), OF_DNS6)):
        flow = Flow(TWO_NICS, UDP, client, service, server)
        for length in (0, 1, 519, 520, 521, 1183, 1184, 1185, 1400):
            frame = flow.request(b"u" * length)[0]
            case.outside(frame, ("outside", unreachable(frame)), dropped="no_service")
        # It is for the director itself: nothing expires.
        frame = flow.request(b"u", hops=1)[0]
        case.outside(frame, ("outside", unreachable(frame)), dropped="no_service")
        # Padding is not quoted.
        frame = flow.request(b"u")[0]
        case.outside(raw(frame) + b"\xee" * 30, ("outside", unreachable(frame)), dropped="no_service")

    case = Case("no_server", "Port unreachable, as IPVS answers, also for TCP", NARROW)
    for layer4 in (TCP, UDP):
        flow = Flow(NARROW, layer4, CLIENT, ("192.0.2.103", 80), OF_WEB)
        frame = flow.request()[0] if layer4 == UDP else flow.request(flags="S")[0]
        case.outside(frame, ("outside", unreachable(frame)), dropped="no_server")


def expired():
    case = Case("ttl_that_is_not_ours_to_count", "Nothing is said of packets that are not forwarded")
    stranger = Flow(TWO_NICS, UDP, CLIENT, ("192.0.2.66", 80), OF_WEB).request(hops=1)[0]
    case.outside(stranger, dropped="not_owned")
    case.inside(Flow(TWO_NICS, UDP, CLIENT, WEB, OF_WEB).reply(hops=1)[0], dropped="not_owned")
    segment = Flow(TWO_NICS, TCP, CLIENT, WEB, OF_WEB).request(flags="A", hops=1)[0]
    case.outside(segment, dropped="no_connection")


def split(frame, mtu, later_options=None):
    """RFC 791: the pieces of an IPv4 frame."""
    frame = Ether(raw(frame))
    ip, payload = frame[IP], raw(frame[IP].payload)
    room = (mtu - 4 * ip.ihl) // 8 * 8
    pieces = []
    for offset in range(0, len(payload), room):
        part = payload[offset:offset + room]
        last = offset + room >= len(payload)
        options = later_options if offset and later_options else ip.options
        more = ip.flags.MF or not last
        pieces.append(frame.copy())
        head = IP(src=ip.src, dst=ip.dst, ttl=ip.ttl, id=ip.id, tos=ip.tos, proto=ip.proto,
                  flags="MF" if more else 0, frag=ip.frag + offset // 8, options=options)
        pieces[-1] = Ether(src=frame.src, dst=frame.dst) / head / Raw(part)
    return pieces


def mtu():
    case = Case("too_big", "DF or IPv6: the sender learns the MTU of the link", NARROW)
    for layer4, client, service, server, own in (
        (TCP, CLIENT, WEB, OF_WEB, "10.0.0.1"), (UDP, CLIENT, DNS, OF_DNS, "10.0.0.1"),
        (TCP, CLIENT6, WEB6, OF_WEB6, "fd00::1"), (UDP, CLIENT6, DNS6, OF_DNS6, "fd00::1"),
    ):
        flow = Flow(NARROW, layer4, client, service, server)
        ip = {} if flow.v6 else {"ip": {"flags": "DF", "id": 7}}
        headers = (40 if flow.v6 else 20) + (20 if layer4 == TCP else 8)
        first = {"flags": "S"} if layer4 == TCP else {}
        case.request(flow.request(**first, **ip))
        # The link inside takes 1280, that outside 1400.
        case.request(flow.request(b"r" * (1280 - headers), **ip))
        case.reply(flow.reply(b"r" * (1400 - headers), **ip))
        for length in (1281, 1400):
            frame = flow.request(b"r" * (length - headers), **ip)[0]
            case.outside(frame, ("outside", too_big(frame, service[0], 1280)), dropped="mtu_exceeded")
        for length in (1401, 1500):
            frame = flow.reply(b"r" * (length - headers), **ip)[0]
            case.inside(frame, ("inside", too_big(frame, own, 1400)), dropped="mtu_exceeded")

    case = Case("ipv4_packets_without_df_are_split", "Offsets, flags, and the options that are copied",
                NARROW)
    for layer4, service, server in ((TCP, WEB, OF_WEB), (UDP, DNS, OF_DNS)):
        flow = Flow(NARROW, layer4, CLIENT, service, server)
        case.request(flow.request(**({"flags": "S"} if layer4 == TCP else {})))
        for length in (1270, 1300, 1452):
            for options, later in ((b"", None), (b"\x94\x04\x00\x00", None),
                                   (b"\x07\x07\x04\x00\x00\x00\x00\x01", b"\x01" * 8),
                                   (b"\x01\x44\x07\x05\x00\x00\x00\x00" + b"\x94\x04\x12\x34",
                                    b"\x01" * 8 + b"\x94\x04\x12\x34")):
                ip = {"options": [IPOption(options)] if options else [], "id": 0xBEEF, "tos": 8}
                frame, expected = flow.request(bytes(range(256)) * 5 + b"z" * (length - 1280), ip=ip) \
                    if length >= 1280 else flow.request(b"q" * length, ip=ip)
                pieces = split(expected, 1280, [IPOption(later)] if later else None)
                assert len(pieces) == 2
                case.outside(frame, *[("inside", piece) for piece in pieces], consumed=1)


ALL = (closed_ports, expired, mtu)
