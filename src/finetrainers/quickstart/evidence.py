"""What was learned and what was forgotten, measured on what plain diffusers generates with and without the LoRA.

A picture or a clip is uint8 [*S, H, W, C].
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

import torch

from finetrainers.quickstart.drawing import Pixels
from finetrainers.quickstart.figures import Figures
from finetrainers.quickstart.measure import Measurement
from finetrainers.quickstart.showcase import Options, Showcase, Stated


@dataclass(frozen=True, slots=True)
class PromptSet(Generic[Stated]):
    """Prompts, and what right pictures or clips of them may look like."""

    what: str
    truths: Sequence[Stated]
    real: Sequence[Pixels]
    """Rendered, not drawn by a model."""


Sets = Mapping[str, PromptSet[Any]]  # of the truths of one showcase


def make_sets(options: Options) -> dict[str, PromptSet[Any]]:
    """Take ``num_prompts`` of each of four sets; the LoRA was trained on the first ``num_train`` of the seed."""
    showcase, seed, numbers = options.showcase, options.seed, range(options.num_prompts)
    known, concept = showcase.render_known, showcase.render_concept
    rendered = {
        "base_train": [known(n, showcase.base_seed) for n in numbers],
        "base_held_out": [known(n, seed, split="held_out") for n in numbers],
        "concept_train": [concept(n % options.num_train, seed) for n in numbers],
        "concept_held_out": [concept(n, seed, split="held_out") for n in numbers],
    }
    return {
        name: PromptSet(showcase.words.sets[name], [truth for _, truth in pairs], [pixels for pixels, _ in pairs])
        for name, pairs in rendered.items()
    }


@dataclass(frozen=True, slots=True)
class Counted:
    """A pipeline that tells how many prompts each of its calls has generated."""

    pipeline: Any  # diffusers has no types
    tell: Callable[[int], None]

    def __call__(self, *, prompt: Sequence[str], **options: Any) -> Any:
        """Generate from prompts."""
        drawn = self.pipeline(prompt=prompt, **options)
        self.tell(len(prompt))
        return drawn

    def set_progress_bar_config(self, **options: Any) -> None:
        """Set how the pipeline shows its denoising steps."""
        self.pipeline.set_progress_bar_config(**options)


def draw_sets(
    options: Options,
    sets: Sets,
    weights: Path | None,
    *,
    device: str | torch.device,
    tell: Callable[[int], None] = lambda _: None,
) -> dict[str, list[Pixels]]:
    """Generate from all prompts in plain diffusers, with the LoRA or without; a prompt's noise is the same in both cases.

    ``tell`` is called with the number of prompts that are done, each time that some are.
    """
    showcase = options.showcase
    pipeline = showcase.pipeline.from_pretrained(options.base).to(device, torch.float32)
    if weights is not None:
        pipeline.load_lora_weights(weights)
    return {
        name: list(
            showcase.draw(
                Counted(pipeline, tell),
                [showcase.caption_of(truth) for truth in prompts.truths],
                seed=options.seed,
                guidance=showcase.guidance,
            )
        )
        for name, prompts in sets.items()
    }


def measure_all(showcase: Showcase[Stated], drawn: Sequence[Pixels], truths: Sequence[Stated]) -> list[Measurement]:
    """Compare each picture or clip with its caption."""
    return [showcase.measure(pixels, truth) for pixels, truth in zip(drawn, truths, strict=True)]


def figures(showcase: Showcase[Stated], drawn: Sequence[Pixels], truths: Sequence[Stated]) -> Figures:
    """Count what pictures or clips show of what their captions say."""
    return Figures.of(truths, measure_all(showcase, drawn, truths))


def shuffled(truths: Sequence[Stated]) -> list[Stated]:
    """Give every picture or clip the next other caption: what is still right then is chance."""
    # Those behind each one, and then those before it: of equal ones, none gets its own caption.
    turned = ([*truths[n + 1 :], *truths[:n]] for n in range(len(truths)))
    return [next((other for other in others if other != truth), truth) for truth, others in zip(truths, turned, strict=True)]
