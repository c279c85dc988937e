"""The simulator: rank programs as SimPy processes against models of devices, hosts and networks.

`simulate.py` is the entrance, `ensemble.py` the one for plans in which chance counts. Before time begins, `setup.py`
brings together what is known: who communicates (`circles.py`), by which algorithm (`algorithms/`, `libraries/`), over
what (`network.py`), at which cost (`tariffs.py`). `cast.py` chooses whom to simulate (`folding.py`). Then the
`world.py` runs: `ranks.py` interpret programs, `switchboard.py` and `communication.py` bring them together, `fluid.py`
shares links and cores (`max_min.py`, `cores.py`).
"""

from twinstep.sim.ensemble import simulate_by_chance
from twinstep.sim.simulate import Simulation, simulate

__all__ = ["Simulation", "simulate", "simulate_by_chance"]
