#!/usr/bin/env python3
"""A UDP service that answers with its name, and the client that checks the answers.

    udp_echo.py serve NAME PORT            answers b"NAME payload" over IPv4 and IPv6
    udp_echo.py ask ADDRESS PORT COUNT     asks from COUNT source ports, one datagram each;
                                           prints how often which name answered
"""
import collections
import socket
import sys


def serve(name, port):
    """Answers for ever."""
    server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    server.bind(("::", port))
    while True:
        payload, peer = server.recvfrom(65535)
        server.sendto(name.encode() + b" " + payload, peer)


def ask(address, port, count):
    """Fails when an answer is lost, late, from elsewhere or not what was sent."""
    family = socket.getaddrinfo(address, port, type=socket.SOCK_DGRAM)[0][0]
    answered = collections.Counter()
    clients = []
    for number in range(count):
        client = socket.socket(family, socket.SOCK_DGRAM)
        client.settimeout(2)
        # Connected: an answer from any address but the VIP is not delivered.
        client.connect((address, port))
        payload = f"datagram {number} ".encode() * (1 + number % 40)
        client.send(payload)
        clients.append((client, payload))
    failures = 0
    for client, payload in clients:
        try:
            name, _, body = client.recv(65535).partition(b" ")
        except OSError as error:
            print(f"no answer: {error}", file=sys.stderr)
            failures += 1
            continue
        if body != payload:
            print(f"{name.decode()} answered with another payload", file=sys.stderr)
            failures += 1
        answered[name.decode()] += 1
    for name, times in sorted(answered.items()):
        print(name, times)
    return 1 if failures else 0


def main():
    """Dispatches on the first argument."""
    match sys.argv[1:]:
        case ["serve", name, port]:
            serve(name, int(port))
        case ["ask", address, port, count]:
            sys.exit(ask(address, int(port), int(count)))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
