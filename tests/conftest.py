"""What several test modules share: a profile, so that no test calibrates, and the command line in this process."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from tests.command_line import Ended

from twinstep import cli
from twinstep.profile import Profile, read_profile, this_machine, to_json

PROFILE = Path(__file__).parent / "data" / "profile.json"

# The same examples in every run, and no clock: on a busy machine drawing and running one takes as long as it takes.
settings.register_profile(
    "steady", derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("quick", settings.get_profile("steady"), max_examples=25)
settings.load_profile("steady")


@pytest.fixture(scope="session")
def profile() -> Profile:
    """Give a profile that passes for this machine's."""
    return read_profile(PROFILE).model_copy(update={"machine": this_machine()})


@pytest.fixture(scope="session", autouse=True)
def _cache(profile: Profile, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let this process and its children find that profile, and leave the user's cache alone."""
    cache = tmp_path_factory.mktemp("cache")
    (cache / "twinstep").mkdir()
    (cache / "twinstep" / "profile.json").write_text(to_json(profile))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        yield


@pytest.fixture
def run_cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Ended]]:
    """Give a function that runs the command line in this process; whatever it does not catch ends the test."""

    def run(*arguments: str | Path) -> Ended:
        monkeypatch.setattr(sys, "argv", ["twinstep", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert isinstance(ended.value.code, int)
        return Ended(ended.value.code, *capsys.readouterr())

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)
