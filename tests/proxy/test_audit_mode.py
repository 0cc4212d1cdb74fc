"""Where only policies in mode audit want requests judged: everything passes, and the record says what they think."""

import asyncio

import pytest

from policies.ruleset import HeaderMatch, HttpRule, Mismatch
from proxy.limits import Limits
from tests.proxy.dialogue import Dialogue
from tests.proxy.helpers import GET_ANY, POLICY, no_internal_error, rig, run

NO_RULE = "no http rule for this peer on port 80 matched, selected by default/web-l7"

pytestmark = pytest.mark.usefixtures("both_paths")


def audited(*rules: HttpRule) -> Dialogue:
    return Dialogue(*(rules or (GET_ANY,)), audit=True)


def opaque(what: str, why: str, *, sent: str = "") -> None:
    """After this the connection is copied, from its first byte on."""
    talk = audited()
    talk.play(f"""
        {what}
        << opaque
        << record AUDIT 0 {why} by tulle:protocol
        << timer idle
        << open
        {"<< pause" if sent else ""}
        >> open
        {f"<< upstream {sent}" if sent else ""}
        << resume
        >> upstream hello
        << downstream hello
        << timer idle
    """)
    assert talk.counters["not_http"] == 1
    assert talk.counters["malformed"] == 0


def test_a_request_that_an_audit_policy_would_deny_passes() -> None:
    audited().play(f"""
        >> downstream PUT /a HTTP/1.1|Host: a||
        << timer record
        << open
        >> open
        << upstream PUT /a HTTP/1.1|Host: a||
        << resume
        >> upstream HTTP/1.1 200 OK|Content-Length: 0||
        << downstream HTTP/1.1 200 OK|Content-Length: 0||
        << record AUDIT 200 PUT /a audit only, {NO_RULE} by default-deny
        << timer idle
        << resume
    """)


def test_a_request_that_it_would_allow_is_forwarded() -> None:
    audited().play("""
        >> downstream GET /a HTTP/1.1|Host: a||
        << timer record
        << open
        >> open
        << upstream GET /a HTTP/1.1|Host: a||
        << resume
        >> expired record
        << record FORWARDED 0 GET /a no policy in force denies egress by default by default-allow
        << timer idle
    """)


@pytest.mark.parametrize(
    "sent", ["abc||", "PING|", "\x16\x03\x01", "PRI * HTTP/2.0||SM||", "|USER x|", "GET /|", "GET / HTTP/1.2|"]
)
def test_what_is_not_http_passes_unparsed_and_at_once(sent: str) -> None:
    opaque(f">> downstream {sent}", "not http, no request line", sent=sent)


def test_a_request_that_cannot_be_read_passes_unparsed() -> None:
    request = "GET / HTTP/1.1|Host: a|Content-Length: 1|Content-Length: 2||"
    opaque(f">> downstream {request}", "not readable as http, two_lengths", sent=request)


def test_a_target_that_can_be_read_in_two_ways_passes_unparsed() -> None:
    request = "GET /a%2fb HTTP/1.1|Host: a||"
    opaque(f">> downstream {request}", "not readable as http, encoded_separator", sent=request)


def test_a_head_in_pieces_is_passed_whole() -> None:
    talk = audited()
    talk.play("""
        >> downstream GET /a%
        << timer head
        >> downstream 2f HTTP/1.1|Host: a||
        << opaque
        << record AUDIT 0 not readable as http, encoded_separator by tulle:protocol
        << timer idle
        << open
        << pause
        >> open
        << upstream GET /a%2f HTTP/1.1|Host: a||
        << resume
    """)


@pytest.mark.parametrize("timer", ["idle", "head"])
def test_a_server_that_speaks_first_is_not_waited_for(timer: str) -> None:
    opaque(f">> expired {timer}", "not http, no request came in time")


def test_a_client_that_only_listens_passes() -> None:
    talk = audited()
    talk.play("""
        >> downstream-eof
        << opaque
        << record AUDIT 0 not http, no request came by tulle:protocol
        << timer idle
        << open
        >> open
        << end upstream
        >> upstream hello
        << downstream hello
        << timer idle
    """)


def test_an_upgrade_passes_unparsed_and_h2c_does_not() -> None:
    request = "GET /chat HTTP/1.1|Host: a|Connection: Upgrade|Upgrade: websocket||"
    opaque(f">> downstream {request}", "not http, an upgrade is asked for", sent=request)
    audited().play("""
        >> downstream GET /a HTTP/1.1|Host: a|Connection: Upgrade|Upgrade: h2c||
        << timer record
        << open
        >> open
        << upstream GET /a HTTP/1.1|Host: a||
        << resume
    """)


def test_later_messages_have_no_way_back() -> None:
    talk = audited()
    talk.play("""
        >> downstream GET /a HTTP/1.1|Host: a||
        << timer record
        << open
        >> open
        << upstream GET /a HTTP/1.1|Host: a||
        << resume
        >> upstream HTTP/1.1 200 OK|Content-Length: 0||
        << downstream HTTP/1.1 200 OK|Content-Length: 0||
        << record FORWARDED 200 GET /a no policy in force denies egress by default by default-allow
        << timer idle
        << resume
    """)
    talk.layer.downstream_data(b"abc\r\n\r\n")
    assert talk.edge.said[0] == "record DROPPED 400 bad_request_line by tulle:protocol"


def test_under_rules_that_have_become_enforced_nothing_passes_unparsed() -> None:
    talk = audited()
    talk.play("""
        >> rules /a
    """)
    talk.layer.downstream_data(b"abc\r\n\r\n")
    assert talk.edge.said[0] == "record DROPPED 400 bad_request_line by tulle:protocol"
    assert talk.edge.layer is None


def test_a_server_that_greets_over_real_connections() -> None:
    async def smtp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 hello\r\n")
        writer.write(await reader.readline())

    async def body() -> None:
        async with rig(GET_ANY, app=smtp, audit=True, limits=Limits(detect_s=0.1)) as it:
            with no_internal_error(it):
                client = await it.connect()
                assert await client.reader.readline() == b"220 hello\r\n"
                client.send(b"EHLO\r\n")
                assert await client.rest() == b"EHLO\r\n"
                event = await it.event()
                assert (event.verdict, event.policies) == ("AUDIT", (POLICY,))
                client.close()
                await it.quiet()
                # and the same where the client speaks first
                other = await it.connect()
                other.send(b"\x16\x03\x01not http\n")
                assert await other.rest() == b"220 hello\r\n\x16\x03\x01not http\n"

    run(body)


def test_audit_flows_that_are_copied_end_when_enforced_rules_come() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)

    async def body() -> None:
        async with rig(GET_ANY, app=echo, audit=True) as it:
            client = await it.connect()
            client.send(b"\0\0\0\r\n\r\n")
            assert await client.reader.readexactly(7) == b"\0\0\0\r\n\r\n"
            it.swap(GET_ANY)
            with pytest.raises(ConnectionResetError):
                await client.rest()
            assert it.events[-1].reason == "opaque_no_longer_allowed"

    run(body)


# ---- Kafka


def test_conflicts_are_closed() -> None:
    async def body() -> None:
        async with rig(GET_ANY, kafka=True) as it:
            with pytest.raises(ConnectionResetError):
                await it.exchange(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            event = await it.event()
            assert (event.verdict, event.rule) == ("DROPPED", "conflicting-rules")
            assert event.reason.startswith("http and kafka rules meet on port")
            assert it.upstreams.sockets == 0
            assert it.counters["unjudged_protocol"] == 1

    run(body)


def test_what_is_not_kafka_is_refused_where_kafka_rules_are() -> None:
    async def body() -> None:
        async with rig(kafka=True) as it:
            assert await it.exchange(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n") == b""
            event = await it.event()
            assert (event.verdict, event.reason, event.rule) == ("DROPPED", "not_kafka", "tulle:protocol")
            assert it.upstreams.sockets == 0

    run(body)


def test_kafka_rules_in_mode_audit_block_nothing() -> None:
    async def body() -> None:
        async with rig(kafka=True, audit=True) as it:
            client = await it.connect()
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await client.response())[0] == 200
            event = await it.event()
            assert (event.verdict, event.reason) == ("AUDIT", "not kafka")

    run(body)


# ---- header actions


@pytest.mark.parametrize(
    ("mismatch", "sent", "forwarded", "said"),
    [
        (Mismatch.ADD, "X-Token: no|", "X-Token: no|x-token: yes|", ""),
        (Mismatch.ADD, "", "x-token: yes|", ""),
        (Mismatch.ADD, "X-Token: yes|", "X-Token: yes|", ""),
        (Mismatch.REPLACE, "X-Token: a|B: c|x-token: b|", "x-token: yes|B: c|", ""),
        (Mismatch.REPLACE, "B: c|", "B: c|x-token: yes|", ""),
        (Mismatch.DELETE, "X-Token: a|B: c|x-TOKEN: b|", "B: c|", ""),
        (Mismatch.LOG, "X-Token: a|", "X-Token: a|", ", not as wanted is the header x-token"),
    ],
)
def test_header_actions_change_what_goes_upstream(mismatch: Mismatch, sent: str, forwarded: str, said: str) -> None:
    rule = HttpRule("r-h", headers=(HeaderMatch("x-token", "yes", mismatch),))
    Dialogue(rule).play(f"""
        >> downstream GET /a HTTP/1.1|Host: a|{sent}|
        << timer record
        << open
        >> open
        << upstream GET /a HTTP/1.1|Host: a|{forwarded}|
        << resume
        >> expired record
        << record FORWARDED 0 GET /a allowed by r-h{said} by r-h
        << timer idle
    """)


@pytest.mark.parametrize("name", ["content-length", "transfer-encoding", "host", "connection", "te", "expect"])
def test_an_action_that_would_make_another_request_ends_the_flow(name: str) -> None:
    rule = HttpRule("r-h", headers=(HeaderMatch(name, "7", Mismatch.REPLACE),))

    async def body() -> None:
        async with rig(rule) as it:
            with pytest.raises(ConnectionResetError):
                await it.exchange(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await it.event()).reason == "internal_error"
            assert it.upstreams.sockets == 0

    run(body)


# ---- onChange: close-denied


@pytest.mark.parametrize("close", [True, False])
def test_close_denied_ends_idle_connections_and_without_it_they_meet_the_change_later(close: bool) -> None:
    async def body() -> None:
        async with rig(GET_ANY) as it:
            client = await it.connect()
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await client.response())[0] == 200
            it.swap(HttpRule("other", path="/other"), close_denied=close)  # its connection is still allowed
            assert not it.server.idle
            it.swap(GET_ANY, deny=True, close_denied=close, revision=3)
            if close:
                with pytest.raises(ConnectionResetError):
                    await client.rest()
                event = it.events[-1]
                assert (event.verdict, event.reason, event.rule) == ("DROPPED", "no_longer_allowed", "default-deny")
                assert (event.revision, event.policies) == (3, (POLICY,))
                assert it.counters["denied_closed"] == 1
            else:
                client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                assert (await client.response())[0] == 403

    run(body)
