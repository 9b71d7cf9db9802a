"""In which proportion data sets are mixed: what is asked for, and what steps take of each."""

from collections.abc import Sequence
from fractions import Fraction

from finetrainers.data.catalog.dataset import Dataset
from finetrainers.errors import DataError


def epoch_repeats(sets: Sequence[Dataset]) -> list[Fraction]:
    """Say how often each sample of each data set comes in an epoch.

    With weights, an epoch is one pass over the set whose samples come least often, and of the others as much as gives each
    its share.

    Raises:
        DataError: If a data set has a weight, and no sample.
    """
    if any(data.config.weight is None for data in sets):
        return [Fraction(str(data.config.repeats)) for data in sets]
    for number, data in enumerate(sets):
        check_has_samples(number, data)
    rates = [Fraction(str(data.config.weight)) / len(data.item) for data in sets]
    return [rate / min(rates) for rate in rates]


def check_has_samples(number: int, data: Dataset) -> None:
    """Raise if a data set of the run that has a weight has no sample.

    Raises:
        DataError: Naming it.
    """
    if not len(data.item):
        raise DataError(
            f"data.{number}.weight: {data.config.weight:g} cannot be met: {data.config.path} has no sample to train on; "
            "remove it, or add media that fit its buckets"
        )


def asked_shares(sets: Sequence[Dataset]) -> list[Fraction]:
    """Share of all samples that the configuration asks of each data set."""
    drawn = [len(data.item) * repeats for data, repeats in zip(sets, epoch_repeats(sets), strict=True)]
    return [each / sum(drawn) for each in drawn]
