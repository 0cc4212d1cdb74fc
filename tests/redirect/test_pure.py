"""What needs neither root nor a kernel."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path

import pytest

from redirect import features, layout
from redirect.cgroups import cgroup_id, find_root
from redirect.errors import RedirectError, UnsupportedFeature, kernel_error
from redirect.loader import PROGRAMS, find_headers, source
from redirect.sockets import LEG_MARK, LISTENER_PORTS, STEER_MARK
from redirect.types import MAX_ENDPOINT, SLOTS, Direction


def test_listener_indices_are_each_of_one_listener() -> None:
    families = (socket.AF_INET, socket.AF_INET6)
    indices = [
        layout.listener_index(endpoint, direction, family, slot)
        for endpoint in (0, 1, MAX_ENDPOINT)
        for direction in Direction
        for family in families
        for slot in range(SLOTS)
    ]
    assert len(set(indices)) == len(indices)
    assert max(indices) == (MAX_ENDPOINT + 1) * 2 * 2 * SLOTS - 1


@pytest.mark.parametrize("text", ["10.0.0.1", "0.0.0.0", "fd00::1", "::1", "fe80::1"])  # noqa: S104 - data
def test_addresses_have_one_form(text: str) -> None:
    address = ipaddress.ip_address(text)
    raw = layout.pack_address(address)
    assert len(raw) == 16
    assert layout.unpack_address(raw) == address


@pytest.mark.parametrize("mark", [LEG_MARK, STEER_MARK])
@pytest.mark.parametrize(
    ("owner", "mask"),
    [("kube-proxy", 0xC000), ("Cilium", 0x0F00), ("Calico, Weave, Tailscale", 0xFFFF0000), ("Amazon VPC", 0x80)],
)
def test_marks_are_nobodys(mark: int, owner: str, mask: int) -> None:
    assert mark & mask == 0, owner
    assert LEG_MARK != STEER_MARK


def test_listener_ports_are_not_leg_ports() -> None:
    assert max(LISTENER_PORTS) < 61000


def test_every_program_is_in_the_source_once_and_every_include_too() -> None:
    text = source()
    for file, name, *_ in PROGRAMS:
        assert text.count(f'#line 1 "{file}"') == 1
        assert text.count(f"int {name}(") == 1
        assert len(name) <= 15  # the kernel cuts names there
    for header in ("types", "maps", "decide", "report", "connect"):
        assert text.count(f'#line 1 "{header}.bpf.h"') == 1


def test_errors_are_one_line_and_name_the_errno() -> None:
    assert str(kernel_error("cannot do it", -2)) == "cannot do it: ENOENT no such file or directory"
    error = UnsupportedFeature("a thing", since="5.9")
    assert isinstance(error, RedirectError)
    assert "a thing is not supported by kernel" in str(error)
    assert str(error).endswith("needs 5.9 or newer")


@pytest.mark.parametrize(("release", "version"), [("6.18.44-fc", (6, 18)), ("5.4.0", (5, 4)), ("10.0-rc1", (10, 0))])
def test_kernel_versions_are_read(release: str, version: tuple[int, int]) -> None:
    assert features.kernel_version(release) == version


def test_kernel_version_that_cannot_be_read() -> None:
    with pytest.raises(RedirectError, match="cannot read kernel release 'six'"):
        features.kernel_version("six")


def test_missing_capabilities_are_named() -> None:
    assert features.missing_caps("CapEff:\t000001ffffffffff\n") == []
    assert features.missing_caps("CapEff:\t00000000a80425fb\n") == ["CAP_NET_ADMIN", "CAP_SYS_ADMIN"]
    assert features.missing_caps("") == ["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_SYS_ADMIN"]


def test_cgroup_root_is_found(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text("cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\ncgroup2 /a\\040b cgroup2 rw 0 0\n")
    assert find_root(mounts) == Path("/a b")
    mounts.write_text("cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n")
    with pytest.raises(RedirectError, match="cgroup v2 is not mounted"):
        find_root(mounts)
    with pytest.raises(RedirectError, match="cannot use cgroup '/nowhere'"):
        cgroup_id("/nowhere")


def test_headers_are_looked_for_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        for file in ("include/uapi/linux/bpf.h", "include/generated/autoconf.h"):
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).touch()
    monkeypatch.setenv("BCC_KERNEL_SOURCE", str(tmp_path / "b"))
    assert find_headers(tmp_path / "a") == tmp_path / "a"
    assert find_headers() == tmp_path / "b"
    assert find_headers(tmp_path / "nowhere") == tmp_path / "b"


def test_no_headers_say_where_they_were_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BCC_KERNEL_SOURCE", str(tmp_path / "b"))
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    monkeypatch.setattr("redirect.loader.Path", lambda _: tmp_path / "modules")
    with pytest.raises(RedirectError, match=r"no kernel headers in .*: run \./dev setup"):
        find_headers()
