"""Gives a client's freed memory back to the system while the process rests.

What a forward and backward have freed the C library keeps, which is what makes the next ones fast. Where nothing
is computed for some seconds, be it by the model, an optimizer or anybody else in the process, nobody misses it,
and a client that waits for its user holds that much less. Steps of training that follow each other
pay nothing; one that waited for seconds, for its daemon or its data, finds its next pages anew.

`SYMBIOSIS_KEEP_HEAP=1` in the environment leaves the heap alone.
"""

from __future__ import annotations

import os
import threading
import time
from functools import cache
from typing import Final

from symbiosis_core.heaps import trim_heap
from symbiosis_core.resting import LOOK_EVERY_S, Resting

__all__ = ["KEEP_VARIABLE", "trim_at_rest"]

KEEP_VARIABLE: Final = "SYMBIOSIS_KEEP_HEAP"


@cache
def trim_at_rest() -> None:
    """From now on the heap of this process is trimmed when it rests, by a thread.

    A forked child has none until it opens a session.
    """
    if os.environ.get(KEEP_VARIABLE, "0") in ("", "0"):
        threading.Thread(target=_watch, name="symbiosis-rest", daemon=True).start()


os.register_at_fork(after_in_child=trim_at_rest.cache_clear)


def _watch() -> None:
    resting = Resting(look_every_s=LOOK_EVERY_S)
    while True:
        time.sleep(LOOK_EVERY_S)
        if resting.look():
            trim_heap()
