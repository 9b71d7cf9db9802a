"""The model card that is written beside exported weights."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetrainers.config import Config, ReferencesConfig
from finetrainers.data.catalog.buckets import resolve_buckets, usual_bucket
from finetrainers.files.whole import to_json, write_whole
from finetrainers.models import Model, Request
from finetrainers.tuning import ExportFacts, Tuning

CARD_FILE = "README.md"


CARD = """# {name}

{what} of {base} for {task}, made with finetrainers.

- {steps} optimizer steps of {batch_size} samples on {num_samples} samples
{conditioning}{losses}
## Use

{snippet}{samples}"""


def base_name(config: Config) -> str:
    """Name the model that was begun from: where it is on this disk is nobody else's business."""
    base = config.model.path
    return Path(base).name if Path(base).is_dir() else base


def write_card(
    directory: Path,
    *,
    config: Config,
    model: Model,
    tuning: Tuning,
    exported: Mapping[str, ExportFacts],
    facts: Mapping[str, Any],
    repo: str | None,
) -> Path:
    """Write README.md, the model card, into a directory of weights, for the repository that they are pushed to, if any."""
    base, name, references = config.model.path, base_name(config), config.references
    is_local = Path(base).is_dir()
    example = "" if references is None else _editing_lines(config, model, references)
    losses = "".join(f"- held-out loss at step {step}: {float(loss):.5f}\n" for step, loss in facts["held_out_losses"])
    pictures = "".join(f"- [{name}](samples/{name})\n" for name in facts["samples"])
    text = CARD.format(
        name=config.output_dir.name,
        what="Full-rank fine-tune" if config.tuning.kind == "full" else f"{config.tuning.kind} adapter",
        base=name if is_local else f"[{base}](https://huggingface.co/{base})",
        task=model.task,
        steps=facts["steps"],
        batch_size=config.train.batch_size,
        num_samples=facts["num_samples"],
        conditioning=_conditioning_line(config),
        losses=losses,
        snippet=_snippet(tuning, base if repo is None else name, repo or str(directory), exported, example),
        samples=f"\n## Samples\n\n{pictures}" if pictures else "",
    )
    card, text = directory / CARD_FILE, f"---\n{_metadata(config, model)}\n---\n\n{text}"
    if not card.is_file() or card.read_text(encoding="utf-8") != text:
        write_whole(card, text)
    return card


def _metadata(config: Config, model: Model) -> str:
    """What the Hub reads of a card, as YAML."""
    from huggingface_hub import ModelCardData

    base, conditions = config.model.path, {"control": config.control, "references": config.references}
    metadata = ModelCardData(
        base_model=None if Path(base).is_dir() else base,
        library_name="diffusers",
        pipeline_tag=model.task if config.references is None else "image-to-image",
        tags=[
            "diffusers-training",
            "finetrainers",
            model.adapter.name,
            config.tuning.kind,
            *(tag for tag, condition in conditions.items() if condition is not None),
        ],
    )
    return str(metadata.to_yaml())


def _conditioning_line(config: Config) -> str:
    """Say what the model is conditioned on besides the prompt: whoever draws has to make the same."""
    if config.references is not None:
        return f"- conditioning: {', '.join(f'{name}: {to_json(value)}' for name, value in config.references)}\n"
    section = config.control
    if section is None:
        return ""
    idle = section.idle()
    facts = {name: value for name, value in section.model_dump(mode="json").items() if name not in idle}
    facts["signal"] = facts["signal"].rpartition("/")[2]  # of a file of the user's, its name
    return f"- conditioning: {', '.join(f'{name}: {to_json(value)}' for name, value in facts.items())}\n"


def _editing_lines(config: Config, model: Model, references: ReferencesConfig) -> str:
    """Lines of Python that draw with a picture, at a size that the run had, and brought to one that its references had."""
    _, height, width = size = usual_bucket(config.data[0].buckets)
    own = resolve_buckets(references.budget)
    _, rows, columns = min(own, key=lambda one: abs(math.log(one[1] * width / (one[2] * height))))
    request = Request("TEXT", size, steps=1, seed=0, references=("FILE",))
    told = {"height": height, "width": width, **model.adapter.sampling_arguments(request)}
    arguments = ", ".join(f"{name}={value}" for name, value in told.items())
    return (
        "\nfrom diffusers.utils import load_image\n\n"
        f'picture = load_image("FILE").resize(({columns}, {rows}))  # in this run about {references.pixels} pixels\n'
        f'image = pipeline(prompt="TEXT", image=picture, {arguments}).images[0]\n'
    )


def _snippet(tuning: Tuning, base: str, weights: str, exported: Mapping[str, ExportFacts], example: str) -> str:
    """What to type to draw with the weights."""
    if any(own.drawing_class is None for own in exported.values()):
        command = "finetrainers sample RUN --prompt TEXT --control FILE"
        return f"diffusers has no pipeline for this control:\n\n```bash\n{command}\n```\n"
    return f"```python\n{tuning.snippet(base, weights, exported)}{example}```\n"
