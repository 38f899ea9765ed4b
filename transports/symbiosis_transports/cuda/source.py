"""How a process gets at the real devices. torch takes seconds to import, so it is imported when it is asked.

None of this has been run on a GPU yet.
"""

from __future__ import annotations

from symbiosis_transports.cuda.library import load
from symbiosis_transports.cuda.seam import Cuda, CudaError

__all__ = ["CudaDevices"]


class CudaDevices:
    """The devices that this process sees. The `CudaSource` of real ones."""

    def obstacle(self) -> str:
        """Why there is none."""
        import torch

        if not torch.backends.cuda.is_built():
            return "this torch was built without CUDA"
        if not torch.cuda.is_available():
            return "torch sees no GPU"
        try:
            load(torch.version.cuda)
        except CudaError as error:
            return str(error)
        return ""

    def uuids(self) -> tuple[str, ...]:
        """Their own names, in the order of their numbers here."""
        import torch

        devices = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
        return tuple(f"GPU-{device.uuid}" for device in devices)

    def open(self, uuid: str) -> Cuda:
        """Opens a device by its own name: another process may know it by another number.

        Raises:
            CudaError: this process does not see it.
        """
        import torch

        from symbiosis_transports.cuda.device import CudaDevice

        uuids = self.uuids()
        if uuid not in uuids:
            raise CudaError("device", f"this process sees no GPU {uuid}; see CUDA_VISIBLE_DEVICES")
        return CudaDevice(load(torch.version.cuda), uuids.index(uuid), uuid)
