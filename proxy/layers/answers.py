"""Responses of our own."""

from functools import cache
from http import HTTPStatus
from typing import Final

from parsers.http1.events import ResponseHead, length_framing

DENIED_BODY: Final = b"Access denied\r\n"


@cache
def body_of(status: int) -> bytes:
    """The body that goes with a status. It says nothing that the client did not know."""
    return DENIED_BODY if status == HTTPStatus.FORBIDDEN else f"{HTTPStatus(status).phrase}\r\n".encode("ascii")


@cache
def answer_head(status: int) -> ResponseHead:
    """The head of a response with that body. Shared and never changed."""
    body = body_of(status)
    fields = [(b"Content-Type", b"text/plain"), (b"Content-Length", str(len(body)).encode("ascii"))]
    return ResponseHead(status, HTTPStatus(status).phrase.encode("ascii"), b"1.1", fields, length_framing(len(body)))


def bare_answer(status: int) -> bytes:
    """The whole response for a connection that no parser was made for; the connection closes after it."""
    return whole_answer(status, close=True)


def whole_answer(status: int, *, close: bool = False) -> bytes:
    """The octets that a strict layer would write for a status, to anything but HEAD."""
    body = body_of(status)
    return b"HTTP/1.1 %d %b\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n%b\r\n%b" % (
        status,
        HTTPStatus(status).phrase.encode("ascii"),
        len(body),
        b"Connection: close\r\n" if close else b"",
        body,
    )
