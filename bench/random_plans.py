"""Random plans for emulated clusters: other graphs, sizes, rates and numbers of ranks than the scenarios have."""

from __future__ import annotations

import random

_MOST_OF_MACHINE_BITS_PER_S = 2.4e9
"""What all hosts together may send, so that the machine's cores are not what limits."""
_DEVICE = "{peak: %d GFLOP/s, memory_bandwidth: %d GB/s, overhead: 5 us}"


def random_plan(seed: int) -> tuple[str, str]:
    """Give a name and a scenario file."""
    dice = random.Random(seed)
    ranks, topology = _topology(dice)
    partition, cut = _partition(dice, ranks)
    layers, width = dice.choice([2, 4, 6]), dice.choice([128, 192, 256])
    layers = max(layers, cut)
    batch = ranks * dice.choice([2, 4]) * 4
    bucket = dice.choice(["512 KiB", "1 MiB", "4 MiB", "25 MiB"])
    overlap = dice.choice(["true", "true", "false"])
    text = (
        f"workload: {{kind: gpt, layers: {layers}, heads: 8, width: {width}, context: 64, batch: {batch}}}\n"
        f"partition: {partition}\nsync: {{bucket: {bucket}, overlap: {overlap}}}\ntopology: {topology}\n"
        "run: {steps: 5, warmup: 1, compute: emulated, backend: emulated}\n"
    )
    return f"seed {seed}: {topology.split(',')[0][1:]}, {ranks} ranks, {partition}", text


def _topology(dice: random.Random) -> tuple[int, str]:
    """Choose a graph, the number of its hosts and the rate of its links."""
    kind = dice.choice(["star", "two_tier", "ring", "torus", "fat_tree", "fully_connected", "uneven"])
    hosts = dice.choice([2, 3, 4, 5, 6, 8, 12, 16, 24, 32])
    if kind in ("torus", "fully_connected", "ring"):
        hosts = dice.choice([3, 4, 6, 8])
    most = _MOST_OF_MACHINE_BITS_PER_S / hosts
    rate = round(min(2e9, most) * dice.choice([0.2, 0.5, 1.0]) / 1e6)
    device = _DEVICE % (dice.choice([50, 100, 400]), dice.choice([25, 50, 100]))
    common = f"device: {device}, link: {{bandwidth: {rate} Mb/s, latency: 1 us}}"
    if kind == "two_tier":
        racks = dice.choice([2, 3])
        per_rack = max(1, hosts // racks)
        uplink = max(20, round(rate * per_rack / dice.choice([1, 2, 4])))
        shape = f"racks: {racks}, hosts_per_rack: {per_rack}, uplink: {{bandwidth: {uplink} Mb/s, latency: 1 us}}"
        return racks * per_rack, f"{{builder: two_tier, {shape}, {common}}}"
    if kind == "torus":
        dimensions = dice.choice([[2, 2], [2, 3], [2, 4], [3, 3]])
        return dimensions[0] * dimensions[1], f"{{builder: torus, dimensions: {dimensions}, {common}}}"
    if kind == "fat_tree":
        return 16, f"{{builder: fat_tree, ports: 4, device: {device}, link: {{bandwidth: 100 Mb/s, latency: 1 us}}}}"
    if kind == "uneven":
        return hosts, _uneven(dice, hosts, rate, device)
    return hosts, f"{{builder: {kind}, hosts: {hosts}, {common}}}"


def _uneven(dice: random.Random, hosts: int, rate: int, device: str) -> str:
    """Hang hosts of different rates on two switches."""
    nodes = ["{kind: switch, name: s0}", "{kind: switch, name: s1}"]
    links = [f"{{source: s0, target: s1, bandwidth: {rate * 2} Mb/s, latency: 1 us}}"]
    for host in range(hosts):
        own = max(20, round(rate * dice.choice([0.5, 1.0, 1.0])))
        nodes += [
            f"{{kind: host, name: h{host}}}",
            f"{{kind: device, name: h{host}/d, host: h{host}, device: {device}}}",
        ]
        links.append(f"{{source: h{host}, target: s{dice.choice([0, 1])}, bandwidth: {own} Mb/s, latency: 1 us}}")
    return f"{{builder: graph, nodes: [{', '.join(nodes)}], links: [{', '.join(links)}]}}"


def _partition(dice: random.Random, ranks: int) -> tuple[str, int]:
    """Split the ranks over data, tensor and pipeline parallelism; give the number of stages, too."""
    if ranks % 4 == 0 and dice.random() < 0.4:
        if dice.random() < 0.5:
            return f"{{data: {ranks // 4}, tensor: 2, pipeline: 2, microbatches: 4}}", 2
        return f"{{data: {ranks // 4}, pipeline: 4, microbatches: 4}}", 4
    if ranks % 2 == 0 and dice.random() < 0.3:
        return f"{{data: {ranks // 2}, tensor: 2}}", 1
    return f"{{data: {ranks}}}", 1
