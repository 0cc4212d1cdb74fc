"""A pod before a real broker: the whole Kafka layer, with rules, between a client's requests and a socket."""

import socket
from typing import Final

from parsers.kafka.codec import Tree
from parsers.kafka.frames import Request, decode_response, encode_request, framed
from policies.ruleset import KafkaRule
from proxy.counters import new_counters
from proxy.kafka.apis import judge, refuse
from proxy.kafka.shared import Shared
from tests.kafka_parity.link import WAIT_S, Closed
from tests.proxy.dialogue import PORT
from tests.proxy.helpers import rules
from tests.proxy.kafka_talk import Talk, frames

CHUNK: Final = 1 << 16


class Pod:
    """One pod with rules, and its connection to a broker that asks nobody."""

    def __init__(self, port: int, kafka: tuple[KafkaRule, ...]) -> None:
        self._port = port
        self._engine = rules(port=PORT, kafka=kafka)
        self._shared = Shared(new_counters(), judge, refuse)
        self._talk: Talk | None = None
        self._socket: socket.socket | None = None
        self._told = self._sent = self._correlation = 0

    def close(self) -> None:
        """End the connection; the next request opens a new one."""
        if self._socket is not None:
            self._socket.close()
        self._socket = self._talk = None
        self._told = self._sent = 0

    def call(self, key: int, version: int, body: Tree) -> Tree:
        """Send a request and read its answer.

        Raises:
            Closed: the connection ended instead.
        """
        if self._talk is None or self._socket is None:
            self._talk = Talk(shared=self._shared)
            self._talk.box.swap(self._engine)
            self._socket = socket.create_connection(("127.0.0.1", self._port), WAIT_S)
        talk = self._talk
        self._correlation += 1
        talk.client(framed(encode_request(Request(key, version, self._correlation, "parity", body))))
        while True:
            self._send(talk)
            told = bytes(talk.edge.down[self._told :])
            if len(told) >= 4 and len(told) >= 4 + int.from_bytes(told[:4]):
                self._told = len(talk.edge.down)
                (frame,) = frames(told)
                response = decode_response(key, version, frame)
                assert response.correlation_id == self._correlation
                return response.body
            if talk.over:
                self.close()
                raise Closed
            more = self._socket.recv(CHUNK)
            if not more:
                self.close()
                raise Closed
            talk.broker(more)

    def _send(self, talk: Talk) -> None:
        """What the layer has for the broker."""
        assert self._socket is not None
        if talk.edge.legs:
            waiting = bytes(talk.edge.legs[-1][self._sent :])
            self._sent += len(waiting)
            self._socket.sendall(waiting)
