"""The one changed line: `AutoModelForCausalLM.from_pretrained(address)`.

What comes back is the real transformers class. Its frozen layers run in the daemon at `address`; everything else
(attention, cache, adapters, loss, optimizer) is this process's own, and PEFT, Trainer and generate() work on it.
"""

from __future__ import annotations

import contextlib
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
import transformers
from transformers import AutoTokenizer as HubTokenizer
from transformers import PreTrainedModel

from symbiosis_adapters.capture import capture_decoding, stop_capturing
from symbiosis_adapters.connection.private import PrivateDaemon
from symbiosis_adapters.connection.session import Session
from symbiosis_adapters.explanation import Explanation, explain
from symbiosis_adapters.model.arguments import check_form, sort
from symbiosis_adapters.model.heads import Head, loading_info
from symbiosis_adapters.model.surgery import build
from symbiosis_adapters.trips.cut import Cut
from symbiosis_adapters.weights.lending import Lender, borrow
from symbiosis_core.errors import UsageError
from symbiosis_transports.address import parse
from symbiosis_transports.ports import ChannelStatistics

__all__ = [
    "AutoModel",
    "AutoModelForCausalLM",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
    "AutoTokenizer",
    "Handle",
]

RECONNECT_VARIABLE = "SYMBIOSIS_RECONNECT_S"
QUOTA_WAIT_VARIABLE = "SYMBIOSIS_QUOTA_WAIT_S"


class Handle:
    """`model.symbiosis`: the model's tie to its daemon."""

    def __init__(self, model: PreTrainedModel, session: Session, private: PrivateDaemon | None = None) -> None:
        self._model = model
        self._private = private
        self.session = session

    def __repr__(self) -> str:
        return f"<symbiosis {self.session!r}>"

    def __deepcopy__(self, memo: dict[int, Any]) -> Handle:
        copied = memo.get(id(self._model), self._model)
        return Handle(copied, self.session, self._private)

    def explain(self) -> Explanation:
        """How the model is cut, trip by trip, and why; with the graph cut, as of the latest forward. Print it."""
        return explain(self._model)

    def capture(self, *, at_once: bool = False) -> None:
        """Has decode steps captured, which leaves a fraction of their time in Python. It takes seconds.

        Meanwhile steps are computed as ever, and each takes twice as long; or, `at_once`, the first one waits for
        all of it. That was earned back after 300 to 400 tokens where it was measured (docs/decisions/0012). With
        another cut than `graph` it does nothing.
        """
        deferral = vars(self._model).get("symbiosis_deferral")
        if deferral is not None:
            capture_decoding(self._model, deferral, at_once=at_once)

    def statistics(self) -> ChannelStatistics | None:
        """Counters of the data channel; None while detached."""
        return self.session.statistics()

    def close(self) -> None:
        """Leaves the daemon, and ends a private one; the model cannot compute any more."""
        stop_capturing(self._model)
        _leave(self.session, self._private)


class _Auto:
    """Opens models on a shared base. Not for instances: use `from_pretrained`."""

    _auto: ClassVar[Any]
    """Transformers' class of the same name."""

    @classmethod
    def from_pretrained(
        cls,
        address: str,
        *,
        lane: str = "training",
        name: str = "",
        cut: Cut | str = Cut.GRAPH,
        dtype: torch.dtype | str | None = None,
        reconnect_s: float | None = None,
        quota_wait_s: float | None = None,
        answer_timeout_s: float = 120.0,
        attn_implementation: str | None = None,
        **more: Any,
    ) -> Any:
        """Returns the model of the daemon at `address`, in eval mode, as transformers' own `from_pretrained` does.

        Args:
            address: `ipc:///path/to/socket`, with `#name` for one of several models; or `embedded:MODEL`, which
                starts a private daemon that ends with this process.
            lane: a lane of the daemon's policy. `training` yields to `inference`.
            name: how `symbiosis status` shows this client; by default the script's name and the pid.
            cut: `graph` (all frozen work between two attentions in one trip), `siblings` (q, k and v in one
                trip), `linear` (one trip per layer) or `lent` (none: this process computes, with the daemon's
                weights, which are lent on its own host).
            dtype: must be the daemon's where given, as must `quantization_config`; for a private daemon it
                decides (default bfloat16). `torch_dtype` is its old name.
            reconnect_s: how long a call waits for a daemon that went away before it raises `DaemonGoneError`;
                default the environment's SYMBIOSIS_RECONNECT_S, else 0.
            quota_wait_s: how long a call waits where a quota of its lane is used up before it raises `BusyError`;
                default the environment's SYMBIOSIS_QUOTA_WAIT_S, else 0.
            answer_timeout_s: how long one request may take before `DaemonSilentError`.
            attn_implementation: as in transformers.
            more: as in transformers. Fields of the configuration, such as `use_cache` or `num_labels`, are set
                here; what says how a checkpoint is loaded is passed over; see docs/your_script.md.

        Raises:
            DaemonGoneError: there is no daemon.
            RefusedError: the daemon does not take this client; the message says why.
            UsageError: an argument cannot work here.
        """
        asked = sort(dtype, more)
        head = Head(cls._auto, asked.overrides, asked.config)
        parsed, private = parse(str(address)), None
        if parsed.scheme == "embedded":
            private = PrivateDaemon(parsed.target, asked.dtype or "bfloat16")
            address, reconnect_s = private.address, 0.0  # nobody would start it again
        session = None
        try:
            session = Session(
                str(address),
                lane=lane,
                name=name or f"{Path(sys.argv[0] or 'python').stem}-{os.getpid()}",
                reconnect_s=_seconds(RECONNECT_VARIABLE) if reconnect_s is None else reconnect_s,
                quota_wait_s=_seconds(QUOTA_WAIT_VARIABLE) if quota_wait_s is None else quota_wait_s,
                answer_timeout_s=answer_timeout_s,
            )
            check_form(asked, session.spec)
            lender = Lender(partial(borrow, session))
            model = build(session.spec, session, session.fetch, _cut(cut), lender, head)
            if attn_implementation is not None:
                model.set_attn_implementation(attn_implementation)
            if asked.generation is not None:
                model.generation_config = asked.generation
            if asked.device is not None:
                model.to(asked.device)  # type: ignore[arg-type]  # transformers wraps it so
        except BaseException:
            _leave(session, private)
            raise
        model.__dict__["symbiosis"] = Handle(model, session, private)
        return (model, loading_info(model)) if asked.loading_info else model


class AutoModelForCausalLM(_Auto):
    """A language model, all of which is the base's."""

    _auto = transformers.AutoModelForCausalLM


class AutoModel(_Auto):
    """The base without its head: hidden states come out."""

    _auto = transformers.AutoModel


class AutoModelForSequenceClassification(_Auto):
    """The base with a classifier of the client's own over each sequence, with random weights to be trained."""

    _auto = transformers.AutoModelForSequenceClassification


class AutoModelForTokenClassification(_Auto):
    """The base with a classifier of the client's own over each token, with random weights to be trained."""

    _auto = transformers.AutoModelForTokenClassification


class AutoTokenizer:
    """Opens the tokenizer of a shared base. For a hub id or a folder use transformers' own."""

    @classmethod
    def from_pretrained(cls, model: Any, **arguments: Any) -> Any:
        """Returns the tokenizer that belongs to `model`, which an Auto class here has returned.

        The daemon tells where the base came from (a folder of this host, or a hub id); transformers reads the
        tokenizer from there.
        """
        source = getattr(model, "name_or_path", None)
        if not source:
            raise UsageError("give the model that AutoModelForCausalLM.from_pretrained(address) returned")
        return HubTokenizer.from_pretrained(source, **arguments)


def _leave(session: Session | None, private: PrivateDaemon | None) -> None:
    if session is not None:
        session.close()
    if private is not None:
        private.stop()


def _cut(cut: Cut | str) -> Cut:
    try:
        return Cut(cut)
    except ValueError:
        raise UsageError(f"cut={cut!r}: one of {', '.join(Cut)}") from None


def _seconds(variable: str) -> float:
    """Returns the seconds that a variable of the environment holds, 0 where there is none."""
    text = os.environ.get(variable, "0")
    with contextlib.suppress(ValueError):
        if (seconds := float(text)) >= 0:
            return seconds
    raise UsageError(f"{variable}={text!r}: write seconds, such as 60")
