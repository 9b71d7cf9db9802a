"""Fine-tune diffusion transformers for images and video.

Names are imported when they are first used: ``import finetrainers`` alone loads neither torch nor diffusers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finetrainers.batch import Batch as Batch, Prompt as Prompt, Text as Text
    from finetrainers.config import Config as Config, load_config as load_config
    from finetrainers.data.sources.own import DataLayout as DataLayout, Item as Item
    from finetrainers.data.streams import Stream as Stream
    from finetrainers.errors import (
        CheckpointError as CheckpointError,
        ConfigError as ConfigError,
        DataError as DataError,
        FinetrainersError as FinetrainersError,
        Interrupted as Interrupted,
        ModelError as ModelError,
        NonFiniteError as NonFiniteError,
        StorageError as StorageError,
    )
    from finetrainers.models import (
        Grid as Grid,
        LatentFacts as LatentFacts,
        ModelAdapter as ModelAdapter,
        PictureFacts as PictureFacts,
        RecipeFacts as RecipeFacts,
        Request as Request,
        TextFacts as TextFacts,
        TrainingFacts as TrainingFacts,
        register_model as register_model,
    )
    from finetrainers.models.noise import NoiseLevels as NoiseLevels
    from finetrainers.objectives.base import Predict as Predict
    from finetrainers.objectives.own import OwnObjective as OwnObjective
    from finetrainers.runs.outputs import Sample as Sample
    from finetrainers.sampling.sample import sample_run as sample_run
    from finetrainers.sampling.video import write_video as write_video
    from finetrainers.training.callbacks import Callback as Callback
    from finetrainers.training.run import Result as Result, encode as encode, train as train
    from finetrainers.training.track.trackers import Tracker as Tracker
    from finetrainers.training.trainer import Metrics as Metrics, Trainer as Trainer

__version__ = "1.0.0.dev0"

__all__ = [
    "Batch",
    "Callback",
    "CheckpointError",
    "Config",
    "ConfigError",
    "DataError",
    "DataLayout",
    "FinetrainersError",
    "Grid",
    "Interrupted",
    "Item",
    "LatentFacts",
    "Metrics",
    "ModelAdapter",
    "ModelError",
    "NoiseLevels",
    "NonFiniteError",
    "OwnObjective",
    "PictureFacts",
    "RecipeFacts",
    "Predict",
    "Prompt",
    "Request",
    "Result",
    "Sample",
    "StorageError",
    "Stream",
    "Text",
    "TextFacts",
    "Tracker",
    "Trainer",
    "TrainingFacts",
    "encode",
    "load_config",
    "register_model",
    "sample_run",
    "train",
    "write_video",
]

_PLACES = {
    "batch": ("Batch", "Prompt", "Text"),
    "config": ("Config", "load_config"),
    "data.sources.own": ("DataLayout", "Item"),
    "data.streams": ("Stream",),
    "errors": (
        "CheckpointError",
        "ConfigError",
        "DataError",
        "FinetrainersError",
        "Interrupted",
        "ModelError",
        "NonFiniteError",
        "StorageError",
    ),
    "models": (
        "Grid",
        "LatentFacts",
        "ModelAdapter",
        "PictureFacts",
        "RecipeFacts",
        "Request",
        "TextFacts",
        "TrainingFacts",
        "register_model",
    ),
    "objectives.base": ("Predict",),
    "models.noise": ("NoiseLevels",),
    "objectives.own": ("OwnObjective",),
    "runs.outputs": ("Sample",),
    "sampling.sample": ("sample_run",),
    "sampling.video": ("write_video",),
    "training.callbacks": ("Callback",),
    "training.track.trackers": ("Tracker",),
    "training.trainer": ("Metrics", "Trainer"),
    "training.run": ("Result", "encode", "train"),
}
"""Module of each public name. No module has a public name: importing it would hide the name."""


def __getattr__(name: str) -> Any:
    for module, names in _PLACES.items():
        if name in names:
            return getattr(import_module(f"finetrainers.{module}"), name)
    raise AttributeError(f"module 'finetrainers' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
