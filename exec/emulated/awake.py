"""Keeping this machine's cores awake, as an instrument should be, while they stand in for the hosts of a cluster.

A core with nothing to do goes to sleep, and on a virtual machine its hypervisor must wake it: from process to process
and back a byte took 51 us rather than 7. Power management leaves cores awake while a process holds
/dev/cpu_dma_latency open with a bound of zero, as latency tests of the kernel do; it forgets the bound when that
process ends, however it ends.
"""

from __future__ import annotations

import contextlib
import os
import struct

_DEVICE = "/dev/cpu_dma_latency"


def keep_cores_awake() -> bool:
    """Do so until this process ends; give whether the machine allows it, as it does where a user is really root."""
    with contextlib.suppress(OSError):
        os.write(os.open(_DEVICE, os.O_WRONLY | os.O_CLOEXEC), struct.pack("i", 0))
        return True
    return False
