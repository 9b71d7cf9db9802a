"""What the Hub reads of a model card: its front matter."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetrainers.config import Config
from finetrainers.models import Model
from finetrainers.runs.outputs import Sample
from finetrainers.training.cards.words import trigger_words

CARD_FILE = "README.md"
SAMPLES = "samples"
"""Folder beside a card."""
TAGS_OF_TASKS = {"first-last-frame-to-video": "image-to-video"}
"""Tasks that the Hub knows by another name."""


def metadata(config: Config, model: Model, samples: Sequence[Sample], *, asks_hub: bool) -> str:
    """The front matter of a card, as YAML: base, licence, tags, trigger word and samples.

    Args:
        config: Of the run.
        model: That it trained.
        samples: Pictures and videos that lie beside the card.
        asks_hub: Whether the Hub may be asked for the licence of the base.
    """
    from huggingface_hub import ModelCardData

    base, kind = config.model.path, config.tuning.kind
    is_local = Path(base).is_dir()
    words = trigger_words(config)
    conditions = {"control": config.control, "references": config.references}
    shown = [{"text": one.prompt, "output": {"url": f"{SAMPLES}/{one.file.name}"}} for one in samples]
    task = model.task if config.references is None else "image-to-image"
    told = ModelCardData(
        base_model=None if is_local else base,
        base_model_relation=None if is_local else "finetune" if kind == "full" else "adapter",
        library_name="diffusers",
        pipeline_tag=TAGS_OF_TASKS.get(task, task),
        instance_prompt=words[0] if words else None,
        widget=shown or None,
        tags=[
            "diffusers-training",
            "finetrainers",
            model.adapter.name,
            kind,
            *(tag for tag, condition in conditions.items() if condition is not None),
        ],
        **licence(base, config.model.revision, asks_hub=asks_hub),
    )
    return str(told.to_yaml())


def licence(base: str, revision: str | None, *, asks_hub: bool) -> dict[str, Any]:
    """What the card of the base says of its licence; empty where there is none, or the Hub does not answer."""
    from huggingface_hub import ModelCard, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError
    from yaml import YAMLError

    is_local = Path(base).is_dir()
    try:
        file = (
            Path(base, CARD_FILE)
            if is_local
            else Path(hf_hub_download(base, CARD_FILE, revision=revision, local_files_only=not asks_hub))
        )
        data = ModelCard.load(file, ignore_metadata_errors=True).data
    except (OSError, HfHubHTTPError, ValueError, YAMLError):  # not in the cache, offline, no card, or none that can be read
        return {}
    found = {key: str(value) for key in ("license", "license_name", "license_link") if (value := data.get(key))}
    link = found.get("license_link", "")
    if link and "://" not in link and not is_local:
        found["license_link"] = f"https://huggingface.co/{base}/blob/{revision or 'main'}/{link}"
    return found
