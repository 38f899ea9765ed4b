"""One client's connection to a daemon: attach, compute rows, and come back after the daemon did.

A request is pure (rows in, rows out, no state in the daemon), so when the daemon goes away it can be sent again
to its successor. With `reconnect_s` the session does that by itself: it waits, attaches again, checks that the
base is the same one bit for bit, and repeats the request. Without it the caller gets `DaemonGoneError` at once;
a later call tries to attach anew. A quota that is used up is waited for in the same way, for `quota_wait_s`.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Self, TypeVar

import torch

from symbiosis_adapters.connection.asking import RowsQuotaError, fetch_from, quota_of, teach
from symbiosis_adapters.connection.attaching import attach
from symbiosis_adapters.connection.cores import after_wait, interrupted
from symbiosis_adapters.connection.pipeline import Pipeline
from symbiosis_adapters.connection.rests import trim_at_rest
from symbiosis_adapters.connection.unpicklable import CANNOT_BE_PICKLED
from symbiosis_core.errors import (
    BusyError,
    ClosedError,
    DaemonGoneError,
    DaemonSilentError,
    RefusalCode,
    RefusedError,
    SymbiosisError,
    UsageError,
)
from symbiosis_core.ids import OpId
from symbiosis_core.logs import event, get_logger
from symbiosis_core.segments import Segment, SegmentSpec, check, describe
from symbiosis_core.specs import Direction, ModelSpec, Op, OpSpec, TensorSpec
from symbiosis_core.wire import Hello, Welcome
from symbiosis_transports.address import parse
from symbiosis_transports.ports import ChannelStatistics, ClientChannel
from symbiosis_transports.tensors import torch_dtype

__all__ = ["Session"]

log = get_logger(__name__)

T = TypeVar("T")

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0
LANE_KEY_VARIABLE = "SYMBIOSIS_LANE_KEY"
"""What a client shows to be put into a lane by a rule that asks for it."""


class Session:
    """A place in a daemon. Implements `Rows`; safe to use from several threads, one call at a time."""

    def __init__(
        self,
        address: str,
        *,
        lane: str,
        name: str,
        reconnect_s: float = 0.0,
        quota_wait_s: float = 0.0,
        answer_timeout_s: float = 120.0,
    ) -> None:
        """Attaches to the daemon at `address`.

        Raises:
            DaemonGoneError: nobody is there, not even within `reconnect_s` seconds.
            DaemonSilentError: somebody is there, and says nothing for as long.
            RefusedError: the daemon does not take this client.
            UsageError: not an address.
        """
        self.address = parse(address)
        self._lane = lane
        self._name = name
        self._reconnect_s = reconnect_s
        self._quota_wait_s = quota_wait_s
        self._answer_timeout_s = answer_timeout_s
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._closed = False
        self._channel: ClientChannel | None = None
        self._pipeline: Pipeline | None = None
        self.welcome: Welcome
        self.spec: ModelSpec
        """The catalogue of the model at the other end."""
        self._learned: dict[SegmentSpec, SegmentSpec] = {}
        """Segments by the numbers of the daemon at the other end."""
        self.reconnects = 0
        """How often this session attached anew after it had lost its channel."""
        self._wait_level = logging.WARNING
        """Of what is logged when a quota is waited for: told once, for a training may do so at every step."""
        self._persist(self._attach)
        trim_at_rest()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "attached" if self._channel else "detached"
        return f"<Session {self._name!r} {state} {self.address} lane={self._lane}>"

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A copied model shares its session: the copy's layers are the same frozen ones."""
        return self

    def __reduce__(self) -> str:
        raise UsageError(CANNOT_BE_PICKLED)

    def run(self, op: OpSpec, direction: Direction, x_TW: torch.Tensor) -> torch.Tensor:
        """See `Rows.run`.

        Raises:
            DaemonGoneError: the daemon is gone, and did not come back within `reconnect_s`.
            DaemonSilentError: it did not answer within `answer_timeout_s`; while the session waits for its return,
                not within `reconnect_s` either.
            BusyError: a quota is used up, and for longer than `quota_wait_s`.
            RefusedError: it refused the rows, such as token ids outside the vocabulary.
            ClosedError: the session was closed, or this is a forked child.
        """
        return self.call(op, direction, (x_TW,))[0]

    def call(
        self, op: Op, direction: Direction, planes: Sequence[torch.Tensor], memo: int = 0
    ) -> list[torch.Tensor]:
        """See `Rows.call`. Raises as `run` does."""
        until_s: float | None = None
        with self._lock:
            while True:
                try:
                    return self._lasting(op, direction, planes, memo)
                except RowsQuotaError as error:  # nothing of it was computed: the same call may be made again
                    now_s = time.monotonic()
                    until_s = now_s + self._quota_wait_s if until_s is None else until_s
                    if now_s + error.retry_after_s > until_s:
                        raise
                    waiting = event("waiting for a quota", address=self.address, reason=error.reason)
                    log.log(self._wait_level, waiting)
                    self._wait_level = logging.DEBUG
                    time.sleep(min(error.retry_after_s, _LONGEST_PAUSE_S))

    def learn(self, segment: Segment) -> SegmentSpec:
        """See `Rows.learn`. Raises as `run` does; a segment that the daemon would refuse, RefusedError."""
        values = check(segment, self.spec.ops, {tensor.name: tensor for tensor in self.spec.tensors})
        return SegmentSpec(OpId(-1), segment, values, describe(segment, self.spec.ops))

    def fetch(self, tensor: TensorSpec) -> torch.Tensor:
        """Returns a small tensor of the base, such as a norm's weight; the caller's to keep.

        Raises as `run` does, and RemoteProtocolError for an answer of another size than the catalogue says.
        """
        with self._lock:
            data = self._persist(lambda: self._fetch(tensor))
        if not data:
            return torch.empty(tensor.shape, dtype=torch_dtype(tensor.dtype))
        return torch.frombuffer(data, dtype=torch_dtype(tensor.dtype)).view(tensor.shape)

    def statistics(self) -> ChannelStatistics | None:
        """The channel's counters; None while detached."""
        return self._channel.statistics() if self._channel is not None else None

    def close(self) -> None:
        """Leaves the daemon. May be called twice."""
        with self._lock:
            self._closed = True
            self._detach()

    def _lasting(
        self, op: Op, direction: Direction, planes: Sequence[torch.Tensor], memo: int
    ) -> list[torch.Tensor]:
        """Makes one attempt, and more while the daemon is gone, for `reconnect_s` at most."""
        try:
            return self._once(op, direction, planes, memo)
        except DaemonGoneError as error:
            if not self._reconnect_s:
                raise
            log.warning(event("waiting for the daemon", address=self.address, reason=error.reason))
            return self._persist(lambda: self._once(op, direction, planes, memo))

    def _once(self, op: Op, direction: Direction, planes: Sequence[torch.Tensor], memo: int) -> list[torch.Tensor]:
        """Makes one attempt, attaching first where need be. Only a refusal leaves the channel usable."""
        try:
            if self._pipeline is None:
                self._attach()
            assert self._pipeline is not None  # _attach has set it or raised
            known = self._resolve(op) if isinstance(op, SegmentSpec) else op
            answers = self._pipeline.run(known, direction, planes, memo)
            device = planes[0].device
            return [answer if answer.device == device else answer.to(device) for answer in answers]
        except BusyError:
            raise
        except RefusedError as error:
            if error.code is RefusalCode.QUOTA:
                raise quota_of(self.address, self.welcome.client, error) from None
            if error.code is RefusalCode.PERMISSION:  # it was let in before: a broken handshake looks the same
                self._detach()
                raise DaemonGoneError(str(self.address), error.reason) from None
            raise RefusedError(error.code, f"{op.name}: {error.reason}", _REMEDIES.get(error.code, "")) from None
        except DaemonGoneError as error:
            self._detach()
            raise DaemonGoneError(str(self.address), error.reason) from None
        except BaseException as error:  # an interrupt or a silent daemon: the slots' state is unknown
            self._detach()
            if not isinstance(error, Exception):
                interrupted()
            raise

    def _resolve(self, op: SegmentSpec) -> SegmentSpec:
        """Returns the segment under the number that this daemon knows it by, teaching it where need be."""
        known = self._learned.get(op)
        if known is None:
            number = teach(self.address, self.spec.name, op.segment)
            known = self._learned[op] = SegmentSpec(number, op.segment, op.values, op.name)
        return known

    def _fetch(self, tensor: TensorSpec) -> bytearray:
        """Fetches from the start; over a daemon that came back, after a look at its base."""
        if self._pipeline is None:
            self._attach()
        return fetch_from(self.address, self.spec.name, tensor)

    def _attach(self) -> None:
        if self._closed:
            raise ClosedError("the session was closed")
        if os.getpid() != self._pid:
            raise ClosedError("this is a forked child; call from_pretrained in the process that uses the model")
        key = os.environ.get(LANE_KEY_VARIABLE, "")
        hello = Hello(self._name, self._lane, self.address.model, self._pid, key=key)
        welcome, spec, self._channel = attach(self.address, hello, self._check_same_base)
        self._pipeline = Pipeline(self._channel, self._answer_timeout_s, welcome.max_rows, steady=welcome.exact)
        self.reconnects += hasattr(self, "spec")
        self._learned.clear()
        self.welcome, self.spec = welcome, spec

    def _check_same_base(self, spec: ModelSpec) -> None:
        before = getattr(self, "spec", None)
        if before is None:
            return
        if (before.fingerprint, before.ops) != (spec.fingerprint, spec.ops):
            raise UsageError(
                f"the daemon at {self.address} came back with another base ({spec.name}, {spec.fingerprint[:12]}, "
                f"before {before.name}, {before.fingerprint[:12]}); start it with the same model and dtype"
            )

    def _detach(self) -> None:
        channel, self._channel, self._pipeline = self._channel, None, None
        if channel is not None:
            channel.close()
            after_wait(None)  # whoever comes next is asked anew

    def _persist(self, attempt: Callable[[], T]) -> T:
        """Repeats `attempt` while the daemon is gone or silent, for `reconnect_s` seconds at most."""
        deadline = time.monotonic() + self._reconnect_s
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                return attempt()
            except SymbiosisError as error:
                if not _passes_with_time(error) or time.monotonic() + pause_s > deadline:
                    raise
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


_REMEDIES = {
    RefusalCode.BAD_INDEX: "a token id is negative or not in the vocabulary; use the tokenizer of this base",
    RefusalCode.FAILED: "the daemon's log has the traceback",
}


def _passes_with_time(error: SymbiosisError) -> bool:
    """Whether a daemon that starts, stops or stands still for a while explains the error."""
    if isinstance(error, BusyError):
        return True
    if isinstance(error, RefusedError):
        return error.code in {RefusalCode.DRAINING, RefusalCode.BAD_TOKEN}
    return isinstance(error, DaemonGoneError | DaemonSilentError)
