"""Keeps the progress bars of the Hugging Face libraries out of a daemon's standard error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from transformers.utils import logging as transformers_logging

__all__ = ["no_progress_bars"]


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Silences loading and download bars within the block, and leaves the user's settings as they were."""
    loading = transformers_logging.is_progress_bar_enabled()
    downloads = not are_progress_bars_disabled()
    transformers_logging.disable_progress_bar()
    if downloads:
        disable_progress_bars()
    try:
        yield
    finally:
        if loading:
            transformers_logging.enable_progress_bar()
        if downloads:
            enable_progress_bars()
