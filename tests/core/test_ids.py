"""Tokens cannot be guessed, and a boot id never joins two kernels."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from symbiosis_core import ids


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    ids.boot_id.cache_clear()
    yield
    ids.boot_id.cache_clear()


def test_tokens_have_128_bits_and_differ() -> None:
    tokens = {ids.new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert all(len(bytes.fromhex(token)) == 16 for token in tokens)


def test_another_process_on_this_kernel_has_the_same_boot_id() -> None:
    code = "from symbiosis_core.ids import boot_id; print(boot_id())"
    root = Path(ids.__file__).parents[1]
    other = subprocess.run([sys.executable, "-c", code], cwd=root, check=True, capture_output=True, text=True)
    assert other.stdout.strip() == ids.boot_id()


def test_a_kernel_that_does_not_say_its_boot_id_equals_no_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ids, "_BOOT_ID_PATH", tmp_path / "missing")
    here = ids.boot_id()
    assert here == ids.boot_id()
    ids.boot_id.cache_clear()  # as another process has it
    assert here != ids.boot_id()
    assert len(here) == 36  # as any other's
