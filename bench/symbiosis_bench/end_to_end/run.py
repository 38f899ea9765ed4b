"""One run: stages after one another, each of which opens its crews and yields some of the keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from symbiosis_bench.end_to_end.decode4 import decode4
from symbiosis_bench.end_to_end.figures import JOBS, KEYS, Figure
from symbiosis_bench.end_to_end.jobs import jobs_on_one_gpu
from symbiosis_bench.end_to_end.kinds import Kind
from symbiosis_bench.end_to_end.memory_share import memory_share
from symbiosis_bench.end_to_end.messages import read_message
from symbiosis_bench.end_to_end.padding import padding_saved
from symbiosis_bench.end_to_end.report import summary
from symbiosis_bench.end_to_end.settings import Settings
from symbiosis_bench.end_to_end.site import Site
from symbiosis_bench.end_to_end.solo import solo
from symbiosis_bench.end_to_end.train4 import train4_gain
from symbiosis_bench.processes import Children
from symbiosis_bench.progress import Progress

__all__ = ["run"]

Stage = Callable[[Site, frozenset[str]], Iterator[tuple[str, Figure]]]
_FOUR_INFERENCE: Final = ("inference",) * 4
_FOUR_TRAINING: Final = ("training",) * 4


def run(
    settings: Settings, progress: Progress, folder: Path, keep: Callable[[dict[str, Figure]], object]
) -> dict[str, Figure]:
    """Measures the keys that are wanted, and returns them in the order of `KEYS`. Ends all it started.

    `keep` is given all that there is after every key, so that a run that is stopped was not in vain.
    """
    all_keys = KEYS if settings.device != "cpu" else [key for key in KEYS if key != JOBS]
    wanted = frozenset(settings.only or all_keys)
    found: dict[str, Figure] = {}
    with Children(folder, read_message) as children:
        site = Site(settings, children, progress, folder)
        for keys, stage in _STAGES:
            if keys & wanted:
                for key, figure in stage(site, keys & wanted):
                    found[key] = figure
                    keep(found)
                    progress.tell(f"{key}: {summary(figure)}")
    return {key: found[key] for key in KEYS if key in found}


def _four_generate(site: Site, wanted: frozenset[str]) -> Iterator[tuple[str, Figure]]:
    """Yields what needs four generating clients, or four plain processes, at once."""
    kinds = [Kind.PLAIN, Kind.COPIED, Kind.FORKED, Kind.SPLIT, *([Kind.LENT] if site.lends else [])]
    main = site.main()
    with (
        site.daemon_on(main.folder, holding=False) as unholding,
        site.crews(main, [(kind, _FOUR_INFERENCE) for kind in kinds]) as ((plain, *others),),
        site.crews(unholding, [(Kind.UNHELD, _FOUR_INFERENCE)]) as ((unheld,),),
    ):
        yield from decode4(site, wanted, plain, *others, unheld)


def _four_train(site: Site, wanted: frozenset[str]) -> Iterator[tuple[str, Figure]]:
    """Yields what needs four training clients, or four plain processes, at once."""
    kinds = [Kind.SPLIT]
    if "train4_gain" in wanted:
        kinds = [Kind.PLAIN, Kind.SPLIT, *([Kind.LENT] if site.lends else [])]
    with site.crews(site.main(), [(kind, _FOUR_TRAINING) for kind in kinds]) as (crews,):
        if "train4_gain" in wanted:
            yield "train4_gain", train4_gain(site, *crews)
        if "padding_saved" in wanted:
            yield "padding_saved", padding_saved(site, crews[kinds.index(Kind.SPLIT)])


_STAGES: Final[tuple[tuple[frozenset[str], Stage], ...]] = (
    (frozenset({"train_tax", "decode_tax", "client_peak_activations"}), solo),
    (frozenset({"decode4_gain", "decode4_occupancy"}), _four_generate),
    (frozenset({"train4_gain", "padding_saved"}), _four_train),
    (frozenset({"memory_share"}), memory_share),
    (frozenset({JOBS}), jobs_on_one_gpu),
)
