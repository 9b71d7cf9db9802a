"""What a card and the header of a file both say of a run."""

from pathlib import Path

from finetrainers.config import Config


def base_name(config: Config) -> str:
    """Name the model that was begun from: where it is on this disk is nobody else's business."""
    base = config.model.path
    return Path(base).name if Path(base).is_dir() else base


def trigger_words(config: Config) -> list[str]:
    """What captions of the data sets begin with, each once."""
    return list(dict.fromkeys(data.caption_prefix for data in config.data if data.caption_prefix))


def method_name(config: Config) -> str:
    """What people call what was trained."""
    tuning = config.tuning
    if tuning.kind == "lora":
        return "DoRA" if tuning.dora else "LoRA"
    return {"lokr": "LoKr", "full": "Full-rank fine-tune"}[tuning.kind]
