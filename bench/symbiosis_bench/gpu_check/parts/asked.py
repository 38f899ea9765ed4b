"""The options that the parts understand, and the device that they mean."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from symbiosis_transports.cuda.seam import CudaSource
from symbiosis_transports.cuda.source import CudaDevices
from symbiosis_transports.fake_cuda import FakeDevices

__all__ = ["options", "source_of", "tell"]


def options(about: str | None) -> argparse.ArgumentParser:
    """Returns a parser that knows `--fake`."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--fake", type=Path, help="a folder that stands for the device")
    return parser


def source_of(fake: Path | None) -> CudaSource:
    """Returns the real devices, or the fake one."""
    return CudaDevices() if fake is None else FakeDevices(fake)


def tell(**figures: object) -> None:
    """Says a part's figures, as its last line."""
    print(json.dumps(figures), flush=True)
