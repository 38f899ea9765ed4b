"""CUDA without the hardware: the promises of `cuda.seam`, kept by ordinary memory, and its traps, set on purpose.

    board.py     what all processes of one device share: memory and events, in this process or in a folder
    streams.py   the streams of one process: ordered queues, whose next step somebody chooses
    context.py   one process's use of the device: the `Cuda` itself
    motor.py     a thread that chooses, with delays, where nobody else does
    source.py    the `CudaSource`: hands out contexts, also to other processes

Every context is a process of its own as far as CUDA can tell, so that two of them in one process can talk. A
test that wants to repeat what it saw steps the streams itself, by a seed; otherwise a motor does. Tests of this
project use nothing else where they need CUDA, so what is wrong here is wrong there: nothing here says how fast a
GPU is, and what its driver does beyond what it documents is a guess (`context.FakeCuda.die`).
"""

from symbiosis_transports.fake_cuda.board import Board, FolderBoard, MemoryBoard
from symbiosis_transports.fake_cuda.context import FakeCuda
from symbiosis_transports.fake_cuda.source import FakeDevices

__all__ = ["Board", "FakeCuda", "FakeDevices", "FolderBoard", "MemoryBoard"]
