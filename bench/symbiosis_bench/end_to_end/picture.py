"""Where a token's time goes, as a picture: plain PEFT's token beside one through the daemon."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from symbiosis_bench.end_to_end.figures import Figure
from symbiosis_bench.end_to_end.report import Report
from symbiosis_bench.plotting import save
from symbiosis_core.errors import UsageError

__all__ = ["draw", "token_parts"]

_WIDTH_INCHES: Final = 9.0
_HEIGHT_INCHES: Final = 2.6
_SHARES: Final = ("plain PEFT", "client", "border", "daemon")


def token_parts(figure: Figure) -> dict[str, dict[str, float]]:
    """Returns the milliseconds of one token, by contender and part, of `decode_tax`.

    The daemon's part is the time with a batch under way, the client's the processor time of its process; what is
    left of the token is neither: doorbells, waking up, deciding, and copying by the daemon.
    """
    beside = {name: spread.median * 1e3 for name, spread in figure.beside.items()}
    client, daemon, whole = beside["split_cpu_s"], beside["split_daemon_s"], beside["split_token_s"]
    return {
        "plain": {"plain PEFT": beside["plain_token_s"]},
        "split": {"client": client, "border": max(0.0, whole - client - daemon), "daemon": daemon},
    }


def draw(report: Report, file: Path) -> None:
    """Writes the picture.

    Raises:
        UsageError: the report has no `decode_tax`, or the file cannot be written.
    """
    from matplotlib.figure import Figure as Canvas

    if "decode_tax" not in report.figures:
        raise UsageError("--plot draws decode_tax, which --only has left out")
    parts = token_parts(report.figures["decode_tax"])
    canvas = Canvas(figsize=(_WIDTH_INCHES, _HEIGHT_INCHES), layout="constrained")
    axes = canvas.subplots()
    for share in _SHARES:
        widths = [parts[name].get(share, 0.0) for name in parts]
        lefts = [_before(parts[name], share) for name in parts]
        bars = axes.barh(list(parts), widths, left=lefts, label=share)
        axes.bar_label(bars, [f"{width:.0f}" if width else "" for width in widths], label_type="center")
    axes.invert_yaxis()
    axes.set(xlabel="milliseconds a token, medians")
    axes.set_title(
        f"{report.settings.model}, {report.machine.cpu}, {report.machine.cores} cores", fontsize="medium"
    )
    axes.legend(fontsize="small", ncols=len(_SHARES), loc="upper center", bbox_to_anchor=(0.5, -0.3))
    save(canvas, file)


def _before(parts: dict[str, float], share: str) -> float:
    """Returns what is drawn to the left of a part."""
    return sum(parts.get(each, 0.0) for each in _SHARES[: _SHARES.index(share)])
