"""Write captions with a model that takes pictures and gives text."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from PIL import Image

from finetrainers.config.curate import CaptionStep
from finetrainers.data.curate.piece import Dropped, Outcome, Piece
from finetrainers.data.curate.registry import Context, Step, register_step
from finetrainers.data.curate.vision import Seer


class Caption(Step):
    """Gives a caption to what has none, or to everything."""

    def __init__(self, config: CaptionStep, seer: Seer) -> None:
        self._config = config
        self._seer = seer

    def __call__(self, piece: Piece) -> Sequence[Outcome]:
        if piece.caption is not None and not self._config.replace:
            return [piece]
        pictures = self._seer.pictures(piece)
        with self._seer.lock:
            text = self._write(pictures)
        return [replace(piece, caption=text)] if text else [Dropped(piece, "the model wrote an empty caption")]

    def _write(self, pictures: list[Image.Image]) -> str:
        seer, processor = self._seer, self._seer.processor
        if getattr(processor, "chat_template", None):
            content = [*({"type": "image"} for _ in pictures), {"type": "text", "text": self._config.prompt}]
            prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        else:  # a model of one picture, which goes on with the text that it is given
            pictures, prompt = [pictures[len(pictures) // 2]], self._config.prompt
        inputs = seer.inputs(processor(images=pictures, text=prompt, return_tensors="pt"))
        with torch.inference_mode():
            tokens = seer.model.generate(**inputs, max_new_tokens=self._config.max_tokens, do_sample=False)
        given = inputs["input_ids"].shape[1]
        answer = tokens[0, given:] if torch.equal(tokens[0, :given], inputs["input_ids"][0]) else tokens[0]
        return " ".join(processor.decode(answer, skip_special_tokens=True).split())


@register_step("caption")
def make(config: CaptionStep, context: Context) -> list[Step]:
    """Make the step, and load its model."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    return [Caption(config, Seer(config, context.key, model=AutoModelForImageTextToText, processor=AutoProcessor))]
