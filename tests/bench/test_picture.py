"""The parts of a token make up the token."""

from __future__ import annotations

import pytest

from symbiosis_bench.end_to_end.figures import figure
from symbiosis_bench.end_to_end.picture import token_parts
from symbiosis_bench.spread import spread


@pytest.mark.parametrize(("token_s", "border_ms"), [(0.1, 30.0), (0.06, 0.0)])
def test_what_is_neither_client_nor_daemon_is_the_border(token_s: float, border_ms: float) -> None:
    beside = {"plain_token_s": 0.05, "split_token_s": token_s, "split_cpu_s": 0.04, "split_daemon_s": 0.03}
    measured = figure(
        "decode_tax", spread([2.0]), quick=False, beside={name: spread([value]) for name, value in beside.items()}
    )
    parts = token_parts(measured)
    assert parts["plain"] == {"plain PEFT": 50.0}
    assert parts["split"] == pytest.approx({"client": 40.0, "border": border_ms, "daemon": 30.0})
