"""A crew is ordered as one; who ends, answers something else or computes something else is told."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from symbiosis_bench.end_to_end.crew import Crew, NoRoomError, joined, wait_ready
from symbiosis_bench.end_to_end.decode4 import decode4
from symbiosis_bench.end_to_end.jobs import lasted_s, stopped
from symbiosis_bench.end_to_end.kinds import Kind
from symbiosis_bench.end_to_end.memory_share import References, Weighing, check_weighed
from symbiosis_bench.end_to_end.messages import (
    Decode,
    Decoded,
    Judge,
    Judged,
    Measured,
    Message,
    NoRoom,
    Order,
    Shape,
    Train,
    Trained,
    read_message,
)
from symbiosis_bench.end_to_end.pairs import reports
from symbiosis_bench.end_to_end.site import Site
from symbiosis_bench.end_to_end.solo import decode_tax, train_tax
from symbiosis_bench.end_to_end.train4 import train4_gain
from symbiosis_bench.end_to_end.verification import Check
from symbiosis_bench.failure import BenchFailedError
from symbiosis_bench.processes import ChildFailedError, Children
from symbiosis_bench.progress import Progress
from symbiosis_bench.spread import ratios
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
    numbers = itertools.count()

    def start(kind: Kind, *options: str, members: int = 1) -> Crew:
        started = []
        for i in range(members):
            command = [sys.executable, str(DOUBLE), f"--adapter=adapter {i}", *options]
            started.append(children.start(f"{kind}-{i}-{next(numbers)}", command, os.environ))
        crew = Crew(kind, children, started)
        wait_ready(children, [crew])
        return crew

    return start


@pytest.fixture
def site(children: Children[Message], tmp_path: Path) -> Site:
    return Site(SETTINGS, children, Progress(Console(quiet=True)), tmp_path)


def test_answers_come_in_the_order_of_the_members(start: Start) -> None:
    crew = start(Kind.PLAIN, members=4)
    answers = crew.perform(Decoded, [Decode(tokens) for tokens in (4, 3, 2, 5)])
    assert [len(answer.tokens) for answer in answers] == [4, 3, 2, 5]
    assert len(crew.ready) == crew.members == 4


def test_all_have_begun_before_the_first_is_done(start: Start) -> None:
    heard: list[str] = []
    crew = start(Kind.PLAIN)
    crew.perform(
        Trained,
        Train(Shape(1, 8), 2),
        all_began=lambda: heard.append("all began"),
        first_done=lambda: heard.append("first done"),
    )
    assert heard == ["all began", "first done"]


def test_where_one_is_done_before_all_have_begun_there_is_no_time_in_which_all_ran(
    start: Start, children: Children[Message]
) -> None:
    heard: list[str] = []
    crew = joined(children, [start(Kind.SPLIT), start(Kind.SPLIT, "--never-begins")])
    crew.perform(
        Trained,
        Train(Shape(1, 8), 2),
        all_began=lambda: heard.append("all began"),
        first_done=lambda: heard.append("first done"),
    )
    assert heard == []


def test_without_a_round_in_which_all_ran_no_occupancy_is_told(start: Start, site: Site) -> None:
    """These have no daemon, so nobody has looked."""
    crews = [start(kind, members=2) for kind in (Kind.PLAIN, Kind.COPIED, Kind.FORKED, Kind.SPLIT)]
    wanted = frozenset({"decode4_gain", "decode4_occupancy"})
    assert [key for key, _ in decode4(site, wanted, *crews)] == ["decode4_gain"]


def test_a_member_that_dies_is_told_with_its_last_words(start: Start) -> None:
    crew = start(Kind.PLAIN, "--dies-at=2")
    crew.perform(Decoded, Decode(2))
    with pytest.raises(ChildFailedError, match="this order was too much"):
        crew.perform(Decoded, Decode(2))


def test_another_answer_than_was_asked_for_is_an_error(start: Start) -> None:
    with pytest.raises(BenchFailedError, match="plain answered Decoded instead of Trained"):
        start(Kind.PLAIN).perform(Trained, Decode(2))


def test_a_model_that_finds_no_room_is_told_apart_from_one_that_fails(start: Start) -> None:
    with pytest.raises(NoRoomError, match="no room on the GPU for plain-0"):
        start(Kind.PLAIN, "--no-room-at=0")


def test_an_order_that_finds_no_room_is_an_answer_for_who_asks_how_many_fit(start: Start) -> None:
    order = Train(Shape(1, 8), 2)
    answers = start(Kind.PLAIN, "--no-room-at=1", members=2).perform(Measured, order)
    assert [type(answer) for answer in answers] == [NoRoom, NoRoom]
    with pytest.raises(BenchFailedError, match="answered NoRoom instead of Trained"):
        start(Kind.PLAIN, "--no-room-at=1").perform(Trained, order)


def test_jobs_that_were_started_one_by_one_train_as_one_crew(start: Start, children: Children[Message]) -> None:
    one, another = start(Kind.SPLIT, "--adapter=a", members=1), start(Kind.SPLIT, "--adapter=b", members=2)
    whole = joined(children, [one, another])
    assert [ready.adapter for ready in whole.ready] == ["a", "b", "b"]
    trained = whole.perform(Trained, Train(Shape(1, 8), 2))
    assert lasted_s(trained) == pytest.approx(0.02)
    another.end()
    assert len(one.perform(Trained, Train(Shape(1, 8), 2))) == 1


def test_why_no_more_jobs_are_started_is_told() -> None:
    """As many as are ever started may not be as many as fit."""
    assert (stopped(2, most=3), stopped(3, most=3)) == ("no room", "the most that are started")


def test_ended_crews_leave_room_for_others(start: Start, children: Children[Message]) -> None:
    start(Kind.PLAIN).end()
    children.check()
    assert start(Kind.PLAIN).perform(Decoded, Decode(2))[0].tokens == (0, 1)


def test_right_results_are_verified(start: Start, site: Site) -> None:
    pair = start(Kind.PLAIN), start(Kind.SPLIT, "--step-s=0.02")
    for taxed in (train_tax(site, *pair), decode_tax(site, *pair)):
        assert taxed.verified
        assert taxed.median == pytest.approx(2.0)
        assert len(taxed.rounds) == site.scale.rounds


def test_the_figures_of_both_cuts_can_be_computed_from_what_stands_beside_them(start: Start, site: Site) -> None:
    """Lent clients take turns with the others, so one plain time serves both quotients, round by round."""
    crews = start(Kind.PLAIN), start(Kind.SPLIT, "--step-s=0.02"), start(Kind.LENT, "--step-s=0.03")
    decode, train = decode_tax(site, *crews), train_tax(site, *crews)
    assert train.lent is not None
    assert decode.lent is not None
    assert decode.median == pytest.approx(2.0)
    assert decode.lent.median == pytest.approx(3.0)
    for kind, figure in ((Kind.SPLIT, decode), (Kind.LENT, decode.lent)):
        times = ratios(decode.beside[f"{kind}_token_s"].rounds, decode.beside["plain_token_s"].rounds)
        assert times.rounds == figure.rounds
    for kind, figure in ((Kind.SPLIT, train), (Kind.LENT, train.lent)):
        taxes = [train.beside[f"{kind}_tax_{shape}"] for shape in site.scale.train_shapes]
        assert max(tax.median for tax in taxes) == figure.median
    assert len([check for check in train.checks if check.what.startswith("lent training")]) == 4


def test_a_token_is_measured_as_captured_and_as_the_library_makes_it_by_default(start: Start, site: Site) -> None:
    crews = start(Kind.PLAIN), start(Kind.SPLIT), start(Kind.EAGER, "--step-s=0.03")
    taxed = decode_tax(site, *crews)
    assert taxed.median == pytest.approx(1.0)
    assert taxed.beside["eager_tax"].median == pytest.approx(3.0)


@pytest.mark.parametrize("wrong", [Kind.COPIED, Kind.FORKED, Kind.LENT])
def test_everybody_who_decodes_is_compared(start: Start, site: Site, wrong: Kind) -> None:
    """Also those that are only a yardstick: a wrong one could be fast."""
    kinds = (Kind.PLAIN, Kind.COPIED, Kind.FORKED, Kind.SPLIT, Kind.LENT)
    crews = [start(kind, *(["--wrong-token-at=3"] if kind is wrong else []), members=2) for kind in kinds]
    ((_, gained),) = decode4(site, frozenset({"decode4_gain"}), *crews)
    assert {wrong, f"{wrong}_1_thread"} == whose([check for check in gained.checks if not check.passed])


def test_who_is_weighed_and_generates_must_also_read_what_plain_peft_wrote(start: Start, site: Site) -> None:
    """On a random base hardly a token is decided, so the right ones alone say nothing."""
    plain, clients = start(Kind.PLAIN), start(Kind.SPLIT, "--wrong-token-at=3")
    answers = plain.perform(Measured, Decode(8))
    reads: list[Order] = [Judge(tuple(range(8)))]
    references = References(plain, answers, reads, plain.perform(Judged, reads))
    weighed = Weighing(clients, [], [], [], [answers], clients.perform(Judged, reads))
    failed = [check.says for check in check_weighed(site, weighed, references) if not check.passed]
    assert len(failed) == 1
    assert failed[0].startswith("reading the same text they choose alike in 7 of 8 places")


@pytest.mark.parametrize("wrong", [Kind.SPLIT, Kind.LENT])
def test_everybody_who_trains_is_compared(start: Start, site: Site, wrong: Kind) -> None:
    kinds = (Kind.PLAIN, Kind.SPLIT, Kind.LENT)
    crews = [start(kind, *(["--losses-times=1.02"] if kind is wrong else []), members=2) for kind in kinds]
    gained = train4_gain(site, *crews)
    assert gained.lent is not None
    assert {wrong, f"{wrong}_1_thread"} == whose([check for check in gained.checks if not check.passed])


def whose(checks: list[Check]) -> set[str]:
    """Returns the entrants: a check is of `client 0 of lent, round 1`."""
    return {check.what.split()[3].rstrip(",") for check in checks}


def test_a_member_with_another_number_of_threads_than_the_first_is_seen(
    start: Start, children: Children[Message]
) -> None:
    members = [
        children.start(f"plain-{n}", [sys.executable, str(DOUBLE), f"--torch-threads={n}"], os.environ)
        for n in (2, 1)
    ]
    unlike = Crew(Kind.PLAIN, children, members)
    wait_ready(children, [unlike])
    assert reports(unlike)["plain"].startswith("2, 1 threads")
    assert reports(start(Kind.SPLIT, members=2))["split"].startswith("1 threads")


def test_a_lent_client_with_wrong_losses_is_found(start: Start, site: Site) -> None:
    crews = start(Kind.PLAIN), start(Kind.SPLIT), start(Kind.LENT, "--losses-times=1.02")
    assert not train_tax(site, *crews).verified


def test_a_contender_with_wrong_losses_is_found(start: Start, site: Site) -> None:
    pair = start(Kind.PLAIN), start(Kind.SPLIT, "--losses-times=1.02")
    assert not train_tax(site, *pair).verified


def test_a_contender_with_a_wrong_token_is_found(start: Start, site: Site) -> None:
    pair = start(Kind.PLAIN), start(Kind.SPLIT, "--wrong-token-at=3")
    failed = [check.says for check in decode_tax(site, *pair).checks if not check.passed]
    assert failed[0].startswith("the first 3 of 8 tokens are the same")
    assert failed[-1].startswith("reading the same text they choose alike in 7 of 8 places")


def test_a_contender_with_another_adapter_is_found(start: Start, site: Site) -> None:
    pair = start(Kind.PLAIN), start(Kind.SPLIT, "--adapter=another")
    assert not train_tax(site, *pair).verified
