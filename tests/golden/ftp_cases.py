"""FTP: endpoints in the text, numbers after a text of another length, data connections (RFC 959,
RFC 2428, RFC 2577)."""

from scapy.all import IP, TCP, Ether, IPv6

from cases import CLIENT, CLIENT6, CLIENT_SIDE, MSS, PORT0, PORT1, Case, Flow, Topology
from own_errors import reset

TWO = Topology("ftp", ("outside", PORT0), ("inside", PORT1))
ONE = Topology("ftp-one-nic", ("lan", PORT0), ("lan", PORT0))

# Control connections: the VIP and the server, on the well-known port and on another.
CONTROLS = {
    "ipv4": ((CLIENT, ("192.0.2.100", 21), ("10.0.0.11", 21)),
             (CLIENT, ("192.0.2.100", 2121), ("10.0.0.12", 21))),
    "ipv6": ((CLIENT6, ("2001:db8:1::100", 21), ("fd00::11", 21)),
             (CLIENT6, ("2001:db8:1::100", 2121), ("fd00::12", 21))),
}
# What the VIP's text is longer than, and shorter than.
GROWS = CONTROLS["ipv4"][0]
SHRINKS = (CLIENT, ("192.0.2.9", 21), ("10.128.128.111", 21))
WRAP = 2 ** 32


class Control:
    """A control connection. Only what the server says may change its length: `told` is the next
    octet as the server counts, `heard` as the client does; `asked` is the client's."""

    def __init__(self, case, ends, topology, asked=WRAP - 6, told=WRAP - 20, **fields):
        self.case, self.flow, self.fields = case, Flow(topology, TCP, *ends), fields
        self.asked, self.told, self.heard = asked, told, told
        self.server_window, self.client_window = 5000, 6000
        self.request(flags="S", options=MSS)
        self.asked = (self.asked + 1) % WRAP
        self.reply(flags="SA", options=MSS)
        self.told = self.heard = (told + 1) % WRAP
        self.request(flags="A")

    def client_side(self, data=b"", shift=0, flags="PA", **more):
        """The client's segment as it comes in, and as it leaves. `shift`: it begins further on."""
        base = {"flags": flags, "seq": (self.asked + shift) % WRAP, "window": self.client_window}
        acks = [{"ack": ack} if "A" in flags else {} for ack in (self.heard, self.told)]
        more = {**self.fields, **more}
        return (self.flow.request(data, **{**base, **acks[0], **more})[0],
                self.flow.request(data, **{**base, **acks[1], **more})[1])

    def server_side(self, data=b"", becomes=None, flags="PA", at=None, **more):
        """The server's segment. `at`: where it begins, as both count."""
        at = at or (self.told, self.heard)
        base = {"flags": flags, "window": self.server_window}
        if "A" in flags:
            base["ack"] = self.asked
        more = {**self.fields, **more}
        becomes = data if becomes is None else becomes
        return (self.flow.reply(data, **{**base, "seq": at[0], **more})[0],
                self.flow.reply(becomes, **{**base, "seq": at[1], **more})[1])

    def request(self, data=b"", **more):
        self.case.request(self.client_side(data, **more))

    def reply(self, data=b"", becomes=None, **more):
        self.case.reply(self.server_side(data, becomes, **more))

    def ask(self, text):
        """The client says a line, and the server acknowledges."""
        self.request(text)
        self.asked = (self.asked + len(text)) % WRAP
        self.reply(flags="A")

    def say(self, text, becomes=None, is_acknowledged=True):
        self.reply(text, becomes)
        self.said(text, becomes)
        if is_acknowledged:
            self.request(flags="A")

    def said(self, text, becomes=None):
        self.told = (self.told + len(text)) % WRAP
        self.heard = (self.heard + len(text if becomes is None else becomes)) % WRAP

    def greet(self):
        self.say(b"220 Service ready\r\n")
        self.ask(b"USER anonymous\r\n")
        self.say(b"230-Welcome, 10,0,0,11,200,10\r\n230 and go on\r\n")

    def quit(self):
        self.ask(b"QUIT\r\n")
        self.say(b"221 Goodbye\r\n")
        self.reply(flags="FA")
        self.said(b"1")
        self.request(flags="FA")
        self.asked = (self.asked + 1) % WRAP
        self.reply(flags="A")


def numbers(address, port):
    return (address.replace(".", ",") + ",%d,%d" % divmod(port, 256)).encode()


def passive_text(address, port):
    return b"227 Entering Passive Mode (" + numbers(address, port) + b").\r\n"


def extended_text(port):
    return b"229 Entering Extended Passive Mode (|||%d|)\r\n" % port


def active_text(address, port):
    return b"PORT " + numbers(address, port) + b"\r\n"


def eprt_text(address, port):
    family = 2 if ":" in address else 1
    return b"EPRT |%d|%s|%d|\r\n" % (family, address.encode(), port)


def life(case, first, answer, from_first, from_other):
    """A data connection with data in both directions; `first` opens it."""
    first(flags="S", seq=WRAP - 1, options=MSS)
    answer(flags="SA", seq=9000, ack=0, options=MSS)
    first(flags="A", seq=0, ack=9001)
    # Lines on a data connection are data.
    first(from_first, flags="PA", seq=0, ack=9001)
    answer(from_other, flags="A", seq=9001, ack=len(from_first))
    first(flags="FA", seq=len(from_first), ack=9001 + len(from_other))
    answer(flags="FA", seq=9001 + len(from_other), ack=len(from_first) + 1)
    first(flags="A", seq=len(from_first) + 1, ack=9002 + len(from_other))


LINE = passive_text("10.0.0.11", 999) + active_text(CLIENT[0], 999)


def passive_data(control, port, client_port):
    flow = control.flow
    data = Flow(flow.topology, TCP, (flow.client[0], client_port), (flow.service[0], port),
                (flow.server[0], port))
    case = control.case
    life(case, lambda *a, **m: case.request(data.request(*a, **m)),
         lambda *a, **m: case.reply(data.reply(*a, **m)), LINE, LINE * 20)
    # It is expected once.
    again = Flow(flow.topology, TCP, (flow.client[0], client_port + 9), (flow.service[0], port),
                 (flow.server[0], port))
    unwanted(case, again)


def unwanted(case, flow):
    """What nobody expects finds a closed port."""
    frame = flow.request(flags="S")[0]
    case.outside(frame, (case.topology.outside, reset(frame)), dropped="no_service")


def active_data(control, port, server_port=20):
    flow, case = control.flow, control.case
    # RFC 959 section 3.2: from the port before that of the control connection, as the client
    # knows it.
    data = Flow(flow.topology, TCP, (flow.client[0], port), (flow.service[0], flow.service[1] - 1),
                (flow.server[0], server_port))
    life(case, lambda *a, **m: case.reply(data.reply(*a, **m)),
         lambda *a, **m: case.request(data.request(*a, **m)), LINE * 20, LINE)


def topologies(name, description, **more):
    """Both topologies. The running director's workers would have to be in step: one of them."""
    for topology, suffix in ((TWO, ""), (ONE, "_one_nic")):
        yield Case(name + suffix, description, topology, any_order=False, **more), topology


def changed_texts():
    for name, ends in (("grows", GROWS), ("shrinks", SHRINKS)):
        vip, server = ends[1][0], ends[2][0]
        for case, topology in topologies(f"ftp_passive_text_that_{name}",
                                         "PASV: numbers and lengths fit from the 227 on"):
            control = Control(case, ends, topology, ip={"id": 77, "flags": "DF", "tos": 0x10})
            control.greet()
            for turn in range(3):
                port = 51210 + turn
                control.ask(b"PASV\r\n")
                control.say(passive_text(server, port), passive_text(vip, port))
                control.request(b"RETR file %d\r\n" % turn)
                control.asked = (control.asked + 13) % WRAP
                passive_data(control, port, 30000 + turn)
                # Once more, between other lines.
                control.ask(b"PASV\r\n")
                around = b"200 Good\r\n%s200-And\r\n 227 not this, 10,0,0,11,1,1\r\n200 good\r\n"
                control.say(*[around % passive_text(address, port) for address in (server, vip)])
                control.say(b"150 Here it comes\r\n226 Done\r\n", is_acknowledged=turn != 1)
            control.quit()

        for case, topology in topologies(f"ftp_text_that_{name}_is_sent_again",
                                         "Every copy gets the same text, alone or with more"):
            control = Control(case, ends, topology)
            control.greet()
            control.ask(b"PASV\r\n")
            old, new = passive_text(server, 51210), passive_text(vip, 51210)
            before = control.told, control.heard
            late = b"150 Here it comes\r\n"
            for _ in range(3):
                control.reply(old, new)
            control.reply(old + late, new + late)
            control.reply(old, new)
            control.said(old, new)
            # What the client has not acknowledged yet it acknowledges in parts.
            middle = control.told, control.heard
            control.reply(late)
            control.request(flags="A")
            control.said(late)
            control.request(flags="A")
            # The old acknowledgement comes late.
            latest = control.told, control.heard
            control.told, control.heard = middle
            control.request(flags="A")
            control.told, control.heard = latest
            assert before != middle
            passive_data(control, 51210, 30000)
            control.quit()

        for case, topology in topologies(f"ftp_selective_acknowledgements_of_a_text_that_{name}",
                                         "RFC 2018: blocks behind the text, and long after it"):
            control = Control(case, ends, topology)
            control.greet()
            control.ask(b"PASV\r\n")
            old, new = passive_text(server, 51210), passive_text(vip, 51210)
            lost = control.told, control.heard
            control.reply(old, new)
            control.said(old, new)
            start = control.told, control.heard
            late = b"150 Here it comes\r\n"
            control.reply(late)
            control.said(late)
            end = control.told, control.heard
            control.reply(late)
            control.said(late)
            last = control.told, control.heard
            # The client has all but the text.
            control.told, control.heard = lost
            blocks(control, (start, end))
            blocks(control, (start, last))
            blocks(control, (end, last), (start, end))
            control.reply(old, new)
            control.told, control.heard = last
            control.request(flags="A")
            control.say(b"226 Done\r\n")
            # Behind what was forgotten.
            now = control.told, control.heard
            blocks(control, [tuple((n + more) % WRAP for n in now) for more in (5, 9)])
            control.quit()


def blocks(control, *pairs):
    """The client's acknowledgement with SACK blocks; each edge as (server, client) count."""
    come, leave = [
        control.client_side(flags="A", options=[
            ("NOP", None), ("NOP", None),
            ("SAck", tuple(edge[count] for pair in pairs for edge in pair)),
        ]) for count in (1, 0)
    ]
    control.case.request((come[0], leave[1]))


def every_control():
    for family, controls in CONTROLS.items():
        for ends, suffix in zip(controls, ("", "_on_port_2121")):
            yield f"{family}{suffix}", ends


def data_connections():
    for name, ends in every_control():
        for case, topology in topologies(f"ftp_extended_passive_{name}",
                                         "EPSV: the port alone, which stays"):
            control = Control(case, ends, topology)
            control.greet()
            for turn in range(2):
                control.ask(b"EPSV\r\n")
                control.say(extended_text(51210 + turn))
                passive_data(control, 51210 + turn, 30000 + turn)
            control.quit()

        for case, topology in topologies(f"ftp_extended_active_{name}",
                                         "EPRT: the server's connection leaves from the VIP"):
            control = Control(case, ends, topology)
            control.greet()
            for turn in range(2):
                control.ask(eprt_text(ends[0][0], 40000 + turn))
                control.say(b"200 EPRT command successful\r\n")
                active_data(control, 40000 + turn)
            # RFC 959 asks for port 20; many servers may not bind it.
            control.ask(eprt_text(ends[0][0], 40002).lower())
            active_data(control, 40002, 47000)
            control.quit()

    for ends, suffix in zip(CONTROLS["ipv4"], ("", "_on_port_2121")):
        for case, topology in topologies(f"ftp_passive_ipv4{suffix}", "PASV"):
            control = Control(case, ends, topology)
            control.greet()
            control.ask(b"PASV\r\n")
            control.say(passive_text(ends[2][0], 1024), passive_text(ends[1][0], 1024))
            passive_data(control, 1024, 30000)
            control.quit()

        for case, topology in topologies(f"ftp_active_ipv4{suffix}",
                                         "PORT: the server's connection leaves from the VIP"):
            control = Control(case, ends, topology)
            control.greet()
            for turn in range(2):
                control.ask(active_text(ends[0][0], 40000 + turn))
                control.say(b"200 PORT command successful\r\n")
                active_data(control, 40000 + turn)
            control.quit()


def bounces():
    for name, ends in every_control():
        v6 = "ipv6" in name
        for case, topology in topologies(f"ftp_bounce_{name}",
                                         "RFC 2577: addresses of others open nothing"):
            control = Control(case, ends, topology)
            control.greet()
            others = ("2001:db8:ffff::8", "fd00::12") if v6 else ("198.18.7.8", "10.0.0.12")
            for victim in others:
                lines = [eprt_text(victim, 40000)]
                if not v6:
                    lines.append(active_text(victim, 40000))
                for line in lines:
                    control.ask(line)
                control.say(b"200 I would\r\n")
            # The server believes it.
            flow = control.flow
            victim = Flow(topology, TCP, (others[0], 40000), (flow.service[0], flow.service[1] - 1),
                          (flow.server[0], 20))
            case.inside(victim.reply(flags="S")[0], dropped="not_owned")
            asker = Flow(topology, TCP, (flow.client[0], 40000), victim.service, victim.server)
            case.inside(asker.reply(flags="S")[0], dropped="not_owned")
            if not v6:
                # A server that names another one.
                elsewhere = "10.0.0.12" if flow.server[0] == "10.0.0.11" else "10.0.0.11"
                control.ask(b"PASV\r\n")
                control.say(passive_text(elsewhere, 51210))
                unwanted(case, Flow(topology, TCP, (flow.client[0], 30000),
                                    (flow.service[0], 51210), (elsewhere, 51210)))
            # What the client may use, nobody else may.
            control.ask(b"EPSV\r\n")
            control.say(extended_text(51220))
            unwanted(case, Flow(topology, TCP, (others[0], 30000), (flow.service[0], 51220),
                                (flow.server[0], 51220)))
            passive_data(control, 51220, 30000)
            control.ask(eprt_text(flow.client[0], 40000))
            neighbour = {"fd00::11": "fd00::12", "fd00::12": "fd00::11", "10.0.0.11": "10.0.0.12",
                         "10.0.0.12": "10.0.0.11"}[flow.server[0]]
            other = Flow(topology, TCP, (flow.client[0], 40000), victim.service, (neighbour, 20))
            case.inside(other.reply(flags="S")[0], dropped="not_owned")
            active_data(control, 40000)
            control.quit()


def own_ack(control, to_client, octets, timestamps=None):
    """Acknowledges `octets` more in the place of whoever is to get them."""
    flow, t = control.flow, control.flow.topology
    if to_client:
        link, ends = (t.outside_mac, CLIENT_SIDE), (flow.service, flow.client)
        fields = {"seq": control.heard, "ack": control.asked, "window": control.server_window}
    else:
        mac = flow.reply()[0].src
        link, ends = (t.inside_mac, mac), (flow.client, flow.server)
        fields = {"seq": control.asked, "ack": control.told, "window": control.client_window}
    fields["ack"] = (fields["ack"] + octets) % WRAP
    if timestamps:
        fields["options"] = [("NOP", None), ("NOP", None), ("Timestamp", timestamps)]
    if flow.v6:
        ip = IPv6(src=ends[0][0], dst=ends[1][0], hlim=64)
    else:
        ip = IP(src=ends[0][0], dst=ends[1][0], ttl=64, id=0, flags="DF")
    frame = Ether(src=link[0], dst=link[1]) / ip / TCP(sport=ends[0][1], dport=ends[1][1],
                                                       flags="A", **fields)
    return (t.outside if to_client else t.inside), frame


def in_parts(control, line, cuts, becomes=None, clocks=None, times=1):
    """A line in several segments, each so many times: each but the last is held and acknowledged
    in the receiver's place, and the last leaves as the whole."""
    case, from_client = control.case, becomes is None
    becomes = line if from_client else becomes
    cuts = [0, *cuts, len(line)]
    whole_at = control.asked, control.told
    time, peer_time = clocks or (None, None)
    stamp = {"options": [("NOP", None), ("NOP", None), ("Timestamp", (time, peer_time))]} \
        if clocks else {}
    for start, end in zip(cuts, cuts[1:]):
        part, is_last = line[start:end], end == len(line)
        goes = becomes if is_last else b""
        if from_client:
            come = control.client_side(part, start, **stamp)[0]
            leave = control.client_side(goes, **stamp)[1]
            send, side = case.outside, case.topology.inside
        else:
            at = ((control.told + start) % WRAP, control.heard)
            come, leave = control.server_side(part, goes, at=at, **stamp)
            send, side = case.inside, case.topology.outside
        own = [] if is_last else [own_ack(control, from_client, end, clocks and (peer_time, time))]
        for _ in range(times):
            send(come, (side, leave), *own)
    assert whole_at == (control.asked, control.told)
    if from_client:
        control.asked = (control.asked + len(line)) % WRAP
        answer = [("NOP", None), ("NOP", None), ("Timestamp", (peer_time, time))]
        control.reply(flags="A", **({"options": answer} if clocks else {}))
    else:
        control.said(line, becomes)
        control.request(flags="A")


def split_lines():
    for family, ends in (("ipv4", GROWS), ("ipv6", CONTROLS["ipv6"][1])):
        client = ends[0][0]
        asks = b"PASV\r\n" if family == "ipv4" else b"EPSV\r\n"
        lines = [eprt_text(client, 40000)]
        if family == "ipv4":
            lines.append(active_text(client, 40001))
        for case, topology in topologies(f"ftp_split_command_{family}",
                                         "PORT and EPRT in parts: held, acknowledged, then whole"):
            control = Control(case, ends, topology)
            control.greet()
            for turn, line in enumerate(lines):
                for cuts in ([2], [len(line) - 1], [1, 2, 3, 5, 9], *octets(topology, line)):
                    in_parts(control, line, cuts)
                    control.say(b"200 Good\r\n")
                active_data(control, 40000 + turn)
            control.quit()

        for case, topology in topologies(f"ftp_split_command_with_timestamps_{family}",
                                         "RFC 7323: the acknowledgement echoes the sender's clock"):
            control = Control(case, ends, topology)
            clock = [("NOP", None), ("NOP", None), ("Timestamp", (700, 300))]
            control.reply(flags="A", options=clock)
            in_parts(control, lines[0], [4, 11], clocks=(301, 700))
            active_data(control, 40000)

        for case, topology in topologies(f"ftp_split_lines_are_sent_again_{family}",
                                         "The last part brings the whole line again"):
            control = Control(case, ends, topology)
            control.greet()
            in_parts(control, lines[0], [7], times=3)
            active_data(control, 40000)
            control.ask(asks)
            if family == "ipv4":
                in_parts(control, passive_text(ends[2][0], 51210), [9],
                         passive_text(ends[1][0], 51210), times=3)
            else:
                in_parts(control, extended_text(51210), [9], extended_text(51210), times=3)
            passive_data(control, 51210, 30000)
            control.quit()

        line = passive_text(ends[2][0], 51210) if family == "ipv4" else extended_text(51210)
        becomes = passive_text(ends[1][0], 51210) if family == "ipv4" else line
        for case, topology in topologies(f"ftp_split_reply_{family}",
                                         "227 and 229 in parts: held, acknowledged, then whole"):
            control = Control(case, ends, topology)
            control.greet()
            for cuts in ([1], [3], [len(line) - 1], [2, 20, 30], *octets(topology, line)):
                control.ask(asks)
                in_parts(control, line, cuts, becomes)
            passive_data(control, 51210, 30000)
            control.quit()

        for case, topology in topologies(f"ftp_held_text_that_does_not_matter_{family}",
                                         "What looked like a command goes on as it is"):
            control = Control(case, ends, topology)
            control.greet()
            held(control, b"P", b"ASV\r\n")
            held(control, b"PORT", b"AL\r\n")
            held(control, b"EP", b"SV\r\n")
            control.quit()


def octets(topology, line):
    """Octet by octet. Before the running director knows its neighbours it keeps fewer frames."""
    return [range(1, len(line))] if topology is TWO else []


def held(control, part, rest):
    """The beginning is held; with the rest it turns out to be another command."""
    in_parts(control, part + rest, [len(part)])


ALL = (changed_texts, data_connections, bounces, split_lines)
