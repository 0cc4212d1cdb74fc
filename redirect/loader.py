"""Compile the programs with BCC, pin their maps and leave an image of each program; then exit.

BCC holds some 150 MB and a compiler, so it lives in a process of its own for about a second: ``load`` runs
``python -m redirect.loader`` and nobody else imports bcc. What stays:

    <bpffs>/l7_*      the maps
    <bpffs>/l7_image  an array map with one value: JSON with the digest, the ids of the maps it goes with, and for each
                      program its instructions and the index and name of each map reference
    <bpffs>/links/    links, made by redirect.steer

steer.Kernel writes map descriptors (and a pod's id) into the instructions and loads them with libbpf alone.

Nothing changes when the digest of the C text is that of the image. When only code changed, the maps stay and keep what
they hold. When the layout of any map changed, all are made anew, empty, and the agent fills them before it attaches:
programs that are attached run on with the old maps until then. INVARIANT: the image is renamed into place last and
names the maps by id, so a loader that dies half way leaves something that the next one recognises as unfinished.
"""

from __future__ import annotations

import argparse
import base64
import fcntl
import hashlib
import json
import os
import re
import secrets
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict  # Any: bcc has no types

from redirect import bpffs as bpffs_module
from redirect import layout, libbpf
from redirect.errors import RedirectError

__all__ = ["IMAGE", "MAPS", "Image", "Loaded", "ProgramImage", "digest", "find_headers", "load", "read_image", "source"]

BPF_DIR = Path(__file__).parent / "bpf"
DIST_PACKAGES = "/usr/lib/python3/dist-packages"  # where Debian and Ubuntu put bcc
LOADER_VERSION = 1  # part of the digest: raise it when what the loader leaves changes
IMAGE = "l7_image"
TIMEOUT_S = 120  # a compile takes a second on an idle machine; this is for one that swaps
ENDPOINT_MAGIC = 0x50D1D0001EE7C0DE
LD_IMM64 = 0x18  # BPF_LD | BPF_IMM | BPF_DW, two instructions long
PSEUDO_MAP_FD = 1  # in src_reg: the immediate is a map's descriptor

MAPS = (
    "l7_netns",
    "l7_endpoints",
    "l7_verdicts",
    "l7_identities",
    "l7_listeners",
    "l7_own_cgroups",
    "l7_nodes",
    "l7_opened",
    "l7_services",
    "l7_flows",
    "l7_seen",
    "l7_events",
    "l7_counters",
    "l7_asking",
)
# file, program, type, attach type
PROGRAMS = (
    ("connect4.bpf.c", "l7_connect4", libbpf.PROG_CGROUP_SOCK_ADDR, libbpf.CGROUP_INET4_CONNECT),
    ("connect6.bpf.c", "l7_connect6", libbpf.PROG_CGROUP_SOCK_ADDR, libbpf.CGROUP_INET6_CONNECT),
    ("sendmsg4.bpf.c", "l7_sendmsg4", libbpf.PROG_CGROUP_SOCK_ADDR, libbpf.CGROUP_UDP4_SENDMSG),
    ("sendmsg6.bpf.c", "l7_sendmsg6", libbpf.PROG_CGROUP_SOCK_ADDR, libbpf.CGROUP_UDP6_SENDMSG),
    ("sk_lookup.bpf.c", "l7_sk_lookup", libbpf.PROG_SK_LOOKUP, libbpf.SK_LOOKUP),
    ("gate.bpf.c", "l7_gate", libbpf.PROG_SCHED_CLS, 0),
    ("gate_in.bpf.c", "l7_gate_in", libbpf.PROG_SCHED_CLS, 0),
    ("setsockopt.bpf.c", "l7_setsockopt", libbpf.PROG_CGROUP_SOCKOPT, libbpf.CGROUP_SETSOCKOPT),
    ("nodeops.bpf.c", "l7_nodeops", libbpf.PROG_SOCK_OPS, libbpf.CGROUP_SOCK_OPS),
    ("sockops.bpf.c", "l7_sockops", libbpf.PROG_SOCK_OPS, libbpf.CGROUP_SOCK_OPS),
)


PER_POD = {"l7_sk_lookup", "l7_gate", "l7_gate_in"}


class ProgramImage(TypedDict):
    """One program, to be patched and loaded. Indices count instructions of 8 bytes."""

    kind: int
    attach: int
    instructions: str  # base64
    maps: list[tuple[int, str]]
    endpoint: list[int]  # where the pod's id goes


class Image(TypedDict):
    """What l7_image holds."""

    digest: str
    layout: int
    maps: dict[str, int]  # kernel ids of the maps that these programs go with
    programs: dict[str, ProgramImage]


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the loader did. ``emptied``: the maps are new and the agent has to fill them."""

    digest: str
    compiled: bool
    emptied: bool


def source() -> str:
    """The C text of every program as one module, so that they share maps: each include once, where it comes first."""
    done: set[str] = set()

    def expand(name: str) -> str:
        if name in done:
            return ""
        done.add(name)
        text = (BPF_DIR / name).read_text(encoding="utf-8").replace("#pragma once\n", "")
        return f'#line 1 "{name}"\n' + re.sub(
            r'^#include "([^"]+)"\n', lambda match: expand(match[1]), text, flags=re.MULTILINE
        )

    return layout.c_prefix() + "".join(expand(name) for name, *_ in PROGRAMS) + layout.c_assertions()


def digest() -> str:
    """Tells apart everything that the loader could leave behind."""
    return hashlib.sha256(f"{LOADER_VERSION} {layout.LAYOUT}\n{MAPS}\n{PROGRAMS}\n{source()}".encode()).hexdigest()


def find_headers(headers: Path | None = None) -> Path:
    """A kernel header tree for BCC: the argument, $BCC_KERNEL_SOURCE, the running kernel's, the one ./dev setup made.

    Raises:
        RedirectError: none of them is there. Any recent tree does: the programs use UAPI types only.
    """
    candidates = [headers] if headers else []
    if named := os.environ.get("BCC_KERNEL_SOURCE"):
        candidates.append(Path(named))
    candidates += [
        Path("/lib/modules") / os.uname().release / "build",
        Path(sys.prefix) / "share" / "tulle" / "kernel-headers",
    ]
    for candidate in candidates:
        if (candidate / "include/uapi/linux/bpf.h").exists() and (candidate / "include/generated/autoconf.h").exists():
            return candidate
    raise RedirectError(f"no kernel headers in {', '.join(str(one) for one in candidates)}: run ./dev setup")


def read_image(bpffs: Path) -> Image | None:
    """The image pinned under ``bpffs``, if it and every map it goes with are there."""
    try:
        fd = libbpf.obj_get(bpffs / IMAGE)
    except RedirectError:
        return None
    try:
        raw = libbpf.map_lookup(fd, struct.pack("=I", 0), libbpf.map_info(fd).value_size)
    finally:
        os.close(fd)
    if raw is None:
        return None
    length = struct.unpack_from("=I", raw)[0]
    image: Image = json.loads(raw[4 : 4 + length])
    for name, number in image["maps"].items():
        info = _pinned_info(bpffs / name)
        if info is None or info.id != number:
            return None
    return image


def load(bpffs: str | os.PathLike[str], headers: str | os.PathLike[str] | None = None) -> Loaded:
    """Run the loader in a process of its own and wait for it, up to 120 s.

    Raises:
        RedirectError: the compiler, the verifier or the file system refused.
    """
    command = [sys.executable, "-W", "ignore", "-m", "redirect.loader", "--bpffs", os.fspath(bpffs)]
    if headers is not None:
        command += ["--headers", os.fspath(headers)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)  # noqa: S603 - our own module
    except subprocess.TimeoutExpired as error:
        raise RedirectError(f"the loader did not finish in {TIMEOUT_S} s") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        failure = RedirectError(f"the loader failed: {lines[-1]}")
        failure.add_note(done.stderr)
        raise failure
    return Loaded(**json.loads(done.stdout.splitlines()[-1]))


# From here on: inside the loader process.


def load_here(bpffs: Path, headers: Path | None) -> Loaded:
    """What ``load`` does, in this process. Imports bcc only if there is something to compile."""
    bpffs_module.ensure_mounted(bpffs)
    with _locked(bpffs):
        want = digest()
        present = read_image(bpffs)
        if present is not None and present["digest"] == want:
            return Loaded(want, compiled=False, emptied=False)
        module = _compile(find_headers(headers))
        maps = {name: _map_fd(module, name) for name in MAPS}
        keep = (
            present is not None
            and present.get("layout") == layout.LAYOUT
            and all(_same_layout(bpffs / name, fd) for name, fd in maps.items())
        )
        if not keep:
            for name, fd in maps.items():
                _pin_over(fd, bpffs / name)
        numbers = {name: _need_info(bpffs / name).id for name in MAPS}
        programs = {name: _image_of(module, name, kind, attach, maps) for _, name, kind, attach in PROGRAMS}
        _pin_image({"digest": want, "layout": layout.LAYOUT, "maps": numbers, "programs": programs}, bpffs)
        return Loaded(want, compiled=True, emptied=not keep)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _compile(headers: Path) -> Any:
    os.environ["BCC_KERNEL_SOURCE"] = str(headers.resolve())
    if DIST_PACKAGES not in sys.path:
        sys.path.append(DIST_PACKAGES)
    try:
        import bcc  # type: ignore[import-not-found]  # the distribution's package, only ever in this process
    except ImportError as error:
        raise RedirectError(f"cannot import bcc: {error}: install the package python3-bpfcc") from error
    try:
        module = bcc.BPF(text=source(), cflags=["-Wall", "-Werror", "-Wno-macro-redefined"])
        for _, name, kind, attach in PROGRAMS:
            module.load_func(name, kind, attach_type=attach)  # the verifier speaks here, before anything is pinned
    except Exception as error:  # bcc raises nothing more exact; the compiler's words are on stderr
        raise RedirectError(f"bcc refused the programs: {error}") from error
    return module


def _map_fd(module: Any, name: str) -> int:
    fd: int = sys.modules["bcc"].lib.bpf_table_fd(module.module, name.encode())
    if fd < 0:
        raise RedirectError(f"the programs have no map '{name}'")
    return fd


def _image_of(module: Any, name: str, kind: int, attach: int, maps: dict[str, int]) -> ProgramImage:
    """Instructions with every map descriptor and the endpoint's id taken out again."""
    import ctypes

    lib = sys.modules["bcc"].lib
    lib.bpf_function_start.restype = ctypes.c_void_p
    size = lib.bpf_function_size(module.module, name.encode())
    code = bytearray(ctypes.string_at(lib.bpf_function_start(module.module, name.encode()), size))
    names = {fd: map_name for map_name, fd in maps.items()}
    references: list[tuple[int, str]] = []
    endpoint: list[int] = []
    offset = 0
    while offset < size:
        opcode, registers, _, low = struct.unpack_from("<BBhI", code, offset)
        if opcode != LD_IMM64:
            offset += 8
            continue
        high = struct.unpack_from("<I", code, offset + 12)[0]
        if registers >> 4 == PSEUDO_MAP_FD:
            if low not in names:
                raise RedirectError(f"program '{name}' refers to a map that is not in the list: descriptor {low}")
            references.append((offset // 8, names[low]))
            struct.pack_into("<I", code, offset + 4, 0)
        elif high << 32 | low == ENDPOINT_MAGIC:
            endpoint.append(offset // 8)
        offset += 16
    if bool(endpoint) != (name in PER_POD):
        raise RedirectError(f"program '{name}' has {len(endpoint)} places for an endpoint id")
    return {
        "kind": kind,
        "attach": attach,
        "instructions": base64.b64encode(code).decode(),
        "maps": references,
        "endpoint": endpoint,
    }


def _pinned_info(path: Path) -> libbpf.MapInfo | None:
    try:
        fd = libbpf.obj_get(path)
    except RedirectError:
        return None
    try:
        return libbpf.map_info(fd)
    finally:
        os.close(fd)


def _need_info(path: Path) -> libbpf.MapInfo:
    info = _pinned_info(path)
    if info is None:
        raise RedirectError(f"'{path}' is gone")
    return info


def _same_layout(pinned: Path, fd: int) -> bool:
    old, new = _pinned_info(pinned), libbpf.map_info(fd)
    shape = ("type", "key_size", "value_size", "max_entries", "map_flags")
    return old is not None and all(getattr(old, field) == getattr(new, field) for field in shape)


def _pin_over(fd: int, path: Path) -> None:
    """Pin under a name of its own, then rename over what was there. bpffs allows no dots in names."""
    temporary = path.with_name(f"{path.name}_{secrets.token_hex(4)}")
    libbpf.obj_pin(fd, temporary)
    temporary.rename(path)


def _pin_image(image: Image, bpffs: Path) -> None:
    raw = json.dumps(image).encode()
    value = struct.pack("=I", len(raw)) + raw
    fd = libbpf.map_create(libbpf.MAP_ARRAY, IMAGE, 4, len(value), 1)
    try:
        libbpf.map_update(fd, struct.pack("=I", 0), value, IMAGE)
        _pin_over(fd, bpffs / IMAGE)
    finally:
        os.close(fd)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="redirect.loader", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bpffs", type=Path, required=True, help="directory on a bpffs to pin under")
    parser.add_argument("--headers", type=Path, help="kernel header tree for BCC")
    options = parser.parse_args(arguments)
    try:
        loaded = load_here(options.bpffs, options.headers)
    except RedirectError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(asdict(loaded)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
