"""The daemon's door: who may come in, and the memory that is passed at the threshold.

Runs in the thread of the loop that was given. Nothing that a client sends can raise into that loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from pathlib import Path

import msgspec

from symbiosis_core.errors import RefusalCode, RefusedError, UsageError
from symbiosis_core.logs import event, get_logger
from symbiosis_core.wire import Refused
from symbiosis_transports.arena import Arena
from symbiosis_transports.folder import for_owner_alone
from symbiosis_transports.handshake import check_client
from symbiosis_transports.layout import DAEMON_SLEEPS, Layout
from symbiosis_transports.peers import peer_of
from symbiosis_transports.ports import Grant, Host
from symbiosis_transports.posix_shm.attach import (
    MAX_DATAGRAM_BYTES,
    VERSION,
    Attached,
    Collect,
    Handed,
    decode_opening,
    encode,
)
from symbiosis_transports.posix_shm.server import ShmServerChannel

__all__ = ["ShmListener"]

log = get_logger(__name__)

_HANDSHAKE_S = 5.0
_MAX_ATTACHING = 64
_ACCEPT_PAUSE_S = 0.1
_SOCKET_TYPE = socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC


class ShmListener:
    """The data socket of a daemon."""

    def __init__(self, loop: asyncio.AbstractEventLoop, endpoint: str, host: Host) -> None:
        self._loop = loop
        self._path = Path(endpoint)
        self._host = host
        self._attaching: dict[socket.socket, asyncio.TimerHandle] = {}
        self._door = _open_door(self._path)
        self._loop.add_reader(self._door.fileno(), self._accept)

    def __repr__(self) -> str:
        return f"<ShmListener {self._path} attaching={len(self._attaching)}>"

    def close(self) -> None:
        """Stops listening and removes the socket's name. Channels live on."""
        if self._door.fileno() < 0:
            return
        self._loop.remove_reader(self._door.fileno())
        self._door.close()
        self._path.unlink(missing_ok=True)
        for sock in list(self._attaching):
            self._turn_away(sock, None)

    def _accept(self) -> None:
        try:
            sock, _ = self._door.accept()
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno not in {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}:
                return  # the client hung up before it was let in
            log.warning(event("no descriptors left for a new client", error=error))
            self._loop.remove_reader(self._door.fileno())
            self._loop.call_later(_ACCEPT_PAUSE_S, self._reopen)
            return
        sock.setblocking(False)
        timer = self._loop.call_later(_HANDSHAKE_S, self._turn_away, sock, None)
        self._attaching[sock] = timer
        self._loop.add_reader(sock.fileno(), self._greet, sock)
        if len(self._attaching) > _MAX_ATTACHING:
            self._turn_away(next(iter(self._attaching)), None)

    def _reopen(self) -> None:
        if self._door.fileno() >= 0:
            self._loop.add_reader(self._door.fileno(), self._accept)

    def _greet(self, sock: socket.socket) -> None:
        try:
            opening = decode_opening(sock.recv(MAX_DATAGRAM_BYTES))
            check_client(opening.version, VERSION)
            if isinstance(opening, Collect):
                self._hand_over(sock, opening.model)
                return
            grant = self._host.redeem(opening.token, peer_of(sock))
        except BlockingIOError:
            return
        except OSError:  # it hung up
            self._turn_away(sock, None)
        except msgspec.MsgspecError as error:
            self._turn_away(sock, Refused(RefusalCode.MALFORMED, f"not an opening: {error}"))
        except RefusedError as error:
            self._turn_away(sock, Refused(error.code, error.reason, error.remedy))
        else:
            self._let_in(sock, grant)

    def _hand_over(self, sock: socket.socket, model: str) -> None:
        """Passes the descriptor of a base's weights to who may have it, and hangs up."""
        peer = peer_of(sock)
        fd = self._host.lend(peer, model)
        socket.send_fds(sock, [encode(Handed(VERSION))], [fd])
        log.info(event("weights lent", model=model, pid=peer.pid))
        self._turn_away(sock, None)

    def _let_in(self, sock: socket.socket, grant: Grant) -> None:
        """Lends an arena to a client whose token was good."""
        layout = Layout(grant.slots, grant.slot_bytes)
        try:
            arena, fd = Arena.create(layout.arena_bytes)
        except OSError as error:
            self._host.abandoned(grant)
            self._turn_away(sock, Refused(RefusalCode.QUOTA, f"no memory for an arena: {error}"))
            return
        arena.words[DAEMON_SLEEPS] = 1  # before the client sees it: its first call must ring
        try:
            socket.send_fds(sock, [encode(Attached(VERSION, grant.slots, grant.slot_bytes))], [fd])
        except OSError as error:
            arena.close()
            self._host.abandoned(grant)
            self._turn_away(sock, None)
            log.info(event("a client left during its handshake", client=grant.client, error=error))
            return
        finally:
            os.close(fd)
        self._attaching.pop(sock).cancel()
        self._loop.remove_reader(sock.fileno())
        self._host.attached(ShmServerChannel(self._loop, sock, arena, layout, grant.client, self._host))

    def _turn_away(self, sock: socket.socket, why: Refused | None) -> None:
        timer = self._attaching.pop(sock, None)
        if timer is None:
            return
        timer.cancel()
        self._loop.remove_reader(sock.fileno())
        if why is not None:
            with contextlib.suppress(OSError):
                sock.send(encode(why))
            log.info(event("turned a connection away", code=why.code, reason=why.reason))
        sock.close()


def _open_door(path: Path) -> socket.socket:
    """Binds the socket, readable by this user alone; a stale name is taken over, a live one is refused."""
    door = socket.socket(socket.AF_UNIX, _SOCKET_TYPE)
    try:
        if path.exists():
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
                try:
                    probe.connect(str(path))
                except OSError:
                    path.unlink(missing_ok=True)
                else:
                    raise UsageError(f"{path} is in use by another daemon; stop it or choose another address")
        with for_owner_alone(path):
            door.bind(str(path))
        door.listen(_MAX_ATTACHING)
    except OSError as error:
        door.close()
        raise UsageError(f"cannot listen at {path}: {error.strerror}; choose a folder you may write") from error
    except UsageError:
        door.close()
        raise
    return door
