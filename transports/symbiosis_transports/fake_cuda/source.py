"""How processes get at fake devices: by their folders. Can be pickled, so that a child opens the same ones."""

from __future__ import annotations

from pathlib import Path
from secrets import token_hex

from symbiosis_transports.cuda.seam import CudaError
from symbiosis_transports.fake_cuda.board import FolderBoard
from symbiosis_transports.fake_cuda.context import FakeCuda
from symbiosis_transports.fake_cuda.motor import set_going

__all__ = ["FakeDevices"]


class FakeDevices:
    """A `CudaSource` whose devices are folders, in the order in which this process counts them."""

    def __init__(self, *folders: Path, seed: int = 0, name: str = "fake") -> None:
        """`name` is what the names of all begin with that is made here, for whoever looks into the folder."""
        self._folders = {f"fake-{folder}": folder for folder in folders}
        self._name = name
        self._seed = seed
        self.faults: list[str] = []
        """Of all that this process opens here."""

    def __repr__(self) -> str:
        return f"<FakeDevices {', '.join(map(str, self._folders.values()))}>"

    def obstacle(self) -> str:
        """None, as long as the folders are there."""
        missing = [folder for folder in self._folders.values() if not folder.is_dir()]
        return f"there is no folder {missing[0]}" if missing else ""

    def uuids(self) -> tuple[str, ...]:
        """One for each folder."""
        return tuple(self._folders)

    def open(self, uuid: str) -> FakeCuda:
        """Opens it as a process of its own: every call makes another one."""
        if uuid not in self._folders:
            raise CudaError("device", f"this process sees no GPU {uuid}")
        context = FakeCuda(
            FolderBoard(self._folders[uuid]), uuid, name=f"{self._name}-{token_hex(4)}", faults=self.faults
        )
        set_going(context, self._seed)
        return context
