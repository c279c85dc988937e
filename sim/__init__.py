"""The simulator: rank programs as SimPy processes against models of devices, hosts and communication.

`simulate.py` is the entrance. `ranks.py` interprets programs, `communication.py` brings the ranks of a collective
together, `libraries.py` says what a collective costs, `fluid.py` shares cores and links between whatever is active.
"""

from twinstep.sim.simulate import Simulation, simulate

__all__ = ["Simulation", "simulate"]
