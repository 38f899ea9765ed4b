"""An account adds up what its tenant says, until the measured phase is over."""

from __future__ import annotations

import math

from symbiosis_bench.demo.accounts import Account
from symbiosis_bench.demo.progress import Answered, Finished, Ready, Step, Tokens


def account() -> Account:
    return Account("persona", "training", "LoRA r=8 q, v")


def test_steps_are_kept_and_rows_are_those_since_the_start() -> None:
    made = account()
    made.take(Step(1, 4.0, 96))
    made.take(Step(2, 3.0, 200))
    assert (made.losses, made.rows, made.progressed) == ([4.0, 3.0], 200, True)


def test_tokens_add_up() -> None:
    made = account()
    made.take(Tokens(1, 33, ()))
    made.take(Tokens(2, 2, (50.0, 60.0)))
    assert (made.tokens, made.rows, made.decode_ms, made.progressed) == (3, 35, [50.0, 60.0], True)


def test_being_ready_and_finished_is_no_progress() -> None:
    made = account()
    made.take(Ready(10))
    made.take(Finished())
    assert not made.progressed


def test_after_the_measured_phase_only_the_last_word_counts() -> None:
    made = account()
    made.take(Step(1, 4.0, 96))
    made.close()
    made.take(Step(2, 3.0, 200))
    made.take(Tokens(1, 1, (5.0,)))
    made.take(Answered("Who?", "Me."))
    made.take(Finished("/out/persona"))
    assert (made.losses, made.rows, made.tokens, made.answered) == ([4.0], 96, 0, None)
    assert made.finished == Finished("/out/persona")


def test_a_loss_that_is_not_a_number_stays_none() -> None:
    made = account()
    made.take(Step(1, None, 96))
    assert math.isnan(made.losses[0])
