"""Which parameter server has which parameters."""

from __future__ import annotations

import math

import pytest

from twinstep.programs.hash_circle import POINTS, HashCircle
from twinstep.programs.keys import key_ranges
from twinstep.synchronisation import Servers

BLOCKS = 20_000


@pytest.mark.parametrize("keys", ["range", "consistent_hash"])
@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("elements", [1, 5, 1000, 12_345])
def test_every_parameter_has_one_server(keys: str, count: int, elements: int) -> None:
    found = key_ranges(Servers(count=count, keys=keys, block="64 B"), elements)  # type: ignore[arg-type]
    assert len(found) == count
    assert sorted(key for ranges in found for part in ranges for key in part) == list(range(elements))


def test_ranges_differ_by_one_at_most() -> None:
    sizes = [sum(map(len, ranges)) for ranges in key_ranges(Servers(count=7), 1000)]
    assert max(sizes) - min(sizes) <= 1


def owners(servers: int) -> list[int]:
    circle = HashCircle(servers)
    return [circle.owner(block) for block in range(BLOCKS)]


@pytest.mark.parametrize("servers", [2, 4, 8, 16])
def test_hashing_balances_within_what_its_points_allow(servers: int) -> None:
    """Shares of k servers with v points each have a standard deviation of about the mean over sqrt(v)."""
    found = owners(servers)
    mean = BLOCKS / servers
    deviation = mean / math.sqrt(POINTS) + math.sqrt(mean)
    assert all(abs(found.count(server) - mean) < 4 * deviation for server in range(servers))


@pytest.mark.parametrize("servers", [1, 2, 4, 8, 16])
def test_one_server_more_takes_its_part_and_moves_no_other_block(servers: int) -> None:
    before, after = owners(servers), owners(servers + 1)
    moved = [new for old, new in zip(before, after, strict=True) if old != new]
    assert set(moved) == {servers}
    assert len(moved) == pytest.approx(BLOCKS / (servers + 1), rel=4 / math.sqrt(POINTS))
