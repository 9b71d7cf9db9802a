"""What encoding beside training adds to the stages of a run: windows of the cache, chapters, and items in memory."""

from dataclasses import replace

from finetrainers.config import Config
from finetrainers.training.cost import StepCost
from finetrainers.training.plan.figures import Stage
from finetrainers.training.plan.stages import Counted

GB = 10**9


def with_windows(counted: Counted, config: Config, cost: StepCost, cache: int | None) -> Counted:
    """Add to the stages what later windows need and what memory holds, of a set that takes ``cache`` bytes, if known."""
    limit = None if config.cache.max_gb is None else int(config.cache.max_gb * GB)
    has_windows = limit is not None and (cache is None or cache > limit)
    stages = counted.stages
    if has_windows or any(data.stream for data in config.data):
        stages = tuple(_beside_training(stage, counted, cost) for stage in stages)
    if config.cache.encode == "on_the_fly" and limit is not None:
        held = limit if cache is None else min(limit, cache)
        stages = tuple(stage.model_copy(update={"host": stage.host + held}) for stage in stages)
    return replace(counted, stages=stages)


def _beside_training(stage: Stage, counted: Counted, cost: StepCost) -> Stage:
    """Add encoders that are parked between windows; while they encode, the denoiser is parked, and the optimizer stays."""
    text, media = sum(own.weights for own in counted.passes.texts), counted.passes.media.weights
    if stage.stage not in ("encode text", "encode media"):
        parked = text if stage.stage == "validation" else text + media  # whose VAE is counted there
        return stage.model_copy(update={"host": stage.host + parked})
    usage = cost.usage.peak
    states, resting = usage["masters"] + usage["states"], usage["weights"] + usage["trained"]
    parked = cost.host_bytes + resting + (media if stage.stage == "encode text" else text)
    changes = {"host": max(stage.host, parked)}
    if stage.allocated is None or stage.reserved is None:
        return stage.model_copy(update=changes)
    return stage.model_copy(
        update={
            **changes,
            "allocated": stage.allocated + states,
            "reserved": stage.reserved + states,
            "parts": {**stage.parts, "optimizer": stage.parts.get("optimizer", 0) + states},
            "note": "in later windows, beside the optimizer and with the denoiser on the host",
        }
    )
