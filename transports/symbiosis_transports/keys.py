"""Who may come in over a network: CURVE key pairs, and the list of public keys that a daemon lets in.

Nothing here is asked of a socket in the file system, whose owner the kernel vouches for. Three environment
variables, because every process of a side needs the same:

SYMBIOSIS_KEY          both sides: the file with this side's own secret key, as `symbiosis keys new` writes it
SYMBIOSIS_ALLOW        daemon: a folder with the public keys, NAME.key, of those who may come in by that name, read
                       again when it has changed
SYMBIOSIS_DAEMON_KEY   client: the file with the daemon's public key, so that nobody else is taken for it
"""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Any, Final, NamedTuple

import zmq
import zmq.auth
from zmq.auth.thread import ThreadAuthenticator

from symbiosis_core.errors import RefusalCode, UsageError
from symbiosis_core.wire import Refused
from symbiosis_transports.address import Address
from symbiosis_transports.allow_list import AllowList, read_key

__all__ = [
    "ALLOW_VARIABLE",
    "DAEMON_KEY_VARIABLE",
    "KEY_TAKEN_BACK",
    "KEY_VARIABLE",
    "ClientKeys",
    "DaemonKeys",
    "Gatekeeper",
    "check_exposure",
    "client_keys",
    "daemon_keys",
    "new_pair",
]

KEY_VARIABLE: Final = "SYMBIOSIS_KEY"
ALLOW_VARIABLE: Final = "SYMBIOSIS_ALLOW"
DAEMON_KEY_VARIABLE: Final = "SYMBIOSIS_DAEMON_KEY"
KEY_TAKEN_BACK: Final = Refused(
    RefusalCode.PERMISSION, "this key is not on the daemon's list any more", "ask who keeps the list"
)
"""What is said to whom `Gatekeeper.name_of` does not know."""
_OTHERS: Final = 0o077


class ClientKeys(NamedTuple):
    """What a client shows, and whom it expects."""

    public: bytes
    secret: bytes
    daemon: bytes

    def secure(self, socket: zmq.Socket[bytes]) -> None:
        """To be called before `connect`."""
        socket.curve_publickey, socket.curve_secretkey = self.public, self.secret
        socket.curve_serverkey = self.daemon


class DaemonKeys(NamedTuple):
    """What a daemon shows, and whom it lets in."""

    public: bytes
    secret: bytes
    allowed: AllowList


class Gatekeeper:
    """Lets in those whose key is allowed. One per ZeroMQ context; it has a thread of its own."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], keys: DaemonKeys) -> None:
        self._keys = keys
        self._authenticator = ThreadAuthenticator(context)
        self._authenticator.start()
        self._authenticator.configure_curve_callback("*", keys.allowed)

    def secure(self, socket: zmq.Socket[Any]) -> None:
        """To be called before `bind`."""
        socket.curve_publickey, socket.curve_secretkey = self._keys.public, self._keys.secret
        socket.curve_server = True

    def name_of(self, frame: zmq.Frame) -> str | None:
        """Returns whose key was shown by who sent that: nobody's word but that of CURVE.

        None: it was allowed when its owner came in, and is no more.
        """
        shown = frame.get("User-Id")
        assert isinstance(shown, str)  # pyzmq's authenticator gives every message of an allowed key its text
        return self._keys.allowed.name_of(shown.encode())

    def close(self) -> None:
        """Ends the thread; before the context ends."""
        self._authenticator.stop()


def new_pair(folder: Path, name: str) -> tuple[Path, Path]:
    """Writes `name.key`, to be given away, and `name.key_secret`, which only its owner can read. Returns both.

    Raises:
        UsageError: one of them is there already, or the folder cannot be written.
    """
    public, secret = folder / f"{name}.key", folder / f"{name}.key_secret"
    if there := [file for file in (public, secret) if file.exists()]:
        raise UsageError(f"{there[0]} is there already; choose another name, or move it away")
    usual = os.umask(_OTHERS)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        zmq.auth.create_certificates(folder, name)
    except OSError as error:
        raise UsageError(f"cannot write keys into {folder}: {error.strerror}") from error
    finally:
        os.umask(usual)
    return public, secret


def daemon_keys() -> DaemonKeys | None:
    """Returns what a daemon was given; None: it has no keys.

    Raises:
        UsageError: half of it is missing, or a file is no key.
    """
    if not _given(KEY_VARIABLE, ALLOW_VARIABLE):
        return None
    allowed = AllowList(Path(os.environ[ALLOW_VARIABLE]))
    public, secret = _own_pair()
    return DaemonKeys(public, secret, allowed)


def client_keys() -> ClientKeys | None:
    """Returns what a client was given; None: it has no keys. Raises as `daemon_keys` does."""
    if not _given(KEY_VARIABLE, DAEMON_KEY_VARIABLE):
        return None
    public, secret = _own_pair()
    return ClientKeys(public, secret, read_key(Path(os.environ[DAEMON_KEY_VARIABLE]))[0])


def check_exposure(address: Address, keys: DaemonKeys | None) -> None:
    """Lets a daemon without keys be reached from its own host only.

    Raises:
        UsageError: the address can be reached from elsewhere, and there are no keys.
    """
    if address.scheme == "tcp" and keys is None and not _is_loopback(address.host):
        raise UsageError(
            f"{address.control} can be reached from other hosts, and nobody is asked who they are; make keys "
            f"with `symbiosis keys new`, set {KEY_VARIABLE} and {ALLOW_VARIABLE}, or listen at 127.0.0.1"
        )


def _given(own: str, others: str) -> bool:
    """Whether both variables are set."""
    there = [name for name in (own, others) if os.environ.get(name)]
    if own not in there and others in there:
        raise UsageError(f"{others} is set and {own} is not; set both, or neither")
    return len(there) == 2


def _own_pair() -> tuple[bytes, bytes]:
    file = Path(os.environ[KEY_VARIABLE])
    public, secret = read_key(file)
    if secret is None:
        raise UsageError(f"{file} holds no secret key; give NAME.key_secret")
    if file.stat().st_mode & _OTHERS:
        raise UsageError(f"{file} can be read by others; chmod 600 it")
    return public, secret


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
