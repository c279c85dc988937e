"""What keeps this machine from being seen in what is measured on it: cores that stay awake, work that gives way."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from twinstep.effects import Compute, Learn
from twinstep.exec.emulated_device import EmulatedDevice
from twinstep.exec.idle_thread import IdleThread

DEVICE = "/dev/cpu_dma_latency"
HOLDER = """
import struct
from twinstep.exec.emulated.awake import keep_cores_awake
def bound():
    with open("/dev/cpu_dma_latency", "rb") as device:
        return struct.unpack("i", device.read(4))[0]
before = bound()
print(before, keep_cores_awake(), bound())
"""


@pytest.mark.timed  # and so alone: runs on emulated clusters keep the cores awake, too
@pytest.mark.skipif(not os.access(DEVICE, os.W_OK), reason=f"{DEVICE} cannot be written: no root, or no such device")
def test_cores_stay_awake_until_the_process_ends() -> None:
    """Each of two processes finds the bound of a machine that nobody keeps awake, and sets it to 0."""
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", HOLDER], capture_output=True, text=True, timeout=60, check=True)
        before, holds, after = done.stdout.split()
        assert int(before) > 0
        assert (holds, after) == ("True", "0")


def test_without_the_device_nothing_is_kept_awake(monkeypatch: pytest.MonkeyPatch) -> None:
    from twinstep.exec.emulated import awake

    monkeypatch.setattr(awake, "_DEVICE", "/nonexistent/device")
    assert not awake.keep_cores_awake()


def test_what_is_learnt_gives_way_and_its_program_does_not() -> None:
    policies = []

    def work() -> float:
        policies.append(os.sched_getscheduler(0))
        return 2.5

    own = os.sched_getscheduler(0)
    device = EmulatedDevice(lambda effect: None, lambda effect: 0.0, lambda step: 1.0, lifelines=None)  # type: ignore[arg-type, return-value]
    assert device.learn(Learn(work)) == 2.5
    assert policies == [os.SCHED_IDLE]
    assert os.sched_getscheduler(0) == own


def test_an_error_in_the_background_reaches_the_program() -> None:
    with pytest.raises(ZeroDivisionError):
        IdleThread().do(lambda: 1 / 0)


def test_a_device_is_never_early() -> None:
    """A sleep is begun shorter than the time that is left; what the device does takes no less than modelled."""
    device = EmulatedDevice(lambda effect: None, lambda effect: 0.002, lambda step: 1.0, lifelines=None)  # type: ignore[arg-type, return-value]
    for step in range(5):
        begin_s = time.perf_counter()
        device.begin_step(step)
        device.compute(Compute("forward", (), 0))
        device.synchronize()
        assert time.perf_counter() - begin_s >= 0.002
        device.end_step()
