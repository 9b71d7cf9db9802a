"""Figures of a run in words: the terminal, a check, the report and the pages write each by one of these functions."""

from finetrainers.events.parts import Tuned


def plural(count: int, noun: str) -> str:
    """Write a count with its noun."""
    return f"1 {noun}" if count == 1 else f"{count} {noun}s"


def as_count(number: int) -> str:
    """Write a number of parameters."""
    for size, name in ((10**9, "billion"), (10**6, "million")):
        if number >= size:
            return f"{number / size:.3g} {name}"
    return f"{number:,}"


def as_size(gb: float) -> str:
    """Write a size on the disk, given in GB (10^9 bytes)."""
    if gb >= 1:
        return f"{gb:.1f} GB"
    return f"{1e3 * gb:.1f} MB" if gb >= 1e-3 else f"{1e6 * gb:.0f} KB"


def epochs_of(steps: int, batch_size: int, num_samples: int) -> float | None:
    """Count the passes over the samples that so many steps are; None where there are no samples."""
    return steps * batch_size / num_samples if num_samples > 0 else None


def as_steps(steps: int, batch_size: int, num_samples: int) -> str:
    """Write the steps of a run, and the epochs that they are."""
    epochs, times = epochs_of(steps, batch_size, num_samples), f"{plural(steps, 'step')} of {plural(batch_size, 'sample')}"
    return times if epochs is None else f"{times}: {epochs:.3g} epochs"


def as_share(share: float | None) -> str:
    """Write a part of a whole, such as what a crop removes, in percent; a dash where it is not known."""
    return "-" if share is None else f"{share:.0%}"


def as_cut(mean: float, most: float) -> str:
    """Write what the crop to a bucket removes of its pictures, in the mean and at most."""
    return f"{as_share(mean)} (up to {as_share(most)})"


def as_trained(trained: Tuned) -> str:
    """Write what trains, of how many parameters, and the size of the weights that are exported."""
    rank = "" if trained.rank is None else f", rank {trained.rank}, alpha {trained.alpha:g}"
    whole = f"{as_count(trained.parameters)} of {as_count(trained.all_parameters)} parameters"
    size = f", {as_size(trained.mb / 1e3)} of weights" if trained.mb else ""
    return f"{trained.kind}{rank}: {whole}{size}"
