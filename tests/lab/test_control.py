"""The lab's side of the control socket, against a socket that answers what the test says."""

import json
import socket
import threading
from pathlib import Path

import pytest

from lab.control import AgentAway, call
from lab.errors import LabError


def answering(path: Path, *pieces: bytes) -> tuple[threading.Thread, list[bytes]]:
    """A listener that takes one request and sends the pieces."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen()
    heard: list[bytes] = []

    def serve() -> None:
        with listener:
            connection, _ = listener.accept()
            with connection:
                heard.append(connection.recv(65536))
                for piece in pieces:
                    connection.sendall(piece)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread, heard


def test_an_answer_in_pieces(tmp_path: Path) -> None:
    thread, heard = answering(tmp_path / "s", b'{"ok": tr', b'ue, "revision": 3}\n')
    assert call(tmp_path / "s", {"op": "policy.sync"}, 5) == {"ok": True, "revision": 3}
    thread.join()
    assert json.loads(heard[0]) == {"op": "policy.sync"}
    assert heard[0].endswith(b"\n")


def test_a_refusal_is_the_agents_words(tmp_path: Path) -> None:
    thread, _ = answering(tmp_path / "s", b'{"ok": false, "error": "no such pod"}\n')
    with pytest.raises(LabError, match=r"^no such pod$"):
        call(tmp_path / "s", {"op": "pod.del"}, 5)
    thread.join()


@pytest.mark.parametrize("pieces", [(), (b'{"ok": true}',), (b"junk\n",), (b"[1]\n",)])
def test_no_answer_is_never_success(tmp_path: Path, pieces: tuple[bytes, ...]) -> None:
    thread, _ = answering(tmp_path / "s", *pieces)
    with pytest.raises(AgentAway):
        call(tmp_path / "s", {"op": "status"}, 5)
    thread.join()


def test_an_answer_without_ok_is_a_refusal(tmp_path: Path) -> None:
    thread, _ = answering(tmp_path / "s", b"{}\n")
    with pytest.raises(LabError, match="no reason"):
        call(tmp_path / "s", {"op": "pod.add"}, 5)
    thread.join()


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(AgentAway, match="no agent at"):
        call(tmp_path / "s", {"op": "status"}, 5)
