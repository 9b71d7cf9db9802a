"""``train.epochs``: turned into steps once the samples are counted."""

import torch

from finetrainers.config import Config, parse_config
from finetrainers.errors import ConfigError
from finetrainers.models import open_model
from finetrainers.training.paths import absolute
from finetrainers.training.prepare import prepare
from finetrainers.training.prepared import Prepared


def with_counted_steps(config: Config) -> Config:
    """Write ``train.steps`` in the place of ``train.epochs``, by a look at the data; as it is where there is none.

    Raises:
        ConfigError: If they are no step, or the configuration is impossible.
        DataError: Naming all bad samples.
    """
    if config.train.epochs is None:
        return config
    looked = absolute(config)
    model = open_model(looked.model, looked.memory)
    # What is warned of is said when the run itself plans; what is found out of files, the cache remembers until then.
    prepared = prepare(looked, model, torch.device("cpu"), progress=lambda *_: None, warn=lambda _: None)
    return with_steps_of(config, prepared)


def with_steps_of(config: Config, prepared: Prepared) -> Config:
    """Write ``train.steps`` in the place of ``train.epochs``, where there is any, by the planned run.

    Raises:
        ConfigError: If they are no step.
    """
    epochs = config.train.epochs
    if epochs is None:
        return config
    steps = prepared.order.first_step(epochs)
    if steps == 0:
        raise ConfigError(
            f"train.epochs: {epochs} of {prepared.plan.num_samples} samples fill no batch of train.batch_size: "
            f"{config.train.batch_size} in any bucket; give more epochs, or a smaller batch_size"
        )
    return with_steps(config, steps)


def with_steps(config: Config, steps: int) -> Config:
    """Write so many steps in the place of epochs.

    Raises:
        ConfigError: If the configuration is impossible with so many.
    """
    tree = config.model_dump(by_alias=True, exclude_unset=True)  # not as JSON, which has no infinity
    del tree["train"]["epochs"]
    tree["train"]["steps"] = steps
    return parse_config(tree)


def refuse_epochs(config: Config, command: str) -> None:
    """Refuse epochs in a command that does not count samples.

    Raises:
        ConfigError: With the way out.
    """
    if config.train.epochs is not None:
        raise ConfigError(
            f"train.epochs: {config.train.epochs} is not counted by {command}; add train.epochs=null train.steps=N to the "
            "command, with the steps that finetrainers check shows"
        )


def about_epochs(before: Config, config: Config) -> str | None:
    """Say how many steps the epochs of a configuration are; None if it has none."""
    if before.train.epochs is None:
        return None
    return f"train.epochs: {before.train.epochs} are {config.train.steps} steps of {config.train.batch_size} samples"
