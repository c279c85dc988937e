"""Disturbances: what happens to a run besides itself: slow ranks, links that change, traffic of others."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from twinstep.strict_model import StrictModel
from twinstep.timeline import CollectiveKind
from twinstep.units import BandwidthBytesPerS, DurationS, SizeBytes

MAX_RANKS = 2**17


def jitter(deviation: float, seed: int, rank: int, step: int) -> float:
    """Draw how many times as long a rank's computations of a step take: log-normal, of mean 1.

    >>> 0.9 < jitter(0.01, seed=0, rank=3, step=7) < 1.1
    True
    """
    drawn = np.random.default_rng((seed, rank, step)).standard_normal()
    return math.exp(deviation * drawn - deviation**2 / 2)


class Straggler(StrictModel):
    """A rank whose device is slower than the others."""

    rank: Annotated[int, Field(ge=0, lt=MAX_RANKS)]
    """Which rank."""
    slowdown: Annotated[float, Field(ge=1, le=1000, allow_inf_nan=False, strict=False)]
    """How many times as long each of its computations takes."""


class Death(StrictModel):
    """A rank whose process ends during the run, without a word to the others."""

    rank: Annotated[int, Field(ge=0, lt=MAX_RANKS)]
    """Which rank."""
    at: DurationS
    """When, from the beginning of the run, warm-up included."""


class LinkChange(StrictModel):
    """A link whose bandwidth changes, or that fails. Executed from the start alone, and on an emulated cluster."""

    source: Annotated[str, Field(max_length=200)]
    """The node at one end."""
    target: Annotated[str, Field(max_length=200)]
    """The node at the other end; a link with two directions changes in both."""
    at: DurationS | None = None
    """When, from the beginning of the run, warm-up included; from the start where left out."""
    bandwidth: BandwidthBytesPerS | None = None
    """The bandwidth from then on. Where it is left out the link fails, and its traffic takes another route."""


class _Background(StrictModel):
    size: SizeBytes
    """Bytes: of the message, or of each device's whole buffer."""
    begin: DurationS | None = None
    """When the first one starts, from the beginning of the run; at once where left out."""
    every: DurationS | None = None
    """From the start of one to that of the next, or until it is complete; without a pause where left out."""


class BackgroundFlow(_Background):
    """Messages of others between two nodes, such as reads from storage."""

    kind: Literal["flow"]
    source: Annotated[str, Field(max_length=200)]
    """The node that sends."""
    target: Annotated[str, Field(max_length=200)]
    """The node that receives."""

    @property
    def ends(self) -> tuple[str, ...]:
        """The nodes that communicate."""
        return self.source, self.target

    @model_validator(mode="after")
    def _two_ends(self) -> BackgroundFlow:
        if self.source == self.target:
            raise ValueError(f"source and target are both {self.source!r}: name two nodes")
        return self


class BackgroundCollective(_Background):
    """A collective of others, such as another job, again and again."""

    kind: Literal["collective"]
    collective: CollectiveKind
    """Which one."""
    devices: Annotated[tuple[Annotated[str, Field(max_length=200)], ...], Field(min_length=2, strict=False)]
    """The devices of the other job, in the order of its ranks."""

    @property
    def ends(self) -> tuple[str, ...]:
        """The nodes that communicate."""
        return self.devices

    @model_validator(mode="after")
    def _different(self) -> BackgroundCollective:
        if len(set(self.devices)) < len(self.devices):
            raise ValueError("devices names a device twice: name each once")
        return self


Background = Annotated[BackgroundFlow | BackgroundCollective, Field(discriminator="kind")]
