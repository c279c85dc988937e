"""The terminal view: the verdict and the headline number first, then phases, collectives, ranks and blame.

Reads well on 80 columns and without colour: every colour repeats what a word says.
"""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from twinstep.communication import CollectiveUse
from twinstep.compare import Comparison
from twinstep.report import engines, terms, traffic, words
from twinstep.report.cells import line as _line
from twinstep.report.cells import table as _table
from twinstep.report.contents import Contents, Measurement, Prediction
from twinstep.report.terminal_groups import show_bubbles, show_groups
from twinstep.report.terminal_memory import show_memory
from twinstep.report.terminal_progress import show_progress
from twinstep.report.terms import Term
from twinstep.units import format_size

_MOST_COLLECTIVES = 12
_MOST_EXCHANGES = 8
_MOST_LINKS = 5
_MOST_RANKS = 8
_MOST_DIFFERENCES = 5


def show(contents: Contents, console: Console) -> None:
    """Print what there is: a prediction, a measurement, or both and their comparison."""
    console.print(_line(contents.scenario, "bold"))
    if contents.question:
        console.print(_line(contents.question))
    console.print()
    if contents.comparison:
        _show_verdict(contents.comparison, console)
    elif contents.prediction:
        _show_headline("Predicted", contents.prediction.timeline.step_time_s(), console)
    elif contents.measurement:
        _show_headline("Measured", contents.measurement.timeline.step_time_s(), console)
    for caution in contents.cautions:
        console.print(Text(caution, style="yellow"))
    console.print()
    _show_tables(contents, console)
    if contents.comparison:
        _show_blame(contents.comparison, console)
    _show_facts(contents, console)


def _show_headline(side: str, step_time_s: float, console: Console) -> None:
    console.print(Text(f"{side} step time: {words.duration_words(step_time_s)}", style="bold"))


def _show_verdict(comparison: Comparison, console: Console) -> None:
    colour = "green" if comparison.verdict == "within" else "red"
    step = comparison.step
    verdict = Text(words.verdict_words(comparison), style=f"bold {colour}")
    verdict.append(f": step time error {words.error_words(comparison.step_time_error)}", style="bold default")
    verdict.append(f" (tolerance {words.tolerance_words(comparison.tolerance)})", style="not bold default")
    console.print(verdict)
    spread = f"(IQR {words.duration_words(step.measured_iqr_s)}, {step.measured_steps} steps)"
    measured = f"measured {words.duration_words(step.measured_s)} {spread}"
    console.print(_line(f"predicted {words.duration_words(step.predicted_s)}, {measured}"))
    console.print(_line(words.structure_words(comparison)))
    for difference in comparison.differences[:_MOST_DIFFERENCES]:
        console.print(_line(f"- {difference}"))
    hidden = len(comparison.differences) - _MOST_DIFFERENCES
    if hidden > 0:
        console.print(_line(f"- and {hidden} more lines in summary.json"))


def _show_tables(contents: Contents, console: Console) -> None:
    _show_table("Phases", terms.phase_terms(contents), console)
    _show_engines(contents, console)
    show_bubbles(contents, console)
    _show_exchanges(contents, console)
    show_groups(contents, console)
    _show_links(contents, console)
    show_memory(contents, console)
    show_progress(contents, console)
    collectives = terms.collective_terms(contents)
    shown = terms.longest(collectives, _MOST_COLLECTIVES)
    cut = len(shown) < len(collectives)
    title = f"Longest {len(shown)} of {len(collectives)} collectives" if cut else "Collectives"
    _show_table(title, shown, console)
    ranks = terms.rank_terms(contents)
    if len(ranks) <= _MOST_RANKS:
        _show_table("Ranks", ranks, console)
    else:
        by_time = sorted(ranks, key=lambda rank: -rank.time_s)
        _show_table(f"Slowest and fastest of {contents.ranks} ranks", [by_time[0], by_time[-1]], console)
    if said := terms.slowest_words(contents):
        console.print(_line(said))
        console.print()


def _show_engines(contents: Contents, console: Console) -> None:
    """Print what rank programs and torch's wrappers took, where both were run."""
    rows = engines.engine_rows(contents)
    if not rows:
        return
    table = _table("Engines", *engines.SIDES)
    for row in rows:
        table.add_row(words.term_words(row.term), *map(words.duration_words, row.times_s))
    console.print(table)
    console.print(_line(engines.engines_words(contents)))
    for difference in engines.engine_differences(contents)[:_MOST_DIFFERENCES]:
        console.print(_line(f"- {difference}"))
    console.print()


def _show_table(title: str, rows: list[Term], console: Console) -> None:
    """Print one table; a column that would be empty is left out."""
    if not rows:
        return
    columns = [
        (heading, cells)
        for heading, cells in (
            ("predicted", [words.duration_words(row.predicted_s) for row in rows]),
            ("measured", [words.duration_words(row.measured_s if row.measured_steps else None) for row in rows]),
            ("IQR", [words.duration_words(row.measured_iqr_s if row.measured_steps else None) for row in rows]),
            ("n", ["-" if row.measured_steps is None else str(row.measured_steps) for row in rows]),
            ("error", [words.error_words(row.error) for row in rows]),
            ("of error", [words.share_words(row.share) for row in rows]),
        )
        if set(cells) != {"-"}
    ]
    table = _table(title, *(heading for heading, _ in columns))
    for index, row in enumerate(rows):
        table.add_row(_line(words.term_words(row.name)), *(cells[index] for _, cells in columns))
    console.print(table)
    console.print()


def _show_exchanges(contents: Contents, console: Console) -> None:
    """Print what was communicated, a line a side where there are two, and how much of it was exposed and hidden."""
    sides, found = traffic.sides(contents), traffic.exchanges(contents)
    if not sides:
        return
    cut = len(found) > _MOST_EXCHANGES
    title = f"Communication (longest {_MOST_EXCHANGES} of {len(found)})" if cut else "Communication"
    side_column = ("",) if len(sides) > 1 else ()
    table = _table(title, "ranks", "a step", "size", *side_column, "time", "algbw", "busbw")
    for row in found[:_MOST_EXCHANGES]:
        per_step, *rates = ("\n".join(cells) for cells in zip(*map(_use_cells, row.uses), strict=True))
        side_cell = ("\n".join(name for name, _ in sides),) if len(sides) > 1 else ()
        table.add_row(_line(row.name), str(row.ranks), per_step, format_size(row.size_bytes), *side_cell, *rates)
    console.print(table)
    for name, side in sides:
        exposed, hidden = words.duration_words(side.exposed_s), words.duration_words(side.hidden_s)
        console.print(_line(f"A step of the mean rank, {name}: {exposed} exposed, {hidden} hidden."))
    for name, side in sides:
        if side.repartition:
            words_of_it = words.repartition_words(side.repartition)
            console.print(_line(f"Samples that workers exchanged in the first step, {name}: {words_of_it}."))
    console.print()


def _use_cells(use: CollectiveUse | None) -> tuple[str, ...]:
    if use is None:
        return "-", "-", "-", "-"
    return (
        str(use.per_step),
        words.duration_words(use.time_s),
        words.bandwidth_words(use.algorithm_bandwidth_bytes_per_s),
        words.bandwidth_words(use.bus_bandwidth_bytes_per_s),
    )


def _show_links(contents: Contents, console: Console) -> None:
    """Print the links that the prediction has used most."""
    if traffic.crossings(contents):
        _show_crossings(traffic.crossings(contents), console, compared=contents.prediction is not None)
        return
    links = traffic.links(contents)
    if not links:
        return
    cut = len(links) > _MOST_LINKS
    table = _table(
        f"Busiest {_MOST_LINKS} of {len(links)} links" if cut else "Busiest links", "bytes", "utilisation", "waiting"
    )
    for link in links[:_MOST_LINKS]:
        utilisation, waiting = words.utilisation_words(link.utilisation), words.duration_words(link.queueing_s)
        table.add_row(_line(traffic.link_name(link)), format_size(link.size_bytes), utilisation, waiting)
    console.print(table)
    console.print()


def _show_crossings(crossings: list[traffic.Crossing], console: Console, *, compared: bool) -> None:
    """Print the bytes of the links that were used most, predicted and as the kernel counted them, or counted alone."""
    cut = len(crossings) > _MOST_LINKS
    title = f"Busiest {_MOST_LINKS} of {len(crossings)} links" if cut else "Busiest links"
    headings = ("predicted", "counted", "error", "used in steps", "in the run") if compared else ("counted", "used")
    table = _table(title, *headings)
    for crossing in crossings[:_MOST_LINKS]:
        predicted, counted = crossing.predicted, crossing.counted
        size, utilisation = format_size(counted.size_bytes), words.utilisation_words(counted.utilisation)
        cells = [size, utilisation]
        if compared:
            before = words.utilisation_words(predicted.utilisation)
            error = words.error_words(crossing.error)
            cells = [format_size(predicted.size_bytes), size, error, before, utilisation]
        table.add_row(_line(crossing.name), *cells)
    console.print(table)
    console.print()


def _show_blame(comparison: Comparison, console: Console) -> None:
    blamed = words.worth_telling(comparison)
    if blamed:
        console.print(Text("Where the error comes from", style="bold"))
        for blame in blamed:
            console.print(_line(f"- {words.blame_words(blame)}"))
        console.print()


def _show_facts(contents: Contents, console: Console) -> None:
    if contents.prediction:
        console.print(_line(_prediction_facts(contents.prediction)))
    if contents.measurement:
        console.print(_line(_measurement_facts(contents.measurement)))
    if contents.assumptions:
        console.print(_line(f"Inputs of the prediction: {words.origin_words(contents.assumptions)}."))


def _prediction_facts(prediction: Prediction) -> str:
    memory = words.memory_words(prediction.peak_memory_bytes)
    speed = f"{prediction.events} events in {words.duration_words(prediction.simulation_wall_s)}"
    return f"Predicted peak memory of a rank: {memory}. Simulated: {speed}."


def _measurement_facts(measurement: Measurement) -> str:
    timeline = measurement.timeline
    steps = f"{len(timeline.steps())} steps after {timeline.warmup_steps} of warm-up"
    loss = f"; the last loss is {measurement.losses[-1]:.6g}" if measurement.losses else ""
    died = f" Of rank {', '.join(map(str, timeline.lost))}, which died, nothing is known." if timeline.lost else ""
    load = words.load_words(measurement.other_load_cores)
    busy = words.busy_words(measurement.counts.cores_busy_share) if measurement.counts else ""
    cores = f"While links carried something, this machine's cores were {busy}." if busy else ""
    return " ".join(filter(None, (f"Measured {steps} on {timeline.ranks} ranks{loss}.{died}", load, cores)))
