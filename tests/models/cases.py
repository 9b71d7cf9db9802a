"""The models that the generic tests run over: every family, variant and task.

Shape letters as in ``finetrainers.batch``; K, P, Q are pixel frames, height and width.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from finetrainers.config import ModelConfig
from finetrainers.models import Model, open_model

CAPTION = "a red ball on the grass"
MAX_LENGTH = 16


@dataclass(frozen=True)
class Case:
    """A model with what the tests have to know of its pipeline."""

    family: str
    variant: str
    task: str
    size: tuple[int, int, int]
    """(frames, height, width)."""
    read: Callable[[Any, Mapping[str, Any], Model], tuple[Tensor, Tensor]]
    """From (pipeline, what its transformer was called with, model) to x [1, C, F, H, W] without condition channels, and
    sigma [1, F]."""
    answer: Callable[[Any, Tensor, tuple[int, ...]], Tensor]
    """From (pipeline, what its transformer answered, (C, F, H, W)) to [1, C, F, H, W]."""
    latents: Callable[[Any, Tensor, tuple[int, ...]], Tensor]
    """From (pipeline, its output with output_type="latent", (C, F, H, W)) to normalized latents [1, C, F, H, W], or the last
    of these frames."""
    call: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the pipeline's call, in the exactness test and in the overfit test."""
    max_length: int = MAX_LENGTH
    """``model.max_sequence_length``."""
    fps: float = 0.0
    """What the prompt tells; 0 for images and for families that do not look at it."""
    model: Mapping[str, Any] = field(default_factory=dict)
    """Further keys of the ``model`` section."""
    overfit: Mapping[str, Any] | None = field(default_factory=dict)
    """Changes of the sections of the overfit test's run: steps, learning rate, given frames; None where what is trained does
    not draw alone."""
    patch: Callable[[Any], None] | None = None
    """Takes draws of its own away from the pipeline that is compared, with the reason beside it."""
    learned: float = 0.12
    """Largest mean squared error of normalized latents, whose mean square is about 1, that the overfit test may leave."""
    tolerance: float = 0.0
    """Largest difference between what our adapter passes and what the pipeline passes; above 0 with a reason beside it."""
    give: Callable[[Any, Tensor], Mapping[str, Any]] | None = None
    """From (pipeline, clip [1, K, P, Q, 3]) to the pipeline's arguments for the frames that it is given; by default the
    first and the last, as ``image`` and ``last_image``."""
    references: Callable[[Any, Model, Tensor], tuple[Tensor, ...]] | None = None
    """From (pipeline, model, clip [1, K, P, Q, 3]) to the latents of the references that ``give`` shows, each
    [1, C, 1, H', W']."""
    given: tuple[int, ...] | None = None
    """Latent frames that are given, for families to whom later ones may be."""
    label: str = ""
    """Tells apart cases of one task; the contract suite runs on those without."""

    @property
    def name(self) -> str:
        return f"{self.family} {self.variant} {self.task} {self.label}".strip()

    def pictures(self, pipeline: Any, clip: Tensor) -> dict[str, Any]:
        """What the pipeline's call is given of a clip [1, K, P, Q, 3]."""
        if self.give is not None:
            return dict(self.give(pipeline, clip))
        first, last = (Image.fromarray(clip[0, frame].numpy()) for frame in (0, -1))
        names = {"image-to-video": {"image": first}, "first-last-frame-to-video": {"image": first, "last_image": last}}
        return dict(names.get(self.task, {}))

    def section(self, path: Path) -> dict[str, Any]:
        """The ``model`` section of a run."""
        keys = {"dtype": "float32", "max_sequence_length": self.max_length, "task": self.task}
        return {"path": str(path), **keys, **self.model}

    def open(self, path: Path) -> Model:
        """Open the model; nothing is loaded."""
        return open_model(ModelConfig(**self.section(path)))


class Recorder(torch.nn.Module):
    """A transformer that writes down what it is called with."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model
        self.calls: list[dict[str, Any]] = []
        self.answers: list[Tensor] = []

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.model, name)

    def forward(self, **arguments: Any) -> Any:
        self.calls.append({k: v.clone() if isinstance(v, Tensor) else v for k, v in arguments.items()})
        answer = self.model(**arguments)
        self.answers.append(answer[0])
        return answer


def load_pipeline(model: Model) -> Any:
    """All components of the pipeline of the model's task."""
    pretrained = model.pretrained
    names = [name for name, value in pretrained.index.items() if isinstance(value, list) and value[0]]
    return pretrained.pipeline(model.pipeline_class, {name: pretrained.load(name) for name in names})


def all_cases() -> dict[str, Case]:
    """All cases of the files cases_*.py beside this one, by name."""
    modules = [importlib.import_module(file.stem) for file in sorted(Path(__file__).parent.glob("cases_*.py"))]
    return {case.name: case for module in modules for case in module.CASES}
