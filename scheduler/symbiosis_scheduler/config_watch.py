"""Applies the configuration file again when it changes. A bad one changes nothing, and the log says what is wrong.

The file is looked at once a second, and taken when two looks have seen the same: an editor may still be writing.
It may be written anew, replaced, removed and made again, or be a link that is moved. While there is none nothing
changes.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from symbiosis_core import config as configuration
from symbiosis_core import toml_check
from symbiosis_core.errors import SymbiosisError, UsageError
from symbiosis_core.logs import event, get_logger
from symbiosis_scheduler.policies import check_policy
from symbiosis_scheduler.reconfiguration import Reconfiguration

__all__ = ["ConfigWatch"]

_EVERY_S: Final = 1.0

log = get_logger(__name__)

_Look = tuple[int, int, int] | None
"""Modification time, size and inode; None: there is no file."""


class ConfigWatch:
    """A service of the kernel."""

    name = "configuration file"

    def __init__(self, file: Path, live: Reconfiguration) -> None:
        self._file = file
        self._live = live
        self._applied = self._seen = self._look()

    async def start(self) -> None:
        """Nothing to be done."""

    async def run(self) -> None:
        """Watches until cancelled."""
        while True:
            await asyncio.sleep(_EVERY_S)
            await self.look()

    async def stop(self) -> None:
        """Nothing to be done."""

    async def look(self) -> None:
        """Applies the file if it has changed since it was applied, and not since the last look."""
        before, now = self._seen, self._look()
        self._seen = now
        if now is None:
            if before is not None:
                log.warning(event("no configuration file, the last one holds until there is one", file=self._file))
            return
        if now == self._applied or now != before:
            return
        self._applied = now
        try:
            text = toml_check.read(self._file)
            if not text.strip():  # a disk that is full leaves an editor's file so
                raise UsageError("it is empty; if the defaults are wanted, write a comment")
            source = str(self._file)
            await self._live.apply(check_policy(source, configuration.check(source, text)), source)
        except SymbiosisError as error:
            log.error(event("configuration not applied, the one before holds", file=self._file, error=error))

    def _look(self) -> _Look:
        try:
            found = self._file.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino
