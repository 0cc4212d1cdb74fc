"""Request smuggling: variants from public research (PortSwigger's corpora, CVE reports, findings of T-Reqs).

Each asks two readers to disagree on where a body ends. None may come out as a request: what is refused cannot be
forwarded. The few that are read are those that have one reading; what we forward then holds no trace of the trick.
"""

import pytest

from tests.parsers.feeding import feed, read_requests

SMUGGLED = b"GET /admin HTTP/1.1\r\nHost: h\r\n\r\n"
CL_TE_BODY = b"0\r\n\r\n" + SMUGGLED
TE_CL_BODY = b"%x\r\n%s\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)


def request(*fields: bytes, body: bytes, line: bytes = b"POST / HTTP/1.1", host: bytes = b"Host: h") -> bytes:
    return b"\r\n".join([line, host, *fields]) + b"\r\n\r\n" + body


CL_ALL = b"Content-Length: %d" % len(CL_TE_BODY)
TE = b"Transfer-Encoding: chunked"

type Row = tuple[str, bytes, str, int]

BOTH: list[Row] = [
    ("CL.TE", request(CL_ALL, TE, body=CL_TE_BODY), "length_and_coding", 400),
    ("TE.CL", request(b"Content-Length: 4", TE, body=TE_CL_BODY), "length_and_coding", 400),
    ("TE before CL", request(TE, b"Content-Length: 4", body=TE_CL_BODY), "length_and_coding", 400),
    ("CL 0 with TE", request(b"Content-Length: 0", TE, body=CL_TE_BODY), "length_and_coding", 400),
    ("CL with empty TE", request(CL_ALL, b"Transfer-Encoding:", body=CL_TE_BODY), "length_and_coding", 400),
    ("CL with identity", request(CL_ALL, b"Transfer-Encoding: identity", body=CL_TE_BODY), "length_and_coding", 400),
    ("empty CL with TE", request(b"Content-Length:", TE, body=CL_TE_BODY), "length_and_coding", 400),
    ("CL with broken TE", request(CL_ALL, b"Transfer-Encoding: xchunked", body=CL_TE_BODY), "length_and_coding", 400),
    ("CL and TE in 1.0", request(CL_ALL, TE, body=CL_TE_BODY, line=b"POST / HTTP/1.0"), "length_and_coding", 400),
    ("GET with both", request(CL_ALL, TE, body=CL_TE_BODY, line=b"GET / HTTP/1.1"), "length_and_coding", 400),
]

LENGTHS: list[Row] = [
    (name, request(*fields, body=b"abcdef"), reason, 400)
    for name, fields, reason in [
        ("equal lengths", (b"Content-Length: 6", b"Content-Length: 6"), "two_lengths"),
        ("different lengths", (b"Content-Length: 6", b"Content-Length: 5"), "two_lengths"),
        ("lengths apart", (b"Content-Length: 6", b"X: a", b"content-length: 0"), "two_lengths"),
        ("list of equal lengths", (b"Content-Length: 6, 6",), "bad_length"),
        ("list of lengths", (b"Content-Length: 6,5",), "bad_length"),
        ("list with an empty member", (b"Content-Length: 6,",), "bad_length"),
        ("plus", (b"Content-Length: +6",), "bad_length"),
        ("minus", (b"Content-Length: -6",), "bad_length"),
        ("minus zero", (b"Content-Length: -0",), "bad_length"),
        ("hex", (b"Content-Length: 0x6",), "bad_length"),
        ("exponent", (b"Content-Length: 6e0",), "bad_length"),
        ("point", (b"Content-Length: 6.0",), "bad_length"),
        ("underscore", (b"Content-Length: 0_6",), "bad_length"),
        ("blank inside", (b"Content-Length: 1 6",), "bad_length"),
        ("tab inside", (b"Content-Length: 1\t6",), "bad_length"),
        ("empty", (b"Content-Length:",), "bad_length"),
        ("quotes", (b'Content-Length: "6"',), "bad_length"),
        ("parameter", (b"Content-Length: 6;a=b",), "bad_length"),
        ("word", (b"Content-Length: six",), "bad_length"),
        ("full-width digit", (b"Content-Length: \xef\xbc\x96",), "bad_length"),
        ("Arabic digit", (b"Content-Length: \xd9\xa6",), "bad_length"),
        ("no-break space", (b"Content-Length: \xa06",), "bad_length"),
        ("19 digits", (b"Content-Length: 9999999999999999999",), "bad_length"),
        ("over 64 bits", (b"Content-Length: 18446744073709551622",), "bad_length"),
        ("vertical tab", (b"Content-Length: \x0b6",), "control_octet"),
        ("NUL behind", (b"Content-Length: 6\x00",), "nul"),
        ("CR behind", (b"Content-Length: 6\r",), "bare_cr"),
        ("blank before the colon", (b"Content-Length : 6",), "space_before_colon"),
        ("folded", (b"Content-Length:", b" 6"), "obs_fold"),
        ("name with a control", (b"Content-Length\x0b: 6",), "control_octet"),
        ("name with a no-break space", (b"Content-Length\xa0: 6",), "bad_field_name"),
        ("name in a second line of a value", (b"X: a\nContent-Length: 6",), "bare_lf"),
    ]
]

# TE.TE: one of two readers shall not see the coding. With a length beside it the head is refused for that; so alone.
CODINGS: list[Row] = [
    (name, request(*fields, body=CL_TE_BODY), reason, status)
    for name, fields, reason, status in [
        ("two codings", (TE, TE), "bad_transfer_coding", 400),
        ("chunked and identity", (TE, b"Transfer-Encoding: identity"), "bad_transfer_coding", 400),
        ("chunked and cow", (TE, b"Transfer-encoding: cow"), "bad_transfer_coding", 400),
        ("chunked and empty", (TE, b"Transfer-Encoding:"), "bad_transfer_coding", 400),
        ("identity", (b"Transfer-Encoding: identity",), "bad_transfer_coding", 501),
        ("gzip, chunked", (b"Transfer-Encoding: gzip, chunked",), "bad_transfer_coding", 501),
        ("chunked, identity", (b"Transfer-Encoding: chunked, identity",), "bad_transfer_coding", 501),
        ("identity, chunked", (b"Transfer-Encoding: identity, chunked",), "bad_transfer_coding", 501),
        ("chunked twice in a list", (b"Transfer-Encoding: chunked, chunked",), "bad_transfer_coding", 501),
        ("list with an empty member", (b"Transfer-Encoding: ,chunked",), "bad_transfer_coding", 501),
        ("comma behind", (b"Transfer-Encoding: chunked,",), "bad_transfer_coding", 501),
        ("xchunked", (b"Transfer-Encoding: xchunked",), "bad_transfer_coding", 501),
        ("chunkedx", (b"Transfer-Encoding: chunkedx",), "bad_transfer_coding", 501),
        ("chunk", (b"Transfer-Encoding: chunk",), "bad_transfer_coding", 501),
        ("capitals", (b"Transfer-Encoding: CHUNKED",), "bad_transfer_coding", 501),
        ("mixed case", (b"Transfer-Encoding: ChUnKeD",), "bad_transfer_coding", 501),
        ("long s", ("Transfer-Encoding: chunked\u017f".encode(),), "bad_transfer_coding", 501),
        ("Kelvin sign", ("Transfer-Encoding: chun\u212aed".encode(),), "bad_transfer_coding", 501),
        ("quotes", (b'Transfer-Encoding: "chunked"',), "bad_transfer_coding", 501),
        ("single quotes", (b"Transfer-Encoding: 'chunked'",), "bad_transfer_coding", 501),
        ("parameter", (b"Transfer-Encoding: chunked;q=1",), "bad_transfer_coding", 501),
        ("semicolon", (b"Transfer-Encoding: chunked;",), "bad_transfer_coding", 501),
        ("colon in the value", (b"Transfer-Encoding: : chunked",), "bad_transfer_coding", 501),
        ("no-break space", (b"Transfer-Encoding: \xa0chunked",), "bad_transfer_coding", 501),
        ("byte order mark", (b"Transfer-Encoding: \xef\xbb\xbfchunked",), "bad_transfer_coding", 501),
        ("0xff behind", (b"Transfer-Encoding: chunked\xff",), "bad_transfer_coding", 501),
        ("empty", (b"Transfer-Encoding:",), "bad_transfer_coding", 501),
        ("vertical tab before", (b"Transfer-Encoding:\x0bchunked",), "control_octet", 400),
        ("form feed behind", (b"Transfer-Encoding: chunked\x0c",), "control_octet", 400),
        ("backspace in the name", (b"Transfer-Encoding\x08: chunked",), "control_octet", 400),
        ("NUL before", (b"Transfer-Encoding: \x00chunked",), "nul", 400),
        ("NUL in the name", (b"Transfer\x00-Encoding: chunked",), "nul", 400),
        ("CR before", (b"Transfer-Encoding:\rchunked",), "bare_cr", 400),
        ("CR behind", (b"Transfer-Encoding: chunked\r",), "bare_cr", 400),
        ("LF before the name", (b"X: X\nTransfer-Encoding: chunked",), "bare_lf", 400),
        ("CR before the name", (b"X: X\rTransfer-Encoding: chunked",), "bare_cr", 400),
        ("LF in the value", (b"Transfer-Encoding:\n chunked",), "bare_lf", 400),
        ("LF after the name", (b"Transfer-Encoding\n: chunked",), "bare_lf", 400),
        ("folded", (b"Transfer-Encoding:", b" chunked"), "obs_fold", 400),
        ("folded with a tab", (b"Transfer-Encoding: chunked", b"\t, identity"), "obs_fold", 400),
        ("indented", (b"X: a", b" Transfer-Encoding: chunked"), "obs_fold", 400),
        ("blank before the colon", (b"Transfer-Encoding : chunked",), "space_before_colon", 400),
        ("tab before the colon", (b"Transfer-Encoding\t:chunked",), "space_before_colon", 400),
        ("blank in the name", (b"Transfer Encoding: chunked",), "bad_field_name", 400),
        ("bracketed name", (b"[Transfer-Encoding: chunked",), "bad_field_name", 400),
        ("name in quotes", (b'"Transfer-Encoding": chunked',), "bad_field_name", 400),
        ("equals sign for the colon", (b"Transfer-Encoding=chunked",), "bad_field_name", 400),
        ("0xff in the name", (b"\xffTransfer-Encoding: chunked",), "bad_field_name", 400),
        ("soft hyphen in the name", (b"Transfer\xad-Encoding: chunked",), "bad_field_name", 400),
        ("Connection hides it", (TE, b"Connection: close, transfer-encoding"), "bad_connection_option", 400),
    ]
]

OLD: list[Row] = [
    ("TE in 1.0", request(TE, body=CL_TE_BODY, line=b"POST / HTTP/1.0"), "coding_in_http10", 400),
    ("TE in 1.0 with keep-alive", request(TE, b"Connection: keep-alive", body=CL_TE_BODY, line=b"POST / HTTP/1.0"),
     "coding_in_http10", 400),
    ("odd TE in 1.0", request(b"Transfer-Encoding: gzip", body=CL_TE_BODY, line=b"POST / HTTP/1.0"),
     "coding_in_http10", 400),
    ("request line in a field", request(b"X: a\r\n\r\n" [:4] + b"\nGET /admin HTTP/1.1", body=b""), "bare_lf", 400),
    ("method with CR LF", request(body=b"", line=b"GET / HTTP/1.1\r\nX: a\r\n\nGET /b HTTP/1.1"), "bare_lf", 400),
    ("target with a version", request(body=b"", line=b"GET / HTTP/1.1\x85Host: h HTTP/1.1"), "bad_request_line", 400),
]  # fmt: skip

ROWS = BOTH + LENGTHS + CODINGS + OLD


@pytest.mark.parametrize(("name", "data", "reason", "status"), ROWS, ids=[f"{i} {r[0]}" for i, r in enumerate(ROWS)])
def test_smuggling_is_refused_before_anything_is_read(name: str, data: bytes, reason: str, status: int) -> None:
    assert feed(read_requests, data, eof=False) == [f"error {reason} {status}"]
    assert feed(read_requests, data + SMUGGLED, eof=False) == [f"error {reason} {status}"]


READ_ONE_WAY = [
    # A name that only looks like the framing field is not it: there is no body, and the rest is judged as what it is.
    ("underscore", request(b"Transfer_Encoding: chunked", body=CL_TE_BODY),
     ["POST / 1.1 h none", "end", "error bad_request_line 400"]),
    ("prefixed name", request(b"X-Content-Length: 10", body=SMUGGLED),
     ["POST / 1.1 h none", "end", "GET /admin 1.1 h none", "end"]),
    ("CL.0", request(b"Content-Length: %d" % len(SMUGGLED), body=SMUGGLED, line=b"GET /a HTTP/1.1"),
     [f"GET /a 1.1 h length={len(SMUGGLED)}", "data " + SMUGGLED.decode(), "end"]),
    ("0.CL", request(b"Content-Length: 0", body=SMUGGLED),
     ["POST / 1.1 h length=0", "end", "GET /admin 1.1 h none", "end"]),
    ("no length on POST", request(body=SMUGGLED), ["POST / 1.1 h none", "end", "GET /admin 1.1 h none", "end"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "data", "expected"), READ_ONE_WAY, ids=[row[0] for row in READ_ONE_WAY])
def test_every_request_in_sight_is_judged(name: str, data: bytes, expected: list[str]) -> None:
    assert feed(read_requests, data, eof=False) == expected
