"""How large the folder of a run becomes: its checkpoints, and what it exports."""

from math import lcm

from finetrainers.config import Config
from finetrainers.models import Model

FLOAT32, BFLOAT16 = 4, 2


def num_checkpoints(config: Config) -> int:
    """Count the checkpoints that are there at once, at most: an old one goes only after the new one is whole."""
    return min(_num_saved(config), config.checkpoint.keep + config.checkpoint.keep_best + 1)


def num_exported(config: Config) -> int:
    """Count the steps whose exported weights are there at once, at most."""
    saved, kept = _num_saved(config), config.num_kept_weights
    return saved if kept is None else min(saved, kept + config.checkpoint.keep_best + 1)


def exported_bytes(config: Config, model: Model, *, trained: int, whole: int) -> int:
    """Bytes that are exported of one step: for programs, an adapter is written once more, in bfloat16.

    Args:
        config: Of the run.
        model: Whose type full weights are exported in; those of adapters are their float32 masters.
        trained: Weights that train.
        whole: All weights of the denoisers that train.
    """
    if config.tuning.kind == "full":
        return whole * model.dtype.itemsize
    own = FLOAT32 if config.optimizer.masters == "float32" else model.dtype.itemsize
    return trained * (own + BFLOAT16 * len(config.checkpoint.export))


def _num_saved(config: Config) -> int:
    """Count the steps that are saved, if each validation is the best so far."""
    last, every = config.train.steps, config.checkpoint.every
    saved = max(1, -(-last // every))
    if config.checkpoint.keep_best and config.validation.every is not None:
        often = config.validation.every
        saved += max(0, last - 1) // often - max(0, last - 1) // lcm(every, often)
    return saved
