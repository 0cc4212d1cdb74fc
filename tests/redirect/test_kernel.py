"""The handle on what is pinned: what survives the agent, replacement without a gap, and the loader's versions."""

from __future__ import annotations

import ipaddress
import itertools
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from redirect import layout, libbpf
from redirect.errors import RedirectError
from redirect.loader import MAPS, load, read_image
from redirect.maps import Maps
from redirect.steer import Kernel
from redirect.types import Answer, Direction, Endpoint, Flags, VerdictKey
from tests.redirect.conftest import ALLOWED, CLIENT_IDENTITY, DENIED, PROXIED, UNNAMED, Steered

pytestmark = pytest.mark.root

TCP = socket.IPPROTO_TCP


def ingress(endpoint: int, identity: int, port: int, bits: int | None = None) -> VerdictKey:
    """Port 0 is every port, unless ``bits`` say otherwise."""
    return VerdictKey(endpoint, identity, Direction.INGRESS, TCP, port, (16 if port else 0) if bits is None else bits)


def loader(where: Path, change: str) -> subprocess.CompletedProcess[str]:
    """Run the loader as another version of ours would."""
    code = (
        f"import sys\nfrom redirect import layout, loader\n{change}\nsys.exit(loader.main(['--bpffs', {str(where)!r}]))"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603 - our own interpreter


@pytest.fixture
def own_bpffs() -> Iterator[Path]:
    """A directory for a test that changes versions."""
    where = Path("/sys/fs/bpf") / f"tt-{secrets.token_hex(4)}"
    yield where
    if where.exists():
        for path in sorted(where.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        where.rmdir()


def test_everything_survives_the_agent(steered: Steered, bpffs: Path) -> None:
    """A new agent sees what is attached and in the maps, and connections are judged in between."""
    endpoint = steered.protect(steered.server, Flags.INGRESS)
    steered.app(steered.server, socket.AF_INET, ALLOWED)
    verdicts = steered.kernel.maps.verdicts(endpoint)
    steered.kernel.close()
    assert steered.client.connect(steered.server.ip4, ALLOWED)[0] == "ok"
    assert steered.client.connect(steered.server.ip4, DENIED)[0] == "ECONNREFUSED"
    fresh = Kernel.open(bpffs)
    steered.kernel = fresh
    cookie, addresses = steered.server.netns.cookie, steered.server.addresses
    assert fresh.endpoints() == {endpoint: Endpoint(endpoint, cookie, Flags.INGRESS, addresses)}
    assert fresh.maps.verdicts(endpoint) == verdicts
    assert [(one.endpoint, one.netns_inode) for one in fresh.attached()] == [(endpoint, steered.server.netns.inode)]
    assert (
        len(fresh.link_fds()) == 8
    )  # connect and sendmsg for two families, the node's, the pod's program, its guard and its binder
    fresh.attach_cgroup(steered.net.cgroup)
    fresh.attach_pod(steered.server.netns, endpoint, addresses)
    assert steered.client.connect(steered.server.ip4, DENIED)[0] == "ECONNREFUSED"


def test_attaching_again_replaces_the_program_of_the_same_link(steered: Steered, bpffs: Path) -> None:
    endpoint = steered.protect(steered.server, Flags.INGRESS)

    def ids() -> list[str]:
        infos = Path("/proc/self/fdinfo")
        return [
            line
            for fd in sorted(steered.kernel.link_fds())
            for line in (infos / str(fd)).read_text().splitlines()
            if line.startswith("link_id")
        ]

    before = ids()
    steered.kernel.attach_pod(steered.server.netns, endpoint, cgroup=steered.server.cgroup)
    steered.kernel.attach_cgroup(steered.net.cgroup)
    assert ids() == before
    assert sorted(path.name for path in (bpffs / "links").iterdir()) == [
        "binder_8",
        "guard_8",
        "l7_connect4",
        "l7_connect6",
        "l7_nodeops",
        "l7_sendmsg4",
        "l7_sendmsg6",
        "pod_8",
    ]


def test_another_id_for_the_same_pod_takes_the_old_program_away(steered: Steered) -> None:
    """An agent that lost its memory: two programs of ours in one netns would both judge."""
    kernel, server = steered.kernel, steered.server
    steered.protect(server, Flags.INGRESS)
    kernel.maps.del_endpoint(server.netns.cookie)
    kernel.set_endpoint(server.netns.cookie, 30, Flags.INGRESS, server.addresses)
    kernel.attach_pod(server.netns, 30, server.addresses)
    assert [one.endpoint for one in kernel.attached()] == [30]


def test_detach_ends_a_link_that_others_hold(steered: Steered) -> None:
    endpoint = steered.protect(steered.server, Flags.INGRESS)
    held = [os.dup(fd) for fd in steered.kernel.link_fds()]
    steered.app(steered.server, socket.AF_INET, DENIED)
    steered.kernel.detach_pod(endpoint)
    assert steered.client.connect(steered.server.ip4, DENIED)[0] == "ok"
    for fd in held:
        os.close(fd)


def test_held_links_outlive_their_pins(steered: Steered, bpffs: Path) -> None:
    """A bpffs that is unmounted must not end enforcement."""
    endpoint = steered.protect(steered.server, Flags.INGRESS)
    (bpffs / "links" / f"pod_{endpoint}").unlink()
    assert steered.client.connect(steered.server.ip4, DENIED)[0] == "ECONNREFUSED"


def test_endpoint_that_vanished_is_refused(steered: Steered) -> None:
    steered.protect(steered.server, Flags.INGRESS)
    steered.protect(steered.client, Flags.EGRESS, attach=False)
    before = steered.kernel.counters()["no_endpoint"]
    fds = [steered.kernel.maps.fd(name) for name in ("l7_endpoints",)]
    for endpoint in (7, 8):
        libbpf.map_delete(fds[0], endpoint.to_bytes(4, sys.byteorder), "l7_endpoints")
    assert steered.client.connect(steered.server.ip4, ALLOWED)[0] == "EPERM"
    steered.kernel.maps.del_endpoint(steered.client.netns.cookie)
    assert steered.client.connect(steered.server.ip4, ALLOWED)[0] == "ECONNREFUSED"
    assert steered.kernel.counters()["no_endpoint"] == before + 2


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({}, "ECONNREFUSED"),
        ({(0, 0): Answer.ALLOW}, "ok"),
        ({(0, 0): Answer.ALLOW, (0, ALLOWED): Answer.DENY}, "ECONNREFUSED"),
        ({(0, 0): Answer.DENY, (0, ALLOWED): Answer.ALLOW}, "ok"),
        ({(0, ALLOWED): Answer.ALLOW, (CLIENT_IDENTITY, 0): Answer.DENY}, "ECONNREFUSED"),
        ({(0, ALLOWED): Answer.DENY, (CLIENT_IDENTITY, 0): Answer.ALLOW}, "ok"),
        ({(CLIENT_IDENTITY + 1, ALLOWED): Answer.ALLOW}, "ECONNREFUSED"),
        ({(CLIENT_IDENTITY, UNNAMED): Answer.ALLOW}, "ECONNREFUSED"),
    ],
)
def test_the_first_that_hits_is_final(steered: Steered, entries: dict[tuple[int, int], Answer], expected: str) -> None:
    """A named peer before any peer, then a port before any port, then deny."""
    endpoint = steered.protect(steered.server, Flags.INGRESS)
    steered.app(steered.server, socket.AF_INET, ALLOWED)
    steered.kernel.set_verdicts(endpoint, {ingress(endpoint, *key): (answer, 0) for key, answer in entries.items()})
    assert steered.client.connect(steered.server.ip4, ALLOWED)[0] == expected


def test_longest_prefix_names_the_peer(steered: Steered, family: int) -> None:
    endpoint = steered.protect(steered.server, Flags.INGRESS)
    steered.app(steered.server, family, ALLOWED)
    own = ipaddress.ip_address(steered.client.address(family))
    everybody = ipaddress.ip_network("::/0" if family == socket.AF_INET6 else "0.0.0.0/0")
    steered.kernel.set_verdicts(endpoint, {ingress(endpoint, 400, ALLOWED): (Answer.ALLOW, 0)})
    steered.kernel.set_identities({everybody: 400})
    assert steered.client.connect(steered.server.address(family), ALLOWED)[0] == "ok"
    steered.kernel.set_identities({everybody: 400, ipaddress.ip_network(own): 401})
    assert steered.client.connect(steered.server.address(family), ALLOWED)[0] == "ECONNREFUSED"
    # an IPv4 net is no part of an IPv6 one, although the keys have one form
    other = ipaddress.ip_network("0.0.0.0/0" if family == socket.AF_INET6 else "2000::/3")
    steered.kernel.set_identities({other: 400})
    assert steered.client.connect(steered.server.address(family), ALLOWED)[0] == "ECONNREFUSED"


def test_only_differences_are_written_and_nothing_opens_meanwhile(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every step each question gets its old or its new answer."""
    old = {
        ingress(5, 0, 0): (1, 0),
        ingress(5, 0, 80): (2, 2),
        ingress(5, 300, 80): (1, 0),
        ingress(5, 301, 0): (1, 0),
        ingress(5, 303, 80, 14): (1, 0),
        ingress(5, 303, 82): (0, 4),
    }
    new = {
        ingress(5, 0, 0): (0, 0),
        ingress(5, 300, 80): (1, 0),
        ingress(5, 300, 0): (2, 0),
        ingress(5, 302, 81): (0, 0),
        ingress(5, 303, 80, 15): (0, 4),
        ingress(5, 303, 80, 12): (1, 1),
    }
    kernel.set_verdicts(5, old)

    def answer(entries: dict[VerdictKey, tuple[int, int]], identity: int, port: int) -> tuple[int, int]:
        for peer, bits in itertools.product((identity, 0), range(16, -1, -1)):
            if (found := entries.get(ingress(5, peer, port >> (16 - bits) << (16 - bits), bits))) is not None:
                return found
        return 0, 0

    questions = list(itertools.product((300, 301, 302, 303), (79, 80, 81, 82, 83, 84, 95, 96)))
    now = dict(old)
    steps: list[dict[VerdictKey, tuple[int, int]]] = []
    update, delete = libbpf.map_update, libbpf.map_delete

    def key_of(raw: object) -> VerdictKey:
        assert isinstance(raw, layout.VerdictKeyC)
        return ingress(5, raw.identity, socket.ntohs(raw.port_be), raw.prefixlen - layout.PREFIX_NO_PORT)

    def on_update(fd: int, key: object, value: object, what: str) -> None:
        assert isinstance(value, layout.VerdictValue)
        now[key_of(key)] = value.answer, value.flags
        steps.append(dict(now))
        update(fd, key, value, what)

    def on_delete(fd: int, key: object, what: str) -> bool:
        del now[key_of(key)]
        steps.append(dict(now))
        return delete(fd, key, what)

    monkeypatch.setattr(libbpf, "map_update", on_update)
    monkeypatch.setattr(libbpf, "map_delete", on_delete)
    kernel.set_verdicts(5, new)
    monkeypatch.undo()
    assert len(steps) == 9  # four new, one changed, four gone; the one that stays is not written
    for step in steps:
        for question in questions:
            assert answer(step, *question) in (answer(old, *question), answer(new, *question)), (step, question)
    again = Maps.open(kernel.bpffs, MAPS)
    assert again.verdicts(5) == new
    again.close()
    kernel.set_verdicts(5, {})


def test_what_cannot_be_is_refused(kernel: Kernel) -> None:
    addresses = [ipaddress.ip_address("10.77.0.9")]
    kernel.set_endpoint(1, 5, Flags.INGRESS, addresses)
    cases: list[tuple[Callable[[], None], str]] = [
        (lambda: kernel.set_endpoint(2, 0, 1, addresses), "endpoint id 0 is not in 1..511"),
        (lambda: kernel.set_endpoint(2, 512, 1, addresses), "endpoint id 512"),
        (lambda: kernel.set_endpoint(2, 5, 1, addresses), "belongs to netns cookie 1"),
        (lambda: kernel.set_endpoint(1, 6, 1, addresses), "is endpoint 5 already"),
        (lambda: kernel.set_endpoint(1, 5, 1, addresses * 2), "more than one IPv4 address"),
        (lambda: kernel.set_verdicts(5, {ingress(6, 0, 80): (1, 0)}), "verdict for endpoint 6"),
        (lambda: kernel.set_verdicts(5, {ingress(5, 0, 65536): (1, 0)}), "out of range"),
        (lambda: kernel.set_verdicts(5, {ingress(5, 0, 80, 17): (1, 0)}), "out of range"),
        (lambda: kernel.set_verdicts(5, {ingress(5, 0, 81, 15): (1, 0)}), "beyond its 15 bits"),
        (lambda: kernel.set_verdicts(5, {VerdictKey(5, 0, 0, 132, 0, 0): (1, 0)}), "expected protocol 6, 17 or 255"),
        (lambda: kernel.set_identities({ipaddress.ip_network("10.0.0.0/8"): 0}), "identity 0"),
        (lambda: kernel.set_listener(5, Direction.INGRESS, socket.AF_INET, 16, 0), "slot 16"),
        (lambda: kernel.set_listener(5, Direction.INGRESS, socket.AF_UNIX, 0, 0), "expected AF_INET"),
        (lambda: kernel.clear_slot(-1), "slot -1"),
    ]
    for call, message in cases:
        with pytest.raises(RedirectError, match=message):
            call()
    with socket.socket() as plain, pytest.raises(RedirectError, match="cannot write to l7_listeners"):
        kernel.set_listener(5, Direction.INGRESS, socket.AF_INET, 0, plain)  # it does not listen


def test_pod_must_be_set_before_it_is_attached(steered: Steered) -> None:
    netns, addresses = steered.server.netns, steered.server.addresses
    with pytest.raises(RedirectError, match="endpoint 40 is not set"):
        steered.kernel.attach_pod(netns, 40)
    steered.kernel.set_endpoint(steered.client.netns.cookie, 40, Flags.INGRESS, addresses)
    with pytest.raises(RedirectError, match="endpoint 40 is netns cookie"):
        steered.kernel.attach_pod(netns, 40)
    with pytest.raises(RedirectError, match="endpoint 40 is set with"):
        steered.kernel.attach_pod(steered.client.netns, 40, addresses[:1])


def test_versions(own_bpffs: Path) -> None:
    """The same text: nothing happens. Other code: the maps keep what they hold. Another layout: new maps."""
    assert load(own_bpffs).compiled
    kernel = Kernel.open(own_bpffs)
    kernel.set_endpoint(77, 5, Flags.EGRESS, [])
    again = load(own_bpffs)
    assert (again.compiled, again.emptied) == (False, False)

    newer = loader(own_bpffs, "loader.LOADER_VERSION = 99")
    assert '"compiled": true, "emptied": false' in newer.stdout, newer.stderr
    assert Kernel.open(own_bpffs).endpoints() == kernel.endpoints() != {}

    other = loader(own_bpffs, "layout.LAYOUT = 99")
    assert '"compiled": true, "emptied": true' in other.stdout, other.stderr
    assert Kernel.open(own_bpffs).endpoints() == {}
    assert kernel.endpoints() != {}  # the old maps live on with the programs that use them
    assert len(list(own_bpffs.iterdir())) == len(MAPS) + 2  # image and links: no leavings


def test_half_finished_load_is_seen_and_repaired(own_bpffs: Path) -> None:
    load(own_bpffs)
    (own_bpffs / "l7_netns").unlink()
    assert read_image(own_bpffs) is None
    with pytest.raises(RedirectError, match="run the loader"):
        Kernel.open(own_bpffs)
    assert load(own_bpffs).emptied
    Kernel.open(own_bpffs).close()


def test_new_maps_must_be_filled_before_the_hooks_are_replaced(steered: Steered, own_bpffs: Path) -> None:
    """Else connects of pods that are steered already would pass unjudged for a while."""
    load(own_bpffs)
    old = Kernel.open(own_bpffs)
    server = steered.server
    old.set_endpoint(server.netns.cookie, 8, Flags.EGRESS, server.addresses)
    old.attach_cgroup(steered.net.cgroup)
    old.attach_pod(server.netns, 8)
    assert loader(own_bpffs, "layout.LAYOUT = 99").returncode == 0
    new = Kernel.open(own_bpffs)
    with pytest.raises(RedirectError, match=r"endpoints \[8\] are steered but not in the maps"):
        new.attach_cgroup(steered.net.cgroup)
    assert server.connect(steered.client.ip4, UNNAMED)[0] == "EPERM"  # the old programs judge by the old maps
    new.set_endpoint(server.netns.cookie, 8, Flags.EGRESS, server.addresses)
    new.attach_cgroup(steered.net.cgroup)
    new.attach_pod(server.netns, 8)
    before = new.counters()["no_rule"]
    assert server.connect(steered.client.ip4, UNNAMED)[0] == "EPERM"
    assert new.counters()["no_rule"] == before + 1
    old.close()
    new.detach_all()
    assert not own_bpffs.exists()
    assert server.connect(steered.client.ip4, UNNAMED)[0] == "ECONNREFUSED"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("layout.REASONS = ('none', 'denied', 'no_rule')", "L7_R_DENIED is not 1"),
        ("layout.Event._fields_[0:1]; layout.MIRRORS['l7_event'] = layout.EndpointValue", "sizeof(struct l7_event)"),
        ("layout.SLOTS = 8", "L7_SLOTS is not 8"),
    ],
)
def test_mirror_that_is_wrong_does_not_load(own_bpffs: Path, change: str, words: str) -> None:
    done = loader(own_bpffs, change)
    assert done.returncode == 1
    assert words in done.stderr
    assert not (own_bpffs / "l7_image").exists()


def test_loader_says_why_it_failed(own_bpffs: Path, tmp_path: Path) -> None:
    with pytest.raises(RedirectError, match="is not on a bpffs"):
        load(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    assert not own_bpffs.exists()


def test_verifier_says_why_it_refused() -> None:
    code = bytes([0x95, 0, 0, 0, 0, 0, 0, 0])  # exit without a value
    with pytest.raises(
        RedirectError, match="cannot load program 'bad': EACCES permission denied: R0 !read_ok"
    ) as caught:
        libbpf.load_program("bad", libbpf.PROG_SK_LOOKUP, libbpf.SK_LOOKUP, code)
    assert caught.value.__notes__


def test_slots_share_the_load(steered: Steered) -> None:
    """With two workers among 16 slots neither gets everything: an empty slot's share is spread."""
    endpoint = steered.protect(steered.server, Flags.INGRESS)
    listeners = []
    with steered.server.netns.entered():
        for slot in (0, 1):
            sock = socket.socket()
            sock.bind(("", 0))
            sock.listen(512)
            steered.kernel.set_listener(endpoint, Direction.INGRESS, socket.AF_INET, slot, sock)
            listeners.append(sock)
    code = f"""
        held = []
        for _ in range(200):
            s = socket.socket()
            s.settimeout(3)
            s.connect(({steered.server.ip4!r}, {PROXIED}))
            held.append(s)
        say(len(held))
    """
    assert steered.client.run(code) == 200
    shares = []
    for sock in listeners:
        sock.setblocking(False)
        count = 0
        try:
            while True:
                sock.accept()[0].close()
                count += 1
        except BlockingIOError:
            shares.append(count)
        sock.close()
    assert sum(shares) == 200
    assert min(shares) > 50
