"""A call is admitted exactly when every number in it is one that the op, the slot and the limits allow."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from symbiosis_core.config import LimitsConfig
from symbiosis_core.errors import RefusalCode
from symbiosis_core.ids import OpId
from symbiosis_core.specs import Direction, DType, OpKind, OpSpec
from symbiosis_scheduler.decisions.admission import ALIGNMENT_BYTES, Admission
from symbiosis_transports.ports import Call

SLOT_BYTES = 1 << 16
MAX_ROWS = 200
OPS = (
    # Forward: rows of 64 bytes in, 128 out. Backward: the other way round.
    OpSpec(OpId(0), OpKind.LINEAR, ("q", "k"), 16, (24, 8), DType.FLOAT32),
    # Forward: rows of one 8 byte token id in, 32 bytes out.
    OpSpec(OpId(1), OpKind.EMBEDDING, ("embed",), 1, (16,), DType.BFLOAT16),
)
ADMISSION = Admission(OPS, LimitsConfig(max_rows=MAX_ROWS))


def call(
    op: int = 0, direction: int = 0, rows: int = 4, in_offset: int = 0, out_offset: int = SLOT_BYTES // 2
) -> Call:
    """Returns a call that is good but for what is named."""
    return Call(OpId(op), direction, rows, in_offset, out_offset)  # type: ignore[arg-type]


def refusal(candidate: Call) -> RefusalCode | None:
    return ADMISSION.refusal(candidate, SLOT_BYTES)


@pytest.mark.parametrize("direction", Direction)
def test_a_linear_op_is_admitted_both_ways(direction: Direction) -> None:
    assert refusal(call(direction=direction)) is None


@pytest.mark.parametrize("op", [2, 1 << 31, -1, -2])
def test_an_op_outside_the_catalogue_is_unknown_and_negative_ones_do_not_count_from_the_end(op: int) -> None:
    assert refusal(call(op=op)) is RefusalCode.UNKNOWN_OP


@pytest.mark.parametrize("direction", [2, -1, 255])
def test_a_direction_that_is_none_is_malformed(direction: int) -> None:
    assert refusal(call(direction=direction)) is RefusalCode.MALFORMED


def test_an_embedding_has_a_forward_and_no_backward() -> None:
    assert refusal(call(op=1)) is None
    assert refusal(call(op=1, direction=1)) is RefusalCode.NO_BACKWARD


@pytest.mark.parametrize("rows", [0, -1, MAX_ROWS + 1, 1 << 64])
def test_no_rows_or_too_many_are_bad(rows: int) -> None:
    assert refusal(call(rows=rows)) is RefusalCode.BAD_ROWS


def test_one_row_and_the_limit_itself_are_good() -> None:
    assert refusal(call(rows=1)) is None
    assert refusal(call(rows=MAX_ROWS)) is None


@pytest.mark.parametrize(
    ("in_offset", "out_offset"),
    [
        (-64, SLOT_BYTES // 2),
        (0, -64),
        (SLOT_BYTES // 2, -64),
        (SLOT_BYTES - 192, 0),  # 4 rows in need 256 bytes
        (0, SLOT_BYTES - 448),  # 4 rows out need 512
        (SLOT_BYTES, 0),
        (1 << 64, 0),
        (0, (1 << 64) - 512),  # would come round to 0 in 64 bits
        (1, SLOT_BYTES // 2),
        (0, SLOT_BYTES // 2 + 32),
        (0, 0),
        (0, 192),  # the last row in is the first row out
        (448, 0),  # the last row out is the first row in
    ],
)
def test_regions_outside_the_slot_or_misaligned_or_overlapping_are_bad(in_offset: int, out_offset: int) -> None:
    assert refusal(call(in_offset=in_offset, out_offset=out_offset)) is RefusalCode.BAD_REGION


@pytest.mark.parametrize(
    ("in_offset", "out_offset"), [(0, 256), (512, 0), (SLOT_BYTES - 256, 0), (0, SLOT_BYTES - 512)]
)
def test_regions_may_touch_each_other_and_the_slots_ends(in_offset: int, out_offset: int) -> None:
    assert refusal(call(in_offset=in_offset, out_offset=out_offset)) is None


def test_backward_exchanges_the_widths() -> None:
    # 4 rows in are 512 bytes now and 4 rows out 256.
    assert refusal(call(direction=1, in_offset=0, out_offset=448)) is RefusalCode.BAD_REGION
    assert refusal(call(direction=1, in_offset=0, out_offset=512)) is None
    assert refusal(call(direction=1, in_offset=256, out_offset=0)) is None


wild = st.integers(-(1 << 65), 1 << 65)
near = st.integers(-2, SLOT_BYTES // ALIGNMENT_BYTES + 2).map(lambda line: line * ALIGNMENT_BYTES)


@given(
    op=st.integers(-1, 2) | wild,
    direction=st.integers(-1, 2) | wild,
    rows=st.integers(-1, MAX_ROWS + 1) | wild,
    in_offset=near | wild,
    out_offset=near | wild,
)
@example(op=0, direction=0, rows=4, in_offset=0, out_offset=256)
def test_what_is_admitted_touches_only_its_own_two_regions(
    op: int, direction: int, rows: int, in_offset: int, out_offset: int
) -> None:
    """The rules once more, told byte by byte."""
    admitted = refusal(call(op, direction, rows, in_offset, out_offset)) is None
    if (
        op not in (0, 1)
        or direction not in (0, 1)
        or (op, direction) == (1, 1)
        or rows not in range(1, MAX_ROWS + 1)
    ):
        assert not admitted
        return
    bytes_in, bytes_out = {(0, 0): (64, 128), (0, 1): (128, 64), (1, 0): (8, 32)}[op, direction]
    reads = range(in_offset, in_offset + rows * bytes_in)
    writes = range(out_offset, out_offset + rows * bytes_out)
    slot = range(SLOT_BYTES)
    good = (
        all(region[0] in slot and region[-1] in slot for region in (reads, writes))
        and (reads[-1] < writes[0] or writes[-1] < reads[0])
        and reads[0] % 64 == writes[0] % 64 == 0
    )
    assert admitted == good
