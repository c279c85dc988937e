"""The topology graph.

- `specification`: what a file may say
- `builders`: from a specification to a graph
- `graph`: the graph, its links and routes
- `reader`: files, and the topologies that come with twinstep
"""

from twinstep.topologies.builders import build
from twinstep.topologies.graph import Link, Topology, TopologyError
from twinstep.topologies.reader import in_place, load, read_topology, shipped
from twinstep.topologies.specification import DeviceRates, DeviceSpec, TopologySpec

__all__ = [
    "DeviceRates",
    "DeviceSpec",
    "Link",
    "Topology",
    "TopologyError",
    "TopologySpec",
    "build",
    "in_place",
    "load",
    "read_topology",
    "shipped",
]
