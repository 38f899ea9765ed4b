"""What a signal does to a command that has started processes: it runs the way out, and leaves no child behind."""

from __future__ import annotations

import signal
import sys

__all__ = ["leave_in_order"]


def leave_in_order() -> None:
    """Lets signals that would end this process at once raise SystemExit instead. Ctrl-C raises already."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            signal.signal(number, _leave)


def _leave(number: int, _: object) -> None:
    sys.exit(128 + number)
