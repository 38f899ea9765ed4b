"""Who is at the other end is the kernel's word, or nobody."""

from __future__ import annotations

import os

import pytest
import zmq

from symbiosis_transports.peers import NOBODY_KNOWN, is_ours, sender_of, told_by_zeromq


def test_both_ends_of_a_zeromq_socket_are_told_who_the_other_is(tmp_path: object) -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as door, context.socket(zmq.DEALER) as line:
        door.bind(f"ipc://{tmp_path}/d.sock")
        line.connect(f"ipc://{tmp_path}/d.sock")
        line.send(b"hello")
        name, _ = door.recv_multipart(copy=False)
        door.send_multipart([name.bytes, b"hello"])
        (hello,) = line.recv_multipart(copy=False)
    assert told_by_zeromq(sender_of(name)).uid == told_by_zeromq(sender_of(hello)).uid == os.getuid()


@pytest.mark.parametrize("text", ["", "127.0.0.1", "None", "a:b:c:d", "::ffff:10.0.0.1", "h:1:2:3:4", "h:1:2"])
def test_another_form_of_address_is_nobodys(text: str) -> None:
    assert told_by_zeromq(text) == NOBODY_KNOWN
    assert not is_ours(NOBODY_KNOWN)
