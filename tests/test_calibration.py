"""Calibration: every kernel has a bench, and a real one gives a profile that holds together."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.command_line import Ended

from twinstep.exec import measure
from twinstep.exec.calibration import medians
from twinstep.exec.kernel_benches import BENCHES
from twinstep.kernels import KERNEL_NAMES, Kernel
from twinstep.profile import Profile, read_profile, this_machine


def test_every_kernel_has_exactly_one_bench() -> None:
    smallest = [(bench, tuple(axis[0] for axis in bench.grid)) for bench in BENCHES]
    timed = [name for bench, shape in smallest for name in bench.make(*shape) if name]
    assert sorted(timed) == sorted(KERNEL_NAMES)


def test_a_bench_has_the_axes_of_its_kernels() -> None:
    for bench in BENCHES:
        names = [name for name in bench.make(*(axis[0] for axis in bench.grid)) if name]
        assert {len(Kernel(name, ()).axes) for name in names} == {len(bench.grid)}


def test_a_process_that_was_disturbed_does_not_count() -> None:
    point = ("zero", (1024,))
    assert medians([{point: 1.0}, {point: 9.0}, {point: 1.5}]) == {point: 1.5}


# A calibration that times every kernel and every condition, but each once or twice, and among few ranks.
QUICK = """\
from twinstep.exec import calibration, gloo_timing, kernel_timing

kernel_timing._COPIES_BYTES = 0
kernel_timing._FEWEST_TIMES = kernel_timing._MOST_TIMES = 1
gloo_timing._FEWEST_TIMES = gloo_timing._MOST_TIMES = 2
calibration._PASSES = 1
calibration.TABLES = [(kind, ranks[:2], share) for kind, ranks, share in calibration.TABLES]
main = calibration.main
"""


@pytest.fixture
def _quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command keep a crew that repeats little; what it does and writes is the same."""
    (tmp_path / "quick_calibration.py").write_text(QUICK)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    supervise = measure._supervise
    quick = {"twinstep.exec.calibration": "quick_calibration"}
    monkeypatch.setattr(measure, "_supervise", lambda module, *others: supervise(quick.get(module, module), *others))


@pytest.mark.slow
@pytest.mark.timed
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("_quick")
def test_calibrate_writes_a_whole_profile(run_cli: Callable[..., Ended], tmp_path: Path) -> None:
    path = tmp_path / "deep" / "profile.json"
    ended = run_cli("calibrate", "--out", path)
    assert ended.code == 0, ended.err
    measured = read_profile(path)
    assert measured.machine.is_like(this_machine())
    assert measured.age_days < 1
    assert set(measured.devices["cpu"].kernels) == set(KERNEL_NAMES)
    assert measured.reference_s
    assert 1e-6 < measured.reference_s < 1
    assert measured.emulation is None or 0.5 < measured.emulation.opposed_rate <= 1
    assert_grows(measured)


def assert_grows(profile: Profile) -> None:
    """Check what noise cannot turn around: much more work takes longer, much more communication, too."""
    curve = profile.devices["cpu"].kernels["linear_forward"]
    times = dict(zip(itertools.product(*curve.grid), curve.idle_s, strict=True))
    assert times[256, 256, 256] > 4 * times[16, 64, 64]
    table = profile.collectives["gloo"]["all_reduce"]
    assert table.elapsed_s[0][-1] > table.elapsed_s[0][0]
    assert table.elapsed_s[-1][-1] > table.elapsed_s[0][-1]
