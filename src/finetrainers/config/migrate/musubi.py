"""Commands of musubi-tuner: ``accelerate launch ... wan_train_network.py --task t2v-1.3B ...``, with a data set TOML."""

import re
from pathlib import Path
from typing import Any

from finetrainers.config.migrate.command import flags, num_processes
from finetrainers.config.migrate.draft import Draft
from finetrainers.config.migrate.musubi_data import put_data, put_prompts
from finetrainers.config.migrate.musubi_keys import IDLE, LOST, UNKNOWN
from finetrainers.config.migrate.shared import (
    Epochs,
    put_adapter,
    put_all_linears,
    put_batch,
    put_levels,
    put_optimizer,
    put_schedule,
    put_swapped,
    put_weights,
)
from finetrainers.config.migrate.values import betas, dtype, integer, number, read_beside, switch, text
from finetrainers.errors import ConfigError

PROGRAM = re.compile(r"(^|/)\w+_train(_network)?\.py$")
WAN = {
    "t2v-1.3B": ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", None),
    "t2v-14B": ("Wan-AI/Wan2.1-T2V-14B-Diffusers", None),
    "t2i-14B": ("Wan-AI/Wan2.1-T2V-14B-Diffusers", None),
    "i2v-14B": ("Wan-AI/Wan2.1-I2V-14B-480P-Diffusers", None),
    "t2v-A14B": ("Wan-AI/Wan2.2-T2V-A14B-Diffusers", "both"),
    "i2v-A14B": ("Wan-AI/Wan2.2-I2V-A14B-Diffusers", "both"),
}
"""Pipelines by ``--task``, and the experts that there are."""
MODELS = {"hv": "hunyuanvideo-community/HunyuanVideo", "flux_kontext": "black-forest-labs/FLUX.1-Kontext-dev"}
"""Pipelines by the beginning of the program's name."""
PLAIN = {
    "seed": ("seed", integer),
    "max_data_loader_n_workers": ("loader.workers", integer),
    "max_grad_norm": ("train.clip_norm", number),
    "network_dropout": ("tuning.dropout", number),
    "huggingface_repo_id": ("hub_repo", text),
}
ATTENTION = {"flash_attn": "flash", "xformers": "xformers", "flash3": "_flash_3_hub"}


def migrate(before: list[str], program: str, after: list[str], folder: Path) -> Draft:
    """Translate the words of a command: those of the launcher, the program, and its options."""
    options = flags(after)
    if "config_file" in options:
        name = str(options.pop("config_file"))
        for key, value in read_beside("config_file", name if name.endswith(".toml") else f"{name}.toml", folder).items():
            options = {**(value if isinstance(value, dict) else {key: value}), **options}
    draft = Draft(options)
    kind = Path(program).name.removesuffix(".py")
    is_kontext = kind.startswith("flux_kontext")
    family = _put_model(draft, kind)
    name = draft.take("output_name", None, text)
    folder_name = draft.take("output_dir", "output", text)
    draft.put("output_dir", f"{folder_name}/{name}" if name else folder_name)
    batch = put_data(draft, folder, references=is_kontext)
    accumulation = draft.take("gradient_accumulation_steps", 1, integer)
    samples = put_batch(
        draft, ("batch_size", batch), ("gradient_accumulation_steps", accumulation), ("num_processes", num_processes(before))
    )
    epochs = Epochs(draft, samples)
    _put_steps(draft, epochs)
    _put_tuning(draft, kind, family)
    _put_levels(draft)
    for theirs, (ours, read) in PLAIN.items():
        draft.move(theirs, ours, read)
    if "hub_repo" in draft.tree:
        draft.put("push_to_hub", True)
        draft.put("hub_private", draft.take("huggingface_repo_visibility", "private", text) != "public")
    _put_optimizer(draft)
    put_prompts(draft, folder, epochs)
    _put_memory(draft)
    _put_kernels(draft)
    _put_tracking(draft)
    draft.settle(IDLE, LOST)
    draft.finish(UNKNOWN)
    return draft


def _put_model(draft: Draft, kind: str) -> str:
    """Write the pipeline, and return its family."""
    head = kind.partition("_train")[0]
    if head == "wan":
        task = draft.take("task", "t2v-14B", text)
        if task not in WAN:
            raise ConfigError(f"task: {task}: there is no such Wan here; there are {', '.join(WAN)}")
        path, expert = WAN[task]
        draft.put("model.path", path, f"the pipeline of {task}; --dit and the others name single files")
        if expert is not None:
            if "dit_high_noise" not in draft.left:
                high = draft.left.get("min_timestep") is not None and number("", draft.left["min_timestep"]) >= 800
                expert = "high_noise" if high else "low_noise"
                draft.differs("dit", draft.left.get("dit"), "is taken for this expert by its noise levels", "model.expert")
            draft.put("model.expert", expert)
        if task == "t2i-14B":
            draft.differs("task", task, "is the same model as t2v-14B; give buckets of one frame")
    elif head in MODELS:
        draft.put("model.path", MODELS[head])
        if head == "flux_kontext":
            draft.put("conditioning.kind", "references")
    else:
        raise ConfigError(
            f"{kind}: there is no such family here; there are wan, hv (HunyuanVideo) and flux_kontext of musubi-tuner's. "
            "Others can be added: see docs/add_a_model.md"
        )
    draft.put("model.dtype", draft.take("mixed_precision", "bfloat16", dtype))
    return {"hv": "hunyuan_video", "flux_kontext": "flux"}.get(head, "wan")


def _put_steps(draft: Draft, epochs: Epochs) -> None:
    """How long to train and when to save, in epochs or in steps."""
    given = draft.take("max_train_epochs", None, integer)
    steps = draft.take("max_train_steps", 1600, integer)
    epochs.put_length("max_train_epochs", given, most=None, default=steps)
    every = draft.take("save_every_n_steps", None, integer)
    every_epochs = draft.take("save_every_n_epochs", None, integer)
    if every is None and every_epochs is not None:
        every = epochs.steps("save_every_n_epochs", every_epochs, "checkpoint.every")
    if every is not None:
        draft.put("checkpoint.every", every)
    keep = draft.take("save_last_n_steps", None, integer)
    if keep is not None:
        number_kept = max(1, keep // (every or keep))
        draft.put("checkpoint.keep_weights", number_kept)
        draft.differs("save_last_n_steps", keep, "saves are counted, not their steps", "checkpoint.keep_weights")


def _put_tuning(draft: Draft, kind: str, family: str) -> None:
    module = draft.take("network_module", None, text)
    if not kind.endswith("_network") or module is None:
        draft.put("tuning.kind", "full")
        return
    ours = {"lokr": "lokr"}.get(module.rpartition(".")[2], "lora")
    if module.rpartition(".")[2] not in ("lokr", "lora", "lora_wan", "lora_flux"):
        draft.lost("network_module", module, "there are lora and lokr here; a lora of the same rank stands in its place")
    put_adapter(
        draft, ours, ("network_dim", draft.take("network_dim", 4, integer)), draft.take("network_alpha", 1.0, number)
    )
    put_all_linears(draft, "network_module", module, family)
    for key, value in _pairs(draft.take("network_args")).items():
        if key == "factor" and ours == "lokr":
            draft.put("tuning.factor", integer("network_args factor", value))
        else:
            draft.lost(f"network_args {key}", value, "see docs/configuration.md#tuning-kind-lora for what adapters have")


def _put_levels(draft: Draft) -> None:
    """Noise levels: what draws them, then the shift."""
    sampling = draft.take("timestep_sampling", "sigma", text)
    shift: Any = draft.take("discrete_flow_shift", 1.0, number)
    scale, scheme = draft.take("sigmoid_scale", 1.0, number), draft.take("weighting_scheme", "none", text)
    mean, std = draft.take("logit_mean", 0.0, number), draft.take("logit_std", 1.0, number)
    mode_scale = draft.take("mode_scale", None, number)
    match sampling:
        case "sigma":
            levels = scheme if scheme in ("logit_normal", "mode") else "uniform"
            put_levels(draft, levels, std, mean, shift)
            if levels == "mode" and mode_scale is not None:
                draft.put("objective.mode_scale", mode_scale)
        case "uniform":
            put_levels(draft, "uniform")
        case "sigmoid":
            put_levels(draft, "logit_normal", scale)
        case "shift":
            put_levels(draft, "logit_normal", scale, shift=shift)
        case "flux_shift":
            put_levels(draft, "logit_normal", scale, shift="resolution")
        case _:
            draft.lost("timestep_sampling", sampling, "there is no such distribution; the family's stands in its place")
    if scheme in ("sigma_sqrt", "cosmap"):
        draft.put("objective.weighting", scheme)


def _put_optimizer(draft: Draft) -> None:
    arguments = _pairs(draft.take("optimizer_args"))
    name = draft.take("optimizer_type", "AdamW", text)
    is_given, has_betas = "learning_rate" in draft.left, "betas" in arguments
    first, second = betas("optimizer_args betas", arguments.pop("betas", "0.9,0.999"))
    settings = {
        "lr": draft.take("learning_rate", 2e-6, number),
        "weight_decay": number("optimizer_args weight_decay", arguments.get("weight_decay", 0.01)),
        "beta1": first,
        "beta2": second,
        "eps": number("optimizer_args eps", arguments.get("eps", 1e-8)),
    }
    origin = {key: f"optimizer_args {key}" if key in arguments else "" for key in settings}
    origin |= dict.fromkeys(("beta1", "beta2"), "optimizer_args betas" if has_betas else "")
    origin["lr"] = "learning_rate" if is_given else ""
    put_optimizer(draft, "optimizer_type", name, settings, origin)
    for key, value in arguments.items():
        if key not in settings:
            draft.lost(f"optimizer_args {key}", value, "see docs/optimizers.md for what each takes")
    warmup = draft.take("lr_warmup_steps", 0, number)
    total = draft.tree["train"].get("steps")
    if total is None and 0 < warmup < 1:
        draft.lost("lr_warmup_steps", warmup, "is a part of steps that are not counted here; write schedule.warmup_steps")
        warmup = 0
    steps = round(warmup * (total or 0)) if 0 < warmup < 1 else int(warmup)
    put_schedule(
        draft,
        "lr_scheduler",
        draft.take("lr_scheduler", "constant", text),
        ("lr_warmup_steps", steps),
        cycles=("lr_scheduler_num_cycles", draft.take("lr_scheduler_num_cycles", None, integer)),
        power=("lr_scheduler_power", draft.take("lr_scheduler_power", None, number)),
    )


def _pairs(arguments: Any) -> dict[str, str]:
    """Read key=value pairs, one or several."""
    listed = arguments if isinstance(arguments, list) else ([arguments] if arguments else [])
    return {key: value for key, _, value in (str(argument).partition("=") for argument in listed)}


def _put_memory(draft: Draft) -> None:
    """Compression, checkpointing and blocks on the host."""
    draft.move("gradient_checkpointing", "train.gradient_checkpointing", switch)
    if draft.take("gradient_checkpointing_cpu_offload", False, switch):
        draft.put("train.gradient_checkpointing", True)
        draft.put("memory.activations", "host")
    is_fp8, is_scaled = draft.take("fp8_base", False, switch), draft.take("fp8_scaled", False, switch)
    if is_fp8 or is_scaled:
        formats = {"True": ("fp8_scaled" if is_scaled else "fp8_e4m3", "")}
        if is_fp8 and is_scaled:
            draft.idle("fp8_base", True, "fp8_scaled says it")
        put_weights(draft, "memory.weights", "fp8_scaled" if is_scaled else "fp8_base", True, formats)
    if draft.take("fp8_llm", False, switch) or draft.take("fp8_t5", False, switch):
        draft.put("memory.text_encoder_weights", "fp8_e4m3")
    draft.move("vae_tiling", "memory.vae_tiling", switch)
    if "vae_spatial_tile_sample_min_size" in draft.left:
        draft.put("memory.vae_tiling", True)
    swapped = draft.take("blocks_to_swap", 0, integer)
    if swapped:
        put_swapped(draft, "blocks_to_swap", swapped)


def _put_kernels(draft: Draft) -> None:
    """Attention, precision of products, and compilation."""
    for flag, backend in ATTENTION.items():
        if draft.take(flag, False, switch):
            draft.put("attention.train", backend)
    if draft.take("cuda_allow_tf32", False, switch):
        draft.put("train.matmul_precision", "high")
    is_compiled = draft.take("compile", False, switch)
    backend = draft.take("dynamo_backend", "no", text)
    if is_compiled or backend.lower() != "no":
        draft.put("compile.kind", "regional")
        own = draft.take("compile_backend", backend.lower() if backend.lower() != "no" else None, text)
        if own is not None:
            draft.put("compile.backend", own)
        if str(draft.take("compile_dynamic", "false")).lower() == "true":
            draft.put("compile.dynamic", True)
        draft.move("compile_cache_size_limit", "compile.max_graphs", integer)
    else:
        draft.settle({key: "nothing is compiled" for key in list(draft.left) if key.startswith(("compile_", "dynamo_"))}, {})


def _put_tracking(draft: Draft) -> None:
    tracker = draft.take("log_with", None, text)
    name = draft.take("log_tracker_name", "finetrainers", text)
    folder = draft.take("logging_dir", None, text)
    if tracker in ("tensorboard", "all") or (folder and tracker is None):
        draft.put("track.tensorboard", True)
    if tracker in ("wandb", "all"):
        draft.put("track.wandb", name)
    if folder is not None:
        draft.differs("logging_dir", folder, "TensorBoard's files are in output_dir", "track.tensorboard")
