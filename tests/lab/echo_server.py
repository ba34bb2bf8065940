"""A TCP server for the lab: answers every line with "<n> <line>".

n counts the lines of the whole process, so a count that goes on proves that it is the same
process. Arguments: port numbers; each is served over IPv4 and IPv6. The source is handed to
`python -I -S -c`, so it may import the standard library only.
"""

import selectors
import socket
import sys

answered = 0
waiting = selectors.DefaultSelector()
received: dict[socket.socket, bytes] = {}

for port in sys.argv[1:]:
    listener = socket.create_server(("::", int(port)), family=socket.AF_INET6, dualstack_ipv6=True, backlog=16)
    waiting.register(listener, selectors.EVENT_READ, "listener")

while True:
    for key, _ in waiting.select():
        peer = key.fileobj
        assert isinstance(peer, socket.socket)
        if key.data == "listener":
            connection, _ = peer.accept()
            received[connection] = b""
            waiting.register(connection, selectors.EVENT_READ, "connection")
            continue
        try:
            chunk = peer.recv(4096)
        except OSError:
            chunk = b""
        if not chunk:
            waiting.unregister(peer)
            del received[peer]
            peer.close()
            continue
        *lines, received[peer] = (received[peer] + chunk).split(b"\n")
        for line in lines:
            answered += 1
            peer.sendall(b"%d %s\n" % (answered, line))
