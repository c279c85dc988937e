"""Shaping: what each direction of an emulated link lets through, and how long queues may become.

A token bucket of rate B and burst b lets b bytes through at once after a pause, then B bytes a second. The burst must
cover the time by which the kernel's timers are late, or bandwidth is lost; it is what a short message gains. The kernel
hands data on in pieces of up to 64 KiB, and what shares a queue waits for whole pieces; the smaller they are, the more
of the processor they take. A burst must hold a piece with the headers of all its frames.

    piece    0.8 ms of the link, from 2 full frames to 64 KiB
    burst    a piece and its headers
    window   2.4 ms of the fastest link, 3 pieces at the least: what a connection has under way

All connections have the same window, so that those that wait in the same queue get the same share of its link.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_PIECE_S = 0.8e-3
_WINDOW_S = 2.4e-3
_LARGEST_PIECE_BYTES = 2**16
_MOST_WINDOWS_QUEUED = 64
_MOST_QUEUED_BYTES = 2**31
_ACKNOWLEDGEMENT_LENGTHS = (52, 64, 72, 80)
"""Of IP packets that acknowledge and carry no data: with time stamps, and up to three ranges received out of order."""
_FLAGS_AT, _ACK_ALONE = 33, 0x10
"""The flags of TCP behind an IP header without options. Short data that overtook others would look like losses."""
_FIRST = 3
"""The class of acknowledgements; 2 is for what no filter knows, and each source has one of the next."""
ETHERNET_BYTES = 14
HEADER_BYTES = 52
"""IPv4 and TCP with time stamps."""
ACKNOWLEDGEMENT_BYTES = ETHERNET_BYTES + HEADER_BYTES


def payload_share(mtu: int) -> float:
    """Give the payload of a full Ethernet frame as a fraction of its bytes.

    >>> round(1 / payload_share(1500), 4)
    1.0456
    """
    return (mtu - HEADER_BYTES) / (mtu + ETHERNET_BYTES)


def _with_headers(piece_bytes: int, mtu: int) -> int:
    """Give the bytes of a piece with the headers of all its frames, and something to spare."""
    return int(piece_bytes / payload_share(mtu)) + mtu


@dataclass(frozen=True, slots=True)
class Shape:
    """One direction of a link."""

    rate_bytes_per_s: float
    latency_s: float
    """Added by netem; 0 where that is not there."""
    mtu: int

    @property
    def piece_bytes(self) -> int:
        """The largest segment that the kernel hands on in one piece: some full frames."""
        frame = self.mtu + ETHERNET_BYTES
        most = max(2, _LARGEST_PIECE_BYTES // frame)
        return frame * min(most, max(2, int(self.rate_bytes_per_s * _PIECE_S / frame)))

    @property
    def burst_bytes(self) -> int:
        """The tokens that a pause gathers."""
        return _with_headers(self.piece_bytes, self.mtu)

    @property
    def limit_bytes(self) -> int:
        """What may wait: many windows, so that senders are slowed down by their windows and not by losses."""
        return min(_MOST_QUEUED_BYTES, _MOST_WINDOWS_QUEUED * self.window_bytes)

    @property
    def window_bytes(self) -> int:
        """What a connection may have under way where this is the fastest link."""
        return max(3 * self.piece_bytes, int(self.rate_bytes_per_s * _WINDOW_S))

    def commands(self, port: str, sources: Sequence[str], largest_piece_bytes: int) -> list[str]:
        """Give the `tc` commands that shape what leaves by an interface, and share it among the addresses of sources.

        A turn of a source is as long as the largest piece that any link of the network sends.
        """
        rate_bits = round(8 * self.rate_bytes_per_s)
        least_bits = max(8, rate_bits // (64 * (len(sources) + 2)))
        turn_bytes = _with_headers(largest_piece_bytes, self.mtu)
        most = f"ceil {rate_bits}bit cburst {max(self.burst_bytes, turn_bytes)}b quantum {turn_bytes}"
        shaped = [
            f"qdisc add dev {port} root handle 1: htb default 2",
            f"class add dev {port} parent 1: classid 1:1 htb rate {rate_bits}bit burst {self.burst_bytes}b {most}",
        ]
        for number in range(2, len(sources) + 4):
            urgency = 0 if number == _FIRST else 1
            leaf = (
                f"class add dev {port} parent 1:1 classid 1:{number:x} htb rate {least_bits}bit {most} prio {urgency}"
            )
            shaped += [leaf, f"qdisc add dev {port} parent 1:{number:x} {self._queue()}"]
        choose = f"filter add dev {port} parent 1: protocol ip"
        for length in _ACKNOWLEDGEMENT_LENGTHS:
            match = f"match u16 {length} 0xffff at 2 match u8 {_ACK_ALONE:#x} 0xff at {_FLAGS_AT}"
            shaped.append(f"{choose} prio 1 u32 {match} flowid 1:{_FIRST:x}")
        for number, source in enumerate(sources, _FIRST + 1):
            shaped.append(f"{choose} prio 2 u32 match ip src {source}/32 flowid 1:{number:x}")
        return shaped

    def _queue(self) -> str:
        if not self.latency_s:
            return f"bfifo limit {self.limit_bytes}b"
        packets = 2 + int(self.rate_bytes_per_s * self.latency_s / self.mtu) + self.limit_bytes // self.mtu
        return f"netem delay {self.latency_s * 1e6:.0f}us limit {packets}"
