"""Pictures, by matplotlib: it is asked for when somebody wants one, and is no dependency otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from symbiosis_core.errors import UsageError

__all__ = ["check_plotting", "save"]


def check_plotting() -> None:
    """Says before minutes are spent that there will be no picture.

    Raises:
        UsageError: matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401  only whether it is there
    except ImportError as error:
        raise UsageError(
            f"--plot needs matplotlib ({error}); install it with `pip install 'symbiosis-llm[plot]'`, or leave "
            "--plot out"
        ) from None


def save(figure: Any, file: Path) -> None:
    """Writes a figure of matplotlib; the file's ending says in which format.

    Raises:
        UsageError: no such folder, or no such format.
    """
    try:
        figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot draw {file}: {error}") from None
