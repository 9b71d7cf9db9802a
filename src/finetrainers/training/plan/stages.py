"""What each stage of a run takes of the GPU's memory and of the host's."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from finetrainers.config import Bucket, Config, MemoryConfig
from finetrainers.memory.allocator import reserved_bytes
from finetrainers.memory.meta import fused_attention
from finetrainers.memory.meter import Category, Meter, Usage
from finetrainers.memory.work import Work
from finetrainers.models import Model
from finetrainers.training.cost import StepCost, build_meta_trainer
from finetrainers.training.plan.encoders import (
    Pass,
    decode_media,
    encode_media,
    image_bytes,
    text_passes,
    unknown_encoders,
)
from finetrainers.training.plan.figures import Stage
from finetrainers.training.synthetic import synthetic_batch

NAMES: dict[Category, str] = {
    "weights": "weights",
    "trained": "weights",
    "masters": "optimizer",
    "states": "optimizer",
    "gradients": "gradients",
    "activations": "activations",
    "temporaries": "temporary",
}
"""What a plan calls what the meter tells apart."""
RESTING: tuple[Category, ...] = ("weights", "trained", "masters", "states")
"""What is on the device between two steps."""


@dataclass(frozen=True, slots=True)
class Passes:
    """What a run computes besides its steps."""

    memory: MemoryConfig
    """By which they were counted."""
    texts: tuple[Pass, ...]
    media: Pass
    decode: Pass
    denoise: tuple[Usage, Work, int]
    images: int
    """Bytes of what encodes images."""

    @classmethod
    def of(cls, config: Config, model: Model, bucket: Bucket, before: "Passes | None" = None) -> "Passes":
        """Count them; what the keys of ``memory`` leave as it was before is not counted again."""
        texts, vae = ("text_encoder_weights",), ("vae_tiling", "vae_slicing")
        if before is None or not _is_same(before.memory, config.memory, vae):
            media, decode = encode_media(config, model, bucket), decode_media(config, model, bucket)
        else:
            media, decode = before.media, before.decode
        return cls(
            config.memory,
            before.texts
            if before is not None and _is_same(before.memory, config.memory, texts)
            else tuple(text_passes(config, model)),
            media,
            decode,
            _denoise(config, model, bucket) if before is None else before.denoise,
            image_bytes(model) if before is None else before.images,
        )


def _is_same(one: MemoryConfig, other: MemoryConfig, keys: tuple[str, ...]) -> bool:
    return all(getattr(one, key) == getattr(other, key) for key in keys)


@dataclass(frozen=True, slots=True)
class Counted:
    """All stages of a run, and what they compute."""

    stages: tuple[Stage, ...]
    passes: Passes
    encode_text: Work
    """Of what is encoded at once; nothing where no text encoder was counted."""
    encode_media: Work
    denoise: Work
    """One pass of the denoiser that generates one sample."""
    decode: Work


def count_stages(config: Config, model: Model, cost: StepCost, passes: Passes, *, processes: int = 1) -> Counted:
    """Put together all stages of a run of so many processes, of which a step and all else that it computes are counted."""
    texts, media = passes.texts, passes.media
    if config.memory.shard_text_encoders and processes > 1:
        texts = tuple(own.shared(processes) for own in texts)
    stages = [
        text_stage(texts, unknown_encoders(model)),
        _pass_stage("encode media", media),
        _load_stage(config, model, cost),
        _step_stage(cost),
    ]
    if config.validation.prompts or config.validation.has_held_out or config.validation.items:
        stages.append(_validation_stage(config, cost, passes.denoise, passes.decode))
    stages.append(_save_stage(cost))
    work = Work()
    for own in texts:
        work.add(own.work)
    return Counted(tuple(stages), passes, work, media.work, passes.denoise[1], passes.decode.work)


def parts_of(usage: Usage) -> dict[str, int]:
    """Bytes by category, as a plan names them."""
    found: dict[str, int] = {}
    for category, num_bytes in usage.peak.items():
        if num_bytes:
            found[NAMES[category]] = found.get(NAMES[category], 0) + num_bytes
    return found


def text_stage(texts: Sequence[Pass], unknown: Sequence[str]) -> Stage:
    """Put together what encoding captions takes, and name the encoders that nobody can count."""
    without = f"not counted: {', '.join(unknown)}, of which the model's folder has no config.json" if unknown else ""
    if not texts:
        note = without or "the model has no text encoder"
        return Stage(stage="encode text", allocated=None, reserved=None, parts={}, host=0, note=note)
    # All of them are on the device together, while one computes.
    largest = max(texts, key=lambda own: own.usage.peak_bytes - own.weights)
    others = sum(own.weights for own in texts) - largest.weights
    parts = parts_of(largest.usage)
    parts["weights"] += others
    return Stage(
        stage="encode text",
        allocated=largest.usage.peak_bytes + others,
        reserved=largest.reserved + others,
        parts=parts,
        host=max(own.read for own in texts),
        note="; ".join(note for note in ("read onto the host first", without) if note),
    )


def _pass_stage(name: str, own: Pass) -> Stage:
    assert name == "encode media"
    return Stage(
        stage="encode media",
        allocated=own.usage.peak_bytes,
        reserved=own.reserved,
        parts=parts_of(own.usage),
        host=own.weights,
        note="",
    )


def _load_stage(config: Config, model: Model, cost: StepCost) -> Stage:
    resting: dict[Category, int] = {own: cost.usage.peak[own] for own in RESTING if own != "states"}
    parts = parts_of(Usage(resting, 0))
    shell = model.pretrained.shell(model.denoisers.trained[0])
    largest = max(own.nbytes for own in shell.parameters())
    total = sum(parts.values()) + (largest if config.memory.weights != "none" else 0)
    return Stage(
        stage="load",
        allocated=total,
        reserved=total,
        parts=parts,
        host=cost.host_bytes + largest,
        note="tensor by tensor",
    )


def _step_stage(cost: StepCost) -> Stage:
    return Stage(
        stage="step",
        allocated=cost.peak_bytes,
        reserved=cost.reserved_bytes,
        parts=parts_of(cost.usage),
        host=cost.host_bytes,
    )


def _denoise(config: Config, model: Model, bucket: Bucket) -> tuple[Usage, Work, int]:
    """Count a pass without gradients; pipelines that take a negative prompt may ask for two samples at once."""
    trainer, meter = build_meta_trainer(config.model_copy(update={"attention": type(config.attention)()}), model), Meter()
    rows = 2 if model.adapter.text.has_negative_prompt else 1
    batch = synthetic_batch(config, model, bucket, rows, device=torch.device("cpu"))
    meter.label("weights", [*trainer.denoiser.parameters(), *trainer.denoiser.buffers()])
    meter.label("host", trainer.update.parameters)
    meter.label("trained", [own for own in trainer.denoiser.parameters() if own.requires_grad])
    with torch.random.fork_rng(devices=[]), torch.no_grad(), fused_attention(), meter:
        trainer.micro_losses(trainer.on_device(batch))
    return meter.usage(), meter.work, reserved_bytes(meter.history())


def _validation_stage(config: Config, cost: StepCost, denoise: tuple[Usage, Work, int], decode: Pass) -> Stage:
    states = cost.usage.peak["masters"] + cost.usage.peak["states"]  # these stay while the denoiser makes way for the VAE
    usage, _, reserved = denoise
    drawing, decoding = usage.peak_bytes + states, decode.usage.peak_bytes + states
    is_decoding = decoding > drawing and config.validation.prompts is not None
    own, held = (decode.usage, decode.reserved) if is_decoding else (usage, reserved)
    parts = parts_of(own)
    parts["optimizer"] = parts.get("optimizer", 0) + states
    resting = cost.usage.peak["weights"] + cost.usage.peak["trained"]
    return Stage(
        stage="validation",
        allocated=own.peak_bytes + states,
        reserved=held + states,
        parts=parts,
        host=cost.host_bytes + (decode.weights if not is_decoding else resting),
        note="while the VAE decodes" if is_decoding else "while the denoiser computes",
    )


def _save_stage(cost: StepCost) -> Stage:
    parts = parts_of(Usage({category: cost.usage.peak[category] for category in RESTING}, 0))
    total = sum(parts.values())
    return Stage(
        stage="save",
        allocated=total,
        reserved=cost.reserved_bytes,
        parts=parts,
        host=cost.host_bytes + cost.state_bytes,
        note="copied to the host, and written from there",
    )
