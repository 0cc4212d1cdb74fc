"""The server in pod `web`: answers every method and path, and says what it saw.

    python -m lab.webserver [--port 80]

200 with Content-Length and keep-alive; the body is `{"client", "method", "target", "headers"}` with the peer's
address (IPv4 without `::ffff:`), the target and the fields as they came (a name that comes twice has its values
joined by ", "). `?bytes=N` adds N spaces behind the JSON, which stays JSON. Request bodies, by length or chunked,
are read and thrown away. What is no HTTP/1 gets 400 and the connection is closed.

It must not be what a benchmark measures: one asyncio protocol per connection, no task, no copy of a body.
"""

import argparse
import asyncio
import json
import re
import resource
import socket
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

# A test server behind an enforcer: larger than what the proxy lets through, small enough to bound memory.
MAX_HEAD_BYTES = 128 * 1024
MAX_CHUNK_LINE_BYTES = 4096
PAD = b" " * 65536
BACKLOG = 4096  # the kernel cuts it to net.core.somaxconn

_HEAD_END = re.compile(rb"\r?\n\r?\n")
_REQUEST_LINE = re.compile(rb"([!-~]+) ([!-~]+) HTTP/1\.([01])")


class BadRequest(Exception):
    """The peer does not speak HTTP/1; what is said is the body of the 400."""


class WebProtocol(asyncio.Protocol):
    """One connection: a head, its body, an answer, again. Answers leave in the order of the requests."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._state: Callable[[], bool] = self._read_head
        self._searched = 0
        self._body_left = 0
        self._pad_left = 0
        self._answer = b""
        self._close_after = False
        self._paused = False
        self._no_more = False

    # -- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - what create_server always gives
        self._transport = transport
        peer = transport.get_extra_info("peername")
        self._client = str(peer[0]).removeprefix("::ffff:") if peer else ""

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._run()

    def eof_received(self) -> bool:
        # Half-close is normal: what was asked before is answered, then we close too.
        self._no_more = True
        self._run()
        return True

    def pause_writing(self) -> None:
        self._paused = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._paused = False
        if not self._transport.is_closing():
            self._transport.resume_reading()
        self._run()

    # -- requests

    def _run(self) -> None:
        try:
            while not self._paused and not self._transport.is_closing() and self._state():
                pass
        except BadRequest as error:
            body = f"{error}\n".encode()
            self._transport.write(
                b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
            )
            self._transport.close()
        if self._no_more and not self._paused and self._state != self._write_pad:
            self._transport.close()

    def _read_head(self) -> bool:
        while self._buffer.startswith(b"\r\n"):  # RFC 9112 2.2: empty lines before a request line are skipped
            del self._buffer[:2]
        found = _HEAD_END.search(self._buffer, max(0, self._searched - 3))
        if found is None:
            self._searched = len(self._buffer)
            if self._searched > MAX_HEAD_BYTES:
                raise BadRequest("head too large")
            return False
        lines = bytes(self._buffer[: found.start()]).split(b"\n")
        del self._buffer[: found.end()]
        self._searched = 0
        self._begin(lines)
        return True

    def _begin(self, lines: list[bytes]) -> None:
        request = _REQUEST_LINE.fullmatch(lines[0].rstrip(b"\r"))
        if request is None:
            raise BadRequest("not a request line")
        method, target, minor = request[1].decode(), request[2].decode(), int(request[3])
        headers: dict[str, str] = {}
        lower: dict[str, str] = {}
        for line in lines[1:]:
            name, colon, value = line.rstrip(b"\r").partition(b":")
            if not colon:
                raise BadRequest("a field without a colon")
            key, text = name.decode("latin-1"), value.strip().decode("latin-1")
            headers[key] = f"{headers[key]}, {text}" if key in headers else text
            folded = key.lower()
            lower[folded] = f"{lower[folded]}, {text}" if folded in lower else text
        connection = lower.get("connection", "").lower()
        self._close_after = "close" in connection or (minor == 0 and "keep-alive" not in connection)
        self._prepare(method, target, headers, keep_alive_10=minor == 0 and not self._close_after)
        if lower.get("expect", "").lower() == "100-continue" and minor == 1 and not self._buffer:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._body(lower)

    def _prepare(self, method: str, target: str, headers: dict[str, str], *, keep_alive_10: bool) -> None:
        seen = {"client": self._client, "method": method, "target": target, "headers": headers}
        body = json.dumps(seen).encode() + b"\n"
        extra = _extra_bytes(target)
        head = (
            b"HTTP/1.1 200 OK\r\nServer: tulle-web\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%b\r\n"
            % (
                len(body) + extra,
                b"Connection: close\r\n"
                if self._close_after
                else b"Connection: keep-alive\r\n"
                if keep_alive_10
                else b"",
            )
        )
        if method == "HEAD":
            self._answer, self._pad_left = head, 0
        else:
            self._answer, self._pad_left = head + body, extra

    def _body(self, fields: dict[str, str]) -> None:
        coding = fields.get("transfer-encoding")
        if coding is not None:
            if coding.lower() != "chunked" or "content-length" in fields:
                raise BadRequest("a body that cannot be delimited")
            self._state = self._read_chunk_size
            return
        length = fields.get("content-length", "0")
        if not (length.isascii() and length.isdecimal()):
            raise BadRequest("bad Content-Length")
        self._body_left = int(length)
        self._state = self._skip_body if self._body_left else self._reply

    def _skip_body(self) -> bool:
        taken = min(self._body_left, len(self._buffer))
        del self._buffer[:taken]
        self._body_left -= taken
        if self._body_left:
            return False
        self._state = self._reply
        return True

    def _line(self) -> bytes | None:
        end = self._buffer.find(b"\n")
        if end < 0:
            if len(self._buffer) > MAX_CHUNK_LINE_BYTES:
                raise BadRequest("chunk line too long")
            return None
        line = bytes(self._buffer[:end]).rstrip(b"\r")
        del self._buffer[: end + 1]
        return line

    def _read_chunk_size(self) -> bool:
        line = self._line()
        if line is None:
            return False
        digits = line.partition(b";")[0].strip()
        if not re.fullmatch(rb"[0-9A-Fa-f]{1,15}", digits):
            raise BadRequest("bad chunk size")
        self._body_left = int(digits, 16)
        self._state = self._skip_chunk if self._body_left else self._read_trailer
        if self._body_left:
            self._body_left += 2  # the CRLF behind the data
        return True

    def _skip_chunk(self) -> bool:
        taken = min(self._body_left, len(self._buffer))
        del self._buffer[:taken]
        self._body_left -= taken
        if self._body_left:
            return False
        self._state = self._read_chunk_size
        return True

    def _read_trailer(self) -> bool:
        line = self._line()
        if line is None:
            return False
        if not line:
            self._state = self._reply
        return True

    # -- answers

    def _reply(self) -> bool:
        self._state = self._write_pad
        self._transport.write(self._answer)
        return True

    def _write_pad(self) -> bool:
        # One piece per turn: _run stops when the transport asks to pause, and goes on when it has room.
        if self._pad_left:
            piece = PAD if self._pad_left >= len(PAD) else PAD[: self._pad_left]
            self._pad_left -= len(piece)
            self._transport.write(piece)
            return True
        if self._close_after:
            self._transport.close()
            return False
        self._state = self._read_head
        return True


def _extra_bytes(target: str) -> int:
    if "?" not in target:
        return 0
    try:
        values = parse_qs(urlsplit(target).query).get("bytes", ["0"])
    except ValueError:
        return 0
    return int(values[0]) if values[0].isascii() and values[0].isdecimal() else 0


def listen(port: int) -> socket.socket:
    """One socket for both families: an IPv4 peer shows as ::ffff:a.b.c.d and is written without."""
    server = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    server.bind(("::", port))
    return server


async def serve(port: int) -> None:
    """Serve until cancelled."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(WebProtocol, sock=listen(port), backlog=BACKLOG)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="tulle-web", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--port", type=int, default=80)
    arguments = parser.parse_args()
    # Ten thousand connections at once is a test; the usual soft limit is 1024.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(serve(arguments.port))


if __name__ == "__main__":
    main()
