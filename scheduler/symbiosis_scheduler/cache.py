"""Where this user's machine keeps what was made once: converted models, and the costs of ops."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

__all__ = ["CACHE_VARIABLE", "cache_folder"]

CACHE_VARIABLE: Final = "SYMBIOSIS_CACHE"


def cache_folder() -> Path:
    """Returns where converted models and costs are kept: $SYMBIOSIS_CACHE, else the user's cache folder."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen).expanduser().absolute()
    shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG specification has a relative path ignored.
    return (shared if shared.is_absolute() else Path("~/.cache").expanduser()) / "symbiosis"
