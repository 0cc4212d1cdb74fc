"""Sockets in a lab's pods, used from the test itself: raw HTTP clients, and servers that answer as a test needs.

A socket keeps the network namespace in which it was made, so the test enters the pod, makes it, and comes back.
"""

import json
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redirect.netns import Netns
from tests.helpers.cluster import Cluster

type Peer = dict[str, object]
type HttpRule = dict[str, object]

FRONTEND: Peer = {"matchLabels": {"app": "frontend"}}


def port_rule(port: int, http: Sequence[HttpRule] | None) -> dict[str, object]:
    """One entry of toPorts; http None: no rules."""
    entry: dict[str, object] = {"ports": [{"port": str(port), "protocol": "TCP"}]}
    return entry if http is None else {**entry, "rules": {"http": list(http)}}


def ingress(*ports: dict[str, object], peers: Sequence[Peer] | None = (FRONTEND,)) -> dict[str, object]:
    """One ingress rule; peers None: fromEndpoints absent."""
    rule: dict[str, object] = {"toPorts": list(ports)}
    return rule if peers is None else {**rule, "fromEndpoints": list(peers)}


def policy(name: str, *rules: dict[str, object], app: str = "web", namespace: str = "default") -> str:
    """A CiliumNetworkPolicy that selects `app`, as JSON (which is YAML)."""
    return json.dumps(
        {
            "apiVersion": "cilium.io/v2",
            "kind": "CiliumNetworkPolicy",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"endpointSelector": {"matchLabels": {"app": app}}, "ingress": list(rules)},
        }
    )


def netns_of(lab: Cluster, pod: str) -> Path:
    """Where the pod's network namespace is; POD as NAME or NAMESPACE/NAME."""
    namespace, _, name = pod.rpartition("/")
    return Path("/run/netns") / f"tulle_{lab.name}_pod_{namespace or 'default'}_{name}"


@contextmanager
def inside(lab: Cluster, pod: str) -> Iterator[Netns]:
    """The thread is in the pod's network namespace for the length of the block."""
    with closing(Netns.open(netns_of(lab, pod))) as netns, netns.entered():
        yield netns


@dataclass(frozen=True, slots=True)
class Response:
    """raw: every byte of it; trailers: the lines behind the last chunk."""

    status: int
    headers: dict[str, str]
    body: bytes
    raw: bytes
    trailers: tuple[str, ...] = ()

    def json(self) -> dict[str, Any]:  # what web says it saw; tests look into it
        found: dict[str, Any] = json.loads(self.body)
        return found


class Client:
    """One connection from a pod, with a reader that never takes a byte too many."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._buffer = b""
        self._taken = b""

    @property
    def port(self) -> int:
        """Our own port."""
        number: int = self.sock.getsockname()[1]
        return number

    def send(self, data: bytes) -> None:
        """Send all of it."""
        self.sock.sendall(data)

    def ask(self, path: str, method: str = "GET", *fields: str) -> Response:
        """One request without a body, and its response."""
        self.send("\r\n".join([f"{method} {path} HTTP/1.1", "Host: web", *fields, "", ""]).encode())
        return self.response(method)

    def response(self, method: str = "GET") -> Response:
        """Read one response, whatever frames its body (RFC 9112 6.3).

        Raises:
            ConnectionError: the connection ended before it did.
        """
        self._taken = b""
        head = self.head().decode("latin-1")
        first, *lines = head.split("\r\n")
        status = int(first.split(" ")[1])
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        trailers: tuple[str, ...] = ()
        if method == "HEAD" or status < 200 or status in (204, 304):
            body = b""
        elif headers.get("transfer-encoding") == "chunked":
            body, trailers = self.chunks()
        elif "content-length" in headers:
            body = self._exactly(int(headers["content-length"]))
        else:
            body = self.rest()
        return Response(status, headers, body, self._taken, trailers)

    def rest(self) -> bytes:
        """Everything up to the end of the connection."""
        while self._more():
            pass
        return self._take(len(self._buffer))

    def ended(self) -> bool:
        """Whether the peer has closed and nothing is left to read; waits for it."""
        with suppress(ConnectionResetError):
            return not self._buffer and not self._more()
        return True

    def alive(self) -> bool:
        """Whether the connection is open right now and nothing unasked came."""
        self.sock.setblocking(False)
        try:
            self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return not self._buffer
        except OSError:
            return False
        else:
            return False
        finally:
            self.sock.settimeout(TIMEOUT_S)

    def head(self) -> bytes:
        """Up to and with the empty line: of a request, for a server."""
        return self._until(b"\r\n\r\n")

    def skip(self, count: int) -> int:
        """Read `count` bytes and forget them; gives how many did not come."""
        count -= len(self._buffer)
        self._buffer = b""
        while count > 0 and (data := self.sock.recv(min(count, 1 << 20))):
            count -= len(data)
        return count

    def chunks(self) -> tuple[bytes, tuple[str, ...]]:
        """A chunked body and its trailers."""
        body = b""
        while size := int(self._until(b"\r\n").partition(b";")[0], 16):
            body += self._exactly(size)
            assert self._exactly(2) == b"\r\n"
        trailers: list[str] = []
        while line := self._until(b"\r\n")[:-2]:
            trailers.append(line.decode("latin-1"))
        return body, tuple(trailers)

    def _more(self) -> bool:
        data = self.sock.recv(262144)
        self._buffer += data
        return bool(data)

    def _until(self, end: bytes) -> bytes:
        while (at := self._buffer.find(end)) < 0:
            if not self._more():
                raise ConnectionError(f"closed after {self._taken + self._buffer!r}")
        return self._take(at + len(end))

    def _exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            if not self._more():
                raise ConnectionError(f"closed {count - len(self._buffer)} bytes early")
        return self._take(count)

    def _take(self, count: int) -> bytes:
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        self._taken += taken
        return taken


TIMEOUT_S = 20.0


@contextmanager
def connected(
    lab: Cluster, pod: str, to: str = "web", port: int = 80, family: str = "ipv4", timeout_s: float = TIMEOUT_S
) -> Iterator[Client]:
    """A connection from `pod` to a port of pod `to`; raises OSError when it is refused."""
    address = lab.address(to, family)
    with inside(lab, pod):
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    with sock:
        sock.settimeout(timeout_s)
        sock.connect((address, port))
        yield Client(sock)


def status_of(lab: Cluster, pod: str, path: str, **where: Any) -> int:  # what `connected` takes
    """The status of one GET on a connection of its own; 0 when the connection was refused."""
    try:
        with connected(lab, pod, **where) as client:
            return client.ask(path, "GET", "Connection: close").status
    except ConnectionRefusedError:
        return 0


@contextmanager
def ended(process: "subprocess.Popen[str]") -> Iterator[None]:
    """The process is ended when the block is left, however it is left."""
    try:
        yield
    finally:
        process.terminate()


type Handler = Callable[["Client"], None]


@contextmanager
def server(lab: Cluster, pod: str, port: int, handler: Handler) -> Iterator[None]:
    """Listen in a pod, both families; every connection runs `handler` in a thread of its own and is closed after it."""
    with inside(lab, pod):
        listener = socket.socket(socket.AF_INET6)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("::", port))
    listener.listen(64)
    listener.settimeout(0.1)
    stopping = threading.Event()
    threads: list[threading.Thread] = []

    def one(sock: socket.socket) -> None:
        with sock, suppress(ConnectionError, TimeoutError):
            sock.settimeout(TIMEOUT_S)
            handler(Client(sock))

    def accept() -> None:
        while not stopping.is_set():
            with suppress(TimeoutError):
                sock, _ = listener.accept()
                thread = threading.Thread(target=one, args=(sock,), daemon=True)
                threads.append(thread)
                thread.start()

    acceptor = threading.Thread(target=accept, daemon=True)
    acceptor.start()
    try:
        yield
    finally:
        stopping.set()
        acceptor.join()
        listener.close()
        for thread in threads:
            thread.join(TIMEOUT_S)
