"""A connection to a broker on which a test says and reads trees."""

import socket
import struct
from typing import Any, Final

from parsers.kafka.codec import Tree
from parsers.kafka.frames import Request, decode_response, encode_request, framed
from parsers.kafka.table import TABLE

WAIT_S: Final = 30.0


class Closed(Exception):
    """The broker ended the connection."""


class Link:
    """One connection, as a user or as nobody."""

    def __init__(self, port: int, user: str = "") -> None:
        self._port, self._user = port, user
        self._socket: socket.socket | None = None
        self._correlation = 0

    def _open(self) -> socket.socket:
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port), WAIT_S)
            if self._user:
                self.say("SaslHandshake", 1, Mechanism="PLAIN")
                told = self.say("SaslAuthenticate", 2, AuthBytes=f"\0{self._user}\0{self._user}".encode())
                assert told["ErrorCode"] == 0, told
        return self._socket

    def close(self) -> None:
        """End it; the next word opens a new one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def say(self, api: str, version: int, /, **body: Any) -> Tree:
        """Send a request and read its answer.

        Raises:
            Closed: the broker ended the connection instead.
        """
        return self.call(TABLE.keys[api], version, body)

    def call(self, key: int, version: int, body: Tree, *, answered: bool = True) -> Tree:
        """The same by key. answered: False for acks=0: gives {} when the broker answers to the next request."""
        opened = self._open()
        self._correlation += 1
        opened.sendall(framed(encode_request(Request(key, version, self._correlation, "parity", body))))
        if not answered:
            return {}
        try:
            size = struct.unpack(">i", self._read(4))[0]
            frame = self._read(size)
        except ConnectionError:
            self.close()
            raise Closed from None
        response = decode_response(key, version, frame)
        assert response.correlation_id == self._correlation
        assert response.trailing == 0
        return response.body

    def _read(self, size: int) -> bytes:
        assert self._socket is not None
        data = b""
        while len(data) < size:
            more = self._socket.recv(size - len(data))
            if not more:
                raise ConnectionResetError
            data += more
        return data
