"""SCTP: whole associations, aborts, checksums, errors, fragments, and what is wrong."""

from scapy.all import (
    IP, IPOption, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop, PadN, Raw, Ether,
    raw,
)
from scapy.layers.sctp import (
    SCTP, SCTPChunkAbort, SCTPChunkCookieAck, SCTPChunkCookieEcho, SCTPChunkData, SCTPChunkError,
    SCTPChunkHeartbeatAck, SCTPChunkHeartbeatReq, SCTPChunkInit, SCTPChunkInitAck, SCTPChunkSACK,
    SCTPChunkParamHeartbeatInfo, SCTPChunkParamStateCookie, SCTPChunkShutdown, SCTPChunkShutdownAck,
    SCTPChunkShutdownComplete,
)

from cases import CLIENT, CLIENT6, PORT0, PORT1, Case, Flow, Topology
from icmp_errors import EXTENSION, from_inside, from_outside, padded
from own_errors import split, time_exceeded, too_big, unreachable

SCTP.payload_guess.clear()

TWO = Topology("sctp", ("outside", PORT0), ("inside", PORT1))
ONE = Topology("sctp-one-nic", ("lan", PORT0), ("lan", PORT0))
VIP, VIP6 = ("192.0.2.100", 2905), ("2001:db8:1::100", 2905)
SERVER, SERVER6 = ("10.0.0.12", 3905), ("fd00::11", 3905)
SAME, SAME6 = ("192.0.2.101", 2905), ("2001:db8:1::101", 2905)
OF_SAME, OF_SAME6 = ("10.0.0.11", 2905), ("fd00::12", 2905)
C_TAG, S_TAG = 0xC0FFEE01, 0x5EEDBEEF
COOKIE = bytes(range(77))

INIT = SCTPChunkInit(init_tag=C_TAG, a_rwnd=65536, n_out_streams=10, n_in_streams=10,
                     init_tsn=0xFFFFFFFF)
INIT_ACK = SCTPChunkInitAck(init_tag=S_TAG, a_rwnd=65536, n_out_streams=10, n_in_streams=10,
                            init_tsn=7, params=[SCTPChunkParamStateCookie(cookie=COOKIE)])
COOKIE_ECHO = SCTPChunkCookieEcho(cookie=COOKIE)
COOKIE_ACK = SCTPChunkCookieAck()
ABORT = SCTPChunkAbort()
ABORT_T = SCTPChunkAbort(TCB=1)
SHUTDOWN, SHUTDOWN_ACK = SCTPChunkShutdown(cumul_tsn_ack=7), SCTPChunkShutdownAck()
COMPLETE = SCTPChunkShutdownComplete()
HEARTBEAT = SCTPChunkHeartbeatReq(params=[SCTPChunkParamHeartbeatInfo(data=b"now")])
HEARTBEAT_ACK = SCTPChunkHeartbeatAck(params=[SCTPChunkParamHeartbeatInfo(data=b"now")])
SACK = SCTPChunkSACK(cumul_tsn_ack=7, a_rwnd=65536)


def data(octets, tsn=0):
    return SCTPChunkData(tsn=tsn, beginning=1, ending=1, stream_id=3, data=octets)


def chunks(*parts):
    return b"".join(raw(part) for part in parts)


def kinds():
    for name, client, service, server in (
        ("ipv4", CLIENT, VIP, SERVER), ("ipv6", CLIENT6, VIP6, SERVER6),
        ("ipv4_same_port", CLIENT, SAME, OF_SAME), ("ipv6_same_port", CLIENT6, SAME6, OF_SAME6),
    ):
        yield name, client, service, server


def flows(topology=TWO):
    """A client of its own each: what one sends keeps its order whatever waits for a neighbour."""
    for number, (_, client, service, server) in enumerate(kinds()):
        yield Flow(topology, SCTP, (client[0], client[1] + number), service, server)


def opened(case, flow):
    case.request(flow.request(chunks(INIT), tag=0))
    case.reply(flow.reply(chunks(INIT_ACK), tag=C_TAG))
    case.request(flow.request(chunks(COOKIE_ECHO), tag=S_TAG))
    case.reply(flow.reply(chunks(COOKIE_ACK), tag=C_TAG))


def associations():
    for topology, suffix in ((TWO, ""), (ONE, "_one_nic")):
        for name, client, service, server in kinds():
            case = Case(f"sctp_association_{name}{suffix}",
                        "A whole life: four-way handshake, data, heartbeat, shutdown", topology)
            flow = Flow(topology, SCTP, client, service, server)
            case.request(flow.request(chunks(INIT), tag=0))
            case.reply(flow.reply(chunks(INIT_ACK), tag=C_TAG))
            case.request(flow.request(chunks(COOKIE_ECHO, data(b"first", 1)), tag=S_TAG))
            case.reply(flow.reply(chunks(COOKIE_ACK, SACK), tag=C_TAG))
            case.request(flow.request(chunks(data(b"x" * 1001, 2)), tag=S_TAG))
            case.reply(flow.reply(chunks(SACK, data(b"answer"), data(b"and more", 1)), tag=C_TAG))
            case.request(flow.request(chunks(SACK), tag=S_TAG))
            case.request(flow.request(chunks(HEARTBEAT), tag=S_TAG))
            case.reply(flow.reply(chunks(HEARTBEAT_ACK), tag=C_TAG))
            case.reply(flow.reply(chunks(HEARTBEAT), tag=C_TAG))
            case.request(flow.request(chunks(HEARTBEAT_ACK), tag=S_TAG))
            case.reply(flow.reply(chunks(SCTPChunkError()), tag=C_TAG))
            # A retransmitted and a misplaced one change nothing.
            case.request(flow.request(chunks(COOKIE_ECHO), tag=S_TAG))
            case.request(flow.request(chunks(INIT), tag=0))
            case.reply(flow.reply(chunks(INIT_ACK), tag=C_TAG))
            case.request(flow.request(chunks(SHUTDOWN), tag=S_TAG))
            case.reply(flow.reply(chunks(SHUTDOWN_ACK), tag=C_TAG))
            case.request(flow.request(chunks(COMPLETE), tag=S_TAG))

    case = Case("sctp_association_opened_by_both", "INITs that cross, and a shutdown by the server", TWO)
    for flow in flows():
        case.request(flow.request(chunks(INIT), tag=0))
        case.reply(flow.reply(chunks(INIT), tag=0))
        case.request(flow.request(chunks(INIT_ACK), tag=S_TAG))
        case.reply(flow.reply(chunks(COOKIE_ECHO), tag=C_TAG))
        case.request(flow.request(chunks(COOKIE_ACK), tag=S_TAG))
        case.reply(flow.reply(chunks(SHUTDOWN), tag=C_TAG))
        case.request(flow.request(chunks(SHUTDOWN_ACK), tag=S_TAG))
        case.reply(flow.reply(chunks(COMPLETE), tag=C_TAG))


def aborts():
    case = Case("sctp_aborts", "From either side, before, during and after; behind a cookie", TWO)
    for flow in flows():
        case.request(flow.request(chunks(INIT), tag=0))
        case.reply(flow.reply(chunks(ABORT_T), tag=0))
        # The same ports again, and all of it.
        opened(case, flow)
        case.request(flow.request(chunks(ABORT), tag=S_TAG))
        case.request(flow.request(chunks(INIT), tag=0))
        case.reply(flow.reply(chunks(INIT_ACK), tag=C_TAG))
        case.request(flow.request(chunks(COOKIE_ECHO, ABORT), tag=S_TAG))
        opened(case, flow)
        case.reply(flow.reply(chunks(ABORT), tag=C_TAG))

    case = Case("sctp_rejected_association_is_forgotten", "4 s after an ABORT for the INIT", TWO,
                eal=False)
    flow = next(flows())
    case.request(flow.request(chunks(INIT), tag=0))
    case.reply(flow.reply(chunks(ABORT), tag=C_TAG))
    case.wait(3_900)
    case.reply(flow.reply(chunks(SACK), tag=C_TAG))
    case.wait(4_300)
    case.inside(flow.reply(chunks(SACK), tag=C_TAG)[0], dropped="not_owned")


def checksums():
    case = Case("sctp_wrong_checksum_stays_wrong", "By the same bits; the ends judge it", ONE)
    for flow in flows(ONE):
        opened(case, flow)
        for payload in (chunks(data(b"some data")), chunks(data(b"y" * 1300))):
            for make in (flow.request, flow.reply):
                frame, expected = make(payload, tag=S_TAG)
                come, leave = Ether(raw(frame))[SCTP].chksum, Ether(raw(expected))[SCTP].chksum
                for wrong in (1, 0x80000000, 0xFFFFFFFF, come):
                    frame = make(payload, tag=S_TAG, chksum=come ^ wrong)[0]
                    expected = make(payload, tag=S_TAG, chksum=leave ^ wrong)[1]
                    if make == flow.request:
                        case.request((frame, expected))
                    else:
                        case.reply((frame, expected))

    case = Case("sctp_of_any_length", "Padded chunks, unknown chunks, Ethernet padding", ONE)
    for flow in flows(ONE):
        opened(case, flow)
        for length in (*range(0, 9), 200, 235, 236, 237, 238, 239, 240, 241, 490, 1400):
            case.request(flow.request(chunks(data(b"z" * length)), tag=S_TAG))
            case.reply(flow.reply(chunks(data(b"z" * length), SACK), tag=C_TAG))
        case.request(flow.request(b"\xc0\x00\x00\x07abc", tag=S_TAG))
        case.request(flow.request(b"\x80\x00\x00\x04\x41\x00\x00\x05!\0\0\0", tag=S_TAG))
        frame, expected = flow.request(chunks(COOKIE_ACK), tag=S_TAG)
        case.request((raw(frame) + b"\xee" * 17, expected))


def headers():
    case = Case("sctp_behind_options_and_extensions", "Where the common header begins", ONE)
    for flow in flows(ONE):
        opened(case, flow)
        if flow.v6:
            for chain in (
                [IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0" * 4)])],
                [IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 12)])],
                # Told apart by it when they leave.
                [IPv6ExtHdrFragment(id=flow.client[1])],
            ):
                case.request(flow.request(chunks(data(b"data")), tag=S_TAG, chain=chain))
                case.reply(flow.reply(chunks(data(b"data")), tag=S_TAG, chain=chain))
        else:
            ip = {"options": [IPOption(b"\x94\x04\x00\x00")], "id": 5, "tos": 0xB8}
            case.request(flow.request(chunks(data(b"data")), tag=S_TAG, ip=ip))
            case.reply(flow.reply(chunks(data(b"data")), tag=S_TAG, ip=ip))

    case = Case("sctp_with_an_expired_ttl_or_too_big", "Answered; what may be split is", TWO)
    for flow in flows():
        frame = flow.request(chunks(INIT), tag=0, hops=1)[0]
        case.outside(frame, ("outside", time_exceeded(frame, flow.service[0])), dropped="ttl_expired")
        case.request(flow.request(chunks(INIT), tag=0))
        payload = chunks(data(b"d" * 1300))
        df = {} if flow.v6 else {"ip": {"flags": "DF", "id": 7}}
        frame = flow.request(payload, tag=S_TAG, **df)[0]
        case.outside(frame, ("outside", too_big(frame, flow.service[0], 1280)), dropped="mtu_exceeded")
        # One flow's pieces only: later ones have no ports by which to tell them apart.
        if not flow.v6 and flow.service[1] != flow.server[1]:
            frame, expected = flow.request(payload, tag=S_TAG, ip={"id": 0xBEEF})
            pieces = split(expected, 1280)
            assert len(pieces) == 2
            case.outside(frame, *[("inside", piece) for piece in pieces], consumed=1)


def refusals():
    case = Case("sctp_without_association_is_dropped", "Only an INIT opens one", TWO)
    for flow in flows():
        for first in (INIT_ACK, COOKIE_ECHO, COOKIE_ACK, data(b"x"), SACK, HEARTBEAT, SHUTDOWN,
                      SHUTDOWN_ACK, COMPLETE, ABORT, SCTPChunkError()):
            case.outside(flow.request(chunks(first), tag=S_TAG)[0], dropped="no_connection")
        case.request(flow.request(chunks(INIT), tag=0))
        stranger = Flow(TWO, SCTP, (flow.client[0], 29999), flow.service, flow.server)
        case.inside(stranger.reply(chunks(data(b"x")))[0], dropped="not_owned")

    case = Case("sloppy_sctp_opens_on_any_packet", "As IPVS's sloppy_sctp", ONE)
    for number, first in enumerate((INIT_ACK, COOKIE_ECHO, COOKIE_ACK, data(b"x"), SACK, HEARTBEAT,
                                    SHUTDOWN, SHUTDOWN_ACK, COMPLETE, ABORT, SCTPChunkError())):
        flow = Flow(ONE, SCTP, ("198.18.7.7", 30000 + number), ("192.0.2.102", 2905),
                    ("10.0.0.11", 3905))
        case.request(flow.request(chunks(first), tag=S_TAG))
        case.reply(flow.reply(chunks(SACK), tag=C_TAG))

    case = Case("closed_sctp_port", "Port unreachable, but not about the last word (RFC 9260 8.4)", TWO)
    for client, service, server in ((CLIENT, ("192.0.2.100", 2906), SERVER),
                                    (CLIENT, ("192.0.2.1", 2905), SERVER),
                                    (CLIENT6, ("2001:db8:1::100", 2906), SERVER6)):
        flow = Flow(TWO, SCTP, client, service, server)
        for payload in (chunks(INIT), chunks(data(b"u" * 1300)), chunks(COOKIE_ECHO), chunks(SACK)):
            frame = flow.request(payload, tag=0)[0]
            case.outside(frame, ("outside", unreachable(frame)), dropped="no_service")
        for last in (ABORT, ABORT_T, COMPLETE):
            case.outside(flow.request(chunks(last), tag=S_TAG)[0], dropped="no_service")

    case = Case("no_sctp_server", "Port unreachable, as IPVS answers", TWO)
    flow = Flow(TWO, SCTP, CLIENT, ("192.0.2.103", 2905), SERVER)
    frame = flow.request(chunks(INIT), tag=0)[0]
    case.outside(frame, ("outside", unreachable(frame)), dropped="no_server")
    case.outside(flow.request(chunks(SACK), tag=0)[0], dropped="no_connection")

    case = Case("sctp_cut_at_every_octet_is_dropped", "Any length short of the whole", TWO)
    for flow in flows():
        frame = raw(flow.request(chunks(INIT), tag=0)[0])
        for length in range(len(frame) - 33, len(frame)):
            case.outside(frame[:length], dropped="truncated")

    case = Case("sctp_that_contradicts_itself_is_dropped", "No chunk, half of one, one too long", TWO)
    for flow in flows():
        for wrong in (b"", b"\1", b"\1\0\0", b"\1\0\0\0", b"\1\0\0\3", b"\1\0\0\5",
                      b"\1\0\0\x15" + bytes(16), b"\1\0\xff\xff" + bytes(16)):
            case.outside(flow.request(wrong, tag=0)[0], dropped="malformed")
        head = IPv6(nh=132) if flow.v6 else IP(proto=132)
        link = Ether(raw(flow.request(b"", tag=0)[0]))
        link[IPv6 if flow.v6 else IP].remove_payload()
        for length in range(12):
            short = link / Raw(bytes(length)) if length else link.copy()
            if flow.v6:
                short[IPv6].nh, short[IPv6].plen = head.nh, None
            else:
                short[IP].proto, short[IP].len, short[IP].chksum = head.proto, None, None
            case.outside(short, dropped="malformed")


def errors():
    case = Case("sctp_icmp_errors", "From both sides, quotes cut anywhere, the CRC32c right for all of it",
                TWO, eal=False)
    bodies = (chunks(data(b"a request or reply of some length")), chunks(data(b"l" * 700)))
    for flow in flows():
        opened(case, flow)
        header = 40 if flow.v6 else 20
        kind = 1 if flow.v6 else 3
        for body in bodies:
            # A cut within the checksum leaves nothing that could be right.
            for cut in (None, *range(4, 9), *range(12, 20), 40):
                cut = cut and header + cut
                frame, expected = from_outside(flow, kind, 1, cut=cut, body=body)
                case.outside(frame, ("inside", expected))
                frame, expected = from_inside(flow, kind, 1, cut=cut, body=body)
                case.inside(frame, ("outside", expected))
        for length in range(4):
            frame = from_outside(flow, kind, 1, cut=header + length, body=bodies[0])[0]
            case.outside(frame, dropped="truncated")
        # RFC 4884, in words of 8 octets (IPv6) or 4.
        rest = bytes([16, 0, 0, 0]) if flow.v6 else bytes([0, 32, 0, 0])
        for cut in (None, header + 8, header + 16):
            frame, expected = from_inside(flow, 3 if flow.v6 else 11, 0, rest, cut, padded,
                                          body=bodies[1])
            case.inside(frame, ("outside", expected))
        stranger = Flow(TWO, SCTP, (flow.client[0], 29999), flow.service, flow.server)
        case.outside(from_outside(stranger, kind, 1, body=bodies[0])[0], dropped="icmp_unrelated")
        # And the association lives on.
        case.request(flow.request(chunks(SACK), tag=S_TAG))

    case = Case("sctp_icmp_errors_about_fragments", "A first fragment does not tell how long all is",
                TWO, eal=False)
    for flow in flows():
        if flow.v6:
            continue
        opened(case, flow)
        body = chunks(data(b"a part of it"))
        # Whatever the checksum: it stays.
        frame, expected = from_outside(flow, 3, 1, body=body, ip={"flags": "MF"}, chksum=0x12345678)
        case.outside(frame, ("inside", expected))


def fragments():
    case = Case("sctp_fragments", "Passed where no port changes; else the CRC32c cannot be updated",
                TWO, eal=False)
    for flow in flows():
        if flow.v6:
            continue
        opened(case, flow)
        payload = chunks(data(bytes(range(256)) * 4))
        frame, expected = flow.request(payload, tag=S_TAG, ip={"id": 0x4242})
        for come, leave in zip(split(frame, 576), split(expected, 576)):
            if flow.service[1] == flow.server[1]:
                case.request((come, leave))
            else:
                case.outside(come, dropped="sctp_fragment")
        # Too short for the first chunk header.
        tiny = split(flow.request(payload, tag=S_TAG, ip={"id": 0x4243})[0], 28)
        for piece in tiny[:3]:
            case.outside(piece, dropped="malformed")


ALL = (associations, aborts, checksums, headers, refusals, errors, fragments)
