"""One side of the comparison, in a process of its own: PEFT's tests on plain models, or on remote ones.

Started by `run_peft_suite.py`, which has set the environment. The test files are PEFT's, unmodified; what is put
in the place of something of theirs stands in `Switch`. Every outcome is written down as soon as it is known, so
that a run that was broken off goes on where it ended.
"""

from __future__ import annotations

import argparse
import signal
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from datasets import Dataset, DatasetDict  # type: ignore[import-untyped]  # it has no types

from symbiosis_adapters.trips.cut import Cut
from tests.adapters.local import CountingRows
from tests.compat.hub import QUOTES, fill
from tests.compat.score import Outcome, read_outcomes
from tests.compat.switched import LentCausalLM, lent_module

PATIENCE_S = 180
"""How long one test may take."""
_MODEL_CLASSES = ("AutoModelForCausalLM", "MockTransformerWrapper")


class _AskedAlready(dict[str, int]):
    """What PEFT's tests keep about ids that they have asked the hub for: all of them, so nobody asks again."""

    def __contains__(self, key: object) -> bool:
        return True

    def __missing__(self, key: str) -> int:
        return 1


class Switch:
    """Puts the model class in place, and what no network can give."""

    def __init__(self, base: str) -> None:
        self._base = base

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Switches in the modules that were collected, and in their test classes."""
        quotes = DatasetDict({"train": Dataset.from_dict({"quote": QUOTES})})
        for collected in {item.getparent(pytest.Module) for item in items}:
            assert collected is not None  # these are tests of modules
            theirs = vars(sys.modules[f"{collected.obj.__package__}.testing_utils"])
            theirs["_HUB_MODEL_ACCESSES"] = _AskedAlready()
            theirs["load_dataset"] = lambda *_: quotes
            if self._base != "plain":
                self._switch(collected.obj)

    def _switch(self, module: Any) -> None:
        for name in _MODEL_CLASSES:
            if (theirs := getattr(module, name, None)) is None:
                continue
            ours = LentCausalLM if name == "AutoModelForCausalLM" else _lending(theirs)
            setattr(module, name, ours)
            for each in vars(module).values():
                if isinstance(each, type) and getattr(each, "transformers_class", None) is theirs:
                    each.transformers_class = ours  # type: ignore[attr-defined]


def _lending(wrapper: Any) -> type:
    """Returns a class that lends the modules which `wrapper` opens."""

    class Lending:
        @classmethod
        def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
            return lent_module(wrapper.from_pretrained(*args, **kwargs))

    return Lending


class Outcomes:
    """Writes down how each test went, skips what is known, and ends a test that takes too long."""

    def __init__(self, path: Path, every: int, of: str) -> None:
        self._path = path
        self._every = every
        self._of = of
        self._known = read_outcomes(path, of).keys()
        self._begun = 0

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Leaves every so many of the tests, without those that were run before."""
        left = [item for item in items[:: self._every] if item.nodeid not in self._known]
        config.hook.pytest_deselected(items=[item for item in items if item not in set(left)])
        items[:] = left

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_call(self) -> Iterator[None]:
        """Limits one test."""

        def too_long(*_: Any) -> None:
            raise TimeoutError(f"took more than {PATIENCE_S} s")

        self._begun = CountingRows.calls
        before = signal.signal(signal.SIGALRM, too_long)
        signal.alarm(PATIENCE_S)
        yield
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Notes a call, or a setup that did not come to one."""
        if report.when != "call" and not (report.when == "setup" and report.outcome != "passed"):
            return
        crash = getattr(report.longrepr, "reprcrash", None)
        reason = str(crash.message if crash is not None else report.longrepr or "")
        calls = CountingRows.calls - self._begun if report.when == "call" else 0
        outcome = Outcome(report.nodeid, report.outcome, reason[:600], report.duration, self._of, calls)
        with self._path.open("ab") as out:
            out.write(msgspec.json.encode(outcome) + b"\n")


def _stand_in_for_diffusers() -> None:
    """PEFT's tests name a class of diffusers at their import, and use it for images only."""
    try:
        import diffusers  # type: ignore[import-not-found] # noqa: F401
    except ImportError:
        module: Any = types.ModuleType("diffusers")
        module.StableDiffusionPipeline = type("StableDiffusionPipeline", (), {})  # which nothing is an instance of
        sys.modules["diffusers"] = module


def main() -> int:
    """Runs the tests that are asked for."""
    ask = argparse.ArgumentParser()
    ask.add_argument("--base", choices=["plain", *Cut], required=True)
    ask.add_argument("--out", type=Path, required=True)
    ask.add_argument("--hub", type=Path, required=True)
    ask.add_argument("--every", type=int, required=True)
    ask.add_argument("--of", required=True, help="what an outcome is of")
    ask.add_argument("-k", dest="pick", default="")
    ask.add_argument("files", nargs="+")
    asked = ask.parse_args()
    torch.set_num_threads(1)
    _stand_in_for_diffusers()
    fill(asked.hub)
    if asked.base != "plain":
        LentCausalLM.cut = Cut(asked.base)
    options = [
        "-q",
        "--no-header",
        "--tb=no",
        "-W",
        "ignore",
        "-p",
        "no:cacheprovider",
        "-k",
        asked.pick,
        *asked.files,
    ]
    return int(pytest.main(options, plugins=[Switch(asked.base), Outcomes(asked.out, asked.every, asked.of)]))


if __name__ == "__main__":
    sys.exit(main())
