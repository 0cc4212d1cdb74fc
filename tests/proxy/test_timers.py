"""Deadlines in buckets."""

import asyncio
from math import inf

from proxy.timers import Timed, Timers
from tests.proxy.helpers import eventually, run


class Bell(Timed):
    def __init__(self, rung: list["Bell"]) -> None:
        super().__init__()
        self._rung = rung

    def expired(self) -> None:
        self._rung.append(self)


def test_order_and_no_early_firing() -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        timers = Timers(loop)
        rung: list[Bell] = []
        late, soon = Bell(rung), Bell(rung)
        began = loop.time()
        timers.set(late, 0.1)
        timers.set(soon, 0.03)
        await eventually(lambda: len(rung) == 2)
        assert rung == [soon, late]
        assert loop.time() - began >= 0.1
        assert len(timers) == 0

    run(body)


def test_moved_later_fires_once_at_the_later_time() -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        timers = Timers(loop)
        rung: list[Bell] = []
        bell = Bell(rung)
        began = loop.time()
        timers.set(bell, 0.03)
        timers.set(bell, 0.12)
        assert len(timers) == 1
        await eventually(lambda: bool(rung))
        assert loop.time() - began >= 0.12
        await asyncio.sleep(0.05)
        assert rung == [bell]

    run(body)


def test_moved_earlier_leaves_its_bucket() -> None:
    async def body() -> None:
        timers = Timers(asyncio.get_running_loop())
        rung: list[Bell] = []
        bell = Bell(rung)
        timers.set(bell, 3600)
        timers.set(bell, 0.02)
        assert len(timers) == 1
        await eventually(lambda: bool(rung))
        assert bell.deadline == inf
        assert len(timers) == 0

    run(body)


def test_cancelled_is_forgotten() -> None:
    async def body() -> None:
        timers = Timers(asyncio.get_running_loop())
        rung: list[Bell] = []
        bell = Bell(rung)
        timers.set(bell, 0.02)
        timers.cancel(bell)
        timers.cancel(bell)
        assert len(timers) == 0
        await asyncio.sleep(0.06)
        assert rung == []

    run(body)


def test_one_that_an_earlier_one_cancels_does_not_fire() -> None:
    async def body() -> None:
        timers = Timers(asyncio.get_running_loop())
        rung: list[Bell] = []

        class Rival(Bell):
            other: Bell

            def expired(self) -> None:
                super().expired()
                timers.cancel(self.other)

        one, two = Rival(rung), Rival(rung)
        one.other, two.other = two, one
        timers.set(one, 0.02)
        timers.set(two, 0.02)
        two.deadline = one.deadline
        await eventually(lambda: bool(rung))
        await asyncio.sleep(0.05)
        assert len(rung) == 1

    run(body)


def test_thousands_of_idle_deadlines_share_few_buckets() -> None:
    async def body() -> None:
        timers = Timers(asyncio.get_running_loop())
        bells = [Bell([]) for _ in range(5000)]
        for bell in bells:
            timers.set(bell, 3600)
        assert len({bell.tick for bell in bells}) <= 3
        for bell in bells:
            timers.cancel(bell)
        assert len(timers) == 0

    run(body)
