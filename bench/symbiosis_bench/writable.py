"""Whether results can be written where they shall be, asked before they are computed."""

from __future__ import annotations

from pathlib import Path

from symbiosis_core.errors import UsageError

__all__ = ["check_writable"]


def check_writable(path: Path | None) -> None:
    """Empties the file: what an earlier run has left shall not pass for the results of one that failed.

    Raises:
        UsageError: it cannot be written.
    """
    if path is None:
        return
    try:
        path.write_text("")
    except OSError as error:
        raise UsageError(f"cannot write {error.filename}: {error.strerror}; choose another path") from error
