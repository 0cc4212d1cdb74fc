"""The smallest worker: an unprivileged process that accepts on listeners it was given and copies bytes both ways.

argv: JSON {"listeners": [[fd, direction, family], ...], "stock": [[direction, family, [fd, ...]], ...]}. Run as a
script in its own cgroup; drops to uid 65534 first.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import sys
import threading


def main() -> None:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    given = json.loads(sys.argv[1])
    stock = {(direction, family): fds for direction, family, fds in given["stock"]}
    # Two workers must not choose the same leg port for one client: connect would say EADDRNOTAVAIL.
    ports = iter(range(61000 + random.randrange(0, 4000, 100), 65536))  # noqa: S311 - no secret
    lock = threading.Lock()

    def serve(listener: socket.socket, direction: int, family: int) -> None:
        own = listener.getsockname()[1]
        while True:
            try:
                conn, peer = listener.accept()
            except OSError:
                return
            target = conn.getsockname()
            if target[1] == own:  # dialled straight at us: the destination is ourselves
                print("self", flush=True)
                conn.close()
                continue
            print("conn", direction, peer[0], target[0], target[1], flush=True)
            with lock:
                leg = socket.socket(fileno=stock[direction, family].pop())
            leg.setblocking(True)
            leg.settimeout(5)
            try:
                if direction == 0:
                    leg.bind((peer[0], next(ports)))
                leg.connect(target[:2])
            except OSError as error:
                print("leg", type(error).__name__, error.errno, flush=True)
                conn.close()
                continue
            leg.settimeout(None)
            for one, other in ((conn, leg), (leg, conn)):
                threading.Thread(target=pump, args=(one, other), daemon=True).start()

    for fd, direction, family in given["listeners"]:
        listener = socket.socket(fileno=fd)
        listener.setblocking(True)
        threading.Thread(target=serve, args=(listener, direction, family), daemon=True).start()
    print("ready", flush=True)
    sys.stdin.read()
    os._exit(0)


def pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


main()
