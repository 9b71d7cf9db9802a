"""What makes encoding, validation and decoding smaller where they do not fit: none of it changes a step."""

from collections.abc import Callable, Iterable, Mapping

from finetrainers.config import Config
from finetrainers.errors import ConfigError
from finetrainers.models import Model
from finetrainers.training.checks.parts import check_computation
from finetrainers.training.fit.sets import is_given, with_techniques
from finetrainers.training.plan.figures import Stage

TEXT = "memory.text_encoder_weights"
SMALLER_TEXT: Mapping[str, str] = {"none": "fp8_e4m3", "fp8_e4m3": "nf4"}
"""Formats of text encoders: which is tried where another takes too much."""


def smaller_keys(
    config: Config,
    written: Config,
    stages: Iterable[Stage],
    limit: int,
    model: Model,
    *,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, bool | str]:
    """Keys to try next; none where all stages but the step fit, or where nothing is left to try.

    Args:
        config: By which the stages were counted.
        written: What the user has written, which stays.
        stages: All of them.
        limit: Bytes that each may take.
        model: None of whose weights are asked for.
        say: Told what would be smaller and cannot be tried.
    """
    over = {stage.stage for stage in stages if (stage.allocated or 0) > limit}
    keys: dict[str, bool | str] = {}
    smaller = None if is_given(written, TEXT) else SMALLER_TEXT.get(config.memory.text_encoder_weights)
    if "encode text" in over and smaller is not None and _is_possible(config, {TEXT: smaller}, model, say):
        keys[TEXT] = smaller
    if over & {"encode media", "validation"}:
        # Slicing takes the items of a batch one by one, and a generated sample is one.
        names = ("vae_tiling", "vae_slicing") if config.cache.batch_size > 1 else ("vae_tiling",)
        left = [name for name in names if not is_given(config, f"memory.{name}")]
        keys |= {f"memory.{name}": True for name in left[:1]}
    return keys


def _is_possible(config: Config, keys: Mapping[str, str], model: Model, say: Callable[[str], None]) -> bool:
    """Whether keys can be added to a configuration, and what they need is installed."""
    try:
        check_computation(with_techniques(config, keys), model)
    except ConfigError as error:
        say(f"{', '.join(f'{key}: {value}' for key, value in keys.items())} was not counted: {error}")
        return False
    return True
