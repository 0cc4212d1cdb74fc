"""Responses, good and hostile. What is refused here ends as a 502, never as bytes for the client."""

import pytest

from tests.parsers.feeding import feed, reader_of_responses


def reply(*fields: bytes, line: bytes = b"HTTP/1.1 200 OK", body: bytes = b"") -> bytes:
    return b"\r\n".join([line, *fields]) + b"\r\n\r\n" + body


L3 = b"Content-Length: 3"
TE = b"Transfer-Encoding: chunked"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
OK = ["200 1.1 length=3", "data abc", "end", "reusable"]

type Row = tuple[str, bytes, bytes, list[str]]  # name, request method, what the server sends, what is read

ACCEPTED: list[Row] = [
    ("length", b"GET", reply(L3, body=b"abc"), OK),
    ("length 0", b"GET", reply(b"Content-Length: 0"), ["200 1.1 length=0", "end", "reusable"]),
    ("chunked", b"GET", reply(TE, body=b"3\r\nabc\r\n0\r\n\r\n"), ["200 1.1 chunked", "data abc", "end", "reusable"]),
    ("trailers", b"GET", reply(TE, body=b"0\r\nX-Sum: 1\r\nSet-Cookie: a\r\n\r\n"),
     ["200 1.1 chunked", "end X-Sum=1", "reusable"]),
    ("reason is missing", b"GET", reply(L3, line=b"HTTP/1.1 200 ", body=b"abc"), OK),
    ("reason and blank are missing", b"GET", reply(L3, line=b"HTTP/1.1 200", body=b"abc"), OK),
    ("reason with blanks and obs-text", b"GET", reply(L3, line=b"HTTP/1.1 200 Tr\xe8s bien", body=b"abc"), OK),
    ("HEAD with a length", b"HEAD", reply(L3), ["200 1.1 none", "end", "reusable"]),
    ("HEAD with chunked", b"HEAD", reply(TE), ["200 1.1 none", "end", "reusable"]),
    ("HEAD without framing", b"HEAD", reply(), ["200 1.1 none", "end", "reusable"]),
    ("204", b"GET", reply(line=b"HTTP/1.1 204 No Content"), ["204 1.1 none", "end", "reusable"]),
    ("204 with length 0", b"GET", reply(b"Content-Length: 0", line=b"HTTP/1.1 204 No Content"),
     ["204 1.1 none", "end", "reusable"]),
    ("304 with a length", b"GET", reply(L3, line=b"HTTP/1.1 304 Not Modified"), ["304 1.1 none", "end", "reusable"]),
    ("304 with chunked", b"GET", reply(TE, line=b"HTTP/1.1 304 Not Modified"), ["304 1.1 none", "end", "reusable"]),
    ("100 first", b"GET", CONTINUE + reply(L3, body=b"abc"), ["informational 100", *OK]),
    ("103 with fields first", b"GET", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + reply(L3, body=b"abc"),
     ["informational 103", *OK]),
    ("sixteen 1xx", b"GET", CONTINUE * 16 + reply(L3, body=b"abc"), ["informational 100"] * 16 + OK),
    ("close", b"GET", reply(L3, b"Connection: close", body=b"abc"), ["200 1.1 length=3 close", "data abc", "end"]),
    ("1.0", b"GET", reply(L3, line=b"HTTP/1.0 200 OK", body=b"abc"), ["200 1.0 length=3 close", "data abc", "end"]),
    ("1.0 with keep-alive", b"GET", reply(L3, b"Connection: keep-alive", line=b"HTTP/1.0 200 OK", body=b"abc"),
     ["200 1.0 length=3 close", "data abc", "end"]),
    ("599", b"GET", reply(L3, line=b"HTTP/1.1 599 X", body=b"abc"),
     ["599 1.1 length=3", "data abc", "end", "reusable"]),
    ("99 equal fields without a value", b"GET", reply(L3, *[b"X:"] * 99, body=b"abc"), OK),
]  # fmt: skip

CLOSED: list[Row] = [
    ("until close", b"GET", reply(body=b"abc"), ["200 1.1 until_close close", "data abc", "end", "closed"]),
    ("until close, empty", b"GET", reply(), ["200 1.1 until_close close", "end", "closed"]),
    ("until close in 1.0", b"GET", reply(line=b"HTTP/1.0 200 OK", body=b"abc"),
     ["200 1.0 until_close close", "data abc", "end", "closed"]),
    ("after a response", b"GET", reply(L3, body=b"abc"), [*OK[:-1], "closed"]),
    ("nothing", b"GET", b"", ["error closed_without_response 502"]),
    ("after a 1xx", b"GET", CONTINUE, ["informational 100", "error closed_without_response 502"]),
    ("in a head", b"GET", b"HTTP/1.1 200 OK\r\nX", ["error closed_early 502"]),
    ("in a body", b"GET", reply(L3, body=b"ab"), ["200 1.1 length=3", "data ab", "error closed_early 502"]),
    ("in a chunk", b"GET", reply(TE, body=b"3\r\nab"), ["200 1.1 chunked", "data ab", "error closed_early 502"]),
    ("before the last chunk", b"GET", reply(TE, body=b"3\r\nabc\r\n"),
     ["200 1.1 chunked", "data abc", "error closed_early 502"]),
]  # fmt: skip


def get(name: str, data: bytes, reason: str, *before: str) -> Row:
    return (name, b"GET", data, [*before, f"error {reason} 502"])


REFUSED: list[Row] = [
    get("length and coding", reply(L3, TE, body=b"0\r\n\r\n"), "length_and_coding"),
    get("two lengths", reply(L3, b"Content-Length: 4", body=b"abcd"), "two_lengths"),
    get("equal lengths", reply(L3, L3, body=b"abc"), "two_lengths"),
    get("list of lengths", reply(b"Content-Length: 3, 3", body=b"abc"), "bad_length"),
    get("signed length", reply(b"Content-Length: +3", body=b"abc"), "bad_length"),
    get("length over 64 bits", reply(b"Content-Length: 18446744073709551619"), "bad_length"),
    get("two codings", reply(TE, TE, body=b"0\r\n\r\n"), "bad_transfer_coding"),
    get("gzip coding", reply(b"Transfer-Encoding: gzip, chunked"), "bad_transfer_coding"),
    get("identity coding", reply(b"Transfer-Encoding: identity"), "bad_transfer_coding"),
    get("coding in 1.0", reply(TE, line=b"HTTP/1.0 200 OK"), "coding_in_http10"),
    get("bad chunk size", reply(TE, body=b"x\r\n"), "bad_chunk_size", "200 1.1 chunked"),
    get("chunk too long", reply(TE, body=b"1\r\nab\r\n"), "bad_chunk_end", "200 1.1 chunked", "data a"),
    get("LF after a chunk size", reply(TE, body=b"1\na\n0\n\n"), "bare_lf", "200 1.1 chunked"),
    get("length in trailers", reply(TE, body=b"0\r\nContent-Length: 1\r\n\r\n"), "bad_trailer", "200 1.1 chunked"),
    get("bare LF", b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", "bare_lf"),
    get("bare CR", reply(b"X: a\rb"), "bare_cr"),
    get("obs-fold", reply(b"X: a", b" b"), "obs_fold"),
    get("NUL", reply(b"X: a\x00"), "nul"),
    get("control", reply(b"X: a\x02"), "control_octet"),
    get("control in the reason", reply(line=b"HTTP/1.1 200 O\x1bK"), "control_octet"),
    get("blank before the colon", reply(b"Content-Length : 0"), "space_before_colon"),
    get("no colon", reply(b"Content-Length"), "bad_field_name"),
    get("blank line first", b"\r\n" + reply(L3, body=b"abc"), "bad_status_line"),
    get("version 2", reply(line=b"HTTP/2.0 200 OK"), "bad_status_line"),
    get("version 1.2", reply(line=b"HTTP/1.2 200 OK"), "bad_status_line"),
    get("another protocol", reply(line=b"ICY 200 OK"), "bad_status_line"),
    get("two digits of status", reply(line=b"HTTP/1.1 20 OK"), "bad_status_line"),
    get("four digits of status", reply(line=b"HTTP/1.1 2000 OK"), "bad_status_line"),
    get("status below 100", reply(line=b"HTTP/1.1 099 OK"), "bad_status_line"),
    get("status over 599", reply(line=b"HTTP/1.1 600 OK"), "bad_status_line"),
    get("two blanks before the status", reply(line=b"HTTP/1.1  200 OK"), "bad_status_line"),
    get("tab before the reason", reply(line=b"HTTP/1.1 200\tOK"), "bad_status_line"),
    get("a request", b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", "bad_status_line"),
    get("HTTP/0.9", b"<html>hello</html>\r\n\r\n", "bad_status_line"),
    get("101", reply(b"Upgrade: websocket", b"Connection: Upgrade", line=b"HTTP/1.1 101 Switching Protocols"),
        "upgrade_refused"),
    get("100 with a length", reply(L3, line=b"HTTP/1.1 100 Continue", body=b"abc"), "framing_without_body"),
    get("100 with a coding", reply(TE, line=b"HTTP/1.1 100 Continue"), "framing_without_body"),
    get("204 with a length", reply(L3, line=b"HTTP/1.1 204 No Content", body=b"abc"), "framing_without_body"),
    get("204 with a coding", reply(TE, line=b"HTTP/1.1 204 No Content"), "framing_without_body"),
    ("HEAD with both", b"HEAD", reply(L3, TE), ["error length_and_coding 502"]),
    get("Connection names the length", reply(L3, b"Connection: content-length", body=b"abc"), "bad_connection_option"),
    get("Connection names Set-Cookie", reply(L3, b"Connection: set-cookie", body=b"abc"), "bad_connection_option"),
    get("1xx without end", CONTINUE * 17, "too_many_informational", *["informational 100"] * 16),
    get("head over 16 KiB", reply(b"X: " + b"a" * 16_400), "head_too_long"),
    get("101 fields", reply(*[b"X: a"] * 101), "too_many_fields"),
]  # fmt: skip

# Bytes after the end are the start of somebody else's response: each of these is refused once the first is complete.
BEHIND = [
    ("a second response", b"GET", reply(L3, body=b"abc") + reply(L3, body=b"xyz"), OK[:-1]),
    ("a body for HEAD", b"HEAD", reply(L3, body=b"abc"), ["200 1.1 none", "end"]),
    ("a body for 304", b"GET", reply(L3, line=b"HTTP/1.1 304 N", body=b"abc"), ["304 1.1 none", "end"]),
    ("a body for 204", b"GET", reply(line=b"HTTP/1.1 204 N", body=b"abc"), ["204 1.1 none", "end"]),
    ("CR LF", b"GET", reply(L3, body=b"abc\r\n"), OK[:-1]),
]


def ids(rows: list[Row]) -> list[str]:
    names = [row[0] for row in rows]
    assert len(set(names)) == len(names)
    return names


@pytest.mark.parametrize(("name", "method", "data", "expected"), ACCEPTED, ids=ids(ACCEPTED))
def test_accepted(name: str, method: bytes, data: bytes, expected: list[str]) -> None:
    assert feed(reader_of_responses(method), data, eof=False) == expected


@pytest.mark.parametrize(("name", "method", "data", "expected"), CLOSED, ids=ids(CLOSED))
def test_closed(name: str, method: bytes, data: bytes, expected: list[str]) -> None:
    assert feed(reader_of_responses(method), data, eof=True) == expected


@pytest.mark.parametrize(("name", "method", "data", "expected"), REFUSED, ids=ids(REFUSED))
def test_refused(name: str, method: bytes, data: bytes, expected: list[str]) -> None:
    read = reader_of_responses(method)
    assert feed(read, data, eof=False) == expected
    assert feed(read, data, eof=True) == expected
    assert feed(read, data + reply(L3, body=b"abc"), eof=False) == expected


@pytest.mark.parametrize(("name", "method", "data", "before"), BEHIND, ids=ids(BEHIND))
def test_nothing_may_follow_a_response(name: str, method: bytes, data: bytes, before: list[str]) -> None:
    assert feed(reader_of_responses(method), data, eof=False) == [*before, "error unexpected_response 502"]


def test_a_request_sent_as_1_0_is_not_followed_by_another() -> None:
    read = reader_of_responses(version=b"1.0")
    assert feed(read, reply(L3, body=b"abc"), eof=False) == OK[:-1]
