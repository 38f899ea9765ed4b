"""The plan puts every module into one trip, and says where it falls short of what was asked for."""

from __future__ import annotations

import msgspec
import pytest

from symbiosis_adapters.trips.cut import Cut, plan
from symbiosis_core.errors import RemoteProtocolError
from symbiosis_core.ids import OpId
from symbiosis_core.specs import OpSpec
from tests.adapters.local import LAYERS, Pair


def test_siblings_take_each_member_once_and_linear_takes_none() -> None:
    spec = Pair("llama").spec
    together, apart = plan(spec, Cut.SIBLINGS), plan(spec, Cut.LINEAR)
    assert (together.cut, len(together.groups), together.reasons) == (Cut.SIBLINGS, 2 * LAYERS, ())
    assert (apart.cut, apart.groups, apart.reasons) == (Cut.LINEAR, (), ())
    assert together.ops == apart.ops
    assert len(apart.ops) == 7 * LAYERS + 2


def test_without_sibling_ops_the_plan_says_why_it_is_linear() -> None:
    planned = plan(Pair("gpt2").spec, Cut.SIBLINGS)
    assert planned.cut is Cut.LINEAR
    assert planned.reasons == ("the daemon offers no sibling ops for this model",)


def test_the_graph_is_what_is_cut_unless_something_else_is_asked_for() -> None:
    for name in ("llama", "gpt2"):
        spec = Pair(name).spec
        planned, siblings = plan(spec), plan(spec, Cut.SIBLINGS)
        assert planned.cut is Cut.GRAPH
        assert (planned.ops, planned.groups) == (siblings.ops, siblings.groups)


def test_overlapping_groups_give_the_larger_one() -> None:
    spec = Pair("llama").spec
    fused = next(op for op in spec.ops if len(op.members) == 3)
    pair = OpSpec(OpId(99), fused.kind, fused.members[:2], fused.width_in, fused.widths_out[:2], fused.dtype)
    planned = plan(msgspec.structs.replace(spec, ops=(pair, *spec.ops)))
    assert pair not in planned.groups
    assert planned.reasons == (f"{pair.name}: not used, a member already belongs to another group",)


@pytest.mark.parametrize("change", [{"width_in": 31}, {"members": ("x", "y", "z")}, {"widths_out": (32, 16, 8)}])
def test_a_group_that_contradicts_its_members_is_refused(change: dict[str, object]) -> None:
    spec = Pair("llama").spec
    ops = tuple(msgspec.structs.replace(op, **change) if len(op.members) == 3 else op for op in spec.ops)
    with pytest.raises(RemoteProtocolError, match=r"alone has another shape|is not offered as a linear"):
        plan(msgspec.structs.replace(spec, ops=ops))
