"""How processes get at one fake device: by its folder. Can be pickled, so that a child opens the same one."""

from __future__ import annotations

from pathlib import Path
from secrets import token_hex

from symbiosis_transports.cuda.seam import CudaError
from symbiosis_transports.fake_cuda.board import FolderBoard
from symbiosis_transports.fake_cuda.context import FakeCuda
from symbiosis_transports.fake_cuda.motor import set_going

__all__ = ["FakeDevices"]


class FakeDevices:
    """A `CudaSource` with one device, which is the folder."""

    def __init__(self, folder: Path, *, seed: int = 0, name: str = "fake") -> None:
        """`name` is what the names of all begin with that is made here, for whoever looks into the folder."""
        self._folder = folder
        self._name = name
        self._seed = seed
        self.faults: list[str] = []
        """Of all that this process opens here."""

    def __repr__(self) -> str:
        return f"<FakeDevices {self._folder}>"

    def obstacle(self) -> str:
        """None, as long as the folder is there."""
        return "" if self._folder.is_dir() else f"there is no folder {self._folder}"

    def uuids(self) -> tuple[str, ...]:
        """The one device."""
        return (f"fake-{self._folder}",)

    def open(self, uuid: str) -> FakeCuda:
        """Opens it as a process of its own: every call makes another one."""
        if uuid not in self.uuids():
            raise CudaError("device", f"this process sees no GPU {uuid}")
        context = FakeCuda(
            FolderBoard(self._folder), uuid, name=f"{self._name}-{token_hex(4)}", faults=self.faults
        )
        set_going(context, self._seed)
        return context
