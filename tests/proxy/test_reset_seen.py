"""A reset of either end is told as one, also when moving or sending met it before reading could."""

import asyncio
import socket
import struct

import pytest

from proxy.limits import Limits
from tests.proxy.helpers import GET_ANY, POST_ANY, read_head, rig, run

MIB = 1024 * 1024
EAGER = Limits(relay_bytes=1024)
"""Whatever can be moved is."""


def reset(writer: asyncio.StreamWriter) -> None:
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def test_a_server_that_resets_what_is_moved_does_not_look_as_if_it_had_ended() -> None:
    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(5)
        writer.write(bytes(MIB))
        await writer.drain()
        await reader.readexactly(3)  # everything has arrived
        reset(writer)

    async def body() -> None:
        async with rig(app=app, l4=True, limits=EAGER) as it:
            client = await it.connect()
            client.send(b"hello")
            await client.reader.readexactly(MIB)
            client.send(b"yes")
            with pytest.raises(ConnectionResetError):
                await client.rest()

    run(body)


def test_a_client_that_resets_what_is_moved_does_not_look_as_if_it_had_ended() -> None:
    ends: list[str] = []

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readexactly(MIB)
            writer.write(b"yes")
            ends.append("end" if await reader.read() == b"" else "more")
        except ConnectionResetError:
            ends.append("reset")

    async def body() -> None:
        async with rig(app=app, l4=True, limits=EAGER) as it:
            client = await it.connect()
            client.send(bytes(MIB))
            await client.reader.readexactly(3)
            client.abort()
            await it.quiet()
            await asyncio.sleep(0.1)
        assert ends == ["reset"]

    run(body)


def test_a_response_to_the_end_that_a_reset_cuts_does_not_look_whole() -> None:
    """The leg is full of an upload, so that writing meets the reset first."""

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport that reads has it
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nthe first half")
        await asyncio.sleep(0.3)
        reset(writer)

    async def body() -> None:
        async with rig(POST_ANY, GET_ANY, app=app) as it:
            client = await it.connect()
            client.send(b"POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (64 * MIB) + bytes(16 * MIB))
            got = b""
            try:
                while piece := await asyncio.wait_for(client.reader.read(65536), 5):
                    got += piece
            except ConnectionResetError:
                pass
            assert b"the first half" in got
            assert not got.endswith(b"0\r\n\r\n")
            assert [event.reason for event in it.events][-1] == "upstream_reset"

    run(body)
