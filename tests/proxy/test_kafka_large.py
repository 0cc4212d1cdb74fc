"""100 MB in one Kafka frame, through sockets: memory does not grow with it."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from parsers.kafka.frames import begin_request
from policies.ruleset import KafkaRule
from proxy.flow_event import FlowEvent
from proxy.limits import Limits
from proxy.server import PolicyBox, Server
from tests.proxy.helpers import EGRESS, ENDPOINT, LoopbackOrigins, PlainUpstreams, eventually, listening, rules, run
from tests.proxy.kafka_talk import fetch, fetched, produce, produced, record

RECORDS = 100_000_000
PIECE = b"r" * 100_000
MAX_GROWTH = 16 * 1024 * 1024
"""The buffers of two connections and of this test, and what malloc keeps of them; a copy of the frame would be 100
MB."""

type Served = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def forget_peak() -> None:
    """Begin to measure: what other tests took before would hide what is taken now (proc_pid_clear_refs(5))."""
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """Most memory that this process had since then, in bytes."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def large(frame: bytes) -> tuple[bytes, bytes]:
    """Start and end of a frame of which one byte of records is made RECORDS; both lengths are put right."""
    start, end = frame.split(b"?")
    size = int.from_bytes(frame[:4]) + RECORDS - 1
    assert start[-4:] == (1).to_bytes(4)
    return size.to_bytes(4) + start[4:-4] + RECORDS.to_bytes(4), end


async def send_large(writer: asyncio.StreamWriter, frame: bytes) -> None:
    start, end = large(frame)
    writer.write(start)
    for _ in range(RECORDS // len(PIECE)):
        writer.write(PIECE)
        await writer.drain()
    writer.write(end)
    await writer.drain()


async def skip(reader: asyncio.StreamReader, count: int) -> None:
    """Read so many bytes and keep none."""
    while count:
        data = await reader.read(min(count, 1 << 16))
        assert data
        count -= len(data)


def through(served: Served, talk: Served, topics: tuple[str, ...]) -> tuple[list[str], dict[str, int], int]:
    """A client that talks to a broker through the data plane; records, counters and by how much memory grew."""
    events: list[FlowEvent] = []
    counters: dict[str, int] = {}
    grown = 0

    async def body() -> None:
        nonlocal grown
        broker = await asyncio.start_server(served, "127.0.0.1", 0)
        address = broker.sockets[0].getsockname()
        kafka = tuple(KafkaRule(f"r-{topic}", topic=topic) for topic in topics)
        server = Server(
            asyncio.get_running_loop(),
            policy=PolicyBox(rules(port=address[1], kafka=kafka)),
            upstreams=PlainUpstreams(),
            emit=events.append,
            limits=Limits(record_s=60),
            origins=LoopbackOrigins(address),
        )
        listener = listening()
        server.add_listener(listener, ENDPOINT, EGRESS)
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        forget_peak()
        before = peak()
        await talk(reader, writer)
        grown = peak() - before
        writer.close()
        await eventually(lambda: server.idle)
        counters.update(server.counters)
        server.close()
        broker.close()

    run(body)
    return [record(event) for event in events], counters, grown


async def takes_produce(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers each Produce once it is whole."""
    while head := await reader.read(4):
        size = int.from_bytes(head + await reader.readexactly(4 - len(head)))
        start = await reader.readexactly(40)
        request, _ = begin_request(start, "Acks")
        await skip(reader, size - 40)
        writer.write(produced(request.correlation_id, "orders", version=8))
    writer.close()


def test_produce_allowed() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await send_large(writer, produce(1, "orders", records=b"?", version=8))
        writer.write(produce(2, "orders", version=8))
        wanted = produced(1, "orders", version=8) + produced(2, "orders", version=8)
        assert await asyncio.wait_for(reader.readexactly(len(wanted)), 60) == wanted

    records, counters, grown = through(takes_produce, talk, ("orders",))
    assert records == ["FORWARDED Produce Write orders 0 by r-orders"] * 2
    assert counters["internal_error"] == 0
    assert grown < MAX_GROWTH


def test_produce_denied() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await send_large(writer, produce(1, "secrets", records=b"?", version=8))
        size = int.from_bytes(await asyncio.wait_for(reader.readexactly(4), 60))
        assert b"secrets" in await reader.readexactly(size)

    records, counters, grown = through(takes_produce, talk, ("orders",))
    assert records == ["DROPPED Produce Write secrets 29 by default-deny"]
    assert counters["upstream_opened"] == counters["internal_error"] == 0
    assert grown < MAX_GROWTH


def test_fetch() -> None:
    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = int.from_bytes(await reader.readexactly(4))
        await reader.readexactly(size)
        await send_large(writer, fetched(1, "orders", records=b"?", version=11))
        writer.write(b"")
        await reader.read(1)
        writer.close()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(fetch(1, "secrets", "orders", version=11))
        size = int.from_bytes(await asyncio.wait_for(reader.readexactly(4), 60))
        start = await reader.readexactly(200)
        assert b"secrets" in start
        assert b"orders" in start
        await skip(reader, size - 200)

    records, counters, grown = through(served, talk, ("orders",))
    assert records == [
        "DROPPED Fetch Read secrets 29 by default-deny",
        "FORWARDED Fetch Read orders 0 by r-orders",
    ]
    assert counters["internal_error"] == 0
    assert grown < MAX_GROWTH
