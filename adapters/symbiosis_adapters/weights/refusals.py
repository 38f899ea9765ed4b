"""How it is said that a weight's values are not here: which layer, what was attempted, by whom, and what to do."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any, Final

from symbiosis_adapters.weights.questions import SHOWS
from symbiosis_core.errors import RefusedError, UsageError

__all__ = ["LEND", "RETYPE", "TIE", "asker", "described", "refusal"]

LEND: Final = (
    "Attach to a daemon on this host that lends its weights, or use an adapter that leaves them alone (for LoRA: "
    "default initialization, no DoRA) and merge into a model loaded with plain transformers"
)
_LOOK: Final = (
    "Attach to a daemon on this host that lends its weights, or look at what is yours: save the adapter alone, "
    "and leave off what hashes a whole model (TRL's precompute_ref_log_probs)"
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


def described(func: Any, name: str, reads: bool, whole: bool) -> tuple[str, str]:
    """Returns what was attempted, in words, and what to do about it where it is refused.

    `reads` says that the function only reads the values, `whole` that it was asked of the weight and of no view.
    """
    if name == "requires_grad_":
        return ("training it", _TRAIN) if whole else ("making a parameter of a view of it", f"{_TRAIN}. {LEND}")
    if name not in ("__get__", "__set__"):
        remedy = _LOOK if name in SHOWS else LEND
        return f"{'reading' if reads else 'changing or keeping'} its values in torch's {name}()", remedy
    attribute = func.__self__.__name__
    verb = "reading its" if name == "__get__" else "setting its"
    return f"{verb} {attribute}", _TRAIN if attribute in ("requires_grad", "grad") else LEND


def refusal(label: str, attempt: str, remedy: str, why: RefusedError | None = None) -> UsageError:
    """Returns the error for an attempt that needs values. `why` is what the daemon said when it was asked."""
    lending = "" if why is None else f", and {why.reason}"
    first = f"To have them lent, {why.remedy}. Otherwise: " if why is not None and why.remedy else ""
    return UsageError(
        f"{label}: {attempt}, which {asker(' needs')}, is not possible, for its values are in the daemon and only "
        f"its shape is here{lending}. {first}{remedy}"
    )


def asker(verb: str = "") -> str:
    """Returns whose code it is that needs a value, and for what that package was called, around the verb.

    Such as `peft.tuners.lora.layer.Linear.pissa_init needs for peft.mapping_func.get_peft_model`. The first is the
    innermost method: PEFT calls its methods after what they do, and its functions help several of them.
    """
    stack = [frame for frame in _stack() if _package(frame) not in _NOT_THE_CALLER]
    if not stack:
        return f"the program{verb}"
    own = [frame for frame in stack if _package(frame) == _package(stack[0])]
    inner = next((frame for frame in own if _is_method(frame)), own[-1])
    whole = "" if inner is own[-1] else f" for {_named(own[-1])}"
    return f"{_named(inner)}{verb}{whole}"


def _stack() -> Iterator[FrameType]:
    """Yields the frames of this thread, from here outwards."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "?")).partition(".")[0]


def _is_method(frame: FrameType) -> bool:
    name = frame.f_code.co_qualname
    return "." in name and "<" not in name


def _named(frame: FrameType) -> str:
    """Returns the name of a frame's code; of a method under the class of whom it was called on."""
    code = frame.f_code
    if _is_method(frame) and code.co_varnames[:1] == ("self",):
        cls = type(frame.f_locals["self"])
        return f"{cls.__module__}.{cls.__qualname__}.{code.co_name}"
    return f"{frame.f_globals.get('__name__', '?')}.{code.co_qualname}"
