"""The lab's side of an agent's control socket: one JSON object per line, one answer per request.

Standard library only, so that `lab status` stays quick.
"""

import json
import socket
from pathlib import Path
from typing import cast

from lab.errors import LabError

type Json = dict[str, object]


class AgentAway(LabError):
    """Nobody answers on the socket: the agent is not started, dead, or too busy."""


class Call:
    """A request that is on its way; several agents can be at work at once before `answer` is asked for."""

    def __init__(self, path: Path, request: Json, timeout_s: float) -> None:
        self._where = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout_s)
        try:
            self._socket.connect(str(path))
            self._socket.sendall(json.dumps(request).encode() + b"\n")
        except OSError as error:
            self._socket.close()
            raise AgentAway(f"no agent at {path}: {error.strerror or error}") from error

    def answer(self) -> Json:
        """The agent's answer.

        Raises:
            AgentAway: it went away or did not answer in time.
            LabError: it did not answer `"ok": true`; the message is its error.
        """
        received = b""
        try:
            while not received.endswith(b"\n"):
                piece = self._socket.recv(65536)
                if not piece:
                    raise AgentAway(f"the agent at {self._where} closed the connection without an answer")
                received += piece
            answer = json.loads(received)
        except (OSError, ValueError) as error:
            raise AgentAway(f"no answer from the agent at {self._where}: {error}") from error
        finally:
            self._socket.close()
        if not isinstance(answer, dict):
            raise AgentAway(f"the agent at {self._where} answered {answer!r}")
        if answer.get("ok") is not True:
            raise LabError(str(answer.get("error", "the agent gave no reason")))
        return cast("Json", answer)  # JSON objects have string keys


def call(path: Path, request: Json, timeout_s: float) -> Json:
    """Ask one agent and wait for the answer; raises like Call."""
    return Call(path, request, timeout_s).answer()
