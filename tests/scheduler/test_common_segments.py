"""Two clients with different PEFT targets share batches wherever their segments agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, Final

import pytest
import torch
from peft import LoraConfig, get_peft_model

from symbiosis_adapters.connection.pipeline import Pipeline
from symbiosis_adapters.model.surgery import build
from symbiosis_adapters.trips.cut import Cut
from symbiosis_core.config import DaemonConfig, LimitsConfig
from symbiosis_core.ids import FIRST_BASE, ClientId, OpId
from symbiosis_core.segments import Segment, SegmentSpec
from symbiosis_core.specs import Direction, Op, OpSpec
from symbiosis_scheduler.bases import Bases
from symbiosis_scheduler.decisions.fifo import Fifo
from symbiosis_scheduler.decisions.filling import batch
from symbiosis_scheduler.decisions.known import Known
from symbiosis_scheduler.decisions.plan import Decision, Hold, Plan
from symbiosis_scheduler.decisions.queues import Queues
from symbiosis_scheduler.segments import Segments
from symbiosis_transports.ports import ClientChannel
from tests.adapters.local import LAYERS, Pair
from tests.scheduler.running_plane import Running

CONFIG: Final = DaemonConfig(limits=LimitsConfig(slots=3, slot_bytes=1 << 16))
IDS: Final = torch.arange(3, 12).view(1, 9)
QV: Final = r".*\.(q_proj|v_proj)"
LAST: Final = rf".*\.layers\.{LAYERS - 1}\."
_Key = tuple[OpId, Direction]


class Meeting:
    """First notes who asks for what; then has each wait until all are there that have ever asked for it."""

    reads: ClassVar[frozenset[str]] = frozenset()

    def __init__(self) -> None:
        self._fifo = Fifo(CONFIG)
        self._known: dict[_Key, set[ClientId]] = {}
        self.meet = False
        self.plans: list[Plan] = []

    def plan(self, now_us: int, queues: Queues, known: Known) -> Decision:
        if self.meet:
            return self._when_all_are_there(now_us, queues)
        decision = self._fifo.plan(now_us, queues, known)
        if isinstance(decision, Plan):
            self._known.setdefault((decision.op, decision.direction), set()).update(decision.clients)
        return decision

    def _when_all_are_there(self, now_us: int, queues: Queues) -> Decision:
        waiting = [request for lane in queues.lanes for request in lane.waiting]
        for request in waiting:
            key = (request.op, request.direction)
            if len(queues.lane(request.lane).level.cells[key].parts) == len(self._known[key]):
                self.plans.append(batch(request, queues, 4096))
                return self.plans[-1]
        return Hold(now_us + 1000) if waiting else None


class PlaneRows:
    """A client of a data plane that runs in this process; what it learns all others know."""

    def __init__(self, running: Running, segments: Segments, bases: Bases) -> None:
        self._running, self._segments, self._base = running, segments, bases[FIRST_BASE]
        self.channel: ClientChannel = running.connect()
        self._pipeline = Pipeline(self.channel, 60, 1 << 16)

    def run(self, op: OpSpec, direction: Direction, x_TW: torch.Tensor) -> torch.Tensor:
        return self._pipeline.run(op, direction, [x_TW])[0]

    def learn(self, segment: Segment) -> SegmentSpec:
        spec, program = self._segments.learn(self._base, segment)
        if program is not None:
            self._running.ask(lambda plane: plane.learn(FIRST_BASE, program))
        return spec

    def call(
        self, op: Op, direction: Direction, planes: Sequence[torch.Tensor], memo: int = 0
    ) -> list[torch.Tensor]:
        return self._pipeline.run(op, direction, planes, memo)


@pytest.fixture
def meeting() -> Meeting:
    return Meeting()


@pytest.fixture
def clients(meeting: Meeting, request: pytest.FixtureRequest) -> Iterator[tuple[Pair, list[PlaneRows]]]:
    pair = Pair("llama")
    bases = Bases([pair.rows.layers])
    segments = Segments(bases, most=100)
    running = Running(pair.rows.layers, CONFIG, f"ipc:///{request.node.name}", meeting)
    rows = [PlaneRows(running, segments, bases) for _ in range(2)]
    yield pair, rows
    for each in rows:
        each.channel.close()
    running.stop()


def adapted(pair: Pair, rows: PlaneRows, targets: str) -> Any:
    torch.manual_seed(5)
    model = get_peft_model(
        build(pair.spec, rows, pair.fetch, Cut.GRAPH), LoraConfig(target_modules=targets, init_lora_weights=False)
    )
    return model.train()


def step(model: Any) -> list[torch.Tensor]:
    """Returns the loss and all gradients of a training step."""
    model.zero_grad()
    loss = model(input_ids=IDS, labels=IDS).loss
    loss.backward()
    return [loss.detach(), *[each.grad for each in model.parameters() if each.grad is not None]]


@pytest.mark.parametrize("later", ["self_attn.o_proj", "mlp.down_proj"])
def test_clients_with_different_targets_share_the_batches_of_what_agrees(
    clients: tuple[Pair, list[PlaneRows]], meeting: Meeting, later: str
) -> None:
    """One adapts q and v, the other something in the last block as well: all that comes before is the same.

    Both get what they get alone.
    """
    pair, rows = clients
    targets = [QV, f"({QV})|({LAST}{later})"]
    models = [adapted(pair, each, target) for each, target in zip(rows, targets, strict=True)]
    alone = [step(model) for model in models]
    meeting.meet = True
    with ThreadPoolExecutor(len(models)) as threads:
        together = list(threads.map(step, models))
    shared = Counter(plan.direction for plan in meeting.plans if len(plan.clients) == 2)
    assert shared == {Direction.FORWARD: LAYERS, Direction.BACKWARD: LAYERS - 1}
    assert any(len(plan.clients) == 1 for plan in meeting.plans)
    for mine, own in zip(together, alone, strict=True):
        torch.testing.assert_close(mine, own, rtol=1e-5, atol=1e-6)
