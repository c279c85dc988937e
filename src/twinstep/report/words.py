"""The sentences and number formats that the terminal and the HTML report share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from twinstep.bubbles import Bubbles
from twinstep.communication import Repartition
from twinstep.compare import SLOWEST, Blame, Comparison
from twinstep.progress import Progress
from twinstep.report.contents import Assumption, Measurement
from twinstep.timeline import OTHER
from twinstep.units import format_duration, format_rate, format_size

BUSY_CORES = 0.15
"""Others that keep more cores busy than this make times unreliable: 15 % of a core is 7 % of a run on two."""
FULL_SHARE = 0.9
"""Where the cores of an emulated cluster's machine are busier than this, ranks and links wait for them."""
_NOT_FULL = f" (they are the limit above {100 * FULL_SHARE:.0f} %)"
WAITING = (
    "Waiting is the time that all transfers over the link lost together, in the whole run, because they wanted more "
    "than it carries: two that share it for 1 s lose half a second each, and 1 s together."
)
_STEADY_CORES = 0.1
"""Speeds of cores that are nearer to 1 are not told: the mean of a short run's twenty references is no more exact."""
_ROUNDING_S = 0.5e-9
_SHARE_WORTH_TELLING = 0.05


def term_words(term: str) -> str:
    """Give the words for a phase; any other term is its own name.

    >>> term_words("exposed_communication"), term_words("all_reduce[bucket=0]")
    ('exposed communication', 'all_reduce[bucket=0]')
    """
    return {
        "exposed_communication": "exposed communication",
        "weight_gradients": "weight gradients",
        "host_optimizer": "optimizer on the host",
        OTHER: "other (dispatch)",
        SLOWEST: "slowest rank beyond the mean",
    }.get(term, term)


def group_words(kind: str) -> str:
    """Give the words for a kind of group of a mesh; any other kind is its own name.

    >>> group_words("copies"), group_words("tensor")
    ('copies of shards', 'tensor')
    """
    return {
        "sharding": "sharded data",
        "copies": "copies of shards",
        "expert_data": "data of experts",
        "embedding": "tied embedding",
        "host": "device and host",
        "": "other",
    }.get(kind, kind)


def bubble_words(found: Bubbles) -> str:
    """Say how much of a step the ranks of a pipeline idle.

    >>> bubble_words(Bubbles({0: 0.25, 4: 0.3}, closed_form=None))
    '27.5 % of a step (rank 0: 25.0 %, rank 4: 30.0 %)'
    """
    (fewest, least), (most, largest) = (pick(found.by_rank.items(), key=lambda item: item[1]) for pick in (min, max))
    if round(largest - least, 3) == 0:
        return f"{percent_words(found.mean)} of a step"
    extremes = f"rank {fewest}: {percent_words(least)}, rank {most}: {percent_words(largest)}"
    return f"{percent_words(found.mean)} of a step ({extremes})"


def closed_form_words(found: Bubbles) -> str:
    """Say what the schedule alone makes of it; nothing where it has no closed form.

    >>> closed_form_words(Bubbles({0: 0.25}, closed_form=0.2))
    'The schedule alone, with equal stages and communication that takes no time: 20.0 %.'
    """
    if found.closed_form is None:
        return ""
    share = percent_words(found.closed_form)
    return f"The schedule alone, with equal stages and communication that takes no time: {share}."


def percent_words(share: float) -> str:
    """Print a fraction of a step in percent.

    >>> percent_words(0.2727)
    '27.3 %'
    """
    return f"{100 * share:.1f} %"


def duration_words(duration_s: float | None) -> str:
    """Print a duration in seconds; what rounding left of a zero is zero, and None is a dash.

    >>> duration_words(0.0123), duration_words(-1e-18), duration_words(None)
    ('12.3 ms', '0 s', '-')
    """
    if duration_s is None:
        return "-"
    return format_duration(duration_s if abs(duration_s) >= _ROUNDING_S else 0)


def repartition_words(found: Repartition) -> str:
    """Print what workers exchanged before they began to compute.

    >>> repartition_words(Repartition(messages=20, size_bytes=373_760, time_s=0.0124))
    '20 messages, 365 KiB in 12.4 ms'
    """
    return f"{found.messages} messages, {format_size(found.size_bytes)} in {duration_words(found.time_s)}"


def rates_words(found: Progress) -> str:
    """Say between which rates chance leaves a side, `-` where it was not asked.

    >>> rates_words(Progress(2.0, {}, (), (), rates_by_chance=(1.9, 2.0, 2.25)))
    '1.9 to 2.25'
    """
    rates = found.rates_by_chance
    return f"{rates[0]:.4g} to {rates[-1]:.4g}" if rates else "-"


def error_words(error: float | None) -> str:
    """Print a signed fraction in percent; None, where nothing was measured, is a dash.

    >>> error_words(-0.0291), error_words(0.5), error_words(None)
    ('-2.9 %', '+50.0 %', '-')
    """
    return "-" if error is None else f"{100 * error:+.1f} %"


def share_words(share: float | None) -> str:
    """Print a fraction between 0 and 1 in whole percent; None is a dash.

    >>> share_words(0.625)
    '62 %'
    """
    return "-" if share is None else f"{100 * share:.0f} %"


def utilisation_words(utilisation: float) -> str:
    """Print the part of its bandwidth that a link used, a fraction, in percent.

    >>> utilisation_words(0.625), utilisation_words(0.0004)
    ('62.5 %', '0.0 %')
    """
    return f"{100 * utilisation:.1f} %"


def bandwidth_words(bandwidth_bytes_per_s: float | None) -> str:
    """Print a bandwidth in bits a second, as networks state it; None, of what took no time, is a dash.

    >>> bandwidth_words(1.25e9), bandwidth_words(None)
    ('10.0 Gb/s', '-')
    """
    return "-" if bandwidth_bytes_per_s is None else format_rate(8 * bandwidth_bytes_per_s, "b/s")


def tolerance_words(tolerance: float) -> str:
    """Print a tolerance, a fraction, in percent.

    >>> tolerance_words(0.1), tolerance_words(0.025)
    ('10 %', '2.5 %')
    """
    return f"{100 * tolerance:g} %"


def load_words(other_load_cores: float | None) -> str:
    """Say how busy others, processes and other virtual machines, kept the cores; nothing where that is not known.

    >>> load_words(0.02)
    'Others used 0.0 cores meanwhile.'
    >>> load_words(0.9)
    'Others used 0.9 cores meanwhile: a busy machine, so repeat this on an idle one.'
    """
    if other_load_cores is None:
        return ""
    remark = ": a busy machine, so repeat this on an idle one" if other_load_cores > BUSY_CORES else ""
    return f"Others used {other_load_cores:.1f} cores meanwhile{remark}."


def busy_words(cores_busy_share: float) -> str:
    """Say how busy the cores of the machine were that emulated a cluster.

    >>> busy_words(0.4)
    '40 % busy (they are the limit above 90 %)'
    >>> busy_words(0.97)
    "97 % busy, so the times show this machine's limit and not the links'"
    """
    full = cores_busy_share > FULL_SHARE
    remark = ", so the times show this machine's limit and not the links'" if full else _NOT_FULL
    return f"{100 * cores_busy_share:.0f} % busy{remark}"


def core_speed_words(comparison: Comparison) -> str:
    """Say how fast the cores were, where they were faster or slower than at their calibration; else nothing."""
    speed, error = comparison.core_speed, comparison.error_at_core_speed
    if speed is None or abs(speed - 1) < _STEADY_CORES:
        return ""
    return (
        f"The cores were {speed:.2f} times as fast as those of the profile when it was measured; if the whole step "
        f"went with them, the error would be {error_words(error)}."
    )


def verdict_words(comparison: Comparison) -> str:
    """Give the verdict in two words; a difference in structure comes before one in time."""
    if comparison.differences:
        return "Structure differs"
    return "Within tolerance" if comparison.verdict == "within" else "Outside tolerance"


def structure_words(comparison: Comparison) -> str:
    """Say whether both sides did the same work."""
    if comparison.of_wrappers and comparison.differences:
        return "The two runs did not communicate the same; order and names are torch's own, and are not compared."
    if comparison.of_wrappers:
        return "Structure matches: in every step every rank communicated as often, as many bytes, in the same groups."
    if comparison.differences:
        return "The two runs did not do the same work."
    return "Structure matches: every rank did the same operations, on the same bytes and groups."


def worth_telling(comparison: Comparison) -> list[Blame]:
    """Keep the phases with a noticeable share of the error, or the largest one; none for no difference."""
    worth = [blame for blame in comparison.blame if blame.share >= _SHARE_WORTH_TELLING]
    return [blame for blame in worth or comparison.blame[:1] if blame.share > 0]


def blame_words(blame: Blame) -> str:
    """Say what a phase does to the error.

    >>> blame_words(Blame("forward", -0.001, 0.62))
    '62 %: forward is predicted 1.00 ms too short.'
    """
    direction = "too long" if blame.difference_s > 0 else "too short"
    amount = duration_words(abs(blame.difference_s))
    return f"{share_words(blame.share)}: {term_words(blame.term)} is predicted {amount} {direction}."


def memory_words(peak_memory_bytes: Mapping[str, int]) -> str:
    """List the parts of a rank's peak memory, in bytes.

    >>> memory_words({"optimizer_state": 4096, "total": 4096})
    '4.00 KiB (optimizer state 4.00 KiB)'
    """
    parts = (
        f"{part.replace('_', ' ')} {format_size(size)}"
        for part, size in peak_memory_bytes.items()
        if size and part != "total"
    )
    return f"{format_size(peak_memory_bytes['total'])} ({', '.join(parts)})"


def origin_words(assumptions: tuple[Assumption, ...]) -> str:
    """Count the assumptions by where they come from.

    >>> origin_words((Assumption("bandwidth", "50 GB/s", "data sheet"),))
    '1 data sheet'
    """
    counts = Counter(assumption.origin for assumption in assumptions)
    return ", ".join(f"{count} {origin}" for origin, count in sorted(counts.items()))


def measured_memory_words(measurement: Measurement) -> str:
    """Say how memory was measured, or why it was not; nothing where nobody knows."""
    if measurement.memory_by_rank:
        return (
            "Memory was measured as torch counts it, in two more steps after the timed ones, in which the learning "
            "rate is zero. Gradients are those that the optimizer reads."
        )
    return f"No memory was measured: {measurement.no_memory}." if measurement.no_memory else ""


def measured_peak_words(measurement: Measurement) -> str:
    """Say how much the fullest rank held, and what its allocator had reserved beyond."""
    fullest = max(measurement.memory_by_rank.values(), key=lambda use: use.peak)
    beyond = f", {format_size(fullest.fragmentation)} reserved beyond" if fullest.fragmentation else ""
    return f"{format_size(fullest.peak)}{beyond}"
