"""Carries a plan out: rows in, one op or segment, rows out. Keeps nothing between two plans that a result needs.

One part alone is computed from the client's memory into the client's memory. Several are laid one under the
other without padding (`x_RD`, R = sum of T), go through the op together, and are taken apart again. Where the
weights are not on the CPU, `staged` does the same at a distance.

    T  rows of one part      R  rows of the whole batch      D  width in      O  width out
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from symbiosis_core.clock import monotonic_us
from symbiosis_core.errors import RefusalCode
from symbiosis_core.ids import BaseId, ClientId, OpId
from symbiosis_core.logs import event, get_logger
from symbiosis_core.openmp import let_team_go
from symbiosis_core.segments import SegmentSpec
from symbiosis_core.specs import OpKind, OpSpec
from symbiosis_scheduler.decisions.plan import Plan
from symbiosis_scheduler.decisions.request import Request
from symbiosis_scheduler.execution.lookup import sound_ids
from symbiosis_scheduler.execution.memo import Memo
from symbiosis_scheduler.execution.rows import RowViews
from symbiosis_scheduler.execution.segment_plans import Carrier, SegmentPlans
from symbiosis_scheduler.execution.staged import Aside, InPlace, Landing, Staged
from symbiosis_scheduler.execution.streams import Event, Streams
from symbiosis_scheduler.execution.threads import ThreadChoice
from symbiosis_scheduler.frozen.layers import FrozenLayers
from symbiosis_scheduler.programs.program import Program
from symbiosis_transports.ports import ServerChannel

__all__ = ["Executor", "Launched"]

log = get_logger(__name__)


class Launched:
    """A plan under way: `event` says when it is done, `failed` which requests are not answered with rows.

    A `landing` is to be landed when the event is done, before anything is answered. What was computed beside tells
    when that was, in `ended_us`: the thread that answers may have had other things to do.
    """

    __slots__ = ("beside", "ended_us", "event", "failed", "landing", "plan")

    def __init__(self, plan: Plan, *, beside: bool) -> None:
        self.plan = plan
        self.beside = beside
        self.failed: dict[Request, RefusalCode] = {}
        self.event: Event | None = None
        self.ended_us: int | None = None
        self.landing: Landing | None = None


class Executor:
    """Computes plans over the frozen layers of all bases, on the streams of their device."""

    def __init__(
        self,
        bases: Sequence[FrozenLayers],
        streams: Streams,
        threads: ThreadChoice,
        *,
        memo_bytes: int = 0,
        staged: bool = False,
    ) -> None:
        """`staged` forces on a CPU what every other device needs, so that it can be tried without one."""
        device = bases[0].device
        assert all(layers.device == device for layers in bases)  # there is one, and its streams are shared
        self._bases = bases
        self._ops: list[tuple[OpSpec | SegmentSpec, FrozenLayers]] = [
            (op, layers) for layers in bases for op in layers.spec.ops
        ]
        """By number, as the scheduler counts them."""
        self._streams = streams
        self._threads = threads
        self._views = RowViews()
        self._aside = Aside(self._views)
        self._at_once = not staged and device.type == "cpu"
        """Whether a plan is computed when its launch returns, so that a launch can be timed."""
        self._carrier: Carrier = InPlace(self._views) if self._at_once else Staged(device, self._views)
        self._segments = SegmentPlans(self._views, Memo(memo_bytes))
        self._beside = 0
        """Plans that are computed beside."""
        self._team = False
        """Whether this thread has OpenMP threads."""

    def attach(self, channel: ServerChannel) -> None:
        """Plans may now hold parts of this client."""
        self._views.attach(channel)

    def detach(self, client: ClientId) -> None:
        """Forgets the client, so that its memory can go. What is under way for it lands nowhere."""
        self._views.detach(client)
        self._segments.memo.forget(client)

    @property
    def memo(self) -> Memo:
        """What is kept of forwards for their backwards."""
        return self._segments.memo

    def learn(self, number: OpId, base: BaseId, program: Program) -> None:
        """From now on plans may be of this segment, under that number."""
        assert number == len(self._ops)
        layers = self._bases[base]
        self._ops.append((program.spec, layers))
        self._segments.learn(number, program, layers.table_rows)

    def launch(self, plan: Plan, priority: int, *, beside: bool = False, company: int | None = 0) -> Launched:
        """Starts `plan` on the stream of that priority; or, on a CPU, `beside` what is launched meanwhile.

        `company` is how many clients compute on this host's cores meanwhile; None: the number of threads must not
        depend on it.

        Never raises for what a client sent: its request fails with a code, the others' rows are computed. A
        failure of the computation itself fails the whole plan, is logged with its traceback, and the daemon
        lives.

        Raises:
            DeviceLostError: no plan will ever be computed again.
        """
        launched = Launched(plan, beside=beside)
        try:
            if beside:
                self._launch_beside(launched, company)
            else:
                self._launch_here(launched, priority, company)
        except (RuntimeError, MemoryError) as error:
            self._fail(launched, error)
        return launched

    def _launch_here(self, launched: Launched, priority: int, company: int | None) -> None:
        plan = launched.plan
        used = self._threads.use_for(
            plan.rows,
            company=None if company is None else company + self._beside,
            kind=(plan.op, plan.direction, plan.rows) if self._at_once else None,
        )
        self._team |= used.threads > 1
        began_us = monotonic_us()
        launched.event = self._streams.launch(priority, lambda: self._compute(launched))
        self._threads.took(used, monotonic_us() - began_us)

    def _compute(self, launched: Launched) -> None:
        self._prepared(launched, self._carrier)()
        self._views.computed(launched.plan.parts)

    def _launch_beside(self, launched: Launched, company: int | None) -> None:
        """Hands a plan to the other thread. Slots are only touched in this one: clients may leave meanwhile."""
        self._beside += 1
        if self._team:
            let_team_go()  # else the other thread's team would sleep and wake at every operation
            self._team = False
        compute = self._prepared(launched, self._aside)

        def work() -> None:
            self._threads.use_for(launched.plan.rows, company=(company or 0) + 1)
            try:
                compute()
            except (RuntimeError, MemoryError) as error:
                self._fail(launched, error)
            launched.ended_us = monotonic_us()

        launched.event = self._streams.launch_beside(work)

    def finish(self, launched: Launched) -> None:
        """Brings the answers of a plan that is done into the slots of those who are still there."""
        self._beside -= launched.beside
        if launched.landing is not None:
            launched.landing.land()
        for client in launched.plan.clients:
            if client not in self._views:
                self._segments.memo.forget(client)  # kept after it had left

    def close(self) -> None:
        """Ends what computes beside. Nothing is launched any more."""
        self._streams.close()

    def _fail(self, launched: Launched, error: Exception) -> None:
        plan = launched.plan
        log.exception(event("a plan failed", op=self._ops[plan.op][0].name, rows=plan.rows, error=type(error)))
        launched.failed = dict.fromkeys((part.request for part in plan.parts), RefusalCode.FAILED)

    def _prepared(self, launched: Launched, carrier: Carrier) -> Callable[[], None]:
        """Reads the rows; returns what computes them and brings the answers on their way."""
        plan = launched.plan
        op, layers = self._ops[plan.op]
        if isinstance(op, SegmentSpec):
            compute = self._segments.prepare(plan, op, carrier, launched.failed)
        elif op.kind is OpKind.EMBEDDING:
            compute = self._look_up(launched, op, layers, carrier)
        else:
            compute = self._product(plan, op, layers, carrier)

        def work() -> None:
            launched.landing = compute()

        return work

    def _look_up(
        self, launched: Launched, op: OpSpec, layers: FrozenLayers, carrier: Carrier
    ) -> Callable[[], Landing | None]:
        sound, ids = sound_ids(layers, self._views, launched.plan, op, launched.failed)
        if not sound:
            return lambda: None
        ids_R1 = carrier.send(ids)
        return lambda: carrier.land([layers.look_up(op, ids_R1)], sound, op)

    def _product(
        self, plan: Plan, op: OpSpec, layers: FrozenLayers, carrier: Carrier
    ) -> Callable[[], Landing | None]:
        parts = plan.parts
        if isinstance(carrier, InPlace) and len(parts) == 1:
            (x_TD,), (y_TO,) = self._views.inputs(parts[0], op), self._views.outputs(parts[0], op)

            def in_place() -> None:
                layers.apply(op, plan.direction, x_TD, out=y_TO)

            return in_place
        x_RD = carrier.send([self._views.inputs(part, op)[0] for part in parts])
        return lambda: carrier.land([layers.apply(op, plan.direction, x_RD)], parts, op)
