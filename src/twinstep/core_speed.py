"""Core speed: how fast this machine's cores were while a plan ran, as a multiple of their speed at calibration."""

from __future__ import annotations

import statistics

from twinstep.profile import Profile
from twinstep.timeline import Timeline

REFERENCE = "reference_s"
"""The name of the observations that tell it: CPU seconds of a product of matrices, by rank and step."""


def core_speed(profile: Profile | None, measured: Timeline) -> float | None:
    """Give the mean over steps and ranks; None where compute was not real, or the profile does not tell it.

    The warm-up counts, too: cores are as fast then as right after it.
    """
    reference_s = profile.reference_s if profile else None
    seconds = [each.value for each in measured.observations if each.name == REFERENCE]
    return reference_s / statistics.fmean(seconds) if reference_s and seconds else None
