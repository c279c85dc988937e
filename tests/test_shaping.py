"""Shaping: pieces, bursts and windows follow from rates and frames, and the commands say what they are meant to."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from twinstep.shaping import Shape, payload_share

RATES_BITS_PER_S = (20e6, 50e6, 94e6, 100e6, 333e6, 1e9, 2.5e9, 10e9)
MTUS = (576, 1000, 1152, 1280, 1500, 4000, 9000)
TCP_HEADER_BYTES = 20 + 20 + 12
"""IPv4, TCP, and TCP's time stamps."""
ETHERNET_BYTES = 14
LARGEST_BYTES = 65536
SOURCES = tuple(f"10.0.0.{number}" for number in range(1, 6))


def shape(rate_bits_per_s: float, mtu: int = 1500, latency_s: float = 0.0) -> Shape:
    return Shape(rate_bits_per_s / 8, latency_s, mtu)


def on_the_wire(packet_bytes: int, mtu: int) -> int:
    """Give the bytes of all frames of one large IP packet, when it is cut to pieces that fit."""
    payload = packet_bytes - TCP_HEADER_BYTES
    frames = math.ceil(payload / (mtu - TCP_HEADER_BYTES))
    return payload + frames * (ETHERNET_BYTES + TCP_HEADER_BYTES)


def test_the_payload_of_a_frame_is_what_headers_leave() -> None:
    assert payload_share(1500) == 1448 / 1514
    assert payload_share(9000) == 8948 / 9014


EVERY_SHAPE = pytest.mark.parametrize(
    "found",
    [shape(rate, mtu) for rate in RATES_BITS_PER_S for mtu in MTUS],
    ids=lambda found: f"{found.rate_bytes_per_s * 8 / 1e6:.0f} Mbit/s, MTU {found.mtu}",
)


@EVERY_SHAPE
def test_a_piece_is_whole_frames_and_a_short_time_of_the_link(found: Shape) -> None:
    """From two frames to 64 KiB; between these it is less than a frame shorter than 0.8 ms of the link."""
    frame, piece = found.mtu + ETHERNET_BYTES, found.piece_bytes
    assert piece % frame == 0
    assert 2 * frame <= piece <= LARGEST_BYTES
    wanted = 0.8e-3 * found.rate_bytes_per_s
    if piece > 2 * frame:
        assert piece <= wanted
    if piece + frame <= LARGEST_BYTES:
        assert piece > wanted - frame


def test_pieces_grow_with_the_rate_from_two_frames_to_64_kib() -> None:
    pieces = [shape(rate).piece_bytes for rate in RATES_BITS_PER_S]
    assert pieces == sorted(pieces)
    assert (pieces[0], pieces[-1]) == (2 * 1514, 43 * 1514)
    assert shape(100e6).piece_bytes == 6 * 1514


@EVERY_SHAPE
def test_a_burst_holds_a_piece_with_the_headers_of_its_frames(found: Shape) -> None:
    """The kernel counts a piece with the headers of each frame that it will be cut to."""
    assert on_the_wire(found.piece_bytes, found.mtu) <= found.burst_bytes


@EVERY_SHAPE
def test_a_window_holds_three_pieces_and_queues_hold_many_windows(found: Shape) -> None:
    assert found.window_bytes >= 3 * found.piece_bytes
    assert found.window_bytes >= int(2.4e-3 * found.rate_bytes_per_s)
    assert found.limit_bytes >= 64 * found.window_bytes


class Leaf(NamedTuple):
    """A class of a share of the link, as a command declares it."""

    rate_bits_per_s: int
    ceiling_bits_per_s: int
    quantum_bytes: int
    urgency: int


LEAF = re.compile(
    r"class add dev e0 parent 1:1 classid (1:[0-9a-f]+) htb rate (\d+)bit "
    r"ceil (\d+)bit cburst \d+b quantum (\d+) prio (\d)"
)
SHORT = re.compile(
    r"filter add dev e0 parent 1: protocol ip prio (\d) u32 match u16 (\d+) 0xffff at 2 match u8 (\w+) 0xff at (\d+) "
    r"flowid (1:[0-9a-f]+)"
)
SOURCE = re.compile(
    r"filter add dev e0 parent 1: protocol ip prio (\d) u32 match ip src ([0-9.]+)/32 flowid (1:[0-9a-f]+)"
)


def commands(found: Shape, sources: tuple[str, ...] = SOURCES, largest: int | None = None) -> list[str]:
    return found.commands("e0", sources, found.piece_bytes if largest is None else largest)


def leaves(lines: list[str]) -> dict[str, Leaf]:
    matches = [match for line in lines if (match := LEAF.fullmatch(line))]
    found = {match[1]: Leaf(*(int(number) for number in match.groups()[1:])) for match in matches}
    assert len(found) == len(matches)
    return found


def matching(pattern: re.Pattern[str], lines: list[str]) -> Iterator[tuple[str, ...]]:
    return (match.groups() for line in lines if (match := pattern.fullmatch(line)))


@pytest.mark.parametrize("count", [0, 1, 5, 128])
def test_every_source_has_a_class_of_its_own(count: int) -> None:
    """There is one more for acknowledgements, and one for what no filter knows."""
    sources = tuple(f"10.0.{number // 200}.{number % 200 + 1}" for number in range(count))
    lines = commands(shape(1e9), sources)
    declared = leaves(lines)
    chosen = {source: flow for _, source, flow in matching(SOURCE, lines)}
    acknowledgements = {flow for *_, flow in matching(SHORT, lines)}
    assert list(chosen) == list(sources)
    assert len(set(chosen.values())) == count
    assert len(acknowledgements) == 1
    (default,) = re.findall(r"root handle 1: htb default ([0-9a-f]+)", "\n".join(lines))
    assert {*chosen.values(), *acknowledgements, f"1:{default}"} == declared.keys()
    assert len(declared) == count + 2
    assert {line.split()[5] for line in lines if line.startswith("qdisc") and "root" not in line} == declared.keys()


@pytest.mark.parametrize("count", [0, 1, 5, 127])
@pytest.mark.parametrize("rate_bits_per_s", RATES_BITS_PER_S)
def test_guaranteed_rates_fit_and_each_may_have_the_whole_link(rate_bits_per_s: float, count: int) -> None:
    """Classes share by turns of equal length; what each is sure to have is little, and never too much together."""
    found = leaves(commands(shape(rate_bits_per_s), ("10.0.0.1",) * count)).values()
    assert sum(leaf.rate_bits_per_s for leaf in found) <= rate_bits_per_s
    assert {leaf.ceiling_bits_per_s for leaf in found} == {round(rate_bits_per_s)}
    assert len({(leaf.rate_bits_per_s, leaf.quantum_bytes) for leaf in found}) == 1


def test_the_parent_lets_the_rate_through_and_the_burst_at_once() -> None:
    found = shape(1e9)
    (parent,) = [line for line in commands(found) if "classid 1:1 " in line]
    assert f"rate 1000000000bit burst {found.burst_bytes}b ceil 1000000000bit" in parent


def test_a_turn_holds_the_largest_piece_of_the_network_on_slow_links_too() -> None:
    largest = shape(10e9).piece_bytes
    for leaf in leaves(commands(shape(20e6), largest=largest)).values():
        assert leaf.quantum_bytes >= on_the_wire(largest, 1500)


def test_acknowledgements_are_packets_of_headers_alone_that_acknowledge() -> None:
    """20 bytes of IP, 20 of TCP, 12 of time stamps and 12 to 28 of what was received out of order; flag ACK alone."""
    found = list(matching(SHORT, commands(shape(1e9))))
    assert [int(length) for _, length, *_ in found] == [52, 52 + 12, 52 + 20, 52 + 28]
    assert {(int(flags, 16), int(place)) for *_, flags, place, _ in found} == {(0x10, 20 + 13)}


def test_acknowledgements_are_chosen_first_and_go_first() -> None:
    lines = commands(shape(1e9))
    (order,) = {order for order, *_ in matching(SHORT, lines)}
    (class_,) = {flow for *_, flow in matching(SHORT, lines)}
    assert all(order < other for other, *_ in matching(SOURCE, lines))
    declared = leaves(lines)
    assert all(declared[class_].urgency < leaf.urgency for name, leaf in declared.items() if name != class_)


def test_only_a_latency_needs_netem() -> None:
    plain, delayed = (commands(shape(1e9, latency_s=latency_s)) for latency_s in (0.0, 250e-6))
    assert not any("netem" in line for line in plain)
    queues = [line for line in delayed if line.startswith("qdisc") and "root" not in line]
    assert len(queues) == len(SOURCES) + 2
    assert all("netem delay 250us" in line for line in queues)
    assert not any("bfifo" in line for line in delayed)


@pytest.mark.parametrize("latency_s", [1e-6, 1e-3, 0.1])
def test_a_delayed_queue_holds_what_is_on_the_way_besides_what_waits(latency_s: float) -> None:
    found = shape(1e9, latency_s=latency_s)
    (packets,) = {int(number) for number in re.findall(r"limit (\d+)$", "\n".join(commands(found)), re.MULTILINE)}
    assert packets * found.mtu >= found.rate_bytes_per_s * latency_s + found.limit_bytes
