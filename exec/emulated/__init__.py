"""The emulated cluster: a plan's topology graph, built for real on this machine.

`blueprint.py` turns a topology into namespaces, cables, addresses and routes (`next_hops.py`), without touching the
machine. `builder.py` carries it out with `ip` and `tc` in the namespaces that `namespaces.py` makes, `counters.py`
reads what crossed, and `supervisor.py` runs the ranks inside; `others.py` is the traffic of others. `calibration.py`
measures the `costs.py` of the emulation itself, on hosts around a `star.py`. How links are shaped is in
`twinstep.shaping`: the simulator must know.
"""
