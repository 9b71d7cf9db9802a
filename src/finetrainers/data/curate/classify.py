"""Score items with an image classifier, such as one for watermarks or nudity."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from finetrainers.config.curate import ClassifyStep
from finetrainers.data.curate.piece import Outcome, Piece
from finetrainers.data.curate.registry import Context, Step, register_step
from finetrainers.data.curate.vision import Seer
from finetrainers.errors import ConfigError


class Classify(Step):
    """Gives the probabilities of labels."""

    def __init__(self, config: ClassifyStep, seer: Seer, labels: Mapping[str, int]) -> None:
        self.scores = dict.fromkeys(labels, "number")
        self._seer = seer
        self._labels = labels
        self._takes_max = config.take == "max"

    def __call__(self, piece: Piece) -> Sequence[Outcome]:
        pictures = self._seer.pictures(piece)
        with self._seer.lock, torch.inference_mode():
            inputs = self._seer.inputs(self._seer.processor(images=pictures, return_tensors="pt"))
            of_frames = self._seer.model(**inputs).logits.float().softmax(dim=-1).cpu()
        probabilities = of_frames.amax(dim=0) if self._takes_max else of_frames.mean(dim=0)
        found = {name: round(float(probabilities[label]), 6) for name, label in self._labels.items()}
        return [replace(piece, scores={**piece.scores, **found})]


@register_step("classify")
def make(config: ClassifyStep, context: Context) -> list[Step]:
    """Make the step, load its model, and find the labels."""
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    seer = Seer(config, context.key, model=AutoModelForImageClassification, processor=AutoImageProcessor)
    known = {str(label): int(number) for label, number in seer.model.config.label2id.items()}
    for name, label in config.scores.items():
        if label not in known:
            labels = ", ".join(sorted(known, key=lambda label: known[label]))
            raise ConfigError(f"{context.key}.scores.{name}: {config.model.path} has no label {label!r}; it has {labels}")
    return [Classify(config, seer, {name: known[label] for name, label in config.scores.items()})]
