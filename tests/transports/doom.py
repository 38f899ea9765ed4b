"""Processes that a signal hits before their n-th line of the transports, n = 1, 2, ... until they end without it.

So they are hit at every point: half-way through a handshake, and between two words of one `publish`.

Each is a fork of one process that has imported everything and opened nothing: dozens take a second. It speaks with
the test in lines: it tells `hit` or `over`, and waits for a line after each `hit`. Who was stopped then goes on.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import symbiosis_transports

__all__ = ["Doom", "lines", "one_after_the_other", "say"]

_ROOT = Path(__file__).parents[2]
_END_S = 60.0

_CODE = str(Path(symbiosis_transports.__file__).parent)


class Doom:
    """Counts lines down; before the last the process sends itself the signal.

    A line counts once until `again`: how often somebody looks for a word before it is there is chance.
    """

    def __init__(self, left: int, signum: int) -> None:
        self._left = left
        self._signum = signum
        self._seen: set[tuple[str, int]] = set()

    def again(self) -> None:
        """Every line counts anew: the next trip begins."""
        self._seen.clear()

    def trace(self, frame: FrameType, event: str, _: Any) -> Any:
        """What `settrace` is given, of one thread."""
        if not frame.f_code.co_filename.startswith(_CODE):
            return None
        place = (frame.f_code.co_filename, frame.f_lineno)
        if event == "line" and place not in self._seen:
            self._seen.add(place)
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), self._signum)
        return self.trace


def say(line: str) -> None:
    """Tells the test."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def one_after_the_other(signum: int, step: int, live: Callable[[Doom], None]) -> None:
    """Runs `live` in a child after the other, each hit `step` lines later, until one is not hit at all."""
    for number in itertools.count(1, step):
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


@contextlib.contextmanager
def lines(module: str, *arguments: str) -> Iterator[tuple[Callable[[], str], Callable[[str], None]]]:
    """Such a process, for the test: how to hear its next line, and how to say one. It ends by itself."""
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(
        command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        to, of = process.stdin, process.stdout
        yield lambda: of.readline().rstrip(), lambda line: print(line, file=to)
        to.close()
        assert process.wait(_END_S) == 0
