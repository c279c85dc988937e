"""The numbers that NCCL's own model of a machine uses, in bytes/s and seconds.

They are what NCCL reckons a transfer between GPUs to get, below the raw rate of the wire: 12 of the 16 GB/s of
PCIe 3.0 x16, 20 of the 25 GB/s of an NVLink. All bandwidths are a direction's.

Sources, at github.com/NVIDIA/nccl:
- src/graph/topo.h and topo.cc of commit 069a3d4 (2026): NVLink, PCIe, and between the sockets
- src/graph/tuning.cc of commit b647562: `hwLat`, ring, protocol LL, the time of one step from GPU to GPU
"""

from __future__ import annotations

PCIE_STEP_S = 1.0e-6
"""From GPU to GPU over PCIe."""
NVLINK_STEP_S = 0.6e-6
"""From GPU to GPU over NVLink."""
NETWORK_STEP_S = 2.7e-6
"""From GPU to GPU over a network whose own latency comes on top."""

LOCAL_BYTES_PER_S = 5000e9
"""Where NCCL knows no limit: between processors that it does not know, or to a NIC that is on no PCIe bus."""
UNKNOWN_NIC_BITS_PER_S = 10e9
"""Of a NIC that gives no speed."""

_PCIE_GIGATRANSFERS = {"2.5": 1.5e9, "5": 3e9, "8": 6e9, "16": 12e9, "32": 24e9, "64": 48e9}
_PCIE_UNKNOWN_LANE_BITS_PER_S = 6e9
_PCIE_UNKNOWN_WIDTH = 16

_NVLINK_BY_CAPABILITY = ((100, 40.1e9), (90, 20.6e9), (87, 20e9), (86, 12e9), (70, 20e9), (60, 18e9), (0, 20e9))

_OTHER_PROCESSORS = {"ppc64": 32e9, "arm64": 6e9}
_ZEN_5, _ZEN_3_OR_4 = (26, 0xBF), (25, 0xAF)
_XEON_6 = (0xAD, 0xAE, 0xAF)


def nvlink_bytes_per_s(compute_capability: int) -> float:
    """Give the bandwidth of one NVLink of a GPU, by its compute capability times ten.

    Rubin's, which NCCL knows, is not told apart from Blackwell's.

    >>> nvlink_bytes_per_s(80), nvlink_bytes_per_s(90)
    (20000000000.0, 20600000000.0)
    """
    return next(bandwidth for least, bandwidth in _NVLINK_BY_CAPABILITY if compute_capability >= least)


def pcie_bytes_per_s(speed: str, width: int) -> float | None:
    """Give the bandwidth of a PCIe link by its speed, as Linux words it, and its lanes; None for an unknown speed.

    Linux gives neither for the links of virtual machines: an empty speed stands for 8 GT/s, width 0 for 16.

    >>> pcie_bytes_per_s("16.0 GT/s PCIe", 16)
    24000000000.0
    """
    rate, _, unit = speed.partition(" ")
    if unit in ("GT/s", "GT/s PCIe"):
        lane_bits_per_s = _PCIE_GIGATRANSFERS.get(rate.removesuffix(".0"))
    else:
        lane_bits_per_s = _PCIE_UNKNOWN_LANE_BITS_PER_S if speed in ("", "Unknown", "Unknown speed") else None
    return lane_bits_per_s and lane_bits_per_s * (width or _PCIE_UNKNOWN_WIDTH) / 8


def intel_bytes_per_s(family: int, model: int) -> float:
    """Give the bandwidth between the sockets of Intel processors: Broadwell, Skylake, Sapphire or Emerald Rapids on."""
    if family != 6 or model < 0x55:
        return 6e9
    if model >= 0xCF or model in _XEON_6:
        return 40e9
    return 22e9 if model >= 0x8F else 10e9


def amd_bytes_per_s(family: int) -> float:
    """Give the bandwidth between the sockets of AMD processors: Zen 1 and 2, 3 and 4, or 5."""
    return 32e9 if family in _ZEN_5 else 24e9 if family in _ZEN_3_OR_4 else 16e9


def other_bytes_per_s(arch: str) -> float:
    """Give the bandwidth between the sockets of processors that are neither Intel's nor AMD's."""
    return _OTHER_PROCESSORS.get(arch, LOCAL_BYTES_PER_S)
