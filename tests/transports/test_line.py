"""A client's line closes in a forked child what is its own, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import zmq

from symbiosis_transports.peers import sender_of
from symbiosis_transports.zmq_rows import line as lines
from symbiosis_transports.zmq_rows.line import Line


@pytest.mark.parametrize(("device", "closed"), [(8, True), (9, False)])
def test_a_file_with_the_number_of_the_connections_inode_is_left_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: int, closed: bool
) -> None:
    """Numbers are a device's own: the descriptor may have been given to a file on another one since."""
    line = Line(f"ipc://{tmp_path}/d.sock", most_bytes=1)
    reading, writing = os.pipe()  # whose other end tells whether one is open: numbers are soon somebody else's
    os.set_blocking(reading, False)
    with monkeypatch.context() as system:
        system.setattr(os, "fstat", lambda _: os.stat_result((0, 77, 8, 1, 0, 0, 0, 0, 0, 0)))
        line._connection = lines._identified(writing)
        system.setattr(os, "fstat", lambda _: os.stat_result((0, 77, device, 1, 0, 0, 0, 0, 0, 0)))
        line.forget_in_child()
    line.close()
    if closed:
        assert os.read(reading, 1) == b""
    else:
        with pytest.raises(BlockingIOError):
            os.read(reading, 1)
        os.close(writing)
    os.close(reading)


def test_whom_it_has_reached_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a connection has one other end, and every answer would pay for the question."""
    asked: list[str] = []

    def ask(frame: zmq.Frame) -> str:
        asked.append(sender_of(frame))
        return asked[-1]

    monkeypatch.setattr(lines, "sender_of", ask)
    endpoint = f"ipc://{tmp_path}/d.sock"
    with zmq.Context() as context, context.socket(zmq.ROUTER) as door:
        door.bind(endpoint)
        line = Line(endpoint, most_bytes=64)
        line.send([b"hello"], 20)
        name, _ = door.recv_multipart()
        for _ in range(2):
            door.send_multipart([name, b"hello"])
            line.receive(20)
        line.close()
    assert asked == [line.peer] != [""]
