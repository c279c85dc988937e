"""Chakra: a plan's first step as execution traces, one a rank, for ASTRA-sim and others that read them.

- `trace`: the effects of one rank as nodes
- `schema`: nodes as bytes
- `export`: the files
"""

from twinstep.chakra.export import Written, export_traces

__all__ = ["Written", "export_traces"]
