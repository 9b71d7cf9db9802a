"""Configurations of SimpleTuner: config.json or config.env, with multidatabackend.json for the data."""

import re
from pathlib import Path
from typing import Any

from finetrainers.config.migrate.command import commands, flags
from finetrainers.config.migrate.draft import Draft
from finetrainers.config.migrate.shared import (
    Epochs,
    need_family,
    put_adapter,
    put_batch,
    put_levels,
    put_optimizer,
    put_schedule,
    put_swapped,
    put_weights,
)
from finetrainers.config.migrate.simpletuner_data import put_data, put_prompts
from finetrainers.config.migrate.simpletuner_keys import ENV, FLAVOURS, IDLE, LOST, UNKNOWN
from finetrainers.config.migrate.values import betas, dtype, integer, number, one_of, read_beside, switch, table, text
from finetrainers.config.syntax import Tree

FAMILIES = {"flux": "flux", "wan": "wan", "ltxvideo": "ltx_video"}
PLAIN = {
    "output_dir": ("output_dir", text, "simpletuner-results"),
    "seed": ("seed", integer, None),
    "revision": ("model.revision", text, None),
    "vae_enable_tiling": ("memory.vae_tiling", switch, None),
    "vae_enable_slicing": ("memory.vae_slicing", switch, None),
    "vae_batch_size": ("cache.batch_size", integer, None),
    "checkpoints_total_limit": ("checkpoint.keep", integer, 5),
    "gradient_checkpointing": ("train.gradient_checkpointing", switch, True),
    "gradient_checkpointing_interval": ("memory.checkpoint_every", integer, None),
    "push_to_hub": ("push_to_hub", switch, None),
}
INT8, FP8 = ("int8", "needs the extra torchao"), ("fp8_scaled", "needs the extra torchao")
FORMATS = {
    "no_change": ("none", ""), "int8-quanto": INT8, "int8-torchao": INT8, "fp8-quanto": FP8, "fp8uz-quanto": FP8,
    "fp8-torchao": FP8, "fp8wo-torchao": FP8, "fp8-native": FP8, "nf4-bnb": ("nf4", "needs the extra bitsandbytes"),
    "int4-quanto": ("nf4", "is 4 bits with other levels; needs the extra bitsandbytes"),
    "int4-torchao": ("nf4", "is 4 bits with other levels; needs the extra bitsandbytes"),
}  # fmt: skip
ATTENTION = {
    "xformers": "xformers",
    "flash-attn": "flash",
    "flash-attn-2": "flash",
    "flash-attn-3": "_flash_3_hub",
    "flash-attn-3-hub": "_flash_3_hub",
    "flash-attn-hub": "flash_hub",
    "flex": "flex",
    "flash-attn-3-varlen": "_flash_3_varlen_hub",
    "cudnn": "_native_cudnn",
    "native-efficient": "_native_efficient",
    "native-flash": "_native_flash",
    "native-math": "_native_math",
    "diffusers": "auto",
}
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
ADDED = ["add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]
FLUX_TARGETS = {
    "all": TARGETS + ADDED,
    "mmdit": TARGETS,
    "context": ADDED,
    "all+ffs": [*TARGETS, *ADDED, "ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"],
}
"""What flux_lora_target adapts."""


def read_env(content: str) -> Tree:
    """Read config.env: variables in capitals, and more options in one of them."""
    found: Tree = {}
    for line in content.splitlines():
        name, has_value, value = line.strip().removeprefix("export ").partition("=")
        if not has_value or name.startswith("#"):
            continue
        value = value.strip().strip("\"'")
        if name.strip("+") == "TRAINER_EXTRA_ARGS":
            words = next(commands(value), [])
            found |= flags([word for word in words if not word.startswith("$")])
        else:
            found[ENV.get(name, name.lower())] = value
    return found


def _plain(tree: Tree) -> Tree:
    return {str(key).lstrip("-").replace("-", "_"): value for key, value in tree.items()}


def processes(tree: Tree) -> int:
    """Devices that it is started on."""
    return integer("num_processes", _plain(tree).get("num_processes", 1))


def migrate(tree: Tree, folder: Path) -> Draft:
    """Translate a configuration, which names that of the data."""
    draft = Draft(_plain(tree))
    for old, new in (("checkpointing_steps", "checkpoint_step_interval"), ("validation_steps", "validation_step_interval")):
        if old in draft.left:
            draft.left.setdefault(new, draft.left.pop(old))
    family = _put_model(draft)
    _put_tuning(draft, family, folder)
    put_data(draft, folder)
    _put_steps(draft)
    for theirs, (ours, read, default) in PLAIN.items():
        draft.move(theirs, ours, read, default)
    _put_levels(draft)
    _put_optimizer(draft)
    _put_memory(draft)
    put_prompts(draft, folder)
    _put_tracking(draft)
    draft.settle(IDLE, LOST)
    draft.finish(UNKNOWN)
    return draft


def _put_model(draft: Draft) -> str:
    name = draft.take("model_family", "", text)
    family = need_family("model_family", name, FAMILIES)
    flavour, path = draft.take("model_flavour", None, text), draft.take("pretrained_model_name_or_path", None, text)
    known = FLAVOURS[name]
    if path is None:
        chosen = flavour or next(iter(known))
        path = known.get(chosen, next(iter(known.values())))
        comment = None if chosen in known else f"model_flavour {chosen} is not known here"
        draft.put("model.path", path, comment or f"model_flavour: {chosen}")
    else:
        draft.put("model.path", path)
        if flavour is not None:
            draft.idle("model_flavour", flavour, "pretrained_model_name_or_path says which")
    if flavour is not None and flavour.endswith(("-high", "-low")):
        draft.put("model.expert", "high_noise" if flavour.endswith("-high") else "low_noise")
    precision = draft.take("mixed_precision", "bf16", text)
    draft.put("model.dtype", dtype("mixed_precision", precision))
    for theirs, component in (
        ("pretrained_transformer_model_name_or_path", "transformer"),
        ("pretrained_vae_model_name_or_path", "vae"),
        ("pretrained_t5_model_name_or_path", "text_encoder_2" if family == "flux" else "text_encoder"),
    ):
        own = draft.take(theirs, None, text)
        if own is not None and own != path:
            draft.put(f"model.components.{component}", {"path": own, "subfolder": component})
        elif own is not None:
            draft.idle(theirs, own, "is the model's own")
    return family


def _put_tuning(draft: Draft, family: str, folder: Path) -> None:
    if draft.take("model_type", "full", one_of("lora", "full")) != "lora":
        draft.put("tuning.kind", "full")
        draft.settle(
            dict.fromkeys(("lora_rank", "lora_alpha", "lora_type", "lora_dropout", "lycoris_config"), "is not read"), {}
        )
        return
    if draft.take("lora_type", "standard", one_of("standard", "lycoris")) == "lycoris":
        _put_lycoris(
            draft, read_beside("lycoris_config", draft.take("lycoris_config", "config/lycoris_config.json", text), folder)
        )
        return
    rank = draft.take("lora_rank", 16, integer)
    put_adapter(draft, "lora", ("lora_rank", rank), draft.take("lora_alpha", float(rank), number))
    draft.move("lora_dropout", "tuning.dropout", number, 0.1)
    if draft.take("use_dora", False, switch):
        draft.put("tuning.dora", True)
    chosen, listed = draft.take("flux_lora_target", "all", text), draft.take("peft_lora_target_modules")
    if family == "flux" and chosen not in FLUX_TARGETS:
        draft.lost("flux_lora_target", chosen, "write tuning.targets, a list of name endings")
    draft.put("tuning.targets", listed or (FLUX_TARGETS.get(chosen, FLUX_TARGETS["all"]) if family == "flux" else TARGETS))


def _put_lycoris(draft: Draft, tree: Tree) -> None:
    inner = Draft(table("lycoris_config", tree))
    algorithm = inner.take("algo", "lokr", text)
    if algorithm not in ("lokr", "lora"):
        draft.lost("lycoris_config algo", algorithm, "there are lora and lokr here; lokr stands in its place")
    whole = inner.take("full_matrix", False, switch)
    rank = 10.0**5 if whole else inner.take("linear_dim", 10000, number)
    alpha = inner.take("linear_alpha", 1.0, number)
    kind = "lora" if algorithm == "lora" else "lokr"
    # with whole matrices nothing is scaled there
    put_adapter(draft, kind, ("lycoris_config linear_dim", rank), rank if whole or rank > 10**4 else alpha)
    if whole:
        draft.idle("lycoris_config linear_alpha", alpha, "full_matrix scales nothing")
    factor = inner.take("factor", None, integer)
    if factor is not None and kind == "lokr":
        draft.put("tuning.factor", factor)
    for key, value in inner.left.items():
        if key == "multiplier" and value == 1:
            draft.idle(f"lycoris_config {key}", value, "is 1")
        else:
            draft.lost(f"lycoris_config {key}", value, "write tuning.targets, and one factor for all modules")


def _put_steps(draft: Draft) -> None:
    accumulation = draft.take("gradient_accumulation_steps", 1, integer)
    devices = draft.take("num_processes", 1, integer)
    context = draft.take("context_parallel_size", 1, integer)
    if context > 1:
        draft.put("parallel.context", context)
    if draft.take("fsdp_enable", False, switch):
        draft.put("parallel.shard", max(1, devices // context))
    batch = draft.take("train_batch_size", 4, integer)
    samples = put_batch(
        draft,
        ("train_batch_size", batch),
        ("gradient_accumulation_steps", accumulation),
        ("num_processes", max(1, devices // context)),
    )
    epochs = Epochs(draft, samples)
    most, given = draft.take("max_train_steps", 0, integer), draft.take("num_train_epochs", 1, integer)
    if most and given:
        draft.idle("num_train_epochs", given, "max_train_steps counts")
    epochs.put_length("num_train_epochs", None if most else given, most=most or None, default=1000)
    every, by_epoch = (
        draft.take("checkpoint_step_interval", None, integer),
        draft.take("checkpoint_epoch_interval", None, integer),
    )
    if every is None and by_epoch:
        every = epochs.steps("checkpoint_epoch_interval", by_epoch, "checkpoint.every")
    draft.put("checkpoint.every", every or 500)
    average, decay = draft.take("use_ema", False, switch), draft.take("ema_decay", 0.995, number)
    if average:
        draft.put("train.ema_decay", decay)


def _put_levels(draft: Draft) -> None:
    scale = draft.take("flow_sigmoid_scale", 1.0, number)
    shift: Any = draft.take("flow_schedule_shift", 3.0, number)
    if draft.take("flow_schedule_auto_shift", False, switch):
        shift = "resolution"
    is_uniform = draft.take("flow_use_uniform_schedule", False, switch)
    put_levels(draft, "uniform" if is_uniform else "logit_normal", scale, shift=shift or 1.0)


def _put_optimizer(draft: Draft) -> None:
    name = draft.take("optimizer", "adamw_bf16", text).partition("+")[0]
    written = draft.take("optimizer_config", "", text)
    own = dict(part.split("=", 1) for part in re.split(r",(?=\w+=)", written) if "=" in part)
    keys = {
        "lr": "learning_rate",
        "weight_decay": "adam_weight_decay",
        "eps": "adam_epsilon",
        "beta1": "adam_beta1",
        "beta2": "adam_beta2",
    }
    defaults = {"lr": 4e-7, "weight_decay": 0.01, "eps": 1e-8, "beta1": 0.9, "beta2": 0.999}
    origin = {ours: theirs if theirs in draft.left else "" for ours, theirs in keys.items()}
    settings: Tree = {ours: draft.take(theirs, defaults[ours], number) for ours, theirs in keys.items()}
    for beta in ("beta1", "beta2"):
        value = draft.take(f"optimizer_{beta}", None, number)
        settings[beta] = settings[beta] if value is None else value
    if "betas" in own:
        settings["beta1"], settings["beta2"] = betas("optimizer_config betas", own.pop("betas"))
        origin |= {"beta1": "optimizer_config betas", "beta2": "optimizer_config betas"}
    for key in ("weight_decay", "eps", "lr"):
        if key in own:
            settings[key], origin[key] = number(key, own.pop(key)), f"optimizer_config {key}"
    put_optimizer(draft, "optimizer", name, settings, origin)
    for key, value in own.items():
        draft.lost(f"optimizer_config {key}", value, "see docs/optimizers.md for what each takes")
    norm, method = draft.take("max_grad_norm", 2.0, number), draft.take("grad_clip_method", "value", one_of("value", "norm"))
    if method == "norm":
        draft.put("train.clip_norm", norm)
    else:
        draft.lost(
            "max_grad_norm", norm, "limits each value there (grad_clip_method: value); train.clip_norm limits the norm"
        )
    schedule = draft.take("lr_scheduler", "constant_with_warmup", text)
    put_schedule(
        draft,
        "lr_scheduler",
        schedule,
        ("lr_warmup_steps", draft.take("lr_warmup_steps", 0, integer)),
        cycles=("lr_num_cycles", draft.take("lr_num_cycles", None, integer)),
        power=("lr_power", draft.take("lr_power", 0.8 if schedule == "polynomial" else None, number)),
    )


def _put_memory(draft: Draft) -> None:
    put_weights(
        draft, "memory.weights", "base_model_precision", draft.take("base_model_precision", "no_change", text), FORMATS
    )
    for index in range(1, 5):
        key = f"text_encoder_{index}_precision"
        value = draft.take(key, None, text)
        if value is not None:
            put_weights(draft, "memory.text_encoder_weights", key, value, FORMATS)
    for key in ("musubi_blocks_to_swap", "ramtorch", "enable_group_offload"):
        value = draft.take(key)
        if value not in (None, 0, False, "false", "0"):
            put_swapped(draft, key, value)
    backend = draft.take("attention_mechanism", "diffusers", text)
    if backend in ATTENTION:
        draft.put("attention.train", ATTENTION[backend])
    else:
        draft.lost(
            "attention_mechanism",
            backend,
            "has no backward pass, or is not there; attention.train: auto chooses the fastest",
        )
    compiled = draft.take("dynamo_backend", "no", text)
    if compiled.lower() not in ("no", ""):
        draft.put("compile.kind", "regional" if draft.take("dynamo_use_regional_compilation", False, switch) else "full")
        draft.put("compile.backend", compiled.lower())
    if draft.take("allow_tf32", False, switch) and not draft.take("disable_tf32", False, switch):
        draft.put("train.matmul_precision", "high")


def _put_tracking(draft: Draft) -> None:
    trackers = draft.take("report_to", "none", text).split(",")
    project = draft.take("tracker_project_name", "simpletuner", text)
    for tracker in trackers:
        match tracker.strip():
            case "wandb":
                draft.put("track.wandb", project)
            case "tensorboard":
                draft.put("track.tensorboard", True)
            case "none":
                pass
            case other:
                draft.lost("report_to", other, "see docs/configuration.md#track for the trackers that there are")
    repo, private = draft.take("hub_model_id", None, text), draft.take("model_card_private", True, switch)
    if draft.tree.get("push_to_hub"):
        draft.put("hub_private", private)
        if repo is not None:
            draft.put("hub_repo", repo)
    else:
        draft.tree.pop("push_to_hub", None)
        if repo is not None:
            draft.idle("hub_model_id", repo, "push_to_hub is off")
