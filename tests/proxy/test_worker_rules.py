"""Rules come to a worker whole, or as what changed since those it has."""

import asyncio
import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from policies.ruleset import DirectionRules, EndpointRules, RuleSet
from policies.wire import encode, encode_change
from proxy.channel import Message
from proxy.watch import Watch
from proxy.worker import Worker
from tests.proxy.helpers import run

OLD = RuleSet(
    1,
    {n: EndpointRules(n, "default", f"pod-{n}", {}, DirectionRules(), DirectionRules()) for n in (1, 2)},
    prefixes={"0.0.0.0/0": 9},
)
NEW = replace(OLD, revision=2, endpoints={2: OLD.endpoints[2], 3: replace(OLD.endpoints[1], id=3, name="pod-3")})


def memfd(data: bytes) -> int:
    fd = os.memfd_create("rules")
    os.write(fd, data)
    return fd


def told(worker: Worker, data: bytes, **message: int) -> None:
    content: Message = {"op": "rules", **message}
    worker._do(content, [memfd(data), memfd(b"{}")])


def new_worker(control: socket.socket, directory: Path) -> Worker:
    settings: dict[str, object] = {
        "name": "w",
        "node": "n",
        "audit": {"directory": str(directory), "max_bytes": 1 << 20, "backups": 1, "stdout": False},
        "limits": {},
    }
    return Worker(asyncio.get_running_loop(), Watch(), control, settings)


def test_a_change_is_put_upon_the_rules_it_was_made_for_and_upon_no_others(tmp_path: Path) -> None:
    async def body() -> None:
        control, other = socket.socketpair()
        worker = new_worker(control, tmp_path)
        change = encode_change(OLD, NEW)
        with pytest.raises(ValueError, match="a change of epoch 0, this worker has 0"):
            told(worker, change, epoch=8, base=0)  # it was told nothing yet
        told(worker, encode(OLD), epoch=7)
        before = worker._policy.engine.ruleset
        with pytest.raises(ValueError, match="a change of epoch 6, this worker has 7"):
            told(worker, change, epoch=8, base=6)
        assert worker._policy.engine.ruleset is before
        told(worker, change, epoch=8, base=7)
        after = worker._policy.engine.ruleset
        assert after == NEW
        assert after.endpoints[2] is before.endpoints[2]
        assert (worker._epoch, worker._policy.revision) == (8, 2)
        worker.stop()
        control.close()
        other.close()

    run(body)


def test_rules_that_could_not_be_put_in_force_are_no_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the next change would be put upon the rules before them: what they took away would be there again."""

    def fails(*_: object) -> None:
        raise ValueError("no engine of these")

    async def body() -> None:
        control, other = socket.socketpair()
        worker = new_worker(control, tmp_path)
        told(worker, encode(OLD), epoch=7)
        newest = replace(NEW, revision=3)
        with monkeypatch.context() as patch:
            patch.setattr("proxy.worker.Engine", fails)
            with pytest.raises(ValueError, match="no engine of these"):
                told(worker, encode_change(OLD, NEW), epoch=8, base=7)
        with pytest.raises(ValueError, match="a change of epoch 8, this worker has 7"):
            told(worker, encode_change(NEW, newest), epoch=9, base=8)
        told(worker, encode_change(OLD, newest), epoch=9, base=7)
        assert worker._policy.engine.ruleset == newest
        worker.stop()
        control.close()
        other.close()

    run(body)
