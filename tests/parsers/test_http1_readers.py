"""The second reader: what the grammar would let through, h11 stops. The grammar is broken on purpose here."""

import re

import pytest

from parsers.errors import RemoteProtocolError
from parsers.http1 import grammar, heads
from parsers.http1.connection import ServerConnection
from parsers.http1.events import Fields, Http1Limits

REQUEST = b"GET / HTTP/1.1\r\nHost: h\r\nX: y\r\n\r\n"
RESPONSE = b"HTTP/1.1 200 OK\r\nX: y\r\n\r\n"


def test_fields_that_h11_sees_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    split = grammar.split_fields

    def all_but_the_last(block: bytes) -> Fields:
        return split(block)[:-1]

    limits = Http1Limits()
    heads.read_request(REQUEST, limits)
    heads.read_response(RESPONSE, b"GET", limits)
    monkeypatch.setattr(grammar, "split_fields", all_but_the_last)
    monkeypatch.setattr(heads, "_agreed", set())  # the agreements on the right reading
    with pytest.raises(RemoteProtocolError, match="readers_disagree"):
        heads.read_request(REQUEST, limits)
    with pytest.raises(RemoteProtocolError, match="readers_disagree"):
        heads.read_response(RESPONSE, b"GET", limits)


def test_heads_that_h11_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar, "REQUEST_HEAD", re.compile(b".*", re.DOTALL))
    with pytest.raises(RemoteProtocolError, match="readers_disagree") as caught:
        heads.read_request(b"GET / HTTP/1.1\r\nHost: h\r\nX y: secret\r\n\r\n", Http1Limits())
    assert "secret" not in repr((caught.value, caught.value.__cause__))
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("limits", "data", "reason"),
    [
        (Http1Limits(max_head_bytes=len(REQUEST) - 1), REQUEST, "head_too_long"),
        (Http1Limits(max_fields=1), REQUEST, "too_many_fields"),
        (Http1Limits(max_leading_crlf=0), b"\r\n" + REQUEST, "too_many_blank_lines"),
    ],
)
def test_limits_are_exact(limits: Http1Limits, data: bytes, reason: str) -> None:
    server = ServerConnection(limits)
    server.receive(data)
    with pytest.raises(RemoteProtocolError, match=reason):
        server.next_event()
    server = ServerConnection(Http1Limits(max_head_bytes=len(REQUEST), max_fields=2, max_leading_crlf=1))
    server.receive(b"\r\n" + REQUEST)
    server.next_event()
