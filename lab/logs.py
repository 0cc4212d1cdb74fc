"""`lab logs`: what the agents and their workers wrote, as it is in `logs/agent.log` of each node."""

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from lab import state
from lab.state import Lab, Node

POLL_S = 0.1


@dataclass(slots=True)
class _Tail:
    """One file, read as far as it has whole lines; a rotated one is read from its beginning again."""

    path: Path
    prefix: bytes
    offset: int = 0
    inode: int = 0
    rest: bytes = b""

    def read(self) -> list[bytes]:
        try:
            with self.path.open("rb") as file:
                inode = os.fstat(file.fileno()).st_ino
                if inode != self.inode:
                    self.inode, self.offset, self.rest = inode, 0, b""
                file.seek(self.offset)
                data = file.read()
        except FileNotFoundError:
            return []
        self.offset += len(data)
        *lines, self.rest = (self.rest + data).split(b"\n")
        return [self.prefix + line + b"\n" for line in lines]


def show(name: str, node: str | None, *, follow: bool) -> None:
    """Print the logs of one node or of all; with `follow` until interrupted or the lab is gone.

    Raises:
        LabError: no such lab or node.
    """
    lab = state.running(name)
    chosen = [lab.find_node(node)] if node else list(lab.nodes)
    tails = _tails(lab, chosen)
    out = sys.stdout.buffer
    while True:
        for tail in tails:
            out.writelines(tail.read())
        out.flush()
        if not follow or not lab.node_dir(chosen[0].name).exists():
            return
        time.sleep(POLL_S)


def _tails(lab: Lab, nodes: list[Node]) -> list[_Tail]:
    return [_Tail(lab.agent_log(node.name), f"{node.name} ".encode() if len(nodes) > 1 else b"") for node in nodes]
