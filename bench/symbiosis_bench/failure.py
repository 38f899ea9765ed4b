"""What ends a benchmark that cannot come to an end."""

from __future__ import annotations

from symbiosis_core.errors import SymbiosisError

__all__ = ["BenchFailedError"]


class BenchFailedError(SymbiosisError):
    """The benchmark came to no end. Each reason is a line."""

    def __init__(self, *reasons: str) -> None:
        self.reasons = reasons
        super().__init__(*reasons)

    def __str__(self) -> str:
        return "\n".join(self.reasons)
