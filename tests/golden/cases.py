"""What a golden case is made of: topologies, cases, flows."""

import shutil
import struct
from pathlib import Path

from scapy.all import IP, TCP, UDP, Dot1Q, IPv6, Ether, Raw, raw

# Payloads are octets, whatever the port.
TCP.payload_guess.clear()
UDP.payload_guess.clear()

HERE = Path(__file__).resolve().parent
BROADCAST = "ff:ff:ff:ff:ff:ff"
CLIENT_SIDE = "02:00:00:00:00:01"
SERVER_MAC = {
    "10.0.0.11": "02:00:00:00:01:11", "10.0.0.12": "02:00:00:00:01:12",
    "fd00::11": "02:00:00:00:01:11", "fd00::12": "02:00:00:00:01:12",
    "10.0.0.20": "02:00:00:00:01:20",
    "10.0.1.11": "02:00:00:00:01:31", "fd00:1::11": "02:00:00:00:01:31",
    "10.128.128.111": "02:00:00:00:01:41",
}
PORT0, PORT1 = "02:70:63:61:70:00", "02:70:63:61:70:01"


class Port:
    """A port, and the VLAN of an interface on it."""

    def __init__(self, name, vlan=None):
        self.name, self.vlan = name, vlan

    def frame(self, frame):
        if self.vlan is None:
            return frame
        octets = raw(frame)
        old = Ether(octets)
        (kind,) = struct.unpack("!H", octets[12:14])
        link = Ether(src=old.src, dst=old.dst, type=0x8100) / Dot1Q(vlan=self.vlan, type=kind)
        return link / Raw(octets[14:])


class Topology:
    def __init__(self, name, outside, inside):
        self.name = name
        self.outside, self.outside_mac = outside
        self.inside, self.inside_mac = inside


TWO_NICS = Topology("two-nics", ("outside", PORT0), ("inside", PORT1))
ONE_NIC = Topology("one-nic", ("lan", PORT0), ("lan", PORT0))
VLANS = Topology("vlans", (Port("outside+inside", 10), PORT0), (Port("outside+inside", 20), PORT0))


class Case:
    """One directory. Every frame that goes in comes a millisecond after the one before."""

    all = []

    def __init__(self, name, description, topology=TWO_NICS, eal=None, any_order=True):
        self.name, self.description, self.topology = name, description, topology
        self.eal, self.any_order = eal, any_order
        self.now = 0
        self.dropped, self.consumed = {}, 0
        self.sides = {}
        Case.all.append(self)

    def _add(self, interface, way, frame):
        if isinstance(interface, Port):
            frame, interface = interface.frame(frame), interface.name
        self.sides.setdefault((interface, way), []).append((self.now, raw(frame)))

    def send(self, interface, frame, *expected, dropped=None, consumed=0):
        """A frame goes in; `expected` are the (interface, frame) that come out."""
        self.now += 1
        self._add(interface, "in", frame)
        for at, answer in expected:
            self._add(at, "out", answer)
        if dropped:
            self.dropped[dropped] = self.dropped.get(dropped, 0) + 1
        self.consumed += consumed

    def outside(self, frame, *expected, **more):
        self.send(self.topology.outside, frame, *expected, **more)

    def inside(self, frame, *expected, **more):
        self.send(self.topology.inside, frame, *expected, **more)

    def request(self, pair):
        frame, expected = pair
        self.outside(frame, (self.topology.inside, expected))

    def reply(self, pair):
        frame, expected = pair
        self.inside(frame, (self.topology.outside, expected))

    def wait(self, ms):
        self.now += ms

    def write(self):
        directory = HERE / self.name
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        ports = {interface for interface, way in self.sides if way == "in"}
        eal = len(ports) == 1 if self.eal is None else self.eal
        text = f'description = "{self.description}"\ndirector = "{self.topology.name}"\n'
        text += "# Whether net_pcap, which knows no time, can replay it.\n"
        text += f"eal = {str(eal).lower()}\n"
        text += "# Whether connections may be scheduled in another order.\n"
        text += f"any_order = {str(self.any_order).lower()}\nconsumed = {self.consumed}\n"
        text += "\n[dropped]\n"
        text += "".join(f"{reason} = {n}\n" for reason, n in sorted(self.dropped.items()))
        (directory / "case.toml").write_text(text)
        for (interface, way), frames in self.sides.items():
            write_pcap(directory / f"{interface}.{way}.pcap", frames)


def write_pcap(path, frames):
    with open(path, "wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
        for ms, octets in frames:
            file.write(struct.pack("<IIII", ms // 1000, ms % 1000 * 1000, len(octets), len(octets)))
            file.write(octets)


class Flow:
    """A connection: each packet as it comes in, and as it must leave."""

    def __init__(self, topology, layer4, client, service, server):
        self.topology, self.layer4 = topology, layer4
        self.client, self.service, self.server = client, service, server
        self.v6 = ":" in client[0]

    def _build(self, link, source, destination, hops, payload, ip=None, chain=(), **fields):
        link = Ether(src=link[0], dst=link[1])
        if self.v6:
            packet = link / IPv6(src=source[0], dst=destination[0], hlim=hops, **(ip or {}))
        else:
            packet = link / IP(src=source[0], dst=destination[0], ttl=hops, **(ip or {}))
        for header in chain:
            packet = packet / header.copy()
        packet = packet / self.layer4(sport=source[1], dport=destination[1], **fields)
        return packet / Raw(payload) if payload else packet

    def request(self, payload=b"", hops=64, **fields):
        t = self.topology
        come = (CLIENT_SIDE, t.outside_mac)
        leave = (t.inside_mac, SERVER_MAC[self.server[0]])
        return (
            self._build(come, self.client, self.service, hops, payload, **fields),
            self._build(leave, self.client, self.server, hops - 1, payload, **fields),
        )

    def reply(self, payload=b"", hops=64, **fields):
        t = self.topology
        come = (SERVER_MAC[self.server[0]], t.inside_mac)
        leave = (t.outside_mac, CLIENT_SIDE)
        return (
            self._build(come, self.server, self.client, hops, payload, **fields),
            self._build(leave, self.service, self.client, hops - 1, payload, **fields),
        )


CLIENT, CLIENT6 = ("198.18.7.7", 20000), ("2001:db8:ffff::7", 20000)
WEB, WEB6 = ("192.0.2.100", 80), ("2001:db8:1::100", 80)
DNS, DNS6 = ("192.0.2.100", 53), ("2001:db8:1::100", 53)
OF_WEB, OF_WEB6 = ("10.0.0.12", 8080), ("fd00::11", 8080)
OF_DNS, OF_DNS6 = ("10.0.0.12", 5353), ("fd00::12", 5353)
MSS = [("MSS", 1460), ("SAckOK", b""), ("Timestamp", (17, 0)), ("NOP", None), ("WScale", 7)]
NAMES = {TWO_NICS: "", ONE_NIC: "_one_nic", VLANS: "_vlans"}
