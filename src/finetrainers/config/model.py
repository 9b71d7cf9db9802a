"""The ``model`` section: what is trained from."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from finetrainers.config.base import RefusedKeyError, Section

Dtype = Literal["float32", "bfloat16", "float16"]


def is_folder(path: str) -> bool:
    """Whether a model's path is a folder of this machine, and no id on the Hub."""
    try:
        return Path(path).expanduser().is_dir()
    except RuntimeError:  # ~name of nobody here
        return False


class ComponentConfig(Section):
    """Where one component of the pipeline comes from, if not from ``model.path``."""

    path: str | None = None
    """Local folder or Hub id. By default ``model.path``."""
    revision: str | None = None
    """Branch, tag or commit on the Hub."""
    subfolder: str | None = None
    """Folder inside ``path`` that holds the component. If ``path`` is given, the default is none."""
    dtype: Dtype | None = None
    """Data type of this component. By default ``model.dtype``."""


class ModelConfig(Section):
    """The model to fine-tune. Family and task follow from the pipeline class in its model_index.json."""

    path: str
    """Local folder or Hub id of a pipeline in diffusers layout."""
    revision: str | None = None
    """Branch, tag or commit on the Hub."""
    family: str | None = None
    """Model family, if model_index.json does not determine it. ``finetrainers models`` lists all families."""
    task: str | None = None
    """Task, if it is not that of the model's own pipeline. ``finetrainers models`` lists all tasks."""
    expert: Literal["high_noise", "low_noise", "both"] | None = None
    """Which denoiser to train of a model with two experts (Wan 2.2 A14B), each for its own range of noise levels. By default
    both, which needs memory for both. ``high_noise`` and ``low_noise`` can also be trained one after the other."""
    adapter: str | None = None
    """Your own model adapter, as path/to/file.py:ClassName."""
    dtype: Dtype = "bfloat16"
    """Data type of the frozen weights and of all computation with them (mixed precision). Trained weights have float32
    master copies."""
    max_sequence_length: int | None = Field(default=None, ge=1)
    """Maximum prompt length in tokens, for training and sampling. By default that of the family's pipeline."""
    components: dict[str, ComponentConfig] = {}
    """Overrides by component name, such as {transformer: {path: ...}, vae: {dtype: float32}}."""

    @model_validator(mode="after")
    def _consistent(self) -> "ModelConfig":
        if self.family is not None and self.adapter is not None:
            raise RefusedKeyError("family", f"{self.family!r} has no effect with adapter: {self.adapter}; give one of them")
        revisions = {"revision": (self.revision, self.path)}
        for name, component in self.components.items():
            path = self.path if component.path is None else component.path
            revisions[f"components.{name}.revision"] = (component.revision, path)
        for key, (revision, path) in revisions.items():
            if revision is not None and is_folder(path):
                raise RefusedKeyError(key, f"{revision!r} has no effect: {path} is a local folder; remove it")
        return self
