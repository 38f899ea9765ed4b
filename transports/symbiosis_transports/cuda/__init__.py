"""What the device transport asks of CUDA: a seam of a few calls, and the CUDA runtime behind it.

    seam.py      the calls, as a protocol, with what they promise
    library.py   libcudart, typed
    device.py    the calls on one real device
    source.py    the devices that a process sees

The other implementation is `symbiosis_transports.fake_cuda`, with the same promises and none of the hardware.
"""
