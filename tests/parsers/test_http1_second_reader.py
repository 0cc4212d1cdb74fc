"""h11 reads every head that it has not agreed on before, and only those."""

import h11
import pytest

from parsers.errors import RemoteProtocolError
from parsers.http1 import heads
from parsers.http1.events import Http1Limits

LIMITS = Http1Limits()
REQUEST = b"GET /public HTTP/1.1\r\nHost: web\r\nX-Number: %d\r\n\r\n"
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Every head that h11 was given."""
    seen: list[bytes] = []
    real = heads._second_opinion

    def watch(connection: h11.Connection, head: bytes) -> object:
        seen.append(head)
        return real(connection, head)

    monkeypatch.setattr(heads, "_second_opinion", watch)
    monkeypatch.setattr(heads, "_agreed", set())
    return seen


def test_the_same_head_is_asked_about_once_and_reads_the_same(asked: list[bytes]) -> None:
    first, second = (heads.read_request(REQUEST % 1, LIMITS) for _ in range(2))
    assert first == second
    assert first is not second
    assert asked == [REQUEST % 1]
    for _ in range(2):
        heads.read_response(RESPONSE % 1, b"GET", LIMITS)
    assert asked == [REQUEST % 1, RESPONSE % 1]


def test_one_other_byte_is_another_head(asked: list[bytes]) -> None:
    for number in range(5):
        heads.read_request(REQUEST % number, LIMITS)
        heads.read_response(RESPONSE % number, b"GET", LIMITS)
    assert len(asked) == 10


def test_an_agreement_on_a_request_is_none_on_a_response() -> None:
    assert heads._digest(b"request", b"x") != heads._digest(b"response", b"x")


def test_a_disagreement_is_never_remembered(asked: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "_second_opinion", lambda *_: h11.NEED_DATA)
    for _ in range(2):
        with pytest.raises(RemoteProtocolError, match="differently"):
            heads.read_request(REQUEST % 1, LIMITS)
    assert heads._agreed == set()


def test_the_table_is_bounded(asked: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "AGREED_MAX", 8)
    for number in range(50):
        heads.read_request(REQUEST % number, LIMITS)
    assert len(heads._agreed) <= 8
