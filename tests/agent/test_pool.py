"""The end of a worker and the beginning of the next one."""

import asyncio
import socket
import subprocess
import sys
from pathlib import Path

from agent.config import Settings
from agent.pool import Pool
from agent.workers import Process, WorkerFolder, WorkerLink


def test_the_end_of_a_worker_leaves_a_successor_of_its_name_alone(tmp_path: Path) -> None:
    """The successor of a worker that lived for long is started at once, before the pool has finished with the old one,
    and may have its name. It was forgotten with it, and served on by the rules of its first moment."""

    async def body() -> None:
        settings = Settings.model_validate(
            {"node": "n", "run_dir": str(tmp_path), "audit": {"directory": str(tmp_path)}}
        )

        async def equip(link: WorkerLink) -> None:
            raise AssertionError

        pool = Pool(settings, tmp_path, equip, lambda slot: None)
        folder = WorkerFolder(tmp_path / "workers")
        (tmp_path / "workers").mkdir()
        loop = asyncio.get_running_loop()
        children = [subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) for _ in range(2)]  # noqa: ASYNC220  ours, killed below
        try:
            links, ends = [], []
            for child in children:
                near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                process = Process.of(child.pid)
                assert process is not None
                links.append(WorkerLink(loop, "worker-0", process, near))
                ends.append(far)
            old, successor = links
            pool._links["worker-0"] = old
            watch = asyncio.create_task(pool._watch_one(old))
            children[0].kill()
            children[0].wait()
            ends[0].close()
            async with asyncio.timeout(10):
                await old.lost.wait()
            folder.record("worker-0", successor.process)
            pool._links["worker-0"] = successor
            async with asyncio.timeout(10):
                await watch
            assert list(pool) == [successor]
            assert folder.process("worker-0") == successor.process
            successor.close()
            ends[1].close()
        finally:
            for child in children:
                child.kill()
                child.communicate()

    asyncio.run(body())
