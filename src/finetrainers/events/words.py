"""Figures of a run in words: the terminal, a check, the report and the pages write each by one of these functions."""

from finetrainers.events.parts import Tuned

THOUSAND = 999.5
"""From here on three digits would round to 1000."""


def plural(count: int, noun: str) -> str:
    """Write a count with its noun."""
    return f"1 {noun}" if count == 1 else f"{count} {noun}s"


def as_count(number: int) -> str:
    """Write a number of parameters."""
    if number < 10**6:
        return f"{number:,}"
    millions = number / 10**6
    return f"{millions:.3g} million" if millions < THOUSAND else f"{_three(millions / 1000)} billion"


def as_size(gb: float) -> str:
    """Write a size on the disk, given in GB (10^9 bytes)."""
    for size, name, digits in ((1e-6, "KB", 0), (1e-3, "MB", 1), (1.0, "GB", 1)):
        if round(gb / size, digits) < 1000:
            return f"{gb / size:.{digits}f} {name}"
    return f"{gb / 1000:,.1f} TB"


def epochs_of(steps: int, batch_size: int, num_samples: int) -> float | None:
    """Count the passes over the samples that so many steps are; None where there are no samples."""
    return steps * batch_size / num_samples if num_samples > 0 else None


def as_steps(steps: int, batch_size: int, num_samples: int) -> str:
    """Write the steps of a run, and the epochs that they are."""
    epochs, times = epochs_of(steps, batch_size, num_samples), f"{plural(steps, 'step')} of {plural(batch_size, 'sample')}"
    return times if epochs is None else f"{times}: {as_epochs(epochs)}"


def as_epochs(epochs: float) -> str:
    """Write a number of epochs."""
    text = _three(epochs)
    return f"{text} epoch" if text == "1" else f"{text} epochs"


def _three(number: float) -> str:
    """Write the first three digits of a number; all before the point of one that has more."""
    return f"{number:.3g}" if number < THOUSAND else f"{number:,.0f}"


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
