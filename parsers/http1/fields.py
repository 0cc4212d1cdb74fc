"""Which fields go on to the other side."""

from parsers.http1.events import Fields, InformationalHead, RequestHead, ResponseHead


def forwarded_request_fields(head: RequestHead) -> Fields:
    """The fields to judge and to send upstream, in order and as spelled.

    Dropped: Connection and what it names, Keep-Alive, Proxy-*, TE (but `trailers`), Upgrade, HTTP2-Settings, and Expect
    from HTTP/1.0. Added: Host, when only the target named the authority. Content-Length and Transfer-Encoding stay in
    their place; `send_request` writes their values from the framing.
    """
    raise NotImplementedError


def forwarded_response_fields(head: ResponseHead | InformationalHead) -> Fields:
    """The fields to send downstream, in order and as spelled; hop-by-hop ones are dropped."""
    raise NotImplementedError
