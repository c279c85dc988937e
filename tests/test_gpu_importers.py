"""What nvidia-smi and NCCL say of a machine: the way between GPUs and its bandwidth, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from twinstep.errors import InputError
from twinstep.topologies import Topology, read_topology
from twinstep.topologies.importers.nccl_numbers import amd_bytes_per_s, intel_bytes_per_s, pcie_bytes_per_s

DATA = Path(__file__).parent / "data"
DGX, PCIE, MIXED, NCCL = (
    DATA / name for name in ("dgx-a100.topo", "pcie-two-sockets.txt", "mixed-nvlink.topo", "two-hosts-nccl.xml")
)


def imported(text: str, name: str, folder: Path) -> Topology:
    path = folder / name
    path.write_text(text)
    return read_topology(str(path))


def narrowest(topology: Topology, source: int, target: int) -> float:
    """Give the bandwidth, in GB/s, between the devices of two ranks."""
    path = topology.path(topology.devices[source], topology.devices[target])
    return min(link.bandwidth_bytes_per_s for link in path) / 1e9


def middle(topology: Topology, source: int, target: int) -> list[str]:
    path = topology.path(topology.devices[source], topology.devices[target])
    return [link.target for link in path[:-1]]


class TestNvidiaSmi:
    def test_equal_nvlinks_everywhere_lead_to_an_nvswitch(self) -> None:
        found = read_topology(str(DGX))
        assert found.hosts == ("system0",)
        assert found.devices == tuple(f"system0/gpu{index}" for index in range(8))
        assert found.switches == ("NVSwitch0",)
        for target in range(1, 8):
            assert middle(found, 0, target) == ["NVSwitch0"]
            assert narrowest(found, 0, target) == 12 * 25
        assert found.path("system0/gpu0", "system0")[0].bandwidth_bytes_per_s == 24e9

    def test_pcie_turns_at_the_bridge_at_the_processor_or_between_the_sockets(self) -> None:
        found = read_topology(str(PCIE))
        ways = {pair: (middle(found, *pair), narrowest(found, *pair)) for pair in ((0, 1), (2, 3), (0, 2), (3, 1))}
        assert ways == {
            (0, 1): (["bridge0"], 24),
            (2, 3): (["host-bridge1"], 24),
            (0, 2): (["smp0"], 10),
            (3, 1): (["smp0"], 10),
        }
        assert sum(link.latency_s for link in found.path("system0/gpu0", "system0/gpu2")) == 1e-6

    def test_mixed_nvlinks_are_direct(self) -> None:
        found = read_topology(str(MIXED))
        assert [narrowest(found, 0, target) for target in (1, 2, 3)] == [25, 50, 10]
        assert [middle(found, 0, target) for target in (1, 2, 3)] == [[], [], ["smp0"]]

    def test_few_equal_nvlinks_are_direct(self, tmp_path: Path) -> None:
        text = "\tGPU0\tGPU1\tGPU2\nGPU0\tX\tNV4\tNV4\nGPU1\tNV4\tX\tNV4\nGPU2\tNV4\tNV4\tX\n"
        found = imported(text, "mesh.topo", tmp_path)
        assert found.switches == ()
        assert narrowest(found, 0, 2) == 100

    @pytest.mark.parametrize(
        ("old", "new", "line", "problem"),
        [
            ("GPU0\t X \tPIX", "GPU0\t X \tPIC", 3, "GPU0 to GPU1 is 'PIC'"),
            ("GPU0\t X \tPIX", "GPU0\t X \tNV0", 3, "GPU0 to GPU1 is 'NV0'"),
            ("GPU0\t X \tPIX", "GPU0\tPIX\tPIX", 3, "GPU0 to GPU0 is 'PIX'"),
            ("GPU0\t X \tPIX", "GPU0\t X \tPXB", None, "GPU0 to GPU1 is PXB, but GPU1 to GPU0 is PIX"),
            ("GPU3\tSYS", "GPU2\tSYS", 6, "GPU2 has a second row"),
            ("GPU3\tSYS", "GPU9\tSYS", 6, "GPU9 has a row, but no column"),
            ("GPU3\tSYS", "\nGPU3\tSYS", 2, "has no row for GPU3"),
            ("GPU0\tGPU1\tGPU2", "GPU0\tGPU0\tGPU2", 2, "names a GPU twice"),
            ("\tSYS\tNODE\t0-31\t0\t\tN/A\nGPU1", "\nGPU1", 3, "the row of GPU0 has 3 cells"),
        ],
    )
    def test_a_bad_matrix_is_refused(self, old: str, new: str, line: int | None, problem: str, tmp_path: Path) -> None:
        text = PCIE.read_text()
        assert text.count(old) == 1
        with pytest.raises(InputError) as caught:
            imported(text.replace(old, new), "bad.txt", tmp_path)
        assert str(caught.value).startswith(f"{tmp_path / 'bad.txt'}:{line}: " if line else f"{tmp_path / 'bad.txt'}: ")
        assert problem in caught.value.problem
        assert caught.value.remedy

    def test_relations_that_are_no_tree_are_refused(self, tmp_path: Path) -> None:
        text = "\tGPU0\tGPU1\tGPU2\nGPU0\tX\tPIX\tSYS\nGPU1\tPIX\tX\tPIX\nGPU2\tSYS\tPIX\tX\n"
        with pytest.raises(InputError, match="GPU0 and GPU2 are SYS apart, but over other GPUs no more than PIX"):
            imported(text, "no-tree.topo", tmp_path)

    def test_socket_is_the_old_word_for_system(self, tmp_path: Path) -> None:
        assert narrowest(imported("GPU0 GPU1\nGPU0 X SOC\nGPU1 SOC X\n", "old.txt", tmp_path), 0, 1) == 10


class TestNccl:
    def test_two_hosts(self) -> None:
        found = read_topology(str(NCCL))
        assert found.hosts == ("system0", "system1")
        assert [found.host_of(device) for device in found.devices] == ["system0"] * 4 + ["system1"] * 4
        assert [narrowest(found, 0, target) for target in (1, 2, 4)] == [4 * 20, 10, 24]
        assert middle(found, 0, 1) == []
        assert middle(found, 0, 2) == ["smp0"]
        assert middle(found, 2, 3)[0].endswith("0000:50:00.0")
        assert found.graph.nodes["system1/mlx5_1"]["kind"] == "nic"
        assert middle(found, 0, 6) == ["system0/mlx5_0", "network", "system1/mlx5_1"]
        network_s = sum(link.latency_s for link in found.path(found.devices[0], found.devices[6]))
        assert network_s == pytest.approx(2.7e-6)

    def test_an_nvswitch_takes_all_its_links(self, tmp_path: Path) -> None:
        text = NCCL.read_text().replace('tclass="0x030200"', 'tclass="0x068000"').replace('count="4"', 'count="6"')
        found = imported(text, "switch.xml", tmp_path)
        assert middle(found, 0, 1) == ["NVSwitch0"]
        assert narrowest(found, 0, 1) == 6 * 20
        assert middle(found, 4, 5) == ["NVSwitch1"]

    def test_numbers_of_nccl(self) -> None:
        assert pcie_bytes_per_s("8 GT/s", 16) == 12e9
        assert pcie_bytes_per_s("32.0 GT/s PCIe", 8) == 24e9
        assert pcie_bytes_per_s("", 0) == 12e9
        assert pcie_bytes_per_s("9 GT/s", 16) is None
        assert [intel_bytes_per_s(6, model) / 1e9 for model in (0x4F, 0x55, 0x8F, 0xCF, 0xAD)] == [6, 10, 22, 40, 40]
        assert [amd_bytes_per_s(family) / 1e9 for family in (23, 25, 0xAF, 26)] == [16, 24, 24, 32]

    @pytest.mark.parametrize(
        ("old", "new", "problem"),
        [
            ('<system version="1">', '<!DOCTYPE s [<!ENTITY a "b">]><system version="1">', "declares a document type"),
            ("</system>", "", "not XML: "),
            ('rank="3"', 'rank="2"', "the rank '2' is given 2 times"),
            ('dev="3"', 'dev="2"', "the dev 'system0/gpu2' is given 2 times"),
            ('dev="3" sm="80"', 'dev="3"', "<gpu> has no sm"),
            ('rank="3"', 'rank="-3"', "rank is '-3'"),
            ('rank="3"', 'rank="nan"', "rank is 'nan'"),
            ('link_width="16"', 'link_width="x"', "link_width is 'x'"),
            ('link_speed="16.0 GT/s PCIe"', 'link_speed="17 GT/s"', "link_speed is '17 GT/s'"),
            ('latency="0.000000"', 'latency="inf"', "latency is 'inf'"),
            ('speed="200000"', 'speed="2e5"', "speed is '2e5'"),
            ('busid="0000:13:00.0"', 'busid="0000:12:00.0"', "a second <pci> with the busid '0000:12:00.0'"),
            ('count="4"', 'count="3"', "has 3 NVLinks to"),
            ('tclass="0x030200"', 'tclass="0x020000"', "tclass '0x020000'"),
            (' arch="x86_64"', "", "<cpu> has no arch"),
        ],
    )
    def test_a_bad_file_is_refused(self, old: str, new: str, problem: str, tmp_path: Path) -> None:
        text = NCCL.read_text()
        assert old in text
        with pytest.raises(InputError) as caught:
            imported(text.replace(old, new, 1), "bad.xml", tmp_path)
        assert problem in caught.value.problem
        assert str(caught.value).startswith(str(tmp_path / "bad.xml"))
        assert caught.value.remedy
