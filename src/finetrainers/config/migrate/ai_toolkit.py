"""Configurations of ai-toolkit: one YAML file (or JSON) with a job and its process."""

from finetrainers.config.migrate.ai_toolkit_data import put_data, put_prompts
from finetrainers.config.migrate.ai_toolkit_keys import IDLE, LOST, NOT_DEFAULT
from finetrainers.config.migrate.draft import Draft
from finetrainers.config.migrate.shared import (
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
from finetrainers.config.migrate.values import betas, dtype, integer, number, switch, tables, text
from finetrainers.config.syntax import Tree
from finetrainers.errors import ConfigError

PROCESSES = ("sd_trainer", "diffusion_trainer", "ui_trainer")
FAMILIES = {
    "flux": "flux", "flux_kontext": "flux", "wan21": "wan", "wan21_i2v": "wan", "wan22_14b": "wan", "wan22_14b_i2v": "wan",
    "wan22_5b": "wan", "cogview4": "cogview4", "ltx": "ltx_video", "hunyuan_video": "hunyuan_video",
}  # fmt: skip
SCALED = "has a scale for each row here; needs the extra torchao"
FORMATS = {
    "qfloat8": ("fp8_scaled", SCALED), "float8": ("fp8_scaled", SCALED), "qint8": ("int8", SCALED), "int8": ("int8", SCALED),
    "uint8": ("int8", SCALED), "qint4": ("nf4", "needs the extra bitsandbytes"),
    "uint4": ("nf4", "needs the extra bitsandbytes"), "nf4": ("nf4", "needs the extra bitsandbytes"),
}  # fmt: skip
PLAIN = {
    "save.save_every": ("checkpoint.every", integer, 1000),
    "save.push_to_hub": ("push_to_hub", switch, None),
    "train.max_grad_norm": ("train.clip_norm", number, None),
    "network.dropout": ("tuning.dropout", number, None),
    "training_seed": ("seed", integer, None),
    "logging.log_every": ("track.every", integer, None),
}


def migrate(tree: Tree) -> Draft:
    """Translate a job: of several processes the first."""
    job = dict(tree["config"])
    processes = tables("config.process", job.pop("process"))
    if not processes or processes[0].get("type") not in PROCESSES:
        raise ConfigError(f"config.process: expected a process of type {' or '.join(PROCESSES)}; others are not training")
    others = {key: value for key, value in tree.items() if key != "config"}
    draft = Draft({**processes[0], **others})
    for key in ("job", "type"):
        draft.idle(key, draft.take(key), "finetrainers train does it")
    for number_of, process in enumerate(processes[1:], 1):
        draft.lost(
            f"process.{number_of}", process.get("type"), "a configuration is of one run; put it into a file of its own"
        )
    draft.put("output_dir", f"{draft.take('training_folder', 'output', text)}/{job.pop('name', 'run')}")
    for key, value in job.items():
        draft.lost(f"config.{key}", value, "is not known here")
    family, is_edit = _put_model(draft)
    _put_network(draft, family)
    _put_steps(draft)
    put_data(draft, is_edit=is_edit)
    _put_levels(draft, family)
    _put_optimizer(draft)
    for theirs, (ours, read, default) in PLAIN.items():
        draft.move(theirs, ours, read, default)
    put_prompts(draft)
    _put_memory(draft)
    _put_others(draft)
    for key, (neutral, reason) in NOT_DEFAULT.items():
        if key in draft.left and draft.left[key] not in neutral:
            draft.lost(key, draft.left.pop(key), reason)
    draft.settle(IDLE, LOST)
    draft.finish("is not known here; see docs/configuration.md for what there is")
    return draft


def _put_model(draft: Draft) -> tuple[str, bool]:
    """Write the pipeline; return its family, and whether it edits pictures."""
    old = next((key for key in list(draft.left) if key.startswith("model.is_") and draft.left[key] is True), None)
    arch = draft.take("model.arch", old.removeprefix("model.is_") if old else "sd1", text).partition(":")[0]
    family = need_family("model.arch", arch, FAMILIES)
    for key in [key for key in draft.left if key.startswith("model.is_")]:
        draft.idle(key, draft.left.pop(key), "model_index.json tells the family")
    draft.put("model.path", draft.take("model.name_or_path", "", text))
    draft.put("model.dtype", draft.take("train.dtype", "float32", dtype))
    vae = draft.take("model.vae_path", None, text)
    if vae is not None:
        draft.put("model.components.vae.path", vae)
    for theirs, component in (("model.vae_dtype", "vae"), ("model.te_dtype", "text_encoder")):
        own = draft.take(theirs, None, dtype)
        if own is not None:
            draft.put(f"model.components.{component}.dtype", own)
    high, low = (draft.take(f"model.model_kwargs.train_{name}_noise", None, switch) for name in ("high", "low"))
    if arch.startswith("wan22_14b"):
        both = (high is None or high) and (low is None or low)
        draft.put("model.expert", "both" if both else "high_noise" if high else "low_noise")
    return family, arch == "flux_kontext"


def _put_network(draft: Draft, family: str) -> None:
    if not any(key.startswith("network.") for key in draft.left):
        draft.put("tuning.kind", "full")
        return
    kind = draft.take("network.type", "lora", text).lower()
    rank = draft.take("network.rank", None, number)
    linear = draft.take("network.linear", 4, number)
    plain_alpha = draft.take("network.alpha", 1.0, number)
    alpha = draft.take("network.linear_alpha", plain_alpha, number)
    rank = linear if rank is None else rank
    if kind not in ("lora", "lokr"):
        draft.lost("network.type", kind, "there are lora and lokr here; a lora of the same rank stands in its place")
        kind = "lora"
    if kind == "lokr" and draft.take("network.lokr_full_rank", True, switch):
        draft.idle("network.linear", linear, "network.lokr_full_rank: true does not read it")
        put_adapter(draft, kind, ("network.lokr_full_rank", 9999999999), 9999999999)
    else:
        draft.take("network.lokr_full_rank")
        put_adapter(draft, kind, ("network.linear", rank), alpha)
    factor = draft.take("network.lokr_factor", None, integer)
    if kind == "lokr" and factor is not None:
        draft.put("tuning.factor", factor)
    names = [key for key in draft.left if key.startswith("network.network_kwargs.")]
    for key in names:
        draft.lost(key, draft.left.pop(key), "write tuning.targets, a regular expression of the modules to adapt")
    put_all_linears(draft, "network.type", kind, family)


def _put_steps(draft: Draft) -> None:
    batch = draft.take("train.batch_size", 1, integer)
    proper, legacy = (draft.take(f"train.gradient_accumulation{end}", 1, integer) for end in ("", "_steps"))
    steps = draft.take("train.steps", 1000, integer)
    if legacy > 1:
        draft.put("train.steps", max(1, steps // legacy))
        draft.differs(
            "train.steps", steps, "counts micro-batches there, of which an optimizer step has several", "train.steps"
        )
    else:
        draft.put("train.steps", steps)
    put_batch(draft, ("train.batch_size", batch), ("train.gradient_accumulation", proper * legacy), ("GPUs", 1))
    average = draft.take("train.ema_config.use_ema", False, switch)
    decay = draft.take("train.ema_config.ema_decay", 0.999, number)
    if average:
        draft.put("train.ema_decay", decay)
    draft.put("train.gradient_checkpointing", draft.take("train.gradient_checkpointing", True, switch))


def _put_levels(draft: Draft, family: str) -> None:
    kind = draft.take("train.timestep_type", "sigmoid", text)
    if draft.take("train.linear_timesteps", False, switch) or draft.take("train.linear_timesteps2", False, switch):
        draft.lost("train.linear_timesteps", True, "noise levels are sampled uniformly; no loss is weighted by a bell curve")
        kind = "linear"
    match kind:
        case "sigmoid":
            put_levels(draft, "logit_normal")
        case "linear" | "weighted":
            put_levels(draft, "uniform")
            if kind == "weighted":
                draft.lost(
                    "train.timestep_type", kind, "noise levels are sampled uniformly; there is no such weighting of the loss"
                )
        case "shift" | "flux_shift":
            put_levels(draft, "uniform", shift="resolution" if family in ("flux", "cogview4") else "auto")
        case _:
            draft.lost("train.timestep_type", kind, "there is no such distribution; the family's stands in its place")


def _put_optimizer(draft: Draft) -> None:
    name = draft.take("train.optimizer", "adamw", text)
    own = draft.take_table("train.optimizer_params")
    written = own.pop("betas", None)
    first, second = betas("train.optimizer_params.betas", "0.9,0.999" if written is None else written)
    is_prodigy = name.lower().startswith("prodigy")
    rate = draft.left.get("train.lr")
    lr = draft.take("train.lr", 1e-6, number)
    settings = {
        "lr": 1.0 if is_prodigy and lr < 0.1 else lr,
        "weight_decay": number("optimizer_params.weight_decay", own.get("weight_decay", 0.0 if is_prodigy else 0.01)),
        "beta1": first,
        "beta2": second,
        "eps": number("optimizer_params.eps", own.get("eps", 1e-6)),
    }
    if settings["lr"] != lr:
        draft.differs("train.lr", rate, "below 0.1 is taken for 1 there, and here", "optimizer.lr")
    origin = {key: f"train.optimizer_params.{key}" if key in own else "" for key in settings}
    origin |= dict.fromkeys(("beta1", "beta2"), "train.optimizer_params.betas" if written else "")
    put_optimizer(draft, "train.optimizer", name, settings, origin | {"lr": "train.lr" if rate is not None else ""})
    for key, value in own.items():
        if key not in settings:
            draft.lost(f"train.optimizer_params.{key}", value, "see docs/optimizers.md for what each takes")
    schedule = draft.take("train.lr_scheduler", "constant", text)
    warmup = draft.take(
        "train.lr_scheduler_params.num_warmup_steps", 1000 if schedule == "constant_with_warmup" else 0, integer
    )
    put_schedule(draft, "train.lr_scheduler", schedule, ("train.lr_scheduler_params.num_warmup_steps", warmup))
    for key, value in draft.take_table("train.lr_scheduler_params").items():
        draft.lost(f"train.lr_scheduler_params.{key}", value, "see docs/configuration.md#schedule for what each takes")


def _put_memory(draft: Draft) -> None:
    is_quantized = draft.take("model.quantize", False, switch)
    is_te_quantized = draft.take("model.quantize_te", is_quantized, switch)
    for is_on, key, ours in (
        (is_quantized, "model.qtype", "memory.weights"),
        (is_te_quantized, "model.qtype_te", "memory.text_encoder_weights"),
    ):
        kind, _, recovery = draft.take(key, "qfloat8", text).partition("|")
        if recovery:
            draft.lost(key, recovery, "no adapter makes up for quantization here")
        if is_on:
            put_weights(draft, ours, key, kind, FORMATS)
        elif kind != "qfloat8":
            draft.idle(key, kind, "nothing is quantized")
    if draft.take("model.layer_offloading", False, switch) or draft.take("model.auto_memory", False, switch):
        put_swapped(draft, "model.layer_offloading", True)
    if draft.take("model.block_compile", False, switch):
        draft.put("compile.kind", "regional")
    elif draft.take("model.compile", False, switch):
        draft.put("compile.kind", "full")
    for key in ("compile", "compile_mode", "compile_fullgraph", "compile_dynamic", "cache_size_limit"):
        draft.settle({}, {f"model.{key}": "see docs/configuration.md#compile"})


def _put_others(draft: Draft) -> None:
    """Hub, tracker and what is kept."""
    repo, private = draft.take("save.hf_repo_id", None, text), draft.take("save.hf_private", False, switch)
    if draft.tree.get("push_to_hub"):
        draft.put("hub_private", private)
        if repo is not None:
            draft.put("hub_repo", repo)
    elif repo is not None:
        draft.idle("save.hf_repo_id", repo, "push_to_hub is off")
    if not draft.tree.get("push_to_hub"):
        draft.tree.pop("push_to_hub", None)
    draft.put("checkpoint.keep_weights", draft.take("save.max_step_saves_to_keep", 5, integer))
    project = draft.take("logging.project_name", "ai-toolkit", text)
    if draft.take("logging.use_wandb", False, switch):
        draft.put("track.wandb", project)
    elif project != "ai-toolkit":
        draft.idle("logging.project_name", project, "use_wandb is off")
