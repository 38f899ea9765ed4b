"""Vocabulary and microkernel of Symbiosis: what every floor above speaks, without any framework.

Nothing here may import torch, zmq, uvloop, transformers or peft; an import contract in pyproject.toml holds
it.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("symbiosis-llm")
except PackageNotFoundError:  # a bare checkout on sys.path, nothing installed
    __version__ = "0.0.0+checkout"

__all__ = ["__version__"]
