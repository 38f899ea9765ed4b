"""On a GPU: streams queue, events tell, weights lie there once, and the daemon answers what a CPU answers.

Nothing of this runs without a GPU. What runs without one is in `test_streams`, `test_staged`, `test_weights` and
`test_dataplane`.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from symbiosis_adapters.connection.pipeline import Pipeline
from symbiosis_core.config import DaemonConfig, LimitsConfig
from symbiosis_core.errors import RefusalCode, RefusedError, UsageError
from symbiosis_core.specs import Direction, OpKind, OpSpec
from symbiosis_scheduler.execution.streams import CudaStreams, open_streams
from symbiosis_scheduler.frozen.devices import find_device
from symbiosis_scheduler.frozen.layers import FrozenLayers
from symbiosis_transports.tensors import torch_dtype
from tests.scheduler.running_plane import Running
from tests.scheduler.tiny_models import VOCABULARY, lend, tiny

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

FORWARD = Direction.FORWARD
LONG_CYCLES = 2_000_000_000
"""About a second."""

LOSE_THE_DEVICE = """
import torch
from symbiosis_scheduler.execution.streams import CudaStreams, DeviceLostError
streams = CudaStreams(torch.device("cuda", 0), [0])
table, ids = torch.zeros(4, 4, device="cuda"), torch.tensor([1 << 20], device="cuda")
def work():
    torch.cuda._sleep(200_000_000)  # else the device could fail before the launch has returned
    torch.index_select(table, 0, ids)
event = streams.launch(0, work)
try:
    while not event.done():
        pass
except DeviceLostError:
    print("the event told", flush=True)
try:
    streams.launch(0, lambda: torch.zeros(4, device="cuda").add_(1))
except DeviceLostError:
    print("the launch told", flush=True)
"""


@pytest.fixture
def device() -> torch.device:
    return find_device("cuda")


@pytest.fixture(scope="module")
def on_cpu() -> FrozenLayers:
    return lend(tiny("qwen2"))


@pytest.fixture(scope="module")
def on_gpu() -> FrozenLayers:
    layers = lend(tiny("qwen2"))
    layers.move_to(find_device("cuda"))
    return layers


@pytest.fixture
def running(on_gpu: FrozenLayers) -> Iterator[Running]:
    running = Running(on_gpu, DaemonConfig(limits=LimitsConfig(slots=3, slot_bytes=1 << 16)), "ipc:///on-a-gpu")
    yield running
    running.stop()


def directions(op: OpSpec) -> tuple[Direction, ...]:
    return tuple(Direction) if op.kind is OpKind.LINEAR else (FORWARD,)


def rows_for(op: OpSpec, direction: Direction, rows: int) -> torch.Tensor:
    width, dtype = op.row_in(direction)
    if op.kind is OpKind.EMBEDDING:
        return torch.randint(0, VOCABULARY, (rows, width))
    return torch.randn(rows, width).to(torch_dtype(dtype))


def test_cuda_alone_is_the_first_one_and_one_too_many_is_refused_with_those_there_are(
    device: torch.device,
) -> None:
    assert device == torch.device("cuda", 0)
    with pytest.raises(UsageError, match=r"torch sees cuda:0 \("):
        find_device(f"cuda:{torch.cuda.device_count()}")


def test_a_launch_only_queues_and_the_event_tells_when_it_is_done(device: torch.device) -> None:
    streams = open_streams(device, [0, 10])
    assert isinstance(streams, CudaStreams)
    event = streams.launch(10, lambda: torch.cuda._sleep(LONG_CYCLES))
    assert not event.done()
    torch.cuda.synchronize(device)
    assert event.done()


def test_each_lane_has_a_stream_and_the_urgent_ones_the_devices_high_priorities(device: torch.device) -> None:
    seen: dict[int, torch.cuda.Stream] = {}
    streams = CudaStreams(device, [10, 0, 20])
    for lane in (0, 10, 20):

        def look(lane: int = lane) -> None:
            seen[lane] = torch.cuda.current_stream(device)

        streams.launch(lane, look)
    least, greatest = torch.cuda.Stream.priority_range()  # type: ignore[call-arg]  # static, not in the stub
    assert [seen[lane].priority for lane in (0, 10, 20)] == [min(greatest + rank, least) for rank in range(3)]
    assert len({stream.cuda_stream for stream in seen.values()}) == 3


def test_a_work_that_finds_no_memory_raises_that_and_the_next_one_runs(device: torch.device) -> None:
    streams, made = CudaStreams(device, [0]), []

    def make(count: int) -> None:
        made.append(torch.zeros(count, dtype=torch.uint8, device=device))

    with pytest.raises(torch.OutOfMemoryError):
        streams.launch(0, lambda: make(1 << 50))
    event = streams.launch(0, lambda: make(4))
    torch.cuda.synchronize(device)
    assert event.done()
    assert [tensor.numel() for tensor in made] == [4]


def test_a_device_that_is_lost_is_told_apart() -> None:
    """In a process of its own: it can never use the device again."""
    script = subprocess.run([sys.executable, "-c", LOSE_THE_DEVICE], capture_output=True, text=True, timeout=300)
    assert script.stdout.split("\n")[:2] == ["the event told", "the launch told"], script.stderr


def test_the_weights_lie_there_once_and_what_shared_a_storage_still_does(device: torch.device) -> None:
    model = tiny("qwen2", tie_word_embeddings=True)
    layers = lend(model)
    before = torch.cuda.memory_allocated(device)
    layers.move_to(device)
    grown = torch.cuda.memory_allocated(device) - before
    lent = {id(parameter): parameter for parameter in model.parameters() if parameter.device == device}
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in lent.values()}
    assert len(storages) < len(lent)
    assert grown <= sum(-(-storage.nbytes() // 512) * 512 for storage in storages.values())
    assert layers.device == device
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    for spec in layers.spec.tensors:
        assert layers.tensor_bytes(spec.name).nbytes == spec.nbytes


def test_every_op_answers_what_it_answers_on_a_cpu(running: Running, on_cpu: FrozenLayers) -> None:
    """Through the daemon, for one row, a few, and several slots full."""
    channel = running.connect()
    pipeline = Pipeline(channel, 20, 1 << 16)
    for op in on_cpu.spec.ops:
        for direction in directions(op):
            for rows in (1, 7, 2000):
                x_TW = rows_for(op, direction, rows)
                expected = on_cpu.apply(op, direction, x_TW)
                torch.testing.assert_close(pipeline.run(op, direction, [x_TW])[0], expected, rtol=1e-4, atol=1e-4)
    channel.close()


def test_a_bad_id_fails_its_own_request_and_not_the_device(running: Running, on_cpu: FrozenLayers) -> None:
    pipeline = Pipeline(running.connect(), 20, 1 << 16)
    op = next(op for op in on_cpu.spec.ops if op.kind is OpKind.EMBEDDING)
    with pytest.raises(RefusedError) as refused:
        pipeline.run(op, FORWARD, [torch.tensor([[1], [VOCABULARY]])])
    assert refused.value.code is RefusalCode.BAD_INDEX
    ids_T1 = torch.tensor([[1], [VOCABULARY - 1]])
    assert torch.equal(pipeline.run(op, FORWARD, [ids_T1])[0], on_cpu.apply(op, FORWARD, ids_T1))
