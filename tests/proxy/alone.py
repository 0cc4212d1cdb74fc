"""A server in a process of its own, so that its memory is nobody else's: `python -m tests.proxy.alone APP_PORT`.

Prints the port it listens on; ends when its standard input does.
"""

import asyncio
import sys

from proxy.server import PolicyBox, Server
from tests.proxy.helpers import EGRESS, ENDPOINT, GET_ANY, LoopbackOrigins, PlainUpstreams, listening, rules


async def main(app_port: int) -> None:
    """Serve until standard input ends."""
    loop = asyncio.get_running_loop()
    server = Server(
        loop,
        policy=PolicyBox(rules(GET_ANY, port=app_port)),
        upstreams=PlainUpstreams(),
        emit=lambda event: None,
        origins=LoopbackOrigins(("127.0.0.1", app_port)),
    )
    sock = listening()
    server.add_listener(sock, ENDPOINT, EGRESS)
    print(sock.getsockname()[1], flush=True)
    end = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), end.set)
    await end.wait()
    loop.remove_reader(sys.stdin.fileno())
    server.close()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
