"""libcudart, typed: the calls that torch does not offer, and nothing else.

The same major version as torch's own is taken, where torch has one: it is loaded already. Handles are structures
that are passed by value; ctypes must be told so, or they arrive as a pointer.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any, Final

from symbiosis_transports.cuda.seam import HANDLE_BYTES, CudaError

__all__ = [
    "DISABLE_TIMING",
    "INTERPROCESS",
    "LAZY_PEER_ACCESS",
    "NOT_READY",
    "TO_DEVICE",
    "TO_HOST",
    "Handle",
    "Library",
    "load",
]

NOT_READY: Final = 600
DISABLE_TIMING: Final = 2
INTERPROCESS: Final = 4
LAZY_PEER_ACCESS: Final = 1
TO_HOST: Final = 2
TO_DEVICE: Final = 1
_SUCCESS: Final = 0
_MAJORS: Final = ("13", "12", "11.0")


class Handle(ctypes.Structure):
    """cudaIpcMemHandle_t and cudaIpcEventHandle_t, which are both 64 bytes that say nothing."""

    _fields_ = (("reserved", ctypes.c_char * HANDLE_BYTES),)


_int, _size, _void, _uint = ctypes.c_int, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_uint
_SIGNATURES: Final[dict[str, tuple[Any, ...]]] = {
    "cudaGetDeviceCount": (ctypes.POINTER(_int),),
    "cudaSetDevice": (_int,),
    "cudaMalloc": (ctypes.POINTER(_void), _size),
    "cudaFree": (_void,),
    "cudaMemcpy": (_void, _void, _size, _int),
    "cudaIpcGetMemHandle": (ctypes.POINTER(Handle), _void),
    "cudaIpcOpenMemHandle": (ctypes.POINTER(_void), Handle, _uint),
    "cudaIpcCloseMemHandle": (_void,),
    "cudaEventCreateWithFlags": (ctypes.POINTER(_void), _uint),
    "cudaEventDestroy": (_void,),
    "cudaIpcGetEventHandle": (ctypes.POINTER(Handle), _void),
    "cudaIpcOpenEventHandle": (ctypes.POINTER(_void), Handle),
    "cudaEventRecord": (_void, _void),
    "cudaStreamWaitEvent": (_void, _void, _uint),
    "cudaEventQuery": (_void,),
    "cudaGetLastError": (),
}


class Library:
    """The calls, by name. What a call answers is an error number."""

    def __init__(self, loaded: ctypes.CDLL) -> None:
        self._calls: Final[dict[str, Any]] = {}
        for name, arguments in _SIGNATURES.items():
            call = getattr(loaded, name)
            call.argtypes, call.restype = list(arguments), _int
            self._calls[name] = call
        self._text = loaded.cudaGetErrorString
        self._text.argtypes, self._text.restype = [_int], ctypes.c_char_p

    def ask(self, name: str, *arguments: object) -> int:
        """Makes the call and returns its number."""
        number = self._calls[name](*arguments)
        assert isinstance(number, int)  # restype says so
        return number

    def __call__(self, name: str, *arguments: object) -> None:
        """Makes the call.

        Raises:
            CudaError: it did not succeed. The error is taken back, so that torch does not find it next.
        """
        self.check(name, self.ask(name, *arguments))

    def check(self, name: str, number: int) -> None:
        """Raises `CudaError` for any number but success, as a call does."""
        if number != _SUCCESS:
            self.ask("cudaGetLastError")
            raise CudaError(name, f"{self._text(number).decode()} ({number})")


@cache
def load(version: str | None) -> Library:
    """Returns the runtime of torch's CUDA version, such as 12.8, or, without one, the newest that the system has.

    Raises:
        CudaError: there is none, or it lacks a call.
    """
    majors = (version.split(".")[0],) if version else _MAJORS
    for major in majors:
        try:
            return Library(ctypes.CDLL(f"libcudart.so.{major}"))
        except (OSError, AttributeError) as error:
            reason = str(error)
    raise CudaError("libcudart", reason)
