"""What crosses the border has stated widths, element types and names."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from symbiosis_core.ids import OpId
from symbiosis_core.specs import Direction, DType, OpKind, OpSpec, TensorKind, TensorSpec

QK = OpSpec(OpId(4), OpKind.LINEAR, ("l.0.attn.q", "l.0.attn.k"), 576, (576, 192), DType.BFLOAT16)
EMBEDDING = OpSpec(OpId(0), OpKind.EMBEDDING, ("embed",), 1, (576,), DType.BFLOAT16)


@pytest.mark.parametrize("dtype", DType)
def test_an_element_is_as_large_as_numpy_has_it(dtype: DType) -> None:
    numpys = {DType.BFLOAT16: "uint16"}  # numpy has no bfloat16
    assert dtype.itemsize == np.dtype(numpys.get(dtype, dtype.name.lower())).itemsize


def test_zero_is_no_dtype_so_that_empty_memory_is_none() -> None:
    assert 0 not in list(DType)


def test_dtype_numbers_are_stable() -> None:
    """They stand in arenas and on the wire."""
    assert {dtype.name: int(dtype) for dtype in DType} == {
        "FLOAT32": 1, "BFLOAT16": 2, "FLOAT16": 3, "INT64": 4, "FLOAT64": 5, "INT32": 6, "BOOL": 7, "UINT8": 8,
        "INT8": 9,
    }  # fmt: skip
    assert {direction.name: int(direction) for direction in Direction} == {"FORWARD": 0, "BACKWARD": 1}


def test_fused_siblings_stand_side_by_side_in_one_row() -> None:
    assert QK.width_out == 768
    assert QK.row_in(Direction.FORWARD) == (576, DType.BFLOAT16)
    assert QK.row_out(Direction.FORWARD) == (768, DType.BFLOAT16)


def test_backward_maps_the_output_gradient_to_the_input_gradient() -> None:
    assert QK.row_in(Direction.BACKWARD) == QK.row_out(Direction.FORWARD)
    assert QK.row_out(Direction.BACKWARD) == QK.row_in(Direction.FORWARD)


def test_an_embedding_takes_token_ids() -> None:
    assert EMBEDDING.row_in(Direction.FORWARD) == (1, DType.INT64)
    assert EMBEDDING.row_out(Direction.FORWARD) == (576, DType.BFLOAT16)


@pytest.mark.parametrize(
    ("members", "name"),
    [
        (("embed",), "embed"),
        (("l.0.attn.q", "l.0.attn.k"), "l.0.attn.{q,k}"),
        (("q", "k"), ".{q,k}"),
        (("l.0.q", "l.1.q"), "{l.0.q,l.1.q}"),
    ],
)
def test_an_op_is_named_after_its_members(members: tuple[str, ...], name: str) -> None:
    op = OpSpec(OpId(0), OpKind.LINEAR, members, 1, (1,) * len(members), DType.FLOAT32)
    assert op.name == name


@pytest.mark.parametrize(("shape", "nbytes"), [((), 2), ((576,), 1152), ((3, 0, 4), 0), ((2, 3), 12)])
def test_a_tensors_bytes_are_the_product_of_its_shape(shape: tuple[int, ...], nbytes: int) -> None:
    assert TensorSpec("norm", TensorKind.PARAMETER, DType.BFLOAT16, shape).nbytes == nbytes


def test_a_catalogue_of_many_ops_is_written_without_field_names() -> None:
    assert b"width_in" not in msgspec.msgpack.encode(QK)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(QK), type=OpSpec) == QK


def test_an_op_with_an_unknown_dtype_is_refused() -> None:
    raw = msgspec.msgpack.encode([0, "linear", ["a"], 1, [1], 0])
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(raw, type=OpSpec)
