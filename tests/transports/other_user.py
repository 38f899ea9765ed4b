"""A process of another user, who was root: `python -m tests.transports.other_user TRANSPORT ENDPOINT WHAT`.

It comes as a client (`come`), or asks at the control address (`ask`), and says what came of it; or it sits at the
endpoint, with nothing to say (`sit`) or as a daemon (`serve`), says so, and ends with standard input.
"""

from __future__ import annotations

import os
import socket
import sys

from symbiosis_core.errors import DaemonGoneError, RefusedError
from symbiosis_core.ids import Token
from symbiosis_core.wire import Status
from symbiosis_transports.ports import Transport
from symbiosis_transports.registry import transport
from symbiosis_transports.testing import EchoDaemon
from symbiosis_transports.zmq_link import ControlClient

__all__ = ["NOBODY"]

NOBODY = 65534


def come(carrier: Transport, endpoint: str) -> None:
    try:
        carrier.connect(endpoint, Token("good"), 20).close()
    except RefusedError as error:
        say(error.code)
    except DaemonGoneError as error:
        say(error.reason)
    else:
        say("was let in")


def ask(address: str) -> None:
    try:
        with ControlClient(address, timeout_s=20) as link:
            link.ask(Status())
    except RefusedError as error:
        say(error.code)
    else:
        say("was answered")


def sit(endpoint: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as door:
        door.bind(endpoint)
        door.listen()
        say("sits")
        sys.stdin.read()


def serve(carrier: Transport, endpoint: str) -> None:
    daemon = EchoDaemon(carrier, endpoint)
    say("sits")
    sys.stdin.read()
    daemon.close()


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """See above."""
    name, endpoint, what = sys.argv[1:]
    carrier = transport(name)  # all is imported before: another user cannot read everybody's packages
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    if what == "ask":
        ask(endpoint)
    elif what == "come":
        come(carrier, endpoint)
    elif what == "serve":
        serve(carrier, endpoint)
    else:
        sit(endpoint)


if __name__ == "__main__":
    main()
