"""A crew is ordered as one; who ends, answers something else or computes something else is told."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from symbiosis_bench.end_to_end.crew import Crew, wait_ready
from symbiosis_bench.end_to_end.messages import Decode, Decoded, Message, Shape, Train, Trained, read_message
from symbiosis_bench.end_to_end.site import Site
from symbiosis_bench.end_to_end.solo import decode_tax, train_tax
from symbiosis_bench.failure import BenchFailedError
from symbiosis_bench.processes import ChildFailedError, Children
from symbiosis_bench.progress import Progress
from tests.bench.test_report import SETTINGS

DOUBLE = Path(__file__).with_name("contender_double.py")
Start = Callable[..., Crew]


@pytest.fixture
def children(tmp_path: Path) -> Iterator[Children[Message]]:
    with Children(tmp_path, read_message) as made:
        yield made


@pytest.fixture
def start(children: Children[Message]) -> Start:
    """Starts a crew of doubles that is ready."""

    def start(name: str, *options: str, members: int = 1) -> Crew:
        command = [sys.executable, str(DOUBLE), *options]
        crew = Crew(name, children, [children.start(f"{name}-{i}", command, os.environ) for i in range(members)])
        wait_ready(children, [crew])
        return crew

    return start


@pytest.fixture
def site(children: Children[Message], tmp_path: Path) -> Site:
    return Site(SETTINGS, children, Progress(Console(quiet=True)), tmp_path)


def test_answers_come_in_the_order_of_the_members(start: Start) -> None:
    crew = start("four", members=4)
    answers = crew.perform(Decoded, [Decode(tokens) for tokens in (4, 3, 2, 5)])
    assert [len(answer.tokens) for answer in answers] == [4, 3, 2, 5]
    assert len(crew.ready) == crew.members == 4


def test_all_have_begun_before_the_first_is_done(start: Start) -> None:
    heard: list[str] = []
    crew = start("one")
    crew.perform(
        Trained,
        Train(Shape(1, 8), 2),
        all_began=lambda: heard.append("all began"),
        first_done=lambda: heard.append("first done"),
    )
    assert heard == ["all began", "first done"]


def test_a_member_that_dies_is_told_with_its_last_words(start: Start) -> None:
    crew = start("frail", "--dies-at=2")
    crew.perform(Decoded, Decode(2))
    with pytest.raises(ChildFailedError, match="this order was too much"):
        crew.perform(Decoded, Decode(2))


def test_another_answer_than_was_asked_for_is_an_error(start: Start) -> None:
    with pytest.raises(BenchFailedError, match="confused answered Decoded instead of Trained"):
        start("confused").perform(Trained, Decode(2))


def test_ended_crews_leave_room_for_others(start: Start, children: Children[Message]) -> None:
    start("first").end()
    children.check()
    assert start("second").perform(Decoded, Decode(2))[0].tokens == (0, 1)


def test_right_results_are_verified(start: Start, site: Site) -> None:
    pair = start("plain"), start("split", "--step-s=0.02")
    for taxed in (train_tax(site, pair), decode_tax(site, pair)):
        assert taxed.verified
        assert taxed.median == pytest.approx(2.0)
        assert len(taxed.rounds) == site.scale.rounds


def test_a_contender_with_wrong_losses_is_found(start: Start, site: Site) -> None:
    pair = start("plain"), start("split", "--losses-times=1.02")
    assert not train_tax(site, pair).verified


def test_a_contender_with_a_wrong_token_is_found(start: Start, site: Site) -> None:
    pair = start("plain"), start("split", "--wrong-token-at=3")
    failed = [check.says for check in decode_tax(site, pair).checks if not check.passed]
    assert failed[0].startswith("the first 3 of 8 tokens are the same")
    assert failed[-1].startswith("reading the same text they choose alike in 7 of 8 places")


def test_a_contender_with_another_adapter_is_found(start: Start, site: Site) -> None:
    pair = start("plain"), start("split", "--adapter=another")
    assert not train_tax(site, pair).verified
