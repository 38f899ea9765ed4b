"""How it is said that a weight's values are not here: which layer, what was attempted, by whom, and what to do."""

from __future__ import annotations

import sys
from typing import Any, Final

from symbiosis_core.errors import RefusedError, UsageError

__all__ = ["LEND", "RETYPE", "TIE", "described", "refusal"]

LEND: Final = (
    "Attach to a daemon on this host that lends its weights, or use an adapter that leaves them alone (for LoRA: "
    "default initialization, no DoRA) and merge into a model loaded with plain transformers"
)
_TRAIN: Final = (
    "The base is frozen for all its clients: train adapters, and keep it out of modules_to_save and bias"
)
RETYPE: Final = (
    "The daemon computes in its own dtype for all its clients. Use torch.autocast, or a daemon that was started "
    "with the other dtype; adapters may have any dtype"
)
TIE: Final = (
    "Attach to a daemon on this host that lends its weights, or leave the two apart, as the daemon has them: set "
    "config.tie_word_embeddings to False"
)
_NOT_THE_CALLER: Final = frozenset({"torch", "symbiosis_adapters"})


def described(func: Any, name: str) -> tuple[str, str]:
    """Returns what was attempted, in words, and what to do about it where it is refused."""
    if name == "requires_grad_":
        return "training it", _TRAIN
    if name not in ("__get__", "__set__"):
        return f"torch's {name}()", LEND
    attribute = func.__self__.__name__
    verb = "reading its" if name == "__get__" else "setting its"
    return f"{verb} {attribute}", _TRAIN if attribute in ("requires_grad", "grad") else LEND


def refusal(label: str, attempt: str, remedy: str, why: RefusedError | None = None) -> UsageError:
    """Returns the error for an attempt that needs values. `why` is what the daemon said when it was asked."""
    lending = "" if why is None else f", and {why.reason}"
    first = f"To have them lent, {why.remedy}. Otherwise: " if why is not None and why.remedy else ""
    return UsageError(
        f"{label}: {attempt}, which {_caller()} needs, is not possible, for its values are in the daemon and only "
        f"its shape is here{lending}. {first}{remedy}"
    )


def _caller() -> str:
    """Returns whose code it is that wants a value: the innermost that is neither torch's nor ours."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _NOT_THE_CALLER:
        frame = frame.f_back
    return f"{frame.f_globals.get('__name__', '?')}.{frame.f_code.co_qualname}"
