"""What keys of other trainers are called here: the hint of an error, where somebody writes one into a configuration."""

from collections.abc import Sequence
from typing import Any

from finetrainers.config.base import Section
from finetrainers.config.reference import keys
from finetrainers.config.run import Config

ACCUMULATION = (
    "train.batch_size counts all samples of an optimizer step, over all devices, and train.micro_batch_size those of one "
    "forward pass on one device; gradient accumulation makes up the rest"
)
ACCUMULATION_KEYS = ("gradient_accumulation_steps", "gradient_accumulation", "grad_accum", "accumulation_steps")
SIZE_KEYS = ("resolution", "size", "image_size")
LOOK_FIRST = (
    "finetrainers check CONFIG says what is wrong with a run and what it would do, and finetrainers rehearse CONFIG tries "
    "it in miniature"
)
SYNONYMS = {
    "learning_rate": "optimizer.lr", "unet_lr": "optimizer.lr", "transformer_lr": "optimizer.lr",
    "adam_beta1": "optimizer.beta1", "adam_beta2": "optimizer.beta2", "adam_epsilon": "optimizer.eps",
    "epsilon": "optimizer.eps", "adam_weight_decay": "optimizer.weight_decay", "optimizer_type": "optimizer.name",
    "optimizer_args": "optimizer.options", "optimizer_params": "optimizer.options",
    "lr_scheduler": "schedule.name", "scheduler": "schedule.name", "lr_warmup_steps": "schedule.warmup_steps",
    "warmup": "schedule.warmup_steps", "num_warmup_steps": "schedule.warmup_steps", "lr_num_cycles": "schedule.cycles",
    "lr_power": "schedule.power",
    "network_dim": "tuning.rank", "lora_rank": "tuning.rank", "network_rank": "tuning.rank", "lora_dim": "tuning.rank",
    "r": "tuning.rank", "linear": "tuning.rank", "network_alpha": "tuning.alpha", "lora_alpha": "tuning.alpha",
    "linear_alpha": "tuning.alpha", "lora_dropout": "tuning.dropout", "network_dropout": "tuning.dropout",
    "target_modules": "tuning.targets", "lora_target_modules": "tuning.targets", "lora_layers": "tuning.targets",
    "use_dora": "tuning.dora", "use_rslora": "tuning.rslora", "network_weights": "tuning.start_from",
    "training_type": "tuning.kind", "network_type": "tuning.kind", "network_module": "tuning.kind",
    "epochs": "train.epochs", "num_train_epochs": "train.epochs", "max_train_epochs": "train.epochs",
    "num_epochs": "train.epochs",
    "train_steps": "train.steps", "max_train_steps": "train.steps", "max_steps": "train.steps", "num_steps": "train.steps",
    "train_batch_size": "train.micro_batch_size", "per_device_train_batch_size": "train.micro_batch_size",
    "micro_batch_size_per_gpu": "train.micro_batch_size", "max_grad_norm": "train.clip_norm",
    "gradient_clipping": "train.clip_norm", "grad_clip": "train.clip_norm", "activation_checkpointing":
    "train.gradient_checkpointing", "use_ema": "train.ema_decay", "ema": "train.ema_decay", "allow_tf32":
    "train.matmul_precision", "mixed_precision": "model.dtype", "precision": "model.dtype", "torch_dtype": "model.dtype",
    "pretrained_model_name_or_path": "model.path", "model_name": "model.path", "name_or_path": "model.path",
    "model_path": "model.path", "base_model": "model.path", "model_family": "model.family", "arch": "model.family",
    "output": "output_dir", "output_folder": "output_dir", "training_folder": "output_dir", "logging_dir": "output_dir",
    "trigger_word": "data.N.caption_prefix", "trigger": "data.N.caption_prefix", "id_token": "data.N.caption_prefix",
    "instance_prompt": "data.N.caption_prefix", "caption_dropout_rate": "data.N.caption_dropout",
    "caption_dropout_probability": "data.N.caption_dropout", "num_repeats": "data.N.repeats", "flip_aug":
    "data.N.horizontal_flip", "flip_x": "data.N.horizontal_flip", "random_flip": "data.N.horizontal_flip",
    "random_crop": "data.N.resize", "reshape_mode": "data.N.resize", "resolutions": "data.N.buckets",
    "resolution_buckets": "data.N.buckets", "image_resolution_buckets": "data.N.buckets",
    "video_resolution_buckets": "data.N.buckets", "frame_buckets": "data.N.buckets", "target_frames": "data.N.buckets",
    "data_root": "data.N.path", "folder_path": "data.N.path", "image_dir": "data.N.path", "image_directory": "data.N.path",
    "video_directory": "data.N.path", "instance_data_dir": "data.N.path", "train_data_dir": "data.N.path",
    "dataset_file": "data.N.path", "dataset": "data", "datasets": "data", "dataset_config": "data", "network": "tuning",
    "dataloader_num_workers": "loader.workers", "num_workers": "loader.workers", "cache_dir": "cache.path",
    "cache_directory": "cache.path", "save_every": "checkpoint.every", "save_every_n_steps": "checkpoint.every",
    "checkpointing_steps": "checkpoint.every", "save_steps": "checkpoint.every", "checkpointing_limit": "checkpoint.keep",
    "checkpoints_total_limit": "checkpoint.keep", "save_total_limit": "checkpoint.keep",
    "max_step_saves_to_keep": "checkpoint.keep_weights",
    "resume_from_checkpoint": "checkpoint.resume", "sample_every": "validation.every", "validation_steps":
    "validation.every", "eval_steps": "validation.every", "sample_prompts": "validation.prompts", "validation_prompt":
    "validation.prompts", "validation_dataset_file": "validation.prompts", "prompts": "validation.prompts",
    "timestep_sampling": "objective.noise_levels", "timestep_type": "objective.noise_levels", "weighting_scheme":
    "objective.noise_levels", "flow_weighting_scheme": "objective.noise_levels", "discrete_flow_shift": "objective.shift",
    "flow_shift": "objective.shift", "flow_schedule_shift": "objective.shift", "min_snr_gamma": "objective.weighting",
    "quantize": "memory.weights", "fp8_base": "memory.weights", "base_model_precision": "memory.weights",
    "blocks_to_swap": "memory.resident_blocks", "low_vram": "memory.preset", "enable_tiling": "memory.vae_tiling",
    "enable_slicing": "memory.vae_slicing", "report_to": "track", "logging_steps": "track.every", "log_every": "track.every",
    "attn_implementation": "attention.train", "attention_backend": "attention.train", "dp_degree": "parallel.replicate",
    "dp_shards": "parallel.shard", "cp_degree": "parallel.context", "hub_model_id": "hub_repo", "hf_repo_id": "hub_repo",
    "hf_private": "hub_private",
}  # fmt: skip
"""Our keys by those of others, which stand for themselves in any section."""


def about_synonym(place: Sequence[str | int], value: Any, root: type[Section]) -> str | None:
    """Say what a key of another trainer is called here, or where a key of ours belongs; None if it is neither."""
    if root is not Config:
        return None
    leaf = str(place[-1]).replace("-", "_").lower()
    if leaf in ACCUMULATION_KEYS:
        return ACCUMULATION
    if leaf in SIZE_KEYS:
        return f"sizes are buckets here: write {_indexed('data.N.buckets', place)}: {_pixels(value)}"
    match leaf:
        case "dry_run" | "dryrun" | "check" | "check_only" | "validate" | "validate_only" | "plan" | "test" | "test_run":
            return LOOK_FIRST
        case "gpus" | "num_gpus" | "num_processes" | "nproc_per_node":
            return "to start several processes, use finetrainers launch --gpus N train CONFIG, or torchrun"
    if leaf in SYNONYMS:
        return f"it is called {_indexed(SYNONYMS[leaf], place)} here"
    own = {key.name for key in keys(root) if key.name.rpartition(".")[2] == leaf and "validation.data" not in key.name}
    return f"it belongs elsewhere: write {_indexed(own.pop(), place)}" if len(own) == 1 else None


def synonym_of(place: Sequence[str | int]) -> str | None:
    """Name the key of ours that a key of another trainer stands for."""
    leaf = str(place[-1]).replace("-", "_").lower()
    name = "data.N.buckets" if leaf in SIZE_KEYS else SYNONYMS.get(leaf)
    return None if name is None else _indexed(name, place)


def _indexed(name: str, place: Sequence[str | int]) -> str:
    """Put the number of the data set in, if the key stands in one."""
    number = next((part for part in place if isinstance(part, int)), 0)
    is_held_out = place[:1] == ("validation",) and name.startswith("data.N.")
    return ("validation." if is_held_out else "") + name.replace(".N.", f".{number}.")


def _pixels(value: Any) -> str:
    match value:
        case int() if not isinstance(value, bool) and value > 0:
            return f"{value}, which is about {value} x {value} pixels in all aspect ratios"
        case [int() as width, int() as height]:
            return f"[[1, {height}, {width}]], which is frames, height, width"
    return "1024, which is about 1024 x 1024 pixels in all aspect ratios"
