"""The latency of every lane under every policy as a picture: SVG, written by hand, for any browser."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import log10
from typing import Final

__all__ = ["Line", "draw"]

Line = tuple[str, Sequence[float]]
"""A name, and ordered values in microseconds."""

_WIDTH: Final = 760
_HEIGHT: Final = 420
_LEFT: Final = 60
_RIGHT: Final = 240
_TOP: Final = 30
_BOTTOM: Final = 50
_COLOURS: Final = ("#1b6ca8", "#d1495b", "#2e8b57", "#8a5fbf", "#c77d0a", "#4a4a4a", "#0a9396", "#bb3e8f")
_DASHES: Final = ("none", "6 3", "2 3", "9 3 2 3")
"""Of lines of one colour: 32 can be told apart."""
_POINTS: Final = 200


def draw(title: str, lines: Sequence[Line]) -> str:
    """Returns the share of requests that took no longer, over time on a logarithmic axis."""
    known = [line for line in lines if line[1]]
    low = min((max(1.0, values[0]) for _, values in known), default=1.0)
    high = max((values[-1] for _, values in known), default=10.0)
    first, last = int(log10(low)), int(log10(max(high, low * 1.01))) + 1

    def x(us: float) -> float:
        share = (log10(max(us, 1.0)) - first) / max(1, last - first)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(share: float) -> float:
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    drawn = [f'<text x="{_LEFT}" y="18" font-size="14">{escape(title)}</text>']
    for decade in range(first, last + 1):
        at = x(10.0**decade)
        drawn.append(f'<line x1="{at:.1f}" y1="{y(0):.1f}" x2="{at:.1f}" y2="{y(1):.1f}" stroke="#ddd"/>')
        drawn.append(f'<text x="{at:.1f}" y="{y(0) + 18:.1f}" text-anchor="middle">{_time(decade)}</text>')
    for share in (0.0, 0.5, 0.9, 0.99, 1.0):
        if share not in (0.9, 1.0):
            drawn.append(f'<text x="{_LEFT - 8}" y="{y(share) + 4:.1f}" text-anchor="end">{share:.0%}</text>')
        drawn.append(
            f'<line x1="{_LEFT}" y1="{y(share):.1f}" x2="{_WIDTH - _RIGHT}" y2="{y(share):.1f}" stroke="#eee"/>'
        )
    for number, (name, values) in enumerate(known):
        colour = _COLOURS[number % len(_COLOURS)]
        dashes = _DASHES[number // len(_COLOURS) % len(_DASHES)]
        style = f'fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dashes}"'
        steps = range(_POINTS + 1)
        points = " ".join(
            f"{x(values[min(len(values) - 1, step * len(values) // _POINTS)]):.1f},{y(step / _POINTS):.1f}"
            for step in steps
        )
        drawn.append(f'<polyline points="{points}" {style}/>')
        at = _TOP + 16 * number
        key = _WIDTH - _RIGHT + 8
        drawn.append(f'<line x1="{key}" y1="{at + 5}" x2="{key + 24}" y2="{at + 5}" {style}/>')
        drawn.append(f'<text x="{key + 30}" y="{at + 9}">{escape(name)}</text>')
    inner = "\n".join(drawn)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="white"/>\n{inner}\n</svg>\n'
    )


def _time(decade: int) -> str:
    return (
        f"{10**decade} us"
        if decade < 3
        else f"{10 ** (decade - 3)} ms"
        if decade < 6
        else f"{10 ** (decade - 6)} s"
    )
