"""A base that is lent, and must stay as it is."""

from __future__ import annotations

from typing import Any

import pytest

from tests.adapters.lending.methods import lent_bytes
from tests.adapters.local import Pair


@pytest.fixture
def pair() -> Any:
    """A base of which not one byte may have changed at the end."""
    made = Pair("llama")
    before = lent_bytes(made)
    yield made
    assert lent_bytes(made) == before
