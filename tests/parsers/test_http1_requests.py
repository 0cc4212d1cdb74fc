"""Requests, good and hostile: what is read, or why it is refused. Each row in every way it may arrive."""

import pytest

from tests.parsers.feeding import feed, read_requests

type Row = tuple[str, bytes, list[str]]

NEXT = b"GET /next HTTP/1.1\r\nHost: n\r\n\r\n"
NEXT_LINES = ["GET /next 1.1 n none", "end"]


def get(*fields: bytes, line: bytes = b"GET / HTTP/1.1", host: bytes | None = b"Host: h") -> bytes:
    lines = [line, *([] if host is None else [host]), *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def post(*fields: bytes, body: bytes = b"", line: bytes = b"POST / HTTP/1.1") -> bytes:
    return get(*fields, line=line) + body


def chunked(body: bytes, *fields: bytes) -> bytes:
    return post(b"Transfer-Encoding: chunked", *fields, body=body)


PLAIN = ["GET / 1.1 h none", "end"]
CHUNKED = "POST / 1.1 h chunked"

ACCEPTED: list[Row] = [
    ("plain", get(), PLAIN),
    ("empty field value", get(b"X-Empty:"), PLAIN),
    ("blanks around a value", get(b"X-A: \t b \t "), PLAIN),
    ("obs-text in a value", get(b"X-A: caf\xe9"), PLAIN),
    ("one blank line before", b"\r\n" + get(), PLAIN),
    ("two blank lines before", b"\r\n\r\n" + get(), PLAIN),
    ("pipelined", get() + get(line=b"GET /2 HTTP/1.1"), [*PLAIN, "GET /2 1.1 h none", "end"]),
    ("blank line between", get() + b"\r\n" + get(), PLAIN + PLAIN),
    ("body, then pipelined", post(b"Content-Length: 3", body=b"abc") + get(),
     ["POST / 1.1 h length=3", "data abc", "end", *PLAIN]),
    ("length 0", post(b"Content-Length: 0"), ["POST / 1.1 h length=0", "end"]),
    ("length with leading zeros", post(b"Content-Length: 003", body=b"abc"),
     ["POST / 1.1 h length=3", "data abc", "end"]),
    ("body with CR LF in it", post(b"Content-Length: 4", body=b"\r\n\r\n"),
     ["POST / 1.1 h length=4", "data \r\n\r\n", "end"]),
    ("body that looks like a request", post(b"Content-Length: %d" % len(NEXT), body=NEXT),
     [f"POST / 1.1 h length={len(NEXT)}", "data " + NEXT.decode(), "end"]),
    ("field names in any case", get(b"cOnTeNt-LeNgTh: 0"), ["GET / 1.1 h length=0", "end"]),
    ("close", get(b"Connection: close"), ["GET / 1.1 h none close", "end"]),
    ("close in a list", get(b"Connection: foo, Close"), ["GET / 1.1 h none close", "end"]),
    ("close in a second field", get(b"Connection: keep-alive", b"Connection: close"),
     ["GET / 1.1 h none close", "end"]),
    ("keep-alive", get(b"Connection: keep-alive"), PLAIN),
    ("upgrade is an ordinary request", get(b"Connection: Upgrade", b"Upgrade: websocket"), PLAIN),
    ("h2c is an ordinary request", get(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAM"),
     PLAIN),
    ("1.0 with Host", get(line=b"GET / HTTP/1.0"), ["GET / 1.0 h none close", "end"]),
    ("1.0 without Host", get(line=b"GET / HTTP/1.0", host=None), ["GET / 1.0 - none close", "end"]),
    ("1.0 with keep-alive closes", get(b"Connection: keep-alive", line=b"GET / HTTP/1.0"),
     ["GET / 1.0 h none close", "end"]),
    ("1.0 with length", post(b"Content-Length: 2", body=b"ab", line=b"POST / HTTP/1.0"),
     ["POST / 1.0 h length=2 close", "data ab", "end"]),
    ("1.0 ignores Expect", post(b"Content-Length: 1", b"Expect: 100-continue", body=b"a", line=b"POST / HTTP/1.0"),
     ["POST / 1.0 h length=1 close", "data a", "end"]),
    ("expect", post(b"Content-Length: 1", b"Expect: 100-Continue", body=b"a"),
     ["POST / 1.1 h length=1 expect", "data a", "end"]),
    ("expect without a body", get(b"Expect: 100-continue"), PLAIN),
    ("absolute form", get(line=b"GET http://h/a HTTP/1.1"), ["GET http://h/a 1.1 h none absolute", "end"]),
    ("absolute form in capitals", get(line=b"GET HTTP://H/a HTTP/1.1"), ["GET HTTP://H/a 1.1 H none absolute", "end"]),
    ("absolute form, 1.0, no Host", get(line=b"GET http://h:8/ HTTP/1.0", host=None),
     ["GET http://h:8/ 1.0 h:8 none absolute close", "end"]),
    ("absolute form without a path", get(line=b"GET http://h HTTP/1.1"), ["GET http://h 1.1 h none absolute", "end"]),
    ("asterisk", get(line=b"OPTIONS * HTTP/1.1"), ["OPTIONS * 1.1 h none asterisk", "end"]),
    ("CONNECT is read, to be refused with 405", get(line=b"CONNECT h:443 HTTP/1.1"),
     ["CONNECT h:443 1.1 h none authority", "end"]),
    ("odd method", get(line=b"M-SEARCH / HTTP/1.1"), ["M-SEARCH / 1.1 h none", "end"]),
    ("methods are case-sensitive", get(line=b"get / HTTP/1.1"), ["get / 1.1 h none", "end"]),
    ("host with port", get(host=b"Host: h:8080"), ["GET / 1.1 h:8080 none", "end"]),
    ("host is an IPv6 address", get(host=b"Host: [fd00::1]:80"), ["GET / 1.1 [fd00::1]:80 none", "end"]),
    ("host in capitals", get(host=b"HOST: WEB.Default"), ["GET / 1.1 WEB.Default none", "end"]),
    ("host with an underscore", get(host=b"Host: a_b.c"), ["GET / 1.1 a_b.c none", "end"]),
    ("host with a final dot", get(host=b"Host: web."), ["GET / 1.1 web. none", "end"]),
    ("a hundred fields", get(*[b"X-%d: a" % i for i in range(99)]), PLAIN),
    ("chunked", chunked(b"3\r\nabc\r\n0\r\n\r\n"), [CHUNKED, "data abc", "end"]),
    ("no chunks", chunked(b"0\r\n\r\n"), [CHUNKED, "end"]),
    ("several chunks", chunked(b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n") + get(), [CHUNKED, "data abc", "end", *PLAIN]),
    ("chunk size with leading zeros", chunked(b"0003\r\nabc\r\n000\r\n\r\n"), [CHUNKED, "data abc", "end"]),
    ("chunk size in capitals", chunked(b"A\r\n0123456789\r\n0\r\n\r\n"), [CHUNKED, "data 0123456789", "end"]),
    ("chunk holds CR LF", chunked(b"4\r\n\r\n\r\n\r\n0\r\n\r\n"), [CHUNKED, "data \r\n\r\n", "end"]),
    ("chunk extension", chunked(b"1;a=b;c;d=\"e f\"\r\nx\r\n0;z\r\n\r\n"), [CHUNKED, "data x", "end"]),
    ("trailer", chunked(b"1\r\nx\r\n0\r\nX-Sum: 1\r\n\r\n"), [CHUNKED, "data x", "end X-Sum=1"]),
    ("unsafe trailers go no further",
     chunked(b"0\r\nCookie: a\r\nX-B: 2\r\nAuthorization: b\r\nContent-Type: c\r\n\r\n"),
     [CHUNKED, "end X-B=2"]),
    ("expect with chunks", chunked(b"0\r\n\r\n", b"Expect: 100-continue"), ["POST / 1.1 h chunked expect", "end"]),
]  # fmt: skip


def refused(reason: str, status: int = 400) -> list[str]:
    return [f"error {reason} {status}"]


def after_head(reason: str, status: int = 400, *before: str) -> list[str]:
    return [CHUNKED, *before, f"error {reason} {status}"]


LINES: list[Row] = [
    ("bare LF everywhere", b"GET / HTTP/1.1\nHost: h\n\n", refused("bare_lf")),
    ("bare LF after the request line", b"GET / HTTP/1.1\nHost: h\r\n\r\n", refused("bare_lf")),
    ("bare LF after a field", b"GET / HTTP/1.1\r\nHost: h\nX: y\r\n\r\n", refused("bare_lf")),
    ("bare LF for the blank line", b"GET / HTTP/1.1\r\nHost: h\r\n\n", refused("bare_lf")),
    ("LF LF hides a second head", b"GET / HTTP/1.1\r\nHost: h\n\nGET /x HTTP/1.1\r\nHost: h\r\n\r\n",
     refused("bare_lf")),
    ("LF before the request", b"\n" + get(), refused("bare_lf")),
    ("CR before the request", b"\r" + get(), refused("bare_cr")),
    ("CR CR LF", b"GET / HTTP/1.1\r\r\nHost: h\r\n\r\n", refused("bare_cr")),
    ("bare CR in a value", get(b"X: a\rb"), refused("bare_cr")),
    ("bare CR hides a field", get(b"X: a\rContent-Length: 5"), refused("bare_cr")),
    ("bare CR in the request line", get(line=b"GET /\rx HTTP/1.1"), refused("bare_cr")),
    ("bare CR before the colon", get(b"X\r: a"), refused("bare_cr")),
    ("three blank lines before", b"\r\n\r\n\r\n" + get(), refused("too_many_blank_lines")),
    ("blank before the request", b" " + get(), refused("bad_request_line")),
    ("tab before the request", b"\t" + get(), refused("bad_request_line")),
    ("NUL in a value", get(b"X: a\x00b"), refused("nul")),
    ("NUL in a name", get(b"X\x00: a"), refused("nul")),
    ("NUL in the target", get(line=b"GET /\x00 HTTP/1.1"), refused("nul")),
    ("NUL at the start", b"\x00" + get(), refused("nul")),
    ("vertical tab in a value", get(b"X: \x0b"), refused("control_octet")),
    ("form feed before chunked", get(b"Transfer-Encoding:\x0cchunked"), refused("control_octet")),
    ("DEL in a value", get(b"X: \x7f"), refused("control_octet")),
    ("escape in a value", get(b"X: \x1b[2J"), refused("control_octet")),
    ("backspace in a name", get(b"X\x08: a"), refused("control_octet")),
    ("TLS client hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", refused("control_octet")),
    ("Kafka request", b"\x00\x00\x00\x10\x00\x12\x00\x03", refused("nul")),
    ("TAB between method and target", get(line=b"GET\t/ HTTP/1.1"), refused("bad_request_line")),
    ("two blanks after the method", get(line=b"GET  / HTTP/1.1"), refused("bad_request_line")),
    ("two blanks before the version", get(line=b"GET /  HTTP/1.1"), refused("bad_request_line")),
    ("blank after the version", get(line=b"GET / HTTP/1.1 "), refused("bad_request_line")),
    ("blank in the target", get(line=b"GET /a b HTTP/1.1"), refused("bad_request_line")),
    ("tab in the target", get(line=b"GET /a\tb HTTP/1.1"), refused("bad_request_line")),
    ("no-break space in the request line", get(line=b"GET\xa0/ HTTP/1.1"), refused("bad_request_line")),
    ("non-ASCII in the target", get(line=b"GET /caf\xe9 HTTP/1.1"), refused("bad_request_line")),
    ("UTF-8 in the target", get(line="GET /é HTTP/1.1".encode()), refused("bad_request_line")),
    ("no target", get(line=b"GET HTTP/1.1"), refused("bad_request_line")),
    ("empty target", get(line=b"GET  HTTP/1.1"), refused("bad_request_line")),
    ("no version (HTTP/0.9)", get(line=b"GET /"), refused("bad_request_line")),
    ("no method", get(line=b" / HTTP/1.1"), refused("bad_request_line")),
    ("method is not a token", get(line=b"G(T / HTTP/1.1"), refused("bad_request_line")),
    ("method with a colon", get(line=b"GET: / HTTP/1.1"), refused("bad_request_line")),
    ("non-ASCII method", get(line=b"G\xc9T / HTTP/1.1"), refused("bad_request_line")),
    ("two versions", get(line=b"GET / HTTP/1.1 HTTP/1.1"), refused("bad_request_line")),
    ("version in small letters", get(line=b"GET / http/1.1"), refused("bad_request_line")),
    ("version without a minor", get(line=b"GET / HTTP/1"), refused("bad_request_line")),
    ("version with two digits", get(line=b"GET / HTTP/1.10"), refused("bad_request_line")),
    ("version with a leading zero", get(line=b"GET / HTTP/01.1"), refused("bad_request_line")),
    ("version with a blank", get(line=b"GET / HTTP/ 1.1"), refused("bad_request_line")),
    ("another protocol", get(line=b"GET / ICAP/1.0"), refused("bad_request_line")),
    ("RTSP", get(line=b"OPTIONS * RTSP/1.0"), refused("bad_request_line")),
    ("version 0.9", get(line=b"GET / HTTP/0.9"), refused("bad_version", 505)),
    ("version 1.2", get(line=b"GET / HTTP/1.2"), refused("bad_version", 505)),
    ("version 2.0", get(line=b"GET / HTTP/2.0"), refused("bad_version", 505)),
    ("version 9.9", get(line=b"GET / HTTP/9.9"), refused("bad_version", 505)),
    ("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", refused("bad_version", 505)),
    ("obs-fold with blank", get(b"X: a", b" b"), refused("obs_fold")),
    ("obs-fold with tab", get(b"X: a", b"\tb"), refused("obs_fold")),
    ("obs-fold hides chunked", get(b"X: a", b" Transfer-Encoding: chunked"), refused("obs_fold")),
    ("obs-fold of chunked", get(b"Transfer-Encoding:", b" chunked"), refused("obs_fold")),
    ("blank before the first field", b"GET / HTTP/1.1\r\n Host: h\r\n\r\n", refused("obs_fold")),
    ("line of blanks", get(b"  "), refused("obs_fold")),
    ("blank before the colon", get(b"Content-Length : 5"), refused("space_before_colon")),
    ("tab before the colon", get(b"Transfer-Encoding\t: chunked"), refused("space_before_colon")),
    ("blank before the colon of Host", get(host=b"Host : h"), refused("space_before_colon")),
    ("no colon", get(b"X-Nothing"), refused("bad_field_name")),
    ("no name", get(b": value"), refused("bad_field_name")),
    ("blank in a name", get(b"X Y: a"), refused("bad_field_name")),
    ("non-ASCII name", get(b"X-\xe9: a"), refused("bad_field_name")),
    ("bracket in a name", get(b"X[a]: b"), refused("bad_field_name")),
    ("quote in a name", get(b'"Content-Length": 5'), refused("bad_field_name")),
    ("slash in a name", get(b"X/Y: a"), refused("bad_field_name")),
    ("request line twice", get(b"GET / HTTP/1.1"), refused("bad_field_name")),
    ("head over 16 KiB", get(b"X: " + b"a" * 16_400), refused("head_too_long", 431)),
    ("head over 16 KiB without an end", b"GET /" + b"a" * 16_400, refused("head_too_long", 431)),
    ("control in a head over 16 KiB", b"GET /\x01" + b"a" * 16_400, refused("control_octet")),
    ("control beyond 16 KiB", b"GET /" + b"a" * 16_400 + b"\x01", refused("head_too_long", 431)),
    ("101 fields", get(*[b"X-%d: a" % i for i in range(100)]), refused("too_many_fields", 431)),
]  # fmt: skip

MEANING: list[Row] = [
    ("no Host in 1.1", get(host=None), refused("no_host")),
    ("two Hosts", get(b"Host: h"), refused("two_hosts")),
    ("two different Hosts", get(b"host: other"), refused("two_hosts")),
    ("two Hosts in 1.0", get(b"Host: h", line=b"GET / HTTP/1.0"), refused("two_hosts")),
    ("empty Host", get(host=b"Host:"), refused("bad_host")),
    ("userinfo in Host", get(host=b"Host: a@b"), refused("bad_host")),
    ("path in Host", get(host=b"Host: h/admin"), refused("bad_host")),
    ("query in Host", get(host=b"Host: h?a"), refused("bad_host")),
    ("fragment in Host", get(host=b"Host: h#a"), refused("bad_host")),
    ("backslash in Host", get(host=b"Host: h\\x"), refused("bad_host")),
    ("blank in Host", get(host=b"Host: a b"), refused("bad_host")),
    ("list in Host", get(host=b"Host: a, b"), refused("bad_host")),
    ("URL in Host", get(host=b"Host: http://h"), refused("bad_host")),
    ("non-ASCII Host", get(host=b"Host: caf\xe9"), refused("bad_host")),
    ("percent in Host", get(host=b"Host: %68"), refused("bad_host")),
    ("port without digits", get(host=b"Host: h:"), refused("bad_host")),
    ("port with letters", get(host=b"Host: h:80a"), refused("bad_host")),
    ("port too large", get(host=b"Host: h:65536"), refused("bad_host")),
    ("two ports", get(host=b"Host: h:80:80"), refused("bad_host")),
    ("signed port", get(host=b"Host: h:+80"), refused("bad_host")),
    ("two dots in Host", get(host=b"Host: a..b"), refused("bad_host")),
    ("Host begins with a dot", get(host=b"Host: .b"), refused("bad_host")),
    ("open bracket", get(host=b"Host: [::1"), refused("bad_host")),
    ("no IPv6 address in brackets", get(host=b"Host: [1.2.3.4]"), refused("bad_host")),
    ("too many colons in brackets", get(host=b"Host: [::1::]"), refused("bad_host")),
    ("IPv6 without brackets", get(host=b"Host: ::1"), refused("bad_host")),
    ("zone in an IPv6 address", get(host=b"Host: [fe80::1%25eth0]"), refused("bad_host")),
    ("bad Host in 1.0", get(host=b"Host: a@b", line=b"GET / HTTP/1.0"), refused("bad_host")),
    ("Host differs from the target", get(line=b"GET http://other/ HTTP/1.1"), refused("host_differs")),
    ("Host differs in the port", get(line=b"GET http://h:80/ HTTP/1.1"), refused("host_differs")),
    ("absolute form needs Host too", get(line=b"GET http://h/ HTTP/1.1", host=None), refused("no_host")),
    ("userinfo in the target", get(line=b"GET http://u:p@h/ HTTP/1.1"), refused("bad_target")),
    ("userinfo that looks like a host", get(line=b"GET http://h@evil/ HTTP/1.1"), refused("bad_target")),
    ("backslash in the authority", get(line=b"GET http://h\\@evil/ HTTP/1.1"), refused("bad_target")),
    ("no authority", get(line=b"GET http:///a HTTP/1.1"), refused("bad_target")),
    ("one slash", get(line=b"GET http:/h/a HTTP/1.1"), refused("bad_target")),
    ("https over plain text", get(line=b"GET https://h/ HTTP/1.1"), refused("bad_target")),
    ("another scheme", get(line=b"GET ftp://h/ HTTP/1.1"), refused("bad_target")),
    ("scheme alone", get(line=b"GET http: HTTP/1.1"), refused("bad_target")),
    ("path without a slash", get(line=b"GET admin HTTP/1.1"), refused("bad_target")),
    ("query alone", get(line=b"GET ?a HTTP/1.1"), refused("bad_target")),
    ("dot for a target", get(line=b"GET ./admin HTTP/1.1"), refused("bad_target")),
    ("authority form outside CONNECT", get(line=b"GET h:80 HTTP/1.1"), refused("bad_target")),
    ("asterisk outside OPTIONS", get(line=b"GET * HTTP/1.1"), refused("bad_target")),
    ("asterisk and more", get(line=b"OPTIONS */a HTTP/1.1"), refused("bad_target")),
    ("OPTIONS for a host without a path", get(line=b"OPTIONS http://h HTTP/1.1"), refused("bad_target")),
    ("CONNECT with a path", get(line=b"CONNECT /a HTTP/1.1"), refused("bad_target")),
    ("CONNECT with a URL", get(line=b"CONNECT http://h/ HTTP/1.1"), refused("bad_target")),
    ("Connection names Host", get(b"Connection: host"), refused("bad_connection_option")),
    ("Connection names Content-Length", post(b"Content-Length: 1", b"Connection: content-length", body=b"a"),
     refused("bad_connection_option")),
    ("Connection names Transfer-Encoding", get(b"Connection: close, Transfer-Encoding"),
     refused("bad_connection_option")),
    ("Connection names Authorization", get(b"Connection: keep-alive", b"Connection: Authorization"),
     refused("bad_connection_option")),
    ("Connection names Cookie", get(b"Connection: COOKIE"), refused("bad_connection_option")),
    ("Connection names X-Forwarded-For", get(b"Connection: x-forwarded-for"), refused("bad_connection_option")),
    ("Connection names Content-Type", get(b"Connection: content-type"), refused("bad_connection_option")),
    ("Connection names itself", get(b"Connection: connection"), refused("bad_connection_option")),
    ("Connection option is no token", get(b"Connection: a b"), refused("bad_connection_option")),
    ("Connection option in quotes", get(b'Connection: "close"'), refused("bad_connection_option")),
    ("unknown expectation", post(b"Content-Length: 1", b"Expect: tea", body=b"a"), refused("bad_expect", 417)),
    ("obfuscated expectation", post(b"Content-Length: 1", b"Expect: y 100-continue", body=b"a"),
     refused("bad_expect", 417)),
    ("expectation with a parameter", post(b"Content-Length: 1", b"Expect: 100-continue;a", body=b"a"),
     refused("bad_expect", 417)),
    ("list of expectations", post(b"Content-Length: 1", b"Expect: 100-continue, x", body=b"a"),
     refused("bad_expect", 417)),
    ("empty expectation", get(b"Expect:"), refused("bad_expect", 417)),
    ("two expectations", post(b"Content-Length: 1", b"Expect: 100-continue", b"Expect: 100-continue", body=b"a"),
     refused("bad_expect", 417)),
]  # fmt: skip

CHUNKS: list[Row] = [
    ("chunk size 0x", chunked(b"0x3\r\nabc\r\n0\r\n\r\n"), after_head("bad_chunk_size")),
    ("chunk size with plus", chunked(b"+3\r\nabc\r\n0\r\n\r\n"), after_head("bad_chunk_size")),
    ("chunk size with minus", chunked(b"-3\r\nabc\r\n0\r\n\r\n"), after_head("bad_chunk_size")),
    ("chunk size with underscore", chunked(b"1_0\r\nabc\r\n0\r\n\r\n"), after_head("bad_chunk_size")),
    ("chunk size is no hex", chunked(b"xyz\r\n"), after_head("bad_chunk_size")),
    ("chunk size is missing", chunked(b"\r\nabc\r\n"), after_head("bad_chunk_size")),
    ("blank before the size", chunked(b" 3\r\nabc\r\n0\r\n\r\n"), after_head("bad_chunk_size")),
    ("blank after the size", chunked(b"3 \r\nabc\r\n0\r\n\r\n"), after_head("bad_chunk_size")),
    ("tab after the size", chunked(b"3\t\r\nabc\r\n0\r\n\r\n"), after_head("bad_chunk_size")),
    ("size in full-width digits", chunked(b"\xef\xbc\x93\r\nabc\r\n"), after_head("bad_chunk_size")),
    ("size of 16 digits", chunked(b"0000000000000003\r\nabc\r\n"), after_head("bad_chunk_size")),
    ("size over 64 bits", chunked(b"10000000000000003\r\nabc\r\n"), after_head("bad_chunk_size")),
    ("size with a comma", chunked(b"3,3\r\nabc\r\n"), after_head("bad_chunk_size")),
    ("bare LF after the size", chunked(b"3\nabc\r\n0\r\n\r\n"), after_head("bare_lf")),
    ("bare LF before a size", chunked(b"\n3\r\nabc\r\n0\r\n\r\n"), after_head("bare_lf")),
    ("bare CR after the size", chunked(b"3\rabc\r\n0\r\n\r\n"), after_head("bare_cr")),
    ("NUL after the size", chunked(b"3\x00\r\nabc\r\n"), after_head("nul")),
    ("bare LF in an extension", chunked(b"3;a\nabc\r\n0\r\n\r\n"), after_head("bare_lf")),
    ("bare LF in a quoted extension", chunked(b'3;a="\n"\r\nabc\r\n0\r\n\r\n'), after_head("bare_lf")),
    ("bare CR in an extension", chunked(b"3;a\rb\r\nabc\r\n0\r\n\r\n"), after_head("bare_cr")),
    ("extension without a name", chunked(b"3;\r\nabc\r\n0\r\n\r\n"), after_head("bad_chunk_extension")),
    ("extension with a blank", chunked(b"3; a=b\r\nabc\r\n0\r\n\r\n"), after_head("bad_chunk_extension")),
    ("blank before an extension", chunked(b"3 ;a=b\r\nabc\r\n0\r\n\r\n"), after_head("bad_chunk_extension")),
    ("open quote in an extension", chunked(b'3;a="b\r\nabc\r\n0\r\n\r\n'), after_head("bad_chunk_extension")),
    ("quoted pair in an extension", chunked(b'3;a="\\""\r\nabc\r\n0\r\n\r\n'), after_head("bad_chunk_extension")),
    ("chunk line too long", chunked(b"3;" + b"a" * 300 + b"\r\nabc\r\n"), after_head("chunk_line_too_long")),
    ("chunk line without an end", chunked(b"3;" + b"a" * 300), after_head("chunk_line_too_long")),
    ("too many extensions", chunked((b"1;" + b"a" * 200 + b"\r\nx\r\n") * 90),
     after_head("chunk_extensions_too_long", 400, "data " + "x" * 81)),
    ("chunk longer than its size", chunked(b"3\r\nabcd\r\n0\r\n\r\n"), after_head("bad_chunk_end", 400, "data abc")),
    ("chunk ends with LF", chunked(b"3\r\nabc\n0\r\n\r\n"), after_head("bad_chunk_end", 400, "data abc")),
    ("chunk ends with CR", chunked(b"3\r\nabc\r0\r\n\r\n"), after_head("bad_chunk_end", 400, "data abc")),
    ("chunk ends with CR CR LF", chunked(b"3\r\nabc\r\r\n0\r\n\r\n"), after_head("bad_chunk_end", 400, "data abc")),
    ("chunk without an end", chunked(b"3\r\nabc0\r\n\r\n"), after_head("bad_chunk_end", 400, "data abc")),
    ("chunk shorter than its size", chunked(b"5\r\nabc\r\n0\r\n\r\n"),
     after_head("bad_chunk_end", 400, "data abc\r\n")),
    ("bare LF in trailers", chunked(b"0\r\nX: a\n\r\n"), after_head("bare_lf")),
    ("LF after the last chunk", chunked(b"0\r\n\n"), after_head("bare_lf")),
    ("obs-fold in trailers", chunked(b"0\r\nX: a\r\n b\r\n\r\n"), after_head("obs_fold")),
    ("blank before the colon in trailers", chunked(b"0\r\nX : a\r\n\r\n"), after_head("space_before_colon")),
    ("trailer without a colon", chunked(b"0\r\nX\r\n\r\n"), after_head("bad_field_name")),
    ("request in trailers", chunked(b"0\r\nGET /x HTTP/1.1\r\nHost: h\r\n\r\n"), after_head("bad_field_name")),
    ("NUL in trailers", chunked(b"0\r\nX: \x00\r\n\r\n"), after_head("nul")),
    ("length in trailers", chunked(b"0\r\nContent-Length: 5\r\n\r\n"), after_head("bad_trailer")),
    ("coding in trailers", chunked(b"0\r\nTransfer-Encoding: chunked\r\n\r\n"), after_head("bad_trailer")),
    ("Host in trailers", chunked(b"0\r\nHost: evil\r\n\r\n"), after_head("bad_trailer")),
    ("trailers too long", chunked(b"0\r\nX: " + b"a" * 9000 + b"\r\n\r\n"), after_head("trailers_too_long", 431)),
    ("too many trailers", chunked(b"0\r\n" + b"X: a\r\n" * 101 + b"\r\n"), after_head("too_many_fields", 431)),
]  # fmt: skip

# Rows that end with the connection.
CLOSED: list[Row] = [
    ("nothing", b"", ["closed"]),
    ("after a blank line", b"\r\n", ["closed"]),
    ("after a request: half-close", get(), [*PLAIN, "closed"]),
    ("after pipelined requests", get() + get(), [*PLAIN, *PLAIN, "closed"]),
    ("after a last request", get(b"Connection: close"), ["GET / 1.1 h none close", "end", "closed"]),
    ("in the request line", b"GET /", refused("closed_early")),
    ("after CR", b"GET / HTTP/1.1\r", refused("closed_early")),
    ("before the blank line", b"GET / HTTP/1.1\r\nHost: h\r\n", refused("closed_early")),
    ("in a second request", get() + b"GET", [*PLAIN, *refused("closed_early")]),
    ("in a body", post(b"Content-Length: 5", body=b"abc"),
     ["POST / 1.1 h length=5", "data abc", *refused("closed_early")]),
    ("before a body", post(b"Content-Length: 5"), ["POST / 1.1 h length=5", *refused("closed_early")]),
    ("before a chunk", chunked(b""), after_head("closed_early")),
    ("in a chunk size", chunked(b"3"), after_head("closed_early")),
    ("before chunk data", chunked(b"3\r\n"), after_head("closed_early")),
    ("in a chunk", chunked(b"3\r\nab"), after_head("closed_early", 400, "data ab")),
    ("after chunk data", chunked(b"3\r\nabc"), after_head("closed_early", 400, "data abc")),
    ("after CR of chunk data", chunked(b"3\r\nabc\r"), after_head("closed_early", 400, "data abc")),
    ("after a chunk", chunked(b"3\r\nabc\r\n"), after_head("closed_early", 400, "data abc")),
    ("before the trailers", chunked(b"0\r\n"), after_head("closed_early")),
    ("in the trailers", chunked(b"0\r\nX: a\r\n"), after_head("closed_early")),
]  # fmt: skip


def ids(rows: list[Row]) -> list[str]:
    names = [name for name, _, _ in rows]
    assert len(set(names)) == len(names)
    return names


@pytest.mark.parametrize(("name", "data", "expected"), ACCEPTED, ids=ids(ACCEPTED))
def test_accepted(name: str, data: bytes, expected: list[str]) -> None:
    assert feed(read_requests, data, eof=False) == expected
    trailing = [] if expected[0].endswith(" close") else NEXT_LINES
    assert feed(read_requests, data + NEXT, eof=False) == expected + trailing


HOSTILE = LINES + MEANING + CHUNKS


@pytest.mark.parametrize(("name", "data", "expected"), HOSTILE, ids=ids(HOSTILE))
def test_refused(name: str, data: bytes, expected: list[str]) -> None:
    assert feed(read_requests, data, eof=False) == expected
    assert feed(read_requests, data + NEXT, eof=False) == expected
    assert feed(read_requests, data, eof=True) == expected
    assert feed(read_requests, NEXT + data, eof=False) == NEXT_LINES + expected


@pytest.mark.parametrize(("name", "data", "expected"), CLOSED, ids=ids(CLOSED))
def test_closed(name: str, data: bytes, expected: list[str]) -> None:
    assert feed(read_requests, data, eof=True) == expected


def test_the_table_is_as_long_as_promised() -> None:
    assert len(HOSTILE) >= 150
