"""What Tulle is meant to reach, and whether it did."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.memory import Memory
from bench.rows import Medians

_KIB = 1024
_MIB = _KIB * _KIB
# Buffers of both directions and what the allocator keeps; a body that is held in memory would take a thousand.
_CONSTANT_MIB = 8
# The last third of 90 s against the first; less than the noise of two runs on a shared machine.
_FALLING = 0.85
_MANY_IDLE = 5_000
"""From here on a number of idle connections stands for the goal's 10,000, where the machine allows no more files."""

type Found = Mapping[tuple[str, str], Medians]


@dataclass(frozen=True, slots=True)
class Goal:
    """One line: what was wanted, what came of it."""

    what: str
    wanted: str
    got: str
    reached: bool


@dataclass(frozen=True, slots=True)
class _Ratio:
    """Tulle's `field` in `case` over a peer's: at least, or at most, so much."""

    what: str
    case: str
    field: str
    peer: str
    at_least: float | None = None
    at_most: float | None = None

    def judged(self, found: Found) -> Goal | None:
        ours, theirs = found.get((self.case, "tulle")), found.get((self.case, self.peer))
        if ours is None or theirs is None or not getattr(theirs, self.field):
            return None
        ratio = float(getattr(ours, self.field)) / float(getattr(theirs, self.field))
        got = f"{ratio:.2f} ({_amount(getattr(ours, self.field))} / {_amount(getattr(theirs, self.field))})"
        if self.at_least is not None:
            return Goal(self.what, f">= {self.at_least:g} x {self.peer}", got, ratio >= self.at_least)
        assert self.at_most is not None  # noqa: S101 - one of the two is given
        return Goal(self.what, f"<= {self.at_most:g} x {self.peer}", got, ratio <= self.at_most)


_RATE, _BYTES, _CPU = "requests_per_s", "bytes_per_s", "cpu_s_per_10k"
_RATIOS = (
    _Ratio("keep-alive, 32 connections: requests/s", "keepalive_1k_c32", _RATE, "envoy", at_least=2.5),
    _Ratio("keep-alive, 32 connections: requests/s", "keepalive_1k_c32", _RATE, "haproxy", at_least=1.0),
    _Ratio("keep-alive, 32 connections: CPU s/10k", "keepalive_1k_c32", _CPU, "haproxy", at_most=1.0),
    _Ratio("keep-alive, 32 connections: CPU s/10k", "keepalive_1k_c32", _CPU, "envoy", at_most=0.4),
    _Ratio("one request per connection: requests/s", "short_1k_c32", _RATE, "envoy", at_least=1.0),
    _Ratio("64 KiB bodies: bytes/s", "body_64k_c32", _BYTES, "envoy", at_least=1.2),
    _Ratio("1 MiB bodies: bytes/s", "body_1m_c8", _BYTES, "envoy", at_least=1.2),
    _Ratio("denials: requests/s", "denied_c32", _RATE, "envoy", at_least=2.0),
    _Ratio("denials: requests/s", "denied_c32", _RATE, "haproxy", at_least=1.0),
    _Ratio("two workers: requests/s", "two_workers_1k_c32", _RATE, "envoy", at_least=1.6),
    # of the issue before, when the peer is asked for
    _Ratio("keep-alive, 32 connections: requests/s", "keepalive_1k_c32", _RATE, "py-h11", at_least=0.9),
    _Ratio("1 MiB bodies: bytes/s", "body_1m_c8", _BYTES, "py-h11", at_least=0.9),
)


def judged(found: Found, memories: Sequence[Memory]) -> list[Goal]:
    """Those goals for which there are numbers."""
    goals = [goal for ratio in _RATIOS if (goal := ratio.judged(found)) is not None]
    goals += _of_latency(found)
    goals += _of_rules(found)
    by_peer = {memory.peer: memory for memory in memories}
    if "tulle" in by_peer:
        goals += _of_memory(by_peer["tulle"], by_peer.get("envoy"))
    return goals


def of_connections(what: str, rates: Sequence[float], failures: int) -> list[Goal]:
    """`rates`: connections/s in windows of equal length, in order."""
    third = max(1, len(rates) // 3)
    first, last = sum(rates[:third]) / third, sum(rates[-third:]) / third
    ratio = last / first if first else 0.0
    got = f"{ratio:.2f} ({last:,.0f} / {first:,.0f})"
    return [
        Goal(f"{what}: failures", "0", f"{failures:,}", failures == 0),
        Goal(f"{what}: last third of the rate over the first", f">= {_FALLING}", got, ratio >= _FALLING),
    ]


def _of_latency(found: Found) -> list[Goal]:
    case = "keepalive_1k_c1"
    direct, ours = found.get((case, "direct")), found.get((case, "tulle"))
    goals = []
    for peer, most in (("haproxy", 1.0), ("envoy", 0.5)):
        theirs = found.get((case, peer))
        if direct and ours and theirs:
            added, allowed = ours.p50_us - direct.p50_us, theirs.p50_us - direct.p50_us
            got = f"{added:,.0f} µs, {peer} {allowed:,.0f} µs"
            goals.append(Goal("one connection: p50 over direct", f"<= {most:g} x {peer}", got, added <= most * allowed))
    return goals


def _of_rules(found: Found) -> list[Goal]:
    goals = []
    for kind, words in (("rules", "one path"), ("rules_varied", "a new path each time")):
        few, many = found.get((f"{kind}_10", "tulle")), found.get((f"{kind}_10000", "tulle"))
        if few and many and few.cpu_s_per_10k:
            ratio = many.cpu_s_per_10k / few.cpu_s_per_10k
            got = f"{ratio:.2f} ({many.cpu_s_per_10k:.2f} / {few.cpu_s_per_10k:.2f})"
            goals.append(Goal(f"10,000 rules over 10, {words}: CPU s/10k", "<= 1.1", got, ratio <= 1.1))
    return goals


def _of_memory(ours: Memory, envoy: Memory | None) -> list[Goal]:
    goals = []
    if envoy is not None:
        goals.append(_beside_envoy("agent and one idle worker", ours.at_rest, envoy.at_rest, 1.5))
        for count, roles in ours.with_idle.items():
            if count >= _MANY_IDLE and count in envoy.with_idle:
                what = f"agent and one worker, {count:,} idle connections"
                goals.append(_beside_envoy(what, roles, envoy.with_idle[count], 1.0))
    per_connection = ours.per_idle_connection / _KIB
    growth = (ours.big_body_peak - ours.big_body_before) / _MIB
    return [
        *goals,
        Goal("per idle connection", "<= 40 KiB", f"{per_connection:.1f} KiB", per_connection <= 40),
        Goal("growth over a body of 1 GiB", f"<= {_CONSTANT_MIB} MiB", f"{growth:.1f} MiB", growth <= _CONSTANT_MIB),
    ]


def _beside_envoy(what: str, roles: Mapping[str, int], envoy: Mapping[str, int], most: float) -> Goal:
    """Resident bytes by role; the broker is beside the goal's words and is named."""
    judged_bytes = roles.get("agent", 0) + roles.get("worker", 0)
    theirs = sum(envoy.values())
    ratio = judged_bytes / theirs
    got = f"{ratio:.2f} ({judged_bytes / _MIB:.0f} MiB, with the broker {sum(roles.values()) / _MIB:.0f}"
    return Goal(what, f"<= {most:g} x envoy", f"{got}; envoy {theirs / _MIB:.0f})", ratio <= most)


def _amount(value: float) -> str:
    if value >= 100 * _MIB:
        return f"{value / _MIB:,.0f} MiB"
    return f"{value:,.0f}" if value >= 10 else f"{value:.3f}"
