"""What holds for every input: pieces do not matter, only protocol errors leave, little is held, and what is forwarded
reads the same for us, for plain h11 and for a reader that knows next to nothing."""

import re
from itertools import pairwise

import h11
from hypothesis import given
from hypothesis import strategies as st

from parsers.buffer import Buffer
from parsers.errors import RemoteProtocolError
from parsers.http1.connection import ClientConnection, ServerConnection
from parsers.http1.events import NEED_DATA, PAUSED, ConnectionClosed, Data, EndOfMessage, Fields, RequestHead
from parsers.http1.fields import forwarded_request_fields
from parsers.http1.target import canonical_target
from tests.parsers import test_http1_requests, test_http1_responses, test_http1_smuggling
from tests.parsers.feeding import EMPTY_REPLY, framing_text, read_requests, reader_of_responses

REQUESTS = [row[1] for row in test_http1_requests.ACCEPTED + test_http1_requests.HOSTILE if len(row[1]) < 1000]
REQUESTS += [row[1] for row in test_http1_smuggling.ROWS]
RESPONSES = [row[2] for row in test_http1_responses.ACCEPTED + test_http1_responses.REFUSED if len(row[2]) < 1000]
TRICKS = [
    b"\n",
    b"\r",
    b"\r\n",
    b"\r\n\r\n",
    b"\x00",
    b" ",
    b"\t",
    b":",
    b";",
    b",",
    b"0",
    b"5",
    b"a",
    b"\xff",
    b"\x0b",
]
TRICKS += [b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: h\r\n", b"0\r\n\r\n", b"%2e", b"/../"]
TRICKS += [
    b"Connection: close\r\n",
    b"Expect: 100-continue\r\n",
    b"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
    b"HTTP/1.0",
    b"*",
]


@st.composite
def mutated(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """One or two seeds with some bytes cut out, doubled, or tricks put in."""
    data = draw(st.sampled_from(seeds)) + draw(st.sampled_from([b"", *seeds]))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        stop = min(start + draw(st.sampled_from([0, 0, 1, 2, 10])), len(data))
        data = data[:start] + draw(st.sampled_from([b"", data[start:stop] * 2, *TRICKS])) + data[stop:]
    return data


def cut(data: bytes, places: list[int]) -> list[bytes]:
    bounds = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(bounds) if a < b]


places = st.lists(st.integers(0, 4000), max_size=12)


@given(mutated(REQUESTS) | st.binary(max_size=200), places, st.booleans())
def test_pieces_of_requests_do_not_matter(data: bytes, where: list[int], eof: bool) -> None:
    end = [b""] if eof else []
    whole = read_requests([*([data] if data else []), *end])
    assert read_requests([*cut(data, where), *end]) == whole
    assert read_requests([*(data[i : i + 1] for i in range(len(data))), *end]) == whole


@given(mutated(RESPONSES) | st.binary(max_size=200), places, st.booleans(), st.sampled_from([b"GET", b"HEAD"]))
def test_pieces_of_responses_do_not_matter(data: bytes, where: list[int], eof: bool, method: bytes) -> None:
    read = reader_of_responses(method)
    end = [b""] if eof else []

    def told(lines: list[str]) -> list[str]:
        return [line for line in lines if line != "reusable"]

    whole = told(read([*([data] if data else []), *end]))
    assert told(read([*cut(data, where), *end])) == whole
    assert told(read([*(data[i : i + 1] for i in range(len(data))), *end])) == whole


type Message = tuple[bytes, bytes, Fields, str, bytes, Fields]  # method, target, fields, framing, body, trailers


def ours(fields: Fields) -> Fields:
    """Fields without those that are written from the framing."""
    return [(name, value) for name, value in fields if name.lower() not in (b"content-length", b"connection")]


def forward(data: bytes) -> tuple[list[Message], bytes]:
    """Every request that could be read and judged, as facts, and the bytes that would go upstream for them."""
    server = ServerConnection()
    server.receive(data)
    messages: list[Message] = []
    wires = b""
    try:
        while True:
            head = server.next_event()
            if not isinstance(head, RequestHead):
                break
            target = canonical_target(head.target, head.form)
            fields = forwarded_request_fields(head)
            client = ClientConnection()
            wire = client.send_request(head.method, target.wire, fields, head.framing, version=head.forward_version)
            body = b""
            while isinstance(event := server.next_event(), Data):
                wire += b"".join(client.send_data(event.data))
                body += event.data
            if not isinstance(event, EndOfMessage):
                break
            wires += wire + client.send_end(event.trailers)
            framing = framing_text(head.framing)
            messages.append((head.method, target.wire, ours(fields), framing, body, event.trailers))
            if not head.keep_alive:
                break
            server.send_response(EMPTY_REPLY, close=False)
            server.send_end()
            server.start_next_cycle()
    except RemoteProtocolError:
        pass
    return messages, wires


@given(mutated(REQUESTS))
def test_what_is_forwarded_is_read_as_it_was_judged(data: bytes) -> None:
    messages, wires = forward(data)
    again, wires_again = forward(wires)
    kept = [message for message in messages if message]
    # HTTP/1.0 without Host is forwarded on a connection of its own; here it would end the row.
    assert again == kept[: len(again)]
    assert wires.startswith(wires_again)
    if b"HTTP/1.0" not in wires:
        assert again == kept
        assert wires_again == wires


@given(mutated(REQUESTS))
def test_plain_h11_reads_the_same(data: bytes) -> None:
    messages, wires = forward(data)
    if b" HTTP/1.0\r\n" in wires or not wires:
        return
    upstream = h11.Connection(h11.SERVER)
    upstream.receive_data(wires)
    for method, target, fields, _, body, trailers in messages:
        request = upstream.next_event()
        assert isinstance(request, h11.Request)
        assert (request.method, request.target) == (method, target)
        assert ours(request.headers.raw_items()) == fields
        found = b""
        while isinstance(event := upstream.next_event(), h11.Data):
            found += event.data
        assert isinstance(event, h11.EndOfMessage)
        assert (found, event.headers.raw_items()) == (body, trailers)
        upstream.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
        upstream.send(h11.EndOfMessage())
        upstream.start_next_cycle()
    assert upstream.next_event() is h11.NEED_DATA
    assert upstream.trailing_data == (b"", False)


@given(mutated(REQUESTS))
def test_a_reader_that_knows_little_counts_the_same(data: bytes) -> None:
    """Splits at CRLF, takes the first length or coding it finds by any spelling of its name, and skips the body."""
    messages, wires = forward(data)
    count = 0
    while wires:
        head, found, wires = wires.partition(b"\r\n\r\n")
        assert found
        assert b"\n" not in head.replace(b"\r\n", b"")
        lengths = re.findall(rb"(?im)^content[-_ ]*length[^:]*:\s*(.*?)\s*$", head)
        codings = re.findall(rb"(?im)^transfer[-_ ]*encoding[^:]*:\s*(.*?)\s*$", head)
        if b"transfer_encoding" in head.lower():
            return  # a name like any other, and the one that this reader is too simple for
        assert len(lengths) + len(codings) <= 1
        if lengths:
            wires = wires[int(lengths[0]) :]
        elif codings:
            assert codings == [b"chunked"]
            while (size := int(wires.partition(b"\r\n")[0], 16)) > 0:
                wires = wires.partition(b"\r\n")[2][size + 2 :]
            trailers = wires.partition(b"\r\n")[2]
            wires = trailers[2:] if trailers.startswith(b"\r\n") else trailers.partition(b"\r\n\r\n")[2]
        count += 1
    assert count == len(messages)


tokens = st.text("abcXYZ-_!09", min_size=1, max_size=8).map(lambda text: b"x" + text.encode())
values = st.binary(max_size=20).map(lambda data: re.sub(rb"[^\x20-\x7e\x80-\xff]", b"", data).strip())
fields_lists = st.lists(st.tuples(tokens, values), max_size=8)


@given(fields_lists, st.lists(st.binary(min_size=1, max_size=40), max_size=5), st.booleans(), fields_lists, places)
def test_serialised_is_read_back(
    fields: Fields, body: list[bytes], chunked: bool, trailers: Fields, where: list[int]
) -> None:
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % sum(map(len, body))
    lines = [b"POST /a HTTP/1.1", b"Host: h", framing, *(b"%s: %s" % pair for pair in fields)]
    data = b"\r\n".join(lines) + b"\r\n\r\n"
    if chunked:
        data += b"".join(b"%X;x=y\r\n%s\r\n" % (len(piece), piece) for piece in body) + b"0\r\n"
        data += b"".join(b"%s: %s\r\n" % pair for pair in trailers) + b"\r\n"
    else:
        data += b"".join(body)
    messages, wires = forward(data)
    ((method, target, sent, _, read, ended),) = messages
    assert (method, target, read) == (b"POST", b"/a", b"".join(body))
    if not chunked:
        assert sent[1:] == fields
    assert ended == (trailers if chunked else [])
    assert forward(wires) == (messages, wires)


@given(st.lists(st.binary(min_size=1, max_size=50) | st.integers(0, 60), max_size=30))
def test_buffer_is_a_queue(steps: list[bytes | int]) -> None:
    buffer, model = Buffer(), b""
    for step in steps:
        if isinstance(step, bytes):
            buffer.append(step)
            model += step
        else:
            assert buffer.find_end(b"\x00", 40) == model.find(b"\x00", 0, 40) + 1 or -1
            assert buffer.take(step) == model[:step]
            model = model[step:]
        assert len(buffer) == len(model)
        assert buffer.starts_with(model[:3])


def test_little_is_held_while_more_is_needed() -> None:
    """The bound of Http1Limits, met by the longest of everything that is not yet complete."""
    start = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    for before, byte, bound in ((b"", b"a", 16384), (start, b"0", 256), (start + b"0\r\n", b"a", 8192)):
        server = ServerConnection()
        if before:
            server.receive(before)
        try:
            while True:
                while server.next_event() not in (NEED_DATA, PAUSED):
                    pass
                assert server.buffered < bound
                server.receive(byte)
        except RemoteProtocolError as error:
            assert error.reason.endswith("too_long")  # noqa: PT017 - the loop has no other end
        assert server.buffered == bound


def test_closed_is_told_again_and_again() -> None:
    server = ServerConnection()
    server.receive(b"")
    assert [server.next_event(), server.next_event()] == [ConnectionClosed(), ConnectionClosed()]
