"""Score beauty with a linear head on CLIP's embedding of the picture (LAION-Aesthetics)."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional

from finetrainers.config.curate import AestheticStep
from finetrainers.data.curate.piece import Outcome, Piece
from finetrainers.data.curate.registry import Context, Step, register_step
from finetrainers.data.curate.vision import Seer, load_head


class Aesthetic(Step):
    """Gives the mean score of a piece's frames."""

    scores = {"aesthetic": "number"}

    def __init__(self, seer: Seer, head: nn.Linear) -> None:
        self._seer = seer
        self._head = head.to(seer.device)

    def __call__(self, piece: Piece) -> Sequence[Outcome]:
        pictures = self._seer.pictures(piece)
        with self._seer.lock, torch.inference_mode():
            inputs = self._seer.inputs(self._seer.processor(images=pictures, return_tensors="pt"))
            embeddings = functional.normalize(self._seer.model(**inputs).image_embeds.float(), dim=-1)
            score = float(self._head(embeddings).mean())
        return [replace(piece, scores={**piece.scores, "aesthetic": round(score, 4)})]


@register_step("aesthetic")
def make(config: AestheticStep, context: Context) -> list[Step]:
    """Make the step, and load CLIP and the head."""
    from transformers import AutoImageProcessor, CLIPVisionModelWithProjection

    seer = Seer(config, context.key, model=CLIPVisionModelWithProjection, processor=AutoImageProcessor)
    return [Aesthetic(seer, load_head(config.head.expanduser(), seer.model.config.projection_dim, context.key))]
