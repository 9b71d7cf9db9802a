"""The ``validation`` section: samples and held-out loss."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, field_validator, model_validator

from finetrainers.config.base import RefusedKeyError, Section
from finetrainers.config.data import DataConfig


class ValidationConfig(Section):
    """Samples and held-out loss (validation loss), at step 0, at intervals and at the end. They do not affect training."""

    every: int | None = Field(default=None, ge=1)
    """Optimizer steps between validations. By default, only step 0 and the end are validated."""
    prompts: Path | tuple[str, ...] | None = None
    """Prompts to generate samples from: a list, or a csv, json or jsonl file with prompt, and optionally image, last_image,
    control, height, width, num_frames, num_inference_steps, guidance_scale, negative_prompt, fps, seed. An empty prompt
    generates without a caption."""
    held_out: float = Field(default=0.0, ge=0, lt=1)
    """Fraction of the data to hold out from training, to measure the held-out loss (validation loss) on; at least one item.
    Files with the same bytes count as one: what is held out in one data set is held out in all."""
    data: tuple[DataConfig, ...] = ()
    """Separate data sets to measure the held-out loss on, instead of ``held_out``. Items of ``data`` with the same bytes are
    not trained on, and a warning counts them. By default, their ``buckets`` are those of ``data.0``."""
    noise_levels: int = Field(default=8, ge=1)
    """Number of noise levels at which to measure each held-out sample. Losses of other levels or samples are not compared:
    if a resumed run changes this or ``max_items``, ``patience`` and ``checkpoint.keep_best`` start over."""
    max_items: int = Field(default=64, ge=1)
    """Maximum number of held-out samples to measure."""
    items: int = Field(default=0, ge=0)
    """Number of training samples, spread over all data sets, whose loss is measured individually, at the same noise in each
    validation. The easiest and the hardest are named. Each sample needs ``noise_levels`` forward passes."""
    patience: int | None = Field(default=None, ge=1)
    """Early stopping: stop after this many validations in a row without a new lowest held-out loss. Step 0 does not count.
    By default, all steps are run."""
    min_delta: float = Field(default=0.0, ge=0)
    """How far a held-out loss must be below the lowest so far to reset ``patience``."""

    @property
    def has_held_out(self) -> bool:
        """Whether a held-out loss is measured."""
        return bool(self.held_out or self.data)

    def is_due(self, step: int, *, last: int) -> bool:
        """Whether there is a validation after a step: at step 0, at intervals and at the last."""
        return step in (0, last) or (self.every is not None and step % self.every == 0)

    def idle(self) -> Mapping[str, str]:
        idle = {}
        if self.patience is None:
            idle["min_delta"] = "without patience; give it, or remove min_delta"
        if self.every is None:
            idle["patience"] = "without every, which sets validations before the end; set it, or remove patience"
        if not self.has_held_out:
            reason = "without held-out samples; give held_out or data, or remove it"
            idle |= dict.fromkeys(("max_items", "patience"), reason)
            idle |= {} if self.items else {"noise_levels": reason}
        return idle

    @field_validator("prompts", mode="before")
    @classmethod
    def _list_of_texts(cls, value: object) -> object:
        if isinstance(value, list | tuple) and any(isinstance(own, Mapping) for own in value):
            raise ValueError(
                "a list holds only prompts; write prompts with keys of their own into a csv, json or jsonl file"
            )
        return tuple(value) if isinstance(value, list) else value  # what a validator hands on is not JSON's list any more

    @property
    def prompts_file(self) -> Path | None:
        """The file of prompts, where they are not listed."""
        return self.prompts if isinstance(self.prompts, Path) else None

    @model_validator(mode="after")
    def _one_source(self) -> "ValidationConfig":
        if self.held_out and self.data:
            raise ValueError("held_out and data both name the held-out samples: give one of them")
        if self.every is not None and not (self.prompts or self.has_held_out or self.items):
            raise ValueError("every has no effect: give prompts, held_out or data, or items, to validate with")
        for index, data in enumerate(self.data):
            for key, value in data.varying.items():
                raise RefusedKeyError(
                    f"data.{index}.{key}",
                    f"{value} has no effect: held-out items are measured once, in their first view and with their first "
                    "caption; remove it",
                )
        return self
