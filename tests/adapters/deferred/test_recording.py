"""A recording grows by references, merges with others, and sends what somebody can still see."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from symbiosis_adapters.deferred.recording import NodeKey, Recording
from symbiosis_adapters.deferred.tensor import pending, value_of
from symbiosis_adapters.trips.cut import Cut
from symbiosis_core.errors import UsageError
from symbiosis_core.segments import Fn, Segment
from symbiosis_core.specs import DType, Plane
from tests.adapters.local import LayerRows, Pair

D, WIDE = 32, 48


@pytest.fixture
def pair() -> Pair:
    return Pair("llama")


@pytest.fixture
def block(pair: Pair) -> Any:
    return pair.remote(Cut.GRAPH).model.layers[0]


@pytest.fixture
def plain(pair: Pair) -> Any:
    return pair.plain().requires_grad_(False).model.layers[0]


def sent(rows: LayerRows) -> list[Segment]:
    """The segments that were learned, in order."""
    return [program.spec.segment for program in rows.programs.values()]


def of(x: Any) -> Recording:
    found = x._recording
    assert isinstance(found, Recording)
    return found


def test_references_are_odd_for_tensors_even_for_vectors_and_never_given_twice(block: Any) -> None:
    h = block.self_attn.o_proj(torch.ones(2, D))
    recording = of(h)
    a, b = torch.ones(2, D), torch.ones(2, 1)
    assert [recording.input(x) for x in (a, b, a, b)] == [-3, -5, -3, -5]
    assert [recording.vector(name) for name in ("v", "w", "v")] == [-2, -4, -2]
    assert (len(recording.inputs), recording.tensors) == (3, ["v", "w"])


def test_a_tensor_read_twice_is_sent_once(pair: Pair, block: Any) -> None:
    x = torch.ones(2, D)
    total = block.self_attn.o_proj(x) + x
    (total * x).sum()
    (segment,) = sent(pair.rows)
    assert [plane.width for plane in segment.inputs] == [D]


def test_work_on_a_tensor_that_is_read_already_joins_its_recording(pair: Pair, block: Any, plain: Any) -> None:
    x = torch.ones(2, D)
    first, second = block.self_attn.o_proj(x), block.mlp.gate_proj(x)
    assert of(first) is of(second)
    torch.testing.assert_close(second.clone(), plain.mlp.gate_proj(x))
    assert not pending(first)
    assert len(pair.rows.trips) == 1


def test_recordings_merge_where_their_values_meet(pair: Pair, block: Any, plain: Any) -> None:
    x, y = torch.randn(2, D), torch.randn(2, D)

    def meet(block: Any) -> tuple[Tensor, Tensor]:
        a, b = block.self_attn.o_proj(x) + x, block.self_attn.o_proj(y) * y
        extra = b + x
        return a * b + y, extra

    mine, extra = meet(block)
    assert of(mine) is of(extra)
    total, wanted = meet(plain)
    torch.testing.assert_close((mine.clone(), extra.clone()), (total, wanted))
    assert len(pair.rows.trips) == 1
    (segment,) = sent(pair.rows)
    assert [plane.width for plane in segment.inputs] == [D, D]


def test_what_nobody_sees_does_not_cross_and_is_not_computed(pair: Pair, block: Any) -> None:
    x = torch.ones(2, D)
    h = block.self_attn.o_proj(x)
    unseen = F.silu(h) * 3
    kept = h * 2
    y = kept + 1
    del unseen, h
    y.sum()
    (segment,) = sent(pair.rows)
    assert [node.fn for node in segment.nodes] == [Fn.LINEAR, Fn.MUL, Fn.ADD]
    assert len(segment.outputs) == 2
    assert not pending(kept)


def test_an_input_that_nothing_wanted_reads_is_not_sent_and_may_change(pair: Pair, block: Any) -> None:
    x, other = torch.ones(2, D), torch.ones(2, D)
    h = block.self_attn.o_proj(x)
    dead = h + other
    del dead
    other.add_(1)
    h.sum()
    (segment,) = sent(pair.rows)
    assert len(segment.inputs) == 1


def test_equal_recordings_are_one_segment(pair: Pair, block: Any) -> None:
    for rows in (1, 5):
        x = torch.ones(rows, D)
        (block.self_attn.o_proj(x) + x).sum()
    assert len(sent(pair.rows)) == 1
    assert [trip.rows for trip in pair.rows.trips] == [1, 5]


def test_a_modified_input_is_an_error_for_what_was_recorded_before(block: Any, plain: Any) -> None:
    x = torch.ones(2, D)
    before = block.self_attn.o_proj(x)
    x.add_(1)
    after = block.self_attn.o_proj(x)
    with pytest.raises(UsageError, match=r"a tensor of shape \(2, 32\) was modified in place"):
        before.sum()
    del before
    torch.testing.assert_close(after.clone(), plain.self_attn.o_proj(x))


@pytest.mark.parametrize("older_first", [True, False])
def test_merging_keeps_the_states_of_a_tensor_apart(block: Any, plain: Any, older_first: bool) -> None:
    u, v, x = torch.ones(2, D), torch.ones(2, D), torch.ones(2, D)

    def meet(block: Any, x: Tensor) -> Any:
        older = block.self_attn.o_proj(u) + x
        x = x.add_(1) if x.is_inference() else x + 1
        newer = block.self_attn.o_proj(v) + x
        return older * newer if older_first else newer * older

    with torch.inference_mode():
        found = meet(block, torch.ones(2, D)).clone()
        torch.testing.assert_close(found, meet(plain, torch.ones(2, D)))
    older = block.self_attn.o_proj(u) + x
    x.add_(1)
    newer = block.self_attn.o_proj(v) + x
    mixed = older * newer if older_first else newer * older
    with pytest.raises(UsageError, match="modified in place"):
        mixed.sum()


def test_other_rows_or_modes_are_computed_apart(pair: Pair, block: Any, plain: Any) -> None:
    def mix(block: Any) -> Tensor:
        with torch.no_grad():
            a = block.self_attn.o_proj(torch.ones(2, D))
        b = block.self_attn.o_proj(torch.ones(1, D))
        return (a + b).clone()  # type: ignore[no-any-return]

    torch.testing.assert_close(mix(block), mix(plain))
    assert sorted(trip.rows for trip in pair.rows.trips) == [1, 2]


def test_models_do_not_record_for_each_other() -> None:
    """Both catalogues have an op 3, which is another layer in each."""
    pairs = [Pair("llama"), Pair("gpt2")]
    llama, gpt2 = (pair.remote(Cut.GRAPH) for pair in pairs)
    here, there = (pair.plain().requires_grad_(False) for pair in pairs)
    x = torch.randn(2, D)
    found = gpt2.transformer.h[0].attn.c_proj(llama.model.layers[0].self_attn.o_proj(x))
    expected = there.transformer.h[0].attn.c_proj(here.model.layers[0].self_attn.o_proj(x))
    torch.testing.assert_close(found.clone(), expected)
    a, b = llama.model.layers[0].self_attn.o_proj(x), gpt2.transformer.h[0].attn.c_proj(x)
    expected = here.model.layers[0].self_attn.o_proj(x) * there.transformer.h[0].attn.c_proj(x)
    torch.testing.assert_close((a * b).clone(), expected)


def test_another_thread_takes_the_value_and_records_apart(block: Any, plain: Any) -> None:
    x = torch.ones(2, D)
    h = block.self_attn.o_proj(x)
    made: list[Any] = []
    thread = threading.Thread(target=lambda: made.append(block.self_attn.o_proj(h)))
    thread.start()
    thread.join()
    assert not pending(h)
    torch.testing.assert_close(made[0].clone(), plain.self_attn.o_proj(plain.self_attn.o_proj(x)))


def test_several_threads_may_look_at_one_tensor(pair: Pair, block: Any, plain: Any) -> None:
    h = block.self_attn.o_proj(torch.ones(2, D))
    start, found = threading.Barrier(4), list[Tensor]()

    def look() -> None:
        start.wait()
        found.append(value_of(h))

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(value) for value in found}) == 1
    assert len(pair.rows.trips) == 1


def test_a_recording_too_long_for_one_segment_is_computed_half_way(pair: Pair, block: Any) -> None:
    h = block.self_attn.o_proj(torch.ones(1, D))
    expected = value_of(block.self_attn.o_proj(torch.ones(1, D)))
    pair.rows.trips.clear()
    for _ in range(1000):
        h, expected = h + 1, expected + 1
    torch.testing.assert_close(h.clone(), expected)
    assert len(pair.rows.trips) == 1
    assert all(len(segment.nodes) <= 512 for segment in sent(pair.rows))


def test_more_values_than_one_trip_carries_take_several(pair: Pair, block: Any) -> None:
    x = torch.ones(1, D)
    kept = [block.self_attn.o_proj(x) * (index + 1) for index in range(70)]
    expected = kept[0].clone()
    for index, each in enumerate(kept):
        torch.testing.assert_close(each.clone(), expected * (index + 1))
    inputs = [block.self_attn.o_proj(torch.ones(1, D)) for _ in range(70)]
    total = inputs[0]
    for each in inputs[1:]:
        total = total + each
    torch.testing.assert_close(total.clone(), expected * 70, rtol=1e-4, atol=1e-5)
    assert all(len(segment.inputs) + len(segment.outputs) <= 64 for segment in sent(pair.rows))


def test_wide_values_do_not_exceed_what_a_row_may_take(pair: Pair, block: Any) -> None:
    h = block.self_attn.o_proj(torch.ones(1, D))
    recording = of(h)
    before = recording.row_bytes
    assert before == 4 * D
    while not recording.full and len(recording.nodes) < 20:
        recording.add(NodeKey("neg", (0,)), Plane(1 << 18, DType.FLOAT32), weakref.ref(h))
    assert recording.full
    assert recording.row_bytes < 4 << 20
    value_of(h)
    assert len(pair.rows.trips) == 1


@pytest.mark.parametrize("grad", [True, False])
def test_nothing_stays_alive_after_its_last_name(block: Any, grad: bool) -> None:
    gc.collect()
    gc.disable()
    try:
        x = torch.ones(2, D, requires_grad=grad) * 1
        h = block.self_attn.o_proj(x)
        view, y = h.view(1, 2, D), block.mlp.gate_proj(h + x)
        recording = of(h)
        refs = [weakref.ref(each) for each in (x, h, view, y, recording)]
        y.sum()
        refs.append(weakref.ref(value_of(h)))
        del x, h, view, y, recording
        assert [ref() for ref in refs] == [None] * len(refs)
        x = torch.ones(2, D, requires_grad=grad) * 1
        h = block.self_attn.o_proj(x)
        refs = [weakref.ref(each) for each in (x, h, of(h))]
        del x, h
        assert [ref() for ref in refs] == [None] * len(refs)
    finally:
        gc.enable()


def test_a_computed_tensor_lets_go_of_its_recording(block: Any) -> None:
    x = torch.ones(2, D)
    h = block.self_attn.o_proj(x)
    ref = weakref.ref(x)
    h.sum()
    del x
    assert ref() is None
    assert not pending(h)
