"""The summary holds what was measured under the promised keys, and says whether the run was a success."""

from __future__ import annotations

import io
import json
import math

import msgspec
import pytest
from rich.console import Console

from symbiosis_bench.demo.summary import FALLS_FROM_STEPS, Summary, complaints, show, summarize
from tests.bench.samples import BASE_BYTES, MACHINE, held, outcome

FALLING = [4.0 - 0.1 * step for step in range(20)]


def test_the_keys_are_the_promised_ones() -> None:
    told = json.loads(msgspec.json.encode(summarize(outcome(FALLING), MACHINE)))
    assert list(told) == [
        "base",
        "tenants",
        "inference",
        "memory",
        "batches",
        "seconds",
        "machine",
        "before_after",
    ]
    assert list(told["base"]) == ["name", "dtype", "bytes", "fingerprint"]
    assert list(told["tenants"][0]) == [
        "name",
        "method",
        "lane",
        "steps",
        "loss_first",
        "loss_last",
        "rows_per_s",
        "trainable_parameters",
        "adapter",
    ]
    assert list(told["inference"]) == ["tokens", "p50_ms", "p99_ms"]
    assert {"pss_daemon_bytes", "pss_clients_bytes", "dedicated_bytes"} < set(told["memory"])
    assert list(told["batches"]) == ["count", "requests", "rows", "clients"]


def test_the_figures_are_those_of_the_outcome() -> None:
    told = summarize(outcome(FALLING), MACHINE)
    persona = told.tenants[0]
    assert [tenant.name for tenant in told.tenants] == ["persona", "pydocs", "bookings"]
    assert (persona.steps, persona.rows_per_s, persona.trainable_parameters) == (20, 192.0, 460_800)
    assert persona.loss_first == pytest.approx(3.8)
    assert persona.loss_last == pytest.approx(2.3)
    assert persona.adapter == "/out/persona"
    assert (told.inference.tokens, told.inference.p50_ms, told.inference.p99_ms) == (40, 50.0, 99.0)
    assert told.memory.dedicated_bytes == 2_000_000_000 + 4 * BASE_BYTES
    assert (told.batches.count, told.batches.requests, told.batches.rows, told.batches.clients) == (
        1000,
        1200,
        50_000,
        1100,
    )
    assert (told.base.bytes, told.seconds) == (BASE_BYTES, 10.0)
    assert (told.before_after.before, told.before_after.after) == (
        "My name is [bold]Elena[/bold].",
        "Ahoy!\nI am.",
    )


def test_a_kernel_that_does_not_tell_memory_leaves_null() -> None:
    told = summarize(outcome(FALLING, memory=held(None, None)), MACHINE)
    assert (told.memory.pss_daemon_bytes, told.memory.dedicated_bytes) == (None, None)


def complaints_of(losses: list[float], tokens: int = 40) -> list[str]:
    return complaints(summarize(outcome(losses, tokens), MACHINE))


def test_a_run_in_which_all_progress_and_losses_fall_is_a_success() -> None:
    assert complaints_of(FALLING) == []


def test_a_tenant_without_a_step_or_a_token_makes_it_none() -> None:
    assert complaints_of([], tokens=0) == [
        "persona made no step in 10 s",
        "pydocs made no step in 10 s",
        "bookings made no step in 10 s",
        "chat made no token in 10 s",
    ]


@pytest.mark.parametrize("losses", [[2.0] * 12, list(range(12)), [4.0] * 6 + [math.nan] * 6])
def test_a_loss_that_does_not_fall_makes_it_none(losses: list[float]) -> None:
    assert len(complaints_of(losses)) == 3
    assert "loss has not fallen in 12 steps" in complaints_of(losses)[0]


def test_a_few_steps_prove_nothing() -> None:
    assert complaints_of([2.0] * (FALLS_FROM_STEPS - 1)) == []
    assert len(complaints_of([2.0] * FALLS_FROM_STEPS)) == 3


def test_the_end_shows_answers_without_reading_markup_in_them_and_paths_in_one_piece() -> None:
    console = Console(file=io.StringIO(), width=40)
    ended = outcome(FALLING)
    summary: Summary = summarize(ended, MACHINE)
    show(console, ended, summary)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "My name is [bold]Elena[/bold]." in shown
    assert "after:  Ahoy! I am." in shown
    assert "  /out/bookings\n" in shown
