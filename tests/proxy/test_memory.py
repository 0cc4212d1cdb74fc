"""What an idle connection costs."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from tests.proxy.helpers import App, Client, hello_app, run

GET = b"GET /a HTTP/1.1\r\nHost: example\r\nUser-Agent: test\r\nAccept: */*\r\nAccept-Encoding: gzip\r\n\r\n"
CONNECTIONS = 1500
MAX_BYTES = 40 * 1024
"""Of one idle keep-alive connection: both sockets, both parsers, the flow, and what asyncio keeps for them."""


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_idle_keep_alive_connections() -> None:
    async def body() -> None:
        app = App(hello_app)
        await app.start()
        server = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tests.proxy.alone", str(app.address[1])),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        assert server.stdout is not None
        port = int(await server.stdout.readline())

        async def connect(count: int) -> list[Client]:
            clients = []
            for _ in range(count):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                client = Client(reader, writer)
                client.send(GET)
                assert (await client.response())[0] == 200
                clients.append(client)
            return clients

        clients = await connect(50)  # what is made once and for all
        before = resident(server.pid)
        clients += await connect(CONNECTIONS)
        each = (resident(server.pid) - before) / CONNECTIONS
        for client in clients:
            client.abort()
        await server.communicate()
        assert server.returncode == 0
        app.stop()
        await app.ended()
        print(f"{each / 1024:.1f} KiB per idle connection")
        assert each <= MAX_BYTES

    run(body)
