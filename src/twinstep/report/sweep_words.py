"""The sentences and cells that the terminal and the page of a sweep share."""

from __future__ import annotations

from twinstep.report import words
from twinstep.sweep import Agreement, Axis, Crossover, Line, Point, Side, Swept, value_words
from twinstep.units import format_rate, format_size


def findings(swept: Swept) -> list[str]:
    """Say which line is faster where, and how well predictions agree with measurements."""
    found = _orders(swept)
    if swept.agreement:
        measured = [crossover_words(each, swept.axis) for each in swept.measured_crossovers]
        found += [f"Measured: {each}" for each in measured]
        found.append(agreement_words(swept.agreement))
        if load := words.load_words(swept.agreement.other_load_cores):
            found.append(load)
    return found


def _orders(swept: Swept) -> list[str]:
    if swept.crossovers:
        return [crossover_words(each, swept.axis) for each in swept.crossovers]
    if len(swept.lines) < 2 or not swept.axis.numbers:
        return []
    return [f"No two lines change their order along {swept.axis.name}."]


def crossover_words(crossover: Crossover, axis: Axis) -> str:
    """Say up to where one line is faster, and from where on another.

    >>> axis = Axis(("partition.data",), ((2,), (8,)))
    >>> crossover_words(Crossover("all_reduce", "gossip", "4", "5", None), axis)
    'all_reduce is faster up to partition.data 4, gossip from 5 on.'
    """
    low, high = f"{axis.name} {crossover.low}", crossover.high
    sentence = f"{crossover.before} is faster up to {low}, {crossover.after} from {high} on"
    if crossover.at is None:
        return f"{sentence}."
    return f"{sentence}; interpolated, they meet at about {number_words(crossover.at, axis.unit)}."


def number_words(value: float, unit: str) -> str:
    """Print a number on an axis in its unit.

    >>> number_words(12.5e6, "B/s"), number_words(0.5, "")
    ('100 Mb/s', '0.5')
    """
    match unit:
        case "s":
            return words.duration_words(value)
        case "B":
            return format_size(value)
        case "B/s":
            return words.bandwidth_words(value)
        case "FLOP/s":
            return format_rate(value, unit)
    return f"{value:.3g}"


def agreement_words(agreement: Agreement) -> str:
    """Say how well predictions agree with measurements.

    >>> agreement_words(Agreement(4, 0.021, 0.043, 1.0))
    '4 points measured: mean absolute error 2.1 %, at most 4.3 %; rank correlation (Spearman) 1.00.'
    """
    mean, largest = (f"{100 * error:.1f} %" for error in (agreement.mean_absolute_error, agreement.largest_error))
    order = "" if agreement.spearman is None else f"; rank correlation (Spearman) {agreement.spearman:.2f}"
    return f"{agreement.points} points measured: mean absolute error {mean}, at most {largest}{order}."


def headings(swept: Swept) -> list[str]:
    """Name the columns of the table of points."""
    others = ", ".join(axis.short_name for index, axis in enumerate(swept.axes) if index != swept.along)
    names = [others, swept.axis.short_name] if others else [swept.axis.short_name]
    measured = ["measured", "error"] if swept.agreement else []
    return [*names, "step time", *measured, "samples/s" if _trains(swept) else "worker steps/s", "busiest link"]


def rows(swept: Swept) -> list[list[str]]:
    """Give a row a point, line by line; what is not known is a dash."""
    return [_cells(swept, line, point) for line in swept.lines for point in line.points]


def _cells(swept: Swept, line: Line, point: Point) -> list[str]:
    value = axis_words(swept.axis, point.position[swept.along])
    names = [line.name, value] if len(swept.axes) > 1 else [value]
    predicted, measured = point.predicted, point.measured
    error = [words.duration_words(measured.step_time_s if measured else None), words.error_words(point.error)]
    return [
        *names,
        words.duration_words(predicted.step_time_s if predicted else None),
        *(error if swept.agreement else []),
        _rate(predicted, _trains(swept)),
        format_size(predicted.busiest_link_bytes_per_step) if predicted and predicted.busiest_link else "-",
    ]


def _trains(swept: Swept) -> bool:
    return any(point.predicted and point.predicted.samples_per_s is not None for point in swept.points)


def _rate(side: Side | None, samples: bool) -> str:
    rate = (side.samples_per_s if samples else side.worker_steps_per_s) if side else None
    return "-" if rate is None else f"{rate:.4g}" if rate < 1000 else f"{rate:.0f}"


def problems(swept: Swept) -> list[str]:
    """Say which points were not predicted or not measured, and why."""
    return [f"{_named(point)}: {point.problem}" for point in swept.points if point.problem]


def _named(point: Point) -> str:
    return ", ".join(f"{key} {value_words(value)}" for key, value in point.settings)


def axis_words(axis: Axis, index: int) -> str:
    """Print the values at a position of an axis."""
    return ", ".join(map(value_words, axis.values[index]))
