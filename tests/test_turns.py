"""Messages that leave one host: first windows in turn, the rest together."""

from __future__ import annotations

import pytest
import simpy

from twinstep.effects import Transfer
from twinstep.sim.communication import Communicator
from twinstep.sim.fluid import Fluid, Load
from twinstep.sim.meetings import Meeting
from twinstep.sim.running import Part
from twinstep.sim.turns import Turns

WINDOW_BYTES = 10.0
OWN = 0
"""The link by which the host sends, of 1 byte/s; each receiver has a link of its own behind it."""


def arrivals_s(
    sizes_bytes: list[int], calls_s: list[float] | None = None, behind: float = 1.0, own_link: int | None = OWN
) -> list[float]:
    """Send messages to as many receivers, whose links carry `behind` bytes/s; give when they have arrived."""
    env = simpy.Environment()
    fluid = Fluid(env, [1.0, *([behind] * len(sizes_bytes))])
    turns = Turns(env, fluid, WINDOW_BYTES)
    meetings: dict[int, Meeting] = {}

    def send(number: int, size_bytes: int, call_s: float) -> object:
        loads = [Load(OWN, 1.0, 1.0), Load(1 + number, 1.0, 1.0)]
        part = Part(0.0, float(size_bytes), loads, float("inf"), None, own_link=own_link)
        channel = Communicator(env, fluid, lambda _: [part], 1, [(0, "send")], lambda _: None, turns=turns)
        yield env.timeout(call_s)
        effect = Transfer("send", "pair", 0, 1 + number, size_bytes, "lane")
        meetings[number] = channel.issue(0, 0, effect, env.now).meeting  # type: ignore[union-attr]

    for number, size_bytes in enumerate(sizes_bytes):
        env.process(send(number, size_bytes, calls_s[number] if calls_s else 0.0))  # type: ignore[arg-type]
    env.run()
    return [meetings[number].end_s for number in range(len(sizes_bytes))]


def test_messages_of_a_window_follow_one_another() -> None:
    assert arrivals_s([10, 10, 10]) == pytest.approx([10, 20, 30])


def test_without_turns_they_arrive_together() -> None:
    assert arrivals_s([10, 10, 10], own_link=None) == pytest.approx([30, 30, 30])


def test_what_is_longer_than_a_window_shares_the_link_afterwards() -> None:
    """The second begins after 10 s; the first has 20 bytes left then, which take 40 s beside it."""
    assert arrivals_s([30, 30]) == pytest.approx([50, 60])


def test_a_message_waits_for_a_window_of_a_longer_one_and_for_the_rest_of_a_shorter() -> None:
    assert arrivals_s([1000, 5], [0.0, 50.0])[1] == pytest.approx(50 + 10 + 2 * 5)
    assert arrivals_s([12, 5], [0.0, 9.0]) == pytest.approx([12, 17])


def test_windows_that_wait_behind_slower_links_keep_nobody() -> None:
    """Each receiver takes a third of a byte a second: the host's link is never full, and all arrive together."""
    assert arrivals_s([10, 10, 10], behind=1 / 3.1) == pytest.approx([31, 31, 31])


def test_whoever_finds_the_queue_empty_goes_at_once() -> None:
    assert arrivals_s([10, 10], [0.0, 10.0]) == pytest.approx([10, 20])
