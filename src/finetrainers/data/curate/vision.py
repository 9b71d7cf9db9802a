"""Models of ``transformers`` that look at pictures: loaded once, used by one thread at a time."""

import pickle
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from finetrainers.config.curate import AestheticStep, CaptionStep, ClassifyStep
from finetrainers.data.curate.piece import Piece
from finetrainers.data.curate.reading import stills
from finetrainers.errors import ConfigError

LONGEST_SIDE = 1024
"""Pixels of the pictures that models see; their processors make them smaller yet."""
ModelStep = AestheticStep | CaptionStep | ClassifyStep


class Seer:
    """A model and its processor."""

    def __init__(self, config: ModelStep, key: str, *, model: Any, processor: Any) -> None:
        """Load both; the classes ``model`` and ``processor`` are those of transformers.

        Raises:
            ConfigError: If there is no such model, or it is of another kind.
        """
        self.device = torch.device(_device(config.model.device, key))
        self.lock = threading.Lock()
        """Held while the model computes: threads that decode wait for it."""
        self._stills = config.stills
        try:
            loaded = model.from_pretrained(config.model.path, dtype=getattr(torch, config.model.dtype))
            self.processor = processor.from_pretrained(config.model.path)
        except (OSError, ValueError, KeyError, ImportError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ConfigError(f"{key}.model.path: {config.model.path!r} cannot be used: {reason}") from error
        self.model: Any = loaded.to(self.device).eval().requires_grad_(False)

    def pictures(self, piece: Piece) -> list[Image.Image]:
        """Frames that the model is to see."""
        return [Image.fromarray(picture) for picture in stills(piece, self._stills, longest=LONGEST_SIDE)]

    def inputs(self, processed: Mapping[str, Any]) -> dict[str, Tensor]:
        """Bring what the processor made to the model's device and type."""
        return {
            name: value.to(self.device, self.model.dtype if value.is_floating_point() else None)
            for name, value in processed.items()
            if isinstance(value, Tensor)
        }


def _device(name: str, key: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"{key}.model.device: {name!r} cannot be used: {str(error).splitlines()[0]}") from None
    return name


def load_head(file: Path, num_features: int, key: str) -> nn.Linear:
    """Load a linear head from ``num_features`` to one score.

    Raises:
        ConfigError: If the file holds something else.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        is_safetensors = file.suffix == ".safetensors"
        state = load_file(file) if is_safetensors else torch.load(file, map_location="cpu", weights_only=True)
        head = nn.Linear(num_features, 1)
        head.load_state_dict(state)
    except OSError as error:
        raise ConfigError(f"{key}.head: {file}: cannot be read: {error.strerror or error}") from None
    except (
        RuntimeError,
        SafetensorError,
        pickle.UnpicklingError,
        TypeError,
        AttributeError,
        ValueError,
        EOFError,
        KeyError,
    ) as error:
        raise ConfigError(
            f"{key}.head: {file} holds no weight [1, {num_features}] with a bias [1]: {str(error).splitlines()[0]}"
        ) from None
    return head.requires_grad_(False)
