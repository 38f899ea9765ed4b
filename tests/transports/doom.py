"""Processes that a signal hits before their n-th operation, n = 1, 2, ... until they come to an end without it.

Each is a fork of one process that has imported everything and opened nothing: dozens take a second. It speaks with
the test in lines: it tells `hit` or `over`, and waits for a line after each `hit`. Who was stopped then goes on.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Callable

__all__ = ["Doom", "one_after_the_other", "say"]


class Doom:
    """Counts operations down; before the last the process sends itself the signal."""

    def __init__(self, left: int, signum: int) -> None:
        self._left = left
        self._signum = signum

    def before(self) -> None:
        """To be called before every operation."""
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), self._signum)


def say(line: str) -> None:
    """Tells the test."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def one_after_the_other(signum: int, live: Callable[[Doom], None]) -> None:
    """Runs `live` in a child after the other, each hit one operation later, until one is not hit at all."""
    for number in itertools.count(1):
        child = os.fork()
        if child == 0:
            live(Doom(number, signum))
            sys.stdout.flush()
            os._exit(0)
        _, status = os.waitpid(child, os.WUNTRACED)
        if os.WIFEXITED(status):
            assert status == 0, "it failed by itself"
            say("over")
            return
        assert signum in (os.WSTOPSIG(status) if os.WIFSTOPPED(status) else os.WTERMSIG(status),)
        say("hit")
        sys.stdin.readline()
        if signum == signal.SIGSTOP:
            os.kill(child, signal.SIGCONT)
            _, status = os.waitpid(child, 0)
            assert status == 0, "it did not come to its end"
