"""A daemon whose clients' rows are on the device: it computes where they are, over a fake device."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from symbiosis_adapters.connection.pipeline import Pipeline
from symbiosis_core.config import DaemonConfig, LimitsConfig
from symbiosis_core.errors import RefusalCode, RefusedError
from symbiosis_core.specs import Direction, OpKind, OpSpec
from symbiosis_scheduler.frozen.layers import FrozenLayers
from symbiosis_transports.cuda.seam import CudaError, EventNumber, Stream
from symbiosis_transports.cuda_ipc import CudaIpc
from symbiosis_transports.cuda_ipc.server import CudaServerChannel
from symbiosis_transports.fake_cuda import FakeCuda, FakeDevices
from symbiosis_transports.ports import ServesOnDevice
from symbiosis_transports.tensors import torch_dtype
from tests.scheduler.running_plane import Running
from tests.scheduler.tiny_models import VOCABULARY, lend, tiny

FORWARD = Direction.FORWARD
SLOT_BYTES = 1 << 16


@pytest.fixture(scope="module")
def layers() -> FrozenLayers:
    return lend(tiny("qwen2"))


@pytest.fixture
def running(layers: FrozenLayers, tmp_path: Path) -> Iterator[Running]:
    (tmp_path / "device").mkdir()
    transport = CudaIpc(FakeDevices(tmp_path / "device"))
    config = DaemonConfig(limits=LimitsConfig(slots=3, slot_bytes=SLOT_BYTES))
    running = Running(layers, config, f"{tmp_path}/rows.cuda", transport=transport)
    yield running
    running.stop()


def rows_for(op: OpSpec, rows: int) -> torch.Tensor:
    width, dtype = op.row_in(FORWARD)
    if op.kind is OpKind.EMBEDDING:
        return torch.randint(0, VOCABULARY, (rows, width))
    return torch.randn(rows, width).to(torch_dtype(dtype))


def test_clients_get_the_rows_that_plain_torch_computes_whole_and_in_chunks(
    running: Running, layers: FrozenLayers
) -> None:
    """Three at once: some of their rows share a plan."""
    wrong: list[str] = []

    def tenant(seed: int) -> None:
        torch.manual_seed(seed)
        channel = running.connect()
        pipeline = Pipeline(channel, 20, 1 << 16)
        for op in layers.spec.ops:
            for rows in (1, 7, 300):
                x_TW = rows_for(op, rows)
                (y_TO,) = pipeline.run(op, FORWARD, [x_TW])
                if not torch.allclose(y_TO, layers.apply(op, FORWARD, x_TW), rtol=1e-5, atol=1e-5):
                    wrong.append(f"{op.name} {rows}")
        channel.close()

    threads = [threading.Thread(target=tenant, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_an_answer_is_recorded_on_the_device_and_its_event_is_done_when_it_is_told(
    running: Running, layers: FrozenLayers
) -> None:
    """So what the client's stream waits for has been: a daemon that is killed then leaves nobody waiting."""
    channel = running.connect()
    op = next(op for op in layers.spec.ops if op.kind is OpKind.LINEAR)
    recorded = running.ask(lambda plane: _counted(next(iter(plane.seats.values())).channel))
    Pipeline(channel, 20, 1 << 16).run(op, FORWARD, [rows_for(op, 2)])
    assert recorded == [0]  # the one slot that was used
    channel.close()


def test_a_bad_id_on_the_device_fails_its_own_request(running: Running, layers: FrozenLayers) -> None:
    channel = running.connect()
    pipeline = Pipeline(channel, 20, 1 << 16)
    op = next(op for op in layers.spec.ops if op.kind is OpKind.EMBEDDING)
    with pytest.raises(RefusedError) as refused:
        pipeline.run(op, FORWARD, [torch.tensor([[1], [VOCABULARY]])])
    assert refused.value.code is RefusalCode.BAD_INDEX
    ids_T1 = torch.tensor([[1], [VOCABULARY - 1]])
    assert torch.equal(pipeline.run(op, FORWARD, [ids_T1])[0], layers.apply(op, FORWARD, ids_T1))
    channel.close()


def test_a_plan_whose_answer_cannot_be_recorded_fails_and_the_daemon_lives(
    running: Running, layers: FrozenLayers
) -> None:
    """CUDA's errors fail a plan as torch's do."""
    channel = running.connect()
    pipeline = Pipeline(channel, 20, 1 << 16)
    op = next(op for op in layers.spec.ops if op.kind is OpKind.LINEAR)
    running.ask(lambda plane: _failing_once(next(iter(plane.seats.values())).channel))
    with pytest.raises(RefusedError) as refused:
        pipeline.run(op, FORWARD, [rows_for(op, 2)])
    assert refused.value.code is RefusalCode.FAILED
    x_TW = rows_for(op, 2)
    assert torch.allclose(pipeline.run(op, FORWARD, [x_TW])[0], layers.apply(op, FORWARD, x_TW), rtol=1e-5)
    channel.close()


def _failing_once(channel: object) -> None:
    """Has the device refuse the next record of an answer."""
    assert isinstance(channel, CudaServerChannel)
    cuda = channel._cuda
    assert isinstance(cuda, FakeCuda)
    record = cuda.record

    def refuse(event: EventNumber, stream: Stream) -> None:
        cuda.record = record  # type: ignore[method-assign]
        raise CudaError("cudaEventRecord", "out of memory (2)")

    cuda.record = refuse  # type: ignore[method-assign]


def _counted(channel: object) -> list[int]:
    """The slots of which the channel is told that they are computed, from now on."""
    assert isinstance(channel, ServesOnDevice)
    told: list[int] = []
    computed = channel.computed

    def tell(slot: int) -> None:
        told.append(slot)
        computed(slot)  # type: ignore[arg-type]

    channel.computed = tell  # type: ignore[method-assign]
    return told
