"""Memory that was sealed can be read and privately written, and changed by nobody, its maker included."""

from __future__ import annotations

import errno
import mmap
import os
import signal
import subprocess
import sys

import pytest

from symbiosis_core.errors import RemoteProtocolError
from symbiosis_transports.sealed import SealedMemory, check_sealed, map_private

PAGE = mmap.PAGESIZE


@pytest.fixture
def sealed() -> SealedMemory:
    """Two pages of which the first is all `a`, and the second all `b`."""
    memory = SealedMemory(5 * PAGE)
    memory.mapping[: 2 * PAGE] = b"a" * PAGE + b"b" * PAGE
    memory.seal(2 * PAGE)
    return memory


def test_what_was_filled_in_stays_where_it_was(sealed: SealedMemory) -> None:
    assert sealed.nbytes == os.fstat(sealed.fd).st_size == 2 * PAGE
    assert bytes(sealed.mapping[PAGE - 1 : PAGE + 1]) == b"ab"
    check_sealed(sealed.fd, 2 * PAGE)


def test_nobody_can_write_resize_or_unseal_it(sealed: SealedMemory) -> None:
    attempts = (
        lambda: os.pwrite(sealed.fd, b"x", 0),
        lambda: os.ftruncate(sealed.fd, PAGE),
        lambda: os.ftruncate(sealed.fd, 3 * PAGE),
        lambda: mmap.mmap(sealed.fd, PAGE),
        lambda: os.close(os.open(f"/proc/self/fd/{sealed.fd}", os.O_RDWR | os.O_TRUNC)),
    )
    for attempt in attempts:
        with pytest.raises(PermissionError):
            attempt()
    check_sealed(sealed.fd, 2 * PAGE)
    assert sealed.mapping[0] == ord("a")


def test_a_process_that_is_given_the_descriptor_cannot_either(sealed: SealedMemory) -> None:
    """Nor by a way that asks the kernel for another mapping of the memory it can see."""
    program = f"""
import ctypes, mmap, os
view = mmap.mmap({sealed.fd}, {PAGE}, flags=mmap.MAP_PRIVATE)
view[:4] = b"mine"
assert view[:4] == b"mine"
for attempt in (lambda: os.pwrite({sealed.fd}, b"x", 0), lambda: mmap.mmap({sealed.fd}, {PAGE})):
    try:
        attempt()
    except PermissionError:
        continue
    raise SystemExit("it could be written to")
shared = mmap.mmap({sealed.fd}, {PAGE}, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype, libc.mmap.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 4]
read_only = libc.mmap(None, {PAGE}, mmap.PROT_READ, mmap.MAP_SHARED, {sealed.fd}, 0)
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
assert libc.mprotect(read_only, {PAGE}, mmap.PROT_READ | mmap.PROT_WRITE) == -1, "it could be made writable"
"""
    subprocess.run([sys.executable, "-c", program], pass_fds=[sealed.fd], check=True)
    assert bytes(sealed.mapping[:4]) == b"aaaa"


def test_its_maker_dies_rather_than_change_it() -> None:
    """A stray write of the daemon's would change every client's weights."""
    program = """
from symbiosis_transports.sealed import SealedMemory
memory = SealedMemory(4096)
memory.mapping[0] = 7
memory.seal(4096)
print(memory.mapping[0], flush=True)
memory.mapping[0] = 8
print("it could", flush=True)
"""
    maker = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=False)
    assert (maker.returncode, maker.stdout) == (-signal.SIGSEGV, "7\n")


def test_a_private_mapping_begins_anywhere_and_keeps_its_writes(sealed: SealedMemory) -> None:
    one, start = map_private(sealed.fd, PAGE + 100, 8)
    other, _ = map_private(sealed.fd, PAGE + 100, 8)
    assert one[start : start + 8] == b"b" * 8
    one[start : start + 4] = b"mine"
    assert one[start : start + 8] == b"minebbbb"
    assert other[start : start + 8] == bytes(sealed.mapping[PAGE : PAGE + 8]) == b"b" * 8


def test_memory_that_somebody_could_still_change_is_not_believed(sealed: SealedMemory) -> None:
    open_still = SealedMemory(PAGE)
    with pytest.raises(RemoteProtocolError, match="not sealed"):
        check_sealed(open_still.fd, PAGE)
    with pytest.raises(RemoteProtocolError, match=f"have {2 * PAGE} bytes, announced were {PAGE}"):
        check_sealed(sealed.fd, PAGE)
    reading, writing = os.pipe()
    with pytest.raises(RemoteProtocolError, match="not sealable"):
        check_sealed(reading, PAGE)
    os.close(reading)
    os.close(writing)


def test_its_descriptor_goes_with_it() -> None:
    """Whatever has its number afterwards is another file."""
    memory = SealedMemory(PAGE)
    fd, file = memory.fd, os.fstat(memory.fd)
    del memory
    try:
        assert not os.path.samestat(os.fstat(fd), file)
    except OSError as error:
        assert error.errno == errno.EBADF
