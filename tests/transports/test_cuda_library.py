"""The binding to libcudart passes what C expects, tried on a libcudart of forty lines, and on a real one.

A wrong signature would show as a wrong address or a handle that arrives as a pointer.
"""

from __future__ import annotations

import contextlib
import ctypes
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from symbiosis_transports.cuda.device import CudaDevice
from symbiosis_transports.cuda.library import Library, load
from symbiosis_transports.cuda.seam import HANDLE_BYTES, CudaError, EventNumber, Stream

STUB = """
#include <string.h>
typedef struct { char reserved[64]; } handle;
static char memory[4096], event;
static int current, pending;
#define HERE if (current != 1) return 101
static int full_of(handle h, char c) { for (int i = 0; i < 64; i++) if (h.reserved[i] != c) return 0; return 1; }
int cudaGetDeviceCount(int *n) { *n = 1; return 0; }
int cudaSetDevice(int n) { current = n; return n > 1 ? 101 : 0; }
int cudaMalloc(void **p, size_t n) { HERE; if (n > sizeof memory) return 2; *p = memory; return 0; }
int cudaFree(void *p) { HERE; return p == memory ? 0 : 1; }
int cudaMemcpy(void *to, const void *from, size_t n, int kind) {
  HERE;
  int out = (char *)to >= memory && (char *)to < memory + sizeof memory;
  if (kind != (out ? 1 : 2)) return 21;
  memcpy(to, from, n); return 0; }
int cudaIpcGetMemHandle(handle *h, void *p) { memset(h, 'm', 64); return p == memory ? 0 : 1; }
int cudaIpcOpenMemHandle(void **p, handle h, unsigned f) {
  HERE;
  if (!full_of(h, 'm') || f != 1) return 1;
  *p = memory + 64; return 0; }
int cudaIpcCloseMemHandle(void *p) { return p == memory + 64 ? 0 : 1; }
int cudaEventCreateWithFlags(void **e, unsigned f) { HERE; *e = &event; return f == 6 ? 0 : 1; }
int cudaEventDestroy(void *e) { return e == &event ? 0 : 400; }
int cudaIpcGetEventHandle(handle *h, void *e) { memset(h, 'e', 64); return e == &event ? 0 : 1; }
int cudaIpcOpenEventHandle(void **e, handle h) { *e = &event; return full_of(h, 'e') ? 0 : 1; }
static int here(void *s) { return s == (void *)0x7f0000000005 || (s == 0 && current == 1); }
int cudaEventRecord(void *e, void *s) { pending = 2; return e == &event && here(s) ? 0 : 400; }
int cudaStreamWaitEvent(void *s, void *e, unsigned f) { return e == &event && here(s) && f == 0 ? 0 : 400; }
int cudaEventQuery(void *e) { if (e != &event) return 400; return pending ? (pending--, 600) : 0; }
int cudaGetLastError(void) { return 0; }
const char *cudaGetErrorString(int n) { return n == 2 ? "out of memory" : "something else"; }
"""
STREAM = Stream(0x7F0000000005)
"""An address that does not fit into 32 bits."""


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Library:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    folder = tmp_path_factory.mktemp("cudart")
    (folder / "stub.c").write_text(STUB)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / "stub.so", folder / "stub.c"], check=True)
    return Library(ctypes.CDLL(str(folder / "stub.so")))


@pytest.fixture
def device(stub: Library, monkeypatch: pytest.MonkeyPatch) -> CudaDevice:
    """The second of two, while others have the first one current."""

    @contextlib.contextmanager
    def chosen(device: CudaDevice) -> Iterator[None]:
        """As torch does it, which may know no device here."""
        stub("cudaSetDevice", device._index)
        try:
            yield
        finally:
            stub("cudaSetDevice", 0)

    monkeypatch.setattr(CudaDevice, "_chosen", chosen)
    return CudaDevice(stub, 1, "GPU-stub")


def test_memory_is_made_shared_and_given_back(device: CudaDevice) -> None:
    mine = device.allocate(4096)
    handle = device.memory_handle(mine)
    assert handle == b"m" * HANDLE_BYTES
    theirs = device.open_memory(handle)
    assert theirs == mine + 64
    device.poke(mine, 72, b"hello")
    assert device.peek(theirs, 8, 5) == b"hello"
    assert device.rows(mine, 64, 8).__cuda_array_interface__["data"] == (theirs, False)
    device.close_memory(theirs)
    device.free(mine)


@pytest.mark.parametrize("stream", [STREAM, Stream(0)], ids=["a stream", "the default stream"])
def test_an_event_is_recorded_waited_for_and_asked(device: CudaDevice, stream: Stream) -> None:
    """The default stream has the number 0 on every device, and means the current one's."""
    event = device.create_event()
    handle = device.event_handle(event)
    assert handle == b"e" * HANDLE_BYTES
    assert device.open_event(handle) == event
    device.record(event, stream)
    device.wait(stream, event)
    assert [device.done(event) for _ in range(3)] == [False, False, True]
    device.destroy_event(event)


def test_what_cuda_refuses_says_which_call_and_why(device: CudaDevice) -> None:
    with pytest.raises(CudaError, match=r"cudaMalloc: out of memory \(2\)"):
        device.allocate(1 << 40)
    with pytest.raises(CudaError, match="cudaIpcOpenMemHandle"):
        device.open_memory(b"x" * HANDLE_BYTES)
    with pytest.raises(CudaError, match="it has 3 bytes"):
        device.open_event(b"abc")
    with pytest.raises(CudaError, match="cudaEventQuery"):
        device.done(EventNumber(1))


def test_a_real_libcudart_has_every_call() -> None:
    """Where there is one. Without a driver it refuses, and says so."""
    try:
        library = load(None)
    except CudaError as error:
        pytest.skip(str(error))
    count = ctypes.c_int(-1)
    with contextlib.suppress(CudaError):
        library("cudaGetDeviceCount", ctypes.byref(count))
        assert count.value >= 0
        return
    with pytest.raises(CudaError, match=r"cudaGetDeviceCount: .*(driver|no CUDA)"):
        library("cudaGetDeviceCount", ctypes.byref(count))


def test_a_version_that_is_not_there_is_named() -> None:
    with pytest.raises(CudaError, match=r"libcudart\.so\.999"):
        load("999.1")
