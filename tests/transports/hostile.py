"""A client of the ZeroMQ transports that opens as it should, and then says what it likes."""

from __future__ import annotations

import random

import zmq

from symbiosis_core.ids import Token
from symbiosis_transports.zmq_rows.messages import VERSION, Open, encode

NOISE = (b"GET / HTTP/1.1\r\n\r\n", bytes(300), random.Random(1).randbytes(3000))
"""What is not ZeroMQ."""


def hostile(endpoint: str, *messages: list[bytes]) -> list[bytes]:
    """Says messages after a good opening, and returns the last thing that the daemon says."""
    context = zmq.Context()
    sock = context.socket(zmq.DEALER)
    sock.setsockopt(zmq.LINGER, 0)
    sock.connect(endpoint)
    try:
        sock.send(encode(Open(VERSION, Token("good"))))
        assert sock.poll(10_000)
        sock.recv_multipart()
        for message in messages:
            sock.send_multipart(message)
        assert sock.poll(10_000), "nothing was said"
        return sock.recv_multipart()
    finally:
        sock.close()
        context.term()
