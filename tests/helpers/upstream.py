"""A server for attack tests, run inside a pod: keeps every byte it is sent, and answers as the path says.

    python upstream.py PORT FILE

A request for `/public/answer/NAME` gets `ANSWERS[NAME]` byte for byte; every other one gets 200. It takes requests
apart in the most careless way there is (a head ends at a blank line, of LF too, and no body is expected), so that what
was smuggled past the proxy shows as a request of its own. FILE gets one line of JSON per request line seen, and one
per connection with all of its bytes (Latin-1).
"""

import contextlib
import json
import re
import socket
import sys
import threading
import time
from pathlib import Path

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
ANSWERS: dict[str, bytes] = {
    "switch": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nraw bytes",
    "twice": OK + b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nPOISONED",
    "two-lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 50\r\n\r\nok",
    "length-and-coding": OK[:-6] + b"\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "bare-lf": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    "fold": b"HTTP/1.1 200 OK\r\nX-A: b\r\n c\r\nContent-Length: 2\r\n\r\nok",
    "nul": b"HTTP/1.1 200 OK\r\nX-A: \0\r\nContent-Length: 2\r\n\r\nok",
    "cr-in-value": b"HTTP/1.1 200 OK\r\nX-A: a\rSet-Cookie: b\r\nContent-Length: 2\r\n\r\nok",
    "bad-chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x2\r\nok\r\n0\r\n\r\n",
    "short": b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nok",
    "not-http": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "http09": b"<html>ok</html>",
    "http2": b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "status": b"HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok",
    "head-too-long": b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 20000 + b"\r\nContent-Length: 2\r\n\r\nok",
    "fields": b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 150 + b"Content-Length: 2\r\n\r\nok",
    "informational": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 40 + OK,
    "nothing": b"",
    "no-content": b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok",
}
REQUEST = re.compile(rb"(.*?)\r?\n((?:.+\r?\n)*?)\r?\n")
CLOSING = {"short", "http09", "nothing"}


class Log:
    """Lines of JSON, from any thread."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)
        self._lock = threading.Lock()

    def write(self, **fields: str) -> None:
        """One line."""
        with self._lock:
            self._file.write(json.dumps(fields) + "\n")


def serve(sock: socket.socket, log: Log) -> None:
    """One connection, to its end."""
    seen = data = b""
    with contextlib.suppress(OSError), sock:
        while chunk := sock.recv(65536):
            seen += chunk
            data += chunk
            while match := REQUEST.match(data):
                data = data[match.end() :]
                line = match[1].decode("latin-1")
                log.write(line=line)
                name = line.partition("/public/answer/")[2].partition(" ")[0]
                if name == "slow":
                    time.sleep(6)
                sock.sendall(ANSWERS.get(name, OK))
                if name in CLOSING:
                    sock.shutdown(socket.SHUT_RDWR)
    log.write(bytes=seen.decode("latin-1"))


def main() -> None:
    """Serve until killed."""
    log = Log(Path(sys.argv[2]))
    listener = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
    log.write(ready="yes")
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=serve, args=(sock, log), daemon=True).start()


if __name__ == "__main__":
    main()
