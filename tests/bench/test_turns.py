"""Nobody is favoured by the order: it is drawn by a seed, and turned round in the next round."""

from __future__ import annotations

from symbiosis_bench.end_to_end.turns import said, turns


def test_in_two_rounds_each_comes_before_each_other_once() -> None:
    for first, second in (turns("abc", 2, seed, "x") for seed in range(20)):
        assert sorted(first) == ["a", "b", "c"]
        assert second == first[::-1]


def test_in_a_single_round_the_seed_decides_who_comes_first() -> None:
    firsts = {turns("ab", 1, seed, "x")[0][0] for seed in range(20)}
    assert firsts == {"a", "b"}


def test_every_second_round_is_drawn_anew() -> None:
    drawn = {tuple(turns("abc", 3, seed, "x")[2]) == tuple(turns("abc", 3, seed, "x")[0]) for seed in range(20)}
    assert drawn == {True, False}


def test_a_seed_gives_the_same_order_again_and_not_in_every_measurement() -> None:
    assert turns("abcd", 4, 7, "x") == turns("abcd", 4, 7, "x")
    assert len({said(turns("abcd", 4, 7, what)) for what in "stuvwxyz"}) > 1


def test_the_order_is_told() -> None:
    assert said([["plain", "split"], ["split", "plain"]]) == "plain, split; split, plain"
