"""The policy that docs/policies.md shows runs as it stands there, found by an entry point as anybody's."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, DistributionFinder
from pathlib import Path

import pytest

from symbiosis_core.config import DaemonConfig, PolicyConfig
from symbiosis_core.ids import OpId
from symbiosis_core.specs import Direction
from symbiosis_scheduler.policies import policy_names
from tests.scheduler.counter import Counter, request

PAGE = Path(__file__).parents[2] / "docs" / "policies.md"
ENTRY_POINTS = "[symbiosis.policies]\nshortest_first = my_package_of_the_page:ShortestFirst\n"


class Package(Distribution):
    """A package that is installed, as far as entry points go."""

    def read_text(self, filename: str) -> str | None:
        return {"entry_points.txt": ENTRY_POINTS, "METADATA": "Name: my-package\nVersion: 1\n"}.get(filename)

    def locate_file(self, path: object) -> Path:
        raise NotImplementedError


class Finder(DistributionFinder):
    def find_distributions(self, context: object = None) -> Iterator[Distribution]:
        yield Package()


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The code block, importable and found by its entry point."""
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "my_package_of_the_page.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder()])
    return str(code)


def test_the_page_shows_about_forty_lines(page: str) -> None:
    assert len(page.splitlines()) <= 42


def test_the_shortest_goes_first_and_the_longest_in_the_end(page: str) -> None:
    assert "shortest_first" in policy_names()
    bench = Counter(DaemonConfig(policy=PolicyConfig(name="shortest_first")))
    for op, us in ((1, 900), (2, 100), (3, 500)):
        bench.known.costs.learn(OpId(op), Direction.FORWARD, 4, us)
        bench.push(request(op, op=op, rows=4))
    assert [plan.op for plan in bench.drain(now_us=0)] == [2, 3, 1]
    bench.push(request(1, op=1, rows=4, arrived_us=5), request(2, op=2, rows=4, arrived_us=6))
    assert [plan.op for plan in bench.drain(now_us=2_000_000)] == [1, 2]
