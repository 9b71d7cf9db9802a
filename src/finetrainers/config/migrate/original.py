"""Commands of finetrainers before version 1: ``python train.py --model_name ltx_video ...``."""

import math
import re
from pathlib import Path
from typing import Any

from finetrainers.config.migrate.command import flags
from finetrainers.config.migrate.draft import Draft
from finetrainers.config.migrate.original_data import put_data, put_prompts
from finetrainers.config.migrate.shared import (
    FAMILIES,
    need_family,
    put_batch,
    put_levels,
    put_optimizer,
    put_schedule,
    put_weights,
)
from finetrainers.config.migrate.values import dtype, integer, number, one_of, switch, text, words

PROGRAM = re.compile(r"(^|/)train\.py$")
SCHEMES = ("none", "logit_normal", "mode", "sigma_sqrt", "cosmap")
TRAINING = ("lora", "full-finetune", "control-lora", "control-full-finetune")
PLAIN = {
    "revision": ("model.revision", text),
    "seed": ("seed", integer),
    "precomputation_dir": ("cache.path", text),
    "dataloader_num_workers": ("loader.workers", integer),
    "gradient_checkpointing": ("train.gradient_checkpointing", switch),
    "checkpointing_limit": ("checkpoint.keep", integer),
    "enable_slicing": ("memory.vae_slicing", switch),
    "enable_tiling": ("memory.vae_tiling", switch),
    "max_grad_norm": ("train.clip_norm", number),
    "logging_steps": ("track.every", integer),
    "push_to_hub": ("push_to_hub", switch),
}  # fmt: skip
"""Options that are the same by another name."""
IDLE = {
    "parallel_backend": "any launcher starts the processes",
    "enable_precomputation": "what the frozen encoders make is always cached",
    "precomputation_once": "all items are encoded before training",
    "precomputation_reuse": "a cache is always used again",
    "dataset_shuffle_buffer_size": "each epoch is shuffled as a whole",
    "pin_memory": "batches are pinned where there is a GPU",
    "enable_model_cpu_offload": "encoders and VAE are on the device only while they are used",
    "logging_dir": "all that a run writes is in output_dir",
    "verbose": "events.jsonl holds everything",
    "layerwise_upcasting_skip_modules_pattern": "only the linear layers of blocks are compressed",
}
LOST = {
    "variant": "files without a variant are taken; give a folder with the others as model.path",
    "cache_dir": "set HF_HUB_CACHE in the shell",
    "precomputation_items": "cache.max_gb limits the cache, and encodes in windows where all does not fit",
    "flow_base_seq_len": "the model's scheduler_config.json says it",
    "flow_max_seq_len": "the model's scheduler_config.json says it",
    "flow_base_shift": "the model's scheduler_config.json says it",
    "flow_max_shift": "the model's scheduler_config.json says it",
    "max_data_samples": "train.steps says how long to train",
    "hub_token": "log in with `hf auth login`, or set HF_TOKEN; a token is not part of a configuration",
    "init_timeout": "processes wait for each other for 300 s",
    "nccl_timeout": "a process that is gone ends the others within seconds",
    "beta3": "no optimizer here has a third beta",
    "compile_scopes": "compile.kind says it for the denoiser; nothing else is compiled",
}
"""Options that have no key here, each with what to do."""
COMPONENTS = (
    "tokenizer",
    "tokenizer_2",
    "tokenizer_3",
    "text_encoder",
    "text_encoder_2",
    "text_encoder_3",
    "transformer",
    "vae",
)
FP8 = {"float8_e4m3fn": ("fp8_e4m3", ""), "float8_e5m2": ("fp8_e5m2", "")}


def migrate(_before: list[str], _program: str, after: list[str], folder: Path) -> Draft:
    """Translate the words of a command after ``train.py``."""
    draft = Draft(flags(after))
    kind = draft.take("training_type", "lora", one_of(*TRAINING))
    _put_model(draft)
    draft.put("output_dir", draft.take("output_dir", "finetrainers-training", text))
    put_data(draft, folder)
    accumulation = _put_steps(draft)
    _put_tuning(draft, kind)
    _put_control(draft, kind)
    _put_objective(draft)
    for theirs, (ours, read) in PLAIN.items():
        draft.move(theirs, ours, read)
    _put_optimizer(draft)
    put_prompts(draft, folder, accumulation)
    _put_others(draft)
    _put_tracking(draft)
    draft.settle(IDLE, LOST)
    draft.finish("train.py had no such option; see docs/configuration.md for what there is")
    return draft


def _put_model(draft: Draft) -> None:
    name = draft.take("model_name", None, text)
    draft.put("model.path", draft.take("pretrained_model_name_or_path", "", text))
    draft.put("model.family", need_family("model_name", name or "", {family: family for family in FAMILIES}))
    whole = draft.take("transformer_dtype", "bfloat16", dtype)
    draft.put("model.dtype", whole)
    for component in COMPONENTS:
        path = draft.take(f"{component}_id", None, text)
        if path is not None:
            draft.put(f"model.components.{component}.path", path)
        own = draft.take(f"{component}_dtype", None, dtype) if component != "transformer" else None
        if own is not None:
            draft.put(f"model.components.{component}.dtype", own)


def _put_steps(draft: Draft) -> int:
    """Write how long to train; steps were micro-batches: return how many an optimizer step had."""
    accumulation: int = draft.take("gradient_accumulation_steps", 1, integer)
    replicate, shard, context = (draft.take(key, 1, integer) for key in ("dp_degree", "dp_shards", "cp_degree"))
    for key, value in (("parallel.replicate", replicate), ("parallel.shard", shard), ("parallel.context", context)):
        if replicate * shard * context > 1:
            draft.put(key, value)
    for key in ("pp_degree", "tp_degree"):
        value = draft.take(key, 1, integer)
        if value > 1:
            draft.lost(key, value, "layers and matrices are not divided among devices; raise parallel.shard instead")
        else:
            draft.idle(key, value, "is off")
    if shard > 1:
        draft.differs("dp_shards", shard, "shards saw the same samples; here each trains on its own", "parallel.shard")
    batch = draft.take("batch_size", 1, integer)
    put_batch(draft, ("batch_size", batch), ("gradient_accumulation_steps", accumulation), ("devices", replicate * shard))
    counted = {"train_steps": ("train.steps", 1000), "checkpointing_steps": ("checkpoint.every", 500)}
    for key, (ours, default) in counted.items():
        steps = draft.move(key, ours, integer, default)
        if accumulation > 1:
            draft.put(ours, math.ceil(steps / accumulation))
            draft.differs(key, steps, f"counted micro-batches, of which an optimizer step has {accumulation}", ours)
    return accumulation


def _put_tuning(draft: Draft, kind: str) -> None:
    if kind.endswith("full-finetune"):
        draft.put("tuning.kind", "full")
        draft.settle({key: f"{kind} has no adapter" for key in ("rank", "lora_alpha", "target_modules")}, {})
        return
    draft.put("tuning.kind", "lora")
    draft.move("rank", "tuning.rank", integer, 64)
    draft.move("lora_alpha", "tuning.alpha", number, 64)
    targets = draft.take("target_modules")
    if targets is not None:
        draft.put("tuning.targets", targets)


def _put_control(draft: Draft, kind: str) -> None:
    """The signal and the frames of it that are shown."""
    if not kind.startswith("control"):
        return
    signal = draft.take("control_type", "canny", one_of("canny", "custom", "none"))
    draft.put("conditioning.kind", "channel_concat")
    draft.put("conditioning.signal", {"none": "identity", "custom": "files"}.get(signal, signal))
    frames = draft.take("frame_conditioning_type", "index" if "wan" in draft.tree["model"]["family"] else "full", text)
    draft.put("conditioning.frames", frames)
    index = draft.take("frame_conditioning_index", None, integer)
    if index is not None and frames == "index":
        draft.put("conditioning.frame_index", index)
    elif index is not None:
        draft.idle("frame_conditioning_index", index, f"frame_conditioning_type {frames} does not read it")
    draft.move("frame_conditioning_concatenate_mask", "conditioning.mask", switch)
    draft.move("train_qk_norm", "conditioning.train_norms", switch)


def _put_objective(draft: Draft) -> None:
    scheme = draft.take("flow_weighting_scheme", "none", one_of(*SCHEMES))
    mean = draft.take("flow_logit_mean", None, number)
    std = draft.take("flow_logit_std", None, number)
    mode_scale = draft.take("flow_mode_scale", None, number)
    shift: Any = draft.take("flow_shift", 1.0, number)
    if draft.take("flow_resolution_shifting", False, switch):
        shift = "resolution"
        draft.differs("flow_resolution_shifting", True, "was read and had no effect there", "objective.shift")
    levels = scheme if scheme in ("logit_normal", "mode") else "uniform"
    put_levels(draft, levels, 1.0 if std is None else std, mean or 0.0, shift)
    if levels == "mode" and mode_scale is not None:
        draft.put("objective.mode_scale", mode_scale)
    elif mode_scale is not None:
        draft.idle("flow_mode_scale", mode_scale, f"flow_weighting_scheme {scheme} does not read it")
    if levels != "logit_normal":
        for key, value in (("flow_logit_mean", mean), ("flow_logit_std", std)):
            if value is not None:
                draft.idle(key, value, f"flow_weighting_scheme {scheme} does not read it")
    if scheme in ("sigma_sqrt", "cosmap"):
        draft.put("objective.weighting", scheme)


def _put_optimizer(draft: Draft) -> None:
    keys = {"lr": "lr", "weight_decay": "weight_decay", "beta1": "beta1", "beta2": "beta2", "eps": "epsilon"}
    defaults = {"lr": 1e-4, "weight_decay": 1e-4, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8}
    origin = {ours: theirs if theirs in draft.left else "" for ours, theirs in keys.items()}
    settings = {ours: draft.take(theirs, defaults[ours], number) for ours, theirs in keys.items()}
    put_optimizer(draft, "optimizer", draft.take("optimizer", "adam", text), settings, origin)
    name = draft.take("lr_scheduler", "constant", text)
    warmup = draft.take("lr_warmup_steps", 500 if name != "constant" else 0, integer)
    cycles, power = draft.take("lr_num_cycles", None, integer), draft.take("lr_power", None, number)
    put_schedule(
        draft, "lr_scheduler", name, ("lr_warmup_steps", warmup), cycles=("lr_num_cycles", cycles), power=("lr_power", power)
    )


def _put_others(draft: Draft) -> None:
    """Compression, compilation and attention."""
    storage = draft.take("layerwise_upcasting_storage_dtype", "float8_e4m3fn", text)
    if draft.take("layerwise_upcasting_modules", None, one_of("transformer")) is not None:
        put_weights(draft, "memory.weights", "layerwise_upcasting_storage_dtype", storage, FP8)
    compiled = words("", draft.take("compile_modules") or [])
    scopes = words("", draft.left.pop("compile_scopes", None) or ["regional"]) if compiled else []
    if "transformer" in compiled:
        draft.put("compile.kind", scopes[min(compiled.index("transformer"), len(scopes) - 1)])
    for module in compiled:
        if module != "transformer":
            draft.lost("compile_modules", module, "only the denoiser is compiled")
    if draft.take("allow_tf32", False, switch):
        draft.put("train.matmul_precision", "high")
    draft.move("float32_matmul_precision", "train.matmul_precision", text)
    for key, ours in (("attn_provider_training", "attention.train"), ("attn_provider_inference", "attention.validate")):
        for given in words("", draft.take(key) or []):
            component, _, backend = given.rpartition(":")
            if component in ("", "transformer"):
                draft.put(ours, backend)
            else:
                draft.lost(key, given, "only the denoiser's attention is chosen")


def _put_tracking(draft: Draft) -> None:
    """Trackers, the Hub, and what a run would go on from."""
    tracker = draft.take("tracker_name", "finetrainers", text)
    if draft.take("report_to", "none", one_of("none", "wandb")) == "wandb":
        draft.put("track.wandb", tracker)
    elif tracker != "finetrainers":
        draft.idle("tracker_name", tracker, "report_to none tracks nothing; events.jsonl is always written")
    repo = draft.take("hub_model_id", None, text)
    if repo is not None and draft.tree.get("push_to_hub"):
        draft.put("hub_repo", repo)
    elif repo is not None:
        draft.idle("hub_model_id", repo, "push_to_hub is not given")
    resumed = draft.take("resume_from_checkpoint", None, text)
    if resumed is not None:
        draft.lost("resume_from_checkpoint", resumed, "checkpoints of train.py are not read; a run here resumes by itself")
