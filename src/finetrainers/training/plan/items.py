"""How many items a run encodes, and how many steps its epochs are, as far as that is known without a look at each."""

from dataclasses import dataclass
from pathlib import Path

from finetrainers.conditioning import build_conditioning
from finetrainers.config import Config
from finetrainers.config.of_set import about_set, set_keys
from finetrainers.data.sources.items import list_items
from finetrainers.data.streams import beside, streams_of
from finetrainers.errors import ConfigError
from finetrainers.models import Model
from finetrainers.training.epochs import with_steps
from finetrainers.training.objective import build_objective


@dataclass(frozen=True, slots=True)
class Items:
    """What a run encodes."""

    count: int
    views: int
    """Of all of them: as often is their media encoded, and their captions once an item."""
    samples: float
    """Of one pass over all data sets, with ``repeats``."""

    @classmethod
    def of(cls, config: Config, count: int) -> "Items":
        """So many items, of the data set that has most views of each, and of the one that is repeated most."""
        views, repeats = max(data.num_views for data in config.data), max(data.repeats for data in config.data)
        return cls(count, count * views, count * repeats)


def count_items(config: Config, model: Model) -> Items | None:
    """Count the items of data sets that are folders or files of this machine; None if one of them is not.

    Raises:
        DataError: If a data set cannot be listed.
    """
    streams = streams_of(build_conditioning(config.conditioning), build_objective(config, model))
    names, many = [own.name for own in beside(streams)], [own.name for own in streams if own.is_many]
    count, views, samples = 0, 0, 0.0
    for data, key in zip(config.data, set_keys(config.data), strict=True):
        if data.stream or not Path(data.path).expanduser().exists():
            return None
        with about_set(key):
            own = list_items(data, names, many).table.num_rows
        count, views, samples = count + own, views + own * data.num_views, samples + own * data.repeats
    return Items(count, views, samples)


def with_estimated_steps(config: Config, items: Items | None) -> Config:
    """Write ``train.steps`` in the place of ``train.epochs``, as if all items were trained on, and filled all batches.

    Raises:
        ConfigError: If nobody says how many items there are.
    """
    epochs, train = config.train.epochs, config.train
    if epochs is None:
        return config
    if items is None:
        raise ConfigError(
            f"train.epochs: {epochs} cannot be counted: the data is not on this machine; add --items N to the command"
        )
    return with_steps(config, max(1, int(items.samples * (1 - config.validation.held_out) * epochs) // train.batch_size))
