"""Who is at the other end of a socket of this host, as the kernel vouches, and whether one deals with that user.

Of a socket of ours the kernel is asked; ZeroMQ asks it by itself, on either side, and tells with every message.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING

from symbiosis_transports.ports import Peer

if TYPE_CHECKING:  # not everybody who asks here uses ZeroMQ
    import zmq

__all__ = ["NOBODY_KNOWN", "is_ours", "peer_of", "sender_of", "told_by_zeromq"]

NOBODY_KNOWN = Peer(0, -1)
"""Who is at the other end where nobody vouches for it: no user."""


def peer_of(sock: socket.socket) -> Peer:
    """Returns who is at the other end of a Unix socket."""
    pid, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return Peer(pid, uid)


def sender_of(frame: zmq.Frame) -> str:
    """Returns what ZeroMQ tells of who has sent a frame: of whoever speaks its oldest protocol, nothing."""
    from zmq import ZMQError  # as above: whoever has a frame has it

    try:
        return str(frame.get("Peer-Address"))
    except ZMQError:
        return ""


def told_by_zeromq(text: str) -> Peer:
    """Returns whom ZeroMQ means by host, user, group and process in one text; another form is nobody's."""
    try:
        _, user, _, process = text.split(":")
        return Peer(int(process), int(user))
    except ValueError:
        return NOBODY_KNOWN


def is_ours(peer: Peer) -> bool:
    """Whether it is this user, or root."""
    return peer.uid in (os.getuid(), 0)
