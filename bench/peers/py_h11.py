"""The proxy of peer `py-h11`: what most people would write first. Run in the node's network namespace as a file.

    python -P bench/peers/py_h11.py PORT

asyncio streams, a task per connection, h11 on both sides; every request and answer is parsed and written again. It
judges nothing and records nothing: it stands for the cost of h11 alone. Where a connection was meant to go comes from
the NAT table (SO_ORIGINAL_DST).
"""

import argparse
import asyncio
import resource
import socket
import struct
from contextlib import suppress

import h11

_READ_BYTES = 65536
_BACKLOG = 4096
_SO_ORIGINAL_DST = 80  # linux/netfilter_ipv4.h

type Reader = asyncio.StreamReader
type Writer = asyncio.StreamWriter


async def pull(connection: h11.Connection, reader: Reader) -> h11.Event | type[h11.PAUSED]:
    """The next event of one side."""
    while (event := connection.next_event()) is h11.NEED_DATA:
        connection.receive_data(await reader.read(_READ_BYTES))
    return event  # type: ignore[return-value]  # h11 does not say that NEED_DATA is the only other one


async def push(connection: h11.Connection, writer: Writer, event: h11.Event) -> None:
    """Write one event; waits behind data, so that a head and its first data leave together."""
    data = connection.send(event)
    if data:
        writer.write(data)
        if isinstance(event, h11.Data):
            await writer.drain()


def original_destination(sock: socket.socket) -> tuple[str, int]:
    """Where the client wanted to go.

    Raises:
        ConnectionRefusedError: to this proxy itself, which would dial itself without end.
        OSError: the connection did not come by way of NAT.
    """
    raw = sock.getsockopt(socket.IPPROTO_IP, _SO_ORIGINAL_DST, 16)
    port, address = struct.unpack("!2xH4s8x", raw)
    wanted = (socket.inet_ntoa(address), port)
    if wanted == sock.getsockname()[:2]:
        raise ConnectionRefusedError("addressed to the proxy itself")
    return wanted


class Upstream:
    """The connection to the server."""

    def __init__(self, reader: Reader, writer: Writer) -> None:
        self.reader, self.writer = reader, writer
        self.h11 = h11.Connection(h11.CLIENT)

    async def exchange(self, down: h11.Connection, request: h11.Request, reader: Reader, writer: Writer) -> bool:
        """One request and its answer; False when the server has ended."""
        await push(self.h11, self.writer, h11.Request(method=request.method, target=request.target,
                                                      headers=list(request.headers)))  # fmt: skip
        while True:
            event = await pull(down, reader)
            assert isinstance(event, h11.Data | h11.EndOfMessage)  # noqa: S101 - h11's order of events
            await push(self.h11, self.writer, event)
            if isinstance(event, h11.EndOfMessage):
                break
        while True:
            answer = await pull(self.h11, self.reader)
            if not isinstance(answer, h11.Response | h11.Data | h11.EndOfMessage):
                return False
            await push(down, writer, answer)
            if isinstance(answer, h11.EndOfMessage):
                return True


async def handle(reader: Reader, writer: Writer) -> None:
    """One client, from its connection to its end."""
    upstream: Upstream | None = None
    down = h11.Connection(h11.SERVER)
    try:
        host, port = original_destination(writer.get_extra_info("socket"))
        while True:
            request = await pull(down, reader)
            if not isinstance(request, h11.Request):
                break
            if upstream is None:
                upstream = Upstream(*await asyncio.open_connection(host, port))
            if not await upstream.exchange(down, request, reader, writer):
                break
            if upstream.h11.our_state is h11.DONE and upstream.h11.their_state is h11.DONE:
                upstream.h11.start_next_cycle()
            else:
                upstream.writer.close()
                upstream = None
            if down.our_state is not h11.DONE or down.their_state is not h11.DONE:
                break
            down.start_next_cycle()
    except (h11.ProtocolError, OSError):
        pass
    finally:
        if upstream is not None:
            upstream.writer.close()
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


def listen(port: int) -> socket.socket:
    # The protocol is named because asyncio sets TCP_NODELAY only where a socket says IPPROTO_TCP, and an accepted
    # one has it from its listener; without it a two-part answer waits 40 ms for a delayed ACK.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("0.0.0.0", port))  # noqa: S104 - a network namespace of the benchmark's own
    return listener


async def serve(port: int) -> None:
    """Serve until killed."""
    server = await asyncio.start_server(handle, sock=listen(port), backlog=_BACKLOG, limit=_READ_BYTES * 4)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="bench/peers/py_h11.py",
        description="A transparent proxy of asyncio streams and h11, for comparison.",
        epilog="example: python -P bench/peers/py_h11.py 15001",
    )
    parser.add_argument("port", type=int)
    arguments = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(serve(arguments.port))


if __name__ == "__main__":
    main()
