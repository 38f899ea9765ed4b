"""What is measured: which transports, sizes, crowds, work and waiting. All of it goes into the JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import product
from typing import Final

import msgspec

from symbiosis_core.errors import UsageError

__all__ = ["FULL", "QUICK", "Cell", "Scale", "Settings", "cells", "numbers", "words"]

COMPUTES_BY_NAME: Final = ("linear",)
SPINS_BY_NAME: Final = ("off", "auto")
ROW_BYTES: Final = 2304
"""One row of 576 float32, SmolLM2's width; what `linear` counts in."""


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """How much is measured of every series."""

    rounds: int
    calls: int
    """Of every client in every round, at most."""
    round_s: float
    """A client stops after that time even so."""


FULL: Final = Scale(rounds=3, calls=2000, round_s=0.25)
QUICK: Final = Scale(rounds=1, calls=20, round_s=0.05)


class Cell(msgspec.Struct, frozen=True):
    """One place of the grid; every transport has a series there."""

    size_bytes: int
    clients: int
    compute: str
    """Microseconds that the daemon's end burns per batch, or `linear`: a product of 576 by 576."""
    spin: str
    """`off`, microseconds on both sides, or `auto`: what the library does by itself."""
    placement: str
    """On which cores, see `placement`."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What one run of the command was told."""

    transports: tuple[str, ...]
    sizes: tuple[int, ...]
    clients: tuple[int, ...]
    computes: tuple[str, ...]
    spins: tuple[str, ...]
    placements: tuple[str, ...]
    product: bool
    """Every combination, and not one thing at a time."""
    quick: bool
    scale: Scale


def cells(settings: Settings) -> list[Cell]:
    """Returns the grid: one or two things vary at a time.

    The others are the first size, compute and number of clients, and the last spin and placement.
    """
    if settings.product:
        grid = product(settings.sizes, settings.clients, settings.computes, settings.spins, settings.placements)
        return [Cell(*values) for values in grid]
    return list(dict.fromkeys(_star(settings)))


def _star(settings: Settings) -> Iterator[Cell]:
    first, alone = settings.sizes[0], settings.clients[0]
    spin, placement = settings.spins[-1], settings.placements[-1]
    for size, where in product(settings.sizes, settings.placements):
        yield Cell(size, alone, settings.computes[0], spin, where)
    for size, compute in product(settings.sizes, settings.computes):
        yield Cell(size, alone, compute, spin, placement)
    for clients, compute in product(settings.clients, settings.computes):
        yield Cell(first, clients, compute, spin, placement)
    for compute, look in product(settings.computes, settings.spins):
        yield Cell(first, alone, compute, look, placement)


def words(option: str, text: str, known: Iterable[str]) -> tuple[str, ...]:
    """Returns what stands between the commas.

    Raises:
        UsageError: nothing does, or something that is neither a whole number nor among `known`.
    """
    known = tuple(known)
    found = tuple(word.strip() for word in text.split(",") if word.strip())
    if wrong := [word for word in found if not word.isdecimal() and word not in known]:
        raise UsageError(f"{option} {', '.join(wrong)}: write numbers, or {', '.join(known)}")
    if not found:
        raise UsageError(f"{option}: name at least one")
    return found


def numbers(option: str, text: str, least: int, most: int) -> tuple[int, ...]:
    """Returns the numbers between the commas.

    Raises:
        UsageError: something is no number, or outside of `least` to `most`.
    """
    found = words(option, text, ())
    if wrong := [word for word in found if not least <= int(word) <= most]:
        raise UsageError(f"{option} {', '.join(wrong)}: from {least} to {most}")
    return tuple(int(word) for word in found)
