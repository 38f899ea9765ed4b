"""What needed the value that a trip was made for: told by the stack, once for every distinct trip.

Names of code alone are read. Local variables are not: to read them keeps alive what they held, and what is alive
is computed.
"""

from __future__ import annotations

import sys
from typing import Final

from symbiosis_adapters.deferred.tensor import Deferred

__all__ = ["what_needs_it"]

_ASKED: Final = Deferred.__torch_function__.__code__
_BETWEEN: Final = frozenset({"torch", "symbiosis_adapters"})


def what_needs_it() -> str:
    """Returns the function of torch that asked for the value now, and the code that called it."""
    function, frame = "", sys._getframe(1)
    while frame.f_back is not None:
        if frame.f_code is _ASKED:  # whose own variables are its arguments, which its caller holds, too
            function = getattr(frame.f_locals["func"], "__name__", "")
        module = frame.f_globals.get("__name__", "")
        if module.partition(".")[0] not in _BETWEEN:
            break
        frame = frame.f_back
    where = f"{frame.f_code.co_qualname} of {frame.f_globals.get('__name__', '')}"
    return f"{function} in {where}" if function else where
