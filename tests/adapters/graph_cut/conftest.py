"""The same adapter on a base whose frozen layers are elsewhere, cut by the graph, and on a plain one."""

from __future__ import annotations

from typing import Any

import pytest

from symbiosis_adapters.trips.cut import Cut
from tests.adapters.local import Pair
from tests.adapters.training import adapted


@pytest.fixture(scope="module")
def pair() -> Pair:
    return Pair("llama")


@pytest.fixture
def remote(pair: Pair) -> Any:
    return adapted(pair.remote(Cut.GRAPH))


@pytest.fixture
def plain(pair: Pair) -> Any:
    return adapted(pair.plain())
