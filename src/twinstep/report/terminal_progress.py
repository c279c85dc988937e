"""What the terminal shows of how workers go on: their steps a second, how old gradients are, and the loss."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console

from twinstep.progress import Progress, common_target, rate_error, staleness_distance, time_to_loss_error
from twinstep.report import words
from twinstep.report.cells import line, table
from twinstep.report.contents import Contents


def show_progress(contents: Contents, console: Console) -> None:
    """Print a table of workers that learn or have servers; nothing of others."""
    sides = {"predicted": contents.prediction, "measured": contents.measurement}
    found = {name: side.progress() for name, side in sides.items() if side}
    if not any(each.staleness or each.loss_by_step for each in found.values()):
        return
    both = len(found) == 2
    shown = table("Progress", *found, *(["error"] if both else []))
    for name, *cells in _rows(contents, [*found.values()]):
        shown.add_row(name, *cells)
    console.print(shown)
    if both and any(each.staleness for each in found.values()):
        distance = staleness_distance(*found.values())
        console.print(line(f"Total-variation distance of the two distributions of staleness: {distance:.2f}."))


def _rows(contents: Contents, found: list[Progress]) -> Iterator[tuple[str, ...]]:
    """Give what stands in each row: the name, a cell a side, and the error where there is one."""
    both = len(found) == 2
    rate = [words.error_words(rate_error(*found))] if both else []
    yield "steps of all workers a second", *(f"{each.worker_steps_per_s:.4g}" for each in found), *rate
    if any(each.rates_by_chance for each in found):
        count = max(len(each.rates_by_chance) for each in found)
        yield f"in {count} simulations", *map(words.rates_words, found)
    lost = [side.timeline.lost for side in (contents.prediction, contents.measurement) if side]
    if any(lost):
        yield "who died", *(", ".join(f"rank {rank}" for rank in ranks) or "nobody" for ranks in lost)
    if any(each.staleness for each in found):
        yield "mean staleness", *(f"{each.mean_staleness or 0:.2f}" for each in found)
    if all(each.loss_by_step for each in found):
        yield "last loss", *(f"{each.loss_by_step[-1]:.4g}" for each in found)
    if all(each.whole_loss_by_time for each in found):
        yield "last loss on all samples", *(f"{each.whole_loss_by_time[-1].loss:.4g}" for each in found)
    if both and (target := common_target(*found)) is not None:
        times = (words.duration_words(each.time_to_loss_s(target)) for each in found)
        yield f"time to a loss of {target:.4g}", *times, words.error_words(time_to_loss_error(*found))
