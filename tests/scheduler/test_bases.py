"""A name means one base; without a name the only one is meant, or the one that is marked."""

from __future__ import annotations

import pytest

from symbiosis_core.errors import BusyError, RefusalCode, RefusedError, UsageError
from symbiosis_core.segments import Fn, Node, Segment
from symbiosis_core.specs import DType, Plane
from symbiosis_scheduler.bases import Bases
from symbiosis_scheduler.frozen.layers import FrozenLayers
from symbiosis_scheduler.frozen.loading import LoadedModel
from symbiosis_scheduler.segments import Segments
from tests.scheduler.tiny_models import tiny


def holding(*names: str, default: str = "") -> Bases:
    return Bases(
        [FrozenLayers(LoadedModel(name, "someone/tiny", DType.FLOAT32, tiny("llama"))) for name in names], default
    )


def test_the_only_base_needs_no_name() -> None:
    bases = holding("a")
    assert bases.find("").name == bases.find("a").name == bases.default == "a"


def test_a_base_is_found_by_its_name() -> None:
    bases = holding("a", "b")
    assert [bases.find(name).id for name in ("a", "b")] == [0, 1]
    assert bases.find("b").layers.spec.name == "b"


def test_of_several_the_marked_one_is_meant_where_nobody_names_one() -> None:
    assert holding("a", "b", default="b").find("").name == "b"


@pytest.mark.parametrize("name", ["", "c", "A"])
def test_what_means_none_or_several_is_refused_with_the_names(name: str) -> None:
    with pytest.raises(RefusedError, match="its models are: a, b") as caught:
        holding("a", "b").find(name)
    assert caught.value.code is RefusalCode.UNKNOWN_MODEL


def test_two_bases_do_not_share_a_name() -> None:
    with pytest.raises(UsageError, match="two models are called 'a'"):
        holding("a", "b", "a")


def test_the_limit_of_segments_is_for_all_bases_together() -> None:
    bases = holding("a", "b")
    segments, fits = Segments(bases, 1), Segment((Plane(32, DType.FLOAT32),), (), (Node(Fn.SILU, (0,)),), (1,))
    first, program = segments.learn(bases.find("a"), fits)
    assert program is not None and first.id == len(bases.find("a").layers.spec.ops)
    assert segments.learn(bases.find("a"), fits) == (first, None)
    with pytest.raises(BusyError, match="knows 1 segments"):
        segments.learn(bases.find("b"), fits)
