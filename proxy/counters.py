"""Counts of what one worker did and met. Names are append-only: status and tests read them."""

from typing import Final

NAMES: Final = (
    "accepted",  # connections taken from a listener
    "requests",  # request heads judged
    "denied",  # of them refused by policy
    "malformed",  # requests that cannot be read one way only
    "upstream_opened",  # legs that stood
    "upstream_failed",  # legs that were refused, timed out or could not be made
    "upstream_retried",  # requests sent again because an idle leg closed as they were sent
    "upstream_unsolicited",  # legs closed because bytes came without a request
    "leg_port_busy",  # leg ports that another connection held
    "leg_clash",  # loopback SYNs nobody answered: a 4-tuple in use elsewhere
    "leg_ports_exhausted",  # legs given up because no port was free
    "stock_empty",  # legs that had to wait for a prepared socket
    "dialled_listener",  # connections made straight to one of our listeners
    "peer_denied",  # connections that the kernel should have refused
    "opaque",  # connections copied without being parsed
    "denied_closed",  # connections closed because a new revision no longer allows them and a policy wants that
    "not_http",  # of connections that only audit policies judge: those passed unparsed
    "unjudged_protocol",  # closed: rules want a protocol judged that this version cannot judge
    "opaque_closed",  # of them closed because a new revision no longer allows it
    "limit_head",  # 431
    "limit_head_time",  # 408
    "limit_idle",  # closed for silence
    "limit_connect",  # 504 while connecting
    "limit_connections",  # 503, or a reset
    "limit_lingering",  # reset instead of lingering
    "accept_paused",  # no descriptors or memory left
    "internal_error",  # a flow ended by an exception of ours
    "kafka_hidden",  # resources left out of Kafka answers because policy does not show them
    "kafka_ids_asked",  # topic ids that a broker was asked about
    "kafka_ids_evicted",  # topic ids forgotten for want of room
    "kafka_ids_unasked",  # topic ids of one request beyond the number that is asked about; they count as unknown
    "kafka_late_denials",  # Produce requests denied when part of them had gone on
    "kafka_withdrawn",  # connections closed because an answer under way may hold a topic that is no longer allowed
    "kafka_sessions_refused",  # fetches sent back to begin a session anew
    "kafka_tls",  # TLS where Kafka requests were to be judged
    "limit_kafka_frame",  # frames above their size, or that took too long
    "limit_kafka_answer",  # answers too large to be read whole
    "limit_kafka_questions",  # requests that name too much to be judged
    "limit_kafka_held",  # closed because all connections together held too much of unfinished frames
)


type Counters = dict[str, int]


def new_counters() -> Counters:
    """All counts at zero. Counting an unknown name is a programming error and raises KeyError."""
    return dict.fromkeys(NAMES, 0)
