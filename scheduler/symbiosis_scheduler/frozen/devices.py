"""Which device holds the weights, checked before a minute is spent on loading."""

from __future__ import annotations

import os
import re
from typing import Final

import torch

from symbiosis_core.errors import UsageError

__all__ = ["find_device"]

_FORMS: Final = re.compile(r"cpu|cuda(:(?P<index>\d{1,3}))?", re.ASCII)


def find_device(name: str) -> torch.device:
    """Returns the device that `cpu`, `cuda` or `cuda:N` means; `cuda` is `cuda:0`.

    Raises:
        UsageError: it is another name, or there is no such device.
    """
    form = _FORMS.fullmatch(name)
    if form is None:
        raise UsageError(f"--device {name}: give cpu, cuda or cuda:N")
    if name == "cpu":
        return torch.device("cpu")
    if not torch.backends.cuda.is_built():
        raise UsageError(
            f"--device {name}: torch {torch.__version__} was built without CUDA; install a torch with CUDA, or "
            "give --device cpu"
        )
    index, seen = int(form["index"] or 0), _seen()
    if index >= len(seen):
        raise UsageError(f"--device {name}: {_told(seen)}")
    device = torch.device("cuda", index)
    try:
        torch.empty(1, device=device)  # what the driver lists may still be of no use: taken, too old, too new
    except RuntimeError as error:
        raise UsageError(f"--device {name}: the driver refuses it: {error}. Or give --device cpu") from error
    return device


def _seen() -> list[str]:
    """The names of the devices that torch can use."""
    if not torch.cuda.is_available():  # asks the driver itself, where device_count may ask the management library
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def _told(seen: list[str]) -> str:
    if not seen:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        hidden = "" if visible is None else f" with CUDA_VISIBLE_DEVICES={visible}"
        return f"torch sees no GPU{hidden}; see what nvidia-smi says, or give --device cpu"
    listed = ", ".join(f"cuda:{index} ({name})" for index, name in enumerate(seen))
    return f"torch sees {listed}; give one of them"
