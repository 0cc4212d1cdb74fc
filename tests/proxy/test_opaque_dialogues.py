"""The opaque layer, word by word."""

from tests.proxy.dialogue import Dialogue


def test_bytes_pass_both_ways_and_ends_are_passed_on() -> None:
    talk = Dialogue(opaque=True)
    assert talk.layer.opaque
    assert talk.counters["opaque"] == 1
    talk.play("""
        >> downstream abc
        << pause
        >> open
        << upstream abc
        << resume
        >> upstream GET
        << downstream GET
        << timer idle
        >> downstream-eof
        << end upstream
        >> upstream more
        << downstream more
        << timer idle
        >> upstream-eof
        << end downstream
    """)


def test_start_records_that_nothing_more_is_judged() -> None:
    talk = Dialogue(opaque=True)
    talk.layer.start()
    assert talk.edge.said == ["record FORWARDED 0 opaque by r", "timer idle", "open"]


def test_end_before_the_leg_stands() -> None:
    Dialogue(opaque=True).play("""
        >> downstream-eof
        >> open
        << end upstream
    """)


def test_failures_are_resets() -> None:
    Dialogue(opaque=True).play("""
        >> failed upstream_refused
        << record ERROR 0 upstream_refused by r
        << reset
    """)
    Dialogue(opaque=True).play("""
        >> open
        << resume
        >> upstream-lost
        << reset
    """)
    Dialogue(opaque=True).play("""
        >> open
        << resume
        >> downstream-lost
        << reset
    """)
    Dialogue(opaque=True).play("""
        >> open
        << resume
        >> expired idle
        << record ERROR 0 limit_idle by tulle:limit
        << reset
    """)
