"""Who is at the other end is the kernel's word, or nobody."""

from __future__ import annotations

import os

import pytest
import zmq

from symbiosis_core.errors import RemoteProtocolError
from symbiosis_transports.peers import NOBODY_KNOWN, check_owner, is_ours, sender_of, told_by_zeromq
from symbiosis_transports.ports import Peer


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


def test_a_client_deals_with_its_own_user_and_with_root() -> None:
    for ours in (os.getuid(), 0):
        check_owner(Peer(1, ours), "here")
    for other in (65534, -1, None):
        with pytest.raises(RemoteProtocolError, match="choose another address"):
            check_owner(Peer(1, other), "here")
