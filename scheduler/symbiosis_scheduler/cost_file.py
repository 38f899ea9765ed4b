"""Cost curves on the disk, so that a daemon that starts again knows what its batches cost.

One small file per model, element type, device and thread policy: only under the same four does a time mean
anything. It stands in the cache folder beside converted models. A file that cannot be read, or is of another kind,
is nobody's loss: the curves are learned anew. It is written to the side and renamed, so it is whole or not there.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

import msgspec

from symbiosis_core.logs import event, get_logger
from symbiosis_scheduler.decisions.costs import Curves

__all__ = ["FOLDER", "CostFile", "Written", "read_costs"]

FOLDER: Final = "costs"
"""In the cache folder."""
_VERSION: Final = 1
_MOST_OPS: Final = 20_000
_MOST_BYTES: Final = 64 << 20

log = get_logger(__name__)


class Written(msgspec.Struct, frozen=True):
    """What stands in a file."""

    version: int
    of: str
    """What the times were measured on, for whoever looks into the file."""
    curves: Curves
    model: str = ""
    """What the daemon called the base, for whoever picks a file; the times belong to `of`."""


def read_costs(path: Path) -> Written | None:
    """Returns what a daemon wrote down; None: it cannot be read, or is of another kind."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            return None
        written = msgspec.json.decode(path.read_bytes(), type=Written)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return written if written.version == _VERSION else None


class CostFile:
    """The file of one base in one daemon. `of` has all that a time depends on."""

    def __init__(self, folder: Path, *of: str, model: str = "") -> None:
        self._of = " ".join(of)
        self._model = model
        name = hashlib.blake2b(self._of.encode(), digest_size=12).hexdigest()
        self.path: Final = folder / f"{name}.json"

    def __repr__(self) -> str:
        return f"<CostFile {self.path} of {self._of}>"

    def load(self) -> Curves:
        """Returns the curves of the last daemon, or none."""
        written = read_costs(self.path)
        return written.curves if written is not None and written.of == self._of else {}

    def save(self, written_down: Curves) -> None:
        """Writes what `Costs.written_down` returned. A folder that cannot be written is told in the log."""
        curves = dict(list(written_down.items())[-_MOST_OPS:])
        beside = self.path.with_suffix(".unfinished")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            beside.write_bytes(msgspec.json.encode(Written(_VERSION, self._of, curves, self._model)))
            beside.rename(self.path)
        except OSError as error:
            log.warning(event("the costs of ops are not kept", file=self.path, reason=error.strerror))
