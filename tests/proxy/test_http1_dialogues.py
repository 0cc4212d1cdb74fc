"""The HTTP/1 layer, word by word."""

from dataclasses import replace

import pytest

from policies.engine import Engine, Permit
from policies.ruleset import HttpRule
from proxy.events import LegFailure, Timer
from proxy.layers.recognised import RecognisedLayer
from proxy.limits import Limits
from tests.proxy.dialogue import Dialogue, octets
from tests.proxy.helpers import GET_ANY, POST_ANY, WITH_HEADER
from tests.proxy.helpers import rules as rules_of


def answer(status: int, phrase: str) -> str:
    """A response of our own that ends the connection."""
    fields = f"Content-Type: text/plain|Content-Length: {len(phrase) + 2}|Connection: close"
    return f"HTTP/1.1 {status} {phrase}|{fields}||{phrase}|"


BAD_REQUEST = answer(400, "Bad Request")
BAD_GATEWAY = answer(502, "Bad Gateway")
REQUEST_TIMEOUT = answer(408, "Request Timeout")
GATEWAY_TIMEOUT = answer(504, "Gateway Timeout")
DENIED = "HTTP/1.1 403 Forbidden|Content-Type: text/plain|Content-Length: 15||Access denied|"
NO_RULE = "no http rule for this peer on port 80 matched, selected by default/web-l7 by default-deny"

pytestmark = pytest.mark.usefixtures("both_paths")


def http(*rules: HttpRule, limits: Limits | None = None) -> Dialogue:
    return Dialogue(*(rules or (GET_ANY, POST_ANY)), limits=limits)


def at_response(*rules: HttpRule, method: str = "GET", head: str = "") -> Dialogue:
    """A flow with a request forwarded on a leg of its own, its response awaited."""
    talk = http(*rules)
    talk.play(f"""
        >> downstream {method} /a HTTP/1.1|Host: a|{head}|
        << timer record
        << open
        >> open
        << upstream {method} /a HTTP/1.1|Host: a|{head}|
        << resume
    """)
    return talk


def idle(*rules: HttpRule) -> Dialogue:
    """A flow whose first request has been answered and whose leg is open."""
    talk = at_response(*rules)
    talk.play("""
        >> upstream HTTP/1.1 200 OK|Content-Length: 2||hi
        << downstream HTTP/1.1 200 OK|Content-Length: 2||
        << record FORWARDED 200 GET /a allowed by r-get by r-get
        << downstream hi
        << timer idle
        << resume
    """)
    return talk


def test_second_request_takes_the_same_leg() -> None:
    idle().play("""
        >> downstream GET /b?key=secret HTTP/1.1|Host: a||
        << timer record
        << upstream GET /b?key=secret HTTP/1.1|Host: a||
        >> upstream HTTP/1.1 204 No Content||
        << downstream HTTP/1.1 204 No Content||
        << record FORWARDED 204 GET /b?key=*** allowed by r-get by r-get
        << timer idle
        << resume
    """)


def test_denied_then_allowed() -> None:
    http().play(f"""
        >> downstream PATCH /a HTTP/1.1|Host: a||
        << record DROPPED 403 PATCH /a {NO_RULE}
        << downstream {DENIED}
        << timer idle
        >> downstream GET /a HTTP/1.1|Host: a||
        << timer record
        << open
    """)


def test_denied_answer_waits_for_the_response_before_it() -> None:
    at_response().play(f"""
        >> downstream PATCH /b HTTP/1.1|Host: a||
        << pause
        >> upstream HTTP/1.1 200 OK|Content-Length: 2||hi
        << downstream HTTP/1.1 200 OK|Content-Length: 2||
        << record FORWARDED 200 GET /a allowed by r-get by r-get
        << downstream hi
        << timer idle
        << resume
        << record DROPPED 403 PATCH /b {NO_RULE}
        << downstream {DENIED}
        << timer idle
    """)


def test_body_of_a_denied_request_is_thrown_away() -> None:
    http().play(f"""
        >> downstream PATCH /a HTTP/1.1|Host: a|Content-Length: 10||12345
        << record DROPPED 403 PATCH /a {NO_RULE}
        << downstream {DENIED}
        << timer idle
        >> downstream 67890GET /a HTTP/1.1|Host: a||
        << timer idle
        << timer record
        << open
    """)


@pytest.mark.parametrize("field", ["Content-Length: 70000", "Content-Length: 5|Expect: 100-continue"])
def test_denied_closes_where_the_end_of_the_body_is_too_far(field: str) -> None:
    closing = DENIED.replace("||", "|Connection: close||")
    http().play(f"""
        >> downstream PATCH /a HTTP/1.1|Host: a|{field}||
        << record DROPPED 403 PATCH /a {NO_RULE}
        << downstream {closing}
        << finish, linger
    """)


def test_denied_chunked_body_over_the_bound_closes() -> None:
    http().play(f"""
        >> downstream PATCH /a HTTP/1.1|Host: a|Transfer-Encoding: chunked||11000|~60000
        << record DROPPED 403 PATCH /a {NO_RULE}
        << downstream {DENIED}
        << timer idle
        >> downstream ~9632
        << finish, linger
    """)


def test_denied_head_has_no_body() -> None:
    http(POST_ANY).play(f"""
        >> downstream HEAD /a HTTP/1.1|Host: a||
        << record DROPPED 403 HEAD /a {NO_RULE}
        << downstream HTTP/1.1 403 Forbidden|Content-Type: text/plain|Content-Length: 15||
        << timer idle
    """)


def test_new_rules_hold_for_the_next_request() -> None:
    talk = idle()
    talk.play(f"""
        >> rules /public
        >> downstream GET /a HTTP/1.1|Host: a||
        << record DROPPED 403 GET /a {NO_RULE}
        << downstream {DENIED}
        << timer idle
        >> rules /a
        >> downstream GET /a HTTP/1.1|Host: a||
        << timer record
        << upstream GET /a HTTP/1.1|Host: a||
    """)


def test_rules_read_headers_whatever_their_case() -> None:
    http(WITH_HEADER).play(f"""
        >> downstream GET /header HTTP/1.1|Host: a|X-Token: no||
        << record DROPPED 403 GET /header {NO_RULE}
        << downstream {DENIED}
        << timer idle
        >> downstream GET /header HTTP/1.1|Host: a|X-Token: yes||
        << timer record
        << open
    """)


def test_a_field_that_connection_names_is_not_judged_and_not_sent() -> None:
    http(WITH_HEADER).play(f"""
        >> downstream GET /header HTTP/1.1|Host: a|X-Token: yes|Connection: x-token||
        << record DROPPED 403 GET /header {NO_RULE}
        << downstream {DENIED}
        << timer idle
    """)


def test_canonical_target_goes_upstream() -> None:
    http(HttpRule("r-canon", path="/a/b")).play("""
        >> downstream GET /x/..//a/./%62 HTTP/1.1|Host: a||
        << timer record
        << open
        >> open
        << upstream GET /a/b HTTP/1.1|Host: a||
        << resume
    """)


@pytest.mark.parametrize(
    ("head", "status", "reason"),
    [
        ("GET /a%2fb HTTP/1.1|Host: a||", "400 Bad Request", "encoded_separator"),
        ("CONNECT a:80 HTTP/1.1|Host: a:80||", "405 Method Not Allowed", "connect_refused"),
    ],
)
def test_target_refused(head: str, status: str, reason: str) -> None:
    talk = http(HttpRule("r-all"))
    talk.layer.downstream_data(head.replace("|", "\r\n").encode())
    record, answer, end = talk.edge.said
    code = status.partition(" ")[0]
    assert record.startswith(f"record DROPPED {code} {head.split()[0]} ")
    assert record.endswith("by tulle:protocol")
    assert answer.startswith(f"downstream HTTP/1.1 {status}|")
    assert "|Connection: close||" in answer
    assert end == "finish, linger"


def test_unreadable_is_refused_and_nothing_opened() -> None:
    http().play(f"""
        >> downstream GET / HTTP/1.1|Host: a|Content-Length: 1|Transfer-Encoding: chunked||
        << record DROPPED 400 length_and_coding by tulle:protocol
        << downstream {BAD_REQUEST}
        << finish, linger
    """)


def test_bad_chunk_is_refused_in_the_middle() -> None:
    talk = at_response(POST_ANY, method="POST", head="Transfer-Encoding: chunked|")
    talk.play(f"""
        >> downstream 5|hello|
        << upstream 5|hello|
        >> downstream 0x5|hello|
        << record DROPPED 400 POST /a bad_chunk_size by r-post
        << downstream {BAD_REQUEST}
        << finish, linger
    """)


def test_bodies_stream_both_ways() -> None:
    at_response(POST_ANY, method="POST", head="Content-Length: 4|").play("""
        >> downstream ab
        << upstream ab
        >> upstream HTTP/1.1 200 OK|Transfer-Encoding: chunked||2|hi|
        << downstream HTTP/1.1 200 OK|Transfer-Encoding: chunked||
        << record FORWARDED 200 POST /a allowed by r-post by r-post
        << downstream 2|hi|
        << timer idle
        >> downstream cd
        << upstream cd
        >> upstream 0||
        << downstream 0||
        << timer idle
        << resume
    """)


def test_early_response_then_the_rest_of_the_request() -> None:
    at_response(POST_ANY, method="POST", head="Content-Length: 4|").play("""
        >> upstream HTTP/1.1 200 OK|Content-Length: 2||hi
        << downstream HTTP/1.1 200 OK|Content-Length: 2||
        << record FORWARDED 200 POST /a allowed by r-post by r-post
        << downstream hi
        << timer idle
        >> downstream abcd
        << upstream abcd
        << timer idle
    """)


def test_early_response_of_a_server_that_hangs_up() -> None:
    at_response(POST_ANY, method="POST", head="Content-Length: 4|").play("""
        >> upstream HTTP/1.1 413 Content Too Large|Content-Length: 2|Connection: close||no
        << downstream HTTP/1.1 413 Content Too Large|Content-Length: 2||
        << record FORWARDED 413 POST /a allowed by r-post by r-post
        << downstream no
        << timer idle
        >> upstream-eof
        << timer idle
        << finish, linger
    """)


def test_expect_continue_passes() -> None:
    at_response(POST_ANY, method="POST", head="Content-Length: 2|Expect: 100-continue|").play("""
        >> upstream HTTP/1.1 100 Continue||
        << downstream HTTP/1.1 100 Continue||
        >> downstream hi
        << upstream hi
        >> upstream HTTP/1.1 201 Created|Content-Length: 0||
        << downstream HTTP/1.1 201 Created|Content-Length: 0||
        << record FORWARDED 201 POST /a allowed by r-post by r-post
        << timer idle
        << resume
    """)


def test_final_response_in_place_of_continue_closes() -> None:
    at_response(POST_ANY, method="POST", head="Content-Length: 2|Expect: 100-continue|").play("""
        >> upstream HTTP/1.1 417 Expectation Failed|Content-Length: 0||
        << downstream HTTP/1.1 417 Expectation Failed|Content-Length: 0|Connection: close||
        << record FORWARDED 417 POST /a allowed by r-post by r-post
        << finish, linger
    """)


def test_informational_is_not_for_http10() -> None:
    talk = http()
    talk.play("""
        >> downstream GET /a HTTP/1.0|Host: a||
        << timer record
        << open
        >> open
        << upstream GET /a HTTP/1.1|Host: a|Connection: close||
        << resume
        >> upstream HTTP/1.1 103 Early Hints|Link: x||
        >> upstream HTTP/1.1 200 OK|Transfer-Encoding: chunked||2|hi|0||
        << downstream HTTP/1.1 200 OK|Connection: close||
        << record FORWARDED 200 GET /a allowed by r-get by r-get
        << downstream hi
        << close upstream
        << finish, linger
    """)


def test_101_ends_both_sides() -> None:
    http().play(f"""
        >> downstream GET /a HTTP/1.1|Host: a|Upgrade: websocket|Connection: Upgrade, HTTP2-Settings|HTTP2-Settings: x||
        << timer record
        << open
        >> open
        << upstream GET /a HTTP/1.1|Host: a||
        << resume
        >> upstream HTTP/1.1 101 Switching Protocols|Upgrade: websocket|Connection: Upgrade||
        << record ERROR 502 GET /a upgrade_refused by r-get
        << close upstream
        << downstream {BAD_GATEWAY}
        << finish, linger
    """)


@pytest.mark.parametrize(
    ("failure", "status", "body"),
    [
        ("upstream_refused", "502 Bad Gateway", "13||Bad Gateway|"),
        ("upstream_unreachable", "502 Bad Gateway", "13||Bad Gateway|"),
        ("leg_ports_exhausted", "502 Bad Gateway", "13||Bad Gateway|"),
        ("upstream_connect_timeout", "504 Gateway Timeout", "17||Gateway Timeout|"),
        ("no_upstream_socket", "503 Service Unavailable", "21||Service Unavailable|"),
    ],
)
def test_leg_fails_and_the_connection_stays(failure: str, status: str, body: str) -> None:
    http().play(f"""
        >> downstream GET /a HTTP/1.1|Host: a||
        << timer record
        << open
        >> failed {failure}
        << record ERROR {status[:3]} GET /a {failure} by r-get
        << close upstream
        << downstream HTTP/1.1 {status}|Content-Type: text/plain|Content-Length: {body}
        << resume
        << timer idle
        >> downstream GET /a HTTP/1.1|Host: a||
        << timer record
        << open
    """)


def test_leg_fails_while_a_body_waits() -> None:
    http().play(f"""
        >> downstream POST /a HTTP/1.1|Host: a|Content-Length: 5||hello
        << timer record
        << open
        >> failed upstream_refused
        << record ERROR 502 POST /a upstream_refused by r-post
        << close upstream
        << downstream {BAD_GATEWAY}
        << finish, linger
    """)


def test_idle_leg_closed_by_the_server_is_replaced() -> None:
    idle().play("""
        >> upstream-eof
        << close upstream
        >> downstream GET /b HTTP/1.1|Host: a||
        << timer record
        << open
    """)


def test_idle_leg_that_speaks_is_dropped() -> None:
    idle().play("""
        >> upstream HTTP/1.1 200 OK|Content-Length: 4||evil
        << record ERROR 0 upstream_unsolicited by tulle:protocol
        << close upstream
        >> downstream GET /b HTTP/1.1|Host: a||
        << timer record
        << open
    """)


def test_response_with_bytes_behind_it_ends_the_leg() -> None:
    at_response().play("""
        >> upstream HTTP/1.1 200 OK|Content-Length: 2||hiHTTP/1.1 200 OK|Content-Length: 4||evil
        << downstream HTTP/1.1 200 OK|Content-Length: 2||
        << record FORWARDED 200 GET /a allowed by r-get by r-get
        << downstream hi
        << close upstream
        << timer idle
        << resume
    """)


@pytest.mark.parametrize("end", ["upstream-eof", "upstream-lost"])
def test_race_with_a_closing_leg_is_retried_once(end: str) -> None:
    reason = "upstream_closed" if end == "upstream-eof" else "upstream_reset"
    idle().play(f"""
        >> downstream GET /b HTTP/1.1|Host: a||
        << timer record
        << upstream GET /b HTTP/1.1|Host: a||
        >> {end}
        << close upstream
        << open
        >> open
        << upstream GET /b HTTP/1.1|Host: a||
        >> {end}
        << record ERROR 502 GET /b {reason} by r-get
        << close upstream
        << downstream {BAD_GATEWAY}
        << finish, linger
    """)


def test_race_is_not_retried_for_post() -> None:
    idle(GET_ANY, POST_ANY).play(f"""
        >> downstream POST /b HTTP/1.1|Host: a|Content-Length: 0||
        << timer record
        << upstream POST /b HTTP/1.1|Host: a|Content-Length: 0||
        >> upstream-eof
        << record ERROR 502 POST /b upstream_closed by r-post
        << close upstream
        << downstream {BAD_GATEWAY}
        << finish, linger
    """)


def test_race_is_not_retried_after_a_byte_of_the_response() -> None:
    idle().play(f"""
        >> downstream GET /b HTTP/1.1|Host: a||
        << timer record
        << upstream GET /b HTTP/1.1|Host: a||
        >> upstream HTTP/1.1 2
        >> upstream-eof
        << record ERROR 502 GET /b closed_early by r-get
        << close upstream
        << downstream {BAD_GATEWAY}
        << finish, linger
    """)


def test_first_request_on_a_leg_is_never_retried() -> None:
    at_response().play(f"""
        >> upstream-eof
        << record ERROR 502 GET /a upstream_closed by r-get
        << close upstream
        << downstream {BAD_GATEWAY}
        << finish, linger
    """)


def test_response_until_close() -> None:
    at_response().play("""
        >> upstream HTTP/1.0 200 OK||abc
        << downstream HTTP/1.1 200 OK|Transfer-Encoding: chunked||
        << record FORWARDED 200 GET /a allowed by r-get by r-get
        << downstream 3|abc|
        << timer idle
        >> upstream-eof
        << downstream 0||
        << close upstream
        << timer idle
        << resume
    """)


def test_response_until_close_that_breaks_is_never_taken_for_whole() -> None:
    talk = http()
    talk.play("""
        >> downstream GET /a HTTP/1.0|Host: a||
        << timer record
        << open
        >> open
        << upstream GET /a HTTP/1.1|Host: a|Connection: close||
        << resume
        >> upstream HTTP/1.0 200 OK||abc
        << downstream HTTP/1.1 200 OK|Connection: close||
        << record FORWARDED 200 GET /a allowed by r-get by r-get
        << downstream abc
        << timer idle
        >> upstream-lost
        << record ERROR 0 GET /a upstream_reset by r-get reply
        << reset
    """)


def test_truncated_response_ends_the_connection() -> None:
    talk = at_response()
    talk.play("""
        >> upstream HTTP/1.1 200 OK|Transfer-Encoding: chunked||5|ab
        << downstream HTTP/1.1 200 OK|Transfer-Encoding: chunked||
        << record FORWARDED 200 GET /a allowed by r-get by r-get
        << downstream 2|ab|
        << timer idle
    """)
    talk.layer.upstream_eof()
    assert talk.edge.said[0].startswith("record ERROR 0 GET /a ")
    assert talk.edge.said[1:] == ["finish"]


def test_half_close_is_answered() -> None:
    http().play("""
        >> downstream GET /a HTTP/1.1|Host: a||
        << timer record
        << open
        >> downstream-eof
        >> open
        << upstream GET /a HTTP/1.1|Host: a||
        << resume
        >> upstream HTTP/1.1 200 OK|Content-Length: 2||hi
        << downstream HTTP/1.1 200 OK|Content-Length: 2||
        << record FORWARDED 200 GET /a allowed by r-get by r-get
        << downstream hi
        << finish
    """)


def test_client_ends_between_requests() -> None:
    idle().play("""
        >> downstream-eof
        << finish
    """)


def test_client_ends_in_a_body() -> None:
    talk = at_response(POST_ANY, method="POST", head="Content-Length: 4|")
    talk.layer.downstream_data(b"ab")
    talk.edge.said.clear()
    talk.layer.downstream_eof()
    assert talk.edge.said[0] == "record ERROR 400 POST /a client_aborted by r-post"
    assert talk.edge.said[-1] == "finish, linger"


def test_client_resets() -> None:
    at_response().play("""
        >> downstream-lost
        << record ERROR 0 GET /a client_aborted by r-get
        << reset
    """)
    idle().play("""
        >> downstream-lost
        << reset
    """)


def test_slow_response_is_recorded_before_it_comes() -> None:
    at_response().play("""
        >> expired record
        << record FORWARDED 0 GET /a allowed by r-get by r-get
        << timer idle
        >> upstream HTTP/1.1 200 OK|Content-Length: 0||
        << downstream HTTP/1.1 200 OK|Content-Length: 0||
        << record FORWARDED 200 GET /a allowed by r-get by r-get reply
        << timer idle
        << resume
    """)


def test_head_that_does_not_come() -> None:
    http().play(f"""
        >> downstream GET /a HT
        << timer head
        >> downstream TP/1.1|
        >> expired head
        << record DROPPED 408 limit_head_time by tulle:limit
        << downstream {REQUEST_TIMEOUT}
        << finish, linger
    """)


def test_silence() -> None:
    idle().play("""
        >> expired idle
        << record DROPPED 0 limit_idle by tulle:limit
        << finish
    """)


def test_silence_while_a_response_is_awaited() -> None:
    at_response().play(f"""
        >> expired record
        << record FORWARDED 0 GET /a allowed by r-get by r-get
        << timer idle
        >> expired idle
        << record ERROR 504 GET /a upstream_timeout by r-get reply
        << close upstream
        << downstream {GATEWAY_TIMEOUT}
        << finish, linger
    """)


def test_silence_in_a_response() -> None:
    at_response().play("""
        >> upstream HTTP/1.1 200 OK|Content-Length: 5||
        << downstream HTTP/1.1 200 OK|Content-Length: 5||
        << record FORWARDED 200 GET /a allowed by r-get by r-get
        << timer idle
        >> expired idle
        << record ERROR 0 GET /a limit_idle by r-get reply
        << reset
    """)


def test_pipelined_requests_wait_for_a_client_that_does_not_read() -> None:
    idle().play(f"""
        >> downstream GET /a HTTP/1.1|Host: a||
        << timer record
        << upstream GET /a HTTP/1.1|Host: a||
        >> downstream PATCH /a HTTP/1.1|Host: a||PATCH /b HTTP/1.1|Host: a||
        << pause
        >> full
        >> upstream HTTP/1.1 200 OK|Content-Length: 0||
        << downstream HTTP/1.1 200 OK|Content-Length: 0||
        << record FORWARDED 200 GET /a allowed by r-get by r-get
        << timer idle
        >> roomy
        >> downstream-drained
        << resume
        << record DROPPED 403 PATCH /a {NO_RULE}
        << downstream {DENIED}
        << timer idle
        << record DROPPED 403 PATCH /b {NO_RULE}
        << downstream {DENIED}
        << timer idle
    """)


def test_drain_ends_with_the_next_response() -> None:
    idle().play("""
        >> drain
        >> downstream GET /a HTTP/1.1|Host: a||
        << timer record
        << upstream GET /a HTTP/1.1|Host: a||
        >> upstream HTTP/1.1 200 OK|Content-Length: 0||
        << downstream HTTP/1.1 200 OK|Content-Length: 0|Connection: close||
        << record FORWARDED 200 GET /a allowed by r-get by r-get
        << finish, linger
    """)


def test_pipelined_requests_whose_legs_fail_at_once_take_no_stack() -> None:
    talk = http()
    talk.edge.open_upstream = lambda permit: talk.layer.upstream_failed(LegFailure.UNREACHABLE)  # type: ignore[method-assign]
    talk.layer.downstream_data(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n" * 2000)
    answers = "".join(said for said in talk.edge.said if said.startswith("downstream "))
    assert answers.count("HTTP/1.1 502 ") == 2000


def test_a_leg_that_stands_at_once_gets_head_and_body_in_order() -> None:
    talk = http()
    opened = talk.edge.open_upstream

    def open_at_once(permit: Permit) -> None:
        opened(permit)
        talk.layer.upstream_open()

    talk.edge.open_upstream = open_at_once  # type: ignore[method-assign]
    talk.play("""
        >> downstream POST /a HTTP/1.1|Host: a|Content-Length: 5||hello
        << timer record
        << open
        << upstream POST /a HTTP/1.1|Host: a|Content-Length: 5||
        << resume
        << upstream hello
    """)


def test_an_event_that_no_state_expects_is_a_bug() -> None:
    with pytest.raises(RuntimeError):
        http().layer.upstream_data(b"x")
    with pytest.raises(RuntimeError):
        http().layer.upstream_open()


# ---- where the two paths could part


def test_a_body_that_comes_while_the_leg_is_opened_goes_behind_its_head() -> None:
    http().play("""
        >> downstream POST /a HTTP/1.1|Host: a|Content-Length: 10||
        << timer record
        << open
        >> downstream hello
        << pause
        >> open
        << upstream POST /a HTTP/1.1|Host: a|Content-Length: 10||
        << resume
        << upstream hello
        >> downstream world
        << upstream world
    """)


def test_a_body_and_more_that_come_while_the_leg_is_opened() -> None:
    http().play(f"""
        >> downstream POST /a HTTP/1.1|Host: a|Transfer-Encoding: chunked||3
        << timer record
        << open
        >> downstream |abc|0||PATCH /b HTTP/1.1|Host: a||
        << pause
        >> open
        << upstream POST /a HTTP/1.1|Host: a|Transfer-Encoding: chunked||
        << resume
        << upstream 3|abc|0||
        >> upstream HTTP/1.1 200 OK|Content-Length: 0||
        << downstream HTTP/1.1 200 OK|Content-Length: 0||
        << record FORWARDED 200 POST /a allowed by r-post by r-post
        << timer idle
        << resume
        << record DROPPED 403 PATCH /b {NO_RULE}
        << downstream {DENIED}
        << timer idle
    """)


def test_the_rest_of_a_body_in_pieces_behind_an_early_response() -> None:
    """What is left of the body is no request, and a forbidden request in it is none."""
    at_response(POST_ANY, method="POST", head="Content-Length: 42|").play("""
        >> upstream HTTP/1.1 200 OK|Content-Length: 2||hi
        << downstream HTTP/1.1 200 OK|Content-Length: 2||
        << record FORWARDED 200 POST /a allowed by r-post by r-post
        << downstream hi
        << timer idle
        >> downstream 0123456789
        << upstream 0123456789
        << timer idle
        >> downstream POST /b HTTP/1.1|Host: a||
        << upstream POST /b HTTP/1.1|Host: a||
        << timer idle
        >> downstream xyzPOST /c HTTP/1.1|Host: a||
        << upstream xyz
        << timer idle
        << timer record
        << upstream POST /c HTTP/1.1|Host: a||
    """)


def test_the_rest_of_a_chunked_body_in_pieces_behind_an_early_response() -> None:
    at_response(POST_ANY, method="POST", head="Transfer-Encoding: chunked|").play("""
        >> upstream HTTP/1.1 200 OK|Content-Length: 0||
        << downstream HTTP/1.1 200 OK|Content-Length: 0||
        << record FORWARDED 200 POST /a allowed by r-post by r-post
        << timer idle
        >> downstream 3|abc|
        << upstream 3|abc|
        << timer idle
        >> downstream 20|POST /b HTTP/1.1|Host: a||xyz|0||
        << upstream 20|POST /b HTTP/1.1|Host: a||xyz|0||
        << timer idle
    """)


def test_a_client_that_ended_and_whose_last_request_is_denied() -> None:
    http().play(f"""
        >> downstream GET /a HTTP/1.1|Host: a||PATCH /b HTTP/1.1|Host: a||
        << timer record
        << open
        >> downstream-eof
        >> open
        << upstream GET /a HTTP/1.1|Host: a||
        << resume
        >> upstream HTTP/1.1 200 OK|Content-Length: 0||
        << downstream HTTP/1.1 200 OK|Content-Length: 0||
        << record FORWARDED 200 GET /a allowed by r-get by r-get
        << timer idle
        << resume
        << record DROPPED 403 PATCH /b {NO_RULE}
        << downstream {DENIED}
        << finish
    """)


def test_a_chunked_response_with_bytes_behind_it_ends_the_leg() -> None:
    at_response().play("""
        >> upstream HTTP/1.1 200 OK|Transfer-Encoding: chunked||2|hi|0||HTTP/1.1 200 OK|Content-Length: 4||evil
        << downstream HTTP/1.1 200 OK|Transfer-Encoding: chunked||
        << record FORWARDED 200 GET /a allowed by r-get by r-get
        << downstream 2|hi|0||
        << close upstream
        << timer idle
        << resume
        >> downstream GET /b HTTP/1.1|Host: a||
        << timer record
        << open
    """)


def test_keep_alive_of_the_server_stops_here_where_the_client_closes() -> None:
    at_response(head="Connection: close|").play("""
        >> upstream HTTP/1.1 200 OK|Connection: close|Keep-Alive: timeout=5|Content-Length: 2||hi
        << downstream HTTP/1.1 200 OK|Content-Length: 2|Connection: close||
        << record FORWARDED 200 GET /a allowed by r-get by r-get
        << downstream hi
        << close upstream
        << finish, linger
    """)


def test_rules_that_changed_while_a_request_was_out_of_the_ordinary() -> None:
    """What met the new rules was the strict path; the hot path has them too when it gets the flow back."""
    talk = idle()
    talk.play(f"""
        >> downstream GET /a HTTP/1.1|Host: a|
        << timer head
        >> rules /public
        >> downstream |
        << record DROPPED 403 GET /a {NO_RULE}
        << downstream {DENIED}
        << timer idle
        >> downstream GET /a HTTP/1.1|Host: a||
        << record DROPPED 403 GET /a {NO_RULE}
        << downstream {DENIED}
        << timer idle
        >> downstream GET /public HTTP/1.1|Host: a||
        << timer record
        << upstream GET /public HTTP/1.1|Host: a||
    """)


def test_rules_that_somebody_else_asked_the_flow_about_meanwhile() -> None:
    """As the server does at a swap, where a policy wants connections closed that a change no longer allows."""
    talk = idle()
    talk.play(">> rules /public")
    talk.flow.judge()
    talk.play(f"""
        >> downstream GET /a HTTP/1.1|Host: a||
        << record DROPPED 403 GET /a {NO_RULE}
        << downstream {DENIED}
        << timer idle
    """)


def test_half_a_head_meets_no_rules() -> None:
    talk = http()
    talk.play(f"""
        >> rules /public
        >> downstream GET /a HT
        << timer head
        >> expired head
        << record DROPPED 408 limit_head_time by tulle:limit
        << downstream {REQUEST_TIMEOUT}
        << finish, linger
    """)
    assert [e.revision for e in talk.edge.events] == [1]


@pytest.mark.parametrize(
    ("field", "body"), [("Content-Length: 10", "hello"), ("Transfer-Encoding: chunked", "5|hello|0|")]
)
def test_a_client_that_ended_in_the_body_of_its_last_request(field: str, body: str) -> None:
    talk = http()
    talk.play(f"""
        >> downstream GET /a HTTP/1.1|Host: a||POST /b HTTP/1.1|Host: a|{field}||{body}
        << timer record
        << open
        >> open
        << upstream GET /a HTTP/1.1|Host: a||
        << resume
        >> downstream-eof
        >> upstream HTTP/1.1 200 OK|Content-Length: 0||
        << downstream HTTP/1.1 200 OK|Content-Length: 0||
        << record FORWARDED 200 GET /a allowed by r-get by r-get
        << timer idle
        << resume
        << timer record
        << upstream POST /b HTTP/1.1|Host: a|{field}||{"5|" * (field[0] == "T")}hello{"|" * (field[0] == "T")}
        << record ERROR 400 POST /b client_aborted by r-post
        << downstream {BAD_REQUEST}
        << finish, linger
    """)


EXPECTS = "Expect: 100-continue|"


def test_a_client_that_did_not_wait_for_its_100_keeps_its_connection() -> None:
    at_response(POST_ANY, method="POST", head=f"Content-Length: 10|{EXPECTS}").play("""
        >> downstream hello
        << upstream hello
        >> upstream HTTP/1.1 200 OK|Content-Length: 0||
        << downstream HTTP/1.1 200 OK|Content-Length: 0||
        << record FORWARDED 200 POST /a allowed by r-post by r-post
        << timer idle
        >> downstream world
        << upstream world
        << timer idle
    """)


@pytest.mark.parametrize("first", ["", "3|"])
def test_half_a_chunk_is_the_beginning_of_a_body(first: str) -> None:
    talk = at_response(POST_ANY, method="POST", head=f"Transfer-Encoding: chunked|{EXPECTS}")
    for piece in ("3|ab",) if not first else (first, "ab"):
        talk.layer.downstream_data(octets(piece))
    assert talk.sent()[1][0][0].body == b"ab"
    talk.edge.said.clear()
    talk.layer.upstream_data(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert "finish, linger" not in talk.edge.said
    assert b"Connection: close" not in talk.edge.down


@pytest.mark.parametrize("with_head", [False, True])
def test_the_size_of_a_chunk_alone_is_not(with_head: bool) -> None:
    """The client may still go another way when it reads this answer (RFC 9110 10.1.1)."""
    head = f"POST /a HTTP/1.1|Host: a|Transfer-Encoding: chunked|{EXPECTS}|"
    talk = http()
    talk.layer.downstream_data(octets(head + "3|" if with_head else head))
    talk.layer.upstream_open()
    if not with_head:
        talk.layer.downstream_data(b"3\r\n")
    talk.edge.said.clear()
    talk.layer.upstream_data(b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n")
    assert talk.edge.said[-1] == "finish, linger"
    assert b"Connection: close" in talk.edge.down


@pytest.mark.parametrize(
    ("first", "rest"), [("3|abc|1", "0|"), ("3|abc|", "10|"), ("3|abc", "|10|"), ("3|abc|10\r", "\n")]
)
def test_half_a_line_between_chunks_is_not_lost_with_the_change_of_path(first: str, rest: str) -> None:
    talk = at_response(POST_ANY, method="POST", head="Transfer-Encoding: chunked|")
    talk.layer.downstream_data(octets(first))
    talk.edge.said.clear()
    talk.layer.expired(Timer.RECORD)
    assert talk.edge.said[0] == "record FORWARDED 0 POST /a allowed by r-post by r-post"
    talk.layer.downstream_data(octets(rest + "0123456789abcdef|0||"))
    ((sent,),) = talk.sent()[1]
    assert (sent.body, sent.ended) == (b"abc0123456789abcdef", True)


@pytest.mark.parametrize(
    ("first", "rest"), [("3|abc|1", "0|"), ("3|abc|", "10|"), ("3|abc", "|10|"), ("3|abc|10\r", "\n")]
)
def test_nor_in_a_response(first: str, rest: str) -> None:
    talk = at_response()
    talk.layer.upstream_data(octets("HTTP/1.1 200 OK|Transfer-Encoding: chunked||" + first))
    talk.layer.upstream_data(octets(rest + "0123456789abcdef|0|X-Sum: 1||"))  # a trailer: the strict path's
    (got,) = talk.sent()[0]
    assert (got.body, got.ended, got.trailers) == (b"abc0123456789abcdef", True, [b"X-Sum: 1"])


@pytest.mark.parametrize(("first", "rest"), [("3|abc|1", "0|"), ("3|abc|10\r", "\n"), ("3|abc", "|10|")])
def test_nor_in_a_response_while_the_request_goes_out_of_the_ordinary(first: str, rest: str) -> None:
    talk = at_response(POST_ANY, method="POST", head="Transfer-Encoding: chunked|")
    talk.layer.upstream_data(octets("HTTP/1.1 200 OK|Transfer-Encoding: chunked||" + first))
    talk.layer.downstream_data(octets("2;odd=1|hi|"))
    talk.layer.upstream_data(octets(rest + "0123456789abcdef|0||"))
    talk.layer.downstream_data(octets("0||"))
    ((got,), ((sent,),)) = talk.sent()
    assert (got.body, got.ended) == (b"abc0123456789abcdef", True)
    assert (sent.body, sent.ended) == (b"hi", True)


def test_heads_over_the_limit() -> None:
    long = "X: " + "y" * 100
    talk = http(limits=Limits(head_bytes=100))
    talk.layer.downstream_data(octets(f"GET /a HTTP/1.1|Host: a|{long}||"))
    assert talk.edge.said[0] == "record DROPPED 431 head_too_long by tulle:limit"
    talk = http(limits=Limits(head_bytes=100))
    talk.layer.downstream_data(octets("GET /a HTTP/1.1|Host: a||"))
    talk.layer.upstream_open()
    talk.edge.said.clear()
    talk.layer.upstream_data(octets(f"HTTP/1.1 200 OK|{long}|Content-Length: 0||"))
    assert talk.edge.said[0] == "record ERROR 502 GET /a head_too_long by r-get"


def test_what_comes_behind_the_running_request_is_the_last_that_is_read() -> None:
    talk = at_response()
    talk.layer.downstream_data(octets("GET /b HTTP/1.1|Host: a||"))
    assert talk.edge.paused
    talk.layer.upstream_data(octets("HTTP/1.1 200 OK|Content-Length: 0||"))
    assert not talk.edge.paused
    talk = http()
    talk.layer.downstream_data(octets("POST /a HTTP/1.1|Host: a|Content-Length: 5||"))
    talk.layer.downstream_data(b"hel")
    assert talk.edge.paused
    talk.layer.upstream_open()
    assert not talk.edge.paused


def test_a_record_says_who_the_peer_was_when_the_request_was_judged() -> None:
    talk = at_response()
    before = talk.box.engine.ruleset
    talk.box.swap(Engine(replace(before, addresses={"192.0.2.2": (300, "default/other")})))
    talk.flow.judge()  # as the server does at a swap
    assert talk.flow.facts.identity == 300
    talk.layer.upstream_data(octets("HTTP/1.1 200 OK|Content-Length: 0||"))
    talk.layer.downstream_data(octets("GET /b HTTP/1.1|Host: a||"))
    talk.layer.upstream_data(octets("HTTP/1.1 200 OK|Content-Length: 0||"))
    assert [e.connection.identity for e in talk.edge.events] == [0, 300]


def test_a_client_that_ended_and_whose_last_request_asks_to_close_and_is_denied() -> None:
    http().play(f"""
        >> downstream GET /a HTTP/1.1|Host: a||PATCH /b HTTP/1.1|Host: a|Connection: close||
        << timer record
        << open
        >> open
        << upstream GET /a HTTP/1.1|Host: a||
        << resume
        >> downstream-eof
        >> upstream HTTP/1.1 200 OK|Content-Length: 0||
        << downstream HTTP/1.1 200 OK|Content-Length: 0||
        << record FORWARDED 200 GET /a allowed by r-get by r-get
        << timer idle
        << resume
        << record DROPPED 403 PATCH /b {NO_RULE}
        << downstream {DENIED.replace("||", "|Connection: close||")}
        << finish
    """)


def test_the_hot_path_has_the_flow_whenever_it_can(both_paths: bool) -> None:
    """Not while a rule reads headers, nor for a request out of the ordinary; again with the next plain one."""
    talk = http(WITH_HEADER)

    def ask(head: str) -> bool:
        talk.layer.downstream_data(octets(head))
        return isinstance(talk.layer, RecognisedLayer)

    plain, odd = "PATCH /a HTTP/1.1|Host: a||", "PATCH /a HTTP/1.1|Host: a|X-Empty: ||"
    assert not ask(plain)
    talk.box.swap(rules_of(GET_ANY, port=80))
    assert [ask(plain), ask(odd), ask(odd), ask(plain)] == [both_paths, False, False, both_paths]
    talk.box.swap(rules_of(WITH_HEADER, port=80))
    assert not ask(plain)
    assert [e.code for e in talk.edge.events] == [403] * 6


def test_what_was_left_of_an_earlier_body_means_nothing_later() -> None:
    """The strict path finished a body that the hot path had begun; the client is not read while it takes nothing."""
    talk = at_response(POST_ANY, method="POST", head="Content-Length: 4|")
    talk.layer.downstream_data(b"ab")
    talk.layer.expired(Timer.RECORD)
    talk.layer.downstream_data(b"cd")
    talk.layer.upstream_data(octets("HTTP/1.1 200 OK|Content-Length: 0||"))
    sent = bytes(talk.edge.legs[0])
    talk.edge.full = True
    talk.layer.downstream_data(octets("PATCH /a HTTP/1.1|Host: a||"))
    talk.layer.downstream_data(octets("PATCH /b HTTP/1.1|Host: a||"))
    assert bytes(talk.edge.legs[0]) == sent
    talk.edge.full = False
    talk.layer.downstream_drained()
    assert [(e.method, e.target, e.code) for e in talk.edge.events if not e.is_reply] == [
        ("POST", "/a", 0),
        ("PATCH", "/a", 403),
        ("PATCH", "/b", 403),
    ]
    assert bytes(talk.edge.legs[0]) == sent


def strict_once() -> Dialogue:
    """A flow whose first request was out of the ordinary, with a leg that has answered it."""
    talk = http()
    talk.layer.downstream_data(octets("GET /a HTTP/1.1|Host: a|X-Empty: ||"))
    talk.layer.upstream_open()
    talk.layer.upstream_data(octets("HTTP/1.1 200 OK|Content-Length: 0||"))
    talk.edge.said.clear()
    return talk


def test_a_drain_told_to_the_strict_path_is_not_forgotten() -> None:
    talk = strict_once()
    talk.layer.drain()
    talk.layer.downstream_data(octets("GET /a HTTP/1.1|Host: a||"))
    talk.layer.upstream_data(octets("HTTP/1.1 200 OK|Content-Length: 0||"))
    assert talk.sent()[0][-1].close
    assert talk.edge.said[-1] == "finish, linger"


def test_a_leg_that_answered_the_strict_path_is_no_fresh_one() -> None:
    """So a race with its end is retried, as always."""
    talk = strict_once()
    talk.layer.downstream_data(octets("GET /b HTTP/1.1|Host: a||"))
    talk.layer.upstream_eof()
    assert talk.edge.said[-2:] == ["close upstream", "open"]
    assert talk.counters["upstream_retried"] == 1


def test_a_leg_that_ends_with_its_response_ends_with_it_on_whatever_path() -> None:
    talk = at_response()
    talk.layer.upstream_data(octets("HTTP/1.1 200 OK|Connection: close|Transfer-Encoding: chunked||2|hi|"))
    talk.edge.said.clear()
    talk.layer.upstream_data(octets("0|X-Sum: 1||"))  # a trailer: the strict path's
    assert "close upstream" in talk.edge.said
    talk.layer.downstream_data(octets("GET /b HTTP/1.1|Host: a||"))
    assert talk.edge.said[-1] == "open"
