"""TCP's odd but valid lives, ports that are used again, and reply tuples that two would share."""

import struct

from scapy.all import TCP, UDP

from cases import CLIENT, CLIENT6, MSS, PORT0, PORT1, Case, Flow, Topology

TWO = Topology("corners", ("outside", PORT0), ("inside", PORT1))
ONE = Topology("corners-one-nic", ("lan", PORT0), ("lan", PORT0))
# Three services on the same two servers, of which the last is scheduled first.
VIPS = ("192.0.2.100", "192.0.2.101", "192.0.2.102")
VIPS6 = ("2001:db8:1::100", "2001:db8:1::101", "2001:db8:1::102")
SERVERS, SERVERS6 = ("10.0.0.12", "10.0.0.11"), ("fd00::12", "fd00::11")
WRAP = 2 ** 32


class Life:
    """A connection with the sequence numbers of its ends."""

    def __init__(self, case, flow, client=WRAP - 3, server=WRAP - 5):
        self.case, self.flow, self.next = case, flow, [client, server]

    def _fields(self, flags, own, other, data, more):
        fields = {"flags": flags, "seq": self.next[own]}
        if "A" in flags:
            fields["ack"] = self.next[other]
        self.next[own] = (self.next[own] + len(data) + ("S" in flags) + ("F" in flags)) % WRAP
        return {**fields, **more}

    def request(self, flags, data=b"", **more):
        self.case.request(self.flow.request(data, **self._fields(flags, 0, 1, data, more)))

    def reply(self, flags, data=b"", **more):
        self.case.reply(self.flow.reply(data, **self._fields(flags, 1, 0, data, more)))

    def opened(self):
        self.request("S", options=MSS)
        self.reply("SA", options=MSS)
        self.request("A")
        return self


def flow(topology, family, vip=0, server=0, client=None, layer4=TCP):
    ports = (80, 8080) if layer4 is TCP else (53, 5353)
    if family == "ipv6":
        return Flow(topology, layer4, client or CLIENT6, (VIPS6[vip], ports[0]),
                    (SERVERS6[server], ports[1]))
    return Flow(topology, layer4, client or CLIENT, (VIPS[vip], ports[0]),
                (SERVERS[server], ports[1]))


def each(name, description, topology=ONE, any_order=True):
    """A case of each family, and what makes flows for it. The running director replays those of
    one wire. Two wires have those in which time passes, or one client port has several servers:
    at the start, those wait for their neighbours, each for itself."""
    for family in ("ipv4", "ipv6"):
        case = Case(f"{name}_{family}", description, topology, eal=topology is ONE,
                    any_order=any_order)
        yield case, lambda *args, family=family, **more: flow(topology, family, *args, **more)


def other_client(base, port):
    return (base.client[0], port)


def handshakes():
    for case, make in each("tcp_syn_again", "A SYN that is sent again goes to the same server",
                           any_order=False):
        life = Life(case, make())
        first = life.next[0]
        life.request("S", options=MSS)
        for _ in range(3):
            life.request("S", options=MSS, seq=first)
        # Others are scheduled meanwhile, to the other server and this one.
        for port, server in ((20001, 1), (20002, 0)):
            other = make(0, server, other_client(life.flow, port))
            Life(case, other).opened()
        life.request("S", options=MSS, seq=first)
        second = life.next[1]
        life.reply("SA", options=MSS)
        # It was on its way before the answer came; the answer comes again.
        life.request("S", options=MSS, seq=first)
        life.reply("SA", options=MSS, seq=second)
        life.request("A")
        life.request("PA", b"hello")
        # Even now: an old one, which the server answers (RFC 9293 section 3.10.7.4).
        life.request("S", options=MSS, seq=first)
        life.reply("A", b"")
        life.reply("PA", b"and to you")

    for case, make in each("tcp_syn_again_after_seconds", "RFC 6298: after 1, 2, 4 s", TWO):
        life = Life(case, make())
        first = life.next[0]
        life.request("S", options=MSS)
        for seconds in (1, 2, 4, 8, 16, 32):
            case.wait(1000 * seconds)
            life.request("S", options=MSS, seq=first)
        life.reply("SA", options=MSS)
        life.request("A")

    for case, make in each("tcp_simultaneous_open", "RFC 9293 figure 8: two SYNs that cross"):
        life = Life(case, make())
        client, server = life.next
        life.request("S", options=MSS)
        life.reply("S", options=MSS)
        life.reply("SA", options=MSS, seq=server)
        life.request("SA", options=MSS, seq=client)
        # Each counted its SYN twice above.
        life.next = [(client + 1) % WRAP, (server + 1) % WRAP]
        life.request("A")
        life.reply("A")
        life.request("PA", b"both of us")
        life.reply("PA", b"opened this")
        life.request("FA")
        life.reply("FA")
        life.request("A")

    for case, make in each("tcp_data_with_the_syn", "RFC 9293 section 3.4, RFC 7413"):
        life = Life(case, make())
        cookie = [("MSS", 1460), (34, b"\x01\x02\x03\x04\x05\x06\x07\x08")]
        life.request("S", b"GET /\r\n", options=cookie)
        life.reply("SA", b"early", options=MSS)
        life.request("A")
        life.reply("FPA", b"late")
        life.request("FA")
        life.reply("A")


def endings():
    for case, make in each("tcp_simultaneous_close", "RFC 9293 figure 13: two FINs that cross"):
        life = Life(case, make()).opened()
        client, server = life.next
        life.request("FA", ack=server)
        life.reply("FA", ack=client)
        life.request("A")
        life.reply("A")
        # Each did not see the other's last acknowledgement.
        life.request("FA", seq=client)
        life.reply("A")
        life.reply("FA", seq=server)
        life.request("A")

    for case, make in each("tcp_half_close_of_the_client", "It has sent all; the answer takes long",
                           TWO):
        life = Life(case, make()).opened()
        life.request("FPA", b"all that I ask")
        life.reply("A")
        for turn in range(12):
            # CLOSE_WAIT lives 60 s; packets of either side keep it.
            case.wait(59_000)
            if turn % 3 < 2:
                life.reply("PA", b"%d" % turn * 500)
            if turn % 3 > 0:
                life.request("A")
        life.reply("FPA", b"that was all")
        life.request("A")

    for case, make in each("tcp_half_close_of_the_server", "It has sent all; the client goes on",
                           TWO):
        life = Life(case, make()).opened()
        life.reply("FPA", b"go on")
        life.request("A")
        for turn in range(12):
            # FIN_WAIT lives 120 s.
            case.wait(119_000)
            if turn % 3 < 2:
                life.request("PA", b"%d" % turn * 500)
            if turn % 3 > 0:
                life.reply("A")
        life.request("FPA", b"that was all")
        life.reply("A")

    for who in ("client", "server"):
        for case, make in each(f"tcp_reset_by_the_{who}",
                               "RFC 7857 2.2: what goes on after it keeps the connection", TWO):
            life = Life(case, make()).opened()
            life.request("PA", b"before")
            (life.request if who == "client" else life.reply)("R")
            # It was a blind one: both go on, and never pause for 10 s.
            for _ in range(4):
                case.wait(9_000)
                life.reply("PA", b"after")
                case.wait(9_000)
                life.request("A")
                life.request("PA", b"and after")
            # It was a true one.
            (life.request if who == "client" else life.reply)("RA")
            case.wait(10_300)
            case.inside(life.flow.reply(b"late", flags="PA")[0], dropped="not_owned")
            case.outside(life.flow.request(b"late", flags="PA")[0], dropped="no_connection")

    for case, make in each("tcp_keep_alive", "RFC 9293 3.8.4, with and without an octet", TWO):
        life = Life(case, make()).opened()
        for turn in range(6):
            # The default 15 minutes, but for a second.
            case.wait(899_000)
            sender, peer = (life.request, life.reply)[::1 if turn % 2 == 0 else -1]
            own = life.next[turn % 2]
            sender("A", seq=(own - 1) % WRAP)
            peer("A")
            sender("A", b"\0", seq=(own - 1) % WRAP)
            life.next[turn % 2] = own
            peer("A")
        life.request("PA", b"still here")


def sack(*blocks, lead=b"\x01\x01"):
    edges = b"".join(struct.pack("!II", left % WRAP, right % WRAP) for left, right in blocks)
    return lead + bytes([5, 2 + len(edges)]) + edges


TIME = b"\x08\x0a" + struct.pack("!II", 0xFFFFFFFE, 0)
# Options as they stand in the header; each is filled up with what follows it here.
LAYOUTS = (
    b"\x02\x04\x05\xb4\x03\x03\x0e\x04\x02" + TIME,
    b"\x03\x03\x0e\x02\x04\x05\xb4" + TIME + b"\x04\x02",
    b"\x01" + TIME + b"\x01\x03\x03\x0e\x01\x04\x02\x01\x02\x04\xff\xff",
    b"\x01" * 40,
    b"\x00" + b"\xa5" * 39,
    sack((5, 9), (WRAP - 9, 7), (100, 200), (300, 400), lead=b"\x01\x01"),
    TIME + sack((5, 9), (20, 30), (40, 50), lead=b""),
    b"\x01" + sack((1, 2), lead=b"\x01") + TIME,
    # MD5 and AO signatures, MPTCP, an experiment, user timeout.
    b"\x13\x12" + bytes(range(16)),
    b"\x1d\x10\x07\x09" + bytes(range(12)),
    b"\x1e\x0c\x00\x81" + bytes(range(8)),
    b"\xfd\x08\xf9\x89\xca\xfe\xba\xbe\x1c\x04\x80\x78",
    # What breaks RFC 9293 is for the ends to judge.
    b"\x03\x00\x01\x01", b"\x04\x01\x04\x02", b"\x05\xff\x00\x00", b"\x02\x04\x05",
    b"\x08",
)


def options():
    for case, make in each("tcp_options_untouched",
                           "Window scale, SACK, timestamps and others, wherever they stand"):
        life = make()
        every = [(flags, layout) for layout in LAYOUTS for flags in ("S", "A")]
        for number, (flags, layout) in enumerate(every):
            layout += bytes(-len(layout) % 4)
            offset = 5 + len(layout) // 4
            body = layout + (b"odd" if number % 3 else b"")
            more = {"dataofs": offset, "seq": WRAP - 1 - number, "window": number * 1789 % 65536}
            case.request(life.request(body, flags=flags, **more))
            case.reply(life.reply(body, flags="SA" if flags == "S" else "A", ack=number, **more))

    for case, make in each("tcp_header_untouched", "Reserved bits, ECN, urgent pointer, window"):
        life = Life(case, make()).opened()
        for number, flags in enumerate(("SEC", "SEA", "ECA", "CPA", "UPA", "UEA", "FSUA", "")):
            more = {"reserved": number % 8, "urgptr": 0xFFFF - number, "window": number * 9362}
            case.request(life.flow.request(b"x" * number, flags=flags, seq=number, ack=7, **more))
            case.reply(life.flow.reply(b"y" * number, flags=flags, seq=7, ack=number, **more))


def ports_again():
    def goes_to_the_other(case, make):
        after = Life(case, make(0, 1), client=77, server=99).opened()
        after.request("PA", b"again")
        after.reply("PA", b"and again")
        # What the first server still has to say belongs to nothing.
        case.inside(make().reply(flags="A")[0], dropped="not_owned")

    for case, make in each("tcp_port_again_in_time_wait",
                           "A SYN after both FINs is scheduled anew, and goes on at once", TWO):
        life = Life(case, make()).opened()
        life.request("FA")
        life.reply("FA")
        life.request("A")
        goes_to_the_other(case, make)

    for who in ("client", "server"):
        for case, make in each(f"tcp_port_again_after_a_reset_by_the_{who}",
                               "A SYN after a reset is scheduled anew, and goes on at once", TWO):
            life = Life(case, make()).opened()
            (life.request if who == "client" else life.reply)("RA")
            goes_to_the_other(case, make)

    for case, make in each("tcp_port_again_and_again", "Many short connections, by turns", TWO):
        for turn in range(6):
            life = Life(case, make(0, turn % 2), client=turn * 1000).opened()
            life.request("PA", b"question")
            life.reply("FPA", b"answer")
            life.request("FA")
            life.reply("A")

    for case, make in each("tcp_port_of_a_living_connection",
                           "A SYN while one end has not closed keeps the server", any_order=False):
        for number, close in enumerate((None, "client", "server")):
            # By turns; between two of these one goes to the other server.
            life = Life(case, make(0, 0, other_client(make(), 21000 + number))).opened()
            Life(case, make(0, 1, other_client(make(), 22000 + number))).opened()
            if close:
                (life.request if close == "client" else life.reply)("FA")
            life.request("S", options=MSS)
            life.reply("A")
            life.request("A")


def reply_tuples():
    for layer4 in (TCP, UDP):
        name = "tcp" if layer4 is TCP else "udp"
        first, answer = ({"flags": "S"}, {"flags": "SA"}) if layer4 is TCP else ({}, {})
        for case, make in each(f"{name}_reply_tuple_taken",
                               "Services that share servers: never one client port twice at one",
                               TWO):
            one, two = make(0, 0, layer4=layer4), make(1, 1, layer4=layer4)
            refused = make(2, 0, layer4=layer4)
            # Each service begins with the same server; the second finds it taken.
            case.request(one.request(b"one", **first))
            case.request(two.request(b"two", **first))
            for _ in range(3):
                case.outside(refused.request(b"three", **first)[0], dropped="reply_tuple_taken")
            for flow, octets in ((one, b"to one"), (two, b"to two")):
                # Each server answers as the service that the client spoke to.
                case.reply(flow.reply(octets, **answer))
                case.request(flow.request(octets, **({"flags": "A"} if layer4 is TCP else {})))
            # Another port of the client finds its servers free.
            more = make(2, 1, other_client(one, 20009), layer4=layer4)
            case.request(more.request(b"more", **first))
            case.reply(more.reply(b"more", **answer))

        for case, make in each(f"{name}_reply_tuple_free_again",
                               "The refused client succeeds when one of the others is over", TWO):
            one, two = make(0, 0, layer4=layer4), make(1, 1, layer4=layer4)
            case.request(one.request(b"one", **first))
            case.request(two.request(b"two", **first))
            case.outside(make(2, layer4=layer4).request(b"x", **first)[0],
                         dropped="reply_tuple_taken")
            if layer4 is TCP:
                case.reply(two.reply(flags="RA"))
                case.wait(10_300)
            else:
                case.wait(299_000)
                case.request(one.request(b"still"))
                case.wait(1_300)
            three = make(2, 1, layer4=layer4)
            case.request(three.request(b"three", **first))
            case.reply(three.reply(b"three", **answer))
            case.reply(one.reply(b"one", **answer))


ALL = (handshakes, endings, options, ports_again, reply_tuples)
