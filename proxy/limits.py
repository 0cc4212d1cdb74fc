"""Every bound of the data plane with its default and its defence. Crossing one is counted and recorded."""

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True)
class Limits:
    """Times in seconds, sizes in bytes. A time above 1.28 s may end up to 1.28 s late: one wheel turns for all.

    head_bytes: request or response head. 16 KiB is what h11, Apache and Node use, and twice what nginx gives one field.
        Crossing it: 431 and close (a response: 502).
    headers: fields of one head. Browsers send about 20; 100 bounds what one head may cost to judge. Crossing: 431.
    head_read_s: from the first byte of a request head to its last. A head is one packet or two; slowloris sends a byte
        a minute. Crossing: 408 and close.
    detect_s: where only policies in mode audit judge requests and a client has sent no whole head after this, the
        server is thought to speak first, and the connection passes unparsed: mode audit never blocks. HTTP clients send
        their first request at once, or keep the connection for later, which then is recorded as one that was not
        judged.
    idle_s: nothing moved on a connection in either direction: between requests, while a response is awaited, in a body.
        An hour, as long polls and database-like keep-alive pools are legitimate and an idle connection costs few KiB.
        It is also the longest wait for a response's first byte. Crossing: close; 504 when a response was awaited.
    connect_s: until the upstream leg stands, all tries together. 5 s outlives one lost SYN (1 s) and its retry (3 s).
        Crossing: 504.
    clash_s: until a loopback SYN is taken for a clash of 4-tuples; doubled from the third try on, as a full backlog of
        the application looks the same and must not eat the stock of prepared sockets.
    linger_s, linger_bytes: after a final answer to a client that may still be sending: how long and how much is read
        and thrown away, so that our close does not turn into a reset that destroys the answer (RFC 9112 9.6).
    drain_body_bytes: body of a denied request that is read and thrown away to keep the connection usable. More: close.
    high_water, low_water: unsent bytes at which reading of the other side stops and goes on. 256 KiB fills a 1 ms path
        of 2 Gbit/s; both directions of a stalled flow hold at most this and one read each.
    read_bytes, bulk_read_bytes: one read; the second once a read came back full. 64 KiB stays below malloc's mmap
    threshold.
    relay_bytes: a plain body of which so much is to come is moved from socket to socket once reads come back full.
    connections_per_endpoint: of one pod. 20,000 connections of 40 KiB are 800 MiB: the most a node should spend on one
        pod. The agent gives each worker its share, as each counts its own. Crossing: 503 and close.
    max_lingering: connections of the whole worker in `linger_s`; above it they are reset.
    accept_batch: connections taken from one listener before other work gets its turn.
    accept_pause_s: how long accepting rests when the process has no descriptor or memory left.
    merge_slashes: repeated slashes of a path are one. Applications that tell `//` from `/` apart can switch it off.
    recognise: plain heads are recognised and go on as they came (`proxy/layers/recognised.py`); without it each is
        parsed and written anew. Both mean the same; the second costs three times as much.
    record_s: a forwarded request's record waits this long for the response's status, then goes out without it.
        `observe` promises a record within 1 s of its decision.
    kafka_pending: requests of one Kafka connection that may wait for their answers; above it the client is not read.
        Java keeps 5 (librdkafka: up to 1000) in flight, and each costs us 1 KiB.
    kafka_request_bytes: a request of any API but Produce. The largest that clients send name all partitions of a big
        group: 100,000 are 3 MiB. Crossing: record and close.
    kafka_produce_bytes: a Produce request. Brokers take 100 MiB (`socket.request.max.bytes`); what they would refuse is
        theirs to refuse a little beyond it. Crossing: record and close.
    kafka_hold_bytes: so much of a Produce request is kept before any of it goes on, so that a denial among several
        topics can be told topic by topic. It is the usual `max.request.size` of a producer. Above it the request
        streams, and a late denial costs the client its connection.
    kafka_answer_bytes: an answer that must be read whole to be narrowed: Metadata of 100,000 partitions is 6 MiB.
        Crossing: record and close.
    kafka_frame_s: from the first byte of a request that is kept to its last. 8 MiB in that time is 2 Mbit/s. Crossing:
        record and close.
    kafka_held_bytes: of unfinished frames, all connections of a worker together. Without it 20,000 connections that
        stop within a frame would keep 160 GB. Crossing: record and close, whoever asks for more.
    """

    head_bytes: int = 16 * KIB
    headers: int = 100
    head_read_s: float = 10.0
    detect_s: float = 1.0
    idle_s: float = 3600.0
    connect_s: float = 5.0
    clash_s: float = 0.1
    linger_s: float = 2.0
    linger_bytes: int = 1 * MIB
    drain_body_bytes: int = 64 * KIB
    high_water: int = 256 * KIB
    low_water: int = 64 * KIB
    read_bytes: int = 64 * KIB
    bulk_read_bytes: int = 256 * KIB
    relay_bytes: int = 128 * KIB
    connections_per_endpoint: int = 20_000
    max_lingering: int = 1_000
    accept_batch: int = 64
    accept_pause_s: float = 0.1
    merge_slashes: bool = True
    recognise: bool = True
    record_s: float = 0.5
    kafka_pending: int = 256
    kafka_request_bytes: int = 8 * MIB
    kafka_produce_bytes: int = 101 * MIB
    kafka_hold_bytes: int = 1 * MIB
    kafka_answer_bytes: int = 16 * MIB
    kafka_frame_s: float = 30.0
    kafka_held_bytes: int = 256 * MIB
