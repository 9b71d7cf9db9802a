"""The settings that make a run fit into a card, as ``finetrainers plan`` proposes them."""

from collections.abc import Callable, Mapping
from typing import Any

from finetrainers.config import Config
from finetrainers.config.syntax import parse_yaml
from finetrainers.errors import ConfigError
from finetrainers.training.auto import settle
from finetrainers.training.init.draft import Draft
from finetrainers.training.plan.gpus import find_gpu
from finetrainers.training.plan.run import Asked, plan

CHOSEN = ("memory", "optimizer", "train")
"""Sections that a proposal may change."""
IDLE: Mapping[str, Mapping[str, Any]] = {"memory": {"preset": "none"}}
"""What it says where nothing is needed."""


def fit_card(draft: Draft, config: Config, card: str, *, items: int, say: Callable[[str], None]) -> str:
    """Write into a draft what a card needs, and return a line on what the run takes there.

    Args:
        draft: Whose ``train.gradient_checkpointing`` the proposal decides.
        config: Of the draft, without that key.
        card: Name of a GPU, or its memory.
        items: That are trained on and held out.
        say: Takes what is being counted.

    Raises:
        ConfigError: If nothing fits.
    """
    gpu = find_gpu(card)
    try:
        found = plan(settle(config, is_new=True).config, Asked(gpu=gpu, items=items, say=say))
    except ConfigError as error:
        raise ConfigError(f"--card: {card}: {str(error).removeprefix('--gpu: ')}") from None
    proposed = parse_yaml(found.proposal or "") or {}
    draft.tree["train"].pop("gradient_checkpointing", None)
    for section in CHOSEN:
        own: Mapping[str, Any] = proposed.get(section) or {}
        before = draft.tree.get(section, IDLE.get(section, {}))
        new = {key: value for key, value in own.items() if before.get(key) != value}
        if new:
            draft.put(section, new)
    largest = max(found.stages, key=lambda stage: stage.allocated or 0)
    told = f"predicted by plan for {gpu.name}: at most {(largest.allocated or 0) / 1e9:.1f} GB ({largest.stage})"
    if found.run.seconds is not None:
        told += f", about {_duration(found.run.seconds)} of training"
    if not found.fits:
        told += ", which is more than may be counted"
    draft.comments["train.gradient_checkpointing"] = told
    draft.comments["memory"] = "what a card of this size needs; docs: Memory"
    return told


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds >= 5400 else f"{max(1, round(seconds / 60))} minutes"
