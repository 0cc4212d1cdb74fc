"""libbpf through ctypes: the few calls we need, errors as RedirectError.

libbpf.so.1 is what BCC itself links (package libbpf1); its version 1 returns -errno from every call. Signatures are
those of bpf/bpf.h and bpf/libbpf.h, libbpf 1.1. Option structs begin with their own size, and a shorter one is legal.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Iterator
from typing import ClassVar

from redirect.errors import RedirectError, UnsupportedFeature, kernel_error

__all__ = [
    "CGROUP_INET4_CONNECT",
    "CGROUP_INET6_CONNECT",
    "CGROUP_SETSOCKOPT",
    "CGROUP_SOCK_OPS",
    "CGROUP_UDP4_SENDMSG",
    "CGROUP_UDP6_SENDMSG",
    "PROG_CGROUP_SOCKOPT",
    "PROG_CGROUP_SOCK_ADDR",
    "PROG_SCHED_CLS",
    "PROG_SK_LOOKUP",
    "PROG_SOCK_OPS",
    "SK_LOOKUP",
    "RingBuffer",
    "link_cgroup_id",
    "link_create",
    "link_detach",
    "link_netns_inode",
    "link_update",
    "load_program",
    "map_create",
    "map_delete",
    "map_info",
    "map_keys",
    "map_lookup",
    "map_update",
    "obj_get",
    "obj_pin",
]

# enum bpf_prog_type, bpf_attach_type, bpf_map_type (include/uapi/linux/bpf.h).
PROG_SCHED_CLS = 3
PROG_SOCK_OPS = 13
PROG_CGROUP_SOCK_ADDR = 18
PROG_CGROUP_SOCKOPT = 25
PROG_SK_LOOKUP = 30
CGROUP_SOCK_OPS = 3
CGROUP_INET4_CONNECT = 10
CGROUP_INET6_CONNECT = 11
CGROUP_UDP4_SENDMSG = 14
CGROUP_UDP6_SENDMSG = 15
CGROUP_SETSOCKOPT = 22
SK_LOOKUP = 36
MAP_ARRAY = 2
LINK_TYPE_CGROUP = 3
LINK_TYPE_NETNS = 5
LOG_BYTES = 1 << 20  # a verifier log of our programs is some 100 KB; cut, its end is lost, which is the useful part


class _ProgLoadOpts(ctypes.Structure):
    """struct bpf_prog_load_opts."""

    _fields_: ClassVar = [
        ("sz", ctypes.c_size_t),
        ("attempts", ctypes.c_int),
        ("expected_attach_type", ctypes.c_int),
        ("prog_btf_fd", ctypes.c_uint32),
        ("prog_flags", ctypes.c_uint32),
        ("prog_ifindex", ctypes.c_uint32),
        ("kern_version", ctypes.c_uint32),
        ("attach_btf_id", ctypes.c_uint32),
        ("attach_prog_fd", ctypes.c_uint32),
        ("attach_btf_obj_fd", ctypes.c_uint32),
        ("fd_array", ctypes.c_void_p),
        ("func_info", ctypes.c_void_p),
        ("func_info_cnt", ctypes.c_uint32),
        ("func_info_rec_size", ctypes.c_uint32),
        ("line_info", ctypes.c_void_p),
        ("line_info_cnt", ctypes.c_uint32),
        ("line_info_rec_size", ctypes.c_uint32),
        ("log_level", ctypes.c_uint32),
        ("log_size", ctypes.c_uint32),
        ("log_buf", ctypes.c_void_p),
    ]


class MapInfo(ctypes.Structure):
    """The head of struct bpf_map_info."""

    _fields_: ClassVar = [
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("key_size", ctypes.c_uint32),
        ("value_size", ctypes.c_uint32),
        ("max_entries", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
        ("name", ctypes.c_char * 16),
    ]
    type: int
    id: int
    key_size: int
    value_size: int
    max_entries: int
    map_flags: int
    name: bytes


class _NetnsInfo(ctypes.Structure):
    _fields_: ClassVar = [("netns_ino", ctypes.c_uint32), ("attach_type", ctypes.c_uint32)]


class _CgroupInfo(ctypes.Structure):
    _fields_: ClassVar = [("cgroup_id", ctypes.c_uint64), ("attach_type", ctypes.c_uint32)]


class _OfType(ctypes.Union):
    _fields_: ClassVar = [("netns", _NetnsInfo), ("cgroup", _CgroupInfo), ("_rest", ctypes.c_uint64 * 8)]


class _LinkInfo(ctypes.Structure):
    """The head of struct bpf_link_info."""

    _fields_: ClassVar = [
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("prog_id", ctypes.c_uint32),
        ("of", _OfType),
    ]


SAMPLE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


def _open() -> ctypes.CDLL:
    try:
        lib = ctypes.CDLL("libbpf.so.1", use_errno=True)
    except OSError as error:
        raise RedirectError(f"cannot load libbpf.so.1: {error}: install the package libbpf1") from error
    fd, pointer, u64, text = ctypes.c_int, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_char_p
    for name, arguments in {
        "bpf_map_create": [ctypes.c_int, text, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_uint32, pointer],
        "bpf_map_update_elem": [fd, pointer, pointer, u64],
        "bpf_map_lookup_elem": [fd, pointer, pointer],
        "bpf_map_delete_elem": [fd, pointer],
        "bpf_map_get_next_key": [fd, pointer, pointer],
        "bpf_obj_pin": [fd, text],
        "bpf_obj_get": [text],
        "bpf_obj_get_info_by_fd": [fd, pointer, pointer],
        "bpf_prog_load": [ctypes.c_int, text, text, pointer, ctypes.c_size_t, pointer],
        "bpf_link_create": [fd, fd, ctypes.c_int, pointer],
        "bpf_link_update": [fd, fd, pointer],
        "bpf_link_detach": [fd],
        "libbpf_num_possible_cpus": [],
        "ring_buffer__consume": [pointer],
        "ring_buffer__epoll_fd": [pointer],
    }.items():
        function = getattr(lib, name)
        function.argtypes = arguments
        function.restype = ctypes.c_int
    lib.ring_buffer__new.argtypes = [fd, SAMPLE, pointer, pointer]
    lib.ring_buffer__new.restype = pointer
    lib.ring_buffer__free.argtypes = [pointer]
    lib.ring_buffer__free.restype = None
    return lib


_lib = _open()


def _check(result: int, what: str) -> int:
    if result < 0:
        raise kernel_error(what, result)
    return result


def possible_cpus() -> int:
    """How many values one entry of a per-CPU map has."""
    return _check(_lib.libbpf_num_possible_cpus(), "cannot count CPUs")


def map_create(kind: int, name: str, key_size: int, value_size: int, max_entries: int) -> int:
    """A new map; returns its descriptor."""
    return _check(
        _lib.bpf_map_create(kind, name.encode(), key_size, value_size, max_entries, None), f"cannot create map '{name}'"
    )


def map_update(fd: int, key: object, value: object, what: str) -> None:
    """Add or replace one entry."""
    _check(_lib.bpf_map_update_elem(fd, _pointer(key), _pointer(value), 0), f"cannot write to {what}")


def map_lookup(fd: int, key: object, value_size: int) -> bytes | None:
    """The value of one entry, or None."""
    value = ctypes.create_string_buffer(value_size)
    result: int = _lib.bpf_map_lookup_elem(fd, _pointer(key), value)
    if result == -errno.ENOENT:
        return None
    _check(result, "cannot read a map")
    return value.raw


def map_delete(fd: int, key: object, what: str) -> bool:
    """Remove one entry; False if there was none."""
    result: int = _lib.bpf_map_delete_elem(fd, _pointer(key))
    if result in (-errno.ENOENT, -errno.EINVAL):  # sockmaps say EINVAL for an empty index
        return False
    _check(result, f"cannot delete an entry of {what}")
    return True


def map_keys(fd: int, key_size: int) -> Iterator[bytes]:
    """The keys, as they were when the walk passed. Collect them before changing the map."""
    current: ctypes.Array[ctypes.c_char] | None = None
    while True:
        following = ctypes.create_string_buffer(key_size)
        result: int = _lib.bpf_map_get_next_key(fd, current, following)
        if result == -errno.ENOENT:
            return
        _check(result, "cannot walk a map")
        yield following.raw
        current = following


def map_info(fd: int) -> MapInfo:
    """Type, sizes, flags, name and id of a map."""
    info = MapInfo()
    size = ctypes.c_uint32(ctypes.sizeof(info))
    _check(_lib.bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(size)), "cannot ask about a map")
    return info


def obj_pin(fd: int, path: str | os.PathLike[str]) -> None:
    """Pin a map, program or link."""
    _check(_lib.bpf_obj_pin(fd, os.fsencode(path)), f"cannot pin '{os.fspath(path)}'")


def obj_get(path: str | os.PathLike[str]) -> int:
    """Open what is pinned; returns its descriptor."""
    return _check(_lib.bpf_obj_get(os.fsencode(path)), f"cannot open pin '{os.fspath(path)}'")


def load_program(name: str, kind: int, attach: int, instructions: bytes) -> int:
    """Load a program; returns its descriptor.

    Raises:
        RedirectError: refused; the verifier's last useful line is in the message, its whole log is a note.
    """
    opts = _ProgLoadOpts(sz=ctypes.sizeof(_ProgLoadOpts), attempts=5, expected_attach_type=attach)
    arguments = (kind, name.encode()[:15], b"Dual BSD/GPL", instructions, len(instructions) // 8)
    result: int = _lib.bpf_prog_load(*arguments, ctypes.byref(opts))
    if result >= 0:
        return result
    log = ctypes.create_string_buffer(LOG_BYTES)
    opts.log_level, opts.log_size, opts.log_buf = 1, LOG_BYTES, ctypes.addressof(log)
    second: int = _lib.bpf_prog_load(*arguments, ctypes.byref(opts))
    if second >= 0:
        return second
    lines = [line for line in log.value.decode(errors="replace").splitlines() if line.strip()]
    useful = [line for line in lines if not line.startswith(("processed ", "verification time", "stack depth"))]
    error = kernel_error(f"cannot load program '{name}'", result)
    if useful:
        error = RedirectError(f"{error}: {useful[-1]}")
        error.add_note("\n".join(lines))
    raise error


def link_create(program: int, target: int, attach: int, what: str) -> int:
    """Attach a program to a cgroup or netns descriptor; returns the link's descriptor."""
    result: int = _lib.bpf_link_create(program, target, attach, None)
    if result == -errno.EINVAL:
        raise UnsupportedFeature(f"a bpf link for {what}", since="5.9")
    return _check(result, f"cannot attach {what}")


def link_update(link: int, program: int, what: str) -> None:
    """Replace a link's program: no packet meets neither."""
    _check(_lib.bpf_link_update(link, program, None), f"cannot replace {what}")


def link_detach(link: int) -> None:
    """End a link for good, whoever else holds it. One whose netns or cgroup is dead is no error."""
    result: int = _lib.bpf_link_detach(link)
    if result not in (-errno.ENOLINK, -errno.EINVAL, -errno.ENOENT):
        _check(result, "cannot detach a link")


def _link_info(link: int, kind: int, name: str) -> _OfType:
    info = _LinkInfo()
    size = ctypes.c_uint32(ctypes.sizeof(info))
    _check(_lib.bpf_obj_get_info_by_fd(link, ctypes.byref(info), ctypes.byref(size)), "cannot ask about a link")
    if info.type != kind:
        raise RedirectError(f"expected a link of a {name} (type {kind}), got link type {info.type}")
    of: _OfType = info.of
    return of


def link_netns_inode(link: int) -> int:
    """The netns that a link of a netns is attached to; 0: none any more."""
    inode: int = _link_info(link, LINK_TYPE_NETNS, "netns").netns.netns_ino
    return inode


def link_cgroup_id(link: int) -> int:
    """The cgroup that a link of a cgroup is attached to; 0: none any more."""
    number: int = _link_info(link, LINK_TYPE_CGROUP, "cgroup").cgroup.cgroup_id
    return number


class RingBuffer:
    """A consumer of one BPF ring buffer map. ``on_sample`` gets each record's bytes."""

    def __init__(self, map_fd: int, on_sample: Callable[[bytes], None]) -> None:
        def sample(_context: int | None, data: int, size: int) -> int:
            on_sample(ctypes.string_at(data, size))
            return 0

        self._callback = SAMPLE(sample)  # ctypes does not keep it alive for C
        self._ring: int | None = _lib.ring_buffer__new(map_fd, self._callback, None, None)
        if not self._ring:
            raise kernel_error("cannot read the ring buffer", ctypes.get_errno())

    def fileno(self) -> int:
        """An epoll descriptor: readable when there are records."""
        fd: int = _lib.ring_buffer__epoll_fd(self._ring)
        return fd

    def consume(self) -> int:
        """Hand every record there is to ``on_sample``; returns how many."""
        return _check(_lib.ring_buffer__consume(self._ring), "cannot read the ring buffer")

    def close(self) -> None:
        if self._ring:
            _lib.ring_buffer__free(self._ring)
            self._ring = None


def _pointer(value: object) -> object:
    """Bytes go as they are (a pointer to them); a ctypes object by reference."""
    return value if isinstance(value, bytes) else ctypes.byref(value)  # type: ignore[arg-type]  # only ctypes objects come
