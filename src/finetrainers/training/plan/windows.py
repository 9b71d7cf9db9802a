"""What encoding beside training adds to the stages of a run: windows of the cache, chapters, and items in memory."""

from dataclasses import replace

from finetrainers.config import Config
from finetrainers.training.cost import StepCost
from finetrainers.training.plan.figures import Stage
from finetrainers.training.plan.stages import Counted, Passes
from finetrainers.training.windows import encodes_again

GB = 10**9


def with_windows(counted: Counted, config: Config, cost: StepCost, cache: int | None) -> Counted:
    """Add to the stages what later windows need and what memory holds, of a set that takes ``cache`` bytes, if known."""
    limit = None if config.cache.max_gb is None else int(config.cache.max_gb * GB)
    is_streamed = any(data.stream for data in config.data)
    has_windows = is_streamed or (limit is not None and (cache is None or cache > limit))
    stages = tuple(_with_parked(stage, counted.passes, config) for stage in counted.stages)
    if has_windows:
        stages = tuple(_beside_training(stage, counted, config, cost) for stage in stages)
    if config.cache.encode == "on_the_fly" and limit is not None:
        held = limit if cache is None else min(limit, cache)
        stages = tuple(stage.model_copy(update={"host": stage.host + held}) for stage in stages)
    return replace(counted, stages=stages)


def _with_parked(stage: Stage, passes: Passes, config: Config) -> Stage:
    """Add what is parked on the host between uses: all that encodes, and what generates beside a denoiser."""
    encodes = encodes_again(config)
    text = _text_bytes(passes, config) if encodes else 0
    media = passes.media.weights if encodes or config.validation.prompts else 0
    images = passes.images if encodes or config.validation.prompts else 0
    if stage.stage == "encode text":
        return stage
    if stage.stage == "encode media":
        return stage.model_copy(update={"host": stage.host + text + images})
    parked = text + images + (0 if stage.stage == "validation" else media)  # whose VAE is counted there
    return stage.model_copy(update={"host": stage.host + parked})


def _text_bytes(passes: Passes, config: Config) -> int:
    """Bytes of text encoders that wait on the host; those that devices share are loaded again each time."""
    return 0 if config.memory.shard_text_encoders else sum(own.weights for own in passes.texts)


def _beside_training(stage: Stage, counted: Counted, config: Config, cost: StepCost) -> Stage:
    """Let later windows be encoded: the denoiser is parked meanwhile, and the optimizer stays."""
    if stage.stage not in ("encode text", "encode media"):
        return stage
    text, media = _text_bytes(counted.passes, config), counted.passes.media.weights
    usage = cost.usage.peak
    states, resting = usage["masters"] + usage["states"], usage["weights"] + usage["trained"]
    parked = cost.host_bytes + resting + counted.passes.images + (media if stage.stage == "encode text" else text)
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
