"""Carries a plan out: rows in, one matrix product, rows out. Keeps nothing of anybody between two plans.

One part alone is computed from the client's memory into the client's memory. Several are laid one under the
other without padding (`x_RD`, R = sum of T), go through the op together, and are taken apart again.

    T  rows of one part      R  rows of the whole batch      D  width in      O  width out
"""

from __future__ import annotations

import torch

from symbiosis_core.errors import RefusalCode, RefusedError
from symbiosis_core.ids import ClientId
from symbiosis_core.logs import event, get_logger
from symbiosis_core.specs import Direction, OpKind, OpSpec
from symbiosis_scheduler.layers import FrozenLayers
from symbiosis_scheduler.plan import Part, Plan
from symbiosis_scheduler.request import Request
from symbiosis_scheduler.rows import RowViews
from symbiosis_scheduler.streams import Event, Streams
from symbiosis_scheduler.threads import ThreadChoice
from symbiosis_transports.ports import ServerChannel

__all__ = ["Executor", "Launched"]

log = get_logger(__name__)


class Launched:
    """A plan under way: `event` says when it is done, `failed` which requests are not answered with rows."""

    __slots__ = ("event", "failed", "plan")

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.failed: dict[Request, RefusalCode] = {}
        self.event: Event | None = None


class Executor:
    """Computes plans over one model's frozen layers."""

    def __init__(self, layers: FrozenLayers, streams: Streams, threads: ThreadChoice) -> None:
        self._layers = layers
        self._ops = layers.spec.ops
        self._streams = streams
        self._threads = threads
        self._views = RowViews()

    def attach(self, channel: ServerChannel) -> None:
        """Plans may now hold parts of this client."""
        self._views.attach(channel)

    def detach(self, client: ClientId) -> None:
        """Forgets the client, so that its memory can go. No plan with its parts may be under way."""
        self._views.detach(client)

    def launch(self, plan: Plan, priority: int) -> Launched:
        """Starts `plan` on the stream of that priority.

        Never raises for what a client sent: its request fails with a code, the others' rows are computed. A
        failure of the computation itself fails the whole plan, is logged with its traceback, and the daemon
        lives.
        """
        launched = Launched(plan)
        self._threads.use_for(plan.rows)
        try:
            launched.event = self._streams.launch(priority, lambda: self._compute(launched))
        except (RuntimeError, MemoryError) as error:
            log.exception(event("a plan failed", op=self._ops[plan.op].name, rows=plan.rows, error=type(error)))
            launched.failed = dict.fromkeys((part.request for part in plan.parts), RefusalCode.FAILED)
        return launched

    def _compute(self, launched: Launched) -> None:
        op, direction = self._ops[launched.plan.op], Direction(launched.plan.direction)
        if op.kind is OpKind.EMBEDDING:
            self._look_up(launched, op)
        elif len(launched.plan.parts) == 1:
            (part,) = launched.plan.parts
            self._layers.apply(op, direction, self._views.inputs(part, op), out=self._views.outputs(part, op))
        else:
            parts = launched.plan.parts
            x_RD = torch.cat([self._views.inputs(part, op) for part in parts])
            self._scatter(self._layers.apply(op, direction, x_RD), parts, op)

    def _look_up(self, launched: Launched, op: OpSpec) -> None:
        """Embeds token ids. They are copied before they are checked: the client could change them in between."""
        sound: list[Part] = []
        ids: list[torch.Tensor] = []
        for part in launched.plan.parts:
            ids_T1 = self._views.inputs(part, op).clone()
            try:
                self._layers.check(op, Direction.FORWARD, ids_T1)
            except RefusedError as error:
                launched.failed[part.request] = error.code
            else:
                sound.append(part)
                ids.append(ids_T1)
        if sound:
            y_RO = self._layers.apply(op, Direction.FORWARD, torch.cat(ids))
            self._scatter(y_RO, sound, op)

    def _scatter(self, y_RO: torch.Tensor, parts: tuple[Part, ...] | list[Part], op: OpSpec) -> None:
        pieces = y_RO.split([part.rows for part in parts])
        torch._foreach_copy_([self._views.outputs(part, op) for part in parts], list(pieces))
