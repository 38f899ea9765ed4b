"""Costs that some daemon has measured and written down, for questions that are asked without one."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from symbiosis_core.errors import UsageError
from symbiosis_scheduler.cache import cache_folder
from symbiosis_scheduler.cost_file import FOLDER, Written, read_costs
from symbiosis_scheduler.decisions.costs import Curve, Curves

__all__ = ["Measured"]

_NOTHING: Final = (
    "nothing was measured on this machine yet: a daemon that serves somebody writes its costs down every minute, "
    "and when it ends"
)


class Measured:
    """What is known, and where from."""

    def __init__(self, curves: Curves, told: str) -> None:
        self._curves = [Curve(points) for ways in curves.values() for points in ways if points]
        self.told = told
        """Where the costs are from, in a sentence."""

    @staticmethod
    def read(file: Path | None = None, model: str = "") -> Measured:
        """Returns the costs in `file`; or in the file that was written last, of that model if one is named.

        Raises:
            UsageError: `file` cannot be read or is no such file, or nothing was measured of the model.
        """
        if file is not None:
            found = read_costs(file)
            if found is None:
                raise UsageError(
                    f"{file} has no measured costs; a daemon writes them into {cache_folder() / FOLDER}"
                )
            return Measured(found.curves, _told(file, found))
        written = [(path, found) for path in _latest_first() if (found := read_costs(path)) is not None]
        for path, found in written:
            if model in ("", found.model):
                others = f"; {len(written) - 1} more files are there, --model or --costs picks one"
                return Measured(found.curves, _told(path, found) + (others if len(written) > 1 else ""))
        if model:
            known = ", ".join(sorted({found.model for _, found in written if found.model})) or "none"
            raise UsageError(f"nothing was measured of the model {model!r} on this machine; known are: {known}")
        return Measured({}, _NOTHING)

    def longest_us(self, rows: int) -> float | None:
        """Returns the time of the op that takes longest for so many rows, in any direction; None: unknown."""
        found = [curve.expected_us(rows) for curve in self._curves]
        return max([us for us in found if us is not None], default=None)


def _latest_first() -> list[Path]:
    return sorted((cache_folder() / FOLDER).glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True)


def _told(path: Path, found: Written) -> str:
    return f"measured: {found.model or 'a model that is not named'} ({found.of}), in {path}"
