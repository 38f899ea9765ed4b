"""Applies the configuration file again when it changes. A bad one changes nothing, and the log says what is wrong.

The file is looked at once a second, and taken when two looks have seen the same: an editor may still be writing.
It may be written anew, replaced, removed and made again, or be a link that is moved. While there is none nothing
changes. The first look takes nothing for known: the daemon read the file before it loaded its models, which may
have taken minutes. What is refused because of clients that are there is tried again until they have left.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from symbiosis_core import config as configuration
from symbiosis_core import toml_check
from symbiosis_core.errors import RefusedError, SymbiosisError, UsageError
from symbiosis_core.logs import event, get_logger
from symbiosis_scheduler.config_warnings import log_warnings
from symbiosis_scheduler.policies import check_policy
from symbiosis_scheduler.reconfiguration import Reconfiguration

__all__ = ["ConfigWatch"]

_EVERY_S: Final = 1.0

log = get_logger(__name__)

_Look = tuple[int, int, int] | None
"""Modification time, size and inode; None: there is no file."""
_ANOTHER: Final = (-1, -1, -1)
"""Not this one."""


class ConfigWatch:
    """A service of the kernel."""

    name = "configuration file"

    def __init__(self, file: Path, live: Reconfiguration) -> None:
        self._file = file
        self._live = live
        self._began_with = live.config
        self._seen = self._look()
        self._applied: _Look = None
        self._refused: _Look = None
        """What was refused because of somebody who is there, and was said to be."""

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
        first, self._applied = self._applied is None, now
        try:
            text = toml_check.read(self._file)
            if not text.strip():  # a disk that is full leaves an editor's file so
                raise UsageError("it is empty; if the defaults are wanted, write a comment")
            source = str(self._file)
            wanted = check_policy(source, configuration.check(source, text))
            if first and wanted == self._began_with:  # what has been applied by hand since holds
                return
            for note in await self._live.apply(wanted, source):
                log.warning(event("configuration", file=self._file, note=note))
            log_warnings(wanted, source)
        except RefusedError as error:
            self._applied = _ANOTHER
            if now != self._refused:
                self._refused = now
                log.error(event("configuration not applied yet", file=self._file, error=error))
        except SymbiosisError as error:
            log.error(event("configuration not applied, the one before holds", file=self._file, error=error))

    def _look(self) -> _Look:
        try:
            found = self._file.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino
