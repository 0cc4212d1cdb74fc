"""The agent's control socket: one JSON object per line in, one per line out, both ends of it.

    {"op": "status"}                                  {"ok": true, "name", "ready", "revision", ...}
    {"op": "pod.add", "pod": {...}}                   answered once the pod is protected
    {"op": "pod.del", "namespace", "name"}            answered once nothing of ours is in it
    {"op": "policy.sync"}                             read the directory now; answered once it is in force everywhere
A failure answers {"ok": false, "error": "..."}. Only root may connect: the socket's mode is 0600.
"""

import asyncio
import json
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from agent.errors import AgentError
from policies.errors import PolicyError
from redirect.errors import RedirectError

log = logging.getLogger("tulle.agent.control")

MAX_LINE = 1024 * 1024
"""Bytes of one request; a pod with its labels is far below."""

type Handler = Callable[[Mapping[str, object]], Awaitable[dict[str, object]]]


def listen(path: Path) -> socket.socket:
    """A socket at `path` for `serve`; an earlier one is replaced, so only the holder of the agent's lock may call."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    sock.bind(str(path))
    path.chmod(0o600)
    return sock


async def serve(sock: socket.socket, handlers: Mapping[str, Handler]) -> asyncio.Server:
    """Answer on a socket that `listen` made."""

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(json.dumps(await _answer(line, handlers)).encode() + b"\n")
                await writer.drain()
        except (OSError, ValueError) as error:  # ValueError: a line over the limit
            log.info("control connection ended: %s", error)
        finally:
            writer.close()

    return await asyncio.start_unix_server(client, sock=sock, limit=MAX_LINE)


async def _answer(line: bytes, handlers: Mapping[str, Handler]) -> dict[str, object]:
    try:
        message = json.loads(line)
        handler = handlers[message["op"]]
    except (ValueError, KeyError, TypeError):
        return {"ok": False, "error": f"not a request; operations are {', '.join(sorted(handlers))}"}
    try:
        return {"ok": True, **await handler(message)}
    except (AgentError, PolicyError, RedirectError, OSError) as error:
        log.warning("'%s' failed: %s", message["op"], error)
        return {"ok": False, "error": str(error)}


def ask(path: Path, message: Mapping[str, object], timeout_s: float = 60.0) -> dict[str, object]:
    """Ask the agent that listens at `path` for one thing.

    Raises:
        AgentError: nobody answers there within `timeout_s`, or the agent says no; the message is the agent's.
    """
    data = b""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(timeout_s)
            sock.connect(str(path))
            sock.sendall(json.dumps(message).encode() + b"\n")
            while not data.endswith(b"\n"):
                chunk = sock.recv(65536)
                if not chunk:
                    raise AgentError(f"the agent at '{path}' closed the connection")
                data += chunk
    except TimeoutError as error:
        raise AgentError(f"the agent at '{path}' did not answer within {timeout_s:g} s") from error
    except OSError as error:
        raise AgentError(f"no agent answers at '{path}': {error.strerror}") from error
    answer = json.loads(data)
    if not isinstance(answer, dict) or answer.get("ok") is not True:
        raise AgentError(str(answer.get("error") if isinstance(answer, dict) else answer))
    return answer
