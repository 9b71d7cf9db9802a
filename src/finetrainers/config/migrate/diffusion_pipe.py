"""Configurations of diffusion-pipe: TOML, with another TOML for the data."""

import re
from pathlib import Path
from typing import Any

from finetrainers.config.migrate.diffusion_pipe_data import put_data
from finetrainers.config.migrate.diffusion_pipe_keys import IDLE, LOST, UNKNOWN
from finetrainers.config.migrate.draft import Draft
from finetrainers.config.migrate.shared import (
    Epochs,
    need_family,
    put_adapter,
    put_all_linears,
    put_batch,
    put_levels,
    put_optimizer,
    put_schedule,
    put_swapped,
    put_weights,
)
from finetrainers.config.migrate.values import betas, dtype, integer, lists, number, one_of, read_beside, switch, text
from finetrainers.config.syntax import Tree

FAMILIES = {"flux": "flux", "ltx-video": "ltx_video", "hunyuan-video": "hunyuan_video", "wan": "wan"}
WAN = (
    "Wan2.1-T2V-1.3B", "Wan2.1-T2V-14B", "Wan2.1-I2V-14B-480P", "Wan2.1-I2V-14B-720P", "Wan2.1-FLF2V-14B-720P",
    "Wan2.2-T2V-A14B", "Wan2.2-I2V-A14B", "Wan2.2-TI2V-5B",
)  # fmt: skip
"""Folders of the authors' checkpoints that are on the Hub in diffusers layout, too."""
EVERY = ("steps", "epochs", "examples")
FORMATS = {
    "float8": ("fp8_e4m3", ""), "float8_e4m3fn": ("fp8_e4m3", ""), "float8_e5m2": ("fp8_e5m2", ""), "nf4": ("nf4", ""),
    "bfloat16": ("none", ""), "float16": ("none", ""), "float32": ("none", ""),
}  # fmt: skip


def migrate(tree: Tree, folder: Path) -> Draft:
    """Translate a main configuration, which names that of the data."""
    draft = Draft(tree)
    family = _put_model(draft)
    draft.put("output_dir", draft.take("output_dir", "output", text))
    put_data(draft, read_beside("dataset", draft.take("dataset", "dataset.toml", text), folder), family)
    samples = _put_batch(draft)
    epochs = Epochs(draft, samples)
    _put_steps(draft, epochs, samples, folder, family)
    if any(key.startswith("adapter.") for key in draft.left):
        _put_adapter(draft, family)
    else:
        draft.put("tuning.kind", "full")
    _put_levels(draft)
    _put_optimizer(draft)
    _put_memory(draft)
    _put_clips(draft)
    _put_tracking(draft)
    draft.settle(IDLE, LOST)
    draft.finish(UNKNOWN)
    return draft


def _put_model(draft: Draft) -> str:
    family = need_family("model.type", draft.take("model.type", "", text), FAMILIES)
    diffusers, ckpt = draft.take("model.diffusers_path", None, text), draft.take("model.ckpt_path", None, text)
    if diffusers is not None:
        draft.put("model.path", diffusers)
    elif family == "wan" and ckpt is not None:
        name = Path(ckpt).name
        known = name if name in WAN else "Wan2.1-T2V-1.3B"
        suffix = "-diffusers" if "FLF2V" in known else "-Diffusers"
        draft.put("model.path", f"Wan-AI/{known}{suffix}")
        draft.differs("model.ckpt_path", ckpt, "the authors' layout is not read; this is in diffusers layout", "model.path")
    else:
        draft.put("model.path", "hunyuanvideo-community/HunyuanVideo")
        draft.differs("model.ckpt_path", ckpt, "the authors' layout is not read; this is in diffusers layout", "model.path")
    draft.put("model.dtype", draft.take("model.dtype", "bfloat16", dtype))
    low, high = draft.take("model.min_t", None, number), draft.take("model.max_t", None, number)
    if (low is not None or high is not None) and "A14B" in draft.tree["model"]["path"]:
        draft.put("model.expert", "low_noise" if high is not None and high < 1 else "high_noise")
        draft.differs("model.min_t, model.max_t", [low, high], "the expert has the range of its pipeline", "model.expert")
    else:
        for key, value in (("model.min_t", low), ("model.max_t", high)):
            if value is not None:
                draft.lost(key, value, "noise levels are not cut")
    first = draft.take("model.first_frame_conditioning_p", 0.0, number)
    if first:
        draft.put("conditioning", {"kind": "given_frames", "frames": "first", "probability": first})
    return family


def _put_batch(draft: Draft) -> int:
    batch = draft.take("micro_batch_size_per_gpu", 1)
    if isinstance(batch, list):
        draft.lost("micro_batch_size_per_gpu", batch, "all buckets have one batch size here; the smallest is taken")
        batch = min(size for _, size in lists("micro_batch_size_per_gpu", batch, lengths=(2,)))
    accumulation = draft.take("gradient_accumulation_steps", 1, integer)
    stages = draft.take("pipeline_stages", 1, integer)
    if stages > 1:
        draft.lost("pipeline_stages", stages, "layers are not divided among devices; parallel.shard divides weights")
    return put_batch(
        draft,
        ("micro_batch_size_per_gpu", integer("micro_batch_size_per_gpu", batch)),
        ("gradient_accumulation_steps", accumulation),
        ("GPUs, which deepspeed's command says: one is assumed", 1),
    )


def _put_steps(draft: Draft, epochs: Epochs, samples: int, folder: Path, family: str) -> None:
    """How long to train, and when to save and to measure."""
    given, most = draft.take("epochs", None, integer), draft.take("max_steps", None, integer)
    epochs.put_length("epochs", given, most=most, default=1000)
    every = _every(draft, "save_every_n", epochs, samples, "checkpoint.every")
    if every is not None:
        draft.put("checkpoint.every", every)
    measured = _every(draft, "eval_every_n", epochs, samples, "validation.every")
    for number_of in range(draft.count("eval_datasets")):
        name = draft.take(f"eval_datasets.{number_of}.name", "", text)
        file = draft.take(f"eval_datasets.{number_of}.config", "", text)
        put_data(draft, read_beside("eval_datasets", file, folder), family, section="validation.data")
        draft.idle(f"eval_datasets.{number_of}.name", name, "held-out sets are measured together")
    if measured is not None and "validation" in draft.tree:
        draft.put("validation.every", measured)
    elif measured is not None:
        draft.idle("eval_every_n_...", measured, "there are no eval_datasets; validation.held_out keeps samples for it")


def _every(draft: Draft, key: str, epochs: Epochs, samples: int, ours: str) -> int | None:
    """Steps between two of what is given every so many steps, epochs or examples: the first that is given."""
    found = {unit: draft.take(f"{key}_{unit}", None, integer) for unit in EVERY}
    if found["steps"] is not None:
        return int(found["steps"])
    if found["examples"] is not None:
        draft.differs(f"{key}_examples", found["examples"], f"{samples} samples are a step", ours)
        return max(1, int(found["examples"]) // samples)
    return None if found["epochs"] is None else epochs.steps(f"{key}_epochs", found["epochs"], ours)


def _put_adapter(draft: Draft, family: str) -> None:
    kind = draft.take("adapter.type", "lora", one_of("lora", "lokr"))
    rank = draft.take("adapter.rank", 32, number)
    put_adapter(draft, kind, ("adapter.rank", rank), rank)
    put_all_linears(draft, "adapter.type", kind, family)
    draft.move("adapter.dropout", "tuning.dropout", number)
    if kind == "lokr":
        draft.move("adapter.decompose_factor", "tuning.factor", integer)


def _put_levels(draft: Draft) -> None:
    method = draft.take("model.timestep_sample_method", "logit_normal", one_of("logit_normal", "uniform"))
    scale, shift = draft.take("model.sigmoid_scale", 1.0, number), draft.take("model.shift", None, number)
    by_size = draft.take("model.flux_shift", False, switch)
    levels = "uniform" if method == "uniform" else "logit_normal"
    put_levels(draft, levels, scale, shift=shift if shift is not None else "resolution" if by_size else 1.0)


def _put_optimizer(draft: Draft) -> None:
    name = draft.take("optimizer.type", "adamw_optimi", text)
    first, second = draft.take("optimizer.betas", (0.9, 0.99 if name.lower() == "adamw_optimi" else 0.999), betas)
    keys = {"lr": "lr", "weight_decay": "weight_decay", "eps": "eps", "beta1": "betas", "beta2": "betas"}
    origin = {ours: f"optimizer.{key}" if f"optimizer.{key}" in draft.left else "" for ours, key in keys.items()}
    defaults = {"lr": 1e-3, "weight_decay": 0.01, "eps": 1e-8}
    forced = draft.take("force_constant_lr", None, number)
    settings: dict[str, Any] = {key: draft.take(f"optimizer.{key}", value, number) for key, value in defaults.items()}
    settings |= {"lr": forced or settings["lr"], "beta1": first, "beta2": second}
    put_optimizer(
        draft,
        "optimizer.type",
        name,
        settings,
        origin | {"beta1": "optimizer.betas", "beta2": "optimizer.betas"},
        registry=True,
    )
    draft.move("gradient_clipping", "train.clip_norm", number, 1.0)
    if draft.take("optimizer.gradient_release", False, switch):
        if draft.tree["train"]["batch_size"] == draft.tree["train"]["micro_batch_size"]:
            draft.put("optimizer.in_backward", True)
            draft.put("train.clip_norm", float("inf"), "gradient_release clips nothing")
        else:
            draft.lost("optimizer.gradient_release", True, "optimizer.in_backward needs a batch of one micro-batch")
    draft.settle({"optimizer.stabilize": "is off"} if not draft.left.get("optimizer.stabilize") else {}, {})
    warmup = draft.take("warmup_steps", 0, integer)
    put_schedule(draft, "lr_scheduler", draft.take("lr_scheduler", "constant_with_warmup", text), ("warmup_steps", warmup))


def _put_memory(draft: Draft) -> None:
    checkpointing = draft.take("activation_checkpointing", False)
    if checkpointing:
        draft.put("train.gradient_checkpointing", True)
    if checkpointing == "unsloth":
        draft.put("memory.activations", "host")
    for key in ("model.transformer_dtype", "model.diffusion_model_dtype"):
        resting = draft.take(key, None, text)
        if resting is not None:
            put_weights(draft, "memory.weights", key, resting, FORMATS)
    swapped = draft.take("blocks_to_swap", 0, integer)
    if swapped:
        put_swapped(draft, "blocks_to_swap", swapped)
    draft.move("caching_batch_size", "cache.batch_size", integer)
    if draft.take("compile", False, switch):
        draft.put("compile.kind", "regional")


def _put_clips(draft: Draft) -> None:
    """Which frames of a clip are taken."""
    mode = draft.take("video_clip_mode", "single_beginning", text)
    sampling = {"single_beginning": "start", "single_middle": "middle"}.get(re.sub(r"\s", "", mode))
    for number_of in range(len(draft.tree["data"])):
        if sampling == "middle":
            draft.put(f"data.{number_of}.frame_sampling", sampling)
    if sampling is None:
        draft.lost("video_clip_mode", mode, "see data.N.frame_sampling: chunks takes all consecutive windows")


def _put_tracking(draft: Draft) -> None:
    if draft.take("monitoring.enable_wandb", False, switch):
        draft.put("track.wandb", draft.take("monitoring.wandb_tracker_name", "finetrainers", text))
    else:
        draft.settle({key: "wandb is off" for key in list(draft.left) if key.startswith("monitoring.")}, {})
