"""What an emulated cluster adds to the network: closed forms, each term alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import simpy

from twinstep.effects import Transfer
from twinstep.plan import Plan
from twinstep.profile import EmulationCosts, Profile
from twinstep.programs import lower
from twinstep.shaping import ACKNOWLEDGEMENT_BYTES, Shape, payload_share
from twinstep.sim import simulate
from twinstep.sim.communication import Communicator
from twinstep.sim.fluid import Fluid, Load
from twinstep.sim.meetings import Meeting, Stream, Streams
from twinstep.sim.running import Part
from twinstep.topologies import build

RATE = 400e6 / 8
HEADERS = 1 / payload_share(1500)
SHAPE = Shape(RATE, 0.0, 1500)
AT_ONCE = SHAPE.burst_bytes + SHAPE.piece_bytes / 2
"""A bucket, and half of the last piece, which any token left lets pass."""
MESSAGE_BYTES = 66 / 2 + 2 * (48 + 66)
"""Half a frame of headers, gloo's preamble of 48 bytes, a notice back in a frame of its own."""
FREE = {
    "step_s": 1e-9,
    "step_cpu_s": 1e-15,
    "piece_cpu_s": 0.0,
    "byte_cpu_s": 0.0,
    "copy_s_per_byte": 0.0,
    "opposed_rate": 1.0,
}


def times_s(
    profile: Profile,
    kind: str,
    size: str,
    ranks: int,
    costs: dict[str, float],
    more: dict[str, object] | None = None,
    others: tuple[tuple[int, int], ...] = (),
) -> dict[str, float]:
    """Predict one collective on a star of 400 Mb/s; give the time of each communication.

    `others` send from one host to another without a pause, hosts without a rank among them.
    """
    emulation = EmulationCosts.model_validate(FREE | {"delays_links": False, "congestion": "cubic"} | costs)
    plan = Plan.model_validate(
        {
            "workload": {"kind": "collective", "collective": kind, "size": size} | (more or {}),
            "partition": {"data": ranks},
            "topology": {
                "builder": "star",
                "hosts": max(ranks, *(1 + max(ends) for ends in others)) if others else ranks,
                "device": {"peak": "1 TFLOP/s", "memory_bandwidth": "1 TB/s"},
                "link": {"bandwidth": "400 Mb/s", "latency": "1 s"},
            },
            "run": {
                "steps": 1,
                "warmup": 0,
                "compute": "emulated",
                "backend": "emulated",
                "background": [
                    {"kind": "flow", "source": f"host{source}", "target": f"host{target}", "size": "64 MiB"}
                    for source, target in others
                ],
            },
        }
    )
    known = profile.model_copy(update={"emulation": emulation})
    found = simulate(plan, lower(plan), build(plan.topology), known).timeline  # type: ignore[arg-type]
    return {operation: times[0] for operation, times in found.collectives_by_step_s().items()}


def only(times: dict[str, float]) -> float:
    (time_s,) = times.values()
    return time_s


def test_a_message_takes_its_frames_but_for_the_burst(profile: Profile) -> None:
    """Latency of links is not emulated here, so a second of it does not show."""
    expected = (2**20 * HEADERS + MESSAGE_BYTES - AT_ONCE) / RATE
    assert only(times_s(profile, "send", "1 MiB", 2, {})) == pytest.approx(
        expected, rel=1e-3
    )  # and the links inside the hosts


def test_acknowledgements_do_not_wait_behind_what_others_send(profile: Profile) -> None:
    """Three hosts fill the link to the sender, over which its message is acknowledged; what goes its way shares it."""
    alone = only(times_s(profile, "send", "1 MiB", 2, {}))
    answered = only(times_s(profile, "send", "1 MiB", 2, {}, others=((2, 0), (3, 0), (4, 0))))
    shared = only(times_s(profile, "send", "1 MiB", 2, {}, others=((2, 1),)))
    assert answered == pytest.approx(alone, rel=1e-3)
    assert shared == pytest.approx(2 * alone, rel=0.05)


@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_a_ring_carries_acknowledgements_beside_its_bytes(profile: Profile, ranks: int) -> None:
    """Each share goes as two messages."""
    steps = 2 * (ranks - 1)
    bytes_forth = steps * (2**22 / ranks * HEADERS + 2 * MESSAGE_BYTES)
    on_link = bytes_forth * (1 + ACKNOWLEDGEMENT_BYTES / SHAPE.piece_bytes)
    expected = (on_link - AT_ONCE) / RATE
    assert only(times_s(profile, "all_reduce", "4 MiB", ranks, {})) == pytest.approx(expected, rel=1e-4)


def test_steps_of_a_small_ring_count_one_by_one(profile: Profile) -> None:
    time_s = only(times_s(profile, "all_reduce", "64 B", 4, {"step_s": 1e-3}))
    assert time_s == pytest.approx(6e-3, rel=0.02)


def test_steps_of_a_small_ring_wait_for_their_turns_on_the_cores(profile: Profile) -> None:
    """Eight ranks take 1 ms of a core each, in each of 14 steps."""
    time_s = only(times_s(profile, "all_reduce", "64 B", 8, {"step_cpu_s": 1e-3}))
    assert time_s == pytest.approx(14 * 8e-3 / profile.machine.cores, rel=0.01)


def test_the_first_child_of_a_broadcast_is_a_window_ahead(profile: Profile) -> None:
    """0 sends to 1 and then to 2, a window later; 1 goes on to 3 while 0 sends what 2 lacks."""
    message = 2**20 * HEADERS + MESSAGE_BYTES
    first_s = (2 * message - SHAPE.window_bytes * HEADERS - AT_ONCE) / RATE
    expected = first_s + (message - AT_ONCE) / RATE
    assert only(times_s(profile, "broadcast", "1 MiB", 4, {})) == pytest.approx(expected, rel=3e-3)


def test_steps_of_a_large_ring_hide_behind_its_bytes(profile: Profile) -> None:
    quick = only(times_s(profile, "all_reduce", "8 MiB", 4, {}))
    slow = only(times_s(profile, "all_reduce", "8 MiB", 4, {"step_s": 1e-3}))
    assert slow == pytest.approx(quick + 1e-3, rel=1e-4)


def test_all_hosts_share_the_cores_of_the_machine(profile: Profile) -> None:
    """Eight flows of a ring, 20 ns of a core for each byte of payload: slower than the links."""
    payload = 2 * 7 / 8 * 2**22
    expected = 8 * payload * 20e-9 / profile.machine.cores
    assert only(times_s(profile, "all_reduce", "4 MiB", 8, {"byte_cpu_s": 20e-9})) == pytest.approx(expected, rel=0.01)


def test_each_hop_takes_time_of_the_cores(profile: Profile) -> None:
    cost_s = 1e-3
    wire = 2**22 * HEADERS
    expected = 2 * wire / SHAPE.piece_bytes * cost_s / profile.machine.cores
    assert only(times_s(profile, "send", "4 MiB", 2, {"piece_cpu_s": cost_s})) == pytest.approx(expected, rel=0.01)


def test_what_is_copied_on_every_rank_is_copied_in_turns(profile: Profile) -> None:
    quick = only(times_s(profile, "all_gather", "4 MiB", 8, {}))
    slow = only(times_s(profile, "all_gather", "4 MiB", 8, {"copy_s_per_byte": 1e-9}))
    assert slow - quick == pytest.approx(8 / profile.machine.cores * 2**22 * 1e-9, rel=1e-3)


class Pair:
    """Two ranks with a channel each way over one connection, on links without anything else."""

    def __init__(self) -> None:
        self.env = simpy.Environment()
        fluid = Fluid(self.env, [1.0, 1.0])
        streams = Stream(), Stream()
        self.channels = [
            Communicator(
                self.env,
                fluid,
                lambda effect, link=link: [Part(0.0, float(effect.size_bytes), [Load(link, 1.0, 1.0)], 1.0, None)],
                1,
                [(link, "send"), (1 - link, "recv")],
                lambda meeting: None,
                one_connection=True,
                streams=Streams(streams[link], streams[1 - link]),
            )
            for link in (0, 1)
        ]

    def exchange(self, calls_s: tuple[float, float], size_bytes: int = 10) -> list[float]:
        """Let both ranks send and then receive, from their own time on; give when each message has arrived."""
        ended: dict[int, Meeting] = {}

        def rank(number: int) -> object:
            yield self.env.timeout(calls_s[number])
            for kind, channel in (("send", number), ("recv", 1 - number)):
                ends = (channel, 1 - channel)
                effect = Transfer(kind, "pair", *ends, size_bytes, "lane")  # type: ignore[arg-type]
                ended[channel] = self.channels[channel].issue(number, 0, effect, self.env.now).meeting  # type: ignore[union-attr]

        for number in (0, 1):
            self.env.process(rank(number))  # type: ignore[arg-type]
        self.env.run()
        return [ended[channel].end_s for channel in (0, 1)]


def test_who_calls_later_sends_first() -> None:
    """Rank 1 finds rank 0 ready; its own notice waits behind what it sends, so the two directions follow each other."""
    assert Pair().exchange((0.0, 1.0)) == pytest.approx([21.0, 11.0])


def test_who_calls_much_later_waits_for_nobody() -> None:
    assert Pair().exchange((5.0, 0.0)) == pytest.approx([15.0, 25.0])


def test_a_notice_waits_for_what_is_being_sent_and_for_nothing_else() -> None:
    """The notice of rank 1 waits behind its first message; what rank 0 has not begun to send holds up no notice.

    rank 1 sends    first----- second----
    rank 0 sends              other-----
    """
    pair, ended = Pair(), {}

    def call(rank: int, kind: str, channel: int, name: str) -> None:
        effect = Transfer(kind, name, channel, 1 - channel, 10, "lane")  # type: ignore[arg-type]
        ended[name] = pair.channels[channel].issue(rank, 0, effect, pair.env.now).meeting  # type: ignore[union-attr]

    def both() -> Iterator[simpy.Event]:
        for channel, name in ((1, "first"), (0, "other"), (1, "second")):
            call(1 - channel, "recv", channel, name)
            call(channel, "send", channel, name)
            yield pair.env.timeout(1.0)

    pair.env.process(both())  # type: ignore[arg-type]
    pair.env.run()
    assert {name: meeting.end_s for name, meeting in ended.items()} == pytest.approx(
        {"first": 10.0, "other": 20.0, "second": 20.0}
    )


def test_messages_of_two_channels_follow_one_another() -> None:
    """Two messages of 10 bytes to the same rank, under other names, over one connection of 1 byte/s: 10 s, then 20."""
    env = simpy.Environment()
    fluid = Fluid(env, [1.0])
    streams = Streams(Stream(), Stream())
    ends = []
    for lane in ("one", "other"):
        channel = Communicator(
            env,
            fluid,
            lambda effect: [Part(0.0, float(effect.size_bytes), [Load(0, 1.0, 1.0)], 1.0, None)],
            2,
            [(0, "send"), (1, "recv")],
            lambda meeting: None,
            one_connection=True,
            streams=streams,
        )
        for rank, kind in ((0, "send"), (1, "recv")):
            end = channel.issue(rank, 0, Transfer(kind, "pair", 0, 1, 10, lane), 0.0)  # type: ignore[arg-type]
        ends.append(end.meeting)  # type: ignore[union-attr]
    env.run()
    assert [meeting.end_s for meeting in ends] == pytest.approx([10.0, 20.0])


def test_two_on_one_connection_share_by_size() -> None:
    """A flow of 10 and one of 30 bytes, at once, on one connection that has a link of 1 byte/s: both end at 40."""
    env = simpy.Environment()
    fluid = Fluid(env, [1.0])
    pair = Communicator(
        env,
        fluid,
        lambda effect: [Part(0.0, float(effect.size_bytes), [Load(0, 1.0, 1.0)], float("inf"), None)],
        2,
        [(0, "send")],
        lambda meeting: None,
        one_connection=True,
    )
    ends = [
        pair.issue(0, 0, Transfer("send", "pair", 0, 1, size, "lane"), 0.0).meeting
        for size in (10, 30)  # type: ignore[union-attr]
    ]
    env.run()
    assert [meeting.end_s for meeting in ends] == pytest.approx([40.0, 40.0])


def activations_s(profile: Profile, data: int, devices_per_host: int, rank: int) -> list[float]:
    """Give when a rank's messages to the next stage have arrived, for pipelines of neighbours on two hosts."""
    emulation = EmulationCosts.model_validate(FREE | {"delays_links": False, "congestion": "cubic"})
    plan = Plan.model_validate(
        {
            "workload": {"kind": "gpt", "layers": 2, "heads": 1, "width": 64, "context": 64, "batch": 4 * data},
            "partition": {
                "data": data,
                "pipeline": 2,
                "microbatches": 2,
                "order": ["pipeline", "tensor", "context", "data"],
            },
            "topology": {
                "builder": "star",
                "hosts": 2,
                "devices_per_host": devices_per_host,
                "device": {"peak": "1 TFLOP/s", "memory_bandwidth": "1 TB/s"},
                "link": {"bandwidth": "20 Mb/s", "latency": "1 us"},
                "internal_link": {"bandwidth": "1 Mb/s", "latency": "1 us"},
            },
            "run": {"steps": 1, "warmup": 0, "compute": "emulated", "backend": "emulated"},
        }
    )
    known = profile.model_copy(update={"emulation": emulation})
    timeline = simulate(plan, lower(plan), build(plan.topology), known, fold=False).timeline  # type: ignore[arg-type]
    return [s.end_s for s in timeline.spans if s.rank == rank and s.operation.startswith("send activations")]


def test_connections_of_different_pairs_do_not_wait_for_each_other(profile: Profile) -> None:
    """Of three pipelines the first is within a host and slow; the second, across hosts, is as fast as one alone."""
    alone, beside = activations_s(profile, 1, 1, 0), activations_s(profile, 3, 3, 2)
    assert len(alone) == 2
    assert beside == pytest.approx(alone)
