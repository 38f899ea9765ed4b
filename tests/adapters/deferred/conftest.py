"""One frozen linear for every test."""

from __future__ import annotations

import pytest

from tests.adapters.deferred.one_layer import Layer


@pytest.fixture
def layer() -> Layer:
    return Layer()
