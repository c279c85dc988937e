"""The topology graph.

- `parts`: what a topology is made of: devices, links, nodes
- `fabrics`: regular topologies, a model for each builder
- `specification`: what a file may say
- `wiring`: how nodes and links are added to a graph
- `builders`, `listed`: from a specification to a graph
- `graph`: the graph, its links and routes
- `neighbours`: which ranks are nearest to each other
- `reader`: files, and the topologies that come with twinstep
"""

from twinstep.topologies.builders import build
from twinstep.topologies.core_routes import Policy
from twinstep.topologies.graph import Topology, TopologyError
from twinstep.topologies.link import Link
from twinstep.topologies.neighbours import nearest_ranks
from twinstep.topologies.parts import DeviceRates, DeviceSpec, ProcessorRates
from twinstep.topologies.reader import in_place, load, read_topology, shipped
from twinstep.topologies.specification import TopologyFile, TopologySpec

__all__ = [
    "DeviceRates",
    "DeviceSpec",
    "Link",
    "Policy",
    "ProcessorRates",
    "Topology",
    "TopologyError",
    "TopologyFile",
    "TopologySpec",
    "build",
    "in_place",
    "load",
    "nearest_ranks",
    "read_topology",
    "shipped",
]
