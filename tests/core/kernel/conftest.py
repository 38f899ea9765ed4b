"""Every test of the kernel: nothing is left to the loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest


@pytest.fixture(autouse=True)
async def _nothing_is_left_to_the_loop() -> AsyncIterator[None]:
    """No task outlives its kernel, and no exception ends where only the loop sees it."""
    unseen: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context))
    yield
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert unseen == []
