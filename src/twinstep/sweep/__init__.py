"""Sweeps: the combinations of some plan keys' values, and how step times compare along one of them.

- `axes`: which values of which keys
- `points`: what is known of each combination, and lines of them
- `crossovers`: where one line overtakes another
- `run`: predicts, and measures, every combination
"""

from twinstep.sweep.axes import MOST_POINTS, Axis, Setting, Sweep
from twinstep.sweep.crossovers import crossovers
from twinstep.sweep.points import (
    Agreement,
    Crossover,
    Line,
    Point,
    Side,
    Swept,
    chart_axis,
    lines,
    positions,
    setting_words,
    settings_at,
    value_words,
)

__all__ = [
    "MOST_POINTS",
    "Agreement",
    "Axis",
    "Crossover",
    "Line",
    "Point",
    "Setting",
    "Side",
    "Sweep",
    "Swept",
    "chart_axis",
    "crossovers",
    "lines",
    "positions",
    "setting_words",
    "settings_at",
    "value_words",
]
