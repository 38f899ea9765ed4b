"""A contender that computes something else is found; one that rounds differently is not accused."""

from __future__ import annotations

import pytest

from symbiosis_bench.end_to_end.messages import Decoded, Judged, Trained
from symbiosis_bench.end_to_end.verification import MARGIN, Verifier

EXACT, ROUNDED = Verifier("float32"), Verifier("bfloat16")


def trained(*losses: float | None) -> Trained:
    return Trained(losses=losses, stamps_s=tuple(range(len(losses) + 1)))


def decoded(*tokens: int) -> Decoded:
    return Decoded(tokens=tokens, stamps_s=tuple(range(len(tokens))))


def judged(*choices: int, margin: float = 2.0, surprise: float | None = 1.5) -> Judged:
    return Judged(choices=choices, margins=(margin,) * len(choices), surprise=surprise)


@pytest.mark.parametrize("verifier", [EXACT, ROUNDED])
def test_the_same_is_the_same(verifier: Verifier) -> None:
    assert verifier.losses("x", trained(3.0, 2.9), trained(3.0, 2.9)).passed
    assert verifier.tokens("x", decoded(1, 2, 3), decoded(1, 2, 3), judged(1, 2, 3)).passed
    assert verifier.reading("x", judged(1, 2, 3), judged(1, 2, 3)).passed
    assert verifier.adapters("x", "abc", "abc").passed


@pytest.mark.parametrize(
    ("losses", "exact", "rounded"),
    [
        ((3.0, 2.900001), True, True),
        ((3.0, 2.9001), False, True),
        ((3.0, 2.95), False, False),
        ((2.9, 3.0), False, False),
        ((3.0, None), False, False),
        ((3.0,), False, False),
        ((), False, False),
    ],
)
def test_a_wrong_loss_is_found(losses: tuple[float | None, ...], exact: bool, rounded: bool) -> None:
    reference = trained(3.0, 2.9)
    assert EXACT.losses("x", trained(*losses), reference).passed is exact
    assert ROUNDED.losses("x", trained(*losses), reference).passed is rounded


def test_a_loss_that_is_no_number_is_never_the_same() -> None:
    assert not ROUNDED.losses("x", trained(None), trained(None)).passed


def test_a_token_that_differs_where_the_reference_was_sure_is_found() -> None:
    for verifier in (EXACT, ROUNDED):
        check = verifier.tokens("x", decoded(1, 7, 3), decoded(1, 2, 3), judged(1, 2, 3, margin=MARGIN))
        assert not check.passed
        assert check.says == "the first 1 of 3 tokens are the same; there the reference's margin is 0.500"


def test_a_token_that_differs_where_it_hardly_mattered_is_rounding() -> None:
    """In float32 nothing is."""
    unsure = judged(1, 2, 3, margin=0.1)
    assert ROUNDED.tokens("x", decoded(1, 7, 9), decoded(1, 2, 3), unsure).passed
    assert not EXACT.tokens("x", decoded(1, 7, 9), decoded(1, 2, 3), unsure).passed


@pytest.mark.parametrize("ours", [(1, 2), (1, 2, 3, 4), ()])
def test_a_text_of_another_length_is_found(ours: tuple[int, ...]) -> None:
    unsure = judged(1, 2, 3, margin=0.1)
    assert not ROUNDED.tokens("x", decoded(*ours), decoded(1, 2, 3), unsure).passed


def test_readers_must_choose_alike_where_it_is_decided() -> None:
    assert not ROUNDED.reading("x", judged(1, 7), judged(1, 2)).passed
    assert ROUNDED.reading("x", judged(1, 7), judged(1, 2, margin=0.1)).passed
    assert not EXACT.reading("x", judged(1, 7), judged(1, 2, margin=0.1)).passed


def test_readers_must_be_equally_surprised() -> None:
    """Another adapter may leave every likeliest token where it is, and still be another one."""
    assert ROUNDED.reading("x", judged(1, surprise=1.501), judged(1)).passed
    assert not ROUNDED.reading("x", judged(1, surprise=1.6), judged(1)).passed
    assert not ROUNDED.reading("x", judged(1, surprise=None), judged(1)).passed


def test_readers_of_different_texts_are_found() -> None:
    assert not ROUNDED.reading("x", judged(1), judged(1, 2)).passed


def test_another_adapter_is_found() -> None:
    assert not ROUNDED.adapters("x", "abc", "abd").passed
