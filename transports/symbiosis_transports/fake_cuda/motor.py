"""A thread that makes the steps of a context, one by one, with small random delays: a device on its own."""

from __future__ import annotations

import threading
import time
import weakref
from random import Random
from typing import Final

from symbiosis_transports.fake_cuda.context import FakeCuda

__all__ = ["set_going"]

_LONGEST_DELAY_S: Final = 200e-6
_LOOK_S: Final = 200e-6
"""Between two looks at an event of another process, which nobody tells of."""
_FORGOTTEN_S: Final = 0.5
"""After which the thread looks whether anybody still has the context."""


def set_going(context: FakeCuda, seed: int) -> None:
    """Starts the thread. It ends once nobody has the context any more."""
    threading.Thread(target=_run, args=(weakref.ref(context), Random(seed)), name="fake-cuda", daemon=True).start()


def _run(reference: weakref.ref[FakeCuda], random: Random) -> None:
    while (context := reference()) is not None:
        if context.step(random):
            time.sleep(random.random() * _LONGEST_DELAY_S)
        elif context.pending:
            time.sleep(_LOOK_S)
        else:
            with context.queued:
                if not context.pending:
                    context.queued.wait(_FORGOTTEN_S)
        del context
