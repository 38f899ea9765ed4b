"""Rows that travel through pages in between are bit for bit those computed in place, and land when told to.

Forced on a CPU; the same path on a GPU is tried in `test_cuda`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import cast

import pytest
import torch

from symbiosis_core.errors import RefusalCode
from symbiosis_core.ids import ClientId, Generation, SlotIndex
from symbiosis_core.specs import Direction, OpKind, OpSpec
from symbiosis_scheduler.decisions.plan import Part, Plan
from symbiosis_scheduler.decisions.request import Request
from symbiosis_scheduler.execution.executor import Executor, Launched
from symbiosis_scheduler.execution.staged import Staged
from symbiosis_scheduler.execution.streams import CpuStreams
from symbiosis_scheduler.execution.threads import ThreadChoice
from symbiosis_scheduler.frozen.layers import FrozenLayers
from symbiosis_transports.ports import ServerChannel
from symbiosis_transports.tensors import torch_dtype
from tests.scheduler.tiny_models import VOCABULARY, lend, tiny

FORWARD, BACKWARD = Direction.FORWARD, Direction.BACKWARD
OUT_OFFSET, SLOT_BYTES = 1 << 14, 1 << 15
UNTOUCHED = 0xA5


class OneSlot:
    """A channel of one slot: a client's memory, and nobody behind it."""

    def __init__(self, client: int) -> None:
        self.client = ClientId(client)
        self.memory = bytearray([UNTOUCHED]) * SLOT_BYTES

    def buffer(self, slot: SlotIndex) -> memoryview:
        return memoryview(self.memory)

    def region(self) -> range:
        """The addresses of the memory."""
        begin = torch.frombuffer(self.memory, dtype=torch.uint8).data_ptr()
        return range(begin, begin + SLOT_BYTES)


class Tenants:
    """An executor, and clients whose rows go through it in one plan."""

    def __init__(self, layers: FrozenLayers, sent: Sequence[torch.Tensor], *, staged: bool) -> None:
        self.executor = Executor([layers], CpuStreams(), ThreadChoice(1), staged=staged)
        self.slots = [OneSlot(client) for client in range(len(sent))]
        for slot, rows in zip(self.slots, sent, strict=True):
            data = bytes(rows.reshape(-1).view(torch.uint8).tolist())
            slot.memory[: len(data)] = data
            self.executor.attach(cast("ServerChannel", slot))
        self._sent = sent

    def launch(self, op: OpSpec, direction: Direction, first_rows: int = 0) -> Launched:
        """Computes all rows of all clients from `first_rows` on."""
        requests = [
            Request(
                client=slot.client,
                slot=SlotIndex(0),
                generation=Generation(1),
                lane="training",
                op=op.id,
                direction=direction,
                rows=len(rows),
                arrived_us=0,
                in_offset=0,
                out_offset=OUT_OFFSET,
            )
            for slot, rows in zip(self.slots, self._sent, strict=True)
        ]
        parts = tuple(Part(request, first_rows, request.rows) for request in requests)
        return self.executor.launch(Plan(op.id, direction, parts), 0)

    @property
    def memory(self) -> list[bytes]:
        return [bytes(slot.memory) for slot in self.slots]


@pytest.fixture(scope="module", params=["qwen2", "gpt2"])
def layers(request: pytest.FixtureRequest) -> FrozenLayers:
    """Two families: siblings with a bias, and Conv1D."""
    return lend(tiny(request.param))


def rows_for(op: OpSpec, direction: Direction, *counts: int) -> list[torch.Tensor]:
    width, dtype = op.row_in(direction)
    if op.kind is OpKind.EMBEDDING:
        return [torch.randint(0, VOCABULARY, (count, width)) for count in counts]
    return [torch.randn(count, width).to(torch_dtype(dtype)) for count in counts]


def embedding_of(layers: FrozenLayers) -> OpSpec:
    return next(op for op in layers.spec.ops if op.kind is OpKind.EMBEDDING)


def assert_equal_to_in_place(
    layers: FrozenLayers, op: OpSpec, direction: Direction, sent: list[torch.Tensor], first_rows: int = 0
) -> None:
    """The whole memory of every client is the same, so nothing else was written either."""
    in_place, staged = (Tenants(layers, sent, staged=staged) for staged in (False, True))
    before = staged.memory
    expected, launched = (tenants.launch(op, direction, first_rows) for tenants in (in_place, staged))
    assert expected.landing is None
    assert staged.memory == before, "written before it landed"
    if launched.landing is not None:
        launched.landing.land()
    assert staged.memory == in_place.memory
    assert [(r.client, code) for r, code in launched.failed.items()] == [
        (r.client, code) for r, code in expected.failed.items()
    ]


@pytest.mark.parametrize("counts", [(1,), (5,), (1, 3, 2)])
def test_every_op_gives_the_rows_that_it_gives_in_place(layers: FrozenLayers, counts: tuple[int, ...]) -> None:
    for op in layers.spec.ops:
        for direction in (FORWARD, BACKWARD) if op.kind is OpKind.LINEAR else (FORWARD,):
            assert_equal_to_in_place(layers, op, direction, rows_for(op, direction, *counts))


def test_of_a_chunk_only_its_rows_are_written(layers: FrozenLayers) -> None:
    op = layers.spec.ops[1]
    assert_equal_to_in_place(layers, op, FORWARD, rows_for(op, FORWARD, 4, 5), first_rows=3)


@pytest.mark.parametrize("bad", [-1, VOCABULARY, 2**62])
def test_a_bad_id_fails_its_own_request_alone(layers: FrozenLayers, bad: int) -> None:
    op = embedding_of(layers)
    sent = rows_for(op, FORWARD, 2, 3, 1)
    sent[1][2] = bad
    assert_equal_to_in_place(layers, op, FORWARD, sent)
    tenants = Tenants(layers, sent, staged=True)
    launched = tenants.launch(op, FORWARD)
    assert list(launched.failed.values()) == [RefusalCode.BAD_INDEX]
    assert launched.landing is not None
    launched.landing.land()
    written = [set(memory[OUT_OFFSET:]) != {UNTOUCHED} for memory in tenants.memory]
    assert written == [True, False, True]


def test_where_every_id_is_bad_nothing_is_computed(layers: FrozenLayers) -> None:
    op = embedding_of(layers)
    launched = Tenants(layers, [torch.tensor([[-1]]), torch.tensor([[VOCABULARY]])], staged=True).launch(
        op, FORWARD
    )
    assert launched.landing is None
    assert list(launched.failed.values()) == [RefusalCode.BAD_INDEX] * 2


def test_what_a_client_changes_after_the_launch_is_not_seen(layers: FrozenLayers) -> None:
    op = embedding_of(layers)
    tenants = Tenants(layers, [torch.tensor([[3], [4]])], staged=True)
    launched = tenants.launch(op, FORWARD)
    tenants.slots[0].memory[:16] = b"\xff" * 16
    assert launched.landing is not None
    launched.landing.land()
    expected = layers.apply(op, FORWARD, torch.tensor([[3], [4]]))
    got = torch.frombuffer(
        tenants.slots[0].memory, dtype=expected.dtype, offset=OUT_OFFSET, count=expected.numel()
    )
    assert torch.equal(got.view_as(expected), expected)


def test_rows_of_a_client_that_left_land_nowhere_and_those_of_the_others_do(layers: FrozenLayers) -> None:
    op = layers.spec.ops[1]
    tenants = Tenants(layers, rows_for(op, FORWARD, 2, 3), staged=True)
    launched = tenants.launch(op, FORWARD)
    tenants.executor.detach(tenants.slots[0].client)
    assert launched.landing is not None
    launched.landing.land()
    assert [set(memory[OUT_OFFSET:]) != {UNTOUCHED} for memory in tenants.memory] == [False, True]


@pytest.mark.parametrize("on_device", [{0}, {1, 2}, {0, 1, 2}])
def test_rows_on_the_device_are_written_there_at_once_and_never_staged(
    layers: FrozenLayers, on_device: set[int]
) -> None:
    """The CPU stands for the device: some clients' slots count as memory of it."""
    for op in layers.spec.ops:
        sent = rows_for(op, FORWARD, 2, 3, 1)
        in_place, mixed = (Tenants(layers, sent, staged=staged) for staged in (False, True))
        before = mixed.memory
        regions = [mixed.slots[client].region() for client in on_device]
        carrier = cast("Staged", mixed.executor._carrier)
        carrier._resident = partial(lies_in, regions)
        staged_rows = count_staged(carrier)
        in_place.launch(op, FORWARD)
        launched = mixed.launch(op, FORWARD)
        assert mixed.memory == [
            now if client in on_device else then
            for client, (now, then) in enumerate(zip(in_place.memory, before, strict=True))
        ]
        assert (launched.landing is None) == (len(on_device) == 3)
        if launched.landing is not None:
            launched.landing.land()
        assert mixed.memory == in_place.memory
        if op.kind is OpKind.LINEAR:  # ids are checked on the host first, wherever they are
            assert sum(staged_rows) == sum(
                len(rows) for client, rows in enumerate(sent) if client not in on_device
            )


def lies_in(regions: list[range], rows: torch.Tensor) -> bool:
    """Whether the rows are in one of these pieces of memory."""
    return any(rows.data_ptr() in region for region in regions)


def count_staged(carrier: Staged) -> list[int]:
    """The rows of each piece that is staged from now on."""
    counted: list[int] = []
    stage = carrier._stage

    def count(pieces: list[torch.Tensor]) -> torch.Tensor:
        counted.extend(map(len, pieces))
        return stage(pieces)

    carrier._stage = count  # type: ignore[method-assign]
    return counted
