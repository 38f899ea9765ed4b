"""Whether a client's process has ended: only then has the system closed what it had open on the device.

A pidfd says so exactly. Where there is none to be had, because this process has no descriptor left or the system
is old, the process is asked for by its number. That errs on one side alone: somebody else may have the number by
then, or nobody has buried the process yet, and memory is kept for longer than it need be.
"""

from __future__ import annotations

import os
import select

__all__ = ["ClientProcess"]


class ClientProcess:
    """One process, watched from the moment it came in."""

    def __init__(self, pid: int) -> None:
        """`pid` is the kernel's word, and greater than 0."""
        self._pid = pid
        self._descriptor = -1
        self._was_gone = False
        try:
            self._descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            self._was_gone = True
        except OSError:
            pass  # no descriptor: it is asked for by its number

    def __repr__(self) -> str:
        return f"<ClientProcess {self._pid} {'ended' if self.ended() else 'lives'}>"

    def ended(self) -> bool:
        """Whether it has ended for sure."""
        if self._was_gone:
            return True
        if self._descriptor < 0:
            return not _exists(self._pid)
        poll = select.poll()  # `select.select` takes no descriptor of 1024 or more
        poll.register(self._descriptor, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Watches no longer. May be called twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
